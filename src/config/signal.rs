//! `--stop-signal`, and a signal by its name, for [`Launch`](super::Launch) written out.

use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

use super::ConfigError;

// As serde's `with` calls it.
#[expect(clippy::trivially_copy_pass_by_ref)]
pub(super) fn serialize<S: Serializer>(signal: &Signal, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(signal.as_str())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Signal, D::Error> {
    let name = String::deserialize(from)?;
    Signal::from_str(&name).map_err(|_| D::Error::custom(format!("no signal is called {name}")))
}

/// # Errors
/// [`ConfigError::Signal`], [`ConfigError::Uncatchable`].
pub(super) fn stop_signal(text: &str) -> Result<Signal, ConfigError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let signal = Signal::from_str(&format!("SIG{name}"))
        .map_err(|_| ConfigError::Signal(text.to_owned()))?;
    // No process can handle these: it would not be asked to end.
    if [Signal::SIGKILL, Signal::SIGSTOP].contains(&signal) {
        return Err(ConfigError::Uncatchable(signal));
    }
    Ok(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for text in ["TERM", "sigterm", "SIGTERM"] {
            assert_eq!(stop_signal(text).unwrap(), Signal::SIGTERM);
        }
        for wrong in ["NOPE", "", "15", "KILL", "sigstop"] {
            assert!(stop_signal(wrong).is_err(), "{wrong}");
        }
    }
}
