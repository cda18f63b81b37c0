//! `rcluster doctor`: looks at limits and says what to change.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Serialize;

use crate::config::Launch;
use rcluster_sys::{
    control_dir, files,
    identity::Identity,
    limits,
    safe_path::{self, Refusal},
};

/// Connections that wait for `accept(2)` which the master asks the kernel for.
const BACKLOG: u64 = 4096;
/// Descriptors below which a busy server runs out.
const FILES: u64 = 16_384;
/// The oldest Node.js that is tested.
const OLDEST_NODE: u32 = 18;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// It will hurt under load or one day.
    Warning,
    /// rcluster cannot work like that.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How it is.
    pub grade: Grade,
    /// What was looked at.
    pub about: &'static str,
    /// What was seen.
    pub seen: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn good(about: &'static str, seen: impl Into<String>) -> Self {
        Self {
            grade: Grade::Good,
            about,
            seen: seen.into(),
            advice: None,
        }
    }

    fn wrong(
        grade: Grade,
        about: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            grade,
            about,
            seen: seen.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Looks at everything. `launch` is what would be run, as far as it is known, and `identity` as whom.
pub fn examine(
    node: Option<&Path>,
    launch: Option<&Launch>,
    identity: Option<&Identity>,
) -> Vec<Finding> {
    let mut findings = vec![
        open_files(),
        backlog(),
        Finding::good("CPUs", cpus()),
        memory(),
        node_version(node, identity),
        control(),
        fences(),
    ];
    findings.extend(launch.map(script));
    findings.extend(unit());
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
    findings
}

/// The findings for people.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => "ok  ",
            Grade::Warning => "warn",
            Grade::Bad => "BAD ",
        };
        let _ = writeln!(text, "{mark} {}: {}", finding.about, finding.seen);
        if let Some(advice) = &finding.advice {
            let _ = writeln!(text, "       -> {advice}");
        }
    }
    text
}

fn open_files() -> Finding {
    let about = "open files";
    let (soft, hard) = limits::files();
    let seen = format!("soft limit {soft}, hard limit {hard}");
    // Node raises its own soft limit to the hard one.
    if hard >= FILES {
        Finding::good(about, seen)
    } else {
        Finding::wrong(
            Grade::Warning,
            about,
            seen,
            format!(
                "a worker holds at most that many connections: LimitNOFILE={FILES} in the unit, or `ulimit -Hn {FILES}`"
            ),
        )
    }
}

fn backlog() -> Finding {
    let about = "accept queue";
    let Some(limit) = limits::backlog() else {
        return Finding::good(about, "net.core.somaxconn cannot be read".to_owned());
    };
    let seen = format!("net.core.somaxconn is {limit}");
    if limit >= BACKLOG {
        Finding::good(about, seen)
    } else {
        Finding::wrong(
            Grade::Warning,
            about,
            seen,
            format!(
                "connections beyond that are dropped while workers are busy: sysctl -w net.core.somaxconn={BACKLOG}"
            ),
        )
    }
}

fn cpus() -> String {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("`-w auto` starts {count} workers (affinity and the cgroup's quota counted)")
}

fn memory() -> Finding {
    let about = "memory";
    match limits::memory() {
        Some(limit) => Finding::good(
            about,
            format!("the cgroup's limit is {} MiB", limit / 1024 / 1024),
        ),
        None => Finding::good(about, "no limit by a cgroup"),
    }
}

fn node_version(node: Option<&Path>, identity: Option<&Identity>) -> Finding {
    let about = "node";
    let program = find(node.unwrap_or(Path::new("node")));
    let install = "install Node.js 18 or later, or name its binary with --node";
    let mut command = Command::new(&program);
    command.arg("--version").current_dir("/");
    match identity {
        Some(identity) => identity.become_in(&mut command),
        None if nix::unistd::geteuid().is_root() => {
            if let Err(refusal @ Refusal::Unsafe { .. }) = safe_path::check(&program) {
                return Finding::wrong(
                    Grade::Warning,
                    about,
                    format!("root does not run {}: {refusal}", program.display()),
                    "let only root write there, or name the user of the workers with --user",
                );
            }
        }
        None => {}
    }
    let output = match command.output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            return Finding::wrong(
                Grade::Bad,
                about,
                format!("{} --version: {}", program.display(), output.status),
                install,
            );
        }
        Err(error) => {
            return Finding::wrong(
                Grade::Bad,
                about,
                format!("{} cannot be run: {error}", program.display()),
                install,
            );
        }
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next();
    match major.and_then(|m| m.parse::<u32>().ok()) {
        Some(major) if major >= OLDEST_NODE => Finding::good(about, version),
        _ => Finding::wrong(Grade::Bad, about, version, install),
    }
}

/// As a shell finds a program.
fn find(name: &Path) -> PathBuf {
    if name.components().count() > 1 {
        return std::path::absolute(name).unwrap_or_else(|_| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found
        .find(|path| path.is_file())
        .unwrap_or_else(|| name.to_owned())
}

fn control() -> Finding {
    let about = "control folder";
    let folder = control_dir::default_folder();
    match control_dir::prepare_default(&folder) {
        Ok(()) => Finding::good(about, folder.display().to_string()),
        Err(error) => Finding::wrong(
            Grade::Bad,
            about,
            error.to_string(),
            "or name another place with --control",
        ),
    }
}

fn fences() -> Finding {
    let about = "who we are";
    if nix::unistd::geteuid().is_root() {
        Finding::wrong(
            Grade::Warning,
            about,
            "root",
            "let the workers be somebody else: --user, or User= in the unit",
        )
    } else {
        Finding::good(about, "not root")
    }
}

fn script(launch: &Launch) -> Finding {
    let about = "script";
    match files::open(&launch.script) {
        Ok(_) => Finding::good(about, launch.script.display().to_string()),
        Err(error) => Finding::wrong(
            Grade::Bad,
            about,
            format!("{}: {error}", launch.script.display()),
            "SCRIPT is relative to --cwd",
        ),
    }
}

/// Units that run rcluster and would not let it do what it can.
fn unit() -> Vec<Finding> {
    let about = "systemd unit";
    let folders = [
        PathBuf::from("/etc/systemd/system"),
        PathBuf::from("/usr/lib/systemd/system"),
    ];
    let files = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let mut findings = vec![];
    for path in files
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "service"))
    {
        let text = files::read_text(&path, files::LONGEST).unwrap_or_default();
        let ours = text
            .lines()
            .any(|line| line.starts_with("ExecStart=") && line.contains("rcluster"));
        if !ours {
            continue;
        }
        let lacks: Vec<_> = [
            "Type=notify",
            "FileDescriptorStoreMax=",
            "WatchdogSec=",
            "OOMPolicy=continue",
        ]
        .into_iter()
        .filter(|wanted| !text.contains(wanted))
        .collect();
        let name = path.display().to_string();
        findings.push(if lacks.is_empty() {
            Finding::good(about, name)
        } else {
            let advice = format!(
                "it lacks {}: compare with `rcluster systemd-unit`",
                lacks.join(", ")
            );
            Finding::wrong(Grade::Warning, about, name, advice)
        });
    }
    findings
}
