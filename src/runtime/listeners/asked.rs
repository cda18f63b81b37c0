//! What a query asks for, in our terms.

use std::{net::IpAddr, path::PathBuf};

use rcluster_core::{
    ipc::{AddressType, Query},
    supervisor::Pid,
};
use rcluster_sys::listener::{self, BindError, Endpoint};

/// Whether a query asks for any port of the loopback interface.
pub(super) fn is_private(query: &Query) -> bool {
    let address = query.address.as_deref().and_then(|a| a.parse().ok());
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    query.port == 0 && query.fd.is_none() && address.is_some_and(is_loopback)
}

/// Whether a path holds a process's number, as a whole one.
pub(super) fn names(endpoint: &Endpoint, pid: Pid) -> bool {
    let name = match endpoint {
        Endpoint::Path(path) => path.as_os_str().as_encoded_bytes(),
        Endpoint::Abstract(name) => name,
        Endpoint::Tcp { .. } | Endpoint::Udp { .. } => return false,
    };
    let pid = pid.to_string();
    let mut numbers = name.split(|byte| !byte.is_ascii_digit());
    numbers.any(|number| number == pid.as_bytes())
}

/// What a query asks for, in our terms.
pub(super) fn endpoint(query: &Query) -> Result<Endpoint, BindError> {
    let wrong = |errno, hint: &str| BindError::refused(query.key(), errno, hint);
    if query.address_type == AddressType::Unix {
        let path = query.address.as_deref().unwrap_or("");
        // Node makes every path absolute first, an abstract name too: `cwd/\0name`
        // (`cluster._getServer` in `lib/internal/cluster/child.js`).
        let name = path
            .strip_prefix('\0')
            .or_else(|| path.split_once("/\0").map(|(_, name)| name));
        return match name {
            Some(name) => Ok(Endpoint::Abstract(
                name.trim_end_matches('\0').as_bytes().to_vec(),
            )),
            None if path.is_empty() => Err(wrong(libc::EINVAL, "the path is empty")),
            None => Ok(Endpoint::Path(PathBuf::from(path))),
        };
    }
    let port = u16::try_from(query.port).map_err(|_| wrong(libc::EINVAL, "the port is wrong"))?;
    let (ip, scope) = match query.address.as_deref().filter(|a| !a.is_empty()) {
        None => (None, 0),
        Some(text) => {
            let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| {
                (ip, listener::interface_index(scope))
            });
            let ip = ip
                .parse::<IpAddr>()
                .map_err(|_| wrong(libc::EINVAL, "not an IP address"))?;
            (Some(ip), scope.unwrap_or(0))
        }
    };
    // UV_TCP_IPV6ONLY and UV_UDP_IPV6ONLY are both 1, UV_UDP_REUSEADDR is 4 (uv.h).
    let v6_only = query.flags & 1 != 0;
    Ok(match query.address_type {
        AddressType::Udp4 | AddressType::Udp6 => Endpoint::Udp {
            ip: ip.unwrap_or(match query.address_type {
                AddressType::Udp6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
                AddressType::Udp4 | AddressType::Tcp4 | AddressType::Tcp6 | AddressType::Unix => {
                    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
                }
            }),
            scope,
            port,
            v6_only,
            reuse_addr: query.flags & 4 != 0,
        },
        AddressType::Tcp4 | AddressType::Tcp6 | AddressType::Unix => Endpoint::Tcp {
            ip,
            scope,
            port,
            v6_only,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_process_by_its_whole_number() {
        let named = |path: &str| names(&Endpoint::Path(path.into()), Pid(410));
        assert!(named("/tmp/x.410"));
        assert!(named("/tmp/410/x.sock"));
        assert!(named("/tmp/x-410.sock"));
        assert!(!named("/tmp/x.4104"));
        assert!(!named("/tmp/x.1410"));
        assert!(!named("/tmp/x.sock"));
    }
}
