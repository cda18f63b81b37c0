//! Promise: what the machine takes away does not end the master: a terminal that is closed is a graceful stop, and without IPv6 it
//! binds as plain Node does.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{self, Addr, Launch, running, skip, tool};

fn http(workers: u32) -> Launch {
    Launch::new("http.js").workers(workers)
}

#[test]
fn a_terminal_that_is_closed_is_a_graceful_stop() {
    let Some(python) = tool("python3") else {
        skip("no python3 to make a pseudo-terminal with");
        return;
    };
    let launch = http(2);
    let go = launch.dir.path().join("go");
    let mut master = launch
        .under([
            python.to_str().expect("UTF-8"),
            common::app("terminal.py").to_str().expect("UTF-8"),
            go.to_str().expect("UTF-8"),
        ])
        .start();
    let ready = master.wait_ready(2);
    fs::write(&go, "close").expect("the sign to close it");
    // Not 128 + SIGHUP: the signal did not have its default action.
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    assert!(ready.iter().all(|worker| !running(worker.process())));
    master.finish();
}

/// A library that takes IPv6 away from whoever loads it.
fn no_ipv6(folder: &Path) -> Option<std::path::PathBuf> {
    let (source, library) = (folder.join("no6.c"), folder.join("no6.so"));
    let code = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <sys/socket.h>\n\
        int socket(int domain, int type, int protocol) {\n\
        if (domain == AF_INET6) { errno = EAFNOSUPPORT; return -1; }\n\
        return ((int (*)(int, int, int))dlsym(RTLD_NEXT, \"socket\"))(domain, type, protocol); }\n";
    fs::write(&source, code).expect("written");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    let done = compiled.is_ok_and(|status| status.success());
    if !done {
        skip("no C compiler to take IPv6 away with");
    }
    done.then_some(library)
}

#[test]
fn without_ipv6_it_binds_as_plain_node_does() {
    let dir = common::scratch();
    let Some(library) = no_ipv6(dir.path()) else {
        return;
    };
    let shown = |preload: Option<&Path>, bind: bool| {
        let port = Addr::free_port();
        let mut launch = http(1).env("PORT", port.to_string());
        if let Some(library) = preload {
            launch = launch.env("LD_PRELOAD", library);
        }
        if bind {
            launch = launch.options(["-b", &format!(":{port}")]);
        }
        let mut master = launch.start();
        master.wait_ready(1);
        let addresses = master.status().addresses();
        assert_eq!(Addr::port(port).get("/").status, 200);
        master.stop();
        addresses.concat().replace(&port.to_string(), "PORT")
    };
    for bind in [false, true] {
        assert_eq!(shown(Some(&library), bind), "0.0.0.0:PORT", "{bind}");
        // The control.
        assert_eq!(shown(None, bind), "[::]:PORT", "{bind}");
    }
}
