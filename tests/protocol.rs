//! Promise: an unmodified app on any of the five Node lines is our cluster worker; every kind of server works, shared by
//! all workers and kept over replacements.

use std::fs;

use crate::common::{
    self, Addr, Launch, Master, Node, Worker, is_root, kill, node_script, on_every_node, pid_in,
    wait_until,
};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

/// A run of apps/servers.js.
fn servers(node: Node, specs: &[Value]) -> Launch {
    specs.iter().fold(
        Launch::new("servers.js").node(node).workers(2),
        |launch, spec| launch.arg(spec.to_string()),
    )
}

/// The port in the `address` of the first `listening` of server `n`; all workers must say the same.
#[track_caller]
fn shared_port(master: &Master, n: usize, count: usize) -> u16 {
    let said = wait_until("listening from all workers", common::BOOT, || {
        let said: Vec<_> = master
            .events("listening")
            .into_iter()
            .filter(|event| event["n"] == n)
            .collect();
        (said.len() >= count).then_some(said)
    });
    let port = said[0]["address"]["port"].as_u64().expect("a port");
    assert!(
        said.iter().all(|event| event["address"]["port"] == port),
        "different ports: {said:?}"
    );
    u16::try_from(port).expect("a port")
}

/// Kills every worker with -9 and waits for the replacements.
fn replace_all(master: &Master, count: usize) {
    let before = master.wait_ready(count);
    for worker in &before {
        kill(worker.process(), SIGKILL);
    }
    for worker in &before {
        master.wait_replaced(worker);
    }
    master.wait_ready(count);
}

/// A self-signed certificate in the scratch folder of the launch, named to the app by `TLS_DIR`.
fn with_tls(launch: Launch) -> Launch {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    fs::write(launch.dir.path().join("cert.pem"), made.cert.pem()).expect("cert.pem");
    fs::write(
        launch.dir.path().join("key.pem"),
        made.signing_key.serialize_pem(),
    )
    .expect("key.pem");
    let dir = launch.dir.path().to_owned();
    launch.env("TLS_DIR", dir)
}

#[track_caller]
fn client(node: Node, kind: &str, port: u16, file: &str) -> Value {
    node_script(node, "client.js", &[kind, &port.to_string(), file])
}

fn http_on_port_0(node: Node) {
    let mut master = servers(node, &[json!({"kind": "http", "listen": {"port": 0}})]).start();
    master.wait_ready(2);
    let port = shared_port(&master, 0, 2);
    assert_eq!(master.addr().tcp_port(), port, "status and app disagree");
    master.each_answers_http(&Addr::port(port));
    replace_all(&master, 2);
    assert_eq!(
        shared_port(&master, 0, 4),
        port,
        "a replacement got another port"
    );
    master.each_answers_http(&Addr::port(port));
    assert_eq!(master.status().listeners.len(), 1);
    master.stop();
}

fn tls_session_resumes_on_another_worker(node: Node) {
    let mut master = with_tls(servers(
        node,
        &[json!({"kind": "https", "listen": {"port": 0}})],
    ))
    .start();
    let pids: Vec<_> = master.wait_ready(2).iter().map(Worker::process).collect();
    let port = shared_port(&master, 0, 2);
    let file = master.dir.path().join("session");
    let file = file.to_str().expect("UTF-8");
    let first = {
        let _other = common::Stopped::new(&pids[1..]);
        client(node, "https", port, file)
    };
    assert_eq!((pid_in(&first), &first["reused"]), (pids[0], &json!(false)));
    let second = {
        let _other = common::Stopped::new(&pids[..1]);
        client(node, "https", port, file)
    };
    assert_eq!(
        (pid_in(&second), &second["reused"]),
        (pids[1], &json!(true)),
        "no resumption on the other worker"
    );
    replace_all(&master, 2);
    let third = client(node, "https", port, file);
    assert!(!pids.contains(&pid_in(&third)));
    assert_eq!(third["reused"], true, "no resumption on a replacement");
    master.stop();
}

fn http2_net_and_udp(node: Node) {
    let specs = [
        json!({"kind": "http2", "listen": {"port": 0}}),
        json!({"kind": "h2c", "listen": {"port": 0, "host": "127.0.0.1"}}),
        json!({"kind": "net", "listen": {"port": 0, "host": "127.0.0.1"}}),
        json!({"kind": "udp4", "listen": {"port": 0}}),
        json!({"kind": "udp6", "listen": {"port": 0}}),
    ];
    let mut master = with_tls(servers(node, &specs)).start();
    master.wait_ready(2);
    let ports: Vec<u16> = (0..specs.len())
        .map(|n| shared_port(&master, n, 2))
        .collect();
    let ask = |master: &Master| {
        for (n, kind) in ["http2", "h2c"].into_iter().enumerate() {
            master.each_answers(|| pid_in(&client(node, kind, ports[n], "")));
        }
        master.each_answers(|| {
            pid_in(&serde_json::from_str(&Addr::port(ports[2]).hear()).expect("JSON"))
        });
        for (n, kind) in [(3, "udp4"), (4, "udp6")] {
            master.each_answers(|| pid_in(&client(node, kind, ports[n], "")));
        }
    };
    ask(&master);
    replace_all(&master, 2);
    for (n, port) in ports.iter().enumerate() {
        assert_eq!(shared_port(&master, n, 4), *port, "server {n} moved");
    }
    let pids: Vec<_> = master
        .status()
        .ready()
        .iter()
        .map(Worker::process)
        .collect();
    assert!(pids.contains(&pid_in(&client(node, "http2", ports[0], ""))));
    assert!(pids.contains(&pid_in(&client(node, "udp4", ports[3], ""))));
    assert!(pids.contains(&pid_in(&client(node, "udp6", ports[4], ""))));
    assert_eq!(
        master.status().listeners.len(),
        5,
        "{:?}",
        master.status().addresses()
    );
    master.stop();
}

