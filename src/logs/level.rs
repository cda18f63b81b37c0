//! How much the master logs, and in which form.

use serde::{Deserialize, Serialize};

/// Form of the master's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe lines that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    Off,
    /// Failures of the master itself.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line a transition.
    Info,
    /// Decisions.
    Debug,
    /// The messages of the workers' channels.
    Trace,
}
