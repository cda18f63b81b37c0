//! What can stand in the file: the master's own options, as clap knows them.

use std::{any::TypeId, path::PathBuf};

use clap::{Arg, ArgAction, Args, Command};

use crate::cli::RunArgs;

/// Name of the file.
pub(super) const FILE: &str = "rcluster.toml";
/// Keys of the file that are no options.
pub(super) const EXTRA: [&str; 3] = ["script", "args", "env"];

/// The master's options that the file may set: all but the one that names it.
pub(super) fn options() -> Vec<Arg> {
    RunArgs::augment_args(Command::new("rcluster"))
        .get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|long| long != "config") && !arg.is_hide_set())
        .cloned()
        .collect()
}

/// Its name in the file, which is that of the flag.
pub(super) fn key(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

/// Whether it is on or off and takes no value.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether it may be given several times.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether its value is a path.
pub(super) fn is_path(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
}

/// Its variable: `--drain-timeout` is `RCLUSTER_DRAIN_TIMEOUT`, whether clap
/// reads it or `config.rs` does (those that take several values).
pub(super) fn variable(arg: &Arg) -> String {
    format!("RCLUSTER_{}", key(arg).replace('-', "_").to_uppercase())
}
