//! Against the real kernel, on loopback.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::{Kernel, attach_classic, detach};
use crate::{
    listener::{
        self, BindError, Bound, Endpoint, FileOptions, accept, has_reuse_port, is_listening, join,
        relisten,
    },
    safe_path::Use,
};
use rcluster_core::balance::{cbpf::Program, policy};

const BACKLOG: i32 = 4096;
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn tcp(ip: Option<IpAddr>, port: u16) -> Endpoint {
    Endpoint::Tcp {
        ip,
        scope: 0,
        port,
        v6_only: false,
    }
}

fn bind(endpoint: &Endpoint, backlog: i32) -> Result<Bound, BindError> {
    let file = FileOptions {
        how: Use::Own,
        mode: 0,
    };
    listener::bind(endpoint, backlog, &file)
}

/// Sockets on one port, by seat, and the port.
struct Group {
    seats: Vec<OwnedFd>,
    local: Endpoint,
    port: u16,
}

impl Group {
    fn new(ip: Option<IpAddr>, count: usize) -> Self {
        let first = bind(&tcp(ip, 0), BACKLOG).expect("a port");
        assert!(!has_reuse_port(&first.socket));
        let Endpoint::Tcp { port, .. } = first.local else {
            panic!("{:?}", first.local)
        };
        let mut group = Self {
            seats: vec![first.socket],
            local: first.local,
            port,
        };
        while group.seats.len() < count {
            group.grow();
        }
        group
    }

    fn grow(&mut self) {
        let more = join(&self.seats[0], &self.local, BACKLOG).expect("one more");
        self.seats.push(more);
    }

    fn weigh(&self, weights: &[u32]) {
        let program = Program::weighted(weights).expect("short");
        attach_classic(&self.seats[0], &program).expect("attached");
    }

    /// Connections that wait on each seat that listens. They are closed.
    fn counts(&self) -> Vec<usize> {
        let count =
            |seat: &OwnedFd| std::iter::from_fn(|| accept(seat).expect("an accept")).count();
        let listening = |seat| if is_listening(seat) { count(seat) } else { 0 };
        self.seats.iter().map(listening).collect()
    }

    /// Connects so often; what each seat got.
    fn load(&self, ip: IpAddr, times: usize) -> Vec<usize> {
        let clients: Vec<_> = (0..times).map(|_| connect(ip, self.port)).collect();
        let counts = self.counts();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        counts
    }
}

fn connect(ip: IpAddr, port: u16) -> TcpStream {
    TcpStream::connect(SocketAddr::new(ip, port)).expect("a connection")
}

/// The eBPF program on a group, or the reason why not.
#[expect(
    clippy::disallowed_macros,
    reason = "a test that proved nothing says so"
)]
fn loaded(group: &Group) -> Option<Kernel> {
    let kernel = match Kernel::load(16) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: this needs CAP_BPF: {error}");
            return None;
        }
        other => other.expect("a program"),
    };
    for (seat, socket) in group.seats.iter().enumerate() {
        kernel.put(seat as u32, socket).expect("a seat");
    }
    kernel.attach(&group.seats[0]).expect("attached");
    Some(kernel)
}

#[test]
fn weights_decide_how_much_each_seat_gets() {
    for (bound, ip) in [(Some(V4), V4), (Some(V6), V6), (None, V4), (None, V6)] {
        let group = Group::new(bound, 4);
        group.weigh(&[1, 0, 2, 5]);
        let counts = group.load(ip, 800);
        assert_eq!(counts[1], 0, "{counts:?}");
        // Five deviations off would be one failure in a million runs.
        for (seat, share) in [(0, 0.125), (2, 0.25), (3, 0.625)] {
            let deviation = (800.0 * share * (1.0_f64 - share)).sqrt();
            let off = counts[seat] as f64 - 800.0 * share;
            assert!(off.abs() < 5.0 * deviation, "{counts:?}");
        }
    }
}

#[test]
fn addresses_stay_where_they_are_and_only_those_of_a_lost_seat_move() {
    let group = Group::new(Some(V4), 4);
    let of = |eligible: &[bool]| {
        let buckets = policy::buckets(eligible, 256);
        let program = Program::by_source(&buckets).expect("short");
        attach_classic(&group.seats[0], &program).expect("attached");
        (1..=64_u8)
            .map(|host| seat_of(&group, host))
            .collect::<Vec<_>>()
    };
    let before = of(&[true; 4]);
    assert!((0..4).all(|seat| before.contains(&seat)), "{before:?}");
    assert_eq!(before, of(&[true; 4]));
    let without = of(&[true, true, false, true]);
    for (old, new) in before.iter().zip(&without) {
        assert!(*new != 2 && (old == new || *old == 2));
    }
    assert_eq!(before, of(&[true; 4]));
}

