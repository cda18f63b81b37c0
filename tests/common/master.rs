//! A running rcluster, and the proof that it leaves nothing behind.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::process::{Stat, kill, running, state_of};
use super::wait::{BOOT, LONG, wait_until};
use super::{Addr, Status, Worker};

/// No test may take longer; then everything it started is killed and its next question fails.
const HARD_LIMIT: Duration = Duration::from_secs(180);

/// For how long calls may block the loop of one master, all turns above 50 ms together. One such turn of up to 100 ms is no
/// fault: it waits for a lock whose holder was preempted, on a machine with more to do than processors.
const MAX_BLOCKED_MS: u64 = 150;

/// A running master. `finish` (or `stop`) must be called; a forgotten one fails the test.
pub(crate) struct Master {
    child: Child,
    pub(crate) dir: TempDir,
    pub(crate) control: PathBuf,
    mark: String,
    groups: RefCell<BTreeSet<i32>>,
    finished: Cell<bool>,
    may_be_blocked: Cell<bool>,
    _watchdog: mpsc::Sender<()>,
}

impl Master {
    pub(super) fn new(child: Child, dir: TempDir, control: PathBuf, mark: String) -> Self {
        let (alive, watch) = mpsc::channel::<()>();
        let doomed = mark.clone();
        thread::spawn(move || {
            if watch.recv_timeout(HARD_LIMIT) == Err(RecvTimeoutError::Timeout) {
                kill_marked(&doomed);
            }
        });
        Self {
            child,
            dir,
            control,
            mark,
            groups: RefCell::default(),
            finished: Cell::new(false),
            may_be_blocked: Cell::new(false),
            _watchdog: alive,
        }
    }

    /// The process id of the master (of the wrapper, if it has one that does not exec).
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Everything written to standard error so far. The master has a thread that writes its lines: what it said
    /// before this call is there.
    pub(crate) fn log(&self) -> String {
        let busy = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
            tasks.into_iter().flatten().flatten().any(|task| {
                let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
                read("comm").starts_with("log-") && !read("stat").contains(") S ")
            })
        };
        // It is asleep when it has nothing to do, and when nobody reads what it writes.
        let end = Instant::now() + BOOT;
        while busy() && running(self.pid()) && Instant::now() < end {
            thread::yield_now();
        }
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap_or_default())
            .into_owned()
    }

    /// Everything written to standard output so far.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("out")).unwrap_or_default())
            .into_owned()
    }

    /// The JSON lines on standard output that have this `event`.
    pub(crate) fn events(&self, event: &str) -> Vec<serde_json::Value> {
        let text = self.out();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|value| value["event"] == event).collect()
    }

    /// Waits for the first `count` JSON lines with this `event`.
    #[track_caller]
    pub(crate) fn wait_events(&self, event: &str, count: usize) -> Vec<serde_json::Value> {
        wait_until(&format!("{count} x {event:?} on stdout"), BOOT, || {
            Some(self.events(event)).filter(|events| events.len() >= count)
        })
    }

    /// The status, if the control socket answers.
    pub(crate) fn try_status(&self) -> Option<Status> {
        let answer = Addr::Unix(self.control.clone())
            .try_request("GET", "/v1/status")
            .ok()?;
        assert_eq!(answer.status, 200, "GET /v1/status: {answer:?}");
        let status: Status = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("status: {error} in {}", answer.body));
        let mut groups = self.groups.borrow_mut();
        groups.extend(
            status
                .workers
                .iter()
                .filter_map(|worker| worker.pid)
                .filter(|pid| *pid > 0),
        );
        Some(status)
    }

    /// The status; the control socket must answer.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.try_status().expect("the control socket answers")
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub(crate) fn wait_status<T>(
        &self,
        what: &str,
        mut probe: impl FnMut(&Status) -> Option<T>,
    ) -> T {
        wait_until(what, BOOT, || {
            let alive = running(self.pid());
            assert!(
                alive,
                "the master has ended while the test waited for: {what}\n{}",
                self.log()
            );
            probe(&self.try_status()?)
        })
    }

    /// Waits until exactly `count` workers are ready and gives them by slot.
    #[track_caller]
    pub(crate) fn wait_ready(&self, count: usize) -> Vec<Worker> {
        self.wait_status(&format!("{count} ready workers"), |status| {
            Some(status.ready()).filter(|ready| ready.len() == count && status.state == "serving")
        })
    }

    /// Waits until `slot` has a ready worker other than `old`.
    #[track_caller]
    pub(crate) fn wait_replaced(&self, old: &Worker) -> Worker {
        self.wait_status(&format!("a replacement of {old:?}"), |status| {
            status
                .in_slot(old.slot)
                .filter(|worker| worker.id != old.id)
        })
    }

    /// The only listener that can be connected to.
    #[track_caller]
    pub(crate) fn addr(&self) -> Addr {
        let addresses = self.status().addresses();
        let mut found = addresses.iter().filter_map(|address| Addr::parse(address));
        let first = found
            .next()
            .unwrap_or_else(|| panic!("no listener in {addresses:?}"));
        assert_eq!(found.next(), None, "more than one listener: {addresses:?}");
        first
    }

    /// Every ready worker must answer: all the others are stopped (SIGSTOP) while each is asked. `ask` gives the pid of
    /// the worker that answered.
    #[track_caller]
    pub(crate) fn each_answers(&self, mut ask: impl FnMut() -> i32) {
        let pids: Vec<i32> = self.status().ready().iter().map(Worker::process).collect();
        assert!(!pids.is_empty(), "no ready worker");
        for pid in &pids {
            let others: Vec<i32> = pids.iter().copied().filter(|other| other != pid).collect();
            let _stopped = Stopped::new(&others);
            assert_eq!(
                ask(),
                *pid,
                "another worker answered than the only one that runs"
            );
        }
    }

    /// `each_answers` for a server that answers GET / with JSON that has its `pid`.
    #[track_caller]
    pub(crate) fn each_answers_http(&self, addr: &Addr) {
        self.each_answers(|| pid_in(&addr.get("/").json()));
    }

    /// Sends a signal to the master.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for the end of the master.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let what = format!("the end of the master {}", self.child.id());
        let child = &mut self.child;
        wait_until(&what, LONG, || child.try_wait().expect("our own child"))
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// `rcluster COMMAND --control ...` as a user types it.
    #[track_caller]
    pub(crate) fn command(&self, words: &[&str]) -> Output {
        let (command, rest) = words.split_first().expect("a command");
        Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .arg(command)
            .arg("--control")
            .arg(&self.control)
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .expect("rcluster runs")
    }

    /// TERM, exit code 0, nothing left.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit();
        assert_eq!(
            status.code(),
            Some(0),
            "exit after TERM: {status}\n{}",
            self.log()
        );
        self.finish();
    }

    /// After the end of the master: no panic in the log, no process, no socket or lock file left.
    #[track_caller]
    pub(crate) fn finish(&mut self) {
        self.finished.set(true);
        let status = self.wait_exit();
        let log = self.log();
        let shown = format!("{log}{}", self.out());
        assert!(
            !shown.contains("panicked at"),
            "a panic ({status}):\n{shown}"
        );
        assert!(
            self.may_be_blocked.get() || blocked_ms(&log) < MAX_BLOCKED_MS,
            "a call blocked the loop:\n{log}"
        );
        let groups = self.groups.borrow().clone();
        wait_until("the end of every process of this run", LONG, || {
            let left: Vec<_> = left_over(&self.mark, &groups, self.dir.path());
            left.is_empty().then_some(())
        });
        let folder = self.control.parent().expect("a folder");
        if folder.starts_with(self.dir.path()) {
            let left: Vec<_> = list(folder);
            assert!(
                left.is_empty(),
                "left in the control folder: {left:?}\n{log}"
            );
        }
    }

    /// Kills the master only, with no chance to clean up.
    #[track_caller]
    pub(crate) fn kill_master(&mut self) {
        kill(self.pid(), Signal::SIGKILL);
        self.wait_exit();
    }

    /// Waits until no process of this run is left; files may be.
    #[track_caller]
    pub(crate) fn wait_no_process(&self) {
        let groups = self.groups.borrow().clone();
        wait_until("the end of every process of this run", LONG, || {
            left_over(&self.mark, &groups, self.dir.path())
                .is_empty()
                .then_some(())
        });
    }

    /// The test stops or traces the master itself: that blocks its loop, too.
    pub(crate) fn may_be_blocked(&self) {
        self.may_be_blocked.set(true);
    }

    /// The caller has looked for itself at what this run leaves behind.
    pub(crate) fn forget(&mut self) {
        self.finished.set(true);
    }

    /// All processes of this run but the master.
    pub(crate) fn processes(&self) -> Vec<Stat> {
        Stat::all()
            .into_iter()
            .filter(|stat| stat.pid != self.pid() && stat.is_marked(&self.mark))
            .collect()
    }

    /// Children of the master that ended and were not waited for.
    pub(crate) fn zombies(&self) -> Vec<Stat> {
        Stat::all()
            .into_iter()
            .filter(|stat| stat.is_zombie_of(self.pid()))
            .collect()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        kill_marked(&self.mark);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let tail = |text: String| {
                text.chars()
                    .rev()
                    .take(6000)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<String>()
            };
            eprintln!(
                "---- log of rcluster {}\n{}\n---- its stdout\n{}",
                self.mark,
                tail(self.log()),
                tail(self.out())
            );
        } else {
            assert!(self.finished.get(), "the test forgot to finish its master");
        }
    }
}

