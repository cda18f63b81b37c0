//! The ledger against servers that are known to be wrong, and against real Node.

#[path = "ledger/broken.rs"]
mod broken;
#[path = "ledger/node.rs"]
mod node;

#[path = "ledger/classes.rs"]
mod classes;
#[path = "ledger/real.rs"]
mod real;
#[path = "ledger/streams.rs"]
mod streams;
