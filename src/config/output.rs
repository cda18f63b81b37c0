//! What is done with what workers print.

use std::path::Path;

use super::ConfigError;
use crate::{
    cli::{FormatArg, RunArgs},
    logs,
};
use rcluster_sys::{identity::Identity, terminal};

/// What the options ask for; `None`: workers inherit the master's stdout and stderr.
pub(super) fn output(args: &RunArgs, pwd: &Path) -> Result<Option<logs::Plan>, ConfigError> {
    let given = args.logs.log_file.as_ref();
    let given = given.filter(|path| !path.as_os_str().is_empty());
    let wrong = |path: &Path, why| ConfigError::LogFile(path.to_owned(), why);
    let path = given
        .map(|path| logs::PathPlan::new(pwd.join(path)).map_err(|why| wrong(path, why)))
        .transpose()?;
    Ok(
        (args.logs.log_prefix || path.is_some()).then(|| logs::Plan {
            prefix: args.logs.log_prefix,
            json: args.logs.log_format == FormatArg::Json,
            file: path,
        }),
    )
}

/// Pipes instead of the master's stdout and stderr, where these are files and workers are another user. Who holds a
/// file's descriptor can empty and overwrite it, whoever owns the file (ftruncate(2)).
pub(super) fn instead_of_files(identity: Option<&Identity>) -> Option<logs::Plan> {
    let other = identity.and_then(Identity::account).is_some();
    (other && terminal::prints_to_files()).then_some(logs::Plan {
        prefix: false,
        json: false,
        file: None,
    })
}
