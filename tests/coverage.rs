//! Promise: a replacement takes over only when it listens on every address that its predecessor serves.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Addr, BOOT, Launch, Master, Node, on_two_nodes, wait_until};
use crate::deploys::{Releases, ask, document, reload, reload_with, tell, touch, wait_settled};

/// Listens on the first port at once, and on the second when `late` is there. A release that
/// `throws` dies then instead.
const APP: &str = "
    const fs = require('fs');
    const http = require('http');
    const { number, ports, late, throws } = JSON.parse(fs.readFileSync('release.json', 'utf8'));
    const answer = (req, res) => res.end(JSON.stringify({ pid: process.pid, release: number }));
    http.createServer(answer).listen(ports[0], '127.0.0.1');
    const timer = setInterval(() => {
      if (late && !fs.existsSync(late)) return;
      clearInterval(timer);
      if (throws) throw new Error('no database');
      if (ports[1]) http.createServer(answer).listen(ports[1], '127.0.0.1');
    }, 5);";

struct App {
    releases: Releases,
    ports: [u16; 2],
}

impl App {
    fn new() -> Self {
        let releases = Releases::new();
        let ports = [0; 2].map(|_| Addr::free_port());
        let app = Self { releases, ports };
        app.deploy(1, &json!({}));
        app
    }

    /// A release whose second port is opened at once, unless `more` says otherwise.
    fn deploy(&self, number: u32, more: &Value) {
        let mut settings = json!({"ports": self.ports});
        let all = more.as_object().expect("settings").clone();
        settings.as_object_mut().expect("settings").extend(all);
        self.releases.make_with(number, &settings, APP);
        self.releases.switch(number);
    }

    fn launch(&self, workers: u32) -> Launch {
        self.releases.launch().workers(workers)
    }

    /// Started, with both ports open in all workers.
    fn start(&self, launch: Launch, workers: usize) -> Master {
        let master = launch.start();
        master.wait_ready(workers);
        wait_until("both ports in all workers", BOOT, || {
            (Self::listening(&master) == 2).then_some(())
        });
        master.each_answers(|| pid(self.ports[1]));
        master
    }

    fn listening(master: &Master) -> usize {
        master.status().listeners.len()
    }
}

fn pid(port: u16) -> i32 {
    crate::common::pid_in(&Addr::port(port).get("/").json())
}

/// Connects to a port again and again, and counts those that were refused.
struct Knocking(Arc<AtomicBool>, JoinHandle<(u32, u32)>);

impl Knocking {
    fn at(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let (mut asked, mut refused) = (0, 0);
            while !seen.load(Ordering::Relaxed) {
                asked += 1;
                let answer = TcpStream::connect(("127.0.0.1", port)).map(drop);
                refused += u32::from(answer.is_err());
                // Not a wait for anything: a pace.
                thread::sleep(Duration::from_millis(2));
            }
            (asked, refused)
        });
        Self(over, thread)
    }

    #[track_caller]
    fn end(self) {
        self.0.store(true, Ordering::Relaxed);
        let (asked, refused) = self.1.join().expect("it ends");
        assert!(asked > 0 && refused == 0, "{refused} of {asked} refused");
    }
}

/// The serving pids answer on the second port: `asked` waits until a new worker is ready without it.
fn a_late_port_is_waited_for(node: Node, options: &[&str]) {
    let app = App::new();
    let mut launch = app.launch(2).node(node);
    for word in options {
        launch = launch.option(*word);
    }
    let mut master = app.start(launch, 2);
    let late = app.releases.path("late");
    app.deploy(2, &json!({"late": late}));
    let knocking = Knocking::at(app.ports[1]);
    let mut asking = ask(&master.control, &["reload"]);
    master.wait_status("a new worker that lacks a port", |status| {
        status
            .ready()
            .iter()
            .any(|w| w.generation == 2)
            .then_some(())
    });
    // Longer than `--min-uptime` and the two seconds after which the old worker went: by the master's own clock.
    let begun = document(&master)["clock_ms"].as_u64().expect("a time");
    wait_until("three seconds of the master", BOOT, || {
        let now = document(&master);
        (now["clock_ms"].as_u64()? > begun + 3000).then_some(())
    });
    let old = master.status().ready();
    let old = old.iter().filter(|w| w.generation == 1);
    assert_eq!(old.count(), 2, "{}", master.log());
    assert!(!asking.is_over());
    touch(&late);
    let told = asking.wait();
    assert_eq!(told.code, Some(0), "{told:?}\n{}", master.log());
    wait_settled(&master, 2);
    knocking.end();
    assert_eq!(Addr::port(app.ports[1]).get("/").json()["release"], 2);
    master.stop();
}

