//! The ledger against servers that are known to be wrong, and against real Node.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

#[path = "ledger/broken.rs"]
mod broken;
#[path = "ledger/node.rs"]
mod node;

#[path = "ledger/classes.rs"]
mod classes;
#[path = "ledger/conduct.rs"]
mod conduct;
#[path = "ledger/real.rs"]
mod real;
#[path = "ledger/streams.rs"]
mod streams;
