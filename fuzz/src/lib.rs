//! What each fuzz target does with its input. A target panics where a promise is broken.
//!
//! `tests/corpora.rs` runs the same functions over the inputs in `corpus/`.

mod channel;
mod config;
mod env;
mod http;
mod lines;
mod pm2;

pub use channel::channel;
pub use config::config;
pub use env::env;
pub use http::http;
pub use lines::lines;
pub use pm2::pm2;
