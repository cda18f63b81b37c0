//! What must hold of every single step, whatever came before.

use std::collections::BTreeSet;

use super::super::{
    Action, Event, Fact, Gate, Generation, Kind, Policy, Report, Slot, State, Supervisor, Switch,
    Time, Worker, WorkerId,
    machine::Phase,
    reload::{Reload, Stage},
};
use super::{
    boots,
    coverage::{self, Seen},
    reload_invariants,
};

/// One step: the machine before and after, what it was told and what it ordered.
pub(super) struct Step<'a> {
    pub(super) before: &'a Supervisor,
    pub(super) after: &'a Supervisor,
    pub(super) event: &'a Event,
    pub(super) actions: &'a [Action],
    pub(super) seen: &'a Seen,
}

pub(super) type Verdict = Result<(), String>;

pub(super) fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(broken()) }
}

/// All of them: those of this file, then those of reloads.
pub(super) fn check(step: &Step<'_>) -> Verdict {
    processes_are_bounded(step)?;
    boots::are_bounded(step)?;
    draining_is_capped(step)?;
    states_never_move_left(step)?;
    waiting_has_a_deadline(step)?;
    the_deadline_is_ahead(step)?;
    signals_go_to_processes(step)?;
    one_sound_worker_a_slot_and_generation(step)?;
    serving_workers_leave_for_a_proven_successor(step)?;
    served_slots_stay_served(step)?;
    an_empty_slot_is_being_filled(step)?;
    reload_invariants::check(step)?;
    spares_do_not_serve(step)?;
    coverage::scaling_down_leaves_no_address_behind(step)?;
    coverage::what_is_lacking_is_awaited(step)?;
    recycled_one_at_a_time(step)?;
    a_silence_is_not_borne(step)?;
    a_look_is_short(step)?;
    the_end_is_empty(step)
}

/// `processes <= N + surge + draining cap`, where an atomic reload has a surge
/// of N, and those being started count. It holds exactly, because a spawn waits
/// while so many are there; see [`Policy::process_cap`].
fn processes_are_bounded(step: &Step<'_>) -> Verdict {
    let policy = &step.after.policy;
    let wanted = policy.workers as usize;
    let extra = match policy.switch {
        Switch::Rolling => (policy.surge.of(policy.workers) as usize).min(wanted),
        Switch::Atomic => wanted,
    };
    let spares = policy.spares as usize;
    let most = wanted + extra + 2 * wanted + spares;
    let have = step.after.fleet.iter().count();
    // Fewer are wanted, or room was left for more: nothing is added beyond the bound.
    let before = step.before.fleet.iter().count();
    ensure(have <= most || have <= before, || {
        format!("{have} processes, bound {most}")
    })
}

/// While serving at most 2N drain, by the most seats there were; of those in excess the oldest are cut, and no others.
fn draining_is_capped(step: &Step<'_>) -> Verdict {
    if step.after.phase != Phase::Serving {
        return Ok(());
    }
    let seats = step.before.seats.len().max(step.after.seats.len());
    let cap = step.after.policy.draining_cap().max(seats * 2);
    // Seats may have been added after the cut.
    let least = step.before.seats.len().min(step.after.seats.len());
    let least = step.after.policy.draining_cap().max(least * 2);
    let draining = count(step.after, |w| w.state == State::Draining);
    ensure(draining <= cap, || format!("{draining} drain, cap {cap}"))?;
    let left: Vec<_> = moves(step.actions)
        .filter(|m| m.from == State::Draining)
        .collect();
    let cut = left
        .iter()
        .filter(|m| m.reason.starts_with("too many"))
        .count();
    // With a drain timeout of 0 others leave in the same step.
    let still = draining + left.len() - cut;
    ensure(cut == 0 || still >= least, || {
        format!("{cut} cut although only {still} drain, cap {least}")
    })
}

/// `Starting -> Booting -> Held -> Ready -> Draining -> Stopping -> Killing`, in
/// the state and in the log.
fn states_never_move_left(step: &Step<'_>) -> Verdict {
    for worker in step.after.fleet.iter() {
        if let Some(old) = step.before.worker(worker.id) {
            ensure(old.state <= worker.state, || {
                format!("worker {}: {} -> {}", worker.id, old.state, worker.state)
            })?;
            ensure(
                (old.slot == worker.slot || old.spare && !worker.spare)
                    && old.generation == worker.generation
                    && (old.pid.is_none() || old.pid == worker.pid),
                || format!("worker {} changed its identity", worker.id),
            )?;
        }
    }
    moves(step.actions).try_for_each(|m| {
        ensure(m.from < m.to, || {
            format!("worker {} reported {} -> {}", m.id, m.from, m.to)
        })
    })
}