fn a_rolling_reload_waits_for_a_late_port(node: Node) {
    a_late_port_is_waited_for(node, &[]);
}

fn an_atomic_reload_waits_for_a_late_port(node: Node) {
    a_late_port_is_waited_for(node, &["--switch", "atomic"]);
}

on_two_nodes!(
    a_rolling_reload_waits_for_a_late_port,
    an_atomic_reload_waits_for_a_late_port,
);

/// The old workers serve both ports, all of generation 1, and nothing was refused.
#[track_caller]
fn nothing_has_changed(app: &App, master: &Master, knocking: Knocking) {
    wait_settled(master, 2);
    assert_eq!(master.status().generation, 1);
    for port in app.ports {
        assert_eq!(Addr::port(port).get("/").json()["release"], 1);
    }
    knocking.end();
}

#[test]
fn a_release_without_a_port_fails_and_names_it() {
    for switch in ["rolling", "atomic"] {
        let app = App::new();
        let launch = app
            .launch(2)
            .options(["--ready-timeout", "4s", "--switch", switch]);
        let mut master = app.start(launch, 2);
        let knocking = Knocking::at(app.ports[1]);
        app.deploy(2, &json!({"ports": [app.ports[0]]}));
        let told = tell(&master, &["reload", "--json"]);
        assert_eq!(told.code, Some(10), "{switch}: {told:?}");
        let missing = format!("127.0.0.1:{}", app.ports[1]);
        let allow = format!("rcluster reload --allow-drop {missing}");
        assert!(
            told.out.contains(&missing) && told.out.contains(&allow),
            "{told:?}"
        );
        nothing_has_changed(&app, &master, knocking);
        // As the error says.
        reload_with(&master, &["reload", "--drained", "--allow-drop", &missing]);
        assert_eq!(Addr::port(app.ports[0]).get("/").json()["release"], 2);
        assert_eq!(App::listening(&master), 1, "{:?}", master.status());
        // What comes back opens it again; on the way there and back again nothing has to be said.
        reload_with(&master, &["rollback", "--drained"]);
        assert_eq!(Addr::port(app.ports[1]).get("/").json()["release"], 1);
        reload_with(&master, &["rollback", "--drained"]);
        assert_eq!(App::listening(&master), 1, "{:?}", master.status());
        master.stop();
    }
}

#[test]
fn a_release_that_throws_late_changes_nothing() {
    let app = App::new();
    let mut master = app.start(app.launch(2), 2);
    let knocking = Knocking::at(app.ports[1]);
    let late = app.releases.path("late");
    app.deploy(2, &json!({"late": late, "throws": true}));
    let asking = ask(&master.control, &["reload"]);
    master.wait_status("a new worker", |status| {
        status
            .ready()
            .iter()
            .any(|w| w.generation == 2)
            .then_some(())
    });
    touch(&late);
    let told = asking.wait();
    assert_eq!(told.code, Some(10), "{told:?}");
    assert!(told.err.contains("no database"), "{told:?}");
    nothing_has_changed(&app, &master, knocking);
    master.stop();
}

/// A restart, a hang and a death: whoever comes is late with the second port.
#[test]
fn a_restarted_worker_is_waited_for() {
    let app = App::new();
    let late = app.releases.path("late");
    touch(&late);
    app.deploy(1, &json!({"late": late}));
    let mut master = app.start(app.launch(2).options(["--ready-timeout", "20s"]), 2);
    let knocking = Knocking::at(app.ports[1]);
    std::fs::remove_file(&late).expect("it was there");
    let before = master.status().ready();
    let mut asking = ask(&master.control, &["restart", "0"]);
    let two = |status: &crate::common::Status| {
        let ready = status.ready().into_iter().filter(|w| w.slot == 0);
        (ready.count() == 2).then_some(())
    };
    master.wait_status("both workers of the slot", two);
    let begun = document(&master)["clock_ms"].as_u64().expect("a time");
    wait_until("three seconds of the master", BOOT, || {
        (document(&master)["clock_ms"].as_u64()? > begun + 3000).then_some(())
    });
    two(&master.status()).expect("the old one stays");
    assert!(!asking.is_over() || before.len() == 2);
    touch(&late);
    assert_eq!(asking.wait().code, Some(0));
    wait_settled(&master, 2);
    knocking.end();
    master.stop();
}

