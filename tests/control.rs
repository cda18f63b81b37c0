//! Promise: the control socket is for its owner alone, is never in the way of a start, and shows what is.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{
    self, Addr, BOOT, Conn, Launch, Node, fd_count, is_root, kill, list, wait_until,
};
use nix::sys::signal::Signal::SIGKILL;

/// nobody, on every Linux.
const NOBODY: u32 = 65534;

fn quick() -> Launch {
    Launch::new("good.py").workers(2)
}

fn rcluster(words: &[&str], runtime: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rcluster"));
    command
        .args(words)
        .stdin(Stdio::null())
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("RCLUSTER_NAME")
        .env_remove("RCLUSTER_CONTROL");
    if let Some(runtime) = runtime {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    command.output().expect("rcluster runs")
}

/// The same where no other test's master is listed: the kernel lists Unix sockets by network namespace.
fn alone(words: &[&str], runtime: &Path) -> Output {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-current-user");
    }
    command
        .args(["--net", "--", env!("CARGO_BIN_EXE_rcluster")])
        .args(words)
        .stdin(Stdio::null())
        .env_remove("RCLUSTER_NAME")
        .env_remove("RCLUSTER_CONTROL")
        .env("XDG_RUNTIME_DIR", runtime);
    command.output().expect("unshare runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn modes_of_folder_and_socket() {
    let launch = quick();
    let folder = launch.dir.path().join("runtime");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("own folder");
    // The folder under XDG_RUNTIME_DIR is made by rcluster, whatever the umask allows.
    let socket = folder.join("rcluster/shop.sock");
    let mut master = launch
        .without_control()
        .control(&socket)
        .env("XDG_RUNTIME_DIR", &folder)
        .options(["--name", "shop"])
        .start();
    master.wait_ready(2);
    assert_eq!(
        fs::metadata(folder.join("rcluster")).expect("made").mode() & 0o777,
        0o700
    );
    let made = fs::symlink_metadata(&socket).expect("made");
    assert!(made.file_type().is_socket());
    assert_eq!(made.mode() & 0o777, 0o600);
    assert_eq!(master.status().name, "shop");
    master.stop();
    assert!(!socket.exists());
    assert_eq!(list(&folder.join("rcluster")), Vec::<String>::new());
}

#[test]
fn another_user_is_refused() {
    if !is_root() {
        common::skip("not root: no second user to try with");
        return;
    }
    let mut master = quick().start();
    master.wait_ready(2);
    // Even with the file modes opened by hand, the peer's uid is checked.
    fs::set_permissions(master.dir.path(), Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(
        master.control.parent().expect("a folder"),
        Permissions::from_mode(0o755),
    )
    .expect("chmod");
    fs::set_permissions(&master.control, Permissions::from_mode(0o666)).expect("chmod");
    let stolen = Command::new("python3")
        .args(["-c", "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(20)\ns.connect(sys.argv[1])\ntry:\n s.sendall(b'POST /v1/stop HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n')\n print('answer', s.recv(65536))\nexcept (BrokenPipeError, ConnectionResetError):\n print('answer', b'')"])
        .arg(&master.control)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("python3 runs");
    let answer = text(&stolen.stdout);
    assert!(answer.starts_with("answer"), "{stolen:?}");
    assert!(answer.contains("b''") || answer.contains("403"), "{answer}");
    assert_eq!(master.status().state, "serving");
    let refused = Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(["status", "--control"])
        .arg(&master.control)
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    // Where the test build itself is not readable for nobody there is no such command to run.
    if let Ok(refused) = refused {
        assert!(!refused.status.success(), "{refused:?}");
    }
    fs::set_permissions(
        master.control.parent().expect("a folder"),
        Permissions::from_mode(0o700),
    )
    .expect("chmod");
    master.stop();
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    for mode in [0o777, 0o770, 0o702] {
        let launch = quick();
        fs::set_permissions(
            launch.control.parent().expect("a folder"),
            Permissions::from_mode(mode),
        )
        .expect("chmod");
        let ended = launch.run();
        assert_eq!(ended.code, Some(2), "{mode:o}: {ended:?}");
    }
}

#[test]
fn a_symlinked_or_foreign_folder_is_refused() {
    let launch = quick();
    // The folder that nobody named must be the user's own: in /tmp anybody may have made it before.
    let link = launch.dir.path().join("rcluster");
    std::os::unix::fs::symlink(launch.control.parent().expect("a folder"), &link).expect("a link");
    let linked = quick()
        .without_control()
        .env("XDG_RUNTIME_DIR", launch.dir.path())
        .run();
    assert_eq!(linked.code, Some(2), "linked: {linked:?}");
    assert!(linked.log.contains("symbolic link"), "{}", linked.log);
    let foreign = launch.dir.path().join("foreign");
    fs::create_dir(&foreign).expect("a folder");
    fs::set_permissions(&foreign, Permissions::from_mode(0o700)).expect("chmod");
    if is_root() {
        std::os::unix::fs::chown(&foreign, Some(NOBODY), Some(NOBODY)).expect("chown");
        let ended = launch.control(foreign.join("c.sock")).run();
        assert_eq!(ended.code, Some(2), "foreign: {ended:?}");
    } else {
        common::skip("not root: no folder of another user");
    }
}

#[test]
fn a_double_start_exits_and_the_first_never_notices() {
    let mut first = quick().start();
    let before = first.wait_ready(2);
    let fds = fd_count(first.pid());
    let ended = quick().control(&first.control).run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(
        ended.log.trim_end().lines().count(),
        1,
        "one line: {}",
        ended.log
    );
    assert!(
        ended.log.contains(&first.pid().to_string()) || ended.log.contains("running"),
        "{}",
        ended.log
    );
    let after = first.wait_ready(2);
    assert_eq!([before[0].id, before[1].id], [after[0].id, after[1].id]);
    wait_until("the same number of descriptors", BOOT, || {
        (fd_count(first.pid()) <= fds).then_some(())
    });
    first.stop();
}

#[test]
fn a_stale_socket_is_taken_over() {
    let mut first = quick().options(["--drain-timeout", "1s"]).start();
    first.wait_ready(2);
    first.kill_master();
    assert!(first.control.exists(), "a killed master cannot clean up");
    let mut second = quick().control(&first.control).start();
    second.wait_ready(2);
    assert_ne!(second.status().pid, first.pid());
    second.stop();
    first.wait_no_process();
    first.forget();
}

#[test]
fn a_regular_file_in_the_way_is_kept() {
    let launch = quick();
    let path = launch.control.clone();
    fs::write(&path, "precious").expect("a file");
    let mut master = launch.start();
    let code = master.wait_exit().code();
    assert_eq!(code, Some(2), "{}", master.log());
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    fs::remove_file(&path).expect("ours");
    master.finish();
}

#[test]
fn a_socket_that_somebody_listens_on_is_kept() {
    let launch = quick();
    let path = launch.control.clone();
    let listener = UnixListener::bind(&path).expect("a listener");
    let mut master = launch.start();
    assert_eq!(master.wait_exit().code(), Some(2), "{}", master.log());
    assert!(path.exists());
    drop(listener);
    fs::remove_file(&path).expect("ours");
    master.finish();
}

#[test]
fn status_has_every_promised_field() {
    let mut master = quick().options(["--name", "shop"]).start();
    let ready = master.wait_ready(2);
    let status = master.status();
    assert_eq!(
        (
            status.version,
            status.name.as_str(),
            status.pid,
            status.state.as_str()
        ),
        (1, "shop", master.pid(), "serving")
    );
    assert_eq!(
        ready
            .iter()
            .map(|worker| (worker.slot, worker.restarts, worker.generation))
            .collect::<Vec<_>>(),
        [(0, 0, status.generation), (1, 0, status.generation)]
    );
    assert_ne!(ready[0].id, ready[1].id);
    assert!(
        status.addresses()[0].starts_with("127.0.0.1:"),
        "{:?}",
        status.addresses()
    );
    let json = master.command(&["status", "--json"]);
    assert!(json.status.success(), "{json:?}");
    let shown: common::Status = serde_json::from_slice(&json.stdout).expect("the same JSON");
    assert_eq!(
        (shown.name, shown.pid, shown.workers.len()),
        ("shop".to_owned(), master.pid(), 2)
    );
    let table = master.command(&["status"]);
    assert!(table.status.success(), "{table:?}");
    let table = text(&table.stdout);
    for worker in &ready {
        assert!(table.contains(&worker.process().to_string()), "{table}");
    }
    for word in ["shop", "ready", &status.addresses()[0]] {
        assert!(table.contains(word), "{word} is missing:\n{table}");
    }
    master.stop();
}

#[test]
fn the_states_of_a_worker_as_status_names_them() {
    let mut master = Launch::new("stubborn.py")
        .options(["--drain-timeout", "1s", "--kill-timeout", "1s", "-w", "1"])
        .start();
    let known = [
        "starting", "booting", "held", "ready", "draining", "stopping", "killing",
    ];
    let mut seen = Vec::new();
    master.wait_ready(1);
    master.signal(nix::sys::signal::Signal::SIGTERM);
    wait_until("the end", common::LONG, || {
        if let Some(status) = master.try_status() {
            seen.extend(status.workers.into_iter().map(|worker| worker.state));
        }
        master.has_ended().then_some(())
    });
    seen.dedup();
    assert!(
        seen.iter().all(|state| known.contains(&state.as_str())),
        "{seen:?}"
    );
    for state in ["draining", "stopping"] {
        assert!(
            seen.iter().any(|seen| seen == state),
            "{state} was not seen in {seen:?}"
        );
    }
    let order: Vec<_> = seen
        .iter()
        .map(|state| known.iter().position(|known| known == state))
        .collect();
    assert!(order.is_sorted(), "states moved left: {seen:?}");
    assert_eq!(master.wait_exit().code(), Some(6));
    master.finish();
}

#[test]
fn stop_waits_until_it_is_over() {
    let mut master = quick().start();
    let ready = master.wait_ready(2);
    let stop = master.command(&["stop"]);
    assert!(stop.status.success(), "{stop:?}");
    assert!(
        ready
            .iter()
            .all(|worker| !common::running(worker.process())),
        "stop came back too early"
    );
    assert!(!master.control.exists(), "stop came back before the end");
    assert_eq!(master.wait_exit().code(), Some(0));
    master.finish();
    let none = master.command(&["status"]);
    assert_eq!(none.status.code(), Some(13), "{none:?}");
    assert_eq!(text(&none.stderr).trim_end().lines().count(), 1, "{none:?}");
    let none = master.command(&["stop"]);
    assert_eq!(none.status.code(), Some(13), "{none:?}");
}

#[test]
fn stop_tells_that_workers_had_to_be_killed() {
    let launch =
        Launch::new("stubborn.py").options(["--drain-timeout", "300ms", "--kill-timeout", "300ms"]);
    let mut master = launch.start();
    wait_until("ready", BOOT, || {
        master
            .try_status()
            .filter(|status| !status.ready().is_empty())
    });
    master.command(&["stop"]);
    assert_eq!(master.wait_exit().code(), Some(6));
    master.finish();
}

#[test]
fn one_master_is_meant_and_several_are_listed() {
    let dir = common::scratch();
    let named = |name: &str| {
        let socket = dir.path().join(format!("rcluster/{name}.sock"));
        let launch = quick()
            .without_control()
            .control(socket)
            .env("XDG_RUNTIME_DIR", dir.path());
        let master = launch.options(["--name", name]).start();
        master.wait_ready(2);
        master
    };
    let none = alone(&["status"], dir.path());
    assert_eq!(none.status.code(), Some(13), "{none:?}");

    let mut shop = named("shop");
    let one = alone(&["status"], dir.path());
    assert!(
        one.status.success() && text(&one.stdout).contains("shop"),
        "{one:?}"
    );

    let mut blog = named("blog");
    let several = alone(&["status"], dir.path());
    let said = format!("{}{}", text(&several.stdout), text(&several.stderr));
    assert!(
        said.contains("shop") && said.contains("blog"),
        "both are listed: {said}"
    );
    let told = alone(&["stop"], dir.path());
    assert_eq!(told.status.code(), Some(2), "which one? {told:?}");
    assert_eq!(
        (shop.status().state, blog.status().state),
        ("serving".to_owned(), "serving".to_owned())
    );

    let blog_only = alone(&["status", "--name", "blog", "--json"], dir.path());
    let shown: common::Status = serde_json::from_slice(&blog_only.stdout).expect("JSON");
    assert_eq!(shown.pid, blog.pid());
    let told = alone(&["stop", "--name", "blog"], dir.path());
    assert!(told.status.success(), "{told:?}");
    assert_eq!(blog.wait_exit().code(), Some(0));
    blog.finish();
    assert_eq!(shop.status().state, "serving");
    shop.stop();
    let unknown = alone(&["status", "--name", "shop"], dir.path());
    assert_eq!(unknown.status.code(), Some(13), "{unknown:?}");
}

#[test]
fn commands_find_a_master_wherever_its_control_path_is() {
    // As that of a unit: in a folder of its own, below no default folder; and with a file name that is not its name.
    let name = format!("elsewhere-{}", std::process::id());
    let mut master = quick().options(["--name", &name]).start();
    master.wait_ready(2);
    assert!(!text(master.control.as_os_str().as_encoded_bytes()).contains(&name));
    let empty = common::scratch();
    let shown = rcluster(&["status", "--json", "--name", &name], Some(empty.path()));
    let shown: common::Status =
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"));
    assert_eq!(shown.pid, master.pid());
    let reload = rcluster(&["reload", "--name", &name], Some(empty.path()));
    assert_eq!(reload.status.code(), Some(0), "{reload:?}");
    let listed = rcluster(&["ls", "--json"], Some(empty.path()));
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert!(listed.iter().any(|found| found["name"] == name.as_str()));
    master.stop();
    let gone = rcluster(&["status", "--name", &name], Some(empty.path()));
    assert_eq!(gone.status.code(), Some(13), "{gone:?}");
}

#[test]
fn a_stale_socket_does_not_count_as_a_master() {
    let dir = common::scratch();
    let socket = |name: &str| dir.path().join(format!("rcluster/{name}.sock"));
    let start = |name: &str| {
        let launch = quick()
            .without_control()
            .control(socket(name))
            .env("XDG_RUNTIME_DIR", dir.path());
        let master = launch
            .options(["--name", name, "--drain-timeout", "1s"])
            .start();
        master.wait_ready(2);
        master
    };
    let mut dead = start("dead");
    dead.kill_master();
    dead.wait_no_process();
    dead.forget();
    let mut alive = start("alive");
    let one = alone(&["status", "--json"], dir.path());
    let shown: common::Status =
        serde_json::from_slice(&one.stdout).unwrap_or_else(|error| panic!("{error}: {one:?}"));
    assert_eq!(shown.name, "alive");
    alive.stop();
}

#[test]
fn garbage_and_idle_clients_do_no_harm() {
    let mut master = Launch::new("http.js").node(Node::V20).workers(1).start();
    master.wait_ready(1);
    let control = Addr::Unix(master.control.clone());
    let fds = fd_count(master.pid());
    let idle: Vec<Conn> = (0..100).filter_map(|_| Conn::open(&control).ok()).collect();
    for raw in [
        "\0\u{1}\u{2}garbage\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /v1/status HTTP/1.1\r\n\r\n",
        "BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut conn = Conn::open(&control).expect("connected");
        conn.send(raw).expect("sent");
        let answer = conn.read();
        assert!(
            answer.is_err()
                || answer
                    .as_ref()
                    .is_ok_and(|answer| (200..500).contains(&answer.status)),
            "{raw:?}: {answer:?}"
        );
    }
    let long = format!(
        "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "y".repeat(2 << 20)
    );
    if let Ok(mut conn) = Conn::open(&control) {
        let _ = conn.send(&long);
    }
    assert_eq!(control.get("/nothing/here").status, 404);
    assert_eq!(
        control
            .try_request("DELETE", "/v1/status")
            .expect("an answer")
            .status,
        405
    );
    assert_eq!(
        control
            .try_request("GET", "/v1/stop")
            .expect("an answer")
            .status,
        405,
        "a GET must change nothing"
    );
    drop(idle);
    assert_eq!(master.status().state, "serving");
    wait_until("the same number of descriptors", BOOT, || {
        (fd_count(master.pid()) <= fds).then_some(())
    });
    master.stop();
}

#[test]
fn secrets_stay_out_of_status_and_log() {
    let canary = "canary-4711-do-not-tell";
    let launch = Launch::new("good.py")
        .workers(1)
        .env("DATABASE_PASSWORD", canary)
        .arg(format!("--token={canary}"));
    let mut master = launch.options(["--log-level", "trace"]).start();
    let ready = master.wait_ready(1);
    kill(ready[0].process(), SIGKILL);
    master.wait_replaced(&ready[0]);
    let status = Addr::Unix(master.control.clone()).get("/v1/status").body;
    assert!(!status.contains(canary), "{status}");
    master.stop();
    assert!(!master.log().contains(canary), "{}", master.log());
}
