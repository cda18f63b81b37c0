//! Node's channel protocol, as a primary that is not Node must speak it.
//!
//! Pure: bytes in, typed messages out, and the other way round. It owns the
//! framing, the vocabulary and the order of handles. It must not touch
//! sockets or know what the master does with a message.

pub mod bounds;
mod channel;
mod codec;
mod message;
mod numbers;
pub mod outbound;
mod text;

pub use channel::{Channel, Outgoing, Overflow, Refused, UnexpectedAck};
pub use codec::{Line, LineDecoder};
pub use message::{AddressType, Inbound, Listening, Malformed, Query, ShimMessage, Told};
