//! What is special about HTTP/2, WebSocket, event streams, uploads and downloads.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rcluster_ledger::{Class, Load, Report, Scheme, spawn};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::broken::{Server, hold, report, request, reset, send};

fn latencies() -> [Duration; 2] {
    [Duration::ZERO, Duration::from_millis(5)]
}

/// How a request of a load with a short or long timeout ends.
fn all_are(class: Class, load: &Load) -> Report {
    let timeout = if class == Class::NeverAnswered {
        300
    } else {
        10_000
    };
    let mut last = None;
    for latency in latencies() {
        let request_timeout = Duration::from_millis(timeout);
        let report = report(Load {
            latency,
            request_timeout,
            ..load.clone()
        });
        assert_eq!(
            report.classes,
            BTreeMap::from([(class, report.total)]),
            "latency {latency:?}"
        );
        last = Some(report);
    }
    last.unwrap()
}

// HTTP/2, frame by frame (RFC 9113 section 6).

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// HEADERS and DATA of a right answer; the id is the start of the body.
fn h2_answer(stream: u32, body: &[u8]) -> Vec<u8> {
    let id = body.split(|b| *b == b':').next().unwrap();
    // :status 200, then a literal (RFC 7541 sections 6.1 and 6.2.2).
    let head = [&[0x88, 0, 4][..], b"x-id", &[id.len() as u8], id].concat();
    [
        frame(HEADERS, 4, stream, &head),
        frame(DATA, 1, stream, body),
    ]
    .concat()
}

/// Calls the handler with each complete request: its stream and body.
fn h2_server(
    handler: impl Fn(&mut TcpStream, u32, &[u8]) -> bool + Send + Sync + 'static,
) -> Server {
    Server::start(move |mut stream, _| {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        send(&mut stream, &frame(SETTINGS, 0, 0, &[]));
        let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if stream.read_exact(&mut payload).is_err() {
                return;
            }
            let id = u32::from_be_bytes(head[5..].try_into().unwrap());
            match head[3] {
                SETTINGS if head[4] == 0 => send(&mut stream, &frame(SETTINGS, 1, 0, &[])),
                DATA => {
                    bodies.entry(id).or_default().extend(payload);
                    if head[4] & 1 != 0 && !handler(&mut stream, id, &bodies.remove(&id).unwrap()) {
                        // Closed at once, frames that nobody has read would make a RST of the FIN.
                        drop(stream.shutdown(std::net::Shutdown::Write));
                        return hold(stream);
                    }
                }
                _ => {}
            }
        }
    })
}

fn h2_all(
    class: Class,
    handler: impl Fn(&mut TcpStream, u32, &[u8]) -> bool + Send + Sync + 'static,
) -> Report {
    let server = h2_server(handler);
    all_are(
        class,
        &Load {
            scheme: Scheme::H2,
            ..server.load(5)
        },
    )
}

#[test]
fn h2_steady_and_wrong() {
    let right = |stream: &mut TcpStream, id: u32, body: &[u8]| {
        send(stream, &h2_answer(id, body));
        true
    };
    assert_eq!(h2_all(Class::Ok, right).connections, 1);
    h2_all(Class::WrongBody, |stream, id, body| {
        let mut body = body.to_vec();
        *body.last_mut().unwrap() ^= 1;
        send(stream, &h2_answer(id, &body));
        true
    });
    h2_all(Class::Status, |stream, id, _| {
        send(stream, &frame(HEADERS, 5, id, &[0x8e]));
        true
    });
    h2_all(Class::NeverAnswered, |_, _, _| true);
    h2_all(Class::FinBeforeByte, |_, _, _| false);
    h2_all(Class::RstBeforeByte, |stream, id, _| {
        send(stream, &frame(RST_STREAM, 0, id, &2u32.to_be_bytes()));
        true
    });
    h2_all(Class::Truncated, |stream, id, body| {
        let answer = h2_answer(id, body);
        send(stream, &answer[..answer.len() - body.len() - 9]);
        false
    });
}

#[test]
fn h2_refused_is_safe_to_retry_and_no_loss() {
    let report = h2_all(Class::RefusedRetryable, |stream, id, _| {
        send(stream, &frame(RST_STREAM, 0, id, &7u32.to_be_bytes()));
        true
    });
    assert_eq!(
        (report.lost(), report.connections, report.failures.len()),
        (0, 1, 5)
    );
    let report = h2_all(Class::RefusedRetryable, |stream, id, _| {
        send(stream, &goaway(id.saturating_sub(2)));
        false
    });
    assert_eq!((report.lost(), report.connections), (0, 5));
}

