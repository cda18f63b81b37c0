//! The progress of a reload on a terminal: one line, drawn anew while the answer is awaited.

use std::{
    convert::Infallible,
    fmt::Write as _,
    io::{Write as _, stderr},
    time::Duration,
};

use ratatui::crossterm::terminal;

use super::{ask_status, paint::Paint};
use crate::{
    admin::{Client, Status},
    units,
};
use rcluster_core::supervisor::{FleetView, Generation, Slot, State};

/// How often the master is asked.
const PERIOD: Duration = Duration::from_millis(100);
/// Cells of the bar: more slots than that share them.
const CELLS: usize = 40;
/// Columns of a terminal that does not say how many it has.
const COLUMNS: u16 = 80;

/// How far a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Its old worker serves alone.
    Waits,
    /// Its new worker boots.
    Boots,
    /// Its new worker serves; the old one drains.
    Ready,
    /// The new one is alone.
    Drained,
}

impl Step {
    fn sign(self) -> char {
        match self {
            Self::Waits => '░',
            Self::Boots => '▒',
            Self::Ready => '▓',
            Self::Drained => '█',
        }
    }
}

/// The answer, and until it comes the bar, if there is to be one.
pub(super) async fn shown<T>(client: &Client, bar: bool, answer: impl Future<Output = T>) -> T {
    if !bar {
        return answer.await;
    }
    let line = Line {
        paint: Paint::of(&stderr()),
    };
    tokio::select! {
        biased;
        answer = answer => {
            drop(line);
            answer
        }
        never = follow(client, &line) => match never {},
    }
}

async fn follow(client: &Client, line: &Line) -> Infallible {
    let mut generation = None;
    loop {
        // A master that does not answer now is told of by the answer that is awaited.
        if let Ok(status) = ask_status(client).await {
            let goes_on = status.fleet.reload.as_ref().map(|r| r.generation);
            generation = goes_on.or(generation);
            if let Some(generation) = generation {
                line.draw(&status, generation);
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The line; it goes with this value.
struct Line {
    paint: Paint,
}

impl Drop for Line {
    fn drop(&mut self) {
        // To a terminal that went away nothing needs to be said.
        let _ = write!(stderr(), "\r\x1b[K");
    }
}

impl Line {
    fn draw(&self, status: &Status, generation: Generation) {
        let columns = terminal::size().map_or(0, |(columns, _)| columns);
        let columns = if columns == 0 { COLUMNS } else { columns };
        let text = picture(&status.fleet, generation);
        // A longer line would wrap, and stay.
        let text: String = text.chars().take(usize::from(columns) - 1).collect();
        let text = match text.split_once(']') {
            Some((bar, rest)) if self.paint.is_on() => {
                let bar = bar.replacen('[', "[\x1b[32m", 1);
                format!("{bar}\x1b[0m]{rest}")
            }
            _ => text,
        };
        let mut out = stderr();
        let _ = write!(out, "\r{text}\x1b[K").and_then(|()| out.flush());
    }
}

/// Where each slot is on its way to a generation.
fn steps(fleet: &FleetView, generation: Generation) -> Vec<Step> {
    (0..fleet.wanted)
        .map(|slot| {
            let seated = || {
                let workers = fleet.workers.iter();
                workers.filter(move |w| w.slot == Slot(slot) && !w.spare)
            };
            let new = seated().filter(|w| w.generation >= generation);
            let old = seated().any(|w| w.generation < generation);
            match new.map(|w| w.state).max() {
                None => Step::Waits,
                Some(State::Starting | State::Booting | State::Held) => Step::Boots,
                Some(_) if old => Step::Ready,
                Some(_) => Step::Drained,
            }
        })
        .collect()
}

fn picture(fleet: &FleetView, generation: Generation) -> String {
    let steps = steps(fleet, generation);
    let count = |step| steps.iter().filter(|s| **s == step).count();
    let cells = steps.len().min(CELLS);
    let bar = (0..cells).map(|cell| {
        // The slots of a cell are as far as the one that is least far.
        let share = cell * steps.len() / cells..(cell + 1) * steps.len() / cells;
        steps[share].iter().min().map_or(' ', |step| step.sign())
    });
    let mut text = format!("generation {generation} [{}]", bar.collect::<String>());
    for (step, word) in [
        (Step::Drained, "drained"),
        (Step::Ready, "ready"),
        (Step::Boots, "booting"),
        (Step::Waits, "to go"),
    ] {
        let n = count(step);
        if n > 0 {
            let _ = write!(text, " {n} {word},");
        }
    }
    if let Some(reload) = &fleet.reload {
        let _ = write!(
            text,
            " {}, {}",
            reload.stage,
            units::span(reload.elapsed_ms)
        );
    }
    text.trim_end_matches(',').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_its_sign() {
        let worker = |slot: u32, id: u64, generation: u64, state: &str| {
            serde_json::json!({
                "slot": slot, "id": id, "pid": 100 + id, "generation": generation, "state": state,
                "restarts": 0, "uptime_ms": 5,
            })
        };
        let fleet: FleetView = serde_json::from_value(serde_json::json!({
            "state": "reloading", "generation": 1, "wanted": 5,
            "workers": [
                worker(0, 11, 2, "ready"),
                worker(1, 2, 1, "draining"), worker(1, 12, 2, "ready"),
                worker(2, 3, 1, "ready"), worker(2, 13, 2, "booting"),
                worker(3, 4, 1, "ready"),
            ],
            "reload": {"generation": 2, "stage": "replacing", "admitted": 2, "elapsed_ms": 1200},
            "reloads_done": 0, "reloads_failed": 0, "last_reload_error": null,
            "drained_total": 0, "cut_total": 0, "waiting": [],
        }))
        .expect("a fleet");
        assert_eq!(
            picture(&fleet, Generation(2)),
            "generation 2 [█▓▒░░] 1 drained, 1 ready, 1 booting, 2 to go, replacing, 1s"
        );
        let mut many = fleet;
        many.wanted = 1024;
        let text = picture(&many, Generation(2));
        assert_eq!(text.matches('░').count(), CELLS, "{text}");
    }
}
