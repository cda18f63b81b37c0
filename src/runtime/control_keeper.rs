//! A control socket that somebody removed, such as a cleaner of temporary files, is made again.

use std::time::Duration;

use tokio::{
    sync::{mpsc::Sender, oneshot},
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use crate::admin::Request;
use rcluster_sys::{control_dir::ControlFiles, path_thread};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Looks after the control socket and its lock as long as it lives.
#[derive(Debug)]
pub(super) struct Keeper(AbortHandle);

impl Keeper {
    /// What is made again goes to the loop, and then this one has done its work.
    pub(super) fn start(files: ControlFiles, requests: Sender<Request>) -> Self {
        Self(tokio::spawn(keep(files, requests)).abort_handle())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(files: ControlFiles, requests: Sender<Request>) {
    let mut told = false;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (done, result) = oneshot::channel();
        let look = files.clone();
        path_thread::run(move || drop(done.send(look.repair())));
        match result.await {
            Ok(Ok(None)) => told = false,
            Ok(Ok(Some(repaired))) => {
                let _ = requests.send(Request::Repaired(repaired)).await;
                return;
            }
            Ok(Err(error)) if !told => {
                told = true;
                let control = files.path().display();
                warn!(event = "control_socket_lost", %control, %error, "the control socket or its lock was removed, and cannot be made again");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