/// A worker that is too many stays while the one that stays has not yet opened all of its ports.
#[test]
fn scaling_down_waits_for_a_late_port() {
    let app = App::new();
    let late = app.releases.path("late");
    touch(&late);
    app.deploy(1, &json!({"late": late}));
    let mut master = app.start(app.launch(2), 2);
    let before = master.status().ready();
    std::fs::remove_file(&late).expect("it was there");
    crate::common::kill(before[0].process(), Signal::SIGKILL);
    master.wait_replaced(&before[0]);
    let knocking = Knocking::at(app.ports[1]);
    assert_eq!(tell(&master, &["scale", "1"]).code, Some(0));
    assert_eq!(master.status().ready().len(), 2);
    assert_eq!(pid(app.ports[1]), before[1].process());
    touch(&late);
    let left = master.wait_ready(1);
    assert_eq!(left[0].slot, 0);
    assert_eq!(pid(app.ports[1]), left[0].process());
    knocking.end();
    master.stop();
}

/// Where such a worker is of the old code, the new code of an atomic reload does not take over beside it.
#[test]
fn an_atomic_reload_waits_for_old_code_that_is_too_many() {
    let app = App::new();
    let late = app.releases.path("late");
    touch(&late);
    app.deploy(1, &json!({"late": late}));
    let mut master = app.start(app.launch(2).options(["--switch", "atomic"]), 2);
    let before = master.status().ready();
    std::fs::remove_file(&late).expect("it was there");
    crate::common::kill(before[0].process(), Signal::SIGKILL);
    master.wait_replaced(&before[0]);
    assert_eq!(tell(&master, &["scale", "1"]).code, Some(0));
    let knocking = Knocking::at(app.ports[1]);
    app.deploy(2, &json!({"late": late}));
    let mut asking = ask(&master.control, &["reload"]);
    let serve = master.wait_status("a new worker that is ready", |status| {
        let ready = status.ready();
        let serve = ready.iter().map(|w| (w.slot, w.generation));
        let mut serve: Vec<_> = serve.collect();
        serve.sort_unstable();
        serve.contains(&(0, 2)).then_some(serve)
    });
    // The new worker has all that the old one of its slot has; the other old one has the second port.
    assert_eq!(serve, [(0, 1), (0, 2), (1, 1)], "{}", master.log());
    assert!(!asking.is_over());
    touch(&late);
    let told = asking.wait();
    assert_eq!(told.code, Some(0), "{told:?}\n{}", master.log());
    wait_settled(&master, 1);
    knocking.end();
    for port in app.ports {
        assert_eq!(Addr::port(port).get("/").json()["release"], 2);
    }
    master.stop();
}

/// A port that the kernel chose for a server that was opened on demand is nobody else's to open.
#[test]
fn a_passing_port_is_not_waited_for() {
    let releases = Releases::new();
    let code = "
        const http = require('http');
        const server = http.createServer((req, res) => {
          if (req.url !== '/more') return res.end('{}');
          require('net').createServer().listen(0, '127.0.0.1', () => res.end('{}'));
        });
        server.listen(0, '127.0.0.1');";
    releases.make_with(1, &json!({}), code);
    let mut master = releases
        .launch()
        .workers(1)
        .options(["--ready-timeout", "60s"])
        .start();
    master.wait_ready(1);
    let addr = master.addr();
    let ready = document(&master)["clock_ms"].as_u64().expect("a time");
    wait_until("two seconds of the master", BOOT, || {
        (document(&master)["clock_ms"].as_u64()? > ready + 2000).then_some(())
    });
    addr.get("/more");
    wait_until("another port", BOOT, || {
        (master.status().listeners.len() == 2).then_some(())
    });
    reload(&master);
    assert_eq!(master.status().generation, 2);
    master.stop();
}

