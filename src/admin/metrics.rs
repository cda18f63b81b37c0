//! `GET /metrics`: the status document as `OpenMetrics` 1.0, or as Prometheus' own text
//! for those who do not ask for it. A series for each slot, not for each process.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    figures::{Durations, SlotFigures},
    types::{Outcome, Status},
};
use rcluster_core::supervisor::{FleetState, Kind, State, WorkerView};
use rcluster_sys::procfs;

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `OpenMetrics` 1.0.
    Open,
    /// Prometheus 0.0.4.
    Plain,
}

impl Form {
    /// What an `Accept` field asks for.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::Open
        } else {
            Self::Plain
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The whole text.
pub(super) fn text(status: &Status, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(status.clone())));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match form {
        Form::Open => text,
        Form::Plain => plain(&text),
    })
}

/// `OpenMetrics` names a counter's family without `_total`, and has lines that the older text does not know.
fn plain(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open
        .lines()
        .filter(|l| *l != "# EOF" && !l.starts_with("# UNIT "))
    {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let counter = line.starts_with("# TYPE ") && line.ends_with(" counter");
        for line in help.take().into_iter().chain([line]) {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(what), Some(name), Some(rest)) => {
                    let total = if counter { "_total" } else { "" };
                    let rest = if rest == "info" { "gauge" } else { rest };
                    for part in ["# ", what, " ", name, total, " ", rest] {
                        text.push_str(part);
                    }
                }
                _ => text.push_str(line),
            }
            text.push('\n');
        }
    }
    text
}

#[derive(Debug)]
struct Snapshot(Status);

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Writes families.
struct Writer<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Writer<'_, '_> {
    fn family<'l, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        metrics: impl IntoIterator<Item = (Labels<'l>, M)>,
    ) -> fmt::Result {
        let mut metrics = metrics.into_iter().peekable();
        if metrics.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in metrics {
            if labels.is_empty() {
                return metric.encode(encoder);
            }
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(l, v)| (l, ConstGauge::new(v)));
        self.family(name, help, MetricType::Gauge, values)
    }

    fn counter<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(l, v)| (l, ConstCounter::new(v)));
        self.family(name, help, MetricType::Counter, values)
    }
}

/// A histogram as it is.
struct Histogram<'a>(&'a SlotFigures);

impl EncodeMetric for Histogram<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = Durations::BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        let buckets: Vec<_> = bounds
            .chain([f64::MAX])
            .zip(self.0.durations.iter().copied())
            .collect();
        let count = buckets
            .iter()
            .fold(0u64, |sum, (_, n)| sum.saturating_add(*n));
        let sum = self.0.duration_us as f64 / 1e6;
        encoder.encode_histogram::<Labels<'_>>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

const SECOND: f64 = 1000.0;

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(&mut encoder);
        self.master(&mut out)?;
        self.slots(&mut out)?;
        self.workers(&mut out)
    }
}

fn one<'l>(value: f64) -> [(Labels<'l>, f64); 1] {
    [(vec![], value)]
}

