//! Deploys by release folders, and the commands that switch between them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Addr, BOOT, Conn, Launch, Master, Worker, app, scratch, wait_until};

/// Full size: the nightly run; otherwise the small one.
pub(crate) fn count(small: usize, nightly: usize) -> usize {
    if std::env::var_os("RCLUSTER_NIGHTLY").is_some() {
        nightly
    } else {
        small
    }
}

/// Folders `releases/N` and the link `current` to one of them.
pub(crate) struct Releases {
    folder: tempfile::TempDir,
}

impl Releases {
    /// With release 1 as the current one.
    pub(crate) fn new() -> Self {
        let releases = Self { folder: scratch() };
        releases.deploy(1, &json!({}));
        releases
    }

    /// A path beside the releases.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of one release.
    pub(crate) fn of(&self, number: u32) -> PathBuf {
        self.path(&format!("releases/{number}"))
    }

    /// Makes a release of apps/release.js with more settings.
    pub(crate) fn make(&self, number: u32, settings: &Value) {
        let code = fs::read_to_string(app("release.js")).expect("the app");
        self.make_with(number, settings, &code);
    }

    /// Makes a release with other code.
    pub(crate) fn make_with(&self, number: u32, settings: &Value, code: &str) {
        let folder = self.of(number);
        fs::create_dir_all(&folder).expect("a release folder");
        let mut settings = settings.clone();
        settings["number"] = number.into();
        fs::write(folder.join("release.json"), settings.to_string()).expect("its settings");
        fs::write(folder.join("server.js"), code).expect("its code");
    }

    /// Points `current` at something, in one step as deploy tools do.
    pub(crate) fn point(&self, to: impl AsRef<Path>) {
        let fresh = self.path("current.new");
        symlink(to, &fresh).expect("a link");
        fs::rename(fresh, self.path("current")).expect("switched");
    }

    /// Points `current` at a release.
    pub(crate) fn switch(&self, number: u32) {
        self.point(self.of(number));
    }

    /// Makes a release and switches to it.
    pub(crate) fn deploy(&self, number: u32, settings: &Value) {
        self.make(number, settings);
        self.switch(number);
    }

    /// Deletes a release.
    pub(crate) fn remove(&self, number: u32) {
        fs::remove_dir_all(self.of(number)).expect("deleted");
    }

    /// `rcluster --cwd current server.js`, as fast as it goes.
    pub(crate) fn launch(&self) -> Launch {
        Launch::new(self.path("current/server.js"))
            .option("--cwd")
            .option(self.path("current"))
            .env("RCLUSTER_MIN_UPTIME", "0s")
    }
}

/// Makes the file that an app waits for.
pub(crate) fn touch(path: &Path) {
    File::create(path).expect("a file");
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command that waits for the master.
pub(crate) struct Asking(Option<Child>);

impl Asking {
    /// Has it got its answer?
    pub(crate) fn is_over(&mut self) -> bool {
        let child = self.0.as_mut().expect("not taken");
        child.try_wait().expect("our own child").is_some()
    }

    /// Waits for its answer.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Told {
        wait_until("the answer to a command", BOOT, || {
            self.is_over().then_some(())
        });
        let output = self.0.take().expect("not taken").wait_with_output();
        let output = output.expect("our own child");
        Told {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts `rcluster WORDS... --control PATH`.
pub(crate) fn ask(control: &Path, words: &[&str]) -> Asking {
    let child = Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(words)
        .arg("--control")
        .arg(control)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rcluster runs");
    Asking(Some(child))
}

/// `rcluster WORDS...` to its end.
#[track_caller]
pub(crate) fn tell(master: &Master, words: &[&str]) -> Told {
    ask(&master.control, words).wait()
}

/// A reload that must succeed.
#[track_caller]
pub(crate) fn reload(master: &Master) {
    reload_with(master, &["reload"]);
}

/// The same with options, or a rollback.
#[track_caller]
pub(crate) fn reload_with(master: &Master, words: &[&str]) {
    let told = tell(master, words);
    assert_eq!(told.code, Some(0), "{told:?}\n{}", master.log());
}

/// The whole status document.
#[track_caller]
pub(crate) fn document(master: &Master) -> Value {
    Addr::Unix(master.control.clone()).get("/v1/status").json()
}

/// A number of the status document.
#[track_caller]
pub(crate) fn number(master: &Master, name: &str) -> u64 {
    let document = document(master);
    document[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// The processes of all workers.
pub(crate) fn pids(workers: &[Worker]) -> Vec<i32> {
    workers.iter().map(Worker::process).collect()
}

/// Waits until only workers of the newest generation are left, all of them ready.
#[track_caller]
pub(crate) fn wait_settled(master: &Master, workers: usize) -> Vec<Worker> {
    master.wait_status("the new workers alone", |status| {
        let alone = status.workers.len() == workers
            && status.state == "serving"
            && status
                .workers
                .iter()
                .all(|worker| worker.is_ready() && worker.generation == status.generation);
        alone.then(|| status.ready())
    })
}

/// An open request.
pub(crate) fn begin(addr: &Addr, path: &str) -> Conn {
    let mut conn = Conn::open(addr).expect("a connection");
    conn.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .expect("sent");
    conn
}

/// A request that the app holds until `file` is there.
pub(crate) fn hold(addr: &Addr, file: &Path) -> Conn {
    begin(addr, &format!("/hold?until={}", file.display()))
}

/// Which release answers a new connection.
pub(crate) fn answers(addr: &Addr) -> u64 {
    let facts = addr.get("/").json();
    let release = facts["release"].as_u64().expect("a release");
    // Its code, its folder and its relative files are of one release.
    let name = json!(release.to_string());
    assert_eq!((&facts["cwd"], &facts["folder"]), (&name, &name), "{facts}");
    release
}

#[track_caller]
pub(crate) fn assert_serves(master: &Master, release: u64) {
    let addr = master.addr();
    let seen: BTreeSet<u64> = (0..8).map(|_| answers(&addr)).collect();
    assert_eq!(seen, BTreeSet::from([release]), "{}", master.log());
}
