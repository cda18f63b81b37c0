//! Against real Node: it must find nothing where nothing is wrong, and must find the losses of a server that closes as Node does.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use rcluster_ledger::{Class, Limit, Load, Mode, Scheme, Target, reconcile, spawn};

use super::broken::report;
use super::node::{Shared, wait_until};

/// A certificate and its key, and a folder for journals.
struct Files {
    _folder: tempfile::TempDir,
    cert: PathBuf,
    key: PathBuf,
    journal: PathBuf,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key, journal] =
            ["cert.pem", "key.pem", "journal"].map(|name| folder.path().join(name));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::create_dir(&journal).unwrap();
        Self {
            _folder: folder,
            cert,
            key,
            journal,
        }
    }

    fn env(&self) -> [(&str, &str); 2] {
        [
            ("CERT", self.cert.to_str().unwrap()),
            ("KEY", self.key.to_str().unwrap()),
        ]
    }
}

fn load(shared: &Shared, requests: u64) -> Load {
    Load {
        clients: 8,
        limit: Limit {
            requests: Some(requests),
            duration: None,
        },
        request_timeout: Duration::from_secs(30),
        ..Load::new(Target::Tcp(shared.address()))
    }
}

/// Two steady processes: every request is answered, and received once.
fn steady(app: &str, tls: bool, loads: &[Load], shared: &Shared) {
    let files = Files::new();
    let env = files.env();
    let env = if tls { &env[..] } else { &[] };
    let _nodes = [
        shared.start(app, &files.journal, env),
        shared.start(app, &files.journal, env),
    ];
    let mut first_client = 0;
    let mut all = None;
    for load in loads {
        let report = report(Load {
            first_client,
            tls,
            ..load.clone()
        });
        assert_eq!(report.ok(), report.total);
        first_client += load.clients;
        match &mut all {
            None => all = Some(report),
            Some(all) => all.absorb(&report),
        }
    }
    let all = all.unwrap();
    let result = reconcile(&files.journal, &all).unwrap();
    assert_eq!(
        (result.received, result.unjournaled, result.foreign),
        (all.total, 0, 0)
    );
    assert!(result.duplicates.is_empty() && result.failures.is_empty());
}

#[test]
fn steady_http() {
    let shared = Shared::new();
    let ms = Duration::from_millis;
    let load = load(&shared, 400);
    let few = Load {
        limit: Limit {
            requests: Some(16),
            duration: None,
        },
        ..load.clone()
    };
    let loads = [
        load.clone(),
        Load {
            mode: Mode::Short,
            ..load.clone()
        },
        Load {
            latency: ms(20),
            ..load.clone()
        },
        Load {
            latency: ms(5),
            mode: Mode::Short,
            ..load.clone()
        },
        Load {
            server_delay: Some(ms(20)),
            think: ms(1),
            ..load.clone()
        },
        Load {
            scheme: Scheme::Sse {
                events: 20,
                every: ms(2),
            },
            path: "/sse".into(),
            ..few.clone()
        },
        Load {
            scheme: Scheme::Download {
                bytes: 3_000_000,
                over: ms(0),
            },
            path: "/download".into(),
            ..few.clone()
        },
        Load {
            scheme: Scheme::Download {
                bytes: 999,
                over: ms(100),
            },
            path: "/download".into(),
            ..few.clone()
        },
        Load {
            scheme: Scheme::Upload {
                bytes: 500_000,
                over: ms(100),
            },
            path: "/upload".into(),
            ..few.clone()
        },
        Load {
            scheme: Scheme::Upload {
                bytes: 0,
                over: ms(0),
            },
            path: "/upload".into(),
            latency: ms(5),
            ..few
        },
    ];
    steady("ledger-http.cjs", false, &loads, &shared);
}

#[test]
fn steady_https() {
    let shared = Shared::new();
    let load = load(&shared, 200);
    let latency = Duration::from_millis(5);
    let loads = [
        load.clone(),
        Load {
            mode: Mode::Short,
            ..load.clone()
        },
        Load { latency, ..load },
    ];
    steady("ledger-https.cjs", true, &loads, &shared);
}

#[test]
fn steady_h2() {
    for tls in [false, true] {
        let shared = Shared::new();
        let load = Load {
            scheme: Scheme::H2,
            ..load(&shared, 200)
        };
        let latency = Duration::from_millis(5);
        let loads = [
            load.clone(),
            Load {
                mode: Mode::Short,
                ..load.clone()
            },
            Load { latency, ..load },
        ];
        steady("ledger-h2.cjs", tls, &loads, &shared);
    }
}

