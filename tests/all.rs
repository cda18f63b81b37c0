//! Every integration test, in one program: linked once, and what one test waits for leaves the processors to another.
//! `cargo test --test all cli::` runs those of one file. `tests/architecture.rs` sees to it that no file is forgotten here.
//!
//! So tests share a process: none may change what belongs to all of it (limits, working directory, environment, signal mask)
//! or leave a descriptor open to the children of others. What needs that is done by a child.

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

mod common;
#[path = "common/reload.rs"]
mod deploys;
#[path = "common/drains.rs"]
mod drains;
#[path = "common/systemd.rs"]
mod manager;
#[path = "common/service.rs"]
mod service;

mod api;
mod api_description;
mod apps;
mod architecture;
mod balance;
mod balance_falls_back;
mod balance_ledger;
mod blocking;
mod boot_errors;
mod boots;
mod bounds;
mod channel;
mod cli;
mod config;
mod container;
mod control;
mod control_lost;
mod corpora;
mod coverage;
mod dashboard;
mod dead_files;
mod detached;
mod drain;
mod drain_ends;
mod drain_sockets;
mod env_file;
mod escapes;
mod faults;
mod files;
mod first_figures;
mod full;
mod hang;
mod health;
mod heartbeat;
mod input;
mod inspector;
mod isolation;
mod last_words;
mod ledger;
mod ledger_h2;
mod ledger_reload;
mod limits;
mod limits_full;
mod listeners;
mod listeners_closed;
mod log_events;
mod logs;
mod machine;
mod messages;
mod node_options;
mod options;
mod orphans;
mod own_lines;
mod own_log;
mod paper;
mod private_listeners;
mod privileges;
mod promises;
mod protocol;
mod readers;
mod refused_options;
mod rehearse;
mod reload;
mod reload_bad;
mod reload_moments;
mod reload_steps;
mod reload_terms;
mod root_files;
mod root_paths;
mod scale;
mod shim;
mod shim_without;
mod signals;
mod stale;
mod stop;
mod strangers;
mod supervise;
mod systemd;
mod terminal;
mod top;
mod top_figures;
mod unix_paths;
mod upgrade;
mod upgrade_carries;
mod watch;
mod workers;
