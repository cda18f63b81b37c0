//! Promise: with --user the master stays root and binds, its workers are somebody else for good and get nothing of it: no
//! capability, no descriptor, no variable of the service manager's.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::common::{self, Addr, Launch, Node, kill, on_two_nodes, running, tool, wait_until};
use crate::deploys::{count, reload};
use nix::sys::signal::Signal::SIGKILL;

const NOBODY: &str = "65534";

/// An app where everybody can read it.
fn public(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = common::scratch();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("chmod");
    let path = dir.path().join(name);
    fs::copy(common::app(name), &path).expect("copied");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
    (dir, path)
}

fn workers_are_somebody_else_for_good(node: Node) {
    if !common::can_be_somebody_else() {
        return;
    }
    let (_dir, app) = public("site.js");
    // Tests of several versions run at once.
    let at = if node == Node::V20 {
        "127.0.0.81:81"
    } else {
        "127.0.0.82:81"
    };
    let mut master = Launch::new(app)
        .node(node)
        .workers(2)
        // Only root may bind that.
        .options(["--user", "nobody", "--group", NOBODY, "-b", at])
        .option("--cwd")
        .option("/")
        .start();
    master.wait_ready(2);
    for round in 0..2 {
        for worker in master.status().ready() {
            let pid = worker.process();
            let four = format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}");
            assert_eq!(common::status_field(pid, "Uid"), four);
            assert_eq!(common::status_field(pid, "Gid"), four);
            assert_eq!(common::status_field(pid, "Groups"), NOBODY);
            assert_eq!(common::status_field(pid, "NoNewPrivs"), "1");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(common::status_field(pid, set), "0000000000000000", "{set}");
            }
        }
        assert_eq!(common::status_field(master.pid(), "Uid"), "0 0 0 0");
        if round == 0 {
            reload(&master);
        }
    }
    // The control folder is closed to them (0700), yet they load the shim.
    let address = Addr::parse(at).expect("an address");
    let facts = address.get("/").json();
    assert_eq!(facts["preloaded"], true, "{facts}");
    let pid = common::pid_in(&facts);
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a command line");
    let shim = words.split('\0').find(|word| word.ends_with("shim.cjs"));
    let shim = PathBuf::from(shim.expect("the shim"));
    assert!(shim.starts_with("/run/rcluster-shim"), "{}", shim.display());
    master.stop();
    assert!(!shim.exists(), "{} is left behind", shim.display());
}

on_two_nodes!(workers_are_somebody_else_for_good);

#[test]
fn what_a_service_manager_says_is_not_for_workers() {
    let mut launch = Launch::new("site.js").workers(1).env("RCLUSTER_BAKE", "0s");
    for name in [
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "WATCHDOG_PID",
        "MAINPID",
        "FDSTORE",
    ] {
        launch = launch.env(name, "1");
    }
    let mut master = launch.start();
    master.wait_ready(1);
    let facts = master.addr().get("/").json();
    let names: BTreeSet<_> = facts["env"]
        .as_array()
        .expect("names")
        .iter()
        .filter_map(|n| n.as_str())
        .collect();
    for name in &names {
        let foreign = [
            "LISTEN_",
            "WATCHDOG_",
            "NOTIFY_",
            "MAINPID",
            "FDSTORE",
            "NODE_CHANNEL",
            "NODE_UNIQUE",
        ];
        assert!(
            !foreign.iter().any(|f| name.starts_with(f)),
            "{name} leaked"
        );
    }
    // The control: the variables arrive that are meant to.
    assert!(
        names.contains("TEST_RUN") && names.contains("NODE_APP_INSTANCE"),
        "{names:?}"
    );
    let ours: Vec<_> = names
        .iter()
        .filter(|n| n.starts_with("RCLUSTER_"))
        .collect();
    assert_eq!(ours, [&"RCLUSTER_SLOT"], "{names:?}");
    master.stop();
}

/// What each descriptor of a process is.
fn descriptors(pid: i32) -> BTreeSet<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let show = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        format!("{} {}", entry.file_name().display(), target.display())
    };
    entries.flatten().map(show).collect()
}

/// Descriptors of a process from 3 on that an exec would keep: `flags` of `/proc/PID/fdinfo` without `O_CLOEXEC` (proc(5)).
fn kept_by_exec(pid: i32) -> Vec<String> {
    let folder = format!("/proc/{pid}/fdinfo");
    let names = common::list(Path::new(&folder)).into_iter();
    let kept = names.filter(|name| {
        let text = fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
        // One that is closed meanwhile has none.
        name.parse::<u32>().is_ok_and(|n| n >= 3)
            && flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
    });
    kept.collect()
}

