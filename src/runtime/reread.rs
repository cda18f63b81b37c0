//! The configuration, read anew for each reload.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    config::{Config, Launch},
    settings::{Line, Setting},
};
use rcluster_core::supervisor::Policy;

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
    /// `--watch` as it was at the start: other defaults follow from it.
    #[serde(default)]
    watch: Option<Vec<String>>,
}

/// The configuration as it was read.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) policy: Policy,
    pub(super) launch: Launch,
    pub(super) settings: Vec<Setting>,
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
            watch: Some(config.watch.clone().unwrap_or_default()),
        }
    }

    /// Reads the configuration, for a thread that may wait. `reading` is told the file before it is read.
    ///
    /// # Errors
    /// What is wrong with the file; then nothing changes.
    pub(super) fn read(&self, reading: impl FnOnce(&Path)) -> Result<Fresh, String> {
        if self.line.words.is_empty() {
            return Ok(Fresh {
                policy: self.policy.clone(),
                launch: self.launch.clone(),
                settings: self.settings.clone(),
            });
        }
        let loaded = self.line.load_patiently(reading);
        let mut loaded = loaded.map_err(|error| error.to_string())?;
        let args = match &mut loaded.cli.command {
            None => Some(&loaded.cli.run),
            Some(command) => command.run_args().map(|args| &*args),
        };
        let mut args = args
            .ok_or("the command line has no options of a master")?
            .clone();
        if let Some(watch) = &self.watch {
            args.host.watch.clone_from(watch);
        }
        let args = &args;
        let config = Config::again(args, &self.line.pwd);
        let config = config.map_err(|error| loaded.located(&error))?;
        Ok(Fresh {
            policy: config.policy,
            launch: config.launch,
            settings: loaded.settings,
        })
    }

    /// Remembers what was read as in force, and says what it cannot change.
    pub(super) fn follow(&mut self, settings: &[Setting]) {
        for (old, new) in self.settings.iter().zip(settings) {
            if old.values == new.values {
                continue;
            }
            let key = &new.key;
            if !FIXED.contains(&key.as_str()) {
                info!(key, from = %new.origin, event = "config_changed", "configuration changed");
            } else if self.told.insert(key.clone()) {
                warn!(key, from = %new.origin, event = "config_needs_restart", "configuration changed, but this takes effect only when the master is restarted");
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
    use std::path::Path;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    /// A value for each option that is not its default. A new option needs one.
    const VALUES: &[(&str, &str)] = &[
        ("workers", "3"),
        ("bind", "127.0.0.1:4321"),
        ("name", "other"),
        ("control", "/tmp/other/c.sock"),
        ("node", "/opt/node"),
        ("node-arg", "--trace-gc"),
        ("cwd", "/"),
        ("ready", "message"),
        ("ready-timeout", "7s"),
        ("drain-timeout", "7s"),
        ("kill-timeout", "7s"),
        ("min-uptime", "7s"),
        ("bake", "7s"),
        ("surge", "2"),
        ("switch", "atomic"),
        ("stop-signal", "INT"),
        ("env-file", "/etc/app.env"),
        ("pidfile", "/run/app.pid"),
        ("backlog", "17"),
        ("balance", "spread"),
        ("allow-drop", ":4323"),
        ("log-format", "json"),
        ("log-level", "debug"),
        ("log-file", "/var/log/app.log"),
        ("admin", "127.0.0.1:4322"),
        ("admin-token-file", "/etc/token"),
        ("hang-timeout", "7s"),
        ("boot-hang-timeout", "7s"),
        ("health-path", "/health"),
        ("health-interval", "7s"),
        ("health-timeout", "7s"),
        ("health-threshold", "7"),
        ("max-requests", "1000"),
        ("max-lifetime", "1h"),
        ("max-rss", "500MiB"),
        ("max-heap", "500MiB"),
        ("spares", "1"),
        ("user", "nobody"),
        ("group", "nogroup"),
        ("core-limit", "0"),
        ("pre-stop", "7s"),
        ("watch", "*.txt"),
    ];
    /// What these change is seen only beside another option.
    const WITH: &[(&str, &str)] = &[
        ("admin-token-file", "--admin=127.0.0.1:4322"),
        ("health-interval", "--health-path=/"),
        ("health-timeout", "--health-path=/"),
        ("health-threshold", "--health-path=/"),
    ];
    /// They say where and what to read, and are no settings.
    const NONE: [&str; 3] = ["config", "help", "version"];

    fn of(words: &[String]) -> (Policy, Launch) {
        let words = ["rcluster".to_owned()]
            .iter()
            .chain(words)
            .chain([&"app.js".to_owned()])
            .cloned()
            .collect::<Vec<_>>();
        let cli = Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        let config = Config::again(&cli.run, Path::new("/srv"));
        let config = config.unwrap_or_else(|e| panic!("{words:?}: {e}"));
        (config.policy, config.launch)
    }

    #[test]
    fn an_option_is_fixed_if_and_only_if_a_reload_does_not_follow_it() {
        for arg in Cli::command().get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !NONE.contains(long)) else {
                continue;
            };
            let word = if arg.get_action().takes_values() {
                let value = VALUES.iter().find(|(option, _)| *option == long);
                let (_, value) = value.unwrap_or_else(|| panic!("--{long}: add a value to VALUES"));
                format!("--{long}={value}")
            } else {
                format!("--{long}")
            };
            let with = WITH.iter().filter(|(option, _)| *option == long);
            let mut words: Vec<_> = with.map(|(_, word)| (*word).to_owned()).collect();
            let without = of(&words);
            words.push(word);
            // A master that watches keeps to what that changes: `Reread::watch`.
            let follows = without != of(&words) && long != "watch";
            assert_eq!(
                follows,
                !FIXED.contains(&long),
                "--{long}: what is in Policy or Launch changes on a reload; list all else in FIXED"
            );
        }
    }

    #[test]
    fn the_readme_names_each_fixed_option() {
        let readme = include_str!("../../README.md");
        let (_, list) = readme.split_once("All can change but ").unwrap();
        let (list, _) = list.split_once(": the log says").unwrap();
        let named: BTreeSet<_> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(named, FIXED.iter().copied().collect());
    }

    #[test]
    fn what_watching_changes_stays_as_it_was_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rcluster.toml");
        std::fs::write(&file, "workers = 4\n").unwrap();
        let line = || Line {
            words: vec![
                "rcluster".into(),
                "--config".into(),
                file.clone().into(),
                "app.js".into(),
            ],
            pwd: folder.path().to_owned(),
        };
        let loaded = line().load().unwrap();
        let mut config = Config::again(&loaded.cli.run, folder.path()).unwrap();
        config.line = line();
        let reread = Reread::new(&config);
        let read = || {
            let fresh = reread.read(|_| {}).unwrap();
            (fresh.policy, fresh.launch)
        };
        let before = read();
        assert_eq!(before.0.workers, 4);
        std::fs::write(&file, "workers = 4\nwatch = ['*.js']\n").unwrap();
        assert_eq!(read(), before);
    }
}
