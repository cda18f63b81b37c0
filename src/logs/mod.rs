//! What workers print, where the master was asked to carry it (`--log-prefix`,
//! `--log-file`); without these options nothing of this runs.
//!
//! It owns the workers' pipes, the threads that write, and a ring of the last
//! lines. It must not know a worker's state, nor make the loop wait.

mod carried;
mod collector;
mod cutter;
mod files;
mod hub;
mod level;
mod own;
mod plan;
mod render;
mod sink;
mod source;

pub use carried::{Begun, Held, Kept};
pub use collector::{Logs, LogsError};
pub use hub::{Entry, Feed, Wish};
pub use level::{Format, Level};
pub use own::OwnLog;
pub use plan::{PathError, PathPlan, Plan};
pub use render::{Origin, Stream, Style};