/// The seat that a client at 127.0.0.`host` gets, twice the same.
fn seat_of(group: &Group, host: u8) -> usize {
    let client = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
        socket.bind(&from.into()).expect("a loopback address");
        let to = SocketAddr::new(V4, group.port);
        socket.connect(&to.into()).expect("a connection");
        socket
    };
    let clients = [client(), client()];
    let counts = group.counts();
    drop(clients);
    let seat = counts.iter().position(|count| *count == 2);
    seat.unwrap_or_else(|| panic!("127.0.0.{host}: {counts:?}"))
}

#[test]
fn an_ipv6_client_stays_where_it_is() {
    let group = Group::new(None, 4);
    let program = Program::by_source(&policy::buckets(&[true; 4], 256)).expect("short");
    attach_classic(&group.seats[0], &program).expect("attached");
    for ip in [V6, V4] {
        let counts = group.load(ip, 12);
        assert_eq!(counts.iter().max(), Some(&12), "{counts:?}");
    }
}

#[test]
fn an_order_in_the_kernel_is_exact() {
    let group = Group::new(None, 4);
    let Some(kernel) = loaded(&group) else { return };
    kernel.set_schedule(&[0, 1, 2, 3]).expect("an order");
    assert_eq!(group.load(V4, 64), [16; 4]);
    assert_eq!(group.load(V6, 64), [16; 4]);
    assert_eq!(kernel.asked().expect("a count"), 128);
    kernel
        .set_schedule(&policy::schedule(&[3, 1, 0, 2], 64))
        .expect("an order");
    assert_eq!(group.load(V4, 60), [30, 10, 0, 20]);
    let longest: Vec<u32> = (0..1024).map(|turn| turn / 256).collect();
    kernel.set_schedule(&longest).expect("an order");
    assert_eq!(group.load(V4, 1024), [256; 4]);
    assert!(kernel.set_schedule(&[0; 1025]).is_err());
}

#[test]
fn an_order_is_replaced_while_connections_come() {
    let group = Group::new(Some(V4), 4);
    let Some(kernel) = loaded(&group) else { return };
    kernel.set_schedule(&[0, 1]).expect("an order");
    let port = group.port;
    let clients =
        std::thread::spawn(move || (0..2000).map(|_| connect(V4, port)).collect::<Vec<_>>());
    let mut turns = 0;
    while !clients.is_finished() {
        // Each order names two seats of the four, never seat 3.
        let order: &[u32] = [[0, 1], [1, 2], [2, 0]][turns % 3].as_slice();
        kernel.set_schedule(order).expect("an order");
        turns += 1;
    }
    let clients = clients.join().expect("clients");
    let counts = group.counts();
    assert_eq!(counts.iter().sum::<usize>(), clients.len());
    assert_eq!(counts[3], 0, "{counts:?} after {turns} orders");
}

#[test]
fn weights_are_replaced_while_connections_come() {
    let group = Group::new(Some(V4), 4);
    group.weigh(&[1, 1, 0, 0]);
    let port = group.port;
    let clients =
        std::thread::spawn(move || (0..2000).map(|_| connect(V4, port)).collect::<Vec<_>>());
    let mut turns = 0;
    while !clients.is_finished() {
        group.weigh([[0, 1, 1, 0], [1, 0, 1, 0], [3, 1, 2, 0]][turns % 3].as_slice());
        turns += 1;
    }
    let clients = clients.join().expect("clients");
    let counts = group.counts();
    assert_eq!(counts.iter().sum::<usize>(), clients.len());
    assert_eq!(counts[3], 0, "{counts:?} after {turns} programs");
}

#[test]
fn a_group_grows_under_a_program() {
    let mut group = Group::new(Some(V4), 2);
    group.weigh(&[1, 1]);
    group.grow();
    let counts = group.load(V4, 64);
    assert_eq!(counts[2], 0, "not before a program names it: {counts:?}");
    group.weigh(&[0, 0, 1]);
    assert_eq!(group.load(V4, 64), [0, 0, 64]);
    let Some(kernel) = loaded(&group) else { return };
    kernel.set_schedule(&[0, 1, 2]).expect("an order");
    group.grow();
    assert_eq!(group.load(V4, 30), [10, 10, 10, 0]);
    kernel.put(3, &group.seats[3]).expect("a seat");
    kernel.set_schedule(&[3, 0]).expect("an order");
    assert_eq!(group.load(V4, 30), [15, 0, 0, 15]);
}

