//! The next program's first moments: it takes over what the one before it left open.

use std::{
    ffi::OsString,
    fs::File,
    io,
    net::TcpListener,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::UnixStream, sync::mpsc::Sender};

use super::{
    Fd, Hold, Packing, Unpacking,
    state::{LinkState, State, StateError},
};
use crate::{
    admin::{Token, UpgradeView},
    logs::{self, Held, Logs, LogsError},
    runtime::{
        boot::BootError,
        clock::Clock,
        effects::World,
        endings::Endings,
        figures::Figures,
        guarding::grace_of,
        hands::Hands,
        link::{FromLink, Link, Task, ToWorker},
        listeners::Listeners,
        overview::Bus,
        shim_file::ShimFile,
        waiters::Waiters,
    },
};
use rcluster_core::{ipc::Outgoing, supervisor::WorkerId};
use rcluster_sys::{
    control_dir::{ControlFile, Lock},
    guard::Guard,
    handover,
    identity::Identity,
    pidfile::Pidfile,
    safe_path::Use,
};

/// How often, and after which pause, it is tried to start a thread.
const THREAD_TRIES: u32 = 100;
const THREAD_PAUSE: Duration = Duration::from_millis(100);

/// Tells the next program where the state is: our pid, its descriptor, and that of the program to go back to.
pub(super) const VARIABLE: &str = "RCLUSTER_STATE";

/// What [`VARIABLE`] says.
pub(super) fn variable(sealed: &OwnedFd, back: Option<&File>, packing: &mut Packing) -> String {
    packing.carry(sealed);
    let back = back.map_or(-1, |file| {
        packing.carry(file);
        file.as_raw_fd()
    });
    format!("{},{},{back}", std::process::id(), sealed.as_raw_fd())
}

/// A master that was replaced in place and goes on here.
#[derive(Debug)]
pub struct Resumption {
    pub(in crate::runtime) state: State,
    /// Why this is the program that was to be replaced, if it is.
    pub(in crate::runtime) back: Option<&'static str>,
}

impl Resumption {
    /// How it logged.
    pub fn log(&self) -> (logs::Level, logs::Format) {
        self.state.config.log
    }
}

/// What the program before this one left for us, if there was one.
///
/// # Errors
/// Why it cannot be read, when there is no way back either.
pub fn resumption() -> Option<Result<Resumption, StateError>> {
    let text = std::env::var(VARIABLE).ok()?;
    let mut numbers = text.split(',').map(str::parse::<i32>);
    let mut number = || numbers.next()?.ok();
    let (pid, sealed, back) = (number()?, number()?, number()?);
    if u32::try_from(pid) != Ok(std::process::id()) {
        return None;
    }
    let sealed = handover::adopt(sealed).ok()?;
    let bytes = handover::unseal(&sealed).ok()?;
    let state = State::read(&bytes);
    let state = if super::pack::is_asked_to("fail") && back >= 0 {
        Err(StateError::Malformed(serde::de::Error::custom("a test")))
    } else {
        state
    };
    // Closed by the next exec, or here.
    let program = (back >= 0).then(|| handover::adopt(back).ok()).flatten();
    if let (Err(error), Some(program)) = (&state, &program) {
        crate::say::error(format_args!(
            "{error}; going back to the program that ran before"
        ));
        go_back(&sealed, program);
    }
    let back = (back == BACK).then_some("the new binary could not take over; the old one went on");
    Some(state.map(|state| Resumption { state, back }))
}

/// Stands for "you are the one that was gone back to".
const BACK: i32 = -2;

/// Returns when that fails, too.
fn go_back(sealed: &OwnedFd, program: &OwnedFd) {
    let words: Vec<OsString> = std::env::args_os().collect();
    let value = format!("{},{},{BACK}", std::process::id(), sealed.as_raw_fd());
    let path = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
    // What was left open for us stays open; only this one was closed again by `adopt`.
    let carried = [sealed.as_raw_fd()].into();
    let error = handover::exec(&path, &words, (VARIABLE, &value), &carried);
    crate::say::error(format_args!("failed to go back: {error}"));
}

