//! Each class over HTTP/1.1, by a server that gives cause for it.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcluster_ledger::{Class, Load, Mode, Target};

use super::broken::{Server, answer, hold, load, report, request, reset, send, steady};

/// A server that does this with each connection after it has read one request. The load's requests must all be of the class.
fn all(
    class: Class,
    requests: u64,
    end: impl Fn(TcpStream, super::broken::Request) + Send + Sync + 'static,
) {
    let server = Server::start(move |mut stream, _| {
        if let Some(request) = request(&mut stream) {
            end(stream, request);
        }
    });
    for latency in [0, 5] {
        let report = report(Load {
            latency: Duration::from_millis(latency),
            request_timeout: Duration::from_millis(if class == Class::NeverAnswered {
                300
            } else {
                10_000
            }),
            ..server.load(requests)
        });
        assert_eq!(
            report.classes,
            BTreeMap::from([(class, requests)]),
            "latency {latency}"
        );
    }
}

#[test]
fn a_steady_server_loses_nothing() {
    let server = steady("");
    for (mode, class) in [(Mode::KeepAlive, Class::Ok), (Mode::Short, Class::OkClose)] {
        let report = report(Load {
            mode,
            clients: 8,
            body: 0..=5000,
            ..server.load(1000)
        });
        // The short client closes where the server does not: that is in order.
        assert_eq!(report.classes, BTreeMap::from([(class, 1000)]));
        assert_eq!(
            (
                report.lost(),
                report.latency.count(),
                report.dead_connections
            ),
            (0, 1000, 0)
        );
        assert_eq!(
            report.connections,
            if mode == Mode::Short { 1000 } else { 8 }
        );
        assert_eq!(
            report.clients.iter().map(|(_, sent)| sent).sum::<u64>(),
            1000
        );
    }
}

#[test]
fn latency_is_a_whole_round_trip() {
    let server = steady("");
    let report = report(Load {
        latency: Duration::from_millis(20),
        ..server.load(10)
    });
    assert_eq!(report.lost(), 0);
    assert!(report.latency.min() >= Duration::from_millis(20));
}

#[test]
fn fin_before_a_byte() {
    all(Class::FinBeforeByte, 5, |stream, _| drop(stream));
}

#[test]
fn rst_before_a_byte() {
    all(Class::RstBeforeByte, 5, |stream, _| reset(stream));
}

#[test]
fn truncated_by_fin_within_head_body_or_chunks() {
    all(Class::Truncated, 5, |mut stream, request| {
        let whole = answer(&request, "");
        send(&mut stream, &whole[..whole.len() - 1]);
    });
    all(Class::Truncated, 5, |mut stream, _| send(&mut stream, b"H"));
    all(Class::Truncated, 5, |mut stream, request| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nx-id: {}\r\ntransfer-encoding: chunked\r\n\r\n",
            request.id
        );
        let body = String::from_utf8(request.body).unwrap();
        send(
            &mut stream,
            format!("{head}{:x}\r\n{body}\r\n0\r\n", body.len()).as_bytes(),
        );
    });
}

#[test]
fn truncated_by_rst() {
    all(Class::Truncated, 5, |mut stream, request| {
        let whole = answer(&request, "");
        send(&mut stream, &whole[..whole.len() - 1]);
        reset(stream);
    });
}

#[test]
fn another_body_id_or_protocol() {
    all(Class::WrongBody, 5, |mut stream, mut request| {
        let last = request.body.len() - 1;
        request.body[last] ^= 1;
        send(&mut stream, &answer(&request, ""));
    });
    all(Class::WrongBody, 5, |mut stream, mut request| {
        request.body.pop();
        send(&mut stream, &answer(&request, ""));
    });
    all(Class::WrongBody, 5, |mut stream, mut request| {
        request.id = "7.7".into();
        send(&mut stream, &answer(&request, ""));
    });
    all(Class::WrongBody, 5, |mut stream, _| {
        send(&mut stream, b"SSH-2.0-nonsense\r\n\r\n");
    });
}

#[test]
fn unexpected_statuses() {
    for status in ["500 no", "503 no", "404 no", "301 no", "204 no"] {
        all(Class::Status, 2, move |mut stream, _| {
            send(
                &mut stream,
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes(),
            );
        });
    }
}

#[test]
fn never_answered() {
    all(Class::NeverAnswered, 2, |stream, _| hold(stream));
    let server = Server::start(|stream, _| hold(stream));
    let timeout = Duration::from_millis(200);
    let report = report(Load {
        clients: 3,
        request_timeout: timeout,
        ..server.load(6)
    });
    assert_eq!(
        (report.count(Class::NeverAnswered), report.dead_connections),
        (6, 6)
    );
    assert!(report.longest_gap() >= timeout);
}

#[test]
fn silence_within_an_answer() {
    let server = Server::start(|mut stream, _| {
        if let Some(request) = request(&mut stream) {
            let whole = answer(&request, "");
            send(&mut stream, &whole[..20]);
            hold(stream);
        }
    });
    let report = report(Load {
        request_timeout: Duration::from_millis(200),
        ..server.load(2)
    });
    assert_eq!(report.count(Class::Truncated), 2);
    assert!(
        report.samples[0].seen.contains("silence"),
        "{:?}",
        report.samples
    );
}

