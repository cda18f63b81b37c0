//! What `/proc` tells. Every answer may be missing: other systems, other users.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::Signal,
    unistd::{SysconfVar, sysconf},
};

use rcluster_core::supervisor::{Pid, Usage};

/// Who listens on TCP ports, each as `name (pid N)`: of several, one. Processes whose descriptors may not be read are
/// missing. Walks all processes and their descriptors.
pub fn port_owners() -> BTreeMap<u16, String> {
    let ports: HashMap<u64, u16> = listening()
        .into_iter()
        .map(|(port, inode)| (inode, port))
        .collect();
    let mut owners = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        for port in sockets(Pid(pid)).filter_map(|inode| ports.get(&inode)) {
            owners
                .entry(*port)
                .or_insert_with(|| format!("{} (pid {pid})", name(Pid(pid))));
        }
    }
    owners
}

/// Whether a process holds a listening TCP socket.
pub fn listens(pid: Pid) -> bool {
    let inodes: HashSet<u64> = listening().into_iter().map(|(_, inode)| inode).collect();
    sockets(pid).any(|inode| inodes.contains(&inode))
}

/// Port and inode of every listening TCP socket: as the kernel answers, else as its table has them among all
/// connections (`proc_net_tcp` in the kernel's documentation).
fn listening() -> Vec<(u16, u64)> {
    #[cfg(target_os = "linux")]
    if let Ok(found) = super::sock_diag::listening() {
        return found;
    }
    let mut found = vec![];
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
                continue;
            };
            let port = local
                .rsplit_once(':')
                .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if let (Some(port), Ok(inode)) = (port, inode.parse()) {
                found.push((port, inode));
            }
        }
    }
    found
}

/// Inodes of the sockets that a process holds.
fn sockets(pid: Pid) -> impl Iterator<Item = u64> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let name = target.to_str()?;
            name.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
}

/// The command line of a process, its arguments separated by spaces.
pub fn command_line(pid: Pid) -> Option<String> {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    Some(
        String::from_utf8_lossy(&bytes)
            .replace('\0', " ")
            .trim()
            .to_owned(),
    )
}

/// Those of these texts that the command line of a process holds, of whatever user. `None`: nobody can tell.
pub fn in_command_lines(texts: &[String]) -> Option<BTreeSet<&str>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(line) = pid.and_then(|pid| command_line(Pid(pid))) else {
            continue;
        };
        found.extend(
            texts
                .iter()
                .filter(|text| line.contains(*text))
                .map(String::as_str),
        );
    }
    Some(found)
}

/// One line of `/proc/PID/FILE` that begins with a name, without it.
fn line_of(pid: Pid, file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

/// The fields of `/proc/PID/stat` from the state on (`proc_pid_stat(5)`): the
/// name before them may hold anything.
fn stat(pid: Pid) -> Option<Vec<String>> {
    fields(&format!("/proc/{pid}/stat"))
}

fn fields(path: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(path).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Whether a process is stopped (SIGSTOP) or traced by a debugger.
pub fn is_stopped(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| matches!(fields.first().map(String::as_str), Some("T" | "t")))
}

/// Whether a process is there and has not ended (`Z`, `X`).
pub fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// When a process started, in clock ticks since the boot of the machine: with its number it is one process.
pub fn born(pid: Pid) -> Option<u64> {
    // Field 22; the state is field 3.
    stat(pid)?.get(22 - 3)?.parse().ok()
}

/// Whether the first thread of a process waits in `epoll_wait(2)` for a set of descriptors that holds `fd`. Node's event
/// loop does, when it is idle; a nested loop, as of `execSync`, has another set. `None` where the kernel does not tell
/// (`/proc/PID/syscall` needs the right to trace; see `proc_pid_syscall(5)`, `proc_pid_fdinfo(5)`).
pub fn waits_for_events_of(pid: Pid, fd: i32) -> Option<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let mut words = text.split_ascii_whitespace();
    // `running`, or the number of the call.
    let Ok(call) = words.next()?.parse::<i64>() else {
        return Some(false);
    };
    if !EPOLL_WAITS.contains(&call) {
        return Some(false);
    }
    let set = i32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{set}")).ok()?;
    let holds = |line: &str| {
        let rest = line.strip_prefix("tfd:")?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    };
    Some(info.lines().filter_map(holds).any(|held: i32| held == fd))
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const EPOLL_WAITS: [i64; 3] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
];
#[cfg(all(target_os = "linux", not(target_arch = "x86_64")))]
const EPOLL_WAITS: [i64; 2] = [libc::SYS_epoll_pwait as i64, libc::SYS_epoll_pwait2 as i64];
#[cfg(not(target_os = "linux"))]
const EPOLL_WAITS: [i64; 0] = [];

