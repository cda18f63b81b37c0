//! Servers that answer as told, right or wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rcluster_ledger::{Limit, Load, Report, Target, spawn};

/// A server whose connections are each handled in a thread.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Calls the handler with each connection and its number, from 0.
    pub(crate) fn start(handler: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let handler = Arc::new(handler);
        let thread = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let handler = Arc::clone(&handler);
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || handler(stream, number));
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    /// A load on it: one client, so many requests.
    pub(crate) fn load(&self, requests: u64) -> Load {
        load(self.address, requests)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// One client, so many requests.
pub(crate) fn load(address: SocketAddr, requests: u64) -> Load {
    Load {
        clients: 1,
        limit: Limit {
            requests: Some(requests),
            duration: None,
        },
        ..Load::new(Target::Tcp(address))
    }
}

/// Runs a load; every request has a class, and only one.
pub(crate) fn report(load: Load) -> Report {
    let requests = load.limit.requests.unwrap();
    let report = spawn(load).unwrap().join().unwrap();
    println!("{report}");
    assert_eq!(report.total, requests);
    assert_eq!(report.classes.values().sum::<u64>(), requests);
    assert_eq!(report.failures.len() as u64, requests - report.ok());
    report
}

pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn number(&self) -> u64 {
        self.id.split_once('.').unwrap().1.parse().unwrap()
    }
}

/// The next request, none at the end of the connection.
pub(crate) fn request(stream: &mut impl Read) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|v| v.trim().to_owned())
    };
    let mut body = vec![0; field("content-length:").map_or(0, |n| n.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(Request {
        id: field("x-id:").unwrap(),
        body,
    })
}

/// The right answer, with these header lines added.
pub(crate) fn answer(request: &Request, headers: &str) -> Vec<u8> {
    let Request { id, body } = request;
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nx-id: {id}\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn send(stream: &mut impl Write, bytes: &[u8]) {
    // The client may be gone: what it makes of it is in its report.
    drop(stream.write_all(bytes));
}

/// Closes with a RST.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// Waits until the client closes.
pub(crate) fn hold(mut stream: TcpStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
}

/// A server that answers right, with these header lines, as long as the client stays.
pub(crate) fn steady(headers: &'static str) -> Server {
    Server::start(move |mut stream, _| {
        while let Some(request) = request(&mut stream) {
            send(&mut stream, &answer(&request, headers));
        }
    })
}
