//! Addresses of `--bind`.

use std::{
    fmt,
    net::{IpAddr, ToSocketAddrs},
    path::Path,
    str::FromStr,
};

use super::{ConfigError, absolute};
use crate::{cli::RunArgs, sys::listener::Endpoint};

/// What `--bind` or its variable says.
///
/// # Errors
/// [`ConfigError::Bind`] for the first address that is none.
pub(super) fn all(args: &RunArgs, pwd: &Path) -> Result<Vec<Endpoint>, ConfigError> {
    let texts: Vec<String> = if args.bind.is_empty() {
        let env = std::env::var("RCLUSTER_BIND").unwrap_or_default();
        env.split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect()
    } else {
        args.bind.clone()
    };
    texts.iter().map(|text| one(text, pwd)).collect()
}

fn one(text: &str, pwd: &Path) -> Result<Endpoint, ConfigError> {
    let wrong = |why: &dyn fmt::Display| ConfigError::Bind(text.to_owned(), why.to_string());
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.strip_prefix('@') {
            Some(name) if !name.is_empty() => Ok(Endpoint::Abstract(name.as_bytes().to_vec())),
            _ if path.is_empty() || path == "@" => Err(wrong(&"the path is empty")),
            _ => Ok(Endpoint::Path(absolute(pwd, Path::new(path)))),
        };
    }
    let (udp, text) = text
        .strip_prefix("udp:")
        .map_or((false, text), |rest| (true, rest));
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port
        .parse::<u16>()
        .map_err(|_| wrong(&format_args!("`{port}` is no port from 0 to 65535")))?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return Err(wrong(&"an IPv6 address stands in brackets"));
    }
    let host = bracketed.unwrap_or(host);
    let socket = |ip: Option<IpAddr>, scope| {
        if udp {
            return Endpoint::Udp {
                ip: ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
                scope,
                port,
                v6_only: false,
                reuse_addr: false,
            };
        }
        Endpoint::Tcp {
            ip,
            scope,
            port,
            v6_only: false,
        }
    };
    if host.is_empty() || host == "*" {
        return Ok(socket(None, 0));
    }
    if let Ok(ip) = IpAddr::from_str(host) {
        return Ok(socket(Some(ip), 0));
    }
    let address = (host, port)
        .to_socket_addrs()
        .map_err(|_| wrong(&format_args!("the host `{host}` is not known")))?
        .next()
        .ok_or_else(|| wrong(&format_args!("the host `{host}` has no address")))?;
    let scope = match address {
        std::net::SocketAddr::V4(_) => 0,
        std::net::SocketAddr::V6(v6) => v6.scope_id(),
    };
    Ok(socket(Some(address.ip()), scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let show = |text: &str| match one(text, Path::new("/srv")) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => format!("{error}"),
        };
        assert_eq!(show("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(show(":8080"), "[::]:8080");
        assert_eq!(show("8080"), "[::]:8080");
        assert_eq!(show("[::1]:0"), "[::1]:0");
        assert_eq!(show("unix:run/x.sock"), "unix:/srv/run/x.sock");
        assert_eq!(show("unix:@x"), "unix:@x");
        for wrong in ["unix:", "::1:80", "host", "1.2.3.4:65536", "1.2.3.4:"] {
            assert!(show(wrong).contains("write HOST:PORT"), "{wrong}");
        }
    }
}
