//! Settings from everywhere: flags over environment over `rcluster.toml` over
//! defaults, and where each one came from.
//!
//! Generic over the command line's own definition: an option that `cli.rs`
//! learns is in the file, in `rcluster config` and in the schema by itself.
//! It must not know what an option means; `config.rs` does.

mod file;
mod import;
mod known;
mod line;
mod pm2;
mod schema;
mod show;

pub use file::{File, FileError};
pub use import::{import, yaml};
pub use line::{Line, LineError, Loaded, Origin, Setting};
pub use pm2::{Made, convert};
pub use schema::schema;
pub use show::show;
