//! `rcluster status` for people.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use super::paint::{self, Paint};
use crate::{
    admin::{BalanceStatus, SlotFigures, Status, shown_state},
    units,
};
use rcluster_core::supervisor::{State, WorkerView};

/// Who sits where.
const SEAT: [&str; 7] = [
    "SLOT",
    "PID",
    "ID",
    "GENERATION",
    "STATE",
    "UPTIME",
    "RESTARTS",
];
/// What a worker carries.
const LOAD: [&str; 11] = [
    "CPU",
    "RSS",
    "HEAP",
    "DELAY P99",
    "CONNECTIONS",
    "REQ/S",
    "4XX/S",
    SERVER_ERRORS,
    "SHARE",
    "P50",
    "P99",
];
const SERVER_ERRORS: &str = "5XX/S";

/// The status for people.
pub(super) fn render(status: &Status, paint: Paint) -> String {
    let fleet = &status.fleet;
    let ready = fleet
        .workers
        .iter()
        .filter(|w| w.state == State::Ready)
        .count();
    let mut lines = vec![format!(
        "{} (pid {}): {}, generation {}, {ready} of {} workers ready",
        status.name,
        status.pid,
        paint.word(fleet.state.name()),
        fleet.generation,
        fleet.wanted
    )];
    let listeners = status.listeners.iter();
    lines.extend(listeners.map(|l| format!("listens on {}", l.address)));
    lines.extend(balance(&status.balance));
    lines.extend(status.unused_binds.iter().map(|address| {
        let warning = paint.bad("warning");
        format!("{warning}: {address} is bound (--bind), but the app does not listen there; it should use process.env.PORT")
    }));
    lines.extend(fleet.reload.iter().map(|reload| {
        format!(
            "reload to generation {}: {}, {} of {} slots, for {}",
            reload.generation,
            reload.stage,
            fleet.taken_over(),
            fleet.wanted,
            units::span(reload.elapsed_ms)
        )
    }));
    lines.extend(fleet.last_reload_error.iter().map(|error| {
        let first = error.lines().next().unwrap_or("");
        format!("{}: {first}", paint.bad("the last reload failed"))
    }));
    let mut table = Table::new();
    if paint.is_on() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(SEAT.into_iter().chain(LOAD));
    for worker in &fleet.workers {
        let state = shown_state(worker);
        let seat = [
            Cell::new(worker.slot),
            Cell::new(worker.pid.map_or("-".to_owned(), |p| p.to_string())),
            Cell::new(worker.id),
            Cell::new(worker.generation),
            Cell::new(&state).fg(paint::tone(&state)),
            Cell::new(units::span(worker.uptime_ms)),
            Cell::new(worker.restarts),
        ];
        let load = load(worker, status).into_iter().zip(LOAD);
        let load = load.map(|(text, title)| {
            let fails = title == SERVER_ERRORS && text.starts_with(|c| ('1'..='9').contains(&c));
            let cell = Cell::new(text);
            if fails { cell.fg(Color::DarkRed) } else { cell }
        });
        table.add_row(seat.into_iter().chain(load));
    }
    for (slot, failures, left) in &fleet.waiting {
        let state = format!("crash loop ({failures} deaths)");
        table.add_row([
            Cell::new(slot),
            Cell::new("-"),
            Cell::new("-"),
            Cell::new("-"),
            Cell::new(state).fg(Color::DarkRed),
            Cell::new(format!("next in {}", units::span(*left))),
            Cell::new("-"),
        ]);
    }
    lines.push(table.trim_fmt());
    lines.join("\n") + "\n"
}

/// How connections reach the workers, and how evenly.
fn balance(balance: &BalanceStatus) -> Option<String> {
    let vary = |what: &str, by: Option<f64>| by.map(|by| format!("{what} vary by {by:.2}"));
    let fairness = &balance.fairness;
    let parts = [
        vary("connections", fairness.connections),
        vary("requests", fairness.requests),
    ];
    let passed = (balance.passed > 0).then(|| format!("{} handed over", balance.passed));
    let parts: Vec<_> = parts.into_iter().chain([passed]).flatten().collect();
    let (mode, parts) = (&balance.mode, parts.join(", "));
    // An older master does not say.
    (!mode.is_empty() && !parts.is_empty()).then(|| format!("balance {mode}: {parts} (0 is even)"))
}

/// What a worker carries. Rates and durations are its slot's, over the last half minute.
fn load(worker: &WorkerView, status: &Status) -> [String; 11] {
    let figures = status.figures.iter().find(|f| f.slot == worker.slot);
    let figures =
        figures.filter(|_| worker.state == State::Ready && !worker.spare && !worker.silent);
    let shares = status.balance.shares.iter();
    let share = figures.and_then(|f| shares.into_iter().find(|share| share.slot == f.slot));
    let share = share.map(|share| share.requests);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let size = |bytes: u64| bytesize::ByteSize(bytes).to_string();
    let rate = |rate: f64| format!("{rate:.1}");
    let ms = |us: u64| format!("{:.1}ms", us as f64 / 1000.0);
    [
        or_dash(
            figures
                .and_then(|f| f.cpus)
                .map(|cpus| format!("{:.0}%", cpus * 100.0)),
        ),
        or_dash(worker.usage.map(|u| size(u.memory))),
        or_dash(worker.beat.map(|b| size(b.heap_used))),
        or_dash(worker.beat.map(|b| ms(b.delay_p99_us))),
        or_dash(worker.beat.map(|b| b.connections.to_string())),
        or_dash(figures.and_then(|f| f.requests_per_s).map(rate)),
        or_dash(figures.and_then(SlotFigures::client_errors_per_s).map(rate)),
        or_dash(figures.and_then(SlotFigures::server_errors_per_s).map(rate)),
        or_dash(share.map(|part| format!("{:.0}%", part * 100.0))),
        or_dash(figures.and_then(|f| f.p50_us).map(ms)),
        or_dash(figures.and_then(|f| f.p99_us).map(ms)),
    ]
}
