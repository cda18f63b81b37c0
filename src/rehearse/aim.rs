//! Where the load may go: one of the app's listeners, on this machine only.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use thiserror::Error;

use crate::admin::Status;
use rcluster_ledger::Target;

/// Why there is nothing to aim at.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum AimError {
    /// No stream socket.
    #[error("the app listens nowhere that HTTP could be spoken{}", unused(.0))]
    Nowhere(Vec<String>),
    /// More than one.
    #[error("the app has several listeners: name one with --at: {}", .0.join(", "))]
    Several(Vec<String>),
    /// `--at` is none of them.
    #[error("the app does not listen on `{at}` (--at), but on {}", .all.join(", "))]
    NotThere {
        /// `--at`
        at: String,
        /// Where it does.
        all: Vec<String>,
    },
    /// Load for other machines, or for other ways into this one.
    #[error(
        "the app listens on {0}, which is no loopback address: rehearse sends load to this machine only; let the app listen on 127.0.0.1, ::1 or on every address"
    )]
    Elsewhere(String),
    /// A socket that the ledger cannot connect to.
    #[error("the app listens on {0}, an abstract socket; rehearse knows TCP and unix socket files")]
    Abstract(String),
}

fn unused(binds: &[String]) -> String {
    if binds.is_empty() {
        String::new()
    } else {
        let binds = binds.join(", ");
        format!("; {binds} is bound (--bind), but the app does not use it")
    }
}

/// Picks the listener.
///
/// # Errors
/// An [`AimError`], each of which the user can do something about.
pub(super) fn aim(status: &Status, at: Option<&str>) -> Result<(String, Target), AimError> {
    let used = status
        .listeners
        .iter()
        .map(|l| l.address.clone())
        .filter(|a| !a.starts_with("udp:") && !status.unused_binds.contains(a));
    let mut streams: Vec<String> = used.collect();
    streams.dedup();
    let address = match (at, &streams[..]) {
        (_, []) => return Err(AimError::Nowhere(status.unused_binds.clone())),
        (Some(at), all) if all.iter().any(|a| a == at) => at.to_owned(),
        (Some(at), _) => {
            return Err(AimError::NotThere {
                at: at.to_owned(),
                all: streams,
            });
        }
        (None, [one]) => one.clone(),
        (None, _) => return Err(AimError::Several(streams)),
    };
    let target = target(&address)?;
    Ok((address, target))
}

fn target(address: &str) -> Result<Target, AimError> {
    if let Some(path) = address.strip_prefix("unix:") {
        return if path.starts_with('@') {
            Err(AimError::Abstract(address.to_owned()))
        } else {
            Ok(Target::Unix(PathBuf::from(path)))
        };
    }
    let elsewhere = || AimError::Elsewhere(address.to_owned());
    let socket: SocketAddr = address.parse().map_err(|_| elsewhere())?;
    let ip = match socket.ip() {
        ip if ip.to_canonical().is_loopback() => ip,
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => loopback_of_any(socket.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => return Err(elsewhere()),
    };
    Ok(Target::Tcp(SocketAddr::new(ip, socket.port())))
}

/// `::` may take both families, or IPv6 only, and a container may have no `::1`.
fn loopback_of_any(port: u16) -> IpAddr {
    let six = IpAddr::from(Ipv6Addr::LOCALHOST);
    let reached = TcpStream::connect_timeout(&(six, port).into(), Duration::from_secs(1));
    if reached.is_ok() {
        six
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(listeners: &[&str], unused: &[&str]) -> Status {
        let listeners: Vec<_> = listeners
            .iter()
            .map(|a| serde_json::json!({"address": a}))
            .collect();
        serde_json::from_value(serde_json::json!({
            "version": 1, "name": "x", "pid": 1, "state": "serving", "generation": 1, "wanted": 1, "workers": [], "reload": null,
            "reloads_done": 0, "reloads_failed": 0, "last_reload_error": null, "drained_total": 0, "cut_total": 0, "waiting": [],
            "listeners": listeners, "unused_binds": unused,
        }))
        .unwrap()
    }

    #[test]
    fn only_this_machine() {
        for (address, to) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.1.2.3:80", "127.1.2.3:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"),
        ] {
            assert_eq!(target(address), Ok(Target::Tcp(to.parse().unwrap())));
        }
        assert_eq!(target("unix:/x/y"), Ok(Target::Unix("/x/y".into())));
        for address in [
            "10.0.0.1:80",
            "192.168.1.1:80",
            "8.8.8.8:80",
            "[2001:db8::1]:80",
            "[::ffff:10.0.0.1]:80",
            "[fe80::1%2]:80",
            "host:80",
        ] {
            assert_eq!(target(address), Err(AimError::Elsewhere(address.into())));
        }
        assert_eq!(
            target("unix:@x"),
            Err(AimError::Abstract("unix:@x".to_owned()))
        );
    }

    #[test]
    fn one_listener_or_the_named_one() {
        let two = status(&["127.0.0.1:1", "127.0.0.1:2", "udp:127.0.0.1:3"], &[]);
        let names = vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        assert_eq!(aim(&two, None), Err(AimError::Several(names.clone())));
        assert_eq!(aim(&two, Some("127.0.0.1:2")).unwrap().0, "127.0.0.1:2");
        assert_eq!(
            aim(&two, Some("127.0.0.1:3")),
            Err(AimError::NotThere {
                at: "127.0.0.1:3".into(),
                all: names
            })
        );
        let bound = status(&["127.0.0.1:1", "127.0.0.1:2"], &["127.0.0.1:1"]);
        assert_eq!(aim(&bound, None).unwrap().0, "127.0.0.1:2");
        let none = status(&["127.0.0.1:1"], &["127.0.0.1:1"]);
        assert_eq!(
            aim(&none, None),
            Err(AimError::Nowhere(vec!["127.0.0.1:1".into()]))
        );
    }
}
