//! A service manager: a peer that plays one, and a real systemd in namespaces of its own.

use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::common::{Addr, BOOT, Launch, kill, tool, wait_until};

/// The manager's end of `NOTIFY_SOCKET`.
pub(crate) struct Peer {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    messages: RefCell<Vec<String>>,
    store: RefCell<Vec<(String, OwnedFd)>>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        let folder = crate::common::scratch();
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        Self {
            folder,
            socket,
            messages: RefCell::default(),
            store: RefCell::default(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// Takes what has come.
    pub(crate) fn read(&self) {
        loop {
            let mut text = [0; 4096];
            let mut slices = [IoSliceMut::new(&mut text)];
            let mut space = nix::cmsg_space!([RawFd; 4]);
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = match recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut slices,
                Some(&mut space),
                flags,
            ) {
                Ok(message) => message,
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(errno) => panic!("recvmsg: {errno}"),
            };
            let rights = message.cmsgs().expect("control messages");
            let rights = rights.flat_map(|cmsg| {
                let ControlMessageOwned::ScmRights(fds) = cmsg else {
                    panic!("{cmsg:?}");
                };
                fds
            });
            #[expect(unsafe_code)]
            // SAFETY: the kernel has just made these descriptors for us.
            let fds: Vec<_> = rights
                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
                .collect();
            let length = message.bytes;
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            if text.contains("FDSTORE=1") {
                let name = name.expect("a name").to_owned();
                self.store
                    .borrow_mut()
                    .extend(fds.into_iter().map(|fd| (name.clone(), fd)));
            }
            self.messages.borrow_mut().push(text);
        }
    }

    /// Everything that was said.
    pub(crate) fn all(&self) -> Vec<String> {
        self.read();
        self.messages.borrow().clone()
    }

    pub(crate) fn forget(&self) {
        self.messages.borrow_mut().clear();
    }

    /// Waits for a message that holds this line or part of one.
    #[track_caller]
    pub(crate) fn wait(&self, part: &str) -> String {
        wait_until(&format!("{part} on the notify socket"), BOOT, || {
            self.all()
                .into_iter()
                .find(|message| message.contains(part))
        })
    }

    /// Whether such a message comes within a time.
    pub(crate) fn comes(&self, part: &str, ms: u64) -> bool {
        let until = Instant::now() + Duration::from_millis(ms);
        self.socket.set_nonblocking(false).expect("blocking");
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let mut text = [0; 4096];
            match self.socket.recv(&mut text) {
                Ok(length) if String::from_utf8_lossy(&text[..length]).contains(part) => {
                    return true;
                }
                Ok(_) => {}
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                ),
            }
        }
        self.socket.set_nonblocking(true).expect("non-blocking");
        false
    }

    /// What it was given to keep, by name.
    pub(crate) fn stored(&self) -> Vec<(String, OwnedFd)> {
        self.read();
        self.store.borrow_mut().drain(..).collect()
    }
}

/// Starts it with these sockets as `sd_listen_fds(3)` has them. They must stay open until it runs.
pub(crate) fn hand_over(launch: Launch, sockets: &[(&dyn AsRawFdDyn, &str)]) -> Launch {
    let numbers: Vec<_> = sockets
        .iter()
        .map(|(socket, _)| socket.number().to_string())
        .collect();
    let names: Vec<_> = sockets.iter().map(|(_, name)| *name).collect();
    // Fetched by pidfd_getfd(2): a descriptor that is inherited would leak into the children of other tests.
    let script = format!(
        "import ctypes, fcntl, os, sys
pid = os.pidfd_open({})
high = [fcntl.fcntl(ctypes.CDLL(None).syscall(438, pid, fd, 0), fcntl.F_DUPFD, 100) for fd in [{}]]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{}', LISTEN_FDNAMES='{}')
os.execv(sys.argv[1], sys.argv[1:])",
        std::process::id(),
        numbers.join(","),
        numbers.len(),
        names.join(":"),
    );
    launch.under(["python3", "-c", &script])
}

/// Anything with a descriptor.
pub(crate) trait AsRawFdDyn {
    fn number(&self) -> RawFd;
}

impl<T: AsRawFd> AsRawFdDyn for T {
    fn number(&self) -> RawFd {
        self.as_raw_fd()
    }
}

/// Short requests, one after the other, until it is told to stop; only a refused connection counts as a failure, for a request
/// in flight may end with the worker of a master that was killed.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Load {
    pub(crate) fn start(addr: Addr) -> Self {
        let (over, refused) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop, count) = (Arc::clone(&over), Arc::clone(&refused));
        let thread = std::thread::spawn(move || {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                match addr.try_request("GET", "/") {
                    Ok(_) => answered += 1,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {}
                }
            }
            answered
        });
        Self {
            over,
            refused,
            thread,
        }
    }

    /// Answered and refused requests.
    pub(crate) fn finish(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        let answered = self.thread.join().expect("the load ran");
        (answered, self.refused.load(Ordering::Relaxed))
    }
}

