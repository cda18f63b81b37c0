//! Promise: under systemd the master says when it is ready, reloads and stops, shows that it lives, takes sockets over, and
//! after a `kill -9` the port is not refused. A peer of our own plays the manager where that shows more; a real systemd does
//! where one can be booted.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::{self, Addr, BOOT, Conn, Launch, app, kill, running, skip, tool, wait_until};
use crate::manager::{self, Booted, Peer, hand_over};
use nix::sys::signal::Signal::{SIGHUP, SIGKILL};

#[test]
fn it_says_what_happens() {
    let peer = Peer::new();
    let mut master = Launch::new("site.js")
        .workers(2)
        .env("NOTIFY_SOCKET", peer.path())
        .options(["--drain-timeout", "7s", "--kill-timeout", "2s"])
        .start();
    peer.wait("READY=1");
    // A boot may take as long as it is allowed to.
    assert!(
        peer.all()
            .iter()
            .any(|m| m.contains("EXTEND_TIMEOUT_USEC=35000000")),
        "{:?}",
        peer.all()
    );
    master.wait_ready(2);
    peer.wait("STATUS=serving: 2 of 2 workers ready, generation 1");
    peer.forget();
    master.signal(SIGHUP);
    let begun = peer.wait("RELOADING=1");
    assert!(begun.contains("MONOTONIC_USEC="), "{begun}");
    peer.wait("READY=1");
    peer.wait("STATUS=serving: 2 of 2 workers ready, generation 2");
    peer.forget();
    master.stop();
    let end = peer.wait("STOPPING=1");
    // The drain and the kill timeout, and a margin.
    assert!(end.contains("EXTEND_TIMEOUT_USEC=14000000"), "{end}");
    assert!(
        peer.all().iter().all(|m| !m.contains("WATCHDOG")),
        "nobody asked"
    );
}

#[test]
fn the_loop_shows_that_it_turns_and_stops_when_it_does_not() {
    let peer = Peer::new();
    let mut master = Launch::new("good.py")
        .workers(1)
        .env("NOTIFY_SOCKET", peer.path())
        .env("WATCHDOG_USEC", "200000")
        .start();
    master.wait_ready(1);
    for _ in 0..3 {
        peer.forget();
        peer.wait("WATCHDOG=1");
    }
    let stopped = common::Stopped::new(&[master.pid()]);
    peer.read();
    peer.forget();
    // Longer than five signs of life; then still none.
    assert!(!peer.comes("WATCHDOG=1", 1000));
    drop(stopped);
    peer.wait("WATCHDOG=1");
    master.stop();
}

#[test]
fn sockets_of_units_reach_unmodified_apps() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let at = socket.local_addr().expect("bound");
    let mut master = hand_over(Launch::new("site.js"), &[(&socket, "web")])
        .workers(2)
        .start();
    master.wait_ready(2);
    assert_eq!(master.status().addresses(), [at.to_string()]);
    drop(socket);
    let facts = Addr::parse(&at.to_string())
        .expect("an address")
        .get("/")
        .json();
    // Nothing of it reaches the app but the socket, and PORT as a hint.
    let env = facts["env"].as_array().expect("names");
    assert!(
        env.iter()
            .all(|n| !n.as_str().is_some_and(|n| n.starts_with("LISTEN_"))),
        "{facts}"
    );
    master.stop();
}

#[test]
fn a_socket_that_nobody_asks_for_is_said() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let launch = hand_over(Launch::new("site.js"), &[(&socket, "web")]);
    // The app is told another port.
    let mut master = launch.env("PORT", "0").workers(1).start();
    master.wait_ready(1);
    let told = master.command(&["status"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let at = socket.local_addr().expect("bound");
    assert!(told.contains(&format!("warning: {at} is bound")), "{told}");
    master.stop();
}

fn loopback() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let at = socket.local_addr().expect("bound").to_string();
    (socket, at)
}

