//! What a reload and the start read: the configuration and the release.
//!
//! It is read on a thread of its own. A file system that does not answer (a dead NFS server under `current/`) then costs
//! a thread, which nobody waits for; the reload fails, and the master answers meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    release::{Release, ReleaseError},
    reread::{Fresh, Reread},
};
use crate::config::Config;
use rcluster_core::{
    names,
    supervisor::{Generation, Policy},
};
use rcluster_sys::{identity::Identity, safe_path::Account};

/// Threads that may wait for files of earlier reloads; then a reload fails at once.
const MOST: usize = 8;
/// What is read when the limit has passed counts still if it comes within this time: the master itself may have stood
/// still, and its thread with it.
const GRACE: Duration = Duration::from_secs(1);

/// What was read for a generation.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) generation: Generation,
    /// The release, and the configuration if it was read anew.
    pub(super) result: Result<(Release, Option<Fresh>), String>,
}

/// Reads for reloads.
#[derive(Debug)]
pub(super) struct Preparer {
    told: mpsc::UnboundedSender<Prepared>,
    results: mpsc::UnboundedReceiver<Prepared>,
    /// Threads that read at this moment.
    threads: Arc<AtomicUsize>,
}

impl Default for Preparer {
    fn default() -> Self {
        let (told, results) = mpsc::unbounded_channel();
        Self {
            told,
            results,
            threads: Arc::default(),
        }
    }
}

impl Preparer {
    /// Reads the configuration anew, and the release that it names.
    pub(super) fn read(&self, generation: Generation, reread: Reread, worker: Option<Account>) {
        self.start(generation, move |reading| {
            let fresh = reread.read(|path| reading.note(path))?;
            let note = |path: &Path| reading.note(path);
            let release = Release::resolve(&fresh.launch, worker.as_ref(), note);
            Ok((release.map_err(|e| e.to_string())?, Some(fresh)))
        });
    }

    /// Looks whether an earlier release is still there.
    pub(super) fn look(&self, generation: Generation, release: Release) {
        self.start(generation, move |reading| {
            reading.note(release.folder());
            if release.exists() {
                Ok((release, None))
            } else {
                let folder = release.folder().display();
                Err(format!("the previous release in {folder} is gone"))
            }
        });
    }

    fn start(
        &self,
        generation: Generation,
        work: impl FnOnce(&Reading) -> Result<(Release, Option<Fresh>), String> + Send + 'static,
    ) {
        let told = self.told.clone();
        let result = in_time(&self.threads, work);
        tokio::spawn(async move {
            let result = result.await.unwrap_or_else(Err);
            // Fails only when the loop has ended.
            let _ = told.send(Prepared { generation, result });
        });
    }

    /// The next result.
    pub(super) async fn next(&mut self) -> Prepared {
        match self.results.recv().await {
            Some(prepared) => prepared,
            // Not reached: we hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Whether a thread reads, or waits for a file system that does not answer.
    pub(super) fn is_reading(&self) -> bool {
        self.threads.load(Ordering::Acquire) > 0
    }
}

/// The release of the start.
///
/// # Errors
/// A [`ReleaseError`]; [`ReleaseError::Unread`] if it could not be read in time.
pub(super) async fn first(config: &Config) -> Result<Release, ReleaseError> {
    let launch = config.launch.clone();
    let worker = config.identity.as_ref().and_then(Identity::account);
    let work = move |reading: &Reading| {
        Release::resolve(&launch, worker.as_ref(), |path| reading.note(path))
    };
    let result = in_time(&Arc::default(), work).await;
    result.unwrap_or_else(|why| Err(ReleaseError::Unread(why)))
}

/// What is read at this moment: it is named if it takes too long.
#[derive(Debug, Default)]
struct Reading(Mutex<PathBuf>);

impl Reading {
    fn note(&self, path: &Path) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        path.clone_into(&mut now);
    }

    fn late(&self) -> String {
        let path = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = names::duration(Policy::PREPARATION);
        format!(
            "failed to read {} within {limit}: its file system does not answer (a dead NFS server, FUSE?)",
            path.display()
        )
    }
}

/// One thread less, however it ended.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Does something on a thread of its own, which is forgotten if it takes longer than [`Policy::PREPARATION`]. It starts
/// at once; the result must be awaited.
fn in_time<T, F>(
    threads: &Arc<AtomicUsize>,
    work: F,
) -> impl Future<Output = Result<T, String>> + use<T, F>
where
    T: Send + 'static,
    F: FnOnce(&Reading) -> T + Send + 'static,
{
    let reading = Arc::new(Reading::default());
    let (done, result) = oneshot::channel();
    let before = threads.fetch_add(1, Ordering::AcqRel);
    let counted = Counted(threads.clone());
    let started = if before >= MOST {
        Err(format!(
            "{before} earlier reloads still wait for files: their file system does not answer (a dead NFS server, FUSE?)"
        ))
    } else {
        let reading = reading.clone();
        let thread = thread::Builder::new().name("release".to_owned());
        let thread = thread.spawn(move || {
            let _counted = counted;
            // Nobody may wait any more.
            let _ = done.send(work(&reading));
        });
        let failed = |e| format!("failed to start a thread that reads the release: {e}");
        thread.map(drop).map_err(failed)
    };
    async move {
        started?;
        let mut result = result;
        for limit in [Policy::PREPARATION, GRACE] {
            if let Ok(done) = timeout(limit, &mut result).await {
                // It panicked, and has said so.
                return done.map_err(|_| "failed to read the release".to_owned());
            }
        }
        Err(reading.late())
    }
}