/// Whether the first thread of a process sleeps in an `epoll_wait(2)` (`/proc/PID/wchan`).
pub fn sleeps_in_epoll(pid: Pid) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    matches!(name.trim(), "ep_poll" | "do_epoll_wait")
}

/// Clock ticks that the first thread of a process, Node's event loop, has spent on a CPU.
pub fn loop_ticks(pid: Pid) -> Option<u64> {
    let fields = fields(&format!("/proc/{pid}/task/{pid}/stat"))?;
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(number(14)? + number(15)?)
}

/// What tells a process apart from its relatives (`proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The process.
    pub pid: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// As [`born`] has it.
    pub born: u64,
}

impl Kin {
    /// What is known of a process that has not ended.
    pub fn of(pid: Pid) -> Option<Self> {
        let fields = stat(pid)?;
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        let ended = matches!(fields.first().map(String::as_str), Some("Z" | "X"));
        (!ended).then_some(Self {
            pid,
            group: Pid(number(5)?),
            session: Pid(number(6)?),
            born: fields.get(22 - 3)?.parse().ok()?,
        })
    }
}

/// The name of a process, at most 15 bytes that it chooses itself.
pub fn name(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// The children of one thread of a process, the first one unless it is ours; of all threads of ours.
pub fn pids_of_children(pid: Pid) -> Vec<Pid> {
    let ours = u32::try_from(pid.0) == Ok(std::process::id());
    let folder = format!("/proc/{pid}/task");
    let threads: Vec<String> = if ours {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    } else {
        vec![pid.to_string()]
    };
    let text = |thread: &String| fs::read_to_string(format!("{folder}/{thread}/children")).ok();
    let texts: Vec<String> = threads.iter().filter_map(text).collect();
    let words = texts.iter().flat_map(|text| text.split_ascii_whitespace());
    words
        .filter_map(|word| word.parse().ok().map(Pid))
        .collect()
}

/// The state of the first thread of a process, as in `proc_pid_stat(5)`: `R` is on a CPU or waits for one, `S` sleeps.
pub fn loop_state(pid: Pid) -> Option<char> {
    let fields = fields(&format!("/proc/{pid}/task/{pid}/stat"))?;
    fields.first()?.chars().next()
}

/// The children of a process, each as `name (pid N)`.
pub fn children(pid: Pid) -> Vec<String> {
    let parent = pid.to_string();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid));
    let ours = pids.filter(|child| stat(*child).is_some_and(|f| f.get(1) == Some(&parent)));
    ours.map(|child| {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        format!("{} (pid {child})", name.trim())
    })
    .collect()
}

/// Whether a process has a handler for a signal (`SigCgt` in `proc_pid_status(5)`).
pub fn catches(pid: Pid, signal: Signal) -> bool {
    line_of(pid, "status", "SigCgt:")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| (mask >> (signal as i32 - 1)) & 1 == 1)
}

/// What the kernel counts for a process.
pub fn usage(pid: Pid) -> Option<Usage> {
    let unsigned = |n: i64| u64::try_from(n).ok();
    let page = unsigned(sysconf(SysconfVar::PAGE_SIZE).ok()??)?;
    let ticks = unsigned(sysconf(SysconfVar::CLK_TCK).ok()??)?;
    let fields = stat(pid)?;
    // utime is field 14, stime 15, rss 24; the state is field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let limit = line_of(pid, "limits", "Max open files")?;
    let limit = limit.split_ascii_whitespace().next()?;
    Some(Usage {
        memory: number(24)? * page,
        cpu_ms: (number(14)? + number(15)?) * 1000 / ticks.max(1),
        fds: descriptors(pid)?,
        // "unlimited" is no limit.
        fd_limit: limit.parse().unwrap_or(0),
    })
}

/// Connections that found an accept queue full since the network namespace began (`ListenOverflows`).
pub fn listen_overflows() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/netstat").ok()?;
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names
        .split_ascii_whitespace()
        .position(|n| n == "ListenOverflows")?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// Paths of Unix sockets that somebody listens on, in the whole network namespace (`/proc/net/unix`).
pub fn unix_listeners() -> BTreeSet<PathBuf> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let listens = |line: &str| {
        // Address, references, protocol, flags (1 << 16 is __SO_ACCEPTCON), type, state, inode, path.
        let mut fields = line.splitn(8, ' ').map(str::trim);
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let at = line.find(" /")?;
        (flags & (1 << 16) != 0).then(|| PathBuf::from(&line[at + 1..]))
    };
    text.lines().filter_map(listens).collect()
}

fn descriptors(pid: Pid) -> Option<u64> {
    let folder = format!("/proc/{pid}/fd");
    // Their number is the folder's size since Linux 6.2.
    match fs::metadata(&folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        count => Some(count),
    }
}