#[test]
fn sockets_are_declared_by_name_and_by_number() {
    let ((web, web_at), (api, api_at)) = (loopback(), loopback());
    for (declared, other, at) in [("api", &web_at, &api_at), ("3", &api_at, &web_at)] {
        let handed = hand_over(Launch::new("site.js"), &[(&web, "web"), (&api, "api")]);
        let bind = format!("fd://{declared}");
        let mut master = handed.workers(2).options(["-b", &bind]).start();
        master.wait_ready(2);
        // The app listens on PORT, which is the declared one's.
        assert_eq!(Addr::parse(at).expect("an address").get("/").status, 200);
        let told = master.command(&["status"]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(
            told.contains(&format!("warning: {other} is bound")),
            "{told}"
        );
        master.stop();
    }
}

#[test]
fn an_app_that_listens_on_a_descriptor_gets_it_also_after_an_upgrade() {
    let ((web, _), (api, api_at)) = (loopback(), loopback());
    let handed = hand_over(Launch::new("fd.js"), &[(&web, "web"), (&api, "api")]);
    let mut master = handed.workers(2).env("FD", "4").start();
    let worker = master.wait_ready(2).remove(0);
    let addr = Addr::parse(&api_at).expect("an address");
    master.each_answers_http(&addr);
    let upgrade = master.command(&["upgrade"]);
    assert_eq!(upgrade.status.code(), Some(0), "{}", master.log());
    kill(worker.process(), SIGKILL);
    master.wait_replaced(&worker);
    master.each_answers_http(&addr);
    master.stop();
}

#[test]
fn a_socket_of_any_parent_can_be_declared_and_one_that_is_not_there_is_told() {
    let (socket, at) = loopback();
    let no_manager = ["/usr/bin/env", "-u", "LISTEN_FDS", "-u", "LISTEN_PID"];
    let handed = || hand_over(Launch::new("site.js").workers(1), &[(&socket, "web")]);
    let mut master = handed().under(no_manager).options(["-b", "fd://3"]).start();
    master.wait_ready(1);
    assert_eq!(Addr::parse(&at).expect("an address").get("/").status, 200);
    master.stop();
    for (launch, bind) in [
        (handed().under(no_manager), "fd://web"),
        (handed(), "fd://4"),
        // The loop's own descriptors are not to be had.
        (Launch::new("site.js"), "fd://5"),
    ] {
        let ended = launch.options(["-b", bind]).run();
        assert_eq!(ended.code, Some(5), "{}", ended.log);
        let why =
            format!("failed to bind {bind}: bad file descriptor (no listening socket was handed");
        assert!(ended.log.contains(&why), "{}", ended.log);
    }
}

#[test]
fn the_store_keeps_the_port_over_a_killed_master() {
    let peer = Peer::new();
    let mut first = Launch::new("site.js")
        .workers(2)
        .env("NOTIFY_SOCKET", peer.path())
        .start();
    first.wait_ready(2);
    let addr = first.addr();
    let stored = peer.stored();
    assert_eq!(stored.len(), 1, "{:?}", peer.all());
    kill(first.pid(), SIGKILL);
    first.wait_exit();
    first.wait_no_process();
    // Nobody is there; a client queues, and the next master's worker answers it.
    let mut early = Conn::open(&addr).expect("not refused");
    early
        .send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let (name, socket) = &stored[0];
    let launch = hand_over(Launch::new("site.js"), &[(socket, name)]);
    let mut second = launch
        .workers(2)
        .env("NOTIFY_SOCKET", peer.path())
        .env("PORT", addr.tcp_port().to_string())
        .start();
    second.wait_ready(2);
    assert_eq!(second.addr(), addr);
    assert_eq!(early.read().expect("an answer").status, 200);
    second.stop();
    first.forget();
    // The control: without the copies the port is refused.
    drop(stored);
    assert!(Conn::open(&addr).is_err());
}

/// A master that is killed while a worker cannot close its port, and the log of the next one.
fn log_of_the_next(store: bool) -> String {
    let peer = Peer::new();
    let port = Addr::free_port();
    let mut first = Launch::new("http.js")
        .workers(1)
        .env("NOTIFY_SOCKET", peer.path())
        .env("PORT", port.to_string())
        .start();
    let worker = first.wait_ready(1).remove(0);
    let stored = peer.stored();
    // It never sees the end of its channel.
    Addr::port(port).get("/spin");
    first.kill_master();
    let next = Launch::new("http.js")
        .workers(1)
        .control(&first.control)
        .env("PORT", port.to_string());
    let (name, socket) = &stored[0];
    let mut next = if store {
        hand_over(next, &[(socket, name)]).start()
    } else {
        drop(stored);
        next.start()
    };
    next.wait_ready(1);
    // The guard of the first ends it, whether somebody waits for that or not.
    wait_until("the end of the orphan", BOOT, || {
        (!running(worker.process())).then_some(())
    });
    assert_eq!(Addr::port(port).get("/").status, 200);
    next.stop();
    first.wait_no_process();
    first.forget();
    next.log()
}

#[test]
fn who_has_the_sockets_does_not_wait_for_the_orphans() {
    let were = "orphans_found";
    for (store, waited) in [(true, "waited=false"), (false, "waited=true")] {
        let log = log_of_the_next(store);
        let line = log.lines().find(|line| line.contains(were));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(waited), "{line}");
    }
}

