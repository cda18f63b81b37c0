//! One address and its sockets: one for all workers, or one for each seat.
//!
//! A seat's number is its slot's. Seats are never closed before the group is: what waits in the queue of one that has
//! no worker is handed to others (`balance.rs`), and in the kernel the numbers of the others stay as they are.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use tracing::{info, warn};

use crate::runtime::manager;
use rcluster_core::{
    balance::Balance,
    balance::{self, Program, Weigher},
    supervisor::Slot,
};
use rcluster_sys::{
    listener::{self, Endpoint, SocketFile},
    steer::{self, Kernel},
};

/// Addresses are dealt to so many buckets, and buckets to seats.
const BUCKETS: usize = 1024;
/// Where the kernel has no room for that many (`net.core.optmem_max` before Linux 6.7).
const FEWER_BUCKETS: usize = 256;
/// Longest order of turns in the kernel.
const TURNS: usize = 1024;
/// For tests and benches: steer as where eBPF is not allowed.
const CLASSIC: &str = "RCLUSTER_BALANCE_KERNEL";

/// Who tells the kernel which socket of the group gets a connection.
#[derive(Debug, Default)]
enum Steering {
    /// Nobody yet.
    #[default]
    None,
    /// An eBPF program: exact turns.
    Exact(Kernel),
    /// A classic BPF program: chance by weight, or the client's address.
    Classic,
    /// Neither is allowed: the kernel's hash of the connection's addresses.
    Hash,
}

/// Sockets that are bound to one address.
#[derive(Debug)]
pub(in crate::runtime) struct Group {
    pub(in crate::runtime) local: Endpoint,
    pub(super) file: Option<SocketFile>,
    pub(super) seats: Vec<Arc<OwnedFd>>,
    /// The seats in the kernel's order: that of their listen(2).
    pub(super) order: Vec<u32>,
    steering: Steering,
    /// Exact turns are not to be had; it was said.
    inexact: bool,
    pub(in crate::runtime) weigher: Weigher,
    /// How much each seat is to get.
    weights: Vec<u32>,
    /// The kernel was told so, for this mode.
    told: Option<Balance>,
    /// It was said that there is only one socket, and why.
    alone: bool,
}

impl Group {
    pub(super) fn new(socket: OwnedFd, local: Endpoint, file: Option<SocketFile>) -> Self {
        Self::resume(vec![Arc::new(socket)], local, file)
    }

    /// One more that an earlier master had, unless it is a copy of one that is here.
    pub(super) fn adopt(&mut self, socket: OwnedFd) {
        if !self
            .seats
            .iter()
            .any(|seat| listener::is_same(seat, &socket))
        {
            self.order.push(self.seats.len() as u32);
            self.seats.push(Arc::new(socket));
        }
    }

    /// Nobody asks for it any more: the service manager shall not keep it either.
    pub(super) fn let_go(&self) {
        for seat in 0..self.seats.len() as u32 {
            manager::let_go(&self.local, seat);
        }
    }

    /// What another program of this process had.
    pub(super) fn resume(
        seats: Vec<Arc<OwnedFd>>,
        local: Endpoint,
        file: Option<SocketFile>,
    ) -> Self {
        Self {
            order: (0..).take(seats.len()).collect(),
            local,
            file,
            seats,
            steering: Steering::None,
            inexact: false,
            weigher: Weigher::default(),
            weights: vec![],
            told: None,
            alone: false,
        }
    }

    /// As the program before this one knew it.
    pub(super) fn keep_order(&mut self, order: Vec<u32>) {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if sorted == self.order {
            self.order = order;
        }
    }

    /// The program in the kernel that deals out exact turns, if there is one.
    pub(super) fn program(&self) -> Option<&Kernel> {
        match &self.steering {
            Steering::Exact(kernel) => Some(kernel),
            Steering::None | Steering::Classic | Steering::Hash => None,
        }
    }

    /// The one that the program before this one of this process loaded: sockets cannot be in two of them.
    pub(super) fn keep_program(&mut self, kernel: Kernel) {
        self.steering = Steering::Exact(kernel);
    }

    /// The socket that was there first.
    pub(super) fn first(&self) -> &Arc<OwnedFd> {
        &self.seats[0]
    }

    /// A seat's socket.
    pub(in crate::runtime) fn socket(&self, seat: u32) -> Option<&Arc<OwnedFd>> {
        self.seats.get(seat as usize)
    }