/// A worker in C that boots in a moment: many reloads fit into a short time.
fn stub() -> Option<Launch> {
    let launch = Launch::new("site.js").without_node();
    let (stub, source) = (launch.dir.path().join("stub"), "benches/apps/stub.c");
    let compiled = std::process::Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&stub)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .status();
    let done = compiled.is_ok_and(|status| status.success());
    let port = Addr::free_port().to_string();
    let launch = launch.option("--node").option(stub);
    done.then(|| launch.env("PORT", port).env("BENCH_READY", "/dev/null"))
}

#[test]
fn a_worker_sees_descriptors_0_to_3_only_and_the_master_keeps_none_of_a_reload() {
    let (launch, rounds) = match stub() {
        Some(launch) => (launch, count(100, 1000)),
        None => (Launch::new("good.py"), count(20, 100)),
    };
    let mut master = launch.workers(2).env("RCLUSTER_MIN_UPTIME", "0s").start();
    master.wait_ready(2);
    reload(&master);
    let own = common::fd_count(master.pid());
    for _ in 0..rounds {
        reload(&master);
        for worker in master.status().ready() {
            let numbers: Vec<_> = descriptors(worker.process())
                .iter()
                .map(|shown| shown.split(' ').next().expect("a number").to_owned())
                .collect();
            // The listener came over the channel; it is the worker's own fifth.
            assert!(
                numbers
                    .iter()
                    .all(|n| ["0", "1", "2", "3", "4"].contains(&n.as_str())),
                "{:?}",
                descriptors(worker.process())
            );
        }
        assert!(kept_by_exec(master.pid()).is_empty(), "close-on-exec");
    }
    // The control: its standard streams are inherited on purpose.
    let worker = master.status().ready()[0].process();
    assert!(kept_by_exec(worker).contains(&"3".to_owned()));
    wait_until("the master's descriptors of before", common::BOOT, || {
        (common::fd_count(master.pid()) <= own).then_some(())
    });
    master.stop();
}

#[test]
fn others_of_its_user_cannot_look_into_the_master() {
    if !common::can_be_somebody_else() {
        return;
    }
    let mut master = Launch::new("good.py").workers(1).uid(65534).start();
    let worker = master.wait_ready(1).remove(0);
    // Files of a process that cannot be dumped belong to root (proc(5)).
    let owner = |pid: i32| {
        fs::metadata(format!("/proc/{pid}/environ"))
            .expect("it lives")
            .uid()
    };
    assert_eq!(owner(master.pid()), 0);
    assert_eq!(owner(worker.process()), 65534, "the control");
    master.stop();
}

#[test]
fn the_guard_ends_workers_of_another_user() {
    if !common::can_be_somebody_else() {
        return;
    }
    let (dir, _) = public("site.js");
    let app = dir.path().join("spins.js");
    // It does not see that its channel closes.
    let code =
        "require('net').createServer().listen(0, () => setTimeout(() => { for (;;); }, 100))";
    fs::write(&app, code).expect("written");
    let mut master = Launch::new(&app)
        .workers(1)
        .options(["--user", "nobody", "--cwd", "/", "--drain-timeout", "200ms"])
        .start();
    let worker = master.wait_ready(1).remove(0).process();
    master.kill_master();
    wait_until("the end of the worker", common::BOOT, || {
        (!running(worker)).then_some(())
    });
    kill(worker, SIGKILL);
    master.forget();
}

#[test]
fn what_cannot_be_is_told() {
    if !common::can_be_somebody_else() {
        return;
    }
    let told = |launch: Launch| {
        let ended = launch.run();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        ended.log
    };
    let log = told(Launch::new("site.js").options(["--user", "no-such-user"]));
    assert!(
        log.contains("failed to find the user `no-such-user`"),
        "{log}"
    );
    let log = told(Launch::new("site.js").options(["--user", "4242"]));
    assert!(log.contains("needs --group"), "{log}");
    let log = told(Launch::new("site.js").options(["--group", "no-such-group"]));
    assert!(log.contains("failed to find the group"), "{log}");
    let log = told(
        Launch::new("site.js")
            .uid(65534)
            .options(["--user", "root"]),
    );
    assert!(log.contains("need a master that runs as root"), "{log}");
    // A file that the app could write decides nothing.
    let (dir, app) = public("site.js");
    let file = dir.path().join("rcluster.toml");
    fs::write(&file, "workers = 1\n").expect("written");
    std::os::unix::fs::chown(&file, Some(65534), None).expect("chown");
    let log = told(Launch::new(&app).options(["--user", "nobody"]));
    assert!(
        log.contains("cannot be used by root: it belongs to another user"),
        "{log}"
    );
}

