//! `-h` fits a screen; `--help` has everything.

use clap::{Command, CommandFactory};

use super::Cli;

/// Options that `-h` shows.
const OPTIONS: [&str; 9] = [
    "workers",
    "bind",
    "name",
    "config",
    "cwd",
    "ready",
    "drain-timeout",
    "env-file",
    "help",
];
/// Commands that `-h` shows.
const COMMANDS: [&str; 7] = [
    "status", "reload", "rollback", "stop", "check", "rehearse", "doctor",
];

/// The command line's definition, with the help that goes with these words.
pub fn command<'a>(words: impl IntoIterator<Item = &'a std::ffi::OsStr>) -> Command {
    let own = words.into_iter().take_while(|word| *word != "--");
    let short = own.skip(1).any(|word| word == "-h");
    let mut command = without_empty_variables(Cli::command());
    if !short {
        return command;
    }
    command = command
        .mut_args(|arg| {
            let shown = arg.get_long().is_some_and(|long| OPTIONS.contains(&long));
            arg.hide_env(true).hide_short_help(!shown)
        })
        .mut_subcommands(|sub| {
            let shown = COMMANDS.contains(&sub.get_name());
            let run = sub.get_arguments().any(|arg| arg.get_id() == "target");
            let sub = if run {
                // The master's options are the same everywhere.
                sub.mut_args(|arg| {
                    let of_master = Cli::command()
                        .get_arguments()
                        .any(|known| known.get_id() == arg.get_id());
                    arg.hide_env(true).hide_short_help(of_master)
                })
            } else {
                sub
            };
            sub.hide(!shown)
        })
        .after_help("Every option and command: rcluster --help, or man rcluster");
    command
}

/// A variable that is set to nothing counts as one that is not set: unit files and shells have them
/// (`Environment=RCLUSTER_NODE=`, `${X:-}`).
fn without_empty_variables(command: Command) -> Command {
    let named = |arg: clap::Arg| match arg.get_env() {
        Some(name) if std::env::var_os(name).is_some_and(|value| value.is_empty()) => {
            arg.env(None::<&str>)
        }
        Some(_) | None => arg,
    };
    command
        .mut_args(named)
        .mut_subcommands(|sub| sub.mut_args(named))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, panic::catch_unwind};

    use clap::Arg;

    use super::*;

    /// Clap checks a definition only with its debug assertions, which neither a release has nor libraries in tests have;
    /// tests/run has it built with them for the unit tests, and says so.
    #[test]
    fn the_definition_is_sound() {
        let twice = || ["one", "two"].map(|name| Arg::new(name).short('a'));
        let checks = catch_unwind(|| Command::new("wrong").args(twice()).debug_assert()).is_err();
        if !checks && std::env::var_os("CLAP_CHECKS").is_none() {
            let said = "skipped: clap is built without its checks; tests/run builds it with them";
            // Past the test runner's capture: tests/run counts these lines.
            writeln!(std::io::stderr().lock(), "\n{said}").expect("written");
            return;
        }
        assert!(checks, "clap was to be built with its checks");
        for words in [&["rcluster"][..], &["rcluster", "-h"]] {
            command(words.iter().map(std::ffi::OsStr::new)).debug_assert();
        }
    }
}
