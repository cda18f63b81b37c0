//! `--bind`.

use std::{
    fmt,
    net::{IpAddr, ToSocketAddrs},
    path::Path,
    str::FromStr,
};

use super::{ConfigError, absolute};
use crate::cli::RunArgs;
use rcluster_sys::listener::Endpoint;

/// Addresses to bind, and sockets that somebody else has bound (`fd://`).
///
/// # Errors
/// [`ConfigError::Bind`].
pub(super) fn binds(
    args: &RunArgs,
    pwd: &Path,
) -> Result<(Vec<Endpoint>, Vec<String>), ConfigError> {
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
    let (mut binds, mut handed) = (vec![], vec![]);
    for text in &texts {
        match text.strip_prefix("fd://") {
            Some(which) => handed.push(which_fd(text, which)?),
            None => binds.push(bind(text, pwd)?),
        }
    }
    Ok((binds, handed))
}

/// A number from 3 on, or a name as `FileDescriptorName=` allows it (systemd.socket(5)).
fn which_fd(text: &str, which: &str) -> Result<String, ConfigError> {
    let named = which.parse::<i64>().is_err()
        && (1..=255).contains(&which.len())
        && which.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if named || which.parse::<i32>().is_ok_and(|number| number >= 3) {
        return Ok(which.to_owned());
    }
    let why = format!("`{which}` is neither a descriptor from 3 on nor a socket's name");
    Err(ConfigError::Bind(text.to_owned(), why))
}

fn bind(text: &str, pwd: &Path) -> Result<Endpoint, ConfigError> {
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
        let show = |text: &str| match bind(text, Path::new("/srv")) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => format!("{error}"),
        };
        assert_eq!(show("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(show(":8080"), "[::]:8080");
        assert_eq!(show("8080"), "[::]:8080");
        assert_eq!(show("[::1]:0"), "[::1]:0");
        assert_eq!(show("unix:run/x.sock"), "unix:/srv/run/x.sock");
        assert_eq!(show("unix:@x"), "unix:@x");
        let fd = |text: &str| which_fd(text, &text[5..]).map_err(|e| e.to_string());
        assert_eq!(fd("fd://3").unwrap(), "3");
        assert_eq!(fd("fd://shop.socket").unwrap(), "shop.socket");
        for wrong in ["fd://", "fd://2", "fd://-1", "fd://a:b", "fd://99999999999"] {
            assert!(fd(wrong).unwrap_err().contains("or fd://"), "{wrong}");
        }
        for wrong in ["unix:", "::1:80", "host", "1.2.3.4:65536", "1.2.3.4:"] {
            assert!(show(wrong).contains("write HOST:PORT"), "{wrong}");
        }
    }
}
