//! An old worker drains only when its replacement covers every address that it served: the rule, by what was seen from
//! outside.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Action, Event, Fact, Generation, Policy, Supervisor, Time, Worker, WorkerId};
use super::invariants::{Step, Verdict, ensure, is_scaled_down, moves};

/// What workers have said of their addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// What each generation opened.
    opened: BTreeMap<Generation, BTreeSet<String>>,
    /// Ports that the kernel chose long after a worker was ready.
    passing: BTreeSet<(WorkerId, String)>,
    /// Rollbacks, and what they bring back.
    restores: BTreeMap<Generation, Generation>,
}

impl Seen {
    pub(super) fn note(&mut self, before: &Supervisor, now: Time, event: &Event) {
        let Event::Worker { id, fact } = event else {
            return;
        };
        let Some(worker) = before.worker(*id) else {
            return;
        };
        if let Fact::Listening(what) = fact {
            let grown = |at: Time| at + Policy::KEY_GRACE <= now;
            let address = what.address.clone();
            if what.private || (what.chosen && worker.ready_at.is_some_and(grown)) {
                self.passing.insert((*id, address));
            } else {
                let opened = self.opened.entry(worker.generation).or_default();
                opened.insert(address);
            }
        } else if let Fact::Closed(address) = fact {
            self.passing.remove(&(*id, address.clone()));
        }
    }

    pub(super) fn prepared(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Prepare {
                generation,
                from: Some(from),
            } = action
            {
                self.restores.insert(*generation, *from);
            }
        }
    }

    /// What is known of the code of a generation that takes over; `None`: anything may be asked of it.
    fn code(&self, step: &Step<'_>, of: Generation) -> Option<Generation> {
        let reloads = [&step.before.reload, &step.after.reload];
        if reloads.into_iter().flatten().any(|r| r.generation == of) {
            self.restores.get(&of).copied()
        } else {
            Some(of)
        }
    }
}

fn may_drop(step: &Step<'_>, pattern: &str) -> bool {
    let reloads = [&step.before.reload, &step.after.reload];
    let reloads = reloads.into_iter().flatten().flat_map(|r| &r.may_drop);
    let policies = [&step.before.policy, &step.after.policy];
    let policies = policies.into_iter().flat_map(|p| &p.may_drop);
    reloads.chain(policies).any(|p| p == pattern)
}

/// Whether nothing that `old` served is missed by the code of `wanted` when only `fresh` is left.
pub(super) fn covers(step: &Step<'_>, fresh: &Worker, old: &Worker, wanted: Generation) -> bool {
    let mut served = old.listening.clone();
    if let Event::Worker { id, fact } = step.event
        && *id == old.id
    {
        if let Fact::Closed(address) = fact {
            served.remove(address);
        } else if let Fact::Listening(what) = fact {
            served.insert(what.address.clone());
        }
    }
    let code = step.seen.code(step, wanted);
    let nothing = BTreeSet::new();
    let opened = code.map(|code| step.seen.opened.get(&code).unwrap_or(&nothing));
    let missed = |address: &&String| {
        !fresh.listening.contains(*address)
            && !step.seen.passing.contains(&(old.id, (*address).clone()))
            && opened.is_none_or(|opened| opened.contains(*address))
            && !may_drop(step, address)
    };
    !served.iter().any(|a| missed(&a))
}

/// The same, where a worker that hangs has waited long enough, or all may be let go after a moment.
pub(super) fn is_relieved(step: &Step<'_>, fresh: &Worker, old: &Worker) -> bool {
    let graced = |wait| fresh.ready_at.is_some_and(|at| at + wait <= step.after.now);
    let grace = Policy::KEY_GRACE;
    covers(step, fresh, old, fresh.generation)
        || old.hung && graced(grace)
        || may_drop(step, "all") && graced(step.after.policy.min_uptime + grace)
}

/// One that is too many goes when those that stay serve all that it serves, or have had their time to open it.
pub(super) fn scaling_down_leaves_no_address_behind(step: &Step<'_>) -> Verdict {
    let workers = step.after.policy.workers;
    let left = moves(step.actions).filter(|m| m.is_from_ready() && is_scaled_down(step, m));
    for m in left {
        let Some(old) = step.before.worker(m.id).filter(|w| !w.hung && w.is_ready()) else {
            continue;
        };
        let stays = |w: &&Worker| w.slot.0 < workers && w.is_ready() && !w.hung && !w.spare;
        let staying = || step.after.fleet.iter().filter(stays);
        let grown = staying().all(|w| {
            let at = w.ready_at.unwrap_or(step.after.now);
            at + step.after.policy.ready_timeout <= step.after.now
        });
        let missed = |address: &&String| {
            !staying().any(|w| w.listening.contains(*address))
                && !step.seen.passing.contains(&(old.id, (*address).clone()))
                && !may_drop(step, address)
        };
        let missed: Vec<_> = old.listening.iter().filter(missed).collect();
        ensure(grown || missed.is_empty(), || {
            format!("worker {} was scaled down, nobody serves {missed:?}", m.id)
        })?;
    }
    Ok(())
}

/// Whoever lacks an address of its predecessor has a time to open it, and no longer.
pub(super) fn what_is_lacking_is_awaited(step: &Step<'_>) -> Verdict {
    let machine = step.after;
    if machine.phase != super::super::machine::Phase::Serving {
        return Ok(());
    }
    for fresh in machine
        .fleet
        .iter()
        .filter(|w| w.is_ready() && w.is_sound())
    {
        let over = fresh.complete_by.is_some_and(|by| by <= machine.now);
        let goal =
            fresh.slot.0 < machine.policy.workers && fresh.generation == machine.goal(fresh.slot);
        if !over || !goal || may_drop(step, "all") {
            continue;
        }
        let others = machine.fleet.seated(fresh.slot);
        let lacks = |old: &&Worker| {
            let other = old.id != fresh.id && old.is_ready() && !old.hung;
            other && !covers(step, fresh, old, fresh.generation)
        };
        let lacking = others.filter(lacks).map(|w| w.id).next();
        ensure(lacking.is_none(), || {
            format!(
                "worker {} lacks what {lacking:?} serves, for too long",
                fresh.id
            )
        })?;
    }
    Ok(())
}
