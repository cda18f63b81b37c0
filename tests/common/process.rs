//! A look at processes through /proc.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// What /proc/PID/stat says, see `proc_pid_stat(5)`.
#[derive(Clone, Debug)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
}

impl Stat {
    /// The process `pid`, if it exists (a zombie does).
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, after) = text.rsplit_once(") ")?;
        let mut fields = after.split(' ');
        Some(Self {
            pid,
            name: before.split_once('(')?.1.to_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    }

    /// Every process of the machine.
    pub(crate) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Self::of(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// Does its initial environment contain `mark`? Never true of a zombie.
    pub(crate) fn is_marked(&self, mark: &str) -> bool {
        fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark.as_bytes())
        })
    }

    /// Does its command line name `path`, as that of the guard does?
    pub(crate) fn names(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_encoded_bytes();
        fs::read(format!("/proc/{}/cmdline", self.pid))
            .is_ok_and(|line| line.windows(path.len()).any(|window| window == path))
    }

    /// Is it a child of `parent` that has ended and was not waited for?
    pub(crate) fn is_zombie_of(&self, parent: i32) -> bool {
        self.parent == parent && self.state == 'Z'
    }
}

/// The state letter of `pid`, if it exists.
pub(crate) fn state_of(pid: i32) -> Option<char> {
    Stat::of(pid).map(|stat| stat.state)
}

/// Is `pid` there and not a zombie?
pub(crate) fn running(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Sends `signal`; a process that is already gone is no error.
pub(crate) fn kill(pid: i32, signal: Signal) {
    let _ = signal::kill(Pid::from_raw(pid), signal);
}

/// A field of `/proc/PID/status`, its words separated by one space.
#[track_caller]
pub(crate) fn status_field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let found = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let words = found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

/// Does a signal wait to be taken by `pid`? False for one that has ended.
pub(crate) fn has_pending(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut masks = status.lines().filter_map(|line| {
        line.strip_prefix("ShdPnd:")
            .or(line.strip_prefix("SigPnd:"))
    });
    masks.any(|mask| u64::from_str_radix(mask.trim(), 16).unwrap_or(0) != 0)
}

/// How many descriptors `pid` holds.
pub(crate) fn fd_count(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of `pid` in KiB.
#[track_caller]
pub(crate) fn rss_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS is there");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of KiB")
}

/// The backlog of the TCP listener on `port` as the kernel holds it, or `None` without the `ss` tool.
pub(crate) fn backlog_of(port: u16) -> Option<u32> {
    let output = Command::new("ss")
        .args(["-Hlnt", "sport", "=", &format!(":{port}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.split_whitespace().nth(2)?.parse().ok()
}

/// Do the tests run as root?
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Can a test run rcluster as another user? Only root can, and only where such a user comes to the checkout: not under
/// `/root` or in a folder of `mktemp -d`. Says what is in the way.
pub(crate) fn can_be_somebody_else() -> bool {
    let places = [env!("CARGO_MANIFEST_DIR"), env!("CARGO_BIN_EXE_rcluster")];
    let mut folders = places.iter().flat_map(|p| Path::new(p).ancestors());
    let closed = |f: &&Path| fs::metadata(f).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    match folders.find(closed) {
        _ if !is_root() => skip("not root: cannot become another user"),
        Some(folder) => skip(&format!("{} is closed to other users", folder.display())),
        None => return true,
    }
    false
}

/// The path of a command-line tool, if this machine has it; or where tests/run installs those of Python.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let target = Path::new(env!("CARGO_BIN_EXE_rcluster")).ancestors().nth(2);
    let own = target.map(|target| target.join("venv/bin"));
    std::env::split_paths(&path)
        .chain(own)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Says why a test proves nothing on this machine. Written past the test runner's capture: tests/run counts these lines.
pub(crate) fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr().lock(), "\nskipped: {reason}");
}