    /// How many seats there are.
    pub(in crate::runtime) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Where clients connect, if it is TCP.
    pub(super) fn inet(&self) -> Option<SocketAddr> {
        match self.local {
            Endpoint::Tcp { ip, port, .. } => Some(SocketAddr::new(
                ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                port,
            )),
            Endpoint::Udp { .. } | Endpoint::Path(_) | Endpoint::Abstract(_) => None,
        }
    }

    /// Whether connections to it can be balanced. Says so once if not.
    pub(super) fn can(&mut self, mode: Balance) -> bool {
        let tcp = self.inet().is_some();
        if !tcp && mode != Balance::Shared && !std::mem::replace(&mut self.alone, true) {
            let (address, mode) = (&self.local, mode.name());
            info!(%address, mode, event = "balance_not_tcp", "only TCP is balanced: this address stays shared by all workers");
        }
        tcp
    }

    /// The seat of a slot, made now if it is the first time. The first seat, where there can be only one.
    pub(super) fn seat(&mut self, slot: Slot, backlog: i32) -> u32 {
        while self.seats.len() <= slot.0 as usize {
            match listener::join(self.first(), &self.local, backlog) {
                Ok(socket) => {
                    let seat = self.seats.len() as u32;
                    manager::keep(&socket, &self.local, seat);
                    if let Steering::Exact(kernel) = &self.steering
                        && let Err(error) = kernel.put(seat, &socket)
                    {
                        warn!(address = %self.local, seat, %error, event = "steer_failed", "failed to steer connections to a seat");
                        self.steering = Steering::None;
                    }
                    self.seats.push(Arc::new(socket));
                    self.order.push(seat);
                    self.told = None;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.alone, true) {
                        warn!(
                            address = %self.local, %error, event = "reuseport_refused",
                            "no socket of its own for each slot (SO_REUSEPORT is refused): workers share one"
                        );
                    }
                    // Nobody shall wait where somebody waits already: the first is everybody's.
                    return 0;
                }
            }
        }
        slot.0
    }

    /// Tells the kernel which seats get connections, and how many, unless it knows. `weights` by seat, if they are new.
    pub(in crate::runtime) fn steer(&mut self, mode: Balance, weights: Option<Vec<u32>>) {
        if let Some(mut weights) = weights {
            if mode == Balance::SourceIp {
                // By address it only counts who is there at all.
                for weight in &mut weights {
                    *weight = u32::from(*weight > 0);
                }
            }
            if weights != self.weights {
                self.weights = weights;
                self.told = None;
            }
        }
        if self.weights.len() != self.seats.len() || self.seats.len() < 2 || self.told == Some(mode)
        {
            return;
        }
        if mode == Balance::SourceIp {
            self.by_source();
        } else {
            self.by_weight();
        }
        self.told = Some(mode);
    }

    /// How much each seat gets of what comes.
    pub(in crate::runtime) fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// As status shows it.
    pub(in crate::runtime) fn steering(&self) -> Option<&'static str> {
        match self.steering {
            Steering::None => None,
            Steering::Exact(_) => Some("ebpf"),
            Steering::Classic => Some("cbpf"),
            Steering::Hash => Some("hash"),
        }
    }

    fn by_weight(&mut self) {
        let may = matches!(self.steering, Steering::None | Steering::Classic);
        if may && !self.inexact {
            let exact = self.exact();
            self.inexact = exact.is_none();
            self.steering = exact.map_or(Steering::Classic, Steering::Exact);
        }
        if let Steering::Exact(kernel) = &self.steering {
            match kernel.set_schedule(&balance::schedule(&self.weights, TURNS)) {
                Ok(()) => return,
                Err(error) => {
                    warn!(address = %self.local, %error, event = "ebpf_failed", "failed to set the turns of an eBPF program; going on with classic BPF");
                    self.steering = Steering::Classic;
                    self.inexact = true;
                }
            }
        }
        let weight = |seat: &u32| self.weights.get(*seat as usize).copied().unwrap_or(0);
        let placed: Vec<u32> = self.order.iter().map(weight).collect();
        self.classic([Program::weighted(&placed)]);
    }

    fn by_source(&mut self) {
        if !matches!(self.steering, Steering::Hash) {
            self.steering = Steering::Classic;
        }
        let eligible: Vec<bool> = self.weights.iter().map(|w| *w > 0).collect();
        let place = |seat: u32| self.order.iter().position(|s| *s == seat).unwrap_or(0) as u32;
        let program = |count| {
            let buckets = balance::buckets(&eligible, count);
            let placed: Vec<u32> = buckets.into_iter().map(place).collect();
            Program::by_source(&placed)
        };
        let programs = [program(BUCKETS), program(FEWER_BUCKETS)];
        self.classic(programs);
    }

    /// Attaches the first program that the kernel takes.
    fn classic<const N: usize>(&mut self, programs: [Result<Program, balance::TooLong>; N]) {
        if matches!(self.steering, Steering::Hash) {
            return;
        }
        let mut attached = Ok(());
        for program in programs {
            attached = match program {
                Ok(program) => {
                    steer::attach_classic(self.first(), &program).map_err(|e| e.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if attached.is_ok() {
                return;
            }
        }
        if let Err(error) = attached {
            warn!(
                address = %self.local, error, event = "bpf_failed",
                "failed to attach a BPF program: the kernel chooses by its hash, and what it gives to a slot without a worker is handed on"
            );
            self.steering = Steering::Hash;
        }
    }

    /// The program that deals connections out by exact turns, where that is allowed.
    fn exact(&self) -> Option<Kernel> {
        if std::env::var_os(CLASSIC).is_some_and(|value| value == "classic") {
            return None;
        }
        let load = || -> std::io::Result<Kernel> {
            let kernel = Kernel::load(rcluster_core::supervisor::Policy::MAX_WORKERS)?;
            for (seat, socket) in (0..).zip(&self.seats) {
                kernel.put(seat, socket)?;
            }
            kernel.set_schedule(&(0..self.seats.len() as u32).collect::<Vec<_>>())?;
            kernel.attach(self.first())?;
            Ok(kernel)
        };
        match load() {
            Ok(kernel) => {
                info!(address = %self.local, event = "ebpf_attached", "connections are dealt out by exact turns (eBPF)");
                Some(kernel)
            }
            Err(error) => {
                info!(
                    address = %self.local, %error, event = "ebpf_unavailable",
                    "eBPF is not to be had (root or CAP_BPF and CAP_NET_ADMIN): connections are dealt out by weighted chance (classic BPF)"
                );
                None
            }
        }
    }

    /// Connections that wait, and how many may, all seats together. `None` if it is not TCP.
    pub(in crate::runtime) fn queue(&self) -> Option<(u32, u32)> {
        let mut queues = self.seats.iter().map(|s| listener::accept_queue(s));
        queues.try_fold((0, 0), |(n, most): (u32, u32), queue| {
            queue.map(|(waiting, backlog)| (n + waiting, most + backlog))
        })
    }

    /// Connections that it could not take since it was opened, all seats together; wraps at 2^32.
    pub(in crate::runtime) fn dropped(&self) -> Option<u32> {
        let mut drops = self.seats.iter().map(|s| listener::dropped(s));
        drops.try_fold(0, |sum: u32, drops| drops.map(|n| sum.wrapping_add(n)))
    }

    /// Connections that wait at one seat.
    pub(in crate::runtime) fn waiting(&self, seat: u32) -> u32 {
        let queue = self.socket(seat).and_then(|s| listener::accept_queue(s));
        queue.map_or(0, |(waiting, _)| waiting)
    }

    /// Repairs the backlog of a seat, which its worker's own `listen()` has set to what the app said.
    pub(super) fn relisten(&self, seat: u32, backlog: i32) {
        if let Some(socket) = self.seats.get(seat as usize) {
            // Fails only for a socket that cannot listen; then there is no backlog either.
            let _ = listener::relisten(socket, backlog);
        }
    }

    /// A seat that somebody had shut down listens again, under another number.
    pub(super) fn reopened(&mut self, socket: RawFd) {
        let Some(seat) = self.seats.iter().position(|s| s.as_raw_fd() == socket) else {
            return;
        };
        let at = self.order.iter().position(|s| *s as usize == seat);
        if let Some(at) = at.filter(|_| self.seats.len() > 1) {
            // The last one took its number, and now it is the last itself.
            self.order.swap_remove(at);
            self.order.push(seat as u32);
            self.told = None;
            if let Steering::Exact(kernel) = &self.steering
                && let Err(error) = kernel.put(seat as u32, &self.seats[seat])
            {
                warn!(address = %self.local, seat, %error, event = "steer_failed", "failed to steer connections to a seat");
                self.steering = Steering::None;
            }
        }
    }
}
