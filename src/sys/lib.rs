//! Everything that talks to the kernel beyond what tokio wraps.
//!
//! The only place for `unsafe`, nix, libc, socket2 and sendfd. It must not
//! know policy: nothing here decides when or why.

mod account;
pub mod blocked;
pub mod cgroup;
mod confine;
pub mod control_dir;
pub mod fd_pass;
pub mod fd_queue;
pub mod files;
pub mod guard;
pub mod handover;
pub mod hang_up;
pub mod identity;
pub mod inherit;
pub mod limits;
pub mod listener;
pub mod log_pipe;
mod oom_score;
pub mod path_thread;
pub mod pidfile;
pub mod process;
pub mod procfs;
pub mod reuse_port;
pub mod safe_path;
#[cfg(target_os = "linux")]
mod sock_diag;
pub mod socket_file;
pub mod spawn;
pub mod startup;
pub mod steer;
pub mod terminal;
pub mod tie;
