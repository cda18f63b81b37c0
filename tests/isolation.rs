//! Promise: a worker has nothing of what its master was started with that it does not need: no terminal to type into, no
//! privilege, no key ring; and what it does get is what plain node would have got.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::common::{self, BOOT, Launch, Node, tool, wait_until};
use serde_json::{Value, json};

/// rcluster with a worker that types into its terminal; `None` without Python.
fn typing(launch: Launch) -> Option<(Launch, std::path::PathBuf)> {
    // One that other users may run, too.
    let system = std::path::PathBuf::from("/usr/bin/python3");
    let python = if system.exists() {
        system
    } else {
        tool("python3")?
    };
    let go = launch.dir.path().join("go");
    let launch = launch.workers(1).under([
        python.to_str().expect("UTF-8"),
        common::app("terminal.py").to_str().expect("UTF-8"),
        go.to_str().expect("UTF-8"),
    ]);
    Some((launch, go))
}

#[test]
fn a_worker_cannot_type_into_the_terminal_of_its_master() {
    if !common::can_be_somebody_else() {
        return;
    }
    // As another user's worker, and as a worker of the terminal's owner, who may open it by its name.
    let of_root = Launch::new("typist.py").options(["--user", "nobody", "--cwd", "/"]);
    let of_owner = Launch::new("typist.py").uid(65534);
    for launch in [of_root, of_owner] {
        let Some((launch, go)) = typing(launch) else {
            common::skip("no python3 to make a pseudo-terminal with");
            return;
        };
        let mut master = launch.start();
        let attempts = master.wait_events("attempts", 1).remove(0);
        assert_eq!(attempts["isatty"], true, "{attempts}");
        let results = attempts["results"].as_object().expect("results");
        assert_eq!(results.len(), 4, "{results:?}");
        for (way, result) in results {
            assert_ne!(result, "typed", "{way}: {results:?}");
        }
        // No terminal of its own: not even the name of one.
        assert_eq!(results["/dev/tty"], "ENXIO", "{results:?}");
        fs::write(go, "").expect("the sign to type Ctrl-C");
        assert_eq!(master.wait_exit().code(), Some(0), "{}", master.out());
        assert!(
            !master.out().contains("typed-by-the-worker"),
            "the terminal shows what the worker typed: {}",
            master.out()
        );
        master.finish();
    }
}

#[test]
fn a_worker_of_another_user_cannot_read_the_terminal_of_its_master() {
    if !common::can_be_somebody_else() {
        return;
    }
    let seen = |launch: Launch| {
        let (launch, go) = typing(launch)?;
        let mut master = launch.start();
        let rights = master.wait_events("rights", 1).remove(0);
        fs::write(go, "").expect("the sign to type Ctrl-C");
        assert_eq!(master.wait_exit().code(), Some(0), "{}", master.out());
        master.finish();
        assert_eq!(rights["is"], json!([true, true]), "{rights}");
        Some(rights)
    };
    // The control: a worker of the same user has what plain node would have.
    let Some(same) = seen(Launch::new("terminal_rights.js")) else {
        common::skip("no python3 to make a pseudo-terminal with");
        return;
    };
    assert_eq!(same["read"], json!(["can read", "can read"]), "{same}");
    let other = Launch::new("terminal_rights.js").options(["--user", "nobody", "--cwd", "/"]);
    let other = seen(other).expect("as before");
    assert_eq!(other["read"], json!(["EBADF", "EBADF"]), "{other}");
    assert_eq!(other["reopen"], json!(["EACCES", "EACCES"]), "{other}");
}

#[test]
fn a_worker_of_another_user_can_neither_empty_nor_overwrite_its_masters_log() {
    if !common::can_be_somebody_else() {
        return;
    }
    let launch = Launch::new("truncates.js").workers(1);
    let mut master = launch.options(["--user", "nobody", "--cwd", "/"]).start();
    let attempts = master.wait_events("attempts", 1).remove(0);
    for (way, result) in attempts["ways"].as_object().expect("results") {
        // A pipe can be opened anew, and stands between the worker and the file.
        let harmless = way.starts_with("open") && result == "done";
        assert!(harmless || result != "done", "{way}: {attempts}");
    }
    master.wait_ready(1);
    wait_until("what it printed", BOOT, || {
        master.log().contains("to stderr").then_some(())
    });
    master.stop();
    let log = master.log();
    assert!(log.contains("rcluster starts"), "{log}");
    assert!(!log.contains("forged"), "{log}");
}

#[test]
fn lines_go_to_the_beginning_of_a_log_that_was_emptied() {
    let mut master = Launch::new("http.js").workers(1).start();
    master.wait_ready(1);
    // As `copytruncate` of logrotate does.
    let path = master.dir.path().join("log");
    let log = fs::OpenOptions::new().write(true).open(path);
    log.and_then(|log| log.set_len(0)).expect("emptied");
    master.stop();
    let log = master.log();
    assert!(log.contains("rcluster stopped"), "{log}");
    assert!(!log.contains('\0'), "{log:?}");
}