fn message(message: &Outgoing<Fd>, unpacking: &mut Unpacking) -> io::Result<ToWorker> {
    message.map(|fd| unpacking.shared(*fd))
}

fn link(
    state: &LinkState,
    inbox: &Sender<(WorkerId, FromLink)>,
    unpacking: &mut Unpacking,
) -> io::Result<Link> {
    let stream = std::os::unix::net::UnixStream::from(unpacking.own(state.stream)?);
    let writing = state.writing.as_ref();
    let writing =
        writing.map(|(m, written)| Ok::<_, io::Error>((message(m, unpacking)?, *written)));
    let writing = writing.transpose()?;
    let resend = state.resend.as_ref().map(|m| message(m, unpacking));
    let resend = resend.transpose()?;
    let again = state.orders.iter().map(|m| message(m, unpacking));
    let again = again.collect::<io::Result<_>>()?;
    let mut link = Link::start(Task {
        id: state.id,
        stream: UnixStream::from_std(stream)?,
        inbox: inbox.clone(),
        decoder: state.decoder.clone(),
        channel: state.channel.map(|fd| unpacking.shared(*fd))?,
        writing,
        resend,
        again,
        malformed: (Instant::now(), state.malformed),
        complained: state.complained,
        ended: false,
        closed: state.closed,
    });
    link.has_shim = state.has_shim;
    link.has_queues = state.has_queues;
    link.has_stack = state.has_stack;
    Ok(link)
}

/// What the program before this one left open and wrote down. Each descriptor belongs to its owner alone afterwards, and
/// closes with it.
///
/// # Errors
/// A [`BootError`] for the lock, the control socket, or the first descriptor that was not left open.
pub(in crate::runtime) fn take_over(
    state: &mut State,
    inbox: &Sender<(WorkerId, FromLink)>,
) -> Result<(Hold, World), BootError> {
    let taken = |e| BootError::System("take over what the program before this one left open", e);
    // It shares what it has given out: it must not outlive this function.
    let mut unpacking = Unpacking::default();
    let hold = hold(state, &mut unpacking)?;
    let world = world(state, &mut unpacking, inbox).map_err(taken)?;
    Ok((hold, world))
}

/// The world as the program before this one left it.
///
/// # Errors
/// The first descriptor that was not left open.
fn world(
    state: &mut State,
    unpacking: &mut Unpacking,
    inbox: &Sender<(WorkerId, FromLink)>,
) -> io::Result<World> {
    let shim = state.shim.take().map(ShimFile::resume).transpose()?;
    let guard = state.guard.take().map(|guard| {
        let path = state.config.control.with_extension("guard");
        let pipe: OwnedFd = unpacking.own(guard.pipe)?;
        Guard::resume(&path, guard.pid, pipe)
    });
    let mut guard = guard.transpose()?;
    if let Some(guard) = &mut guard {
        // An earlier release gave it less. Its end is noticed as any child's.
        let _ = guard.set_grace(state.config.policy.orphan_grace());
        for (pid, id) in &state.pids {
            let _ = guard.give(*pid, grace_of(*id, &state.supervisor));
        }
    }
    let identity = state.config.identity.as_ref();
    let listeners = std::mem::take(&mut state.listeners);
    let listeners = Listeners::unpack(listeners, identity, unpacking)?;
    let mut world = World::new(
        state.config.clone(),
        std::mem::take(&mut state.releases).into_iter().collect(),
        listeners,
        shim,
        guard,
        inbox.clone(),
    );
    world.hands = Hands::unpack(std::mem::take(&mut state.hands), unpacking)?;
    world.balancer.stale = true;
    for state in &state.links {
        world.links.insert(state.id, link(state, inbox, unpacking)?);
    }
    world.reread = state.reread.clone();
    world.figures = Figures::resume(std::mem::take(&mut state.figures));
    if let Some(bus) = state.bus.take() {
        world.bus = Bus::resume(bus);
    }
    world.logs = logs(state, unpacking)?;
    world.pids = state.pids.iter().copied().collect();
    let living: Vec<_> = world.pids.values().copied().collect();
    world.hands.keep_only(&living);
    world.withheld = std::mem::take(&mut state.withheld).into_iter().collect();
    let closed = state.links.iter().filter(|link| link.closed);
    let closed = closed.map(|link| link.id);
    world.endings = Endings::resume(std::mem::take(&mut state.endings), closed);
    for id in world.endings.unread() {
        if let Some(link) = world.links.get(&id) {
            link.finish();
        }
    }
    world.refused = std::mem::take(&mut state.refused).into_iter().collect();
    world.oom = state.oom.clone();
    world.probes = state.probes;
    world.waiters = Waiters::resume(state.next_ticket);
    world.guarding = std::mem::take(&mut state.guarding);
    if world.guard.is_none() {
        world.guarding.miss();
    }
    Ok(world)
}

