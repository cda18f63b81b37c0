//! Promise: the paths of a root master's options do not let the app's user write, read or run anything as root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal::{SIGKILL, SIGUSR1};

use crate::common::{self, BOOT, Ended, Launch, Node, kill, list, skip, wait_until};
use crate::root_paths::{Ground, give, owner};

const NOBODY: u32 = 65534;

/// What the app's user does in a shell.
#[track_caller]
fn as_nobody(script: &str, arguments: &[&Path]) {
    let status = Command::new("sh")
        .args(["-e", "-c", script, "sh"])
        .args(arguments)
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .expect("a shell");
    assert!(status.success(), "nobody may do that: {script}");
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A request that makes prints.js print a line.
fn printing(word: &str) -> String {
    let hex = data_encoding::HEXLOWER.encode(format!("{word}\n").as_bytes());
    format!("/?stream=stdout&hex={hex}")
}

/// It does not even start, and says which path is not safe.
#[track_caller]
fn refused(ended: &Ended, path: &Path) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let shown = path.display().to_string();
    assert!(ended.log.contains(&shown), "{} lacks {shown}", ended.log);
}

#[test]
fn log_files_are_not_opened_anew_where_the_app_leads() {
    let Some(ground) = Ground::new() else { return };
    let (logs, moved) = (ground.app.join("logs"), ground.app.join("moved"));
    as_nobody("mkdir \"$1\"", &[&logs]);
    let mut master = ground
        .launch("prints.js")
        .option("--log-file")
        .option(logs.join("app.log"))
        .start();
    master.wait_ready(1);
    let print = |word: &str| {
        assert_eq!(master.addr().get(&printing(word)).status, 200);
    };
    print("before");
    wait_until("a line", BOOT, || {
        text(&logs.join("app.log")).contains("before").then_some(())
    });
    assert_eq!(owner(&logs.join("app.log")), NOBODY);
    as_nobody(
        "mv \"$1\" \"$2\"; ln -s \"$3\" \"$1\"",
        &[&logs, &moved, &ground.secret],
    );
    master.signal(SIGUSR1);
    // The file that was open stays.
    wait_until("a line after it", BOOT, || {
        print("after");
        let refused = master.log().contains("app.log");
        let went_on = text(&moved.join("app.log")).contains("after");
        assert_eq!(list(&ground.secret), [""; 0], "{}", master.log());
        (refused && went_on).then_some(())
    });
    master.stop();
    assert_eq!(list(&ground.secret), [""; 0]);
}

#[test]
fn log_files_in_folders_of_root_are_roots() {
    let Some(ground) = Ground::new() else { return };
    let log = ground.secret.join("app.log");
    let mut master = ground
        .launch("prints.js")
        .option("--log-file")
        .option(&log)
        .start();
    master.wait_ready(1);
    assert_eq!(owner(&log), 0);
    master.stop();
    // Without another user for the workers there are no rights but root's.
    let path = ground.app.join("app.log");
    let ended = Launch::new("prints.js").option("--log-file").option(&path);
    refused(&ended.run(), &path);
    assert!(!path.exists());
}

#[test]
fn a_pid_file_overwrites_nothing_where_the_app_leads() {
    let Some(ground) = Ground::new() else { return };
    let (victim, link) = (ground.secret.join("passwd"), ground.app.join("x.pid"));
    fs::write(&victim, "root's").expect("written");
    let run = |path: &Path| {
        let launch = ground.launch("site.js");
        launch.option("--pidfile").option(path).run()
    };
    as_nobody("ln -s \"$1\" \"$2\"", &[&victim, &link]);
    refused(&run(&link), &link);
    // The same in a folder such as /tmp.
    let shared = ground.dir.path().join("shared");
    fs::create_dir(&shared).expect("a folder");
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).expect("chmod");
    let link = shared.join("x.pid");
    as_nobody("ln -s \"$1\" \"$2\"", &[&victim, &link]);
    refused(&run(&link), &link);
    assert_eq!(text(&victim), "root's");
    // The control: there root's own is fine, and goes.
    let own = shared.join("own.pid");
    let launch = ground.launch("site.js").option("--pidfile").option(&own);
    let mut master = launch.start();
    master.wait_ready(1);
    assert_eq!(text(&own).trim(), master.pid().to_string());
    master.stop();
    assert!(!own.exists());
}

#[test]
fn an_environment_file_tells_workers_nothing_that_they_may_not_read() {
    let Some(ground) = Ground::new() else { return };
    let (secret, link) = (ground.secret.join("env"), ground.app.join("app.env"));
    fs::write(&secret, "PASSWORD=root\n").expect("written");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("chmod");
    let run = |path: &Path| {
        let launch = ground.launch("site.js");
        launch.option("--env-file").option(path)
    };
    as_nobody("ln -s \"$1\" \"$2\"", &[&secret, &link]);
    refused(&run(&link).run(), &link);
    // The control: where root alone leads, root may give its own away.
    let mut master = run(&secret).start();
    master.wait_ready(1);
    let env = master.addr().get("/").json()["env"].clone();
    let names = env.as_array().expect("names").iter();
    assert!(names.filter_map(|n| n.as_str()).any(|n| n == "PASSWORD"));
    master.stop();
}

#[test]
fn a_token_is_not_read_where_the_app_leads() {
    let Some(ground) = Ground::new() else { return };
    let token = ground.app.join("token");
    fs::write(&token, "x".repeat(32)).expect("written");
    fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("chmod");
    let launch = ground.launch("site.js").options(["--admin", "127.0.0.1:0"]);
    let ended = launch.option("--admin-token-file").option(&token).run();
    refused(&ended, &token);
}