#[test]
fn a_worker_of_another_user_has_no_key_of_its_masters() {
    if !common::can_be_somebody_else() {
        return;
    }
    let Some(python) = tool("python3") else {
        common::skip("no python3 to ask for keys with");
        return;
    };
    let keys = common::app("keys.py");
    let under = || {
        Launch::new("keys.py").workers(1).under([
            python.to_str().expect("UTF-8"),
            keys.to_str().expect("UTF-8"),
        ])
    };
    let found = |launch: Launch| {
        let mut master = launch.start();
        let key = master.wait_events("key", 1).remove(0);
        master.stop();
        key["found"].as_str().expect("a text").to_owned()
    };
    let possible = Command::new(&python).arg(&keys).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        common::skip("the kernel has no keys here");
        return;
    }
    // The control: a worker of the same user has what plain node would have.
    assert_eq!(found(under()), "the-secret");
    let other = found(under().options(["--user", "nobody", "--cwd", "/"]));
    assert_ne!(other, "the-secret");
}

/// What tests/apps/inherits.py says when it runs as a worker of a master that this shell command starts, and when the
/// command starts it itself.
#[track_caller]
fn inherited(shell: &str) -> (Value, Value) {
    // A shell ignores signals in what it runs in the background, and cannot take that back.
    let script = format!("{shell} exec env --default-signal \"$@\"");
    let mut master = Launch::new("inherits.py")
        .workers(1)
        .under(["sh", "-c", &script, "sh"])
        .start();
    let of_worker = master.wait_events("inherited", 1).remove(0);
    master.stop();
    let plain = Command::new("sh")
        .args(["-c", &script, "sh", "python3", "-S", "-E", "-s"])
        .arg(common::app("inherits.py"))
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&plain.stdout).into_owned();
    let plain = text
        .lines()
        .find_map(|line| serde_json::from_str(line).ok());
    (of_worker, plain.unwrap_or_else(|| panic!("{text}")))
}

#[test]
fn a_worker_inherits_umask_and_limits_as_plain_node_does() {
    for shell in [
        "umask 0; ulimit -S -n 512; ulimit -c 0;",
        "umask 077; ulimit -S -n 300;",
    ] {
        let (of_worker, plain) = inherited(shell);
        for what in ["umask", "limits", "blocked", "ignored"] {
            assert_eq!(of_worker[what], plain[what], "{what} after {shell}");
        }
        for own in ["session", "group"] {
            assert_eq!(of_worker[own], true, "{own}: {of_worker}");
        }
    }
}

#[test]
fn no_descriptor_that_a_parent_left_open_reaches_a_worker() {
    let (of_worker, plain) = inherited("exec 7</dev/null 9>/dev/null;");
    let has = |value: &Value, number: u64| {
        let all = value["descriptors"].as_array().expect("a list");
        all.contains(&number.into())
    };
    assert!(has(&plain, 7) && has(&plain, 9), "the control: {plain}");
    assert!(!has(&of_worker, 7) && !has(&of_worker, 9), "{of_worker}");
}

#[test]
fn a_core_file_of_a_worker_is_limited() {
    let mut master = Launch::new("inherits.py")
        .workers(1)
        .options(["--core-limit", "1MiB"])
        .start();
    let seen = master.wait_events("inherited", 1).remove(0);
    let limit = 1 << 20;
    assert_eq!(
        seen["limits"]["RLIMIT_CORE"],
        serde_json::json!([limit, limit])
    );
    master.stop();
}

#[test]
fn files_of_the_master_and_sockets_of_the_app_have_their_own_modes() {
    // The same app, alone and with rcluster, under an open umask.
    let launch = Launch::new("http.js").node(Node::V20).workers(1);
    let pidfile = launch.dir.path().join("master.pid");
    let socket = launch.dir.path().join("app.sock");
    let app = launch.dir.path().join("app.js");
    let code = "require('http').createServer((q, a) => a.end()).listen(process.env.AT, () => console.log('listens'))";
    fs::write(&app, code).expect("written");
    let mode = |path: &std::path::Path| {
        let meta = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        meta.permissions().mode() & 0o777
    };
    let node = launch.node_path().to_owned();
    let plain = launch.dir.path().join("plain.sock");
    let mut alone = Command::new("sh")
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .arg(node)
        .arg(&app)
        .env("AT", &plain)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut said = String::new();
    let mut out = std::io::BufReader::new(alone.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut said).expect("it says something");
    let plain = mode(&plain);
    alone.kill().expect("ours");
    alone.wait().expect("ours");

    let mut master = Launch::new(&app)
        .node(Node::V20)
        .workers(1)
        .option("--pidfile")
        .option(&pidfile)
        .option("--cwd")
        .option(launch.dir.path())
        .env("AT", &socket)
        .under(["sh", "-c", "umask 0; exec \"$@\"", "sh"])
        .start();
    master.wait_ready(1);
    assert_eq!(mode(&socket), plain);
    assert_eq!(mode(&pidfile) & 0o022, 0, "others can write it");
    master.stop();
}
