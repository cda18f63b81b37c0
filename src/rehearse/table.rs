//! The result, for people.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{
    drill::{Event, Kind, QUIET},
    excuse,
    rehearsal::Rehearsal,
};
use rcluster_ledger::Phase;

/// Losses that are shown one by one, excused ones aside.
const SAMPLES: usize = 10;

/// The whole text, its last line the verdict.
pub(super) fn render(result: &Rehearsal) -> String {
    let mut lines = vec![
        format!(
            "{} {} on {}: {} workers, {} clients, {} round trip",
            result.method,
            result.paths.join(", "),
            result.address,
            result.workers,
            result.clients,
            ms(result.latency_ms * 1000),
        ),
        String::new(),
        phases(result),
        String::new(),
    ];
    lines.push(format!(
        "longest time without an answer: {}, {}",
        ms(result.longest_gap_us),
        at(result.longest_gap_at_ms, &result.events)
    ));
    let took = |kind, of: fn(&Event) -> Option<u64>, what: &str| {
        let events = result.events.iter().filter(move |e| e.kind == kind);
        range(events.filter_map(of)).map(|range| format!("{what} {range}"))
    };
    lines.extend(took(
        Kind::Reload,
        |e| e.took_ms,
        "reloads: the new workers served alone after",
    ));
    lines.extend(took(
        Kind::Reload,
        |e| e.drained_ms,
        "reloads: the last old worker was gone after",
    ));
    lines.extend(took(
        Kind::Kill,
        |e| e.took_ms,
        "kills: a new worker was ready after",
    ));
    if result.stop_code.is_some_and(|code| code != 0) {
        lines.push("the stop at the end was not clean: some workers had to be killed".to_owned());
    }
    let bad = result.classes.iter().filter(|(class, _)| !class.is_ok());
    lines.extend(bad.map(|(class, count)| format!("{}: {count}", class.name())));
    let shown = result.samples.iter().filter(|s| {
        let event = within(s.at_ms, &result.events);
        event.is_none_or(|e| e.kind != Kind::Kill) || !excuse::is_death(s.class, result.tls)
    });
    let shown = shown.take(SAMPLES);
    lines.extend(shown.map(|s| {
        let when = at(s.at_ms, &result.events);
        format!("  request {} {when}: {}: {}", s.id, s.class, s.seen)
    }));
    lines.push(String::new());
    lines.extend(result.reason.clone());
    lines.push(result.headline());
    lines.join("\n") + "\n"
}

fn phases(result: &Rehearsal) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["PHASE", "", "REQUESTS", "LOST", "P50", "P99", "LONGEST"]);
    for phase in &result.phases {
        let (name, note) = title(phase, &result.events);
        let time = |percent| ms(micros(phase.latency.percentile(percent)));
        table.add_row([
            name,
            note,
            phase.requests.to_string(),
            phase.lost.to_string(),
            time(50.0),
            time(99.0),
            ms(micros(phase.latency.max())),
        ]);
    }
    for column in 2..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn title(phase: &Phase, events: &[Event]) -> (String, String) {
    let note = match Kind::ALL.into_iter().find(|k| k.name() == phase.name) {
        Some(kind) => {
            let times = events.iter().filter(|e| e.kind == kind).count();
            format!("x{times}")
        }
        None if phase.name == QUIET => "before, between".to_owned(),
        None => String::new(),
    };
    (phase.name.clone(), note)
}

/// When, and in which event.
fn at(at_ms: u64, events: &[Event]) -> String {
    let what = within(at_ms, events).map_or(QUIET.to_owned(), |e| {
        format!("{} {}", e.kind.name(), e.number)
    });
    format!("at {:.2}s ({what})", at_ms as f64 / 1e3)
}

fn within(at_ms: u64, events: &[Event]) -> Option<&Event> {
    events
        .iter()
        .find(|e| e.at_ms <= at_ms && e.until_ms.is_none_or(|until| at_ms < until))
}

fn range(values: impl Iterator<Item = u64> + Clone) -> Option<String> {
    let (least, most) = (values.clone().min()?, values.max()?);
    Some(if least == most {
        ms(least * 1000)
    } else {
        format!("{} to {}", ms(least * 1000), ms(most * 1000))
    })
}

/// Microseconds, three digits or so.
fn ms(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.1}ms", us as f64 / 1e3),
        10_000..10_000_000 => format!("{}ms", us / 1000),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
