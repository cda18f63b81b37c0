//! The supervisor: decides what happens to workers.
//!
//! Pure: facts go in as [`Event`]s with the time they happened, orders come
//! out as [`Action`]s. It owns slots, workers, generations, backoff and the
//! reload in progress. It must not know file descriptors, JSON, tokio, or a
//! clock; its state is plain data that can be serialised at any moment.

mod action;
mod apply;
mod backoff;
mod checking;
mod coverage;
mod event;
mod fleet;
mod incident;
mod machine;
mod policy;
mod reconcile;
mod recycle;
mod reload;
mod scale;
#[cfg(test)]
mod sim;
mod snapshot;
mod spares;
mod stopping;
mod time;
mod watch;
mod worker;

pub use action::{Action, Gate, ReloadOutcome, Report, StopSignal};
pub use backoff::{Backoff, Death, SpawnBudget};
pub use event::{Beat, Event, Exit, Fact, Finding, Listened, Scale, Ticket, Urgency, Usage};
pub use incident::{Incident, Kind};
pub use machine::Supervisor;
pub use policy::{Health, Policy, Readiness, Recycle, Surge, Switch, Terms};
pub use snapshot::{Brief, FleetState, FleetView, ReloadStage, ReloadView, SlotView, WorkerView};
pub use time::Time;
pub use worker::{Generation, Pid, Pulse, Slot, State, Worker, WorkerId};
