//! Promise: a control socket that somebody removes is made again, and a master removes no file of another one.

use std::fs;

use nix::sys::signal::Signal::SIGTERM;

use crate::common::{Addr, BOOT, Launch, Master, Stopped, list, wait_until};

/// What answers on the control socket: its master's process.
fn answering(master: &Master) -> Option<i64> {
    let control = Addr::Unix(master.control.clone());
    let answer = control.try_request("GET", "/v1/status").ok()?;
    answer.json()["pid"].as_i64()
}

fn lock(master: &Master) -> std::path::PathBuf {
    master.control.with_extension("lock")
}

/// Waits until the control socket and its lock are there again, and answer.
#[track_caller]
fn wait_restored(master: &Master) {
    wait_until("the control socket", BOOT, || {
        let there = lock(master).exists() && answering(master) == Some(master.pid().into());
        there.then_some(())
    });
}

#[test]
fn a_control_socket_that_is_deleted_is_made_again() {
    let mut master = Launch::new("good.py").workers(1).start();
    master.wait_ready(1);
    for files in [
        vec![master.control.clone()],
        vec![lock(&master)],
        vec![master.control.clone(), lock(&master)],
    ] {
        for file in &files {
            fs::remove_file(file).expect("it was there");
        }
        wait_restored(&master);
    }
    let mode = fs::metadata(&master.control).expect("the socket");
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The next program looks after it too.
    assert!(master.command(&["upgrade"]).status.success());
    fs::remove_file(&master.control).expect("it was there");
    wait_restored(&master);
    master.stop();
}

#[test]
fn a_master_whose_control_files_were_deleted_leaves_those_of_the_next_alone() {
    let mut first = Launch::new("good.py").workers(1).start();
    first.wait_ready(1);
    let stopped = Stopped::new(&[first.pid()]);
    let folder = first.control.parent().expect("a folder");
    for name in list(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("removed");
        } else {
            fs::remove_file(path).expect("removed");
        }
    }
    let second = Launch::new("good.py").workers(1).control(&first.control);
    let mut second = second.start();
    second.wait_ready(1);
    drop(stopped);
    wait_until("word of it", BOOT, || {
        first.log().contains("control_socket_lost").then_some(())
    });
    first.signal(SIGTERM);
    assert_eq!(first.wait_exit().code(), Some(0), "{}", first.log());
    first.forget();
    assert_eq!(answering(&second), Some(second.pid().into()));
    assert!(lock(&second).exists() && second.control.with_extension("guard").exists());
    let third = Launch::new("good.py").control(&second.control).run();
    assert_eq!(third.code, Some(2), "{third:?}");
    second.signal(SIGTERM);
    assert_eq!(second.wait_exit().code(), Some(0), "{}", second.log());
    second.forget();
    assert_eq!(list(second.control.parent().expect("a folder")), [""; 0]);
}
