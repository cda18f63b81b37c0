//! Promise: a reload loses no request, of keep-alive and other clients, to unmodified apps; nobody is refused, nobody waits
//! for ever. Every request of the ledger has exactly one fate, and the workers' journals agree with it. Beside it the
//! controls, which must lose: without them a zero says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::common::{Addr, Launch, Node, kill};
use crate::deploys::{count, reload_with};
use crate::service::{Service, ms, nothing_is_lost};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use rcluster_ledger::{Class, Load, Mode, Scheme};

/// Keep-alive, short and 500 ms requests at 0 and 20 ms latency, all at once, over three times six reloads for each app.
fn plain_requests(app: &str, node: Node) {
    for _ in 0..count(3, 60) {
        let service = Service::start(app, node, None, |launch| launch);
        let mut loads = vec![];
        for latency in [ms(0), ms(20)] {
            let load = Load {
                latency,
                ..service.load()
            };
            loads.extend([
                Load {
                    mode: Mode::Short,
                    ..load.clone()
                },
                Load {
                    server_delay: Some(ms(500)),
                    clients: 12,
                    ..load.clone()
                },
                load,
            ]);
        }
        let begun = Instant::now();
        let (report, journals) = service.under(loads, |loads| service.reloads(6, loads));
        println!(
            "{app}: {} requests over 6 reloads in {:?}",
            report.total,
            begun.elapsed()
        );
        nothing_is_lost(&report, &journals);
        assert!(
            report.count(Class::OkClose) > 6 * 4,
            "no drain was seen: {report}"
        );
        service.stop(6);
    }
}

#[test]
fn plain_http() {
    plain_requests("ledger-http.cjs", Node::V20);
}

#[test]
fn express() {
    plain_requests("ledger-express.cjs", Node::V24);
}

#[test]
fn fastify() {
    plain_requests("ledger-fastify.cjs", Node::V22);
}

/// Now and then the master is stopped for some tenths of a second, wherever it is: a busy host.
#[test]
fn a_master_that_stands_still_for_moments_loses_nothing_and_blames_nobody() {
    let service = Service::start("ledger-http.cjs", Node::V24, None, |launch| {
        launch.options(["--hang-timeout", "1s"])
    });
    let pid = service.master.pid();
    service.master.may_be_blocked();
    let over = AtomicBool::new(false);
    let stops = AtomicU64::new(0);
    let mut reloads = 0;
    let loads = [
        Load {
            mode: Mode::Short,
            ..service.load()
        },
        Load {
            server_delay: Some(ms(100)),
            ..service.load()
        },
        service.load(),
    ];
    let (report, journals) = service.under(loads.into(), |loads| {
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // These times are the fault itself.
                    let n = stops.fetch_add(1, Ordering::Relaxed);
                    kill(pid, SIGSTOP);
                    thread::sleep(ms(200 + n * 137 % 500));
                    kill(pid, SIGCONT);
                    thread::sleep(ms(100 + n * 89 % 300));
                }
            });
            // It ends although the reloads fail.
            let _over = Over(&over);
            while stops.load(Ordering::Relaxed) < 8 {
                service.reloads(2, loads);
                reloads += 2;
            }
        });
    });
    nothing_is_lost(&report, &journals);
    let log = service.master.log();
    assert!(!log.contains("will be replaced"), "{log}");
    service.stop(reloads);
}

/// Says that it is over when it goes, in a panic too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn certificate(folder: &Path) -> [PathBuf; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = [folder.join("cert.pem"), folder.join("key.pem")];
    fs::write(&files[0], made.cert.pem()).expect("written");
    fs::write(&files[1], made.signing_key.serialize_pem()).expect("written");
    files
}

pub(crate) fn with_tls(launch: Launch) -> Launch {
    let [cert, key] = certificate(launch.dir.path());
    launch.env("CERT", cert).env("KEY", key)
}

#[test]
fn over_tls() {
    let service = Service::start("ledger-https.cjs", Node::V24, None, with_tls);
    let load = Load {
        tls: true,
        ..service.load()
    };
    let loads = vec![
        Load {
            mode: Mode::Short,
            clients: 3,
            think: ms(50),
            ..load.clone()
        },
        Load {
            latency: ms(20),
            ..load.clone()
        },
        load,
    ];
    let (report, journals) = service.under(loads, |loads| service.reloads(4, loads));
    nothing_is_lost(&report, &journals);
    service.stop(4);
}

