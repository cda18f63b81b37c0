//! What /proc says about a process (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// One look at a process: memory and counters summed over its threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Resident set, KiB.
    pub(crate) rss: u64,
    /// Proportional set, KiB: shared pages divided by their users.
    pub(crate) pss: u64,
    /// Pages that are this process's own, KiB.
    pub(crate) private: u64,
    /// Peak resident set, KiB.
    pub(crate) peak: u64,
    pub(crate) threads: u64,
    pub(crate) fds: u64,
    /// Times the process went to sleep by itself: each wake-up adds one.
    pub(crate) wakeups: u64,
    /// `read`-like system calls.
    pub(crate) reads: u64,
    /// `write`-like system calls.
    pub(crate) writes: u64,
    /// Time on a CPU.
    pub(crate) cpu: Duration,
}

impl Sample {
    /// Reads all of it for one process.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}"))
                .with_context(|| format!("read /proc/{pid}/{name}"))
        };
        let status = read("status")?;
        let rollup = read("smaps_rollup")?;
        let io = read("io")?;
        let mut sample = Self {
            rss: field(&rollup, "Rss:"),
            pss: field(&rollup, "Pss:"),
            private: field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:"),
            peak: field(&status, "VmHWM:"),
            threads: field(&status, "Threads:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            reads: field(&io, "syscr:"),
            writes: field(&io, "syscw:"),
            cpu: cpu(pid)?,
            ..Self::default()
        };
        sample.wakeups = wakeups(pid)?;
        Ok(sample)
    }
}

/// Times that threads of a process went to sleep by themselves: each wake-up adds one.
pub(crate) fn wakeups(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("list threads of {pid}"))?
    {
        // A thread may end while the folder is read.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        sum += field(&status, "voluntary_ctxt_switches:");
    }
    Ok(sum)
}

/// Whether all threads of a process are stopped by a signal.
pub(crate) fn stopped(pid: i32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        // The state follows the name in parentheses, which may hold anything (proc_pid_stat(5)).
        if !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" T"))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Time that all threads of a process spent on a CPU, in the scheduler's nanoseconds.
pub(crate) fn cpu(pid: i32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("list threads of {pid}"))?
    {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text
            .split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// Children of a process, zombies included.
pub(crate) fn children(of: i32) -> Result<Vec<i32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        // Processes come and go while the folder is read.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may hold anything; the parent is the second field after it (proc_pid_stat(5)).
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(of) {
            children.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|pid| pid.parse::<i32>().ok()),
            );
        }
    }
    Ok(children)
}

/// Load of the machine over the last minute.
pub(crate) fn load() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next().and_then(|n| n.parse().ok()))
        .unwrap_or(f64::NAN)
}

/// First number after a `Name:` at the start of a line; 0 if there is none.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
