//! Promise: what a worker started in a session of its own and left behind is found, told of and counted, and with
//! --reap-detached it is ended: at a crash, a reload and a stop. What a worker that runs has started is left alone.

use crate::common::{self, BOOT, Launch, Master, Node, kill, running, wait_until};
use nix::sys::signal::Signal::{SIGHUP, SIGKILL, SIGTERM};

const APP: &str = r#"
const { spawn } = require('child_process');
const detached = (command) => {
  const child = spawn('sh', ['-c', command], { detached: true, stdio: 'ignore' });
  child.unref();
  return child.pid;
};
const say = (event, pid) => require('fs').writeSync(1, `${JSON.stringify({ event, of: process.pid, pid })}\n`);
say('child', detached('trap "" HUP; exec sleep 600'));
// One whose parent ends at once: nobody can see whose it was.
const orphan = spawn('sh', ['-c', 'setsid sleep 600 >/dev/null 2>&1 & echo $!'], { detached: true });
orphan.stdout.on('data', (text) => say('orphan', Number(text)));
require('http').createServer((q, a) => a.end()).listen(0, '127.0.0.1');
"#;

fn start(workers: u32, options: &[&str]) -> Master {
    let mut launch = Launch::bare().workers(workers).node(Node::V20);
    let app = launch.dir.path().join("app.js");
    std::fs::write(&app, APP).expect("written");
    for option in options {
        launch = launch.option(*option);
    }
    let master = launch.option(app).start();
    master.wait_ready(workers as usize);
    master.wait_events("child", workers as usize);
    master.wait_events("orphan", workers as usize);
    master
}

/// Detached processes of all workers so far, or of one.
fn of(master: &Master, worker: Option<i32>) -> Vec<i32> {
    let all = master
        .events("child")
        .into_iter()
        .chain(master.events("orphan"));
    let ours = all.filter(|event| worker.is_none_or(|pid| event["of"] == pid));
    ours.map(|event| common::pid_in(&event)).collect()
}

/// `detached` of the status.
fn counted(master: &Master) -> (u64, u64) {
    let status = common::Addr::Unix(master.control.clone())
        .get("/v1/status")
        .json();
    let number = |name: &str| status["detached"][name].as_u64().expect("a number");
    (number("living"), number("ended"))
}

/// What is in the worker's own group is killed with it: it is not left behind, though it dies a moment after the worker.
#[test]
fn children_of_a_workers_group_are_not_left_behind() {
    const CHILDREN: &str = r"
const { fork, spawn } = require('child_process');
if (process.argv[2] === 'child') setInterval(() => process.on('SIGTERM', () => {}), 1000);
else {
  for (let i = 0; i < 8; i++) spawn('sleep', ['600']);
  for (let i = 0; i < 2; i++) fork(__filename, ['child']).on('error', () => {});
  require('http').createServer((q, a) => a.end()).listen(0, '127.0.0.1');
}
";
    let launch = Launch::bare().workers(1).node(Node::V20);
    let app = launch.dir.path().join("app.js");
    std::fs::write(&app, CHILDREN).expect("written");
    let mut master = launch.option(app).start();
    for _ in 0..3 {
        let worker = master.wait_ready(1)[0].clone();
        kill(worker.process(), SIGKILL);
        master.wait_replaced(&worker);
        assert_eq!(counted(&master), (0, 0), "{}", master.log());
    }
    master.stop();
    assert!(!master.log().contains("detached_left"), "{}", master.log());
}

#[test]
fn what_a_worker_leaves_behind_is_counted_and_lives_on() {
    let mut master = start(1, &[]);
    let worker = master.status().ready()[0].clone();
    assert_eq!(counted(&master), (0, 0));
    let left = of(&master, None);
    kill(worker.process(), SIGKILL);
    master.wait_replaced(&worker);
    wait_until("both to be counted", BOOT, || {
        (counted(&master) == (2, 0)).then_some(())
    });
    assert!(left.iter().all(|pid| running(*pid)), "{left:?}");
    assert_eq!(master.log().matches("detached_left").count(), 2);
    // One that ends by itself is reaped, and not counted any more.
    kill(left[0], SIGKILL);
    wait_until("one to be forgotten", BOOT, || {
        (counted(&master) == (1, 0)).then_some(())
    });
    assert!(master.zombies().is_empty());
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    let rest: Vec<_> = of(&master, None)
        .into_iter()
        .filter(|pid| running(*pid))
        .collect();
    assert_eq!(
        rest.len(),
        3,
        "a stop without the option ends none: {rest:?}"
    );
    for pid in rest {
        kill(pid, SIGKILL);
    }
    master.finish();
}

#[test]
fn with_the_option_nothing_is_left_of_a_worker() {
    let mut master = start(1, &["--reap-detached"]);
    let worker = master.status().ready()[0].clone();
    // A death, a reload, a stop.
    let gone = |pids: &[i32]| {
        wait_until("the end of what was left", BOOT, || {
            pids.iter().all(|pid| !running(*pid)).then_some(())
        });
    };
    let left = of(&master, None);
    assert!(left.iter().all(|pid| running(*pid)), "{left:?}");
    kill(worker.process(), SIGKILL);
    let second = master.wait_replaced(&worker);
    gone(&left);
    master.wait_events("orphan", 2);
    let left = of(&master, Some(second.process()));
    assert!(left.iter().all(|pid| running(*pid)), "{left:?}");
    master.signal(SIGHUP);
    let third = master.wait_replaced(&second);
    gone(&left);
    master.wait_events("orphan", 3);
    let left = of(&master, Some(third.process()));
    assert!(left.iter().all(|pid| running(*pid)), "{left:?}");
    wait_until("the count", BOOT, || {
        (counted(&master) == (0, 4)).then_some(())
    });
    master.stop();
    assert!(left.iter().all(|pid| !running(*pid)), "{left:?}");
}

#[test]
fn what_a_worker_that_runs_has_started_is_left_alone() {
    let mut master = start(2, &["--reap-detached"]);
    let ready = master.status().ready();
    let (dead, lives) = (&ready[0], &ready[1]);
    let others = of(&master, Some(lives.process()));
    kill(dead.process(), SIGKILL);
    master.wait_replaced(dead);
    // What nobody can be sure of waits until no worker runs that could have started it.
    assert!(others.iter().all(|pid| running(*pid)), "{others:?}");
    let all = of(&master, None);
    master.stop();
    assert!(all.iter().all(|pid| !running(*pid)), "{all:?}");
}

#[test]
fn what_was_there_before_the_master_is_none_of_its_business() {
    let launch = Launch::bare().workers(1).node(Node::V20);
    let app = launch.dir.path().join("app.js");
    std::fs::write(&app, APP).expect("written");
    let file = launch.dir.path().join("before");
    // As an entry point of a container may do.
    let script = format!("sleep 600 & echo $! >{} && exec \"$@\"", file.display());
    let launch = launch.option("--reap-detached").option(app);
    let mut master = launch.under(["sh", "-c", &script, "sh"]).start();
    let worker = master.wait_ready(1).remove(0);
    let text = std::fs::read_to_string(&file).expect("a number");
    let before: i32 = text.trim().parse().expect("a number");
    master.wait_events("orphan", 1);
    kill(worker.process(), SIGKILL);
    master.wait_replaced(&worker);
    wait_until("the end of what was left", BOOT, || {
        (counted(&master) == (0, 2)).then_some(())
    });
    assert!(running(before));
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    assert!(running(before));
    kill(before, SIGKILL);
    master.finish();
}