/// Where the app listens elsewhere than `--bind` says, it is not ready, and is told both addresses.
#[test]
fn a_declared_address_that_nobody_listens_on_is_not_ready() {
    let [declared, other] = [0; 2].map(|_| Addr::free_port());
    let launch = Launch::new("http.js").workers(1);
    let launch = launch.option("-b").option(format!("127.0.0.1:{declared}"));
    let launch = launch.options(["--ready-timeout", "3s"]);
    let ended = launch
        .env("PORT", other.to_string())
        .env("HOST", "127.0.0.1")
        .run();
    assert_eq!(ended.code, Some(4), "{}", ended.log);
    for port in [declared, other] {
        assert!(
            ended.log.contains(&format!("127.0.0.1:{port}")),
            "{}",
            ended.log
        );
    }
}

/// Where readiness is the app's own word, the log tells both addresses.
#[test]
fn a_ready_app_that_listens_elsewhere_is_told_of() {
    let [declared, other] = [0; 2].map(|_| Addr::free_port());
    let code = format!(
        "require('http').createServer(answer).listen({other}, '127.0.0.1', () => process.send('ready'));"
    );
    let launch = Launch::new("run.js").workers(1).arg(code).option("-b");
    let launch = launch.option(format!("127.0.0.1:{declared}"));
    let mut master = launch
        .options(["--ready", "message", "--log-format", "json"])
        .start();
    master.wait_ready(1);
    let log = master.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let fields = lines.map(|line| line.get("fields").cloned().unwrap_or(line));
    let told = fields.filter(|line| line["event"] == "listens_elsewhere");
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 1, "{log}");
    assert_eq!(told[0]["declared"], format!("127.0.0.1:{declared}"));
    assert_eq!(told[0]["listens"], format!("127.0.0.1:{other}"));
    master.stop();
}

/// A server at another address comes first: the declared one makes ready, and is asked whether it is well.
#[test]
fn a_declared_address_makes_ready_and_is_asked() {
    let [declared, other] = [0; 2].map(|_| Addr::free_port());
    let launch = Launch::new("run.js").workers(1);
    let go = launch.dir.path().join("go");
    let code = format!(
        "const at = (port, name) => require('http').createServer((q, r) => {{ if (q.url === '/well') say(name); r.end(); }}).listen(port, '127.0.0.1', () => say('opened'));
         at({other}, 'asked-other');
         const timer = setInterval(() => {{
           if (!require('fs').existsSync({go:?})) return;
           clearInterval(timer);
           at(process.env.PORT, 'asked-declared');
         }}, 5);"
    );
    let start = |health: &str| {
        let launch = Launch::new("run.js").workers(1).arg(code.as_str());
        let launch = launch.option("-b").option(format!("127.0.0.1:{declared}"));
        launch
            .options(["--health-path", health, "--health-interval", "100ms"])
            .start()
    };
    let mut master = start("/well");
    master.wait_events("opened", 1);
    wait_until("its address in the status", BOOT, || {
        (master.status().listeners.len() == 2).then_some(())
    });
    assert_eq!(master.status().ready().len(), 0);
    touch(&go);
    master.wait_ready(1);
    master.wait_events("asked-declared", 1);
    assert_eq!(master.events("asked-other"), Vec::<Value>::new());
    master.stop();

    let mut master = start(&format!(":{other}/well"));
    master.wait_ready(1);
    master.wait_events("asked-other", 1);
    assert_eq!(master.events("asked-declared"), Vec::<Value>::new());
    master.stop();
}

#[test]
fn a_declared_path_is_the_port() {
    let code = "require('http').createServer(answer).listen(process.env.PORT);";
    let launch = Launch::new("run.js").workers(1).arg(code);
    let path = launch.dir.path().join("app.sock");
    let launch = launch
        .option("-b")
        .option(format!("unix:{}", path.display()));
    let mut master = launch.start();
    master.wait_ready(1);
    assert_eq!(master.addr(), Addr::Unix(path));
    master.each_answers_http(&master.addr());
    master.stop();
}
