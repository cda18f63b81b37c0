//! Carries a program that chooses among the sockets of a `SO_REUSEPORT` group into the kernel: classic BPF, which
//! needs no right, or eBPF by bpf(2), which needs `CAP_BPF`.
//!
//! A program belongs to the group, not to the socket that it was attached through; attaching another one replaces
//! it at one moment. A socket that is closed or shut down leaves the group, and the last socket takes its number: a
//! classic program must then be made anew for the new numbers. When it listens again it comes back as the last one.
//! An eBPF program knows sockets by seat and not by number, but the seat is empty until the socket is [`Kernel::put`] again.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub use linux::{Kernel, attach_classic, detach};
#[cfg(not(target_os = "linux"))]
pub use other::{Kernel, attach_classic, detach};

#[cfg(all(test, target_os = "linux"))]
mod tests;