#[test]
fn what_is_closed_to_the_user_is_told_before_a_worker_starts() {
    if !common::can_be_somebody_else() {
        return;
    }
    let close = |path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o700)).expect("chmod");
    };
    let told = |launch: Launch, path: &Path, kind: &str| {
        let ended = launch.option("--user").option("nobody").run();
        assert_eq!(ended.code, Some(2), "{}", ended.log);
        let closed = format!(
            "the {kind} {} is closed to user nobody (owner root, mode 0700)",
            path.display()
        );
        assert!(ended.log.contains(&closed), "{}", ended.log);
        assert!(!ended.log.contains("worker moved"), "{}", ended.log);
    };
    let at_root = |app: &Path| Launch::new(app).workers(1).options(["--cwd", "/"]);
    // A folder above the script, also where a link leads to it.
    let (dir, app) = public("site.js");
    let (links, link) = public("site.js");
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink(&app, &link).expect("a link");
    close(dir.path());
    told(at_root(&app), dir.path(), "folder");
    told(at_root(&link), dir.path(), "folder");
    drop(links);
    // The script itself.
    let (_dir, app) = public("site.js");
    close(&app);
    told(at_root(&app), &app, "file");
    // Node.
    let (_dir, app) = public("site.js");
    let (tools, _) = public("site.js");
    let node = tools.path().join("node");
    fs::write(&node, "#!/bin/sh\n").expect("written");
    close(&node);
    let launch = at_root(&app).without_node();
    told(launch.option("--node").option(&node), &node, "file");
    // A working directory that others can redirect.
    let (open, app) = public("site.js");
    let (owned, _) = public("site.js");
    let folder = owned.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    close(&folder);
    std::os::unix::fs::chown(owned.path(), Some(1), Some(1)).expect("chown");
    let launch = Launch::new(&app).workers(1);
    told(launch.option("--cwd").option(&folder), &folder, "folder");
    drop(open);
}

#[test]
fn workers_that_stay_root_are_warned_of() {
    if !common::is_root() {
        common::skip("not root: cannot become another user");
        return;
    }
    for options in [["--user", "root"], ["--user", "0"], ["--group", "0"]] {
        let mut master = Launch::new("site.js").workers(1).options(options).start();
        master.wait_ready(1);
        assert!(master.log().contains("workers_are_root"), "{options:?}");
        master.stop();
    }
    let mut master = Launch::new("site.js").workers(1).start();
    master.wait_ready(1);
    assert!(!master.log().contains("workers_are_root"));
    master.stop();
}

#[test]
fn it_runs_where_the_root_is_read_only() {
    if !common::can_be_somebody_else() || tool("unshare").is_none() {
        return;
    }
    let node = Node::V24;
    let dir = common::scratch();
    let control = dir.path().join("c.sock");
    // Everything read-only but a tmpfs for the control socket; then rcluster.
    let script = format!(
        "mount --make-rprivate / && mount -o remount,ro,bind / && mount -t tmpfs -o mode=755 tmpfs {} && ! touch /etc/x 2>/dev/null && exec \"$@\"",
        dir.path().display()
    );
    let mut master = Launch::new("site.js")
        .node(node)
        .workers(1)
        .control(&control)
        .under(["unshare", "--mount", "sh", "-c", &script, "sh"])
        .start();
    // Its socket is in a mount namespace of its own: reached through /proc.
    let there = Path::new("/proc")
        .join(master.pid().to_string())
        .join("root")
        .join(control.strip_prefix("/").expect("absolute"));
    let status = wait_until("an answer", common::BOOT, || {
        let answer = Addr::Unix(there.clone())
            .try_request("GET", "/v1/status")
            .ok()?;
        let status: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
        (status["workers"][0]["state"] == "ready").then_some(status)
    });
    let address = status["listeners"][0]["address"]
        .as_str()
        .expect("an address");
    let facts = Addr::parse(address).expect("an address").get("/").json();
    assert_eq!(facts["preloaded"], true);
    master.stop();
}
