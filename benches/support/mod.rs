//! What the benches share: contenders, the load client, /proc, statistics and the report.
//!
//! It measures; it judges nothing but the targets it is given.

pub(crate) mod args;
pub(crate) mod cleanup;
pub(crate) mod client;
pub(crate) mod contender;
pub(crate) mod control;
pub(crate) mod kind;
pub(crate) mod nodes;
pub(crate) mod peers;
pub(crate) mod plot;
pub(crate) mod pm2;
pub(crate) mod procfs;
pub(crate) mod report;
pub(crate) mod stats;
pub(crate) mod stub;
