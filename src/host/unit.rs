//! `rcluster systemd-unit`: a hardened unit for this app.

use std::{
    any::TypeId,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Arg, Args, parser::ValueSource};
use thiserror::Error;

use crate::{
    cli::{RunArgs, UnitArgs, command},
    config::{Config, absolute},
    settings::{Line, Loaded, Origin},
};
use rcluster_sys::listener::Endpoint;

/// The first version of systemd that knows `Type=notify-reload`.
const NOTIFY_RELOAD: u32 = 253;
/// Options that the unit says in its own words.
const OWN: [&str; 7] = [
    "user", "group", "control", "cwd", "pidfile", "log_file", "node",
];
/// Folders that are empty after a boot: links in them that name a program do not last.
const FLEETING: [&str; 3] = ["/run", "/tmp", "/var/run"];

/// A unit that cannot be written.
#[derive(Debug, Error)]
pub enum UnitError {
    /// systemd reads UTF-8.
    #[error("failed to write a unit: {0} is not UTF-8")]
    Text(PathBuf),
    /// The path of this binary.
    #[error("failed to find the path of this rcluster: {0}")]
    Binary(#[source] std::io::Error),
    /// `--socket` without addresses.
    #[error(
        "a socket unit needs to know where to listen: give --bind with addresses (fd:// is none)"
    )]
    NoBind,
    /// The service's PATH is not that of whoever writes the unit, so the unit names the program.
    #[error(
        "failed to find {0} in PATH: install Node.js, or name its binary with --node /PATH/TO/node"
    )]
    NoNode(PathBuf),
}

/// The service unit, or with `--socket` the socket unit beside it.
///
/// # Errors
/// A [`UnitError`].
pub fn unit(
    args: &UnitArgs,
    config: &Config,
    loaded: &Loaded,
    line: &Line,
) -> Result<String, UnitError> {
    if args.socket {
        return socket(config);
    }
    let node = loaded.settings.iter().find(|setting| setting.key == "node");
    // The file is read again by each reload, and a flag would count more.
    let node = match node.map(|setting| &setting.origin) {
        Some(Origin::File(_)) => None,
        _ => Some(node_path(config.launch.node.as_deref())?),
    };
    service(args, config, loaded, line, node.as_deref())
}

