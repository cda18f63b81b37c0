//! Promise: a Unix path works as with Node's own primary: its modes, its length, and what is there already.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::common::{Addr, BOOT, Launch, Master, Node, list, on_every_node, wait_until};
use crate::deploys::reload;
use crate::root_paths::{Ground, give};

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

/// How often the log has this event.
fn told(master: &Master, event: &str) -> usize {
    master.log().matches(&format!("event=\"{event}\"")).count()
}

fn answers(path: &Path) -> Option<()> {
    let addr = Addr::Unix(path.to_owned());
    addr.try_request("GET", "/").ok().map(drop)
}

#[test]
fn a_path_that_somebody_removed_is_put_back() {
    let launch = Launch::new("listens.js").workers(1);
    let asked = launch.dir.path().join("asked.sock");
    let declared = launch.dir.path().join("declared.sock");
    let listen = serde_json::json!({ "path": asked }).to_string();
    let bind = format!("unix:{}", declared.display());
    let mut master = launch
        .env("LISTEN", listen)
        .options(["-b", &bind, "--ready", "online"])
        .start();
    master.wait_ready(1);
    wait_until("the socket", BOOT, || answers(&asked));
    for path in [&asked, &declared] {
        let inode = fs::metadata(path).expect("a socket").ino();
        fs::remove_file(path).expect("removed");
        let found = wait_until("the path", BOOT, || fs::metadata(path).ok());
        assert_eq!(found.ino(), inode);
    }
    assert_eq!(answers(&asked), Some(()));
    wait_until("both lines", BOOT, || {
        (told(&master, "socket_path_restored") == 2).then_some(())
    });
    // The next program looks after it too.
    assert!(master.command(&["upgrade"]).status.success());
    fs::remove_file(&asked).expect("removed");
    wait_until("the path", BOOT, || answers(&asked));
    master.stop();
    assert!(!asked.exists() && !declared.exists(), "left behind");
}

#[test]
fn what_takes_the_place_of_a_path_is_told_and_left_alone() {
    let launch = Launch::new("listens.js").workers(1);
    let folder = launch.dir.path().join("run");
    fs::create_dir(&folder).expect("a folder");
    let path = folder.join("app.sock");
    let listen = serde_json::json!({ "path": path }).to_string();
    let mut master = launch.env("LISTEN", listen).start();
    master.wait_ready(1);
    let link = folder.join("link");
    std::os::unix::fs::symlink("/nowhere", &link).expect("a link");
    fs::rename(&link, &path).expect("replaced");
    wait_until("the line", BOOT, || {
        (told(&master, "socket_path_replaced") == 1).then_some(())
    });
    assert!(path.is_symlink());
    fs::remove_file(&path).expect("removed");
    wait_until("the path", BOOT, || answers(&path));
    // Without its folder, and its second name in that, it cannot be put back.
    let away = folder.with_file_name("away");
    fs::rename(&folder, &away).expect("renamed");
    wait_until("the line", BOOT, || {
        (told(&master, "socket_path_lost") == 1).then_some(())
    });
    fs::rename(&away, &folder).expect("renamed");
    assert_eq!(answers(&path), Some(()));
    master.stop();
}

#[test]
fn a_path_is_not_put_back_in_a_folder_of_roots() {
    let Some(ground) = Ground::new() else { return };
    let run = ground.app.join("run");
    fs::create_dir(&run).expect("a folder");
    give(&run);
    let listen = serde_json::json!({ "path": run.join("app.sock") }).to_string();
    let mut master = ground.launch("listens.js").env("LISTEN", listen).start();
    master.wait_ready(1);
    // Its second name is in a folder of root's, and a link of the app's leads there.
    let spare = ".app.sock.rcluster";
    fs::hard_link(run.join(spare), ground.secret.join(spare)).expect("a second name");
    let link = ground.app.join("link");
    std::os::unix::fs::symlink(&ground.secret, &link).expect("a link");
    give(&link);
    renameat2(
        AT_FDCWD,
        &link,
        AT_FDCWD,
        &run,
        RenameFlags::RENAME_EXCHANGE,
    )
    .expect("swapped");
    wait_until("the line", BOOT, || {
        (told(&master, "socket_path_lost") == 1).then_some(())
    });
    assert_eq!(list(&ground.secret), [spare]);
    master.stop();
}
