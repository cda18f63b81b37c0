//! What must hold of every single step of a reload.

use std::collections::BTreeSet;

use super::{
    super::{
        Action, ReloadOutcome, Report, State, Switch, Worker, WorkerId,
        machine::Phase,
        reload::{Reload, Stage},
    },
    coverage,
    invariants::{
        Step, Verdict, count, ensure, generation_of, is_about, is_examined, is_parked,
        is_scaled_down, moves,
    },
};

/// All of them, in the order of this file.
pub(super) fn check(step: &Step<'_>) -> Verdict {
    a_failed_reload_leaves_the_old_set(step)?;
    a_given_up_generation_goes(step)?;
    gates_open_all_at_once(step)?;
    an_atomic_switch_drains_nobody_early(step)?;
    an_atomic_switch_is_one_moment(step)?;
    a_bake_is_whole(step)?;
    a_commit_is_proven(step)
}

/// In the step in which a reload fails no sound ready worker of the old generation moves.
fn a_failed_reload_leaves_the_old_set(step: &Step<'_>) -> Verdict {
    let failed = step.actions.iter().any(|action| {
        matches!(
            action,
            Action::Report(Report::ReloadEnded {
                outcome: ReloadOutcome::Failed { .. },
                ..
            })
        )
    });
    if !failed || step.after.phase != Phase::Serving {
        return Ok(());
    }
    let old = step.before.committed;
    ensure(step.after.committed == old, || {
        "a failed reload changed the committed generation".to_owned()
    })?;
    moves(step.actions)
        .filter(|m| m.generation == old && m.from == State::Ready && !is_about(step.event, m.id))
        // The operator may ask for it in that very step.
        .filter(|m| !is_scaled_down(step, m) && !is_parked(step, m))
        .filter(|m| {
            let now = step.after.worker(m.id);
            now.is_none_or(|w| w.condemned.is_none())
        })
        .try_for_each(|m| Err(format!("a failed reload moved worker {}", m.id)))
}

/// Nobody of a generation that was given up is on its way to serve.
fn a_given_up_generation_goes(step: &Step<'_>) -> Verdict {
    let reloading = generation_of(step.after.reload.as_ref());
    for worker in step.after.fleet.iter() {
        let wanted =
            worker.generation <= step.after.committed || Some(worker.generation) == reloading;
        ensure(wanted || !worker.is_seated() || worker.is_ready(), || {
            format!(
                "worker {} of given-up generation {} is {}",
                worker.id, worker.generation, worker.state
            )
        })?;
    }
    Ok(())
}

/// The gate opens for a whole generation in one step, and only when each slot
/// has a sound worker of it that has been held for `min_uptime`.
fn gates_open_all_at_once(step: &Step<'_>) -> Verdict {
    let opened: BTreeSet<WorkerId> = step
        .actions
        .iter()
        .filter_map(|action| {
            let Action::OpenGate { id } = action else {
                return None;
            };
            // A spare that is promoted is a matter of its own.
            let promoted = |a: &Action| matches!(a, Action::Promote { id: one, .. } if one == id);
            (!step.actions.iter().any(promoted)).then_some(*id)
        })
        .collect();
    let Some(reload) = step.before.reload.as_ref().filter(|_| !opened.is_empty()) else {
        return ensure(opened.is_empty(), || {
            "a gate opens without a reload".to_owned()
        });
    };
    for slot in step.after.slots() {
        let held = step.after.fleet.iter().any(|w| {
            w.slot == slot
                && w.generation == reload.generation
                && w.condemned.is_none()
                && opened.contains(&w.id)
                && w.held_at
                    .is_some_and(|at| at + step.after.policy.min_uptime <= step.after.now)
        });
        ensure(held, || format!("gates open, slot {slot} is not held"))?;
    }
    Ok(())
}

/// While an atomic reload has not switched, none of the old generation that serves is let go.
fn an_atomic_switch_drains_nobody_early(step: &Step<'_>) -> Verdict {
    let Some(reload) = &step.after.reload else {
        return Ok(());
    };
    let switched = matches!(reload.stage, Stage::Baking(_));
    if step.after.policy.switch != Switch::Atomic || switched {
        return Ok(());
    }
    let all_ready = step.after.slots().all(|slot| {
        step.after
            .fleet
            .iter()
            .any(|w| w.slot == slot && w.generation == reload.generation && w.is_ready())
    });
    moves(step.actions)
        .filter(|m| m.from == State::Ready && m.generation == step.after.committed)
        .filter(|m| !is_about(step.event, m.id) && admitted(reload) && !all_ready)
        .filter(|m| !m.reason.ends_with("stands in"))
        .filter(|m| !is_scaled_down(step, m) && !is_parked(step, m))
        // A step may give one reload up and begin the next; that one has not started yet.
        .filter(|_| generation_of(step.before.reload.as_ref()) == Some(reload.generation))
        .try_for_each(|m| Err(format!("worker {} left before the switch", m.id)))
}

