//! Promise: apps run as they are. Each answers on all workers, survives `kill -9` of one, and stops with exit code 0.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{
    self, Launch, Master, Node, app, kill, module, node_script, on_two_nodes, pid_in,
};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

/// The proof for one app; `ask` gives the pid of the worker that answered on a port.
#[track_caller]
fn prove(launch: Launch, ask: impl Fn(u16) -> i32) {
    let mut master = launch.workers(2).start();
    let before = master.wait_ready(2);
    let port = master.addr().tcp_port();
    master.each_answers(|| ask(port));
    kill(before[0].process(), SIGKILL);
    master.wait_replaced(&before[0]);
    master.wait_ready(2);
    assert_eq!(master.addr().tcp_port(), port);
    master.each_answers(|| ask(port));
    master.stop();
    assert!(
        !master.out().contains(r#""event":"primary""#),
        "the app took its primary branch"
    );
}

fn over_http(port: u16) -> i32 {
    pid_in(&common::Addr::port(port).get("/").json())
}

fn over(node: Node, kind: &'static str) -> impl Fn(u16) -> i32 {
    move |port| pid_in(&node_script(node, "client.js", &[kind, &port.to_string()]))
}

fn express_5(node: Node) {
    prove(Launch::new("express.js").node(node), over_http);
}

fn fastify_5(node: Node) {
    prove(Launch::new("fastify.js").node(node), over_http);
}

fn koa(node: Node) {
    prove(Launch::new("koa.js").node(node), over_http);
}

fn hapi(node: Node) {
    prove(Launch::new("hapi.js").node(node), over_http);
}

fn commonjs_http(node: Node) {
    prove(Launch::new("http.js").node(node), over_http);
}

fn ws(node: Node) {
    prove(Launch::new("ws.js").node(node), over(node, "ws"));
}

fn socket_io(node: Node) {
    prove(
        Launch::new("socketio.js").node(node),
        over(node, "socketio"),
    );
}

fn http2_and_https(node: Node) {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    for kind in ["http2", "https"] {
        let launch = Launch::new("servers.js").node(node);
        fs::write(launch.dir.path().join("cert.pem"), made.cert.pem()).expect("cert.pem");
        fs::write(
            launch.dir.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )
        .expect("key.pem");
        let dir = launch.dir.path().to_owned();
        let launch = launch
            .env("TLS_DIR", dir)
            .arg(json!({"kind": kind, "listen": {"port": 0}}).to_string());
        prove(launch, over(node, kind));
    }
}

fn an_es_module_with_top_level_await(node: Node) {
    prove(Launch::new("esm.mjs").node(node), over_http);
}

fn typescript_by_tsx(node: Node) {
    // As a user writes it: the loader is found from the working directory.
    let tsx = module("tsx/dist/loader.mjs");
    let launch = Launch::new("typescript.ts").node(node).cwd(app(""));
    prove(
        launch.options([
            "--node-arg",
            "--import",
            "--node-arg",
            tsx.to_str().expect("UTF-8"),
        ]),
        over_http,
    );
    let launch = Launch::new("typescript.ts").node(node).cwd(app(""));
    prove(
        launch.options(["--node-arg", "--import", "--node-arg", "tsx"]),
        over_http,
    );
}

fn an_app_with_its_own_primary_branch(node: Node) {
    prove(Launch::new("primary.js").node(node), over_http);
}

fn an_app_that_forks_and_starts_threads(node: Node) {
    prove(Launch::new("forks.js").node(node), over_http);
}

on_two_nodes!(
    express_5,
    fastify_5,
    koa,
    hapi,
    commonjs_http,
    ws,
    socket_io,
    http2_and_https,
    an_es_module_with_top_level_await,
    typescript_by_tsx,
    an_app_with_its_own_primary_branch,
    an_app_that_forks_and_starts_threads,
    what_the_app_sees_is_what_plain_node_shows,
    children_of_the_app_find_nothing_of_ours,
    started_through_a_symlink,
    a_relative_script_and_a_working_directory,
);

#[test]
fn typescript_by_nodes_own_stripping() {
    prove(Launch::new("typescript.ts").node(Node::V24), over_http);
}

/// Compares field by field: a difference is named, not searched for.
#[track_caller]
fn check_same(seen: &Value, expected: &Value) {
    let expected = expected.as_object().expect("an object");
    for (field, expected) in expected {
        if field != "env" {
            assert_eq!(&seen[field], expected, "{field}");
        }
    }
    let more = |one: &Value, other: &Value| -> Vec<Value> {
        let other = other["env"].as_array().cloned().unwrap_or_default();
        let one = one["env"].as_array().cloned().unwrap_or_default();
        one.into_iter()
            .filter(|name| !other.contains(name))
            .collect()
    };
    let expected = Value::Object(expected.clone());
    assert_eq!(
        more(seen, &expected),
        Vec::<Value>::new(),
        "variables that only the worker has"
    );
    assert_eq!(
        more(&expected, seen),
        Vec::<Value>::new(),
        "variables that the worker lacks"
    );
}

/// What the app prints under plain node, with the same words.
#[track_caller]
fn plain(
    node: Node,
    node_args: &[&str],
    script: &std::path::Path,
    args: &[&str],
    cwd: &std::path::Path,
    mark: &str,
) -> Value {
    let mut command = Command::new(node.binary());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RCLUSTER_") || text.starts_with("NODE_") || text.starts_with("npm_") {
            command.env_remove(&name);
        }
    }
    for name in [
        "WEB_CONCURRENCY",
        "XDG_RUNTIME_DIR",
        "NOTIFY_SOCKET",
        "PORT",
        "HOST",
    ] {
        command.env_remove(name);
    }
    let output = command
        .args(node_args)
        .arg(script)
        .args(args)
        .current_dir(cwd)
        .env("ONCE", "1")
        .env("TEST_RUN", mark)
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// `ONCE` is the only word that plain node gets and a worker does not.
fn without_once(mut seen: Value) -> Value {
    if let Some(env) = seen["env"].as_array_mut() {
        env.retain(|name| name != "ONCE");
    }
    seen
}