#[test]
fn steady_websocket() {
    let shared = Shared::new();
    let load = Load {
        scheme: Scheme::WebSocket,
        path: "/".into(),
        ..load(&shared, 200)
    };
    let latency = Duration::from_millis(5);
    let loads = [
        load.clone(),
        Load {
            mode: Mode::Short,
            ..load.clone()
        },
        Load { latency, ..load },
    ];
    steady("ledger-ws.cjs", false, &loads, &shared);
}

/// The load runs against one process, which goes while another one, on the same socket, goes on.
fn handed_over(
    app: &str,
    load: Load,
    env: &[(&str, &str)],
    signal: Signal,
) -> rcluster_ledger::Report {
    let files = Files::new();
    let shared = Shared::new();
    let mut old = shared.start(app, &files.journal, env);
    let load = Load {
        target: Target::Tcp(shared.address()),
        limit: Limit::default(),
        ..load
    };
    let running = spawn(load).unwrap();
    let control = running.control().clone();
    wait_until("the old process has answered", || control.done() >= 60);
    control.mark("reload");
    let _new = shared.start(app, &files.journal, env);
    old.signal(signal);
    old.ended();
    let before = control.done();
    wait_until("the new process has answered", || {
        control.done() >= before + 60
    });
    let report = running.stop().unwrap();
    println!("{report}");
    // Nobody was refused: the socket stays open. Whatever was lost was lost by the process that went.
    assert_eq!(
        (
            report.count(Class::Refused),
            report.count(Class::NeverAnswered)
        ),
        (0, 0)
    );
    let result = reconcile(&files.journal, &report).unwrap();
    assert_eq!((result.unjournaled, result.duplicates.len()), (0, 0));
    assert_eq!(result.failures.len() as u64, report.total - report.ok());
    assert_eq!(report.phase("quiet").unwrap().lost, 0);
    report
}

/// The negative control: at 20 ms of latency half of the connections have a request on the wire when Node closes its idle ones.
#[test]
fn nodes_own_close_loses_requests_and_the_ledger_sees_it() {
    let shared = Shared::new();
    let load = Load {
        clients: 20,
        latency: Duration::from_millis(20),
        ..load(&shared, 0)
    };
    let report = handed_over(
        "ledger-http.cjs",
        load,
        &[("ON_TERM", "close")],
        Signal::SIGTERM,
    );
    let lost = report.count(Class::FinBeforeByte) + report.count(Class::RstBeforeByte);
    assert!(lost > 0, "{report}");
}

/// The same handover by a process that announces each close: nothing is lost, so the losses above are those of the close.
#[test]
fn an_announced_drain_loses_nothing() {
    let shared = Shared::new();
    for (latency, mode) in [
        (0, Mode::KeepAlive),
        (5, Mode::KeepAlive),
        (20, Mode::KeepAlive),
        (5, Mode::Short),
    ] {
        let latency = Duration::from_millis(latency);
        let server_delay = Some(Duration::from_millis(5));
        let load = Load {
            clients: 20,
            latency,
            mode,
            server_delay,
            ..load(&shared, 0)
        };
        let report = handed_over(
            "ledger-http.cjs",
            load,
            &[("ON_TERM", "drain")],
            Signal::SIGTERM,
        );
        assert_eq!(report.ok(), report.total, "{report}");
        // The old process had some of the connections, not always all: others still waited to be accepted.
        assert!(report.count(Class::OkClose) > 0, "{report}");
    }
}

#[test]
fn a_killed_process_loses_requests_of_every_kind() {
    let shared = Shared::new();
    let ms = Duration::from_millis;
    let load = Load {
        latency: ms(20),
        clients: 20,
        ..load(&shared, 0)
    };
    let sse = Scheme::Sse {
        events: 20,
        every: ms(5),
    };
    let download = Scheme::Download {
        bytes: 100_000,
        over: ms(50),
    };
    let upload = Scheme::Upload {
        bytes: 100_000,
        over: ms(50),
    };
    for (app, load) in [
        ("ledger-http.cjs", load.clone()),
        (
            "ledger-h2.cjs",
            Load {
                scheme: Scheme::H2,
                ..load.clone()
            },
        ),
        (
            "ledger-ws.cjs",
            Load {
                scheme: Scheme::WebSocket,
                path: "/".into(),
                ..load.clone()
            },
        ),
        (
            "ledger-http.cjs",
            Load {
                scheme: sse,
                path: "/sse".into(),
                ..load.clone()
            },
        ),
        (
            "ledger-http.cjs",
            Load {
                scheme: download,
                path: "/download".into(),
                ..load.clone()
            },
        ),
        (
            "ledger-http.cjs",
            Load {
                scheme: upload,
                path: "/upload".into(),
                ..load
            },
        ),
    ] {
        let report = handed_over(app, load, &[], Signal::SIGKILL);
        assert!(report.lost() > 0, "{app}: {report}");
    }
}