/// Processes that are stopped as long as this lives.
pub(crate) struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops `pids` and waits until they stand still.
    #[track_caller]
    pub(crate) fn new(pids: &[i32]) -> Self {
        for pid in pids {
            kill(*pid, Signal::SIGSTOP);
        }
        let stopped = Self(pids.to_vec());
        for pid in pids {
            wait_until("a stopped process", BOOT, || {
                state_of(*pid)
                    .is_none_or(|state| state == 'T')
                    .then_some(())
            });
        }
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            kill(*pid, Signal::SIGCONT);
        }
    }
}

/// The `pid` in an app's answer.
#[track_caller]
pub(crate) fn pid_in(answer: &serde_json::Value) -> i32 {
    answer["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap_or_else(|| panic!("no pid in {answer}"))
}

/// The names in a folder.
pub(crate) fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Milliseconds for which the log says that calls blocked the loop.
fn blocked_ms(log: &str) -> u64 {
    let blocked = log.lines().filter(|line| line.contains("loop_blocked"));
    let times = blocked.filter_map(|line| {
        let (_, time) = line.split_once("blocked_ms")?;
        let digits = time.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit());
        digits[..end.unwrap_or(digits.len())].parse::<u64>().ok()
    });
    times.sum()
}

fn left_over(mark: &str, groups: &BTreeSet<i32>, dir: &Path) -> Vec<Stat> {
    let ours =
        |stat: &Stat| groups.contains(&stat.group) || stat.is_marked(mark) || stat.names(dir);
    Stat::all().into_iter().filter(ours).collect()
}

fn kill_marked(mark: &str) {
    for stat in Stat::all().into_iter().filter(|stat| stat.is_marked(mark)) {
        kill(stat.pid, Signal::SIGKILL);
    }
}

/// The value of a field in a line of the text log, without its quotation marks.
pub(crate) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = line.split_once(&format!(" {name}="))?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split_whitespace().next(),
    }
}
