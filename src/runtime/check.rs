//! `rcluster check`: a trial of a release beside whatever runs.

use tokio::sync::mpsc;

use super::{
    boot::{BootError, INBOX, STOPPED, carry, first, first_release, helpers},
    effects::World,
    listeners::Listeners,
    manager::Manager,
    master::{Inputs, Master},
    signals::Signals,
    upgrade::Upgrade,
    verdict::Verdict,
};
use crate::config::Config;
use rcluster_core::supervisor::Supervisor;
use rcluster_sys::{control_dir, spawn};

/// Tries whether a release gets ready, without its port and without a name:
/// nothing of a running master is touched.
///
/// # Errors
/// A [`BootError`] when it cannot even be tried.
pub async fn check(mut config: Config) -> Result<Verdict, BootError> {
    let mut signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
    spawn::reserve_channel_fd().map_err(|e| BootError::System("open /dev/null", e))?;
    let Some(release) = first_release(&config, &mut signals).await? else {
        return Ok(STOPPED);
    };
    if config.control_is_default
        && let Some(folder) = config.control.parent()
    {
        control_dir::prepare_default(folder)?;
    }
    // Files of its own, beside those of a running master.
    config
        .control
        .set_extension(format!("check-{}", std::process::id()));
    if let Some(plan) = &mut config.output {
        // Lines of a trial are for who asked for it.
        plan.file = None;
    }
    let logs = carry(&config)?;
    let (shim, guard) = helpers(&config)?;
    let (inbox_in, inbox) = mpsc::channel(INBOX);
    // Nobody can send a request: there is no control socket.
    let (_requests_in, requests) = mpsc::channel(1);
    let supervisor = Supervisor::checking(&config.policy, fastrand::u64(..));
    let listeners = Listeners::default();
    let mut world = World::new(
        config,
        first(release),
        listeners,
        shim,
        Some(guard),
        inbox_in,
    );
    world.logs.clone_from(&logs);
    let inputs = Inputs {
        signals,
        requests,
        inbox,
    };
    let upgrade = Upgrade::default();
    let master = Master::new(supervisor, world, Manager::default(), upgrade);
    let verdict = Box::pin(master.run(inputs)).await;
    if let Some(logs) = logs {
        logs.finish();
    }
    Ok(verdict)
}
