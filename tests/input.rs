//! Promise: bad input is answered by one line that says what to do, and by its exit code.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use crate::common::{self, Ended, Launch, app, is_root};

/// What a user sees: exit code and standard error.
fn shown(ended: &Ended) -> String {
    let code = ended
        .code
        .map_or_else(|| "killed by a signal".to_owned(), |code| code.to_string());
    format!("exit code {code}\n{}{}", ended.log, ended.out)
}

/// Snapshots `ended` with everything that differs between runs and machines taken out.
macro_rules! shows {
    ($ended:expr, @$expected:literal) => {{
        let ended = $ended;
        insta::with_settings!({filters => vec![
            (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "[time]"),
            (r"/tmp/rc-\w+", "[scratch]"),
            (concat!(env!("CARGO_MANIFEST_DIR")), "[repo]"),
            (r"\[repo\]/tests/node_modules/[\w-]+/bin/node", "[node]"),
            (r"bind 127\.0\.0\.1:\d{4,5}\b", "bind 127.0.0.1:[port]"),
            (r"\bport \d{4,5}\b", "port [port]"),
            (r"\bpid \d+", "pid [pid]"),
            (r"all-[0-9a-f]+", "[test binary]"),
        ]}, { insta::assert_snapshot!(shown(&ended), @$expected) });
        let lines = ended.log.trim_end().lines().count();
        assert!(lines <= 1 || ended.code == Some(2) && ended.log.contains("Usage:") || ended.log.contains("For more information"), "more than one line: {}", ended.log);
    }};
}

/// A port that this process holds.
fn taken() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

