//! The admin API: HTTP over the control socket and `--admin`, and its client.
//!
//! It owns routes and documents. It must not reach into the master: every
//! request is a message to the loop with a place for the answer.

// Nothing here may wait (clippy.toml).
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod access;
mod balance;
mod client;
mod dashboard;
mod events;
mod figures;
mod logs;
mod masters;
mod metrics;
mod routes;
mod server;
mod types;
mod withhold;

pub use access::{Token, TokenError};
pub use balance::{BalanceStatus, Fairness, SlotShare};
pub use client::{Client, ClientError};
pub use figures::{Durations, LastReload, MasterFigures, ReloadFigures, SlotFigures};
pub use masters::all_masters;
pub use routes::Api;
pub use server::{Door, serve, serve_tcp};
pub use types::{
    DetachedStatus, Happening, IncidentList, ListenerStatus, Outcome, Readiness, ReloadReply,
    ReloadWish, Request, RestartReply, ScaleReply, ScaleWish, SlotStatus, Status, StopReply,
    StopWish, UpgradeReply, UpgradeView, UpgradeWish, shown_state,
};