#[test]
fn streams_uploads_and_downloads() {
    let service = Service::start("ledger-http.cjs", Node::V24, None, |launch| launch);
    let load = Load {
        clients: 4,
        ..service.load()
    };
    let of = |scheme, path: &str| Load {
        scheme,
        path: path.into(),
        ..load.clone()
    };
    let (events, bytes, over) = (20, 200_000, ms(300));
    let mut loads = vec![
        of(
            Scheme::Sse {
                events,
                every: ms(10),
            },
            "/sse",
        ),
        of(Scheme::Upload { bytes, over }, "/upload"),
        of(Scheme::Download { bytes, over }, "/download"),
    ];
    let late: Vec<_> = loads
        .iter()
        .map(|load| Load {
            latency: ms(20),
            ..load.clone()
        })
        .collect();
    loads.extend(late);
    let (report, journals) = service.under(loads, |loads| service.reloads(4, loads));
    nothing_is_lost(&report, &journals);
    service.stop(4);
}

#[test]
fn over_a_unix_path() {
    let service = Service::start("ledger-express.cjs", Node::V20, None, |launch| {
        let path = launch.dir.path().join("app.sock");
        launch.env("LISTEN_PATH", path)
    });
    let load = service.load();
    let loads = vec![
        Load {
            mode: Mode::Short,
            ..load.clone()
        },
        Load {
            latency: ms(5),
            ..load.clone()
        },
        load,
    ];
    let (report, journals) = service.under(loads, |loads| service.reloads(4, loads));
    nothing_is_lost(&report, &journals);
    service.stop(4);
}

/// A WebSocket has no answer that says "the last": what a client sends while the close frame is on its way to it is not
/// answered, but told. Nothing else may happen to a message.
#[test]
fn over_websocket() {
    let service = Service::start("ledger-ws.cjs", Node::V24, None, |launch| launch);
    let load = Load {
        scheme: Scheme::WebSocket,
        path: "/".into(),
        ..service.load()
    };
    let loads = vec![
        Load {
            latency: ms(20),
            ..load.clone()
        },
        load,
    ];
    let (report, journals) = service.under(loads, |loads| service.reloads(4, loads));
    let told = report.count(Class::CloseFrame);
    assert_eq!(report.ok() + told, report.total, "{report}");
    assert!(
        report.count(Class::OkClose) + told > 0,
        "no drain was seen: {report}"
    );
    assert_eq!((journals.unjournaled, journals.duplicates.len()), (0, 0));
    service.stop(4);
}

/// Control: Node's own disconnect closes idle keep-alive sockets, and with them requests that are on the wire.
#[test]
fn control_without_the_shim_requests_are_lost() {
    let service = Service::start("ledger-http.cjs", Node::V20, None, |launch| {
        launch.options(["--no-shim", "--drain-timeout", "5s"])
    });
    let load = Load {
        clients: 20,
        latency: ms(20),
        think: ms(0),
        ..service.load()
    };
    let mut at_once = 0;
    let (report, _) = service.under(vec![load], |loads| {
        reload_with(&service.master, &["reload"]);
        loads.all_go_on();
        // Long before any drain timeout.
        at_once = loads.0[0].control().lost();
        reload_with(&service.master, &["reload", "--drained"]);
    });
    let lost = report.count(Class::FinBeforeByte) + report.count(Class::RstBeforeByte);
    assert!(
        at_once > 0 && lost >= at_once,
        "the ledger is blind: {report}"
    );
    println!("without the shim: {at_once} lost at the first reload, {lost} in all");
    service.stop(2);
}

/// Control: the same drain, but sockets that belong to the workers; their queues are lost with them.
#[test]
fn control_with_a_socket_for_each_worker_requests_are_lost() {
    let port = Addr::free_port();
    let service = Service::start("ledger-reuseport.cjs", Node::V24, Some(port), |launch| {
        launch.env("PORT", port.to_string())
    });
    let load = Load {
        clients: 32,
        mode: Mode::Short,
        think: ms(0),
        ..service.load()
    };
    let (report, _) = service.under(vec![load], |loads| service.reloads(6, loads));
    assert!(report.lost() > 0, "the ledger is blind: {report}");
    service.stop(6);
}