/// The absolute path of the node binary, symbolic links as they are: an update of the package changes where they lead.
fn node_path(given: Option<&Path>) -> Result<PathBuf, UnitError> {
    let name = given.unwrap_or(Path::new("node"));
    let path = if name.is_absolute() {
        name.to_owned()
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders)
            .map(|folder| folder.join(name))
            .find(|path| path.is_absolute() && is_program(path))
            .ok_or_else(|| UnitError::NoNode(name.to_owned()))?
    };
    // Version managers put a link for each shell there.
    let lasts = !FLEETING.iter().any(|folder| path.starts_with(folder));
    Ok(match path.canonicalize() {
        Ok(real) if !lasts => real,
        Ok(_) | Err(_) => path,
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The version of this host's systemd, as `systemctl --version` says it: `systemd 257 (257.9-1)`.
fn host_version() -> Option<u32> {
    let output = Command::new("systemctl").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

fn socket(config: &Config) -> Result<String, UnitError> {
    if config.binds.is_empty() {
        return Err(UnitError::NoBind);
    }
    let name = &config.name;
    let mut text = format!(
        "# {name}.socket: systemd listens before {name}.service runs, and while it does not.\n[Unit]\nDescription={name}, its sockets\n\n[Socket]\n"
    );
    for endpoint in &config.binds {
        let address = match endpoint {
            // For both families, as --bind :PORT is.
            Endpoint::Tcp { ip: None, port, .. } => port.to_string(),
            Endpoint::Tcp { .. } | Endpoint::Udp { .. } => endpoint.to_string(),
            Endpoint::Path(path) => utf8(path)?.to_owned(),
            Endpoint::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
        };
        let _ = writeln!(text, "ListenStream={}", plain(&address));
    }
    text.push_str("Backlog=4096\n\n[Install]\nWantedBy=sockets.target\n");
    Ok(text)
}

fn service(
    args: &UnitArgs,
    config: &Config,
    loaded: &Loaded,
    line: &Line,
    node: Option<&Path>,
) -> Result<String, UnitError> {
    let version = args.systemd.or_else(host_version);
    let reload = version.is_some_and(|version| version >= NOTIFY_RELOAD);
    let binary = std::env::current_exe().map_err(UnitError::Binary)?;
    let binary = quoted(binary.as_os_str())?;
    let (name, launch, policy) = (&config.name, &config.launch, &config.policy);
    let mut start = vec![binary.clone()];
    let log = config.output.as_ref().and_then(|plan| plan.file.as_ref());
    let logs = match log {
        Some(path) => {
            let mut word = OsString::from("--log-file=");
            word.push(path.as_path());
            start.push(quoted(&word)?);
            format!("ReadWritePaths={}\n", plain(utf8(path.folder())?))
        }
        None => String::new(),
    };
    if let Some(node) = node {
        let mut word = OsString::from("--node=");
        word.push(node);
        start.push(quoted(&word)?);
    }
    let given = given(line);
    if !given.iter().any(|word| word == "--reap-detached") {
        start.push("--reap-detached".to_owned());
    }
    for word in given {
        start.push(quoted(&word)?);
    }
    let variables = variables(loaded, line)?;
    let stop = policy.drain_timeout + policy.kill_timeout;
    let low = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp { port: 1..1024, .. });
    let capability = if config.binds.iter().any(low) {
        "CAP_NET_BIND_SERVICE"
    } else {
        ""
    };
    let user = match (&args.run.host.user, &args.run.host.group) {
        (None, None) => "# As whom the app runs; better not as root:\n#User=app".to_owned(),
        (user, group) => {
            let lines = [("User", user), ("Group", group)];
            let lines = lines
                .iter()
                .filter_map(|(key, value)| Some(format!("{key}={}", plain(value.as_ref()?))));
            lines.collect::<Vec<_>>().join("\n")
        }
    };
    let reloading = if reload {
        "Type=notify-reload".to_owned()
    } else {
        format!(
            "# Also for systemd before 253, which does not know Type=notify-reload.\nType=notify\n# Waits for the end of the reload, and fails if the new workers do.\nExecReload={binary} reload --control %t/rcluster-{name}/{name}.sock"
        )
    };
    Ok(format!(
        "# {name}.service: written by `rcluster systemd-unit`. Look at User=, ReadWritePaths= and the paths, then:
#   rcluster systemd-unit ... >/etc/systemd/system/{name}.service && systemctl daemon-reload && systemctl enable --now {name}
[Unit]
Description={name} (rcluster)
Documentation=man:rcluster(1)
Wants=network-online.target
After=network-online.target
# The port must come back, however often.
StartLimitIntervalSec=0

[Service]
{reloading}
NotifyAccess=main
ExecStart={start}
WorkingDirectory={cwd}
{user}
Environment=RCLUSTER_CONTROL=%t/rcluster-{name}/{name}.sock
{variables}RuntimeDirectory=rcluster-{name}
RuntimeDirectoryMode=0700
Restart=always
RestartSec=100ms
TimeoutStartSec={boot}s
TimeoutStopSec={stop}s
WatchdogSec=30s
# Keeps the listening sockets: after a death of the master clients queue and are not refused.
FileDescriptorStoreMax=64
# If the master is killed its workers finish their requests; its guard ends them after the drain timeout. KillMode=mixed
# would kill them at once. Detached processes that the app starts are ended by --reap-detached instead.
KillMode=process
# A worker that runs out of memory is replaced; the service goes on.
OOMPolicy=continue
LimitNOFILE=524288

# What the app may do. It writes nowhere but to /tmp (its own) and to what ReadWritePaths= names.
#ReadWritePaths={cwd}/data
{logs}NoNewPrivileges=yes
CapabilityBoundingSet={capability}
AmbientCapabilities={capability}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# Not MemoryDenyWriteExecute=: V8 compiles at run time.
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0027

[Install]
WantedBy=multi-user.target
",
        start = start.join(" "),
        cwd = plain(utf8(&launch.cwd)?),
        boot = policy.ready_timeout.as_secs() + 15,
        stop = stop.as_secs() + 15,
    ))
}

/// The variables that say what no option says, as the unit's lines: it is computed from them, and the service has
/// none of this shell's.
fn variables(loaded: &Loaded, line: &Line) -> Result<String, UnitError> {
    let known = RunArgs::augment_args(clap::Command::new("master"));
    let mut lines = String::new();
    let mut set = |name: &str, value: &OsStr| -> Result<(), UnitError> {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        // Dollar signs are literal here (systemd.exec(5)).
        let word = quoted(&word)?.replace("$$", "$");
        let _ = writeln!(lines, "Environment={word}");
        Ok(())
    };
    // The file does not name itself.
    let config = std::env::var_os("RCLUSTER_CONFIG").filter(|path| !path.is_empty());
    if let Some(path) = config {
        set(
            "RCLUSTER_CONFIG",
            absolute(&line.pwd, Path::new(&path)).as_os_str(),
        )?;
    }
    for setting in &loaded.settings {
        let options = &mut known.get_arguments();
        let option = options.find(|arg| arg.get_long() == Some(&setting.key));
        let (Origin::Variable(name), Some(option)) = (&setting.origin, option) else {
            if setting.key == "workers"
                && setting.origin == Origin::Default
                && let Some(count) = std::env::var_os("WEB_CONCURRENCY").filter(|v| !v.is_empty())
            {
                set("WEB_CONCURRENCY", &count)?;
            }
            continue;
        };
        if OWN.contains(&option.get_id().as_str()) {
            continue;
        }
        if let Some(value) = std::env::var_os(name) {
            set(name, &rooted(option, &value, &line.pwd))?;
        }
    }
    Ok(lines)
}

/// The value of an option, its paths absolute: the service has another working directory than this shell.
fn rooted(option: &Arg, value: &OsStr, pwd: &Path) -> OsString {
    let id = option.get_id().as_str();
    if option.get_value_parser().type_id() == TypeId::of::<PathBuf>() {
        return absolute(pwd, Path::new(value)).into();
    }
    let unix = |text: &str| match text.trim().strip_prefix("unix:") {
        Some(path) if !path.starts_with('@') => {
            format!("unix:{}", absolute(pwd, Path::new(path)).display())
        }
        _ => text.to_owned(),
    };
    match value.to_str() {
        Some(text) if id == "bind" => {
            let all: Vec<_> = text.split(',').map(unix).collect();
            all.join(",").into()
        }
        _ => value.to_owned(),
    }
}

/// The options as they were given, for the master itself.
fn given(line: &Line) -> Vec<OsString> {
    // It has been parsed once already: this cannot fail.
    let command = command(line.words.iter().map(OsString::as_os_str));
    let Ok(matches) = command.try_get_matches_from(&line.words) else {
        return vec![];
    };
    let Some((_, given)) = matches.subcommand() else {
        return vec![];
    };
    let known = RunArgs::augment_args(clap::Command::new("master"));
    let (mut options, mut last) = (vec![], vec![]);
    for option in known.get_arguments() {
        let id = option.get_id().as_str();
        if OWN.contains(&id) || given.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let values = given.get_raw(id).into_iter().flatten();
        match option.get_long() {
            None => last.extend(values.map(OsStr::to_owned)),
            Some(long) if option.get_action().takes_values() => {
                for value in values {
                    let mut word = OsString::from(format!("--{long}="));
                    word.push(rooted(option, value, &line.pwd));
                    options.push(word);
                }
            }
            Some(long) => options.push(format!("--{long}").into()),
        }
    }
    if !last.is_empty() {
        options.push("--".into());
    }
    options.append(&mut last);
    options
}

fn utf8(path: &Path) -> Result<&str, UnitError> {
    path.to_str()
        .ok_or_else(|| UnitError::Text(path.to_owned()))
}

/// A value that is no command line: only specifiers have to be escaped.
fn plain(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word of a command line (`systemd.service(5)`, "Command lines").
fn quoted(word: &OsStr) -> Result<String, UnitError> {
    let text = utf8(Path::new(word))?;
    let text = plain(text).replace('$', "$$");
    let bare = |c: char| c.is_ascii_alphanumeric() || "/._-=:%$,@+[]".contains(c);
    if !text.is_empty() && text.chars().all(bare) {
        return Ok(text);
    }
    let text = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    Ok(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_systemd_reads_them() {
        let show = |text: &str| quoted(OsStr::new(text)).unwrap();
        assert_eq!(show("/srv/app.js"), "/srv/app.js");
        assert_eq!(show("two words"), "\"two words\"");
        assert_eq!(show("50% of $HOME \"x\""), "\"50%% of $$HOME \\\"x\\\"\"");
        assert_eq!(show(""), "\"\"");
    }
}