/// Once it has switched, no worker of the old generation serves on beside a new
/// one that serves the same listeners, or has had its time to.
fn an_atomic_switch_is_one_moment(step: &Step<'_>) -> Verdict {
    let Some(reload) = &step.after.reload else {
        return Ok(());
    };
    if step.after.policy.switch != Switch::Atomic || !matches!(reload.stage, Stage::Baking(_)) {
        return Ok(());
    }
    for slot in step.after.slots() {
        let olds: Vec<_> = step
            .after
            .fleet
            .seated(slot)
            .filter(|w| w.is_ready() && w.generation != reload.generation)
            .collect();
        // One that is looked into stays for that; what it listens on has to be covered all the same.
        let stays = |w: &&&Worker| !is_examined(step, w);
        let serves_on = olds.iter().filter(stays).count() > 0;
        let lags = |fresh: &Worker| {
            let complete = |old: &&Worker| coverage::covers(step, fresh, old, fresh.generation);
            // How long it may is a rule of its own.
            !olds.iter().all(complete)
        };
        let fresh = step.after.fleet.sound(slot, reload.generation);
        ensure(!serves_on || fresh.is_some_and(lags), || {
            format!("in slot {slot} old ones serve on after the switch")
        })?;
    }
    // Where fewer workers are wanted, those that are too many have gone by then.
    let switched = |reload: &Reload| matches!(reload.stage, Stage::Baking(_));
    let begun = !step.before.reload.as_ref().is_some_and(switched);
    let excess = step.after.fleet.iter().find(|w| {
        let old = w.is_ready() && w.generation != reload.generation;
        old && w.slot.0 >= step.after.policy.workers && !is_examined(step, w)
    });
    ensure(!begun || excess.is_none(), || {
        format!("an old one that is too many serves on after the switch: {excess:?}")
    })
}

/// An atomic reload bakes from its switch on, for as long as it was asked to.
fn a_bake_is_whole(step: &Step<'_>) -> Verdict {
    let until = |reload: Option<&Reload>| match reload.map(|r| r.stage) {
        Some(Stage::Baking(until)) => Some(until),
        _ => None,
    };
    let (before, after) = (
        until(step.before.reload.as_ref()),
        until(step.after.reload.as_ref()),
    );
    let policy = &step.after.policy;
    let whole = step.after.now + policy.min_uptime.max(policy.bake);
    let begun = after.is_some() && before.is_none();
    ensure(
        after.is_none() || after == if begun { Some(whole) } else { before },
        || format!("bakes until {after:?}, not {whole}"),
    )
}

/// A generation is committed when every slot has a sound ready worker of it
/// that has lived `min_uptime`, and `bake`; and nobody else serves from then on.
fn a_commit_is_proven(step: &Step<'_>) -> Verdict {
    let (machine, policy) = (step.after, &step.after.policy);
    // Parked, they go as soon as the code is theirs.
    if step.before.committed == machine.committed || machine.parked {
        return Ok(());
    }
    let baked = match (policy.switch, step.before.reload.as_ref().map(|r| r.stage)) {
        (Switch::Atomic, Some(Stage::Baking(until))) => until <= machine.now,
        (Switch::Atomic, _) => policy.min_uptime.max(policy.bake).is_zero(),
        (Switch::Rolling, _) => true,
    };
    ensure(baked, || "committed, not baked".to_owned())?;
    // A slot that was added or restarted during an atomic bake is younger than the switch.
    // It has lived `min_uptime` all the same, time at the gate included.
    let proven_at = |w: &Worker| {
        let ready_at = w.ready_at?;
        Some(match policy.switch {
            Switch::Rolling => ready_at + policy.min_uptime + policy.bake,
            Switch::Atomic => (w.held_at.unwrap_or(ready_at) + policy.min_uptime).max(ready_at),
        })
    };
    for slot in machine.slots() {
        let worker = machine.fleet.sound(slot, machine.committed);
        let proven = worker
            .and_then(proven_at)
            .is_some_and(|at| at <= machine.now);
        ensure(proven, || format!("committed, slot {slot} is not proven"))?;
    }
    let others = count(machine, |w| {
        w.is_ready() && w.generation != machine.committed && !is_examined(step, w)
    });
    ensure(others == 0, || format!("committed, {others} others serve"))
}

fn admitted(reload: &Reload) -> bool {
    reload.admitted() > 0
}
