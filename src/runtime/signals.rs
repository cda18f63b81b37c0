//! Signals to the master.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use rcluster_sys::process;

/// A signal, by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Child,
    Hup,
    Int,
    Term,
    Quit,
    Ttin,
    Ttou,
    Winch,
    Usr2,
    Usr1,
}

/// All signals that the master listens to.
#[derive(Debug)]
pub(super) struct Signals {
    child: Signal,
    hup: Signal,
    int: Signal,
    term: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
    ttin: Signal,
    ttou: Signal,
    winch: Signal,
}

impl Signals {
    /// Installs the handlers, then lets through what was blocked since `main`.
    pub(super) fn install() -> io::Result<Self> {
        let on = |number: libc::c_int| signal(SignalKind::from_raw(number));
        let signals = Self {
            child: on(libc::SIGCHLD)?,
            hup: on(libc::SIGHUP)?,
            int: on(libc::SIGINT)?,
            term: on(libc::SIGTERM)?,
            quit: on(libc::SIGQUIT)?,
            usr1: on(libc::SIGUSR1)?,
            usr2: on(libc::SIGUSR2)?,
            ttin: on(libc::SIGTTIN)?,
            ttou: on(libc::SIGTTOU)?,
            winch: on(libc::SIGWINCH)?,
        };
        process::unblock_signals();
        Ok(signals)
    }

    /// Waits for a signal that ends a master.
    pub(super) async fn ended(&mut self) {
        loop {
            if matches!(
                self.next().await,
                Told::Term | Told::Int | Told::Quit | Told::Hup
            ) {
                return;
            }
        }
    }

    /// Waits for TERM, INT or QUIT; others stay for [`next`](Self::next). Cancel-safe.
    pub(super) async fn stopped(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.child.recv() => Told::Child,
            _ = self.term.recv() => Told::Term,
            _ = self.int.recv() => Told::Int,
            _ = self.quit.recv() => Told::Quit,
            _ = self.hup.recv() => Told::Hup,
            _ = self.usr1.recv() => Told::Usr1,
            _ = self.usr2.recv() => Told::Usr2,
            _ = self.ttin.recv() => Told::Ttin,
            _ = self.ttou.recv() => Told::Ttou,
            _ = self.winch.recv() => Told::Winch,
        }
    }
}
