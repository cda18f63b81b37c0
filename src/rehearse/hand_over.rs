//! From the command line of `rehearse` to that of its master.

use std::ffi::OsString;

use clap::{Args, CommandFactory, parser::ValueSource};

use crate::cli::{Cli, RunArgs};

/// Options that would make the trial touch what belongs to a master in production.
const WITHHELD: [&str; 2] = ["control", "pidfile"];
/// The same in the environment, and what only a service manager's own child may have.
pub(super) const WITHHELD_ENV: [&str; 4] = [
    "RCLUSTER_CONTROL",
    "RCLUSTER_PIDFILE",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
];

/// The master's own options, as they were given on this command line; what is in the environment is inherited. Asks clap, so that an option that
/// the master learns is passed on by itself.
pub(super) fn master_args(line: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    // The line has been parsed once already: this cannot fail.
    let matches = Cli::command().get_matches_from(line);
    let Some((_, given)) = matches.subcommand() else {
        return vec![];
    };
    let known = RunArgs::augment_args(clap::Command::new("master"));
    let mut args = vec![];
    let mut last = vec![];
    for option in known.get_arguments() {
        let id = option.get_id().as_str();
        if WITHHELD.contains(&id) || given.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let values = given.get_raw(id).into_iter().flatten();
        match option.get_long() {
            None => last.extend(values.map(OsString::from)),
            Some(long) if option.get_action().takes_values() => args.extend(values.map(|value| {
                let mut word = OsString::from(format!("--{long}="));
                word.push(value);
                word
            })),
            Some(long) => args.push(format!("--{long}").into()),
        }
    }
    // A script may be named like a command, or have options of its own.
    args.push("--".into());
    args.append(&mut last);
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(line: &str) -> String {
        let line = format!("rcluster rehearse {line}");
        let args = master_args(line.split(' ').map(OsString::from));
        args.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_masters_options_and_nothing_else() {
        assert_eq!(
            pass(
                "--json -w 4 --reloads 3 -b :80 -b unix:/x --no-shim --bake 3s --node-arg --inspect app.js -w --json"
            ),
            "--workers=4 --bind=:80 --bind=unix:/x --node-arg=--inspect --bake=3s --no-shim -- app.js -w --json"
        );
    }

    #[test]
    fn nothing_that_belongs_to_another_master() {
        assert_eq!(
            pass("--control /run/x.sock --pidfile /run/x.pid --name x -- status"),
            "--name=x -- status"
        );
    }
}
