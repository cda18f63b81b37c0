//! How a master ended.

use crate::admin::StopReply;
use rcluster_core::exit_code::ExitCode;

/// How the master ended.
#[derive(Debug)]
pub struct Verdict {
    /// Its exit code.
    pub code: ExitCode,
    /// Why, when it is a failure.
    pub reason: Option<String>,
    /// How many workers ended with the error of a first boot that failed, and how many were wanted.
    pub alike: Option<(usize, u32)>,
}

impl From<&Verdict> for StopReply {
    fn from(verdict: &Verdict) -> Self {
        Self {
            code: verdict.code as u8,
            reason: verdict.reason.clone(),
        }
    }
}