#[test]
fn numbers_move_when_a_socket_is_shut_down_and_listens_again() {
    let group = Group::new(Some(V4), 4);
    SockRef::from(&group.seats[1])
        .shutdown(std::net::Shutdown::Both)
        .expect("shut down");
    assert!(!is_listening(&group.seats[1]));
    // The last one has number 1 now, and number 3 is nobody's.
    group.weigh(&[0, 1, 0, 0]);
    assert_eq!(group.load(V4, 32), [0, 0, 0, 32]);
    relisten(&group.seats[1], BACKLOG).expect("listens again");
    assert!(is_listening(&group.seats[1]));
    // It came back as the last one: the order is 0, 3, 2, 1.
    group.weigh(&[0, 0, 0, 1]);
    assert_eq!(group.load(V4, 32), [0, 32, 0, 0]);
    group.weigh(&[0, 1, 0, 0]);
    assert_eq!(group.load(V4, 32), [0, 0, 0, 32]);
}

#[test]
fn a_seat_is_empty_after_a_shutdown_until_its_socket_is_put_again() {
    let group = Group::new(Some(V4), 2);
    let Some(kernel) = loaded(&group) else { return };
    kernel.set_schedule(&[1]).expect("an order");
    assert_eq!(group.load(V4, 8), [0, 8]);
    SockRef::from(&group.seats[1])
        .shutdown(std::net::Shutdown::Both)
        .expect("shut down");
    // The order names an empty seat: the kernel's hash chooses, nobody is refused.
    assert_eq!(group.load(V4, 8), [8, 0]);
    assert!(kernel.put(1, &group.seats[1]).is_err());
    relisten(&group.seats[1], BACKLOG).expect("listens again");
    assert_eq!(group.load(V4, 64).iter().sum::<usize>(), 64);
    kernel.put(1, &group.seats[1]).expect("a seat");
    assert_eq!(group.load(V4, 8), [0, 8]);
    // Twice is told, and changes nothing.
    let again = kernel.put(1, &group.seats[1]).expect_err("it has a seat");
    assert_eq!(again.raw_os_error(), Some(libc::EBUSY));
    assert_eq!(group.load(V4, 8), [0, 8]);
}

#[test]
fn a_program_outlives_its_owner_and_is_resumed() {
    let group = Group::new(Some(V4), 2);
    let Some(kernel) = loaded(&group) else { return };
    kernel.set_schedule(&[1]).expect("an order");
    let copies = kernel
        .descriptors()
        .map(|fd| fd.try_clone_to_owned().expect("a copy"));
    drop(kernel);
    assert_eq!(group.load(V4, 8), [0, 8]);
    let kernel = Kernel::resume(copies).expect("resumed");
    kernel.set_schedule(&[0]).expect("an order");
    assert_eq!(group.load(V4, 8), [8, 0]);
    detach(&group.seats[0]).expect("detached");
    assert!(detach(&group.seats[0]).is_err());
    // Classic and back again: the last one attached counts.
    group.weigh(&[0, 1]);
    assert_eq!(group.load(V4, 8), [0, 8]);
    kernel.attach(&group.seats[0]).expect("attached");
    assert_eq!(group.load(V4, 8), [8, 0]);
}

#[test]
fn a_port_with_a_group_is_in_use_for_everybody_else() {
    let group = Group::new(Some(V4), 2);
    assert!(group.seats.iter().all(has_reuse_port));
    let error = bind(&tcp(Some(V4), group.port), BACKLOG).expect_err("in use");
    assert_eq!(error.errno, libc::EADDRINUSE, "{error}");
}

#[test]
fn what_has_no_port_has_no_group() {
    let endpoint = Endpoint::Abstract(format!("rcluster-steer-{}", std::process::id()).into());
    let bound = bind(&endpoint, BACKLOG).expect("a socket");
    assert!(is_listening(&bound.socket) && !has_reuse_port(&bound.socket));
    assert!(join(&bound.socket, &bound.local, BACKLOG).is_err());
}
