//! What the trial will do: arguments, validated.

use std::{path::PathBuf, time::Duration};

use thiserror::Error;

use crate::cli::{ConnectionsArg, MethodArg, RehearseArgs};
use rcluster_ledger::{Ask, Check, LedgerError, Load, Method, Mode, Target};

/// How long a paused worker stands still, unless half the request timeout is less.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments that cannot be used.
#[derive(Debug, Error)]
pub(super) enum PlanError {
    /// No SCRIPT.
    #[error("no script given: rcluster rehearse [OPTIONS] SCRIPT [ARGS]...")]
    NoScript,
    /// A time out of its range.
    #[error("{0} must be from {1} to {2}")]
    Range(&'static str, &'static str, &'static str),
    /// A header without a colon.
    #[error("failed to read the header `{0}`: write 'NAME: VALUE'")]
    Header(String),
    /// A body for GET.
    #[error("a --body needs --method post")]
    Body,
    /// Some path would have no client.
    #[error(
        "--clients {given} is too few: {needed} are needed for each path and kind of connection to have one"
    )]
    Clients {
        /// `--clients`
        given: u32,
        /// The least.
        needed: usize,
    },
    /// The ledger refuses it.
    #[error(transparent)]
    Load(#[from] LedgerError),
}

/// The plan.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) paths: Vec<String>,
    modes: &'static [Mode],
    pub(super) ask: Ask,
    tls: bool,
    pub(super) at: Option<String>,
    pub(super) clients: u32,
    pub(super) latency: Duration,
    think: Duration,
    timeout: Duration,
    quiet: Duration,
    pub(super) limit: Duration,
    pub(super) reloads: u32,
    pub(super) pauses: u32,
    pub(super) kills: u32,
    pub(super) svg: Option<PathBuf>,
    pub(super) json: bool,
}

