//! Promise: the master's own log never stops the master. Lines that nobody takes are dropped and counted, and its last
//! words come through as soon as somebody reads.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::common::{self, LONG, Launch, Master, Node, wait_until};
use nix::sys::signal::Signal::SIGTERM;

/// A FIFO that is open, and that nobody reads.
fn unread_fifo(path: &Path) -> File {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    options.open(path).expect("the FIFO")
}

/// A master whose standard error is that FIFO.
fn start(launch: Launch, fifo: &Path) -> Master {
    let shell = format!("exec \"$0\" \"$@\" 2>{}", fifo.display());
    launch.under(["sh", "-c", &shell]).start()
}

#[test]
fn a_pipe_with_one_free_page_does_not_block_the_master() {
    let folder = common::scratch();
    let script = folder.path().join("app.js");
    // What it throws makes a line of the master's that is longer than a page. It prints nothing itself.
    fs::write(
        &script,
        "const fs = require('fs'); fs.closeSync(2); fs.openSync('/dev/null', 'w');\n\
         require('http').createServer(() => { throw new Error('x'.repeat(8000)); }).listen(0);\n",
    )
    .expect("an app");
    let path = folder.path().join("fifo");
    let mut fifo = unread_fifo(&path);
    let mut master = start(Launch::new(&script).node(Node::V20).workers(1), &path);
    let worker = master.wait_ready(1).remove(0);
    while fifo.write(&[b'x'; 4096]).is_ok() {}
    while fifo.write(b"x").is_ok() {}
    // poll(2) calls it writable from here on (pipe_poll in fs/pipe.c: a free slot).
    let mut page = [0; 4096];
    fifo.read_exact(&mut page).expect("a page");
    let _ = master.addr().try_request("GET", "/");
    // It still reaps, replaces, answers and stops.
    master.wait_replaced(&worker);
    master.stop();
}

#[test]
fn lines_that_nobody_takes_are_counted_and_the_last_words_come_through() {
    let folder = common::scratch();
    let path = folder.path().join("fifo");
    let mut fifo = unread_fifo(&path);
    let go = folder.path().join("go");
    let launch = Launch::new("hostile.py").workers(2).env("GO", &go);
    let launch = launch.options(["--log-level", "trace"]).arg("chatter");
    let mut master = start(launch, &path);
    master.wait_ready(2);
    fs::write(go, "").expect("the sign to begin");
    // Far more lines than the queue holds; the master takes them all the same.
    master.wait_events("chattered", 1);
    master.signal(SIGTERM);
    let mut seen = vec![];
    let mut buffer = vec![0; 1 << 16];
    wait_until("the end of the master", LONG, || {
        while let Ok(count @ 1..) = fifo.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
        }
        master.has_ended().then_some(())
    });
    assert_eq!(master.wait_exit().code(), Some(0));
    while let Ok(count @ 1..) = fifo.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8_lossy(&seen);
    let count = text.lines().find_map(|line| {
        let rest = line.split_once("event=\"log_lines_dropped\" lines=")?.1;
        rest.trim().parse::<u64>().ok()
    });
    assert!(count > Some(0), "{}", text.lines().count());
    // The count of what was dropped may come after them.
    let last: Vec<_> = text.lines().rev().take(2).collect();
    let told = last.iter().any(|line| line.contains("rcluster stopped"));
    assert!(told, "{last:?}");
    master.finish();
}
