//! A fleet under the ledger's load: what each request became, and what the workers' journals say of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rcluster_ledger::{Class, Load, Reconciliation, Report, Running, Target, reconcile, spawn};

use crate::common::{Addr, LONG, Launch, Master, Node, wait_until};
use crate::deploys::{number, reload_with, wait_settled};

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A master with an app of the ledger, and where its workers journal.
pub(crate) struct Service {
    pub(crate) master: Master,
    pub(crate) journal: PathBuf,
    pub(crate) target: Target,
}

impl Service {
    pub(crate) fn start(
        app: &str,
        node: Node,
        port: Option<u16>,
        set: impl FnOnce(Launch) -> Launch,
    ) -> Self {
        let launch = Launch::new(app).node(node).workers(4);
        let journal = launch.dir.path().join("journal");
        fs::create_dir(&journal).expect("a folder");
        // The reloads follow each other as fast as they can.
        let launch = launch
            .env("JOURNAL", &journal)
            .env("RCLUSTER_SURGE", "100%")
            .env("RCLUSTER_MIN_UPTIME", "0s");
        let master = set(launch).start();
        master.wait_ready(4);
        let addr = port.map_or_else(|| master.addr(), Addr::port);
        let target = match addr {
            Addr::Tcp(socket) => Target::Tcp(socket),
            Addr::Unix(path) => Target::Unix(path),
            Addr::Abstract(name) => panic!("no load for @{name}"),
        };
        Self {
            master,
            journal,
            target,
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            clients: 6,
            think: ms(20),
            request_timeout: Duration::from_secs(30),
            ..Load::new(self.target.clone())
        }
    }

    /// Puts all these loads on it at once while `disturb` is at work; the sum of their reports, and of the journals.
    #[track_caller]
    pub(crate) fn under(
        &self,
        loads: Vec<Load>,
        disturb: impl FnOnce(&Loads),
    ) -> (Report, Reconciliation) {
        let loads = Loads::start(loads);
        loads.all_go_on();
        disturb(&loads);
        loads.all_go_on();
        let report = loads.stop();
        let journals = reconcile(&self.journal, &report).expect("the journals can be read");
        println!(
            "{report}  journals: {} received, {:?} (never seen, accepted, received, answered), {} OK with a RST after it",
            journals.received,
            journals.fates(),
            report.count(Class::OkReset)
        );
        (report, journals)
    }

    /// So many reloads, two at a time: the second begins while the workers of the first still drain.
    #[track_caller]
    pub(crate) fn reloads(&self, reloads: usize, loads: &Loads) {
        for n in 0..reloads {
            let words: &[&str] = if n % 2 == 0 {
                &["reload"]
            } else {
                &["reload", "--drained"]
            };
            reload_with(&self.master, words);
            loads.all_go_on();
        }
    }

    #[track_caller]
    pub(crate) fn stop(mut self, reloads: usize) {
        wait_settled(&self.master, 4);
        assert_eq!(number(&self.master, "reloads_done"), reloads as u64);
        assert_eq!(
            number(&self.master, "cut_total"),
            0,
            "{}",
            self.master.log()
        );
        self.master.stop();
    }
}

/// Loads that run at the same time.
pub(crate) struct Loads(pub(crate) Vec<Running>);

impl Loads {
    pub(crate) fn start(loads: Vec<Load>) -> Self {
        let mut first_client = 0;
        let start = |load: Load| {
            let load = Load {
                first_client,
                ..load
            };
            first_client += load.clients;
            spawn(load).expect("a load")
        };
        Self(loads.into_iter().map(start).collect())
    }

    /// Waits until each load has had more answers.
    #[track_caller]
    pub(crate) fn all_go_on(&self) {
        let before: Vec<_> = self.0.iter().map(|load| load.control().done()).collect();
        wait_until("each load goes on", LONG, || {
            let on = |(load, before): (&Running, &u64)| load.control().done() >= before + 6;
            self.0.iter().zip(&before).all(on).then_some(())
        });
    }

    pub(crate) fn stop(self) -> Report {
        for load in &self.0 {
            load.control().stop();
        }
        let mut reports = self
            .0
            .into_iter()
            .map(|load| load.join().expect("a report"));
        let mut sum = reports.next().expect("a load");
        reports.for_each(|report| sum.absorb(&report));
        sum
    }
}

#[track_caller]
pub(crate) fn nothing_is_lost(report: &Report, journals: &Reconciliation) {
    assert_eq!((report.ok(), report.lost()), (report.total, 0), "{report}");
    assert_eq!(
        (report.dead_connections, journals.unjournaled),
        (0, 0),
        "{report}"
    );
    assert!(journals.duplicates.is_empty() && journals.failures.is_empty());
    assert_eq!(journals.received, report.total, "each is received once");
}