impl Snapshot {
    fn master(&self, out: &mut Writer<'_, '_>) -> fmt::Result {
        let Self(status) = self;
        let (fleet, master, reloads) = (&status.fleet, &status.master, &status.reloads);
        let about = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("name", status.name.as_str()),
            ("run", status.run.as_str()),
        ];
        out.gauge(
            "rcluster_info",
            "Always 1: which master this is.",
            [(about, 1.0)],
        )?;
        out.gauge(
            "rcluster_start_time_seconds",
            "When the master started, seconds since 1970.",
            one(master.started_unix_ms as f64 / SECOND),
        )?;
        out.gauge(
            "rcluster_resident_memory_bytes",
            "Resident memory of the master.",
            one(master.memory as f64),
        )?;
        out.counter(
            "rcluster_cpu_seconds",
            "CPU time of the master.",
            one(master.cpu_ms as f64 / SECOND),
        )?;
        out.gauge(
            "rcluster_open_fds",
            "Open descriptors of the master.",
            one(master.fds as f64),
        )?;
        let phases = FleetState::ALL.map(|state| {
            (
                vec![("state", state.name())],
                f64::from(fleet.state == state),
            )
        });
        out.gauge(
            "rcluster_state",
            "1 for the state that the master is in.",
            phases,
        )?;
        out.gauge(
            "rcluster_generation",
            "The generation whose code serves.",
            one(fleet.generation.0 as f64),
        )?;
        out.gauge(
            "rcluster_workers_wanted",
            "Workers that are wanted.",
            one(f64::from(fleet.wanted)),
        )?;
        let ready = fleet
            .workers
            .iter()
            .filter(|w| w.state == State::Ready && !w.spare);
        out.gauge(
            "rcluster_workers_ready",
            "Workers that serve.",
            one(ready.count() as f64),
        )?;
        let spares = fleet.workers.iter().filter(|w| w.spare).count();
        out.gauge(
            "rcluster_spares",
            "Booted workers that wait to take the place of one that dies.",
            one(spares as f64),
        )?;
        out.gauge(
            "rcluster_crash_looping_slots",
            "Slots without a worker, whose restarts are being spaced out.",
            one(fleet.waiting.len() as f64),
        )?;
        let ends = [
            (Outcome::Done.name(), reloads.done),
            (Outcome::Failed.name(), reloads.failed),
            (Outcome::Superseded.name(), reloads.superseded),
        ];
        let ends = ends.map(|(outcome, n)| (vec![("outcome", outcome)], n as f64));
        out.counter(
            "rcluster_reloads",
            "Reloads and rollbacks, by how they ended.",
            ends,
        )?;
        out.counter(
            "rcluster_reload_seconds",
            "Time that all of them took.",
            one(reloads.took_ms as f64 / SECOND),
        )?;
        out.gauge(
            "rcluster_reload_in_progress",
            "1 while a reload goes on.",
            one(f64::from(fleet.reload.is_some())),
        )?;
        if let Some(last) = &reloads.last {
            let labels = vec![
                ("reload", last.id.as_str()),
                ("outcome", last.outcome.name()),
            ];
            out.gauge(
                "rcluster_last_reload_duration_seconds",
                "How long the last reload took; its id is in log and events too.",
                [(labels, last.took_ms as f64 / SECOND)],
            )?;
        }
        out.counter(
            "rcluster_drains",
            "Workers that drained.",
            one(fleet.drained_total as f64),
        )?;
        out.counter(
            "rcluster_cut_connections",
            "Connections that drains had to cut at the drain timeout.",
            one(fleet.cut_total as f64),
        )?;
        let queue = |of: fn(&super::ListenerStatus) -> Option<u32>| {
            let tcp = status
                .listeners
                .iter()
                .filter_map(move |l| Some((l, of(l)?)));
            tcp.map(|(l, n)| (vec![("listener", l.address.as_str())], f64::from(n)))
        };
        out.gauge(
            "rcluster_accept_queue",
            "Connections that wait to be accepted.",
            queue(|l| l.waiting),
        )?;
        out.gauge(
            "rcluster_accept_queue_limit",
            "Connections that may wait; the kernel drops what comes beyond.",
            queue(|l| l.backlog),
        )?;
        out.counter(
            "rcluster_accept_queue_drops",
            "Connections that the listener could not take since it was opened: its queue was full, or memory short.",
            queue(|l| l.dropped),
        )?;
        let balance = &self.0.balance;
        out.counter(
            "rcluster_connections_handed",
            "Connections that the master accepted and a worker took from it (--balance).",
            [(vec![], balance.passed as f64)],
        )?;
        out.gauge(
            "rcluster_connections_held",
            "Connections that the master has accepted and no worker has taken yet.",
            [(vec![], balance.held as f64)],
        )?;
        let detached = &self.0.detached;
        out.gauge(
            "rcluster_detached_processes",
            "Processes in sessions of their own that ended workers left behind.",
            [(vec![], detached.living as f64)],
        )?;
        out.counter(
            "rcluster_detached_processes_ended",
            "Such processes that were ended (--reap-detached).",
            [(vec![], detached.ended as f64)],
        )?;
        let overflows = procfs::listen_overflows().into_iter();
        out.counter(
            "rcluster_host_accept_queue_overflows",
            "Connections that found an accept queue full, all listeners of this network namespace.",
            overflows.map(|n| (vec![], n as f64)),
        )
    }

    /// What goes on when a worker is replaced.
    fn slots(&self, out: &mut Writer<'_, '_>) -> fmt::Result {
        let names: Vec<_> = self.0.figures.iter().map(|f| f.slot.to_string()).collect();
        let slots = || names.iter().map(String::as_str).zip(&self.0.figures);
        let each = |of: fn(&SlotFigures) -> f64| {
            slots().map(move |(slot, f)| (vec![("slot", slot)], of(f)))
        };
        out.counter(
            "rcluster_requests",
            "Requests answered over HTTP/1 and HTTP/2.",
            each(|f| f.requests as f64),
        )?;
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let answers = slots().flat_map(|(slot, f)| {
            let counts = classes.into_iter().zip(f.responses);
            counts.map(move |(class, n)| (vec![("slot", slot), ("class", class)], n as f64))
        });
        out.counter(
            "rcluster_responses",
            "Responses over HTTP/1 and HTTP/2 by class.",
            answers,
        )?;
        let histograms = slots().map(|(slot, f)| (vec![("slot", slot)], Histogram(f)));
        out.family("rcluster_request_duration_seconds", "Over HTTP/1: from a request's turn on its connection to the last byte of its response handed to the kernel.", MetricType::Histogram, histograms)?;
        out.counter(
            "rcluster_connections",
            "Connections that the app's servers accepted.",
            each(|f| f.accepted as f64),
        )?;
        out.counter(
            "rcluster_worker_cpu_seconds",
            "CPU time of workers.",
            each(|f| f.cpu_ms as f64 / SECOND),
        )?;
        let troubled: Vec<_> = self
            .0
            .fleet
            .slots
            .iter()
            .map(|s| (s.slot.to_string(), &s.troubles))
            .collect();
        // All of them from the start: `increase()` does not see a series begin.
        let restarts = troubled.iter().flat_map(|(slot, troubles)| {
            Kind::ALL
                .into_iter()
                .filter(|kind| kind.is_restart())
                .map(move |kind| {
                    let n = troubles.get(&kind).copied().unwrap_or_default();
                    let labels = vec![("slot", slot.as_str()), ("reason", kind.name())];
                    (labels, n as f64)
                })
        });
        out.counter(
            "rcluster_restarts",
            "Workers that died or were replaced, by reason; reloads are not counted.",
            restarts,
        )
    }

    /// What is true of the worker that sits in a slot now; of several, the one that has served longest.
    fn workers(&self, out: &mut Writer<'_, '_>) -> fmt::Result {
        let mut seated: Vec<(String, &WorkerView)> = vec![];
        for worker in self.0.fleet.workers.iter().filter(|w| !w.spare) {
            let slot = worker.slot.to_string();
            match seated.last_mut() {
                Some((last, holder)) if *last == slot => {
                    if holder.state != State::Ready && worker.state == State::Ready {
                        *holder = worker;
                    }
                }
                Some(_) | None => seated.push((slot, worker)),
            }
        }
        let each = |of: fn(&WorkerView) -> Option<f64>| {
            let known = seated
                .iter()
                .filter_map(move |(slot, w)| Some((slot, of(w)?)));
            known.map(|(slot, value)| (vec![("slot", slot.as_str())], value))
        };
        out.gauge(
            "rcluster_worker_up",
            "1 if the slot's worker serves.",
            each(|w| Some(f64::from(w.state == State::Ready))),
        )?;
        out.gauge(
            "rcluster_worker_generation",
            "The generation that it runs.",
            each(|w| Some(w.generation.0 as f64)),
        )?;
        out.gauge(
            "rcluster_worker_uptime_seconds",
            "Time since it was started.",
            each(|w| Some(w.uptime_ms as f64 / SECOND)),
        )?;
        out.gauge(
            "rcluster_worker_heartbeat_age_seconds",
            "Time since the last sign of its event loop.",
            each(|w| Some(w.silent_ms? as f64 / SECOND)),
        )?;
        out.gauge(
            "rcluster_worker_silent",
            "1 if its next heartbeat is overdue: its event loop answers nobody.",
            each(|w| Some(f64::from(w.silent))),
        )?;
        out.gauge(
            "rcluster_worker_open_connections",
            "Connections that are open.",
            each(|w| Some(w.beat?.connections as f64)),
        )?;
        out.gauge(
            "rcluster_worker_event_loop_utilization_ratio",
            "Share of the time in which its event loop was busy, over the last beat.",
            each(|w| Some(f64::from(w.beat?.busy) / 1000.0)),
        )?;
        out.gauge(
            "rcluster_worker_event_loop_delay_p50_seconds",
            "How late its event loop was half of the time, over the last beat.",
            each(|w| Some(w.beat?.delay_p50_us as f64 / 1e6)),
        )?;
        out.gauge(
            "rcluster_worker_event_loop_delay_p99_seconds",
            "The same for 99 of 100 looks.",
            each(|w| Some(w.beat?.delay_p99_us as f64 / 1e6)),
        )?;
        out.gauge(
            "rcluster_worker_heap_used_bytes",
            "JavaScript heap in use.",
            each(|w| Some(w.beat?.heap_used as f64)),
        )?;
        out.gauge(
            "rcluster_worker_heap_limit_bytes",
            "What its heap may grow to.",
            each(|w| Some(w.beat?.heap_limit as f64)),
        )?;
        out.gauge(
            "rcluster_worker_resident_memory_bytes",
            "Its resident memory, shared pages included.",
            each(|w| Some(w.usage?.memory as f64)),
        )?;
        out.gauge(
            "rcluster_worker_open_fds",
            "Its open descriptors.",
            each(|w| Some(w.usage?.fds as f64)),
        )?;
        out.gauge(
            "rcluster_worker_max_fds",
            "Their limit; 0 is none.",
            each(|w| Some(w.usage?.fd_limit as f64)),
        )
    }
}