#[track_caller]
fn seen_by_worker(master: &Master) -> Value {
    let seen = master.wait_events("self", 2);
    assert_eq!(seen[0], seen[1], "the workers differ");
    seen[0].clone()
}

fn what_the_app_sees_is_what_plain_node_shows(node: Node) {
    let args = [
        "--port",
        "80",
        "--",
        "-w",
        "x y",
        "",
        "--help",
        "--version",
        "ü",
    ];
    let mut launch = Launch::new("self.js")
        .node(node)
        .workers(2)
        .options(["--node-arg", "--max-old-space-size=300"]);
    for arg in args {
        launch = launch.arg(arg);
    }
    let cwd = launch.dir.path().to_owned();
    let mut master = launch.cwd(&cwd).start();
    master.wait_ready(2);
    let expected = plain(
        node,
        &["--max-old-space-size=300"],
        &app("self.js"),
        &args,
        &cwd,
        "x",
    );
    check_same(&seen_by_worker(&master), &without_once(expected));
    master.stop();
}

fn started_through_a_symlink(node: Node) {
    let dir = common::scratch();
    let folder = dir.path().join("current");
    std::os::unix::fs::symlink(app(""), &folder).expect("a link to the folder");
    let file = dir.path().join("start.js");
    std::os::unix::fs::symlink(app("self.js"), &file).expect("a link to the file");
    for script in [folder.join("self.js"), file] {
        let mut master = Launch::new(&script).node(node).workers(2).start();
        master.wait_ready(2);
        let expected = plain(node, &[], &script, &[], std::path::Path::new("."), "x");
        check_same(&seen_by_worker(&master), &without_once(expected));
        master.stop();
    }
}

fn a_relative_script_and_a_working_directory(node: Node) {
    // The script stands relative to --cwd, as after `cd`.
    let parent = app("").parent().expect("tests").to_owned();
    let mut master = Launch::bare()
        .node(node)
        .workers(2)
        .options(["--cwd", parent.to_str().expect("UTF-8"), "apps/self.js"])
        .start();
    master.wait_ready(2);
    let seen = seen_by_worker(&master);
    let expected = without_once(plain(
        node,
        &[],
        std::path::Path::new("apps/self.js"),
        &[],
        &parent,
        "x",
    ));
    for field in ["cwd", "main", "filename", "dirname", "argv", "mainFile"] {
        assert_eq!(seen[field], expected[field], "{field}");
    }
    master.stop();
}

fn children_of_the_app_find_nothing_of_ours(node: Node) {
    let mut master = Launch::new("forks.js").node(node).workers(1).start();
    master.wait_ready(1);
    let mut found = master.addr().get("/children").json();
    let mut expected = plain(
        node,
        &[],
        &app("forks.js"),
        &[],
        std::path::Path::new("."),
        "x",
    );
    for kind in ["fork", "thread", "exec"] {
        let env = found[kind]["env"].as_array_mut().expect("names");
        env.retain(|name| {
            !["NODE_APP_INSTANCE", "RCLUSTER_SLOT"].contains(&name.as_str().unwrap_or("?"))
        });
    }
    for value in [&mut found, &mut expected] {
        value["pid"] = json!(0);
    }
    for kind in ["fork", "thread", "exec"] {
        check_same(&found[kind], &expected[kind]);
    }
    master.stop();
}
