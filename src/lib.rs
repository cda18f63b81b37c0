//! rcluster: a process master for Node.js.

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod exit_code;
pub mod ipc;
pub mod ledger;
pub mod names;
pub mod runtime;
pub mod supervisor;
pub mod sys;
