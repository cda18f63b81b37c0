//! Promise: who asks for a stream and reads nothing of it costs the master bounded memory and nobody else anything.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::{Addr, LONG, Launch, kill, rss_kib, wait_until};
use nix::sys::signal::Signal::SIGKILL;
use nix::sys::socket::{MsgFlags, recv};

/// Readers.
const COUNT: usize = 8;
/// A queue that did not grow for so long is full: a status document comes every 200 ms.
const STILL: Duration = Duration::from_secs(2);

/// Bytes that wait to be read.
fn waiting(reader: &UnixStream) -> usize {
    let mut buffer = vec![0; 1 << 20];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(reader.as_raw_fd(), &mut buffer, flags).unwrap_or(0)
}

#[test]
fn readers_of_events_that_read_nothing_cost_bounded_memory() {
    let mut master = Launch::new("http.js").workers(2).start();
    let before = master.wait_ready(2);
    let rss = rss_kib(master.pid());
    let readers: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut reader = UnixStream::connect(&master.control).expect("connected");
            let ask = b"GET /v1/events?status_ms=200 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            reader.write_all(ask).expect("sent");
            reader
        })
        .collect();
    // The kernel takes no more of it: from here on the master would have to keep it.
    let mut last = (0, Instant::now());
    wait_until("full queues", LONG, || {
        let now: usize = readers.iter().map(waiting).sum();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > COUNT * 32 * 1024 && last.1.elapsed() > STILL).then_some(())
    });
    // What happens meanwhile is for them, too.
    for worker in &before {
        kill(worker.process(), SIGKILL);
        master.wait_replaced(worker);
    }
    master.wait_ready(2);
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    let grown = rss_kib(master.pid()).saturating_sub(rss);
    assert!(grown < 16 * 1024, "it grew by {grown} KiB");
    // The control: nobody has read anything.
    assert_eq!(readers.iter().map(waiting).sum::<usize>(), last.0);
    assert_eq!(Addr::Unix(master.control.clone()).get("/livez").status, 200);
    drop(readers);
    master.stop();
}
