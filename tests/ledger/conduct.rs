//! How the clients behave, and what a report says.

use std::collections::BTreeMap;
use std::time::Duration;

use rcluster_ledger::{Check, Class, Limit, Load, Scheme, Target, spawn};

use super::broken::{Server, answer, load, report, request, send, steady};
use super::node::wait_until;

#[test]
fn a_client_commits_before_it_looks() {
    // The FIN is there long before the next request, but was not announced: a loss on each connection.
    let server = Server::start(|mut stream, _| {
        if let Some(request) = request(&mut stream) {
            send(&mut stream, &answer(&request, "keep-alive: timeout=5\r\n"));
        }
    });
    for latency in [0, 5, 20] {
        let latency = Duration::from_millis(latency);
        let report = report(Load {
            latency,
            think: latency * 2 + Duration::from_millis(10),
            ..server.load(20)
        });
        assert_eq!(
            (report.count(Class::Ok), report.count(Class::FinBeforeByte)),
            (10, 10)
        );
        assert_eq!(report.connections, 10);
        assert!(
            report.samples[0]
                .seen
                .contains("request 2 of its connection"),
            "{:?}",
            report.samples[0]
        );
    }
}

#[test]
fn an_announced_close_costs_nothing() {
    let server = Server::start(|mut stream, _| {
        for n in 0..3 {
            let Some(request) = request(&mut stream) else {
                return;
            };
            send(
                &mut stream,
                &answer(&request, if n == 2 { "connection: close\r\n" } else { "" }),
            );
        }
    });
    for latency in [0, 5, 20] {
        let report = report(Load {
            latency: Duration::from_millis(latency),
            ..server.load(30)
        });
        assert_eq!(
            report.classes,
            BTreeMap::from([(Class::Ok, 20), (Class::OkClose, 10)])
        );
        assert_eq!(report.connections, 10);
    }
}

#[test]
fn an_idle_connection_is_not_reused_near_its_timeout() {
    // N = 1: promised for no time at all. Without a promise the connection is kept.
    let server = steady("keep-alive: timeout=1\r\n");
    let report_one = report(Load {
        think: Duration::from_millis(2),
        ..server.load(5)
    });
    assert_eq!((report_one.connections, report_one.lost()), (5, 0));
    let server = steady("keep-alive: timeout=60\r\n");
    let report_long = report(Load {
        think: Duration::from_millis(2),
        ..server.load(5)
    });
    assert_eq!((report_long.connections, report_long.lost()), (1, 0));
}

#[test]
fn any_application_can_be_checked_for_completeness() {
    let server = Server::start(|mut stream, number| {
        if request(&mut stream).is_some() {
            let text: &[u8] = match number {
                0 => b"HTTP/1.1 302 Found\r\ncontent-length: 2\r\n\r\nok",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            };
            send(&mut stream, text);
            if request(&mut stream).is_some() {
                send(&mut stream, b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    let load = Load {
        check: Check::Complete,
        path: "/any?x=1".into(),
        ..server.load(3)
    };
    let report = report(Load {
        request_timeout: Duration::from_millis(500),
        ..load
    });
    assert_eq!(
        (
            report.count(Class::Ok),
            report.count(Class::Status),
            report.count(Class::Truncated)
        ),
        (1, 1, 1)
    );
}

#[test]
fn limits_stop_and_phases() {
    let server = steady("");
    let mut load = Load {
        clients: 4,
        ..server.load(1)
    };
    load.limit = Limit {
        requests: None,
        duration: None,
    };
    let running = spawn(load.clone()).unwrap();
    let control = running.control().clone();
    for phase in ["reload", "quiet", "kill"] {
        let before = control.done();
        wait_until("some requests", || control.done() >= before + 100);
        control.mark(phase);
    }
    wait_until("some requests", || control.done() >= 500);
    let report = running.stop().unwrap();
    assert_eq!((report.lost(), control.done()), (0, report.total));
    let names: Vec<_> = report
        .phases
        .iter()
        .map(|phase| phase.name.as_str())
        .collect();
    assert_eq!(names, ["quiet", "reload", "kill"]);
    assert!(report.phases.iter().all(|phase| phase.requests >= 50));
    assert!(serde_json::to_value(&report).unwrap()["latency"]["p99_us"].is_u64());

    load.limit.duration = Some(Duration::from_millis(50));
    let report = spawn(load.clone()).unwrap().join().unwrap();
    assert!(report.total > 0 && report.lost() == 0);

    for wrong in [
        Load {
            clients: 0,
            ..load.clone()
        },
        Load {
            path: "x".into(),
            ..load.clone()
        },
        Load {
            path: "/a b".into(),
            ..load.clone()
        },
        Load {
            body: 0..=1_000_000,
            ..load.clone()
        },
        Load {
            request_timeout: Duration::ZERO,
            ..load.clone()
        },
        Load {
            think: Duration::MAX,
            ..load.clone()
        },
        Load {
            check: Check::Complete,
            scheme: Scheme::WebSocket,
            ..load.clone()
        },
    ] {
        assert!(spawn(wrong).is_err());
    }
}

#[test]
fn reports_of_several_threads_add_up() {
    let server = steady("");
    let loads = [0, 8].map(|first_client| {
        spawn(Load {
            clients: 8,
            first_client,
            ..server.load(500)
        })
        .unwrap()
    });
    let [mut all, other] = loads.map(|running| running.join().unwrap());
    all.absorb(&other);
    assert_eq!(
        (all.total, all.ok(), all.latency.count(), all.clients.len()),
        (1000, 1000, 1000, 16)
    );
    assert_eq!(all.timeline.iter().map(|slot| slot.ok).sum::<u32>(), 1000);
}

#[test]
fn unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            while let Some(request) = request(&mut stream) {
                send(&mut stream, &answer(&request, ""));
            }
        }
    });
    let any = "127.0.0.1:1".parse().unwrap();
    for latency in [0, 5] {
        let latency = Duration::from_millis(latency);
        let report = report(Load {
            target: Target::Unix(path.clone()),
            latency,
            ..load(any, 50)
        });
        assert_eq!(report.classes, BTreeMap::from([(Class::Ok, 50)]));
    }
    server.join().unwrap();
}

#[test]
fn a_full_queue_of_a_unix_socket_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(&path).unwrap())
        .unwrap();
    socket.listen(0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let any = "127.0.0.1:1".parse().unwrap();
    let request_timeout = Duration::from_millis(300);
    let report = report(Load {
        target: Target::Unix(path),
        request_timeout,
        ..load(any, 2)
    });
    assert_eq!(report.count(Class::ConnectTimeout), 2);
}
