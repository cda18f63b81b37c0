//! What rcluster decides, and the protocol it speaks with Node: pure functions of state, time and event.
//!
//! Nothing here reads a clock, holds a descriptor, or waits: `clippy.toml` beside this file and the dependencies in
//! `Cargo.toml` enforce it.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod balance;
pub mod escape;
pub mod exit_code;
pub mod ipc;
pub mod names;
pub mod supervisor;
pub mod thrown;