/// A systemd that is process 1 of a pid namespace and knows only our units.
pub(crate) struct Booted {
    folder: tempfile::TempDir,
    child: Child,
    group: PathBuf,
    init: i32,
}

impl Booted {
    /// Boots it, where that is possible: root, unshare, a writable systemd hierarchy of cgroups.
    pub(crate) fn boot() -> Option<Self> {
        let binary = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"]
            .into_iter()
            .find(|path| Path::new(path).exists())?;
        if !nix::unistd::geteuid().is_root()
            || tool("unshare").is_none()
            || tool("nsenter").is_none()
        {
            return None;
        }
        let root = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.join("cgroup.procs").exists())?;
        let group = root.join(format!("rcluster-systemd-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let folder = crate::common::scratch();
        let units = folder.path().join("units");
        fs::create_dir(&units).expect("a folder");
        for target in [
            "default",
            "basic",
            "sysinit",
            "shutdown",
            "sockets",
            "network-online",
            "multi-user",
        ] {
            let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
            fs::write(units.join(format!("{target}.target")), text).expect("a unit");
        }
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --pid --mount --cgroup --uts --ipc --fork --kill-child sh -c '
                mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mkdir -p /run/lock &&
                exec env -i PATH=\"$PATH\" container=rcluster-test SYSTEMD_UNIT_PATH={} {binary} --system --unit=default.target --log-target=console --log-level=info --show-status=no'",
            group.display(),
            units.display(),
        );
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .ok()?;
        let mut booted = Self {
            folder,
            child,
            group,
            init: 0,
        };
        let until = Instant::now() + BOOT;
        while Instant::now() < until {
            if booted.child.try_wait().expect("our own child").is_some() {
                return None;
            }
            let children = format!("/proc/{0}/task/{0}/children", booted.child.id());
            let first = fs::read_to_string(children)
                .ok()
                .and_then(|text| text.split_whitespace().next()?.parse().ok());
            if let Some(init) = first {
                booted.init = init;
                let (code, state) = booted.systemctl(&["is-system-running"]);
                if code.is_some() && ["running", "degraded"].contains(&state.trim()) {
                    return Some(booted);
                }
            }
            std::thread::yield_now();
        }
        None
    }

    /// Adds a unit.
    pub(crate) fn add(&self, name: &str, text: &str) {
        // The basic targets of a full system are not there.
        let text = text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n");
        fs::write(self.folder.path().join("units").join(name), text).expect("a unit");
        assert_eq!(
            self.systemctl(&["daemon-reload"]).0,
            Some(0),
            "{}",
            self.log()
        );
    }

    /// Exit code and output of a command.
    pub(crate) fn systemctl(&self, words: &[&str]) -> (Option<i32>, String) {
        self.run(&[&["systemctl"], words].concat())
    }

    /// The same of any command.
    pub(crate) fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let out = Command::new("nsenter")
            .args([
                "-t",
                &self.init.to_string(),
                "--pid",
                "--mount",
                "--cgroup",
                "--ipc",
                "--uts",
            ])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter runs");
        let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&out.stderr));
        (out.status.code(), text)
    }

    /// A property of the unit `site`.
    pub(crate) fn show(&self, property: &str) -> String {
        self.systemctl(&["show", "site", "--value", "-p", property])
            .1
            .trim()
            .to_owned()
    }

    /// The master, by its number out here; 0 if there is none.
    pub(crate) fn main_pid(&self) -> i32 {
        let inside = self.show("MainPID");
        if inside == "0" {
            return 0;
        }
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let mut numbers =
            processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        numbers
            .find(|pid| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let chain = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                let chain: Vec<_> = chain.unwrap_or_default().split_whitespace().collect();
                let here = fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
                let there = fs::read_link(format!("/proc/{}/ns/pid", self.init)).ok();
                chain.len() > 1 && chain.last() == Some(&inside.as_str()) && here == there
            })
            .unwrap_or(0)
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let status = self.systemctl(&["status", "site"]).1;
        format!("{log}\n{status}")
    }

    /// Ends it and everything in its namespace.
    pub(crate) fn stop(&mut self) {
        kill(self.init, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if self.init > 0 {
            kill(self.init, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Groups that it made inside go first.
        let _ = Command::new("find")
            .arg(&self.group)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
            .output();
    }
}
