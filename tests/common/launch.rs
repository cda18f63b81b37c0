//! Starting the real binary, with a control folder of its own and nothing inherited that could change its mind.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::{Master, Node};

/// A file of tests/apps.
pub(crate) fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/apps")
        .join(name)
}

/// A file of `tests/node_modules`.
pub(crate) fn module(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/node_modules")
        .join(path)
}

/// A private folder under /tmp (not `TMPDIR`: a socket path has to fit in 107 bytes).
pub(crate) fn scratch() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("rc-")
        .tempdir_in("/tmp")
        .expect("a folder in /tmp");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("own folder");
    dir
}

/// What is left of a run that ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` after a death by signal.
    pub(crate) code: Option<i32>,
    /// Everything it and its workers wrote to standard error.
    pub(crate) log: String,
    /// Everything it and its workers wrote to standard output.
    pub(crate) out: String,
}

/// A command line in the making.
pub(crate) struct Launch {
    pub(crate) dir: TempDir,
    pub(crate) control: PathBuf,
    own_control: bool,
    own_node: bool,
    node: PathBuf,
    wrapper: Vec<OsString>,
    options: Vec<OsString>,
    script: Option<OsString>,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    uid: Option<u32>,
}

impl Launch {
    /// `rcluster --control ... --node ... SCRIPT`, for a script of tests/apps or an absolute path. A `.py` script is a
    /// worker that speaks the channel by hand, run by apps/pynode in Node's place.
    pub(crate) fn new(script: impl AsRef<Path>) -> Self {
        let script = script.as_ref();
        let mut launch = Self::bare();
        if script.extension() == Some(OsStr::new("py")) {
            launch.node = app("pynode");
        }
        launch.script = Some(app("").join(script).into());
        launch
    }

    /// The same without a script.
    pub(crate) fn bare() -> Self {
        let dir = scratch();
        let folder = dir.path().join("ctl");
        fs::create_dir(&folder).expect("a control folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("own folder");
        Self {
            control: folder.join("c.sock"),
            dir,
            own_control: true,
            own_node: true,
            node: Node::V20.binary(),
            wrapper: Vec::new(),
            options: Vec::new(),
            script: None,
            args: Vec::new(),
            envs: Vec::new(),
            cwd: None,
            uid: None,
        }
    }

    /// The Node line that runs the workers.
    pub(crate) fn node(mut self, node: Node) -> Self {
        self.node = node.binary();
        self
    }

    /// `-w N`.
    pub(crate) fn workers(self, count: u32) -> Self {
        self.option("-w").option(count.to_string())
    }

    /// One more word before SCRIPT.
    pub(crate) fn option(mut self, word: impl Into<OsString>) -> Self {
        self.options.push(word.into());
        self
    }

    /// More words before SCRIPT.
    pub(crate) fn options<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.options.extend(words.map(OsString::from));
        self
    }

    /// One more word after SCRIPT.
    pub(crate) fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.args.push(word.into());
        self
    }

    /// An environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// No `--control`: the test names it in another way.
    pub(crate) fn without_control(mut self) -> Self {
        self.own_control = false;
        self
    }

    /// No `--node`: the test names it in another way.
    pub(crate) fn without_node(mut self) -> Self {
        self.own_node = false;
        self
    }

    /// Another control path, given to rcluster and used to ask for the status.
    pub(crate) fn control(mut self, path: impl Into<PathBuf>) -> Self {
        self.control = path.into();
        self
    }

    /// The working directory of the master.
    pub(crate) fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Runs the master under another user and group, who then owns the scratch folder (needs root).
    pub(crate) fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        for path in [self.dir.path(), self.control.parent().expect("a folder")] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("chown as root");
        }
        self
    }

    /// A command that runs rcluster, as in `taskset -c 0 rcluster ...`.
    pub(crate) fn under<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.wrapper.extend(words.map(OsString::from));
        self
    }

    /// The node binary of this run.
    pub(crate) fn node_path(&self) -> &Path {
        &self.node
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(self) -> Master {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let value = format!(
            "{}-{}",
            std::process::id(),
            RUNS.fetch_add(1, Ordering::Relaxed)
        );
        let mut words = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_rcluster").into());
        if self.own_control {
            words.extend(["--control".into(), self.control.clone().into()]);
        }
        if self.own_node {
            words.extend(["--node".into(), self.node.clone().into()]);
        }
        words.extend(self.options.iter().cloned());
        words.extend(self.script.iter().cloned());
        words.extend(self.args.iter().cloned());

        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("RCLUSTER_")
                || text.starts_with("NODE_")
                || text.starts_with("npm_")
            {
                command.env_remove(&name);
            }
        }
        for name in [
            "WEB_CONCURRENCY",
            "XDG_RUNTIME_DIR",
            "NOTIFY_SOCKET",
            "PORT",
            "HOST",
        ] {
            command.env_remove(name);
        }
        command.env("TEST_RUN", &value);
        for (name, value) in &self.envs {
            command.env(name, value);
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        let create = |name: &str| {
            File::create(self.dir.path().join(name)).expect("a file in the scratch folder")
        };
        command
            .stdin(Stdio::null())
            .stdout(create("out"))
            .stderr(create("log"));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
        Master::new(child, self.dir, self.control, format!("TEST_RUN={value}"))
    }

    /// Starts it and waits for it to end by itself, leaving nothing behind.
    #[track_caller]
    pub(crate) fn run(self) -> Ended {
        let mut master = self.start();
        let code = master.wait_exit().code();
        let ended = Ended {
            code,
            log: master.log(),
            out: master.out(),
        };
        master.finish();
        ended
    }
}