#[test]
fn h2_goaway_that_covers_the_stream_and_no_answer_is_a_loss() {
    h2_all(Class::FinBeforeByte, |stream, id, _| {
        send(stream, &goaway(id));
        false
    });
}

#[test]
fn h2_goaway_and_an_answer_cost_nothing() {
    let server = h2_server(|stream, id, body| {
        let last = id == 5;
        let goaway = if last { goaway(id) } else { Vec::new() };
        send(stream, &[goaway, h2_answer(id, body)].concat());
        !last
    });
    for latency in latencies() {
        let report = report(Load {
            scheme: Scheme::H2,
            latency,
            ..server.load(30)
        });
        // Nobody has looked at the last connection after its last answer.
        assert_eq!(
            report.classes,
            BTreeMap::from([(Class::Ok, 21), (Class::OkClose, 9)])
        );
        assert_eq!((report.connections, report.idle_drops), (10, 0));
    }
}

// WebSocket.

fn ws_server(
    handler: impl Fn(&mut WebSocket<TcpStream>, u64, Message) -> bool + Send + Sync + 'static,
) -> Server {
    Server::start(move |stream, _| {
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        let mut n = 0;
        while let Ok(message) = socket.read() {
            if message.is_text() {
                n += 1;
                if !handler(&mut socket, n, message) {
                    break;
                }
            }
        }
    })
}

fn ws_all(
    class: Class,
    handler: impl Fn(&mut WebSocket<TcpStream>, u64, Message) -> bool + Send + Sync + 'static,
) {
    let server = ws_server(handler);
    all_are(
        class,
        &Load {
            scheme: Scheme::WebSocket,
            ..server.load(4)
        },
    );
}

fn restart() -> CloseFrame {
    CloseFrame {
        code: CloseCode::Restart,
        reason: "".into(),
    }
}

