//! Promise: what the kernel refuses or takes away does not end the master. A worker that is killed for memory is told as
//! such, a full process table is waited out, and bind rights hold.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::common::{
    self, Addr, BOOT, Conn, Launch, Master, Node, fd_count, kill, skip, tool, wait_until,
};
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGKILL, SIGSEGV};
use serde_json::Value;

/// A cgroup of a v1 or v2 hierarchy of this test alone, removed at its end.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    /// Makes one with this limit; `None` (and says so) where it cannot be had.
    pub(crate) fn with(controller: &str, file: &str, limit: &str) -> Option<Self> {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let name = format!("rcluster-test-{}-{controller}-{number}", std::process::id());
        let root = PathBuf::from("/sys/fs/cgroup").join(controller);
        let group = Self(root.join(name));
        let made = fs::create_dir(&group.0).and_then(|()| fs::write(group.0.join(file), limit));
        if let Err(error) = made {
            skip(&format!("no {controller} cgroup v1 to write to ({error})"));
            return None;
        }
        Some(group)
    }

    /// Runs rcluster in it.
    pub(crate) fn launch(&self, launch: Launch) -> Launch {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        launch.under(["sh", "-c", &enter, "sh"])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn document(master: &Master) -> Value {
    let control = Addr::Unix(master.control.clone());
    let answer = control.try_request("GET", "/v1/status");
    answer.expect("the control socket answers").json()
}

fn unwell() -> Launch {
    Launch::new("unwell.js").node(Node::V24).workers(2)
}

#[test]
fn a_worker_that_is_killed_for_memory_is_told_as_such() {
    let Some(group) = Group::with("memory", "memory.limit_in_bytes", "400M") else {
        return;
    };
    let mut master = group.launch(unwell()).start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    // Until one of them is gone.
    let dead = wait_until("a worker killed for memory", common::BOOT, || {
        if let Ok(mut conn) = Conn::open(&addr) {
            let _ = conn.send("GET /leak HTTP/1.1\r\nHost: x\r\n\r\n");
            let _ = conn.read();
        }
        let now = master.status();
        let gone = |w: &&common::Worker| !now.workers.iter().any(|n| n.id == w.id);
        before.iter().find(gone).cloned()
    });
    master.wait_replaced(&dead);
    let incidents = document(&master)["incidents"].clone();
    let incident = incidents
        .as_array()
        .and_then(|all| all.iter().find(|i| i["worker"] == dead.id));
    let incident = incident.unwrap_or_else(|| panic!("{incidents}"));
    assert_eq!(incident["kind"], "killed", "{incident}");
    assert!(incident["oom_kills"].as_u64() >= Some(1), "{incident}");
    assert!(
        incident["reason"]
            .as_str()
            .is_some_and(|r| r.contains("out of memory")),
        "{incident}"
    );
    master.wait_ready(2);
    master.stop();
}

#[test]
fn a_full_process_table_is_waited_out() {
    let Some(group) = Group::with("pids", "pids.max", "max") else {
        return;
    };
    let mut master = group.launch(unwell()).start();
    let before = master.wait_ready(2);
    // Not one process or thread more than there are.
    let now = fs::read_to_string(group.0.join("pids.current")).expect("a number");
    let now: u32 = now.trim().parse().expect("a number");
    fs::write(group.0.join("pids.max"), "2").expect("a limit");
    assert!(now > 2);
    kill(before[0].process(), SIGKILL);
    wait_until("word of the failed start", common::BOOT, || {
        let log = master.log();
        let failed = log.contains("failed to start") && log.contains("os error 11");
        failed.then_some(())
    });
    // The other one serves on.
    assert_eq!(
        common::pid_in(&master.addr().get("/").json()),
        before[1].process()
    );
    fs::write(group.0.join("pids.max"), "max").expect("no limit");
    master.wait_replaced(&before[0]);
    master.wait_ready(2);
    let kinds = document(&master)["incidents"].clone();
    let kinds: Vec<_> = kinds
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| i["kind"].clone())
        .collect();
    assert!(kinds.contains(&"not-started".into()), "{kinds:?}");
    master.stop();
}

/// Sets the soft limit of open files of a process; `false` (and says so) where that cannot be done.
fn limit_files(pid: i32, soft: usize) -> bool {
    if tool("prlimit").is_none() {
        skip("no prlimit");
        return false;
    }
    let words = [format!("--pid={pid}"), format!("--nofile={soft}:")];
    let done = Command::new("prlimit").args(words).status();
    assert!(done.expect("prlimit runs").success());
    true
}

