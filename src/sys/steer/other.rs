//! Where there is no BPF for sockets.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rcluster_core::balance::cbpf::Program;

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not on this system.
///
/// # Errors
/// Always.
pub fn attach_classic(_socket: &OwnedFd, _program: &Program) -> io::Result<()> {
    unsupported()
}

/// Not on this system.
///
/// # Errors
/// Always.
pub fn detach(_socket: &OwnedFd) -> io::Result<()> {
    unsupported()
}

/// Not on this system: nobody has one.
#[derive(Debug)]
pub enum Kernel {}

impl Kernel {
    /// Not on this system.
    ///
    /// # Errors
    /// Always.
    pub fn load(_seats: u32) -> io::Result<Self> {
        unsupported()
    }

    /// Not on this system.
    ///
    /// # Errors
    /// Always.
    pub fn resume(_descriptors: [OwnedFd; 4]) -> io::Result<Self> {
        unsupported()
    }

    /// Not on this system.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        match *self {}
    }

    /// Not on this system.
    ///
    /// # Errors
    /// Never called.
    pub fn attach(&self, _socket: &OwnedFd) -> io::Result<()> {
        match *self {}
    }

    /// Not on this system.
    ///
    /// # Errors
    /// Never called.
    pub fn put(&self, _seat: u32, _socket: &OwnedFd) -> io::Result<()> {
        match *self {}
    }

    /// Not on this system.
    ///
    /// # Errors
    /// Never called.
    pub fn set_schedule(&self, _order: &[u32]) -> io::Result<()> {
        match *self {}
    }
}
