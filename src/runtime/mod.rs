//! The runtime: one loop that turns what happens into events and carries out
//! what the supervisor orders.
//!
//! It owns tokio, the workers' channels, the listeners and the releases. It
//! must not decide: which worker goes when is the supervisor's.

// Nothing here may wait (clippy.toml).
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod at_paths;
mod autopsy;
mod balance;
pub mod boot;
#[cfg(test)]
mod bounds_test;
mod chatter;
pub mod check;
mod clock;
mod control_keeper;
#[cfg(test)]
mod counting;
mod detached;
mod duty;
mod effects;
mod endings;
mod figures;
mod guarding;
mod hands;
mod health;
mod inspect_port;
mod link;
mod listeners;
mod manager;
mod master;
mod overview;
mod port_owner;
mod prepare;
mod release;
mod report;
mod reread;
mod rights;
mod senses;
mod sentries;
mod shim_file;
mod signals;
mod socket_keeper;
mod stale;
mod start;
pub mod turn_watchdog;
pub mod upgrade;
mod verdict;
mod waiters;
mod watch;

pub use boot::BootError;
pub use release::{Release, ReleaseError};
pub use verdict::Verdict;
