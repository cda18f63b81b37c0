//! The master's own upgrade: another binary in the same process, which goes on
//! where this one stands. ARCHITECTURE.md tells why it is made as it is.

mod attempt;
mod fds;
mod freeze;
mod hold;
mod pack;
mod probe;
mod resume;
mod state;

pub(in crate::runtime) use attempt::Upgrade;
pub(in crate::runtime) use fds::{Fd, Packing, Unpacking};
pub(in crate::runtime) use hold::{Hold, Serving};
pub use probe::{ASK, answer};
pub use resume::{Resumption, resumption};
pub(in crate::runtime) use resume::{clock, take_over, view};
pub(in crate::runtime) use state::State;
pub use state::StateError;
