//! rcluster: a process master for Node.js.

pub mod exit_code;
pub mod ipc;
pub mod ledger;
pub mod names;
pub mod supervisor;