/// Only a ready worker waits for nothing. A held one may wait without a
/// deadline of its own only while the reload that holds it gathers the others.
fn waiting_has_a_deadline(step: &Step<'_>) -> Verdict {
    for worker in step.after.fleet.iter() {
        let held_by_reload = worker.state == State::Held
            && step.after.reload.as_ref().is_some_and(|r| {
                r.generation == worker.generation && matches!(r.stage, Stage::Replacing)
            });
        let spare = worker.state == State::Held && worker.spare;
        let fine = match worker.deadline {
            Some(at) => worker.state != State::Ready && at > step.after.now,
            None => worker.state == State::Ready || held_by_reload || spare,
        };
        ensure(fine, || {
            format!(
                "worker {} is {} with deadline {:?} at {}",
                worker.id, worker.state, worker.deadline, step.after.now
            )
        })?;
    }
    Ok(())
}

/// It hangs, and is looked into before it is killed. Such a one may be left over where others
/// must be gone: its event loop accepts nothing, the look is short ([`a_look_is_short`]), and
/// what it says is worth more than the moment. Its first beat ends this.
pub(super) fn is_examined(step: &Step<'_>, worker: &Worker) -> bool {
    worker.hung
        && worker.condemned.is_some()
        && worker.examined_by.is_some_and(|by| by > step.after.now)
}

/// A worker is looked into once, for so long and no longer.
fn a_look_is_short(step: &Step<'_>) -> Verdict {
    for worker in step.after.fleet.iter() {
        let Some(until) = worker.examined_by else {
            continue;
        };
        let old = step.before.worker(worker.id).and_then(|w| w.examined_by);
        let begun = step.after.now + Policy::EXAMINATION + Policy::ANSWER_GRACE;
        ensure(until == old.unwrap_or(begun), || {
            format!("worker {} is looked into until {until}", worker.id)
        })?;
    }
    Ok(())
}

/// No busy loop; and never asleep while a worker's deadline runs.
fn the_deadline_is_ahead(step: &Step<'_>) -> Verdict {
    let first = step.after.fleet.iter().filter_map(|w| w.deadline).min();
    match (step.after.deadline(), first) {
        (Some(at), _) if at <= step.after.now => Err(format!("deadline {at} is not ahead")),
        (None, Some(first)) => Err(format!("asleep past {first}")),
        (Some(at), Some(first)) if at > first => Err(format!("deadline {at} after {first}")),
        _ => Ok(()),
    }
}

/// A signal has an addressee: a worker that is not reaped and whose process is known.
fn signals_go_to_processes(step: &Step<'_>) -> Verdict {
    step.actions.iter().try_for_each(|action| {
        let Action::Signal { id, .. } = action else {
            return Ok(());
        };
        let pid = step.after.worker(*id).and_then(|w| w.pid);
        ensure(pid.is_some(), || {
            format!("signal to worker {id}, no process")
        })
    })
}

/// A slot never has two sound workers of one generation.
fn one_sound_worker_a_slot_and_generation(step: &Step<'_>) -> Verdict {
    let mut seen = BTreeSet::new();
    for worker in step.after.fleet.iter().filter(|w| w.is_sound()) {
        ensure(seen.insert((worker.slot, worker.generation)), || {
            format!("two sound workers in slot {}", worker.slot)
        })?;
    }
    Ok(())
}

/// A ready worker is told to go only when a ready, sound worker of the goal
/// generation has proven itself in its slot: it has lived `min_uptime` (for
/// one that was held: at the gate), in a rolling reload also `bake`, and covers
/// every address that the old one served. Otherwise it
/// leaves by itself, or the master stops, or it is condemned or of a given-up
/// generation and another worker stands in, whoever that is at the end of the step.
fn serving_workers_leave_for_a_proven_successor(step: &Step<'_>) -> Verdict {
    if matches!(step.after.phase, Phase::Stopping(_) | Phase::Over) {
        return Ok(());
    }
    for m in moves(step.actions).filter(|m| m.from == State::Ready && !is_about(step.event, m.id)) {
        let Some(old) = step.before.worker(m.id) else {
            return Err(format!("worker {} became ready and left in a step", m.id));
        };
        let reloading = generation_of(step.after.reload.as_ref());
        let given_up = old.generation > step.after.committed && Some(old.generation) != reloading;
        let condemned = step
            .after
            .worker(old.id)
            .is_some_and(|w| w.condemned.is_some());
        let stands_in = (given_up || condemned) && m.reason.ends_with("stands in");
        // All go in a step that parks, or in which a reload that was not to wake the fleet ends. Whoever has just
        // been succeeded in it, or been stood in for, goes with that one.
        let committed = step.before.committed != step.after.committed;
        let parks = step.after.parked && (committed || *step.event == Event::Park);
        let seat = |id| step.after.worker(id).map(|w| w.slot);
        let goes_with = |o: &Move<'_>| {
            o.reason == "parked"
                && o.id != m.id
                && seat(o.id) == seat(m.id)
                && (stands_in || m.reason.ends_with(&format!("worker {}", o.id)))
        };
        // Those that hung when it parked go later.
        let rests = moves(step.actions).any(|o| goes_with(&o) && (parks || is_parked(step, &o)))
            || parks && m.reason == "parked";
        // Nobody is wanted there.
        if rests || is_parked(step, &m) || is_scaled_down(step, &m) {
            continue;
        }
        // A spare that was promoted in this step left the slot it was promoted to.
        let slot = step.after.worker(old.id).map_or(old.slot, |w| w.slot);
        let proven = step
            .after
            .fleet
            .iter()
            .filter(|w| w.slot == slot && w.id != old.id)
            .any(|w| {
                let goal = || step.after.goal(slot);
                let covers = || old.hung || coverage::covers(step, w, old, goal());
                succeeds(step, w, old) || stands_in && w.is_ready() && covers()
            });
        ensure(proven, || {
            format!("worker {} left slot {slot} ({})", m.id, m.reason)
        })?;
    }
    Ok(())
}

