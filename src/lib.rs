//! rcluster: a process master for Node.js.
//!
//! ```text
//! signals ----+                                             +--> sys::spawn    (fork + exec node)
//! SIGCHLD ----+                                             +--> sys::process  (TERM, KILL)
//! worker IPC -+--> next_input() -> Supervisor::step() --> execute() --> link (message + fd)
//! control ----+      [IO, async]     [pure, sync]        [IO]
//! deadline ---+                                             |
//!      ^                                                    |
//!      +------ the result of an order is just the next event +
//! ```
//!
//! Facts go in as events, one pure state machine compares what is wanted with
//! what is, orders come out as actions, one loop carries them out. Imports
//! point right or down; `ARCHITECTURE.md` tells the rest.

#![cfg_attr(not(test), forbid(unsafe_code))]

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod host;
pub mod logs;
pub mod rehearse;
pub mod runtime;
pub mod say;
pub mod settings;
pub mod top;
mod units;
