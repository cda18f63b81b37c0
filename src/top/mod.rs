//! `rcluster top`: a live view of one master in a terminal.
//!
//! It owns the terminal while it runs: samples over time, the picture, the
//! keys. It must not reach into the master: it asks what everybody can ask.

mod history;
mod keys;
mod picture;
mod run;

pub use run::top;
