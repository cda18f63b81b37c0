//! What a master holds besides its workers, and its API over it.

use std::{io, net::TcpListener, os::unix::net::UnixListener};

use tokio::{sync::watch, task::JoinHandle};
use tracing::{info, warn};

use super::attempt::Upgrade;
use crate::{
    admin::{self, Api, Token},
    runtime::control_keeper::Keeper,
};
use rcluster_sys::{
    control_dir::{ControlFile, ControlFiles, Lock, Repaired},
    pidfile::Pidfile,
};

/// What a master holds besides its workers. In this order it lets go.
#[derive(Debug)]
pub(in crate::runtime) struct Hold {
    pub(in crate::runtime) pidfile: Option<Pidfile>,
    pub(in crate::runtime) socket_file: ControlFile,
    /// Its folder is the default one.
    pub(in crate::runtime) own_folder: bool,
    /// The control socket.
    pub(in crate::runtime) socket: UnixListener,
    pub(in crate::runtime) lock: Lock,
    /// `--admin`, and its token.
    pub(in crate::runtime) admin: Option<(TcpListener, Option<Token>)>,
}

/// The routes, being served.
#[derive(Debug)]
pub(in crate::runtime) struct Serving {
    pub(super) stop: watch::Sender<()>,
    pub(super) task: JoinHandle<()>,
    _keeper: Keeper,
}

impl Serving {
    /// # Errors
    /// The errno of `dup(2)` or `epoll_ctl(2)`.
    pub(in crate::runtime) fn start(hold: &Hold, api: &Api) -> io::Result<Self> {
        let socket = tokio::net::UnixListener::from_std(hold.socket.try_clone()?)?;
        let (stop, stopped) = watch::channel(());
        let over = |mut stopped: watch::Receiver<()>| async move {
            // It never changes; its end is the sign.
            let _ = stopped.changed().await;
        };
        let local = admin::serve(socket, api.clone(), over(stopped.clone()));
        let task = match &hold.admin {
            Some((listener, token)) => {
                let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
                let token = token.clone();
                let remote = admin::serve_tcp(listener, token, api.clone(), over(stopped));
                tokio::spawn(async {
                    tokio::join!(local, remote);
                })
            }
            None => tokio::spawn(local),
        };
        let files = ControlFiles::new(&hold.socket_file, &hold.lock, hold.own_folder);
        Ok(Self {
            stop,
            task,
            _keeper: Keeper::start(files, api.requests.clone()),
        })
    }
}

impl Upgrade {
    /// The control socket, or its lock, was made again.
    pub(in crate::runtime) fn repaired(&mut self, repaired: Repaired) {
        let Some((hold, api)) = &mut self.parts else {
            return;
        };
        let Repaired { socket, lock } = repaired;
        info!(
            event = "control_socket_restored",
            socket = socket.is_some(),
            lock = lock.is_some(),
            "somebody removed the control socket or its lock: made again"
        );
        if let Some(lock) = lock {
            hold.lock = lock;
        }
        if let Some((socket, file)) = socket {
            hold.socket = socket;
            hold.socket_file = file;
        }
        // While nobody is answered, it is served when that is over.
        if self.serving.is_some() {
            self.serving = Serving::start(hold, api)
                .inspect_err(|error| warn!(%error, event = "control_socket_failed", "the control socket is not served any more"))
                .ok();
        }
    }
}
