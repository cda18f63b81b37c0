//! `--admin`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{ConfigError, absolute};
use crate::cli::AdminArgs;

/// The API over TCP.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Admin {
    /// Where it listens; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// The file with the token for changes, absolute.
    pub token_file: Option<PathBuf>,
}

/// # Errors
/// [`ConfigError::Admin`], [`ConfigError::LoneToken`].
pub(super) fn admin(args: &AdminArgs, pwd: &Path) -> Result<Option<Admin>, ConfigError> {
    let token_file = args
        .admin_token_file
        .as_ref()
        .map(|path| absolute(pwd, path));
    let given = args.admin.as_deref().filter(|text| !text.is_empty());
    let Some(text) = given else {
        return if token_file.is_some() {
            Err(ConfigError::LoneToken)
        } else {
            Ok(None)
        };
    };
    // No name server is asked: a name could stand for more than one address, or for another one tomorrow.
    let local = text.strip_prefix("localhost:").or(text.strip_prefix(':'));
    let address = match local {
        Some(port) => port
            .parse()
            .ok()
            .map(|port: u16| (Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().ok(),
    };
    let address = address.ok_or_else(|| ConfigError::Admin(text.to_owned()))?;
    Ok(Some(Admin {
        address,
        token_file,
    }))
}