/// What carries workers' lines, with the streams where they stood. A log file is opened when the next
/// line comes: one that cannot be costs lines, which are told of, and not the master.
fn logs(state: &mut State, unpacking: &mut Unpacking) -> io::Result<Option<Arc<Logs>>> {
    let (Some(log), Some(plan)) = (state.logs.take(), &state.config.output) else {
        return Ok(None);
    };
    let worker = state.config.identity.as_ref().and_then(Identity::account);
    let how = Use::option(worker.as_ref());
    let mut tries = 0;
    let logs = loop {
        match Logs::start(plan, &state.config.control, 0, &how) {
            // In a full pids cgroup threads of others may have taken the place of those that the exec ended. Without the
            // master all workers would end: this may wait.
            Err(LogsError::System(error))
                if error.kind() == io::ErrorKind::WouldBlock && tries < THREAD_TRIES =>
            {
                tries += 1;
                #[expect(clippy::disallowed_methods, reason = "before the loop")]
                std::thread::sleep(THREAD_PAUSE);
            }
            other => break other.map_err(io::Error::other)?,
        }
    };
    logs.keep(log.kept);
    let held = log.streams.into_iter().map(|stream| {
        Ok(Held {
            pipe: unpacking.own(stream.pipe)?,
            begun: stream.begun,
        })
    });
    logs.follow(held.collect::<io::Result<_>>()?);
    Ok(Some(Arc::new(logs)))
}

/// `--admin`, where it listened.
fn admin(
    state: &State,
    unpacking: &mut Unpacking,
) -> io::Result<Option<(TcpListener, Option<Token>)>> {
    let Some(admin) = &state.admin else {
        return Ok(None);
    };
    let listener = unpacking.own(admin.listener)?.into();
    Ok(Some((listener, admin.token.clone())))
}

/// What the master holds besides its workers.
///
/// # Errors
/// A [`BootError`] for the lock or the control socket.
fn hold(state: &State, unpacking: &mut Unpacking) -> Result<Hold, BootError> {
    let (socket, lock) = state.control;
    let taken = |e| BootError::System("take over the control socket", e);
    let control = &state.config.control;
    Ok(Hold {
        lock: Lock::resume(control, unpacking.own(lock).map_err(taken)?)?,
        socket: unpacking.own(socket).map_err(taken)?.into(),
        socket_file: ControlFile::resume(control, state.control_inode),
        own_folder: state.config.control_is_default,
        pidfile: state
            .config
            .pidfile
            .clone()
            .filter(|_| state.pidfile)
            .map(Pidfile::resume),
        admin: admin(state, unpacking).map_err(taken)?,
    })
}

/// The attempt that brought us here, answered.
pub(in crate::runtime) fn view(state: &State, back: Option<&str>) -> UpgradeView {
    let UpgradeView { attempts, done, .. } = state.upgrade;
    UpgradeView {
        attempts,
        done: done + u64::from(back.is_none()),
        answered: attempts,
        refused: back.map(str::to_owned),
    }
}

/// What the clock said, and when.
pub(in crate::runtime) fn clock(state: &State) -> Clock {
    let (at, then) = state.clock;
    let then = Duration::from_micros(then);
    Clock::resume(at, then, handover::monotonic())
}
