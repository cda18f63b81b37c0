//! One upgrade: the new binary is asked, the control socket falls silent, the
//! links stand still, and the program is replaced. Each step can fail, and then
//! this one goes on.

use std::{
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tracing::{info, warn};

use super::{
    Packing,
    freeze::{Still, freeze, thaw},
    hold::{Hold, Serving},
    pack, probe,
    probe::Probe,
    resume,
};
use crate::{
    admin::{Api, UpgradeReply, UpgradeView, UpgradeWish},
    logs::{Held, OwnLog},
    runtime::{
        master::{Inputs, Master},
        watch,
    },
};
use rcluster_core::supervisor::FleetState;
use rcluster_sys::{
    handover, path_thread, process,
    safe_path::{self, Refusal},
};

/// How long answers that are on their way may take to be written.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long it may take until what workers printed is written.
const LOG_TIME: Duration = Duration::from_millis(500);
/// How often the links are asked to stand still before it is another time's turn.
const ROUNDS: u32 = 64;

/// How far it is.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// The binary is being asked.
    Asking(Probe, Option<oneshot::Sender<UpgradeReply>>),
    /// Answers are on their way out; nobody is accepted any more.
    Leaving {
        binary: PathBuf,
        identity: [i64; 5],
        until: Instant,
        task: Option<JoinHandle<()>>,
    },
}

/// Why not now.
enum Hindrance {
    /// It passes.
    Later(&'static str),
    /// It does not.
    Never(&'static str),
}

impl Hindrance {
    fn text(&self) -> &'static str {
        match self {
            Self::Later(text) | Self::Never(text) => text,
        }
    }
}

/// The master's part that can replace it. Without a hold (`rcluster check`) it never does.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Upgrade {
    pub(super) parts: Option<(Hold, Api)>,
    pub(super) serving: Option<Serving>,
    stage: Stage,
    /// SIGUSR2 came.
    pub(in crate::runtime) wanted: bool,
    /// The log has told why it waits.
    told: bool,
    asked: Option<(UpgradeWish, oneshot::Sender<UpgradeReply>)>,
    pub(in crate::runtime) view: UpgradeView,
    program: PathBuf,
}

impl Upgrade {
    /// Accepts nobody any more, and waits until what was asked is answered. Streams of events end only with
    /// the master: the caller sets a limit.
    pub(in crate::runtime) fn end_serving(&mut self) -> impl Future<Output = ()> + use<> {
        let serving = self.serving.take();
        async {
            if let Some(Serving { stop, task, .. }) = serving {
                drop(stop);
                let _ = task.await;
            }
        }
    }

    pub(in crate::runtime) fn new(
        hold: Hold,
        api: Api,
        serving: Serving,
        program: PathBuf,
        view: UpgradeView,
    ) -> Self {
        Self {
            parts: Some((hold, api)),
            serving: Some(serving),
            program,
            view,
            ..Self::default()
        }
    }

    /// A request for it. A second one at the same time is refused.
    pub(in crate::runtime) fn ask(
        &mut self,
        wish: UpgradeWish,
        reply: oneshot::Sender<UpgradeReply>,
    ) {
        if self.asked.is_some() || !matches!(self.stage, Stage::Idle) {
            let _ = reply.send(UpgradeReply::refused(0, "an upgrade is under way already"));
            return;
        }
        self.asked = Some((wish, reply));
    }