/// CPU time of a process so far, in hundredths of a second (`utime` and `stime` of `proc_pid_stat(5)`).
fn ticks(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, fields) = text.rsplit_once(") ").expect("a stat");
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |at: usize| fields[at].parse::<u64>().expect("a number");
    number(11) + number(12)
}

/// How often the log says that a worker was never started, for this error.
fn failures(master: &Master, error: i32) -> usize {
    let os = format!("os error {error})");
    let log = master.log();
    let failed = |line: &&str| line.contains("never started") && line.contains(&os);
    log.lines().filter(failed).count()
}

#[track_caller]
fn wait_failures(master: &Master, error: i32, count: usize) {
    wait_until("starts that fail", common::LONG, || {
        (failures(master, error) >= count).then_some(())
    });
}

/// From one failed start to the second next the master does next to nothing.
#[track_caller]
fn waits_idle(master: &Master, error: i32) {
    let (began, cpu) = (Instant::now(), ticks(master.pid()));
    wait_failures(master, error, failures(master, error) + 2);
    let spent = ticks(master.pid()) - cpu;
    let share = spent as f64 / 100.0 / began.elapsed().as_secs_f64();
    assert!(share < 0.2, "it burns {share} of a processor");
}

#[test]
fn a_master_without_a_free_descriptor_serves_on_and_recovers() {
    let mut master = unwell().start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    // Lower than any number that is free, its reserve counted.
    if !limit_files(master.pid(), 4) {
        return master.stop();
    }
    kill(before[0].process(), SIGKILL);
    wait_failures(&master, 24, 2);
    // The other one serves on, and a client of the API waits.
    assert_eq!(common::pid_in(&addr.get("/").json()), before[1].process());
    let mut client = Conn::open(&Addr::Unix(master.control.clone())).expect("not refused");
    client
        .send("GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    waits_idle(&master, 24);
    // A reload fails, and takes nobody away.
    master.signal(SIGHUP);
    wait_until("the reload's failure", BOOT, || {
        master.log().contains("reload failed").then_some(())
    });
    assert_eq!(common::pid_in(&addr.get("/").json()), before[1].process());
    limit_files(master.pid(), 1024);
    assert_eq!(client.read().expect("an answer").status, 200);
    master.wait_replaced(&before[0]);
    master.wait_ready(2);
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    master.stop();
}

/// Calls of a running master fail with an error of the kernel's as long as this lives: strace(1) sees to it.
struct Fails(std::process::Child);

impl Fails {
    /// `None` (and says so) where that cannot be had.
    fn with(pid: i32, calls: &str, error: &str) -> Option<Self> {
        if tool("strace").is_none() {
            skip("no strace");
            return None;
        }
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={error}")])
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace runs");
        let mut said = String::new();
        let mut err = BufReader::new(strace.stderr.take().expect("piped"));
        err.read_line(&mut said).expect("it says something");
        if !said.contains(" attached") {
            strace.wait().expect("it ends");
            skip(&format!(
                "strace cannot look at the master: {}",
                said.trim()
            ));
            return None;
        }
        Some(Self(strace))
    }
}

impl Drop for Fails {
    fn drop(&mut self) {
        // It lets go of the master then.
        kill(self.0.id().cast_signed(), SIGINT);
        self.0.wait().expect("it ends");
    }
}

#[test]
fn calls_that_a_signal_interrupts_are_made_again() {
    let mut master = unwell().start();
    let before = master.wait_ready(2);
    // Those that can be interrupted (signal(7)); every second call of each thread.
    let calls = "?epoll_wait,epoll_pwait,waitid,recvmsg,sendmsg,accept4,?poll,ppoll";
    master.may_be_blocked();
    let Some(fails) = Fails::with(master.pid(), calls, "EINTR:when=1+2") else {
        return master.stop();
    };
    kill(before[0].process(), SIGKILL);
    master.wait_replaced(&before[0]);
    master.wait_ready(2);
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    assert_eq!(master.status().generation, 2);
    drop(fails);
    wait_until("every child to be reaped", BOOT, || {
        master.zombies().is_empty().then_some(())
    });
    master.stop();
}

#[test]
fn a_machine_without_memory_for_a_process_or_with_a_full_file_table_is_waited_out() {
    for (calls, error, number) in [
        ("?fork,?vfork,clone,clone3", "ENOMEM", 12),
        ("openat,socket,socketpair,pipe2,accept4", "ENFILE", 23),
    ] {
        let mut master = unwell().start();
        let before = master.wait_ready(2);
        let addr = master.addr();
        master.may_be_blocked();
        let Some(fails) = Fails::with(master.pid(), calls, error) else {
            return master.stop();
        };
        kill(before[0].process(), SIGKILL);
        wait_failures(&master, number, 2);
        assert_eq!(common::pid_in(&addr.get("/").json()), before[1].process());
        waits_idle(&master, number);
        drop(fails);
        master.wait_replaced(&before[0]);
        master.wait_ready(2);
        assert_eq!(master.command(&["reload"]).status.code(), Some(0));
        master.stop();
    }
}

#[test]
fn a_worker_without_a_free_descriptor_is_replaced() {
    let mut master = unwell().start();
    let before = master.wait_ready(2);
    let full = before[0].process();
    if !limit_files(full, fd_count(full)) {
        return master.stop();
    }
    let new = master.wait_replaced(&before[0]);
    let incidents = document(&master)["incidents"].clone();
    assert_eq!(incidents[0]["kind"], "recycled", "{incidents}");
    assert!(
        incidents[0]["reason"]
            .as_str()
            .is_some_and(|r| r.contains("descriptors")),
        "{incidents}"
    );
    assert!(new.id > before[1].id);
    // Until it is gone it takes connections and closes them, as Node does.
    wait_until("the end of the old one", BOOT, || {
        (!common::running(full)).then_some(())
    });
    master.each_answers_http(&master.addr());
    master.stop();
}

#[test]
fn workers_go_before_the_master_when_memory_runs_out() {
    let score = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score");
        text.trim().parse::<i32>().expect("a number")
    };
    // Our own files in /proc belong to root while we cannot be dumped: another user's master must manage too.
    let users = if common::is_root() && common::can_be_somebody_else() {
        2
    } else {
        1
    };
    for user in 0..users {
        let mut launch = Launch::new("good.py").workers(2);
        if user == 1 {
            launch = launch.uid(12_345);
        }
        let mut master = launch.start();
        let before = master.wait_ready(2);
        let own = score(master.pid());
        let guards = master.processes();
        for worker in &before {
            assert_eq!(score(worker.process()), own + 100);
        }
        kill(before[0].process(), SIGKILL);
        let new = master.wait_replaced(&before[0]);
        assert_eq!(score(new.process()), own + 100, "a replacement too");
        let workers: Vec<_> = before.iter().map(common::Worker::process).collect();
        for guard in guards.iter().filter(|p| !workers.contains(&p.pid)) {
            assert_eq!(score(guard.pid), own, "{guard:?} is no worker");
        }
        master.stop();
    }
}