#[test]
fn a_stored_socket_that_the_app_does_not_want_any_more_goes_at_the_next_reload() {
    let peer = Peer::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let at = Addr::parse(&socket.local_addr().expect("bound").to_string()).expect("an address");
    let launch = hand_over(Launch::new("site.js"), &[(&socket, "rcluster-old")]);
    let mut master = launch.workers(1).env("NOTIFY_SOCKET", peer.path()).start();
    master.wait_ready(1);
    drop(socket);
    Conn::open(&at).expect("still there");
    let out = master.command(&["reload", "--drained"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    peer.wait("FDSTOREREMOVE=1");
    wait_until("a refused connection", BOOT, || {
        Conn::open(&at).is_err().then_some(())
    });
    master.stop();
}

fn unit(words: &[&str]) -> String {
    unit_by(&std::env::var("PATH").expect("a PATH"), words)
}

/// As printed for somebody with this PATH.
fn unit_by(path: &str, words: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .arg("systemd-unit")
        .args(words)
        .env("PATH", path)
        .output()
        .expect("rcluster runs");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// A program that prints this.
fn program(folder: &Path, name: &str, prints: &str) {
    fs::create_dir_all(folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn the_unit_fits_the_systemd_of_the_host() {
    let dir = common::scratch();
    let script = app("site.js");
    let script = script.to_str().expect("UTF-8");
    let path = dir.path().to_str().expect("UTF-8");
    program(dir.path(), "node", "v22.0.0");
    let kinds = || {
        let text = unit_by(path, &[script]);
        (
            text.contains("\nType=notify-reload\n"),
            text.contains("\nExecReload="),
        )
    };
    // Without systemctl it could be any.
    assert_eq!(kinds(), (false, true));
    program(dir.path(), "systemctl", "systemd 252 (252.39-1~deb12u1)");
    assert_eq!(kinds(), (false, true));
    program(dir.path(), "systemctl", "systemd 257 (257.9-1~deb13u1)");
    assert_eq!(kinds(), (true, false));
    // The option counts more.
    assert!(unit_by(path, &["--systemd", "252", script]).contains("\nType=notify\n"));
}

#[test]
fn the_unit_names_the_node_that_whoever_wrote_it_has() {
    let dir = common::scratch();
    let folder = |name: &str| dir.path().join(name);
    let script = app("site.js");
    let script = script.to_str().expect("UTF-8");
    program(&folder("versions/22"), "node", "v22.0.0");
    program(&folder("own"), "node", "v20.0.0");
    // As version managers do it: a link for a shell, in a folder that a boot empties.
    std::os::unix::fs::symlink(folder("versions/22"), folder("shell")).expect("a link");
    let start = |path: &Path, words: &[&str]| {
        let text = unit_by(path.to_str().expect("UTF-8"), words);
        let start = text.lines().find(|line| line.starts_with("ExecStart="));
        start.expect("a command").to_owned()
    };
    let names = |start: &str, node: &Path| {
        let word = format!(" --node={}", node.display());
        assert_eq!(start.matches(" --node=").count(), 1, "{start}");
        assert!(start.contains(&word), "{start}");
    };
    let real = folder("versions/22/node").canonicalize().expect("a file");
    let link = folder("shell/node");
    let fleeting = dir.path().starts_with("/tmp");
    names(
        &start(&folder("shell"), &[script]),
        if fleeting { &real } else { &link },
    );
    let own = folder("own/node");
    let own = if fleeting {
        own.canonicalize().expect("a file")
    } else {
        own
    };
    let given = folder("own/node");
    let given = given.to_str().expect("UTF-8");
    names(&start(&folder("shell"), &["--node", given, script]), &own);
    // The file says it anew at each reload; a flag would count more.
    let config = folder("rcluster.toml");
    fs::write(&config, format!("node = '{given}'\n")).expect("written");
    let config = config.to_str().expect("UTF-8");
    let text = start(&folder("shell"), &["--config", config, script]);
    assert!(!text.contains("--node"), "{text}");
}

fn version() -> Option<u32> {
    let out = Command::new("systemctl").arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn systemd_accepts_the_units() {
    let (Some(analyze), Some(version)) = (tool("systemd-analyze"), version()) else {
        skip("no systemd-analyze");
        return;
    };
    let dir = common::scratch();
    let script = app("site.js");
    let script = script.to_str().expect("UTF-8");
    let version = version.to_string();
    let words = [
        "--systemd",
        &version,
        "--name",
        "shop",
        "-b",
        ":81",
        "--user",
        "daemon",
        "--drain-timeout",
        "9s",
        "--log-file",
        "/var/log/shop/{slot}.log",
        script,
        "--a",
        "50% of",
    ];
    fs::write(dir.path().join("shop.service"), unit(&words)).expect("written");
    fs::write(
        dir.path().join("shop.socket"),
        unit(&[&["--socket"], &words[..]].concat()),
    )
    .expect("written");
    let verify = |file: &str| {
        let out = Command::new(&analyze)
            .args(["verify", "--man=no"])
            .arg(dir.path().join(file))
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        // It looks at every unit of this machine; what it says of others is not ours.
        let ours: Vec<_> = told
            .lines()
            .filter(|line| line.contains("shop"))
            .map(str::to_owned)
            .collect();
        (out.status.success(), ours)
    };
    assert_eq!(verify("shop.service"), (true, vec![]));
    assert_eq!(verify("shop.socket"), (true, vec![]));
    let text = fs::read_to_string(dir.path().join("shop.service")).expect("written");
    assert!(
        text.contains("User=daemon")
            && text.contains("TimeoutStopSec=34s")
            && text.contains("\nReadWritePaths=/var/log/shop\n")
            && text.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"),
        "{text}"
    );
    // The control: it would have noticed.
    fs::write(
        dir.path().join("shop.service"),
        text.replace("OOMPolicy=continue", "OOMPolicy=maybe"),
    )
    .expect("written");
    assert_ne!(verify("shop.service"), (true, vec![]));
    assert!(unit(&["--systemd", "253", script]).contains("Type=notify-reload"));
}

#[test]
fn a_real_systemd_starts_reloads_restarts_and_stops_it_and_the_port_is_never_refused() {
    let Some(mut systemd) = Booted::boot() else {
        skip("no systemd can be booted in a namespace here");
        return;
    };
    let dir = common::scratch();
    fs::copy(app("site.js"), dir.path().join("site.js")).expect("copied");
    let node = common::Node::V24.binary();
    let port = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound")
        .port();
    let script = dir.path().join("site.js");
    let bind = format!("127.0.0.1:{port}");
    let text = unit(&[
        "--systemd",
        &version().expect("a version").to_string(),
        "--name",
        "site",
        "-w",
        "2",
        "-b",
        &bind,
        "--node",
        node.to_str().expect("UTF-8"),
        script.to_str().expect("UTF-8"),
    ]);
    // What this test runs may itself be in /tmp.
    systemd.add(
        "site.service",
        &text.replace("PrivateTmp=yes", "PrivateTmp=no"),
    );
    assert_eq!(
        systemd.systemctl(&["start", "site"]).0,
        Some(0),
        "{}",
        systemd.log()
    );
    // `start` returns when a worker answers.
    let addr = Addr::parse(&bind).expect("an address");
    let facts = addr.get("/").json();
    assert_eq!(facts["preloaded"], true, "{facts}");
    let load = manager::Load::start(addr.clone());
    assert_eq!(
        systemd.systemctl(&["reload", "site"]).0,
        Some(0),
        "{}",
        systemd.log()
    );
    assert!(
        systemd.show("StatusText").contains("generation 2"),
        "{}",
        systemd.show("StatusText")
    );
    assert_eq!(systemd.show("NFileDescriptorStore"), "1");
    // As the operator types it: the unit's control path is no default one.
    let words = ["status", "--name", "site"];
    let (code, told) = systemd.run(&[&[env!("CARGO_BIN_EXE_rcluster")], &words[..]].concat());
    assert!(
        code == Some(0) && told.contains("2 of 2 workers ready"),
        "{told}"
    );
    let old: i32 = systemd.main_pid();
    kill(old, SIGKILL);
    wait_until("the next master", BOOT, || {
        let now = systemd.main_pid();
        (now != 0 && now != old && systemd.show("ActiveState") == "active").then_some(())
    });
    assert!(!running(old));
    wait_until("an answer of the next master's", BOOT, || {
        addr.try_request("GET", "/")
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    });
    let (answered, refused) = load.finish();
    assert!(answered > 0, "no load");
    assert_eq!(refused, 0, "connections refused");
    // In between it never was down for the watchdog, and a stop is clean.
    assert_eq!(
        systemd.systemctl(&["stop", "site"]).0,
        Some(0),
        "{}",
        systemd.log()
    );
    assert_eq!(
        (systemd.show("Result"), systemd.show("ActiveState")),
        ("success".to_owned(), "inactive".to_owned())
    );
    wait_until("the end of the store, with the unit", BOOT, || {
        Conn::open(&addr).is_err().then_some(())
    });
    systemd.stop();
}