#[test]
fn no_script_named() {
    shows!(Launch::bare().run(), @r#"
exit code 2
rcluster: no script given: rcluster [OPTIONS] SCRIPT [ARGS]... (see rcluster --help)
"#);
}

#[test]
fn missing_script() {
    shows!(Launch::new("nowhere.js").run(), @r#"
exit code 2
rcluster: failed to read the script [repo]/tests/apps/nowhere.js: no such file or folder
"#);
}

#[test]
fn script_is_a_folder() {
    shows!(Launch::new("").run(), @r#"
exit code 2
rcluster: failed to read the script [repo]/tests/apps: it is a folder; name the file that node should run
"#);
}

#[test]
fn script_is_not_readable() {
    if is_root() && !common::can_be_somebody_else() {
        return;
    }
    let launch = Launch::bare();
    let script = launch.dir.path().join("secret.js");
    fs::write(&script, "").expect("a file");
    fs::set_permissions(&script, Permissions::from_mode(0o000)).expect("chmod");
    let launch = launch.option(&script);
    shows!(if is_root() { launch.uid(65534) } else { launch }.run(), @r#"
exit code 2
rcluster: failed to read the script [scratch]/secret.js: permission denied
"#);
}

#[test]
fn no_node_in_the_path() {
    shows!(Launch::new("http.js").without_node().env("PATH", "/nowhere").run(), @r#"
exit code 2
rcluster: failed to find node in PATH: install Node.js, or name its binary with --node
"#);
}

#[test]
fn node_is_missing() {
    shows!(Launch::new("http.js").without_node().options(["--node", "/nowhere/node"]).run(), @r#"
exit code 2
rcluster: failed to run node at /nowhere/node: no such file or folder
"#);
}

#[test]
fn node_is_not_executable() {
    let launch = Launch::new("http.js").without_node();
    let node = launch.dir.path().join("node");
    fs::write(&node, "").expect("a file");
    shows!(launch.option("--node").option(node).run(), @r#"
exit code 2
rcluster: failed to run node at [scratch]/node: not executable (chmod +x)
"#);
}

#[test]
fn no_workers() {
    shows!(Launch::new("http.js").options(["-w", "0"]).run(), @r#"
exit code 2
rcluster: failed to read the number of workers: `0` is neither a number from 1 to 1024 nor `auto`
"#);
}

#[test]
fn workers_that_are_no_number() {
    shows!(Launch::new("http.js").options(["-w", "x"]).run(), @r#"
exit code 2
rcluster: failed to read the number of workers: `x` is neither a number from 1 to 1024 nor `auto`
"#);
}

#[test]
fn workers_in_the_environment_that_are_no_number() {
    shows!(Launch::new("http.js").env("WEB_CONCURRENCY", "many").run(), @r#"
exit code 2
rcluster: failed to read the number of workers from WEB_CONCURRENCY: `many` is neither a number from 1 to 1024 nor `auto`
"#);
}

#[test]
fn port_in_use() {
    let (_held, address) = taken();
    shows!(Launch::new("http.js").options(["-b", &address]).run(), @r#"
exit code 5
rcluster: failed to bind 127.0.0.1:[port]: address already in use (by [test binary] (pid [pid]))
"#);
}

#[test]
fn port_below_1024_without_the_right() {
    let start =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if start.trim() != "1024" {
        common::skip("ip_unprivileged_port_start is not 1024, no port is forbidden");
        return;
    }
    if is_root() && !common::can_be_somebody_else() {
        return;
    }
    let launch = Launch::new("http.js").options(["-b", "127.0.0.1:82"]);
    shows!(if is_root() { launch.uid(65534) } else { launch }.run(), @r#"
exit code 5
rcluster: failed to bind 127.0.0.1:82: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE: run as root, or setcap cap_net_bind_service=+ep on the rcluster binary)
"#);
}

#[test]
fn address_that_is_not_ours() {
    shows!(Launch::new("http.js").options(["-b", "192.0.2.1:8000"]).run(), @r#"
exit code 5
rcluster: failed to bind 192.0.2.1:8000: the address is not of this machine
"#);
}

#[test]
fn address_that_is_none() {
    shows!(Launch::new("http.js").options(["-b", "localhost"]).run(), @r#"
exit code 2
rcluster: failed to read the address `localhost`: `localhost` is no port from 0 to 65535; write HOST:PORT, :PORT, [::1]:PORT, udp:HOST:PORT, unix:PATH, or fd://N and fd://NAME for a socket that is handed to rcluster
"#);
}

#[test]
fn port_that_is_none() {
    shows!(Launch::new("http.js").options(["-b", "127.0.0.1:70000"]).run(), @r#"
exit code 2
rcluster: failed to read the address `127.0.0.1:70000`: `70000` is no port from 0 to 65535; write HOST:PORT, :PORT, [::1]:PORT, udp:HOST:PORT, unix:PATH, or fd://N and fd://NAME for a socket that is handed to rcluster
"#);
}

#[test]
fn unix_path_that_is_too_long() {
    shows!(Launch::new("http.js").options(["-b", &format!("unix:/tmp/{}", "x".repeat(120))]).run(), @r#"
exit code 5
rcluster: failed to bind unix:/tmp/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx: file name too long (a socket path has at most 107 bytes)
"#);
}

#[test]
fn unix_path_that_is_a_regular_file() {
    let dir = common::scratch();
    let path = dir.path().join("file");
    fs::write(&path, "precious").expect("a file");
    shows!(Launch::new("http.js").options(["-b", &format!("unix:{}", path.display())]).run(), @r#"
exit code 5
rcluster: failed to bind unix:[scratch]/file: address already in use (the path is not a socket; it is left alone)
"#);
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
}

#[test]
fn unix_path_that_somebody_listens_on() {
    let dir = common::scratch();
    let path = dir.path().join("app.sock");
    let _held = UnixListener::bind(&path).expect("a listener");
    shows!(Launch::new("http.js").options(["-b", &format!("unix:{}", path.display())]).run(), @r#"
exit code 5
rcluster: failed to bind unix:[scratch]/app.sock: address already in use (a process listens there)
"#);
    assert!(
        std::os::unix::net::UnixStream::connect(&path).is_ok(),
        "its socket was taken away"
    );
}

#[test]
fn control_folder_that_others_can_write() {
    let launch = Launch::new("http.js");
    fs::set_permissions(
        launch.control.parent().expect("a folder"),
        Permissions::from_mode(0o777),
    )
    .expect("chmod");
    shows!(launch.run(), @r#"
exit code 2
rcluster: the control folder [scratch]/ctl is not safe: others can write to it; use a folder that only you can write to (chmod 700)
"#);
}

#[test]
fn control_path_that_is_too_long() {
    let launch = Launch::new("http.js");
    let path = launch.control.with_file_name("c".repeat(110));
    shows!(launch.control(path).run(), @r#"
exit code 2
rcluster: the control path [scratch]/ctl/cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc is too long: a socket path has at most 107 bytes
"#);
}

#[test]
fn unknown_option() {
    shows!(Launch::bare().options(["--wokers", "4"]).option(app("http.js")).run(), @r#"
exit code 2
rcluster: unexpected argument '--wokers' found; tip: a similar argument exists: '--workers'; tip: to pass '--wokers' as a value, use '-- --wokers' (see rcluster --help)
"#);
}

#[test]
fn unknown_stop_signal() {
    shows!(Launch::new("http.js").options(["--stop-signal", "SIGNAL"]).run(), @r#"
exit code 2
rcluster: failed to read the stop signal: `SIGNAL` is no signal; write TERM, INT or the like
"#);
}

#[test]
fn duration_in_no_known_unit() {
    shows!(Launch::new("http.js").options(["--drain-timeout", "5 parsecs"]).run(), @r#"
exit code 2
rcluster: invalid value '5 parsecs' for '--drain-timeout <DUR>': invalid duration `5 parsecs`: write whole numbers with d, h, m, s or ms, the largest unit first, as in 250ms, 5s or 1m30s; a plain number is seconds (see rcluster --help)
"#);
}

#[test]
fn ready_by_nothing_known() {
    shows!(Launch::new("http.js").options(["--ready", "soon"]).run(), @r#"
exit code 2
rcluster: invalid value 'soon' for '--ready <READY>'; [possible values: listening, message, online] (see rcluster --help)
"#);
}

#[test]
fn working_directory_that_is_missing() {
    shows!(Launch::new("http.js").options(["--cwd", "/nowhere"]).run(), @r#"
exit code 2
rcluster: failed to use the working directory /nowhere: No such file or directory (os error 2)
"#);
}

#[test]
fn name_with_a_slash() {
    shows!(Launch::new("http.js").options(["--name", "../up"]).run(), @r#"
exit code 2
rcluster: failed to use the name `../up`: it becomes a file name; use letters, digits, `.`, `-` and `_`
"#);
}

#[test]
fn pidfile_in_a_folder_that_is_missing() {
    shows!(Launch::new("http.js").options(["--pidfile", "/nowhere/rcluster.pid"]).run(), @r#"
exit code 2
rcluster: failed to write the pid file /nowhere/rcluster.pid: No such file or directory (os error 2)
"#);
}

#[test]
fn second_start_under_the_same_name() {
    let mut first = Launch::new("good.py")
        .workers(1)
        .options(["--name", "shop"])
        .start();
    first.wait_ready(1);
    shows!(Launch::new("good.py").options(["--name", "shop"]).control(&first.control).run(), @r#"
exit code 2
rcluster: another rcluster already runs as `shop` (pid [pid]); stop it with `rcluster stop --control [scratch]/ctl/c.sock`, or give this one another --name
"#);
    first.stop();
}
