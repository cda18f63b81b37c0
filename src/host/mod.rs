//! What rcluster writes for, and says about, the host that it runs on: a unit
//! for systemd, completions, man pages, and what a doctor finds.
//!
//! It must not know a running master.

mod doctor;
mod paper;
mod run;
mod unit;

pub use doctor::{Finding, Grade, examine, render};
pub use paper::{completions, man_page, man_pages};
pub use run::run;
pub use unit::{UnitError, unit};
