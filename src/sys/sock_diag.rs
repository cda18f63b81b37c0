//! Who listens, asked of the kernel by `sock_diag(7)`: it answers with listening sockets alone, where
//! `/proc/net/tcp` names every connection of the machine.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use socket2::SockRef;

/// Bytes of `struct nlmsghdr` of netlink(7).
const HEAD: usize = 16;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Where the port and the inode stand in `struct inet_diag_msg`.
const PORT: usize = 4;
const INODE: usize = 68;
/// `SOCK_DIAG_BY_FAMILY`, `NLM_F_REQUEST | NLM_F_DUMP`, `NLMSG_ERROR`, `NLMSG_DONE` of `linux/netlink.h` and `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `TCP_LISTEN` as a bit of `idiag_states`.
const LISTEN: u32 = 1 << 10;
/// The kernel answers at once.
const LIMIT: Duration = Duration::from_secs(1);

/// Port and inode of every listening TCP socket.
///
/// # Errors
/// The errno of `socket(2)`, `send(2)` or `recv(2)`, or the one that the kernel answered with: a sandbox may forbid it.
pub(super) fn listening() -> io::Result<Vec<(u16, u64)>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    SockRef::from(&netlink).set_read_timeout(Some(LIMIT))?;
    let mut found = vec![];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).map_err(io::Error::other)?;
        ask(&netlink, family, &mut found)?;
    }
    Ok(found)
}

fn ask(netlink: &OwnedFd, family: u8, found: &mut Vec<(u16, u64)>) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEAD + REQUEST);
    request.extend(((HEAD + REQUEST) as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    // Sequence and sender: there is one question at a time.
    request.extend([0; 8]);
    request.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend(LISTEN.to_ne_bytes());
    request.resize(HEAD + REQUEST, 0);
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if read(&answer[..length], found)? {
            return Ok(());
        }
    }
}

/// One packet of the answer; whether it was the last.
fn read(mut packet: &[u8], found: &mut Vec<(u16, u64)>) -> io::Result<bool> {
    let torn = || io::Error::from(io::ErrorKind::InvalidData);
    while let Some(head) = packet.first_chunk::<HEAD>() {
        let [a, b, c, d, kind, kind2, ..] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = packet.get(HEAD..length).ok_or_else(torn)?;
        match u16::from_ne_bytes([kind, kind2]) {
            DONE => return Ok(true),
            ERROR => {
                let errno = body.first_chunk().ok_or_else(torn)?;
                return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(*errno)));
            }
            _ => {
                let port = body.get(PORT..).and_then(|b| b.first_chunk());
                let inode = body.get(INODE..).and_then(|b| b.first_chunk());
                let (port, inode) = port.zip(inode).ok_or_else(torn)?;
                let inode = u32::from_ne_bytes(*inode);
                found.push((u16::from_be_bytes(*port), inode.into()));
            }
        }
        // Messages are aligned to four bytes.
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn those_who_listen_and_nobody_else() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(at) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            let client = TcpStream::connect(address).unwrap();
            let fd = listener.as_raw_fd();
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            let found = listening().unwrap();
            let ours: Vec<_> = found.iter().filter(|(p, _)| *p == address.port()).collect();
            assert_eq!(ours.len(), 1, "{ours:?}");
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", ours[0].1));
            let port = client.local_addr().unwrap().port();
            assert!(found.iter().all(|(p, _)| *p != port));
        }
    }

    #[test]
    fn what_is_torn_is_an_error() {
        let mut found = vec![];
        assert!(read(&[99; 20], &mut found).is_err());
        assert!(!read(&[1; 3], &mut found).unwrap());
    }
}