fn unix_path_and_abstract_name(node: Node) {
    let launch = Launch::new("servers.js").node(node).workers(2);
    let path = launch.dir.path().join("app.sock");
    let name = format!("rcluster-test-{}-{node:?}", std::process::id());
    let mut master = launch
        .arg(json!({"kind": "http", "listen": {"path": path}}).to_string())
        .arg(json!({"kind": "http", "listen": {"path": format!("\0{name}")}}).to_string())
        .start();
    master.wait_ready(2);
    for addr in [Addr::Unix(path.clone()), Addr::Abstract(name)] {
        master.each_answers_http(&addr);
        replace_all(&master, 2);
        master.each_answers_http(&addr);
    }
    let addresses = master.status().addresses();
    assert!(
        addresses.contains(&format!("unix:{}", path.display())),
        "{addresses:?}"
    );
    master.stop();
    assert!(!path.exists(), "the unix socket was left behind");
}

fn several_ports_and_ipv6_only(node: Node) {
    let first = Addr::free_port();
    let second = loop {
        let port = Addr::free_port();
        if port != first {
            break port;
        }
    };
    let specs = [
        json!({"kind": "http", "listen": {"port": first, "host": "::", "ipv6Only": true}}),
        json!({"kind": "http", "listen": {"port": second}}),
    ];
    let mut master = servers(node, &specs).start();
    master.wait_ready(2);
    wait_until("all four listening", common::BOOT, || {
        (master.events("listening").len() == 4).then_some(())
    });
    let v6 = Addr::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], first).into());
    master.each_answers_http(&v6);
    assert!(
        Addr::port(first).connect().is_err(),
        "ipv6Only was dropped: 127.0.0.1 answers"
    );
    master.each_answers_http(&Addr::port(second));
    master.each_answers_http(&Addr::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], second).into()));
    master.stop();
}

fn listen_again_after_close(node: Node) {
    let port = Addr::free_port();
    let specs = [
        json!({"kind": "http", "again": true, "listen": {"port": port, "host": "127.0.0.1"}}),
        json!({"kind": "net", "again": true, "listen": {"port": 0, "host": "127.0.0.1"}}),
    ];
    let mut master = servers(node, &specs).start();
    master.wait_ready(2);
    let again = master.wait_events("again", 4);
    let ports: Vec<_> = again
        .iter()
        .filter(|event| event["n"] == 1)
        .map(|event| event["address"]["port"].clone())
        .collect();
    assert_eq!(
        ports[0], ports[1],
        "port 0 differs between workers after listening again"
    );
    master.each_answers_http(&Addr::port(port));
    assert_eq!(master.events("error"), Vec::<Value>::new());
    master.stop();
}

fn errors_of_bind_are_the_apps_own(node: Node) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let launch = Launch::new("servers.js").node(node).workers(2);
    let regular = launch.dir.path().join("regular");
    fs::write(&regular, "a file").expect("a file");
    let mut master = launch
        .arg(json!({"kind": "http", "listen": {"port": 0, "host": "127.0.0.1"}}).to_string())
        .arg(json!({"kind": "http", "listen": {"port": port, "host": "127.0.0.1"}}).to_string())
        .arg(json!({"kind": "net", "listen": {"path": "/nowhere/at/all.sock"}}).to_string())
        .arg(json!({"kind": "net", "listen": {"port": 0, "host": "192.0.2.1"}}).to_string())
        .arg(json!({"kind": "net", "listen": {"path": regular}}).to_string())
        .start();
    master.wait_ready(2);
    let errors = master.wait_events("error", 8);
    let code = |n: u64| -> Vec<String> {
        errors
            .iter()
            .filter(|event| event["n"] == n)
            .map(|event| event["code"].as_str().unwrap_or("?").to_owned())
            .collect()
    };
    assert_eq!(code(1), ["EADDRINUSE", "EADDRINUSE"]);
    // Not ENOENT: libuv says so for a folder that does not exist.
    assert_eq!(code(2), ["EACCES", "EACCES"]);
    assert_eq!(code(3), ["EADDRNOTAVAIL", "EADDRNOTAVAIL"]);
    assert_eq!(
        code(4),
        ["EADDRINUSE", "EADDRINUSE"],
        "a regular file was taken for a socket"
    );
    assert_eq!(fs::read_to_string(&regular).expect("still there"), "a file");
    // The key is forgotten: once the port is free, the replacement gets it.
    drop(taken);
    replace_all(&master, 2);
    wait_until("the freed port", common::BOOT, || {
        (master
            .events("listening")
            .iter()
            .filter(|event| event["n"] == 1)
            .count()
            == 2)
            .then_some(())
    });
    master.each_answers_http(&Addr::port(port));
    master.stop();
}

