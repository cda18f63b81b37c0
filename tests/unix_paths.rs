//! Promise: a Unix path works as with Node's own primary: its modes, its length, and what is there already.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::common::{Addr, Launch, Node, list, on_every_node};
use crate::deploys::reload;

fn modes_are_those_that_the_app_asks_for(node: Node) {
    for (options, all) in [
        (serde_json::json!({}), 0),
        (serde_json::json!({ "readableAll": true }), 0o444),
        (serde_json::json!({ "writableAll": true }), 0o222),
        (
            serde_json::json!({ "readableAll": true, "writableAll": true }),
            0o666,
        ),
    ] {
        let launch = Launch::new("listens.js").node(node).workers(2);
        let path = launch.dir.path().join("app.sock");
        let mut listen = options.clone();
        listen["path"] = path.to_string_lossy().into();
        let mut master = launch.env("LISTEN", listen.to_string()).start();
        master.wait_ready(2);
        let mode = fs::metadata(&path).expect("the socket").mode();
        assert_eq!(mode & all, all, "{options}: {mode:o}");
        // Whatever the umask, nobody else may write who was not let.
        assert_eq!(mode & 0o002, all & 0o002, "{options}: {mode:o}");
        master.stop();
    }
}

on_every_node!(modes_are_those_that_the_app_asks_for);

/// A folder whose path is longer than a socket address.
fn deep(below: &Path) -> PathBuf {
    let folder = below.join("x".repeat(60)).join("y".repeat(60));
    fs::create_dir_all(&folder).expect("folders");
    folder
}

fn a_path_that_is_too_long_only_when_absolute_works(node: Node) {
    let launch = Launch::new("listens.js").node(node).workers(2);
    let folder = deep(launch.dir.path());
    let mut master = launch
        .env("LISTEN", r#"{"path":"app.sock"}"#)
        .option("--cwd")
        .option(&folder)
        .start();
    master.wait_ready(2);
    let open = File::open(&folder).expect("the folder");
    let short = format!("/proc/self/fd/{}/app.sock", open.as_raw_fd());
    let addr = Addr::Unix(short.into());
    master.each_answers_http(&addr);
    reload(&master);
    master.each_answers_http(&addr);
    master.stop();
    assert_eq!(list(&folder), [""; 0], "left behind");
}

on_every_node!(a_path_that_is_too_long_only_when_absolute_works);

/// A listener whose queue is full, and what fills it.
fn full(path: &Path) -> (Socket, Vec<Socket>) {
    let address = SockAddr::unix(path).expect("an address");
    let stream = || Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let listener = stream();
    listener.bind(&address).expect("bound");
    listener.listen(1).expect("listens");
    let mut waiting = vec![];
    loop {
        let client = stream();
        client.set_nonblocking(true).expect("non-blocking");
        if client.connect(&address).is_err() {
            return (listener, waiting);
        }
        waiting.push(client);
    }
}

#[test]
fn a_path_whose_owner_accepts_nobody_is_in_use_and_blocks_nothing() {
    let launch = Launch::new("unwell.js").workers(1);
    let path = launch.dir.path().join("full.sock");
    let _full = full(&path);
    let mut master = launch.env("OTHER", &path).start();
    master.wait_ready(1);
    let code = master.addr().get("/path").json()["code"].clone();
    assert_eq!(code, "EADDRINUSE");
    master.wait_ready(1);
    master.stop();
    assert!(path.exists(), "it is its owner's");
    // The same where an option says it.
    let bind = format!("unix:{}", path.display());
    let ended = Launch::new("unwell.js").options(["-b", &bind]).run();
    assert_eq!(ended.code, Some(5), "{ended:?}");
}

#[test]
fn a_full_socket_at_the_control_path_is_in_use() {
    let launch = Launch::new("unwell.js").workers(1);
    let _full = full(&launch.control);
    let control = launch.control.clone();
    let mut master = launch.start();
    assert_eq!(master.wait_exit().code(), Some(2), "{}", master.log());
    assert!(control.exists(), "it is its owner's");
    master.forget();
}
