//! The configuration, read anew for each reload.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    config::{Config, Launch},
    settings::{Line, Setting},
    supervisor::Policy,
};

/// What only a restart of the master can change; all else is of the generation
/// or of the supervisor's numbers.
const FIXED: &[&str] = &[
    "name",
    "control",
    "bind",
    "backlog",
    "no-shim",
    "pidfile",
    "log-format",
    "log-level",
    "log-prefix",
    "log-file",
    "admin",
    "admin-token-file",
    "no-request-metrics",
    "user",
    "group",
    "core-limit",
    "reap-detached",
    "strict-bind",
    "pre-stop",
    "watch",
];

/// Reads the configuration again, and remembers what is in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reread {
    line: Line,
    policy: Policy,
    launch: Launch,
    settings: Vec<Setting>,
    told: BTreeSet<String>,
}

impl Reread {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            line: config.line.clone(),
            policy: config.policy.clone(),
            launch: config.launch.clone(),
            // It was read a moment ago; if it has changed since, the next reload compares with that.
            settings: config.line.load().map(|l| l.settings).unwrap_or_default(),
            told: BTreeSet::new(),
        }
    }

    /// The numbers and the app, as the file says now. Says what it cannot change.
    ///
    /// # Errors
    /// What is wrong with the file; then nothing changes.
    pub(super) fn read(&mut self) -> Result<(Policy, Launch), String> {
        if self.line.words.is_empty() {
            return Ok((self.policy.clone(), self.launch.clone()));
        }
        let mut loaded = self.line.load().map_err(|error| error.to_string())?;
        let args = match &mut loaded.cli.command {
            None => Some(&loaded.cli.run),
            Some(command) => command.run_args().map(|args| &*args),
        };
        let args = args.ok_or("the command line has no options of a master")?;
        let config = Config::again(args, &self.line.pwd);
        let config = config.map_err(|error| loaded.located(&error))?;
        self.tell(&loaded.settings);
        Ok((config.policy, config.launch))
    }

    fn tell(&mut self, settings: &[Setting]) {
        for (old, new) in self.settings.iter().zip(settings) {
            if old.values == new.values {
                continue;
            }
            let key = &new.key;
            if !FIXED.contains(&key.as_str()) {
                info!(key, from = %new.origin, "configuration changed");
            } else if self.told.insert(key.clone()) {
                warn!(key, from = %new.origin, "configuration changed, but this takes effect only when the master is restarted");
            }
        }
        // What is fixed stays as it was at the start, and is compared with that.
        let kept = self
            .settings
            .iter()
            .filter(|s| FIXED.contains(&s.key.as_str()))
            .cloned();
        let kept: Vec<_> = kept.collect();
        self.settings = settings.to_vec();
        for setting in &mut self.settings {
            if let Some(old) = kept.iter().find(|old| old.key == setting.key) {
                setting.clone_from(old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new option is here or it is not, but somebody has thought about it:
    /// what follows it at a reload is `Policy`, `Launch`, or nothing.
    const FREE: &[&str] = &[
        "workers",
        "node",
        "node-arg",
        "cwd",
        "ready",
        "ready-timeout",
        "drain-timeout",
        "kill-timeout",
        "min-uptime",
        "bake",
        "surge",
        "switch",
        "stop-signal",
        "env-file",
        "shutdown-message",
        "hang-timeout",
        "boot-hang-timeout",
        "no-autopsy",
        "health-path",
        "health-interval",
        "health-timeout",
        "health-threshold",
        "max-requests",
        "max-lifetime",
        "max-rss",
        "max-heap",
        "spares",
        "balance",
        "config",
        "help",
        "version",
    ];

    #[test]
    fn every_option_says_what_a_reload_does_to_it() {
        use clap::CommandFactory;
        for arg in crate::cli::Cli::command().get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            assert!(
                FIXED.contains(&long) || FREE.contains(&long),
                "--{long}: does it change on a reload (it is in Policy or Launch: list it in FREE) or not (list it in FIXED)?"
            );
        }
    }
}