/// Fewer workers are wanted, this slot is one too many, and without it there are enough.
pub(super) fn is_scaled_down(step: &Step<'_>, m: &Move<'_>) -> bool {
    let workers = step.after.policy.workers;
    let seat = step.before.worker(m.id).map(|w| w.slot.0);
    m.reason == "scaled down" && seat.is_some_and(|s| s >= workers) && {
        let serving = count(step.after, |w| w.is_ready() && !w.hung);
        serving >= workers as usize || step.before.worker(m.id).is_some_and(|w| w.hung)
    }
}

/// The operator wants no workers from this very step on; one that was looked into then goes later.
pub(super) fn is_parked(step: &Step<'_>, m: &Move<'_>) -> bool {
    let asked = *step.event == Event::Park || step.before.worker(m.id).is_some_and(|w| w.hung);
    m.reason == "parked" && asked && step.after.parked
}

fn succeeds(step: &Step<'_>, fresh: &Worker, old: &Worker) -> bool {
    let policy = &step.after.policy;
    let Some(ready_at) = fresh.ready_at else {
        return false;
    };
    let reload = step.before.reload.as_ref();
    let reloading = reload.is_some_and(|r| r.generation == fresh.generation);
    let mut at = match fresh.held_at {
        Some(held_at) => ready_at.max(held_at + policy.min_uptime),
        None => ready_at + policy.min_uptime,
    };
    if reloading && policy.switch == Switch::Rolling {
        at = at + policy.bake;
    }
    let goal = fresh.generation == step.after.committed || reloading;
    let proven = fresh.is_ready() && fresh.condemned.is_none() && goal && at <= step.after.now;
    proven && coverage::is_relieved(step, fresh, old)
}

/// A slot that has a ready worker keeps one, unless the worker itself ended or left.
fn served_slots_stay_served(step: &Step<'_>) -> Verdict {
    if step.after.phase != Phase::Serving {
        return Ok(());
    }
    let served = |machine: &Supervisor| -> BTreeSet<Slot> {
        machine
            .fleet
            .iter()
            .filter(|w| w.is_ready())
            .map(|w| w.slot)
            .collect()
    };
    let now = served(step.after);
    for slot in served(step.before) {
        let by_itself = step
            .before
            .fleet
            .iter()
            .any(|w| w.slot == slot && w.is_ready() && is_about(step.event, w.id));
        let unwanted = step.after.parked || slot.0 >= step.after.policy.workers;
        ensure(by_itself || unwanted || now.contains(&slot), || {
            format!("slot {slot} was emptied")
        })?;
    }
    Ok(())
}

/// While serving, a slot that nobody serves nor is about to waits for its
/// backoff, the budget, the end of a process, or for others that boot; nothing else.
fn an_empty_slot_is_being_filled(step: &Step<'_>) -> Verdict {
    let machine = step.after;
    if machine.parked
        || machine.phase != Phase::Serving
        || machine.fleet.len() >= machine.policy.process_cap()
    {
        return Ok(());
    }
    for slot in machine.slots() {
        let coming = machine.fleet.seated(slot).any(|w| w.gate == Gate::Open);
        let due = machine
            .seats
            .get(slot.0 as usize)
            .map_or(machine.now, |s| s.backoff.not_before())
            .max(machine.budget.available_at(machine.policy.workers));
        let full = || boots::is_full(machine, slot);
        ensure(coming || full() || due > machine.now, || {
            format!("slot {slot} is empty and nobody fills it")
        })?;
    }
    Ok(())
}

/// A spare is behind the gate until it is one no more.
fn spares_do_not_serve(step: &Step<'_>) -> Verdict {
    let serves = |w: &&Worker| w.spare && (w.gate == Gate::Open || w.is_ready());
    let wrong = step.after.fleet.iter().find(serves);
    ensure(wrong.is_none(), || format!("a spare serves: {wrong:?}"))
}