impl Plan {
    /// # Errors
    /// A [`PlanError`] for the first thing that is wrong.
    pub(super) fn new(args: &RehearseArgs) -> Result<Self, PlanError> {
        if args.run.target.is_empty() {
            return Err(PlanError::NoScript);
        }
        let (zero, ms, second) = (
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_secs(1),
        );
        for (name, value, (least, least_text), (most, most_text)) in [
            ("--latency", args.latency, (zero, "0s"), (second * 2, "2s")),
            ("--think", args.think, (zero, "0s"), (second * 10, "10s")),
            (
                "--timeout",
                args.timeout,
                (ms * 10, "10ms"),
                (second * 3600, "1h"),
            ),
            (
                "--duration",
                args.duration,
                (ms * 100, "100ms"),
                (second * 3600, "1h"),
            ),
            (
                "--limit",
                args.limit,
                (second, "1s"),
                (second * 86_400, "24h"),
            ),
        ] {
            if value < least || value > most {
                return Err(PlanError::Range(name, least_text, most_text));
            }
        }
        let method = match args.method {
            MethodArg::Get if !args.body.is_empty() => return Err(PlanError::Body),
            MethodArg::Get => Method::Get,
            MethodArg::Post => Method::Post,
        };
        let headers = args.header.iter().map(|text| {
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| PlanError::Header(text.clone()))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        });
        let plan = Self {
            paths: if args.path.is_empty() {
                vec!["/".to_owned()]
            } else {
                args.path.clone()
            },
            modes: match args.connections {
                ConnectionsArg::Mixed => &[Mode::KeepAlive, Mode::Short],
                ConnectionsArg::KeepAlive => &[Mode::KeepAlive],
                ConnectionsArg::Short => &[Mode::Short],
            },
            ask: Ask {
                method,
                headers: headers.collect::<Result<_, PlanError>>()?,
                body: args.body.clone(),
            },
            tls: args.tls,
            at: args.at.clone(),
            clients: args.clients,
            latency: args.latency,
            think: args.think,
            timeout: args.timeout,
            quiet: args.duration,
            limit: args.limit,
            reloads: args.reloads,
            pauses: args.pauses,
            kills: args.kills,
            svg: args.svg.clone(),
            json: args.json,
        };
        let needed = plan.paths.len() * plan.modes.len();
        if (plan.clients as usize) < needed {
            return Err(PlanError::Clients {
                given: plan.clients,
                needed,
            });
        }
        for load in plan.loads(&Target::Unix(PathBuf::new())) {
            load.validate()?;
        }
        Ok(plan)
    }

    /// The loads, which share the clients.
    pub(super) fn loads(&self, target: &Target) -> Vec<Load> {
        let kinds: Vec<_> = self
            .paths
            .iter()
            .flat_map(|path| self.modes.iter().map(move |mode| (path, *mode)))
            .collect();
        let parts = kinds.len() as u32;
        let mut first_client = 0;
        (0..)
            .zip(kinds)
            .map(|(part, (path, mode))| {
                let clients = self.clients / parts + u32::from(part < self.clients % parts);
                let load = Load {
                    mode,
                    check: Check::Served,
                    tls: self.tls,
                    clients,
                    first_client,
                    latency: self.latency,
                    think: self.think,
                    path: path.clone(),
                    ask: self.ask.clone(),
                    request_timeout: self.timeout,
                    ..Load::new(target.clone())
                };
                first_client += clients;
                load
            })
            .collect()
    }

    /// Whether the load goes through TLS.
    pub(super) fn tls(&self) -> bool {
        self.tls
    }

    fn events(&self) -> u32 {
        self.reloads + self.pauses + self.kills
    }

    /// Undisturbed load at the start, and at the end.
    pub(super) fn margin(&self) -> Duration {
        if self.events() > 1 {
            self.quiet / 4
        } else {
            self.quiet / 2
        }
    }

    /// Undisturbed load between two events.
    pub(super) fn between(&self) -> Duration {
        self.quiet / 2 / self.events().saturating_sub(1).max(1)
    }

    /// Time in which each client has used its connection once more, whatever it was doing.
    pub(super) fn round(&self) -> Duration {
        self.latency * 2 + self.think * 2 + Duration::from_millis(10)
    }

    /// How long a paused worker stands still.
    pub(super) fn pause(&self) -> Duration {
        PAUSE.min(self.timeout / 2)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(line: &str) -> Result<Plan, String> {
        let words = ["rcluster", "rehearse"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Rehearse(args)) => Plan::new(&args).map_err(|e| e.to_string()),
            _ => unreachable!(),
        }
    }

    #[test]
    fn every_client_has_its_load() {
        let plan = plan("--path /a --path /b --clients 7 app.js").unwrap();
        let loads = plan.loads(&Target::Unix("/x".into()));
        let shares: Vec<_> = loads
            .iter()
            .map(|l| (&l.path[..], l.mode, l.first_client, l.clients))
            .collect();
        assert_eq!(
            shares,
            [
                ("/a", Mode::KeepAlive, 0, 2),
                ("/a", Mode::Short, 2, 2),
                ("/b", Mode::KeepAlive, 4, 2),
                ("/b", Mode::Short, 6, 1)
            ]
        );
    }

    #[test]
    fn what_makes_no_sense() {
        for (line, why) in [
            ("--json", "no script given"),
            ("--clients 1 app.js", "2 are needed"),
            ("--latency 3s app.js", "--latency must be from 0s to 2s"),
            ("--timeout 0s app.js", "--timeout must be"),
            ("--duration 2h app.js", "--duration must be"),
            ("--limit 0s app.js", "--limit must be"),
            ("--path x app.js", "must begin with a slash"),
            ("--header x app.js", "NAME: VALUE"),
            (
                "--header Content-Length:3 app.js",
                "the ledger itself writes",
            ),
            ("--header a\tb:c app.js", "no token"),
            ("--body x app.js", "--method post"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert!(plan("--method POST --body x --header Host:x app.js").is_ok());
    }

    #[test]
    fn the_quiet_parts_add_up() {
        for (line, events) in [
            ("app.js", 8),
            ("--pauses 0 --kills 0 --reloads 1 app.js", 1),
        ] {
            let plan = plan(line).unwrap();
            let sum = plan.margin() * 2 + plan.between() * (events - 1);
            assert!(sum.abs_diff(plan.quiet) < Duration::from_millis(1));
        }
    }
}
