//! The thread that reads what workers print.

use std::{
    io, mem,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::unix::pipe,
    runtime::Runtime,
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{error, warn};

use super::{
    carried::{Held, Kept},
    cutter::{Cutter, LINE_LIMIT},
    files::Target,
    hub::{Feed, Hub, Wish},
    own,
    plan::Plan,
    render::{Origin, Stream, Style},
    sink::Sink,
    source::{Source, Turn, Way},
};
use rcluster_sys::{log_pipe::log_pipe, safe_path::Use, spawn::Output};

/// Time between two warnings of one kind.
const QUIET: Duration = Duration::from_secs(60);
/// The end waits so long for a reader that is slow but alive.
const FLUSH: Duration = Duration::from_secs(5);

/// The reader's runtime. Where its thread cannot be started it is dropped inside of the loop's runtime, and
/// must not wait there: tokio panics.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn run(&self, future: impl Future<Output = ()>) {
        if let Some(runtime) = &self.0 {
            runtime.block_on(future);
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Why lines cannot be carried.
#[derive(Debug, Error)]
pub enum LogsError {
    /// `--log-file`.
    #[error("failed to open the log file {0}: {1}; {hint}", hint = hint(.1))]
    File(PathBuf, #[source] io::Error),
    /// A thread, a descriptor.
    #[error("failed to start the log's threads: {0}")]
    System(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "its folder does not exist: make it first",
        Some(libc::EACCES | libc::EPERM) => {
            "let the master's user write there, or that of --user if others can write to the folder"
        }
        Some(libc::EROFS) => "under systemd, ReadWritePaths= of its unit must name the folder",
        Some(libc::ELOOP) => "a symbolic link in a folder that others can write to is not followed",
        None => "let only root write there, or let workers be another user (--user)",
        Some(libc::ENXIO) => "it is a FIFO that nobody reads",
        Some(libc::EISDIR) => "it is a folder",
        _ => "see --log-file",
    }
}

enum Command {
    Follow {
        pipe: OwnedFd,
        worker: u64,
        slot: Arc<AtomicU32>,
        stream: Stream,
        rest: Vec<u8>,
    },
    /// Every stream is to be given back, and whether all lines were written in time.
    Pause {
        limit: Duration,
        reply: oneshot::Sender<(Vec<Held>, bool)>,
    },
    Finish,
}

/// What carries workers' lines. Its threads end with [`Logs::finish`].
#[derive(Debug)]
pub struct Logs {
    commands: mpsc::UnboundedSender<Command>,
    files: Option<Sink>,
    hub: Arc<Hub>,
    /// Names of pipes, for a moment each.
    pipe_name: PathBuf,
    /// Slots of workers, by id; a spare's changes.
    slots: Mutex<Vec<(u64, Arc<AtomicU32>)>>,
    done: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Logs {
    /// Starts the threads. `folder` is the master's own; `slots` files are opened at once;
    /// `how`: with whose rights.
    ///
    /// # Errors
    /// A [`LogsError`].
    pub fn start(plan: &Plan, control: &Path, slots: u32, how: &Use) -> Result<Self, LogsError> {
        let news = Arc::new(Notify::new());
        let standard = |stream, news: &Arc<Notify>| {
            let (name, target) = match stream {
                Stream::Stdout => ("stdout", Target::standard(io::stdout())?),
                Stream::Stderr => ("stderr", Target::standard(io::stderr())?),
            };
            Sink::start(name, target, Arc::clone(news))
        };
        let files = match &plan.file {
            Some(path) => {
                let target =
                    Target::files(path, slots, how).map_err(|(p, e)| LogsError::File(p, e))?;
                Some(Sink::start("files", target, Arc::clone(&news))?)
            }
            None => None,
        };
        let stderr = standard(Stream::Stderr, &news)?;
        let ways = [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .map(|stream| {
                let sink = match (&files, stream) {
                    (Some(files), _) => files.clone(),
                    (None, Stream::Stdout) => standard(stream, &news)?,
                    (None, Stream::Stderr) => stderr.clone(),
                };
                let style = style(plan, stream);
                Ok(Way {
                    sink,
                    target_is_files: files.is_some(),
                    style,
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (done_in, done) = std::sync::mpsc::channel();
        let hub = Arc::new(Hub::new());
        let reader = Reader {
            ways,
            stderr: stderr.clone(),
            hub: Arc::clone(&hub),
            news,
            long: Arc::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let runtime = OwnRuntime(Some(runtime));
        thread::Builder::new()
            .name("logs".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || {
                runtime.run(reader.run(orders));
                // Nobody waits any more if the master gave up.
                let _ = done_in.send(());
            })?;
        own::follow(Some(stderr));
        Ok(Self {
            commands,
            files,
            hub,
            pipe_name: control.with_extension("log-pipe"),
            slots: Mutex::default(),
            done: Mutex::new(done),
        })
    }

    /// Pipes for a worker that is about to be started.
    ///
    /// # Errors
    /// The errno of making a pipe.
    pub fn pipes(&self, worker: u64, slot: u32) -> io::Result<Output> {
        let slot = Arc::new(AtomicU32::new(slot));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose streams have ended are of no use.
        slots.retain(|(_, slot)| Arc::strong_count(slot) > 1);
        let pipe = |stream| {
            let (ours, theirs) = log_pipe(&self.pipe_name)?;
            let order = Command::Follow {
                pipe: ours,
                worker,
                slot: Arc::clone(&slot),
                stream,
                rest: vec![],
            };
            // It ends only with `finish`.
            let _ = self.commands.send(order);
            io::Result::Ok(theirs)
        };
        let output = Output {
            stdout: pipe(Stream::Stdout)?,
            stderr: pipe(Stream::Stderr)?,
        };
        slots.push((worker, slot));
        Ok(output)
    }

    /// A spare has taken a slot.
    pub fn promote(&self, worker: u64, slot: u32) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, known) in slots.iter().filter(|(id, _)| *id == worker) {
            known.store(slot, Ordering::Relaxed);
        }
    }

    /// Stops reading, between two reads, and waits until all that was read is written. The workers go
    /// on printing: their pipes hold what comes.
    ///
    /// # Errors
    /// The same streams, if the outputs did not take all lines within `limit`.
    pub async fn pause(&self, limit: Duration) -> Result<Vec<Held>, Vec<Held>> {
        let (reply, held) = oneshot::channel();
        let _ = self.commands.send(Command::Pause { limit, reply });
        match held.await {
            Ok((held, true)) => Ok(held),
            Ok((held, false)) => Err(held),
            // The thread is gone, and every stream with it.
            Err(_) => Ok(vec![]),
        }
    }

    /// Reads on where streams stand.
    pub fn follow(&self, held: Vec<Held>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|(_, slot)| Arc::strong_count(slot) > 1);
        for Held { pipe, begun } in held {
            let Origin {
                slot,
                worker,
                stream,
            } = begun.origin;
            let slot = if let Some((_, slot)) = slots.iter().find(|(id, _)| *id == worker) {
                Arc::clone(slot)
            } else {
                let slot = Arc::new(AtomicU32::new(slot));
                slots.push((worker, Arc::clone(&slot)));
                slot
            };
            let _ = self.commands.send(Command::Follow {
                pipe,
                worker,
                slot,
                stream,
                rest: begun.rest,
            });
        }
    }

    /// What `rcluster logs` shows.
    pub fn kept(&self) -> Vec<Kept> {
        self.hub.kept()
    }

    /// What the program before this one kept.
    pub fn keep(&self, kept: Vec<Kept>) {
        for Kept { origin, bytes, cut } in kept {
            self.hub.add(origin, &bytes, cut);
        }
    }

    /// Opens the files anew; whether there are any.
    pub fn reopen(&self) -> bool {
        self.files.iter().for_each(Sink::reopen);
        self.files.is_some()
    }

    /// What was printed lately, and what will be.
    pub fn feed(&self, wish: Wish) -> Feed {
        self.hub.feed(wish)
    }

    /// Writes what there is and ends the threads. Every worker is gone. Waits a second
    /// for a reader that takes nothing, [`FLUSH`] for one that is slow.
    pub fn finish(&self) {
        let _ = self.commands.send(Command::Finish);
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = done.recv_timeout(FLUSH * 2);
        own::follow(None);
    }
}

fn style(plan: &Plan, stream: Stream) -> Style {
    use std::io::IsTerminal;
    let terminal = plan.file.is_none()
        && match stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    match (plan.prefix, plan.json) {
        (false, _) if terminal => Style::Shown,
        (false, _) => Style::Raw,
        (true, true) => Style::Json,
        (true, false) => Style::Prefix { colour, terminal },
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The thread's side.
struct Reader {
    /// By stream.
    ways: Vec<Way>,
    stderr: Sink,
    hub: Arc<Hub>,
    news: Arc<Notify>,
    /// Lines that had to be cut since it was last said.
    long: Arc<AtomicU32>,
}

impl Reader {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<Command>) {
        let (mut end, mut ending) = watch::channel(Turn::On);
        let mut streams = JoinSet::new();
        // Something is to be said, but not before this.
        let (mut news, mut not_before) = (false, Instant::now());
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Command::Follow { pipe, worker, slot, stream, rest }) => {
                        if let Ok(pipe) = pipe::Receiver::from_owned_fd(pipe) {
                            let way = self.ways[stream as usize].clone();
                            let source = Source {
                                worker, slot, stream, way,
                                hub: Arc::clone(&self.hub),
                                news: Arc::clone(&self.news),
                                long: Arc::clone(&self.long),
                            };
                            let cutter = Cutter::resume(&rest);
                            streams.spawn(source.follow(pipe, cutter, ending.clone()));
                        }
                    }
                    Some(Command::Pause { limit, reply }) => {
                        let until = Instant::now() + limit;
                        let _ = end.send(Turn::Pause);
                        let mut held = vec![];
                        while let Some(stream) = streams.join_next().await {
                            held.extend(stream.ok().flatten());
                        }
                        (end, ending) = watch::channel(Turn::On);
                        if mem::take(&mut news) {
                            self.tell();
                        }
                        let written = self.written(until).await;
                        // Whoever asked waits for it.
                        let _ = reply.send((held, written));
                    }
                    Some(Command::Finish) | None => break,
                },
                () = self.news.notified(), if !news => news = true,
                () = sleep_until(not_before), if news => {
                    self.tell();
                    (news, not_before) = (false, Instant::now() + QUIET);
                }
                Some(_) = streams.join_next() => {}
            }
        }
        let _ = end.send(Turn::End);
        while streams.join_next().await.is_some() {}
        self.tell();
        for way in &self.ways {
            way.sink.close(FLUSH).await;
        }
        self.stderr.close(FLUSH).await;
    }

    /// Whether every output has taken all that it was given, by then.
    async fn written(&self, until: Instant) -> bool {
        for sink in self.ways.iter().map(|way| &way.sink).chain([&self.stderr]) {
            while !sink.is_empty() {
                if Instant::now() >= until {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        true
    }

    fn tell(&self) {
        let mut sinks: Vec<&Sink> = self.ways.iter().map(|way| &way.sink).collect();
        sinks.push(&self.stderr);
        for sink in sinks {
            for failed in sink.failed_reopens() {
                error!(
                    failed,
                    event = "log_reopen_failed",
                    "log file not reopened; lines go on into the old one"
                );
            }
            if let Some(loss) = sink.loss() {
                warn!(
                    lines = loss.lines,
                    output = sink.name,
                    why = loss.why,
                    event = "log_lines_dropped",
                    "log lines dropped"
                );
            }
        }
        let long = self.long.swap(0, Ordering::Relaxed);
        if long > 0 {
            warn!(
                cuts = long,
                limit = LINE_LIMIT,
                event = "log_lines_cut",
                "log lines were too long and are cut into pieces"
            );
        }
    }
}
