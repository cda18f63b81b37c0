//! rcluster: a process master for Node.js.

pub mod ledger;