/// Healthy workers are replaced one at a time, and not while code changes.
fn recycled_one_at_a_time(step: &Step<'_>) -> Verdict {
    let recycled = |machine: &Supervisor| {
        count(machine, |w| {
            w.trouble == Some(Kind::Recycled) && w.is_seated()
        })
    };
    let (before, after) = (recycled(step.before), recycled(step.after));
    ensure(after <= before.max(1), || {
        format!("{after} are recycled at once")
    })?;
    let reloads = step.before.reload.is_some() && step.after.reload.is_some();
    ensure(!reloads || after <= before, || {
        "recycled during a reload".to_owned()
    })
}

/// Nobody is silent for longer than the limit, the doubt, and the master's own sleep.
fn a_silence_is_not_borne(step: &Step<'_>) -> Verdict {
    let limit = step.after.policy.hang_timeout;
    if limit.is_zero() || step.after.phase != Phase::Serving {
        return Ok(());
    }
    let overdue = |w: &&Worker| {
        let late = |since: Time| since + Policy::DOUBT <= step.after.now;
        w.is_ready() && w.condemned.is_none() && w.doubted.is_some_and(late)
    };
    let borne = step.after.fleet.iter().find(overdue);
    ensure(borne.is_none(), || format!("borne in silence: {borne:?}"))
}

/// The master ends only when nobody is left.
fn the_end_is_empty(step: &Step<'_>) -> Verdict {
    let ends = step
        .actions
        .iter()
        .any(|a| matches!(a, Action::Exit { .. }));
    ensure(!ends || step.after.fleet.iter().next().is_none(), || {
        "exit with workers left".to_owned()
    })
}

/// What a [`Report::Moved`] says.
pub(super) struct Move<'a> {
    pub(super) id: WorkerId,
    pub(super) generation: Generation,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) reason: &'a str,
}

impl Move<'_> {
    pub(super) fn is_from_ready(&self) -> bool {
        self.from == State::Ready
    }
}

pub(super) fn moves(actions: &[Action]) -> impl Iterator<Item = Move<'_>> {
    actions.iter().filter_map(|action| {
        let Action::Report(Report::Moved {
            id,
            generation,
            from,
            to,
            reason,
            ..
        }) = action
        else {
            return None;
        };
        Some(Move {
            id: *id,
            generation: *generation,
            from: *from,
            to: *to,
            reason,
        })
    })
}

/// Whether the event says that this worker ended or left by itself.
pub(super) fn is_about(event: &Event, worker: WorkerId) -> bool {
    if let Event::Exited { id, .. }
    | Event::SpawnFailed { id, .. }
    | Event::Worker {
        id,
        fact: Fact::ChannelClosed,
    } = event
    {
        *id == worker
    } else {
        false
    }
}

pub(super) fn generation_of(reload: Option<&Reload>) -> Option<Generation> {
    reload.map(|r| r.generation)
}

pub(super) fn count(machine: &Supervisor, wanted: impl Fn(&Worker) -> bool) -> usize {
    machine.fleet.iter().filter(|w| wanted(w)).count()
}

/// Nobody waits for anything: N ready workers of the committed generation and nothing else.
pub(super) fn is_quiet(machine: &Supervisor) -> bool {
    machine.phase == Phase::Serving
        && machine.reload.is_none()
        && machine.pending.is_none()
        && machine.settling.is_empty()
        && !machine.parked
        && machine.fleet.iter().count() == (machine.policy.workers + machine.policy.spares) as usize
        && count(machine, |w| w.spare && w.state == State::Held) == machine.policy.spares as usize
        && machine.slots().all(|slot| {
            machine
                .fleet
                .sound(slot, machine.committed)
                .is_some_and(Worker::is_ready)
        })
}

/// Between two events time alone must not make anything due before `deadline()`.
pub(super) fn deadline_is_honest(machine: &Supervisor) -> Verdict {
    let later = match machine.deadline() {
        Some(at) => Time(at.0 - 1),
        None => Time(machine.now.0 + 3_600_000),
    };
    let actions = machine.clone().step(later, Event::Tick);
    ensure(actions.is_empty(), || {
        format!("at {later}, before the deadline, it orders {actions:?}")
    })
}

/// A step goes all the way: asked again at the same time it orders nothing and
/// changes nothing; nor does an event about a worker that is gone.
pub(super) fn nothing_is_left_undone(machine: &Supervisor, event: &Event) -> Verdict {
    let mut again = machine.clone();
    let text = format!("{event:?}");
    let actions = again.step(machine.now, event.clone());
    ensure(actions.is_empty(), || format!("{text} orders {actions:?}"))?;
    ensure(again == *machine, || format!("{text} changes the state"))
}