#[test]
fn websocket_steady_and_wrong() {
    ws_all(Class::Ok, |socket, _, message| socket.send(message).is_ok());
    ws_all(Class::WrongBody, |socket, _, message| {
        socket.send(Message::text(format!("{message}!"))).is_ok()
    });
    ws_all(Class::WrongBody, |socket, _, message| {
        socket.send(Message::Binary(message.into_data())).is_ok()
    });
    ws_all(Class::NeverAnswered, |_, _, _| true);
    ws_all(Class::FinBeforeByte, |_, _, _| false);
    ws_all(Class::RstBeforeByte, |socket, _, _| {
        reset(socket.get_ref().try_clone().unwrap());
        false
    });
    // The second copy comes with the first.
    ws_all(Class::Duplicate, |socket, _, message| {
        socket.write(message.clone()).unwrap();
        socket.send(message).is_ok()
    });
    let server = Server::start(|mut stream, _| {
        drop(stream.read(&mut [0; 4096]));
        send(&mut stream, b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n");
        hold(stream);
    });
    all_are(
        Class::Status,
        &Load {
            scheme: Scheme::WebSocket,
            ..server.load(2)
        },
    );
}

#[test]
fn websocket_close_frames() {
    // Instead of an answer: lost.
    ws_all(Class::CloseFrame, |socket, _, _| {
        socket.close(Some(restart())).unwrap();
        true
    });
    // After the answer: announced, nothing is lost.
    let server = ws_server(|socket, n, message| {
        socket.write(message).unwrap();
        if n == 3 {
            // Sends both at once.
            socket.close(Some(restart())).unwrap();
        }
        socket.flush().is_ok()
    });
    for latency in latencies() {
        let report = report(Load {
            scheme: Scheme::WebSocket,
            latency,
            ..server.load(30)
        });
        assert_eq!(
            report.classes,
            BTreeMap::from([(Class::Ok, 20), (Class::OkClose, 10)])
        );
        assert_eq!((report.connections, report.idle_drops), (10, 0));
    }
}

// Streams over HTTP/1.1.

const EVENTS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-id: ";

fn sse_all(events: u64, class: Class, chunks: &'static str) {
    let server = Server::start(move |mut stream, _| {
        if let Some(request) = request(&mut stream) {
            send(
                &mut stream,
                format!(
                    "{EVENTS}{}\r\nconnection: close\r\n\r\n{chunks}",
                    request.id
                )
                .as_bytes(),
            );
        }
    });
    let scheme = Scheme::Sse {
        events,
        every: Duration::from_millis(1),
    };
    all_are(
        class,
        &Load {
            scheme,
            path: "/sse".into(),
            ..server.load(3)
        },
    );
}

#[test]
fn event_streams() {
    sse_all(
        2,
        Class::OkClose,
        "7\r\nid: 4\n\n\r\n7\r\nid: 5\n\n\r\n0\r\n\r\n",
    );
    sse_all(0, Class::OkClose, "0\r\n\r\n");
    sse_all(2, Class::Truncated, "7\r\nid: 4\n\n\r\n7\r\nid: 5\n\n\r\n");
    sse_all(
        2,
        Class::WrongBody,
        "7\r\nid: 4\n\n\r\n7\r\nid: 6\n\n\r\n0\r\n\r\n",
    );
    // A clean end, but not all that was asked for.
    sse_all(
        3,
        Class::WrongBody,
        "7\r\nid: 4\n\n\r\n7\r\nid: 5\n\n\r\n0\r\n\r\n",
    );
    sse_all(1, Class::WrongBody, "6\r\nid: 4\n\r\n0\r\n\r\n");
}

#[test]
fn an_endless_event_stream_ends_with_the_load() {
    let server = Server::start(|mut stream, _| {
        if let Some(request) = request(&mut stream) {
            send(
                &mut stream,
                format!("{EVENTS}{}\r\n\r\n", request.id).as_bytes(),
            );
            let mut n = 0;
            while stream
                .write_all(
                    format!("{:x}\r\nid: {n}\n\n\r\n", 6 + u64::to_string(&n).len()).as_bytes(),
                )
                .is_ok()
            {
                n += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let mut load = Load {
        clients: 3,
        scheme: Scheme::Sse {
            events: u64::MAX,
            every: Duration::ZERO,
        },
        ..server.load(1)
    };
    load.limit.requests = None;
    load.limit.duration = Some(Duration::from_millis(200));
    let report = spawn(load).unwrap().join().unwrap();
    assert_eq!(report.classes, BTreeMap::from([(Class::Ok, 3)]));
}

#[test]
fn downloads() {
    let serve = |bytes: u64, flip: bool| {
        Server::start(move |mut stream, _| {
            while let Some(request) = request(&mut stream) {
                let mut body: Vec<u8> = (0..100_000u64).map(|n| (n % 251) as u8).collect();
                if flip {
                    body[99_999] ^= 1;
                }
                send(
                    &mut stream,
                    format!("HTTP/1.1 200 OK\r\nx-id: {}\r\n", request.id).as_bytes(),
                );
                send(
                    &mut stream,
                    format!("content-length: {bytes}\r\n\r\n").as_bytes(),
                );
                send(&mut stream, &body);
                if bytes > 100_000 {
                    return;
                }
            }
        })
    };
    for (server, class) in [
        (serve(100_000, false), Class::Ok),
        (serve(100_000, true), Class::WrongBody),
        (serve(100_001, false), Class::Truncated),
    ] {
        let scheme = Scheme::Download {
            bytes: 100_000,
            over: Duration::ZERO,
        };
        all_are(
            class,
            &Load {
                scheme,
                path: "/download".into(),
                ..server.load(3)
            },
        );
    }
}

#[test]
fn uploads() {
    // Reads it all and answers wrong; answers early and closes; goes away within it.
    let scheme = Scheme::Upload {
        bytes: 300_000,
        over: Duration::from_millis(30),
    };
    for (read, class) in [(true, Class::WrongBody), (false, Class::RstBeforeByte)] {
        let server = Server::start(move |mut stream, _| {
            if read {
                if let Some(request) = request(&mut stream) {
                    let Some(byte) = request.body.get(250) else {
                        return;
                    };
                    assert_eq!(*byte, 250);
                    let text = format!(
                        "HTTP/1.1 200 OK\r\nx-id: {}\r\ncontent-length: 2\r\n\r\nno",
                        request.id
                    );
                    send(&mut stream, text.as_bytes());
                    hold(stream);
                }
            } else {
                drop(stream.read_exact(&mut [0; 1000]));
                reset(stream);
            }
        });
        all_are(
            class,
            &Load {
                scheme,
                path: "/upload".into(),
                ..server.load(3)
            },
        );
    }
}
