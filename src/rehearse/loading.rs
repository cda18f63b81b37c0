//! The load, in a thread of its own.

use std::thread;

use futures_util::future::join_all;
use tokio::{sync::oneshot, time::Instant};

use rcluster_ledger::{self, Control, LedgerError, Load, Report};

/// A running load. Dropped, it stops without waiting for its end.
#[derive(Debug)]
pub(super) struct Loading {
    control: Control,
    start: Instant,
    result: oneshot::Receiver<Result<Report, LedgerError>>,
}

impl Loading {
    /// Starts all loads at once, under one [`Control`].
    ///
    /// # Errors
    /// [`LedgerError::Start`].
    pub(super) fn start(loads: Vec<Load>) -> Result<Self, LedgerError> {
        let control = Control::new();
        let own = control.clone();
        let (send, result) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LedgerError::Start)?;
        let start = Instant::now();
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                let all = join_all(
                    loads
                        .into_iter()
                        .map(|load| rcluster_ledger::run(load, own.clone())),
                );
                let reports: Result<Vec<_>, _> = runtime.block_on(all).into_iter().collect();
                // Nobody may be waiting any more.
                let _ = send.send(reports.and_then(sum));
            })
            .map_err(LedgerError::Start)?;
        Ok(Self {
            control,
            start,
            result,
        })
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// When it began: the zero of all times in the report.
    pub(super) fn began(&self) -> Instant {
        self.start
    }

    /// Stops it, and waits until each request has its class.
    ///
    /// # Errors
    /// What the ledger could not do.
    pub(super) async fn finish(mut self) -> Result<Report, LedgerError> {
        self.control.stop();
        (&mut self.result)
            .await
            .unwrap_or(Err(LedgerError::Panicked))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.control.stop();
    }
}

fn sum(reports: Vec<Report>) -> Result<Report, LedgerError> {
    let mut reports = reports.into_iter();
    let mut all = reports.next().ok_or(LedgerError::Invalid("no load"))?;
    reports.for_each(|report| all.absorb(&report));
    Ok(all)
}