fn eacces_is_the_apps_own(node: Node) {
    // As nobody: a port below 1024. /proc/sys/net/ipv4/ip_unprivileged_port_start may allow it.
    let start =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if start.trim() != "1024" {
        common::skip("ip_unprivileged_port_start is not 1024, no port is forbidden");
        return;
    }
    let specs = [
        json!({"kind": "net", "listen": {"port": 0}}),
        json!({"kind": "net", "listen": {"port": 81, "host": "127.0.0.1"}}),
    ];
    if is_root() && !common::can_be_somebody_else() {
        return;
    }
    let launch = servers(node, &specs);
    let launch = if is_root() { launch.uid(65534) } else { launch };
    let mut master = launch.start();
    master.wait_ready(2);
    let errors = master.wait_events("error", 2);
    assert!(
        errors
            .iter()
            .all(|event| event["n"] == 1 && event["code"] == "EACCES"),
        "{errors:?}"
    );
    master.stop();
}

fn same_options_twice_in_one_worker(node: Node) {
    let port = Addr::free_port();
    let specs = [
        json!({"kind": "http", "twice": true, "listen": {"port": port, "host": "127.0.0.1"}}),
        json!({"kind": "net", "twice": true, "listen": {"port": 0, "host": "127.0.0.1"}}),
    ];
    let mut master = servers(node, &specs).start();
    let before = master.wait_ready(2);
    let errors = master.wait_events("error", 2);
    assert!(
        errors
            .iter()
            .all(|event| event["n"] == 0 && event["code"] == "EADDRINUSE"),
        "{errors:?}"
    );
    // Port 0 twice is two servers on two ports, each shared by both workers.
    let twice = master.wait_events("twice", 2);
    assert_eq!(
        twice[0]["address"]["port"], twice[1]["address"]["port"],
        "{twice:?}"
    );
    assert_ne!(
        u64::from(shared_port(&master, 1, 2)),
        twice[0]["address"]["port"].as_u64().expect("a port")
    );
    let after = master.wait_ready(2);
    assert_eq!(
        before[0].id,
        after[0].id,
        "the second listen killed a worker:\n{}",
        master.log()
    );
    master.each_answers_http(&Addr::port(port));
    master.stop();
}

fn exclusive_binds_in_the_worker(node: Node) {
    let specs = [
        json!({"kind": "http", "listen": {"port": 0, "host": "127.0.0.1"}}),
        json!({"kind": "http", "listen": {"port": 0, "host": "127.0.0.1", "exclusive": true}}),
    ];
    let mut master = servers(node, &specs).start();
    master.wait_ready(2);
    wait_until("all four listening", common::BOOT, || {
        (master.events("listening").len() == 4).then_some(())
    });
    let own: Vec<_> = master
        .events("listening")
        .into_iter()
        .filter(|event| event["n"] == 1)
        .collect();
    assert_ne!(
        own[0]["address"]["port"], own[1]["address"]["port"],
        "exclusive was shared"
    );
    assert_eq!(
        master.status().listeners.len(),
        1,
        "an exclusive listener is none of the master's"
    );
    for event in own {
        let port =
            u16::try_from(event["address"]["port"].as_u64().expect("a port")).expect("a port");
        assert_eq!(pid_in(&Addr::port(port).get("/").json()), pid_in(&event));
    }
    master.stop();
}

fn reuse_port_binds_in_the_worker(node: Node) {
    if matches!(node, Node::V18 | Node::V20 | Node::V22) {
        // `reusePort` came with Node 23.1 (and 22.12); older lines ignore it and ask us, which is tested above.
        return;
    }
    let port = Addr::free_port();
    let specs =
        [json!({"kind": "http", "listen": {"port": port, "host": "127.0.0.1", "reusePort": true}})];
    let mut master = servers(node, &specs).start();
    // Its listening socket never goes through the master: the shim tells.
    master.wait_ready(2);
    wait_until("both listening", common::BOOT, || {
        (master.events("listening").len() == 2).then_some(())
    });
    assert_eq!(master.events("error"), Vec::<Value>::new());
    assert!(
        master.status().listeners.is_empty(),
        "reusePort is none of the master's"
    );
    assert_eq!(Addr::port(port).get("/").status, 200);
    master.stop();
}

on_every_node!(
    http_on_port_0,
    tls_session_resumes_on_another_worker,
    http2_net_and_udp,
    unix_path_and_abstract_name,
    several_ports_and_ipv6_only,
    listen_again_after_close,
    errors_of_bind_are_the_apps_own,
    eacces_is_the_apps_own,
    same_options_twice_in_one_worker,
    exclusive_binds_in_the_worker,
    reuse_port_binds_in_the_worker,
);