#[test]
fn refused() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(report(load(address, 5)).count(Class::Refused), 5);
    let folder = tempfile::tempdir().unwrap();
    let missing = Load {
        target: Target::Unix(folder.path().join("missing.sock")),
        ..load(address, 5)
    };
    assert_eq!(report(missing).count(Class::Refused), 5);
}

#[test]
fn connect_timeout() {
    // Nobody accepts, and the queue is full: further SYNs are dropped (listen(2)).
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let full: Vec<_> = (0..4)
        .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    assert!(full.len() < 4, "the queue is full");
    let report = report(Load {
        request_timeout: Duration::from_millis(300),
        ..load(address, 2)
    });
    assert_eq!(report.count(Class::ConnectTimeout), 2);
}

#[test]
fn reset_before_connect() {
    // Ends while the TLS handshake is under way.
    for rst in [false, true] {
        let server = Server::start(move |mut stream, _| {
            // All of it, lest a FIN becomes a RST.
            drop(stream.read(&mut [0; 16 * 1024]));
            if rst {
                reset(stream);
            }
        });
        let report = report(Load {
            tls: true,
            ..server.load(3)
        });
        assert_eq!(report.count(Class::ResetBeforeConnect), 3);
    }
}

#[test]
fn a_reset_after_an_announced_close_is_told() {
    all(Class::OkReset, 5, |mut stream, request| {
        send(&mut stream, &answer(&request, "connection: close\r\n"));
        reset(stream);
    });
}

#[test]
fn duplicates() {
    // Twice at once, twice after an announced close, and an earlier answer once more in the place of a later one.
    all(Class::Duplicate, 4, |mut stream, request| {
        let twice = answer(&request, "").repeat(2);
        send(&mut stream, &twice);
        hold(stream);
    });
    all(Class::Duplicate, 4, |mut stream, request| {
        let twice = answer(&request, "connection: close\r\n").repeat(2);
        send(&mut stream, &twice);
    });
    let server = Server::start(|mut stream, _| {
        let mut first: Option<Vec<u8>> = None;
        while let Some(request) = request(&mut stream) {
            let right = answer(&request, "");
            if request.number() == 4 {
                send(&mut stream, first.as_ref().unwrap());
            }
            send(&mut stream, &right);
            first.get_or_insert(right);
        }
    });
    let report = report(server.load(6));
    assert_eq!(
        report.classes,
        BTreeMap::from([(Class::Ok, 5), (Class::Duplicate, 1)])
    );
    assert_eq!(report.failures[0].0.to_string(), "0.1");
    assert_eq!(report.connections, 1);
}

/// A server that does anything, and writes down which class each request must get.
#[test]
fn the_report_is_what_the_server_did() {
    for (seed, latency, clients) in [(1, 0, 1), (2, 0, 8), (3, 5, 8), (4, 20, 16)] {
        let done: Arc<Mutex<BTreeMap<Class, u64>>> = Arc::default();
        let log = Arc::clone(&done);
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        let server = Server::start(move |mut stream, _| {
            while let Some(mut request) = request(&mut stream) {
                let act = rng.lock().unwrap().u8(..24);
                let right = answer(&request, "");
                let closing = answer(&request, "connection: close\r\n");
                let part = &right[..right.len() / 2];
                let class = match act {
                    0 => Class::FinBeforeByte,
                    1 => Class::RstBeforeByte,
                    2 | 3 => Class::Truncated,
                    4 | 5 => Class::WrongBody,
                    6 => Class::Status,
                    7 | 8 => Class::Duplicate,
                    9 | 10 => Class::OkClose,
                    11 => Class::OkReset,
                    _ => Class::Ok,
                };
                *log.lock().unwrap().entry(class).or_default() += 1;
                match act {
                    0 => return,
                    1 => return reset(stream),
                    2 => return send(&mut stream, part),
                    3 => {
                        send(&mut stream, part);
                        return reset(stream);
                    }
                    4 => {
                        request.body[0] ^= 1;
                        send(&mut stream, &answer(&request, ""));
                    }
                    5 => {
                        request.id = "9999.1".into();
                        send(&mut stream, &answer(&request, ""));
                    }
                    6 => send(&mut stream, b"HTTP/1.1 502 no\r\ncontent-length: 0\r\n\r\n"),
                    7 => send(&mut stream, &right.repeat(2)),
                    8 => return send(&mut stream, &closing.repeat(2)),
                    9 => return send(&mut stream, &closing),
                    10 => {
                        // As a drain should: half-close, then read on until the client has closed.
                        send(&mut stream, &closing);
                        stream.shutdown(std::net::Shutdown::Write).unwrap();
                        return hold(stream);
                    }
                    11 => {
                        send(&mut stream, &closing);
                        return reset(stream);
                    }
                    _ => send(&mut stream, &right),
                }
            }
        });
        let latency = Duration::from_millis(latency);
        let report = report(Load {
            clients,
            latency,
            seed,
            ..server.load(600)
        });
        assert_eq!(report.classes, *done.lock().unwrap());
    }
}
