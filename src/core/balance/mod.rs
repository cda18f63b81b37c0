//! Who gets the next connection: weights, orders and tables of seats, and the programs that tell the kernel.
//!
//! Pure: no descriptor, no clock, no runtime. `sys::steer` carries a program into the kernel.
//! A *seat* is the index of a socket in its `SO_REUSEPORT` group.

pub mod cbpf;
pub mod ebpf;
mod mode;
pub mod policy;

pub use cbpf::{Program, TooLong};
pub use mode::Balance;
pub use policy::{Seat, Weigher, buckets, fairness, schedule};