    /// When it must be looked at at the latest.
    pub(in crate::runtime) fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Asking(probe, _) => Some(probe.until),
            Stage::Leaving { until, .. } => Some(*until),
        }
    }

    /// Comes back when the last answer is written.
    pub(in crate::runtime) async fn left(&mut self) {
        if let Stage::Leaving { task, .. } = &mut self.stage
            && let Some(running) = task
        {
            let _ = running.await;
            *task = None;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// The outcome of an attempt that did not replace anything.
    fn refuse(&mut self, reason: &str) {
        warn!(
            reason,
            event = "upgrade_failed",
            "not upgraded; all goes on as before"
        );
        self.view.answered = self.view.attempts;
        self.view.refused = Some(reason.to_owned());
    }

    fn is_leaving_done(&self, now: Instant) -> bool {
        matches!(&self.stage, Stage::Leaving { task, until, .. } if task.is_none() || *until <= now)
    }
}

impl Master {
    fn hindrance(&self) -> Option<Hindrance> {
        let brief = self.supervisor.brief();
        if self.upgrade.parts.is_none() {
            return Some(Hindrance::Never("this master has no control socket"));
        }
        if self.world.leaving || self.world.verdict.is_some() || brief.state == FleetState::Stopping
        {
            return Some(Hindrance::Never("it is stopping"));
        }
        if brief.state == FleetState::Booting {
            return Some(Hindrance::Later("no worker has been ready yet"));
        }
        if brief.reload.is_some() {
            return Some(Hindrance::Later("a reload is in progress"));
        }
        if !self.world.at_paths.is_empty() {
            return Some(Hindrance::Later("the file of a Unix socket is being made"));
        }
        if self.world.port_owners.is_busy() {
            return Some(Hindrance::Later("the owner of a taken port is being found"));
        }
        if self.world.preparer.is_reading() {
            // Its thread would have to end before the program can be replaced.
            let why = "files of a release are being read, or their file system does not answer";
            return Some(Hindrance::Later(why));
        }
        if watch::is_looking() {
            let why = "watched files are being looked at, or their file system does not answer";
            return Some(Hindrance::Later(why));
        }
        self.world
            .waiters
            .any_for_a_reload()
            .then_some(Hindrance::Later(
                "somebody waits for the end of a reload (old workers still drain)",
            ))
    }

    /// Goes on with an upgrade, if there is one. Does not come back when it succeeds.
    pub(in crate::runtime) async fn turn_upgrade(&mut self, inputs: &mut Inputs) {
        match &self.upgrade.stage {
            Stage::Idle if self.upgrade.asked.is_some() || self.upgrade.wanted => {
                self.begin(inputs).await;
            }
            Stage::Idle => {}
            Stage::Asking(..) => self.hear_probe(),
            Stage::Leaving { .. } => {
                if self.upgrade.is_leaving_done(Instant::now()) {
                    self.leave_program(inputs).await;
                }
            }
        }
    }

    async fn begin(&mut self, inputs: &mut Inputs) {
        let hindrance = self.hindrance();
        let (wish, reply) = match (self.upgrade.asked.take(), hindrance) {
            (Some((_, reply)), Some(hindrance)) => {
                let _ = reply.send(UpgradeReply::refused(0, hindrance.text()));
                return;
            }
            (Some((wish, reply)), None) => (wish, Some(reply)),
            (None, Some(Hindrance::Later(why))) => {
                if !mem::replace(&mut self.upgrade.told, true) {
                    info!(
                        why,
                        event = "upgrade_delayed",
                        "upgrade asked for; it is carried out when this is over"
                    );
                }
                return;
            }
            (None, Some(Hindrance::Never(why))) => {
                self.upgrade.wanted = false;
                warn!(
                    why,
                    event = "upgrade_refused",
                    "upgrade asked for, and refused"
                );
                return;
            }
            (None, None) => {
                self.upgrade.wanted = false;
                self.upgrade.told = false;
                (UpgradeWish::default(), None)
            }
        };
        self.upgrade.view.attempts += 1;
        let binary = wish.binary.unwrap_or_else(|| self.upgrade.program.clone());
        info!(binary = %binary.display(), event = "upgrade_requested", "upgrade asked for");
        // Root runs it: the app's user must not be able to put another one there.
        if self.world.config.identity.is_some()
            && let Err(refusal @ Refusal::Unsafe { .. }) = safe_path::check(&binary)
        {
            let why = format!("root does not run {}: {refusal}", binary.display());
            return self.refuse_upgrade(&why, reply);
        }
        let mut still = Still::new();
        let heard = freeze(&self.world, &mut inputs.inbox, &mut still).await;
        let probe = self
            .pack(binary.clone(), &mut still, &[], &mut Packing::default())
            .and_then(|state| Probe::start(&binary, &state));
        thaw(still);
        self.hear_all(heard);
        match probe {
            Ok(probe) => {
                self.world.probe = Some((probe.pid, None));
                self.upgrade.stage = Stage::Asking(probe, reply);
            }
            Err(why) => self.refuse_upgrade(&why, reply),
        }
    }

    fn pack(
        &self,
        program: PathBuf,
        still: &mut Still,
        streams: &[Held],
        packing: &mut Packing,
    ) -> Result<super::State, String> {
        let missing = || "this master has no control socket".to_owned();
        let (hold, _) = self.upgrade.parts.as_ref().ok_or_else(missing)?;
        let view = self.upgrade.view.clone();
        Ok(pack::pack(
            self, hold, program, view, still, streams, packing,
        ))
    }

    fn hear_all(
        &mut self,
        heard: Vec<(
            rcluster_core::supervisor::WorkerId,
            crate::runtime::link::FromLink,
        )>,
    ) {
        for (id, what) in heard {
            if let Some(event) = self.world.hear(id, what, &self.supervisor) {
                self.dispatch(event);
            }
        }
    }

    fn refuse_upgrade(&mut self, why: &str, reply: Option<oneshot::Sender<UpgradeReply>>) {
        self.upgrade.refuse(why);
        if let Some(reply) = reply {
            let _ = reply.send(UpgradeReply::refused(self.upgrade.view.attempts, why));
        }
    }

    fn hear_probe(&mut self) {
        let stop = matches!(self.hindrance(), Some(Hindrance::Never(_)));
        let Stage::Asking(mut probe, reply) = mem::take(&mut self.upgrade.stage) else {
            return;
        };
        let exit = self.world.probe.and_then(|(_, exit)| exit);
        let late = probe.until <= Instant::now();
        if exit.is_none() && !late && !stop {
            self.upgrade.stage = Stage::Asking(probe, reply);
            return;
        }
        self.world.probe = None;
        let verdict = match exit {
            _ if stop => Err("it is stopping".to_owned()),
            Some(exit) => probe.verdict(exit),
            None => Err(probe.late()),
        };
        if exit.is_none() {
            probe.kill();
        }
        match verdict {
            Ok(()) => {
                if let Some(reply) = reply {
                    let _ = reply.send(UpgradeReply::accepted(self.upgrade.view.attempts));
                }
                let serving = self.upgrade.serving.take();
                self.upgrade.stage = Stage::Leaving {
                    binary: probe.binary,
                    identity: probe.identity,
                    until: Instant::now() + GOODBYE,
                    task: serving.map(|Serving { stop, task, .. }| {
                        drop(stop);
                        task
                    }),
                };
            }
            Err(why) => self.refuse_upgrade(&why, reply),
        }
    }

    async fn leave_program(&mut self, inputs: &mut Inputs) {
        let Stage::Leaving {
            binary, identity, ..
        } = &self.upgrade.stage
        else {
            return;
        };
        let (binary, identity) = (binary.clone(), *identity);
        // From here on a signal waits for the next program, or for this one.
        process::block_signals();
        let mut still = Still::new();
        let why = match self.stand_still(inputs, &mut still).await {
            Ok(()) => self.replace(binary, identity, &mut still).await,
            Err(why) => why,
        };
        thaw(still);
        process::unblock_signals();
        self.upgrade.stage = Stage::Idle;
        self.upgrade.refuse(&why);
        let Some((hold, api)) = &self.upgrade.parts else {
            return;
        };
        match Serving::start(hold, api) {
            Ok(serving) => self.upgrade.serving = Some(serving),
            Err(error) => {
                warn!(%error, event = "control_socket_failed", "the control socket is not served any more");
            }
        }
    }

    /// Comes back only with the reason why it failed.
    async fn replace(&mut self, binary: PathBuf, identity: [i64; 5], still: &mut Still) -> String {
        let Some(logs) = self.world.logs.clone() else {
            return self.exec(&binary, identity, still, &[]);
        };
        match logs.pause(LOG_TIME).await {
            Ok(held) => {
                let why = self.exec(&binary, identity, still, &held);
                logs.follow(held);
                why
            }
            Err(held) => {
                logs.follow(held);
                "the master's log is not taken by its reader, and no line shall be lost; try again"
                    .to_owned()
            }
        }
    }

    /// Comes back only with the reason why it failed.
    fn exec(
        &self,
        binary: &Path,
        identity: [i64; 5],
        still: &mut Still,
        streams: &[Held],
    ) -> String {
        if handover::identity(binary).ok() != Some(identity) {
            return format!("{} has changed since it was asked", binary.display());
        }
        let mut packing = Packing::default();
        let sealed = self
            .pack(binary.to_owned(), still, streams, &mut packing)
            .and_then(|state| state.write().map_err(|error| error.to_string()))
            .and_then(|bytes| handover::seal(&bytes).map_err(|error| error.to_string()));
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(why) => return format!("failed to write the state down: {why}"),
        };
        // Without it there is no way back; that is all.
        let back = probe::own_program().ok();
        let value = resume::variable(&sealed, back.as_ref(), &mut packing);
        let words = &self.world.config.line.words;
        info!(binary = %binary.display(), event = "upgrade_exec", "the program is replaced");
        // Threads end with this program: files that are to be removed go first.
        path_thread::settle(GOODBYE);
        OwnLog::drain();
        let set = (resume::VARIABLE, value.as_str());
        let error = handover::exec(binary, words, set, &packing.numbers());
        format!("failed to run {}: {error}", binary.display())
    }

    /// Nothing is on its way between the links, the signals and the loop any more.
    async fn stand_still(&mut self, inputs: &mut Inputs, still: &mut Still) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let heard = freeze(&self.world, &mut inputs.inbox, still).await;
            // What was caught before signals were blocked goes through tokio's driver first.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let mut quiet = heard.is_empty() && still.len() == self.world.links.len();
            self.hear_all(heard);
            while let Some(told) = inputs.signals.next().now_or_never() {
                quiet = false;
                self.signal(told);
            }
            while let Ok(request) = inputs.requests.try_recv() {
                quiet = false;
                self.request(request);
            }
            if let Some(hindrance) = self.hindrance() {
                let why = hindrance.text();
                return Err(format!("{why}; it began while the new binary was asked"));
            }
            if quiet {
                return Ok(());
            }
        }
        Err("the workers' channels gave it no quiet moment; try again".to_owned())
    }
}