#[test]
fn a_configuration_is_not_read_where_the_app_leads() {
    let Some(ground) = Ground::new() else { return };
    // The folder is root's, but nobody can put another one in its place.
    let folder = ground.app.join("conf");
    fs::create_dir(&folder).expect("a folder");
    let file = folder.join("rcluster.toml");
    fs::write(&file, "workers = 1\n").expect("written");
    let ended = ground.launch("site.js").option("--config").option(&file);
    refused(&ended.run(), &file);
    // Root did not name this one: whoever owns it waited for root to come.
    let file = ground.app.join("rcluster.toml");
    fs::write(&file, "workers = 1\n").expect("written");
    give(&file);
    let script = ground.app.join("site.js");
    fs::copy(common::app("site.js"), &script).expect("copied");
    refused(&Launch::new(&script).run(), &file);
}

#[test]
fn the_doctor_runs_nobodys_program_as_root() {
    let Some(ground) = Ground::new() else { return };
    let (node, proof) = (ground.app.join("node"), ground.app.join("proof"));
    let program = format!("#!/bin/sh\nid -u > {}\necho v24.0.0\n", proof.display());
    fs::write(&node, program).expect("written");
    fs::set_permissions(&node, Permissions::from_mode(0o755)).expect("chmod");
    let file = ground.app.join("rcluster.toml");
    fs::write(&file, format!("node = {node:?}\n")).expect("written");
    for path in [&node, &file] {
        give(path);
    }
    let doctor = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .arg("doctor")
            .args(words)
            .current_dir(&ground.app)
            .output()
            .expect("it runs");
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (code, said) = doctor(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("rcluster.toml"), "{said}");
    let path = node.to_str().expect("UTF-8");
    fs::remove_file(&file).expect("removed");
    doctor(&["--node", path]);
    assert!(!proof.exists(), "run by uid {}", text(&proof));
    // The control: the workers' user may run its own.
    doctor(&["--node", path, "--user", "nobody"]);
    assert_eq!(text(&proof).trim(), NOBODY.to_string());
}

#[test]
fn an_upgrade_runs_no_binary_that_the_app_can_replace() {
    let Some(ground) = Ground::new() else { return };
    let binary = ground.app.join("rcluster");
    fs::copy(env!("CARGO_BIN_EXE_rcluster"), &binary).expect("copied");
    fs::set_permissions(&binary, Permissions::from_mode(0o755)).expect("chmod");
    let mut master = ground.launch("site.js").start();
    master.wait_ready(1);
    let path = binary.to_str().expect("UTF-8");
    let said = master.command(&["upgrade", "--binary", path]);
    assert!(!said.status.success(), "{said:?}");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(text.contains("root does not run"), "{text}");
    // The control: the one that runs is root's.
    assert!(master.command(&["upgrade"]).status.success());
    master.stop();
}

#[test]
fn a_control_folder_that_the_app_can_replace_is_refused() {
    let Some(ground) = Ground::new() else { return };
    let folder = ground.app.join("ctl");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("chmod");
    let launch = ground.launch("site.js").control(folder.join("c.sock"));
    refused(&launch.run(), &ground.app);
}

#[test]
fn root_does_not_use_the_runtime_folder_of_another_user() {
    let Some(ground) = Ground::new() else { return };
    let name = format!("runtime-{}", std::process::id());
    let control = Path::new("/run/rcluster").join(format!("{name}.sock"));
    let mut master = ground
        .launch("site.js")
        .without_control()
        .control(&control)
        .options(["--name", &name])
        .env("XDG_RUNTIME_DIR", &ground.app)
        .start();
    master.wait_ready(1);
    assert_eq!(list(&ground.app), [""; 0]);
    master.stop();
}

#[test]
fn an_option_may_name_what_is_open_already() {
    if !common::is_root() {
        skip("only root is held to this");
        return;
    }
    let mut master = Launch::new("prints.js")
        .node(Node::V24)
        .workers(1)
        .options(["--log-file", "/dev/stdout"])
        .start();
    master.wait_ready(1);
    assert_eq!(master.addr().get(&printing("here")).status, 200);
    wait_until("a line", BOOT, || {
        master.out().contains("here").then_some(())
    });
    master.stop();
}

#[test]
fn a_working_directory_that_the_app_redirects_is_entered_as_its_user() {
    let Some(ground) = Ground::new() else { return };
    let start = |cwd: &Path| {
        Launch::new(ground.app_file("http.js"))
            .workers(1)
            .options(["--user", "nobody"])
            .option("--cwd")
            .option(cwd)
    };
    let closed = ground.dir.path().join("closed");
    let inner = closed.join("inner");
    fs::create_dir_all(&inner).expect("folders");
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("chmod");
    // The operator stands in a closed folder: nobody can redirect it.
    let mut master = start(&inner).start();
    master.wait_ready(1);
    master.stop();
    // The same folder through a link of the app's.
    let link = ground.app.join("link");
    as_nobody("ln -s \"$1\" \"$2\"", &[&inner, &link]);
    let ended = start(&link).run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    // It is redirected when its release was looked at already, and the folder of that is gone.
    as_nobody(
        "mkdir \"$1\"; ln -sfn \"$1\" \"$2\"",
        &[&ground.app.join("open"), &link],
    );
    let mut master = start(&link).start();
    let worker = master.wait_ready(1).remove(0);
    as_nobody("rmdir \"$1\"", &[&ground.app.join("open")]);
    as_nobody("ln -sfn \"$1\" \"$2\"", &[&inner, &link]);
    kill(worker.process(), SIGKILL);
    wait_until("a replacement that fails to start", BOOT, || {
        let said = "failed to change to its working directory";
        master.log().contains(said).then_some(())
    });
    master.stop();
}