#[test]
fn the_core_flag_of_a_death_is_told() {
    // What the kernel does here: a core file may be forbidden, or go to a pipe.
    let folder = common::scratch();
    let plain = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; kill -SEGV $$"])
        .current_dir(folder.path())
        .status()
        .expect("a shell");
    let launch = Launch::new("good.py").workers(1).cwd(folder.path());
    let mut master = launch
        .under(["sh", "-c", "ulimit -c unlimited; exec \"$@\"", "sh"])
        .start();
    let before = master.wait_ready(1);
    kill(before[0].process(), SIGSEGV);
    master.wait_replaced(&before[0]);
    let exit = document(&master)["incidents"][0]["exit"].clone();
    assert_eq!(
        exit["signal"],
        serde_json::json!({ "signal": 11, "core": plain.core_dumped() }),
        "{exit}"
    );
    master.stop();
}

/// What a listener of the app's own gets.
#[track_caller]
fn other(master: &Master) -> Value {
    master.addr().get("/path").json()["code"].clone()
}

#[test]
fn with_strict_bind_workers_listen_only_where_it_is_declared() {
    let folder = common::scratch();
    let path = folder.path().join("other.sock");
    let port = Addr::free_port();
    let mut master = unwell()
        .env("OTHER", &path)
        .options(["--strict-bind", "-b", &format!("127.0.0.1:{port}")])
        .start();
    master.wait_ready(2);
    assert_eq!(Addr::port(port).get("/path").json()["code"], "EACCES");
    assert!(
        master
            .log()
            .contains("with --strict-bind workers listen only where --bind says")
    );
    master.stop();
    // The control: without it the same listener is bound.
    let mut master = unwell().env("OTHER", &path).start();
    master.wait_ready(2);
    assert_eq!(other(&master), "listens");
    master.stop();
}

#[test]
fn a_root_master_makes_no_socket_in_strange_folders() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root is held to this");
        return;
    }
    let path = format!("/var/lib/rcluster-test-{}.sock", std::process::id());
    let mut master = unwell().env("OTHER", &path).start();
    master.wait_ready(2);
    assert_eq!(other(&master), "EACCES");
    assert!(!PathBuf::from(&path).exists());
    assert!(
        master
            .log()
            .contains("the working directory and the temp folder only")
    );
    master.stop();
}
