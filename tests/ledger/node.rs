//! The ledger's applications in real Node processes that share a listening socket.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A listening socket that stays open whatever becomes of the processes.
pub(crate) struct Shared(TcpListener);

impl Shared {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Starts an application on the socket, which it inherits as descriptor 0.
    pub(crate) fn start(&self, app: &str, journal: &Path, env: &[(&str, &str)]) -> Node {
        let socket = OwnedFd::from(self.0.try_clone().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/apps")
            .join(app);
        let child = Command::new("node")
            .arg(script)
            .env("LISTEN_FD", "0")
            .env("JOURNAL", journal)
            .envs(env.iter().copied())
            .stdin(Stdio::from(socket))
            .spawn()
            .expect("node runs");
        Node(child)
    }
}

/// A Node process, killed at the end of the test.
pub(crate) struct Node(Child);

impl Node {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) {
        wait_until("the process has ended", || {
            self.0.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Polls a condition, at most for half a minute.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    let mut condition = condition;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
