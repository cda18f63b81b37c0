//! The admin API: HTTP over the control socket, and its client.
//!
//! It owns routes and documents. It must not reach into the master: every
//! request is a message to the loop with a place for the answer.

mod client;
mod dashboard;
mod logs;
mod routes;
mod types;

pub use client::{Client, ClientError, find_masters};
pub use routes::{SocketFile, serve};
pub use types::{
    ListenerStatus, Readiness, ReloadReply, ReloadWish, Request, RestartReply, ScaleReply,
    ScaleWish, Status, StopReply, StopWish, UpgradeReply, UpgradeView, UpgradeWish,
};
