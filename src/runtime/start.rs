//! Starting a worker: its command line, its variables, its channel.

use std::{collections::BTreeSet, ffi::OsString};

use super::{effects::World, guarding::grace, inspect_port, link::Link, release::Release};
use rcluster_core::{
    balance::Balance,
    supervisor::{Generation, Pid, Slot, Terms, WorkerId},
};
use rcluster_sys::{
    fd_pass,
    spawn::{self, CHANNEL_FD, Spawn, Started},
};

/// What SIGUSR1 opens: a port that the kernel chooses then, and an inspector whose id is not published over HTTP, so
/// that no other user can connect to it. The shim hides both from `process.execArgv`.
const INSPECT: [&str; 2] = ["--inspect-port=127.0.0.1:0", "--inspect-publish-uid=stderr"];
/// What a service manager tells the master, and is not for its workers (`sd_notify(3)`, `sd_listen_fds(3)`, `sd_watchdog_enabled(3)`).
pub(super) const MANAGERS: [&str; 9] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "MAINPID",
];

/// `NODE_OPTIONS` as the workers of a release get it.
fn node_options(release: &Release) -> String {
    let own = release.env.iter().rfind(|(name, _)| name == "NODE_OPTIONS");
    let value = own.map(|(_, value)| value.clone());
    let value = value.or_else(|| std::env::var_os("NODE_OPTIONS"));
    value.map_or_else(String::new, |v| v.to_string_lossy().into_owned())
}

impl World {
    /// Starts a worker's process, with its channel.
    ///
    /// # Errors
    /// What failed, in words.
    pub(super) fn spawn(
        &mut self,
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        terms: &Terms,
    ) -> Result<Pid, String> {
        let release = self
            .releases
            .get(&generation)
            .ok_or_else(|| format!("generation {generation} is forgotten"))?;
        let mut what = self.command(id, slot, release, terms)?;
        let failed = |what: &str, error: &std::io::Error| format!("failed to {what}: {error}");
        let (ours, theirs) = fd_pass::channel().map_err(|e| failed("make a channel", &e))?;
        let program = what.program.display().to_string();
        if let Some(logs) = &self.logs {
            let pipes = logs.pipes(id.0, slot.0);
            what.output = Some(pipes.map_err(|e| failed("make pipes for its logs", &e))?);
        }
        what.channel = Some(theirs);
        let Started { pid, exec } =
            spawn::spawn(&what).map_err(|e| failed(&format!("start {program}"), &e))?;
        self.pids.insert(pid, id);
        self.detached.started(pid);
        self.starting.insert(id, (program, exec));
        self.links
            .insert(id, Link::open(id, ours, self.inbox.clone()));
        if let Some(guard) = &mut self.guard {
            // Its end is noticed as any child's, and the next one is told of all.
            let _ = guard.add(pid, grace(terms));
        }
        Ok(pid)
    }

    fn command(
        &self,
        id: WorkerId,
        slot: Slot,
        release: &Release,
        terms: &Terms,
    ) -> Result<Spawn, String> {
        let launch = &release.launch;
        let (script, cwd) = release.paths();
        let mut args: Vec<OsString> = launch.node_args.clone();
        let mut set: Vec<(OsString, OsString)> = vec![];
        let mut variable = |name: &str, value: String| set.push((name.into(), value.into()));
        variable("NODE_CHANNEL_FD", CHANNEL_FD.to_string());
        variable("NODE_CHANNEL_SERIALIZATION_MODE", "json".to_owned());
        variable("NODE_UNIQUE_ID", id.to_string());
        variable("NODE_APP_INSTANCE", slot.to_string());
        variable("RCLUSTER_SLOT", slot.to_string());
        let inspector = inspect_port::asked(&node_options(release), &args);
        if let Some(port) = inspector {
            let port = inspect_port::of_worker(port, id);
            args.push(format!("--inspect-port={port}").into());
        }
        if let Some(shim) = &self.shim {
            let path = shim
                .path()
                .map_err(|e| format!("failed to write the shim: {e}"))?;
            args.extend(["--require".into(), path.into()]);
            let inspects = inspector.is_some();
            if !inspects {
                // Opens nothing: it says where SIGUSR1 would.
                args.extend(INSPECT.map(OsString::from));
            }
            // `false`: SIGUSR1 shall open nothing at all.
            let stack = match (launch.captures_stacks(), inspects) {
                (true, _) => "true",
                (false, false) => "false",
                (false, true) => "null",
            };
            let permissions = |word: &str| {
                let name = word.split('=').next();
                matches!(name, Some("--permission" | "--experimental-permission"))
            };
            if args.iter().any(|a| permissions(&a.to_string_lossy()))
                || node_options(release).split_whitespace().any(permissions)
            {
                // Node 20 lets nobody read what `--require` names; later versions do.
                let mut allow = OsString::from("--allow-fs-read=");
                allow.push(path);
                args.push(allow);
            }
            let beat_ms = terms.beat.as_millis();
            let drain_ms = terms.drain_timeout.as_millis();
            let closing_ms = terms.closing.as_millis();
            let kill_ms = terms.kill_timeout.as_millis();
            let stop_signal = launch.stop_signal;
            let message = launch.shutdown_message;
            let metrics = self.config.request_metrics;
            // The more workers tell, the less often.
            let load_ms = match launch.balance {
                Balance::Shared => 0,
                Balance::Spread | Balance::SourceIp | Balance::LeastConn => {
                    (self.config.policy.workers * 5).clamp(100, 1000)
                }
            };
            variable(
                "RCLUSTER_SHIM",
                format!(
                    r#"{{"v":1,"drain_ms":{drain_ms},"closing_ms":{closing_ms},"kill_ms":{kill_ms},"stop_signal":"{stop_signal}","beat_ms":{beat_ms},"shutdown_message":{message},"metrics":{metrics},"load_ms":{load_ms},"stack":{stack}}}"#
                ),
            );
        }
        if let Some((user, home)) = self.config.identity.as_ref().and_then(|i| i.home.as_ref()) {
            variable("USER", user.clone());
            variable("LOGNAME", user.clone());
            variable("HOME", home.to_string_lossy().into_owned());
        }
        set.extend(release.env.iter().cloned());
        // An empty one counts as unset, wherever it comes from: `PORT=` in a unit or an env file.
        let given = set.iter().rfind(|(name, _)| name == "PORT");
        let given = given.map(|(_, port)| port.clone());
        let given = given.or_else(|| std::env::var_os("PORT"));
        if given.is_none_or(|port| port.is_empty())
            && let Some(port) = self.listeners.declared_port()
        {
            set.push(("PORT".into(), port));
        }
        let kept: BTreeSet<_> = set.iter().map(|(name, _)| name.clone()).collect();
        let remove = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| {
                let ours = name.as_encoded_bytes().starts_with(b"RCLUSTER_")
                    || name.to_str().is_some_and(|name| MANAGERS.contains(&name));
                ours && !kept.contains(name)
            })
            .collect();
        Ok(Spawn {
            program: release.node.clone(),
            name: None,
            args,
            script: Some((script, launch.args.clone())),
            cwd,
            safe_cwd: release.has_safe_cwd(),
            set,
            remove,
            identity: self.config.identity.clone(),
            stdin: None,
            output: None,
            channel: None,
            core: self.config.core_limit,
            expendable: true,
        })
    }
}
