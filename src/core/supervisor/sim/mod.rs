//! A seeded simulator: virtual workers and a virtual clock drive the
//! supervisor, and every step is held against its invariants.
//!
//! `habits` draws a policy and how workers behave; `world` is the clock, the
//! operator and what may happen next, `processes` what orders do to workers;
//! `watch` keeps what an observer knows (`deaths`: of each slot) and calls `invariants` and
//! `reload_invariants` after each step. `schedules` runs random schedules,
//! `exhaustive` all short ones, `regressions` those that find a fault again
//! when its fix is taken back. `reload_tables`, `stop_tables`, `scale_tables`,
//! `restart_tables`, `health_tables`, `check_tables` and `incident_tables` show the behaviour to a reader; so does `boots`,
//! which also bounds how many boot at a time.
//!
//! More schedules: `RCLUSTER_SIM_SCHEDULES=1000000 cargo test --release
//! sim::schedules::nightly`. One again: `RCLUSTER_SIM_SEED=42`, same test.

mod boots;
mod check_tables;
mod coverage;
mod deaths;
mod drain_tables;
mod exhaustive;
mod habits;
mod health_tables;
mod incident_tables;
mod invariants;
mod processes;
mod regressions;
mod reload_invariants;
mod reload_tables;
mod restart_tables;
mod scale_tables;
mod schedules;
mod stop_tables;
mod table;
mod watch;
mod world;
