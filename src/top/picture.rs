//! The picture: what is known, as cells of a terminal.

use std::collections::BTreeSet;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Gauge, Paragraph, Row, Sparkline, Table, TableState},
};

use super::{
    history::{History, Seen, Series},
    keys::{Mode, Order},
};
use crate::{
    admin::{SlotFigures, Status, shown_state},
    units,
};
use rcluster_core::supervisor::{FleetView, Incident, ReloadView, Slot, State, WorkerView};

/// Rows of the incidents' box, its border included.
const INCIDENTS: u16 = 6;
/// Cells of a full balance bar.
const BAR: usize = 12;

/// The columns of the workers' table, and which go first where the terminal is narrow: those of the highest number. 0 always stays.
const COLUMNS: [(&str, u8); 15] = [
    ("SLOT", 0),
    ("PID", 0),
    ("GEN", 3),
    ("STATE", 0),
    ("UPTIME", 8),
    ("RESTARTS", 9),
    ("REQ/S", 1),
    ("4XX/S", 12),
    ("5XX/S", 2),
    ("BUSY", 4),
    ("DELAY", 5),
    ("HEAP", 11),
    ("RSS", 6),
    ("CONNS", 7),
    ("BALANCE", 10),
];
/// Where the state stands among them.
const STATE: usize = 3;

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) status: Option<Status>,
    pub(super) history: History,
    /// Why there is no answer now.
    pub(super) silence: Option<String>,
    /// What became of the last order.
    pub(super) news: Option<String>,
    pub(super) mode: Mode,
    /// The row under the cursor.
    pub(super) row: usize,
}

impl View {
    /// The slot under the cursor.
    pub(super) fn selected(&self) -> Option<Slot> {
        let workers = &self.status.as_ref()?.fleet.workers;
        workers.get(self.row).map(|worker| worker.slot)
    }

    /// Keeps the cursor on a row that exists.
    pub(super) fn step(&mut self, by: i64) {
        let rows = self.status.as_ref().map_or(0, |s| s.fleet.workers.len());
        let row = i64::try_from(self.row).unwrap_or(0) + by;
        let last = i64::try_from(rows.saturating_sub(1)).unwrap_or(0);
        self.row = usize::try_from(row.clamp(0, last)).unwrap_or(0);
    }

    /// Takes an answer in.
    pub(super) fn take(&mut self, seen: Seen) {
        self.history.take(&seen);
        self.status = Some(seen.status);
        self.silence = None;
        self.step(0);
    }

    /// Draws everything.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let Some(status) = &self.status else {
            let text = self.silence.as_deref().unwrap_or("asking the master");
            frame.render_widget(Paragraph::new(text), frame.area());
            return;
        };
        let fleet = &status.fleet;
        let reload = u16::from(fleet.reload.is_some());
        let [head, charts, table, going, incidents, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(5),
            Constraint::Min(4),
            Constraint::Length(reload),
            Constraint::Length(INCIDENTS),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(status), head);
        self.charts(frame, charts);
        self.workers(frame, table, status);
        if let Some(reload) = &fleet.reload {
            frame.render_widget(progress(reload, fleet), going);
        }
        frame.render_widget(lately(fleet, status.clock_ms), incidents);
        frame.render_widget(self.foot(), foot);
        self.question(frame);
    }

    fn head(&self, status: &Status) -> Line<'static> {
        let fleet = &status.fleet;
        // In a reload two workers of a slot can be ready.
        let ready = fleet.workers.iter().filter(|w| seated(w)).map(|w| w.slot);
        let ready = ready.collect::<BTreeSet<_>>().len();
        let mut spans = vec![
            Span::from(format!(" {} ", status.name)).bold(),
            Span::from(format!("pid {}  ", status.pid)),
            Span::from(fleet.state.name()).style(tone(fleet.state.name())),
            Span::from(format!(
                "  generation {}  {ready} of {} ready  up {}",
                fleet.generation,
                fleet.wanted,
                units::span(status.clock_ms)
            )),
        ];
        let fails = errors(status, "5xx", SlotFigures::server_errors_per_s);
        spans.extend(fails.map(|text| Span::from(text).red().bold()));
        let refuses = errors(status, "4xx", SlotFigures::client_errors_per_s);
        spans.extend(refuses.map(|text| Span::from(text).yellow()));
        if let Some(silence) = &self.silence {
            spans.push(Span::from(format!("  NO ANSWER: {silence}")).red().bold());
        }
        Line::from(spans)
    }

    fn charts(&self, frame: &mut Frame<'_>, area: Rect) {
        let history = &self.history;
        let busy = history.busy.now();
        let charts: [(&Series, String, Option<u64>); 5] = [
            (
                &history.rate,
                format!("requests/s {}", history.rate.now()),
                None,
            ),
            (
                &history.latency,
                match history.latency.now() {
                    0 => "p99 -".to_owned(),
                    now => format!("p99 {}", units::delay(now)),
                },
                None,
            ),
            (
                &history.delay,
                format!("loop delay {}", units::delay(history.delay.now())),
                None,
            ),
            (
                &history.busy,
                format!("loop busy {}%", busy / 10),
                Some(1000),
            ),
            (
                &history.memory,
                match history.memory.now() {
                    // The first count comes some seconds after the start.
                    0 => "memory -".to_owned(),
                    now => format!("memory {}", units::bytes(now)),
                },
                None,
            ),
        ];
        let areas = Layout::horizontal([Constraint::Fill(1); 5]).split(area);
        for ((series, title, max), area) in charts.into_iter().zip(areas.iter()) {
            let values = series.last(usize::from(area.width.saturating_sub(2)));
            let mut chart = Sparkline::default()
                .block(Block::bordered().title(title))
                .style(Style::new().cyan())
                .data(values);
            if let Some(max) = max {
                chart = chart.max(max);
            }
            frame.render_widget(chart, *area);
        }
    }

    /// As many columns as the width holds; a pid or a state that is cut would be a wrong one.
    fn workers(&self, frame: &mut Frame<'_>, area: Rect, status: &Status) {
        let fleet = &status.fleet;
        let workers = fleet.workers.iter();
        let mut rows: Vec<_> = workers.map(|worker| self.row(worker, status)).collect();
        rows.extend(fleet.waiting.iter().map(waiting));
        let width = |column: usize| {
            let texts = rows.iter().map(|(cells, _)| cells[column].chars().count());
            texts.chain([COLUMNS[column].0.len()]).max().unwrap_or(0)
        };
        let mut shown: Vec<_> = (0..COLUMNS.len())
            .map(|column| (column, width(column)))
            .collect();
        while shown.iter().map(|(_, width)| width + 1).sum::<usize>() > usize::from(area.width) + 1
        {
            let last = shown.iter().map(|(column, _)| COLUMNS[*column].1).max();
            if last.is_none_or(|rank| rank == 0) {
                break;
            }
            shown.retain(|(column, _)| Some(COLUMNS[*column].1) != last);
        }
        let widths = shown
            .iter()
            .map(|(_, width)| Constraint::Length(*width as u16));
        let rows = rows.iter().map(|(cells, style)| {
            Row::new(shown.iter().map(|(column, _)| {
                let text = cells[*column].clone();
                let tone = if *column == STATE {
                    tone(&text)
                } else {
                    Style::new()
                };
                Cell::from(text).style(tone)
            }))
            .style(*style)
        });
        let titles = shown.iter().map(|(column, _)| COLUMNS[*column].0);
        let table = Table::new(rows, widths.collect::<Vec<_>>())
            .header(Row::new(titles).style(Style::new().dim()))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(Some(self.row));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn row(&self, worker: &WorkerView, status: &Status) -> ([String; COLUMNS.len()], Style) {
        let none = || "-".to_owned();
        let beat = worker.beat.as_ref();
        let state = shown_state(worker);
        let serves = seated(worker) && !worker.silent;
        let rate = self.history.rate_of(worker.slot).filter(|_| serves);
        let share = if serves {
            self.history.share_of(worker.slot)
        } else {
            0
        };
        let filled = (share as usize * BAR).div_ceil(100).min(BAR);
        let bar = format!(
            "{}{} {share}%",
            "█".repeat(filled),
            "░".repeat(BAR - filled)
        );
        let figures = status.figures.iter().find(|f| f.slot == worker.slot);
        let figures = figures.filter(|_| serves);
        let per_s = |rate: Option<f64>| rate.map_or_else(none, units::rate);
        let fails = per_s(figures.and_then(SlotFigures::server_errors_per_s));
        let cells = [
            worker.slot.to_string(),
            worker.pid.map_or_else(none, |pid| pid.to_string()),
            worker.generation.to_string(),
            state.into_owned(),
            units::span(worker.uptime_ms),
            worker.restarts.to_string(),
            rate.map_or_else(none, |rate| rate.to_string()),
            per_s(figures.and_then(SlotFigures::client_errors_per_s)),
            fails,
            beat.map_or_else(none, |b| format!("{}%", b.busy / 10)),
            beat.map_or_else(none, |b| units::delay(b.delay_us)),
            beat.map_or_else(none, |b| units::bytes(b.heap_used)),
            worker.usage.map_or_else(none, |u| units::bytes(u.memory)),
            beat.map_or_else(none, |b| b.connections.to_string()),
            bar,
        ];
        (cells, Style::new())
    }

    fn foot(&self) -> Line<'_> {
        match &self.news {
            Some(news) => Line::from(format!(" {news}")).bold(),
            None => Line::from(
                " r reload  b rollback  s scale  ↑↓ select  x restart the selected slot  q quit",
            )
            .dim(),
        }
    }

    fn question(&self, frame: &mut Frame<'_>) {
        let (text, keys) = match &self.mode {
            Mode::Look => return,
            Mode::Typing(text) => (
                format!("Scale to how many workers? {text}_"),
                "Enter goes on, Esc leaves it",
            ),
            Mode::Asking(order) => (Order::question(order), "y does it, n leaves it"),
        };
        let width = (text.chars().count() as u16 + 6).max(36);
        let area = centre(frame.area(), width, 4);
        frame.render_widget(Clear, area);
        let lines = vec![Line::from(text).bold(), Line::from(keys).dim()];
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().border_style(Style::new().yellow())),
            area,
        );
    }
}

/// A slot in a crash loop has no worker.
fn waiting((slot, deaths, left): &(Slot, u32, u64)) -> ([String; COLUMNS.len()], Style) {
    let mut cells = [(); COLUMNS.len()].map(|()| String::new());
    let known = [
        slot.to_string(),
        "-".to_owned(),
        "-".to_owned(),
        "crash loop".to_owned(),
        format!("next in {}", units::span(*left)),
        deaths.to_string(),
    ];
    for (cell, known) in cells.iter_mut().zip(known) {
        *cell = known;
    }
    (cells, Style::new().red())
}

/// Answers of a class a second, all slots, over the last half minute.
fn errors(status: &Status, class: &str, of: fn(&SlotFigures) -> Option<f64>) -> Option<String> {
    let rate: f64 = status.figures.iter().filter_map(of).sum();
    (rate >= 0.05).then(|| format!("  {class} {}/s", units::rate(rate)))
}

fn seated(worker: &WorkerView) -> bool {
    worker.state == State::Ready && !worker.spare
}

fn tone(word: &str) -> Style {
    Style::new().fg(match word {
        "ready" | "serving" => Color::Green,
        "booting" | "starting" | "held" | "spare" | "reloading" => Color::Yellow,
        "draining" => Color::Cyan,
        _ => Color::Red,
    })
}

fn progress(reload: &ReloadView, fleet: &FleetView) -> Gauge<'static> {
    let (taken, wanted) = (fleet.taken_over(), fleet.wanted);
    let share = f64::from(taken.min(wanted)) / f64::from(wanted.max(1));
    let label = format!(
        "reload to generation {}: {}, {taken} of {wanted} slots, {}",
        reload.generation,
        reload.stage,
        units::span(reload.elapsed_ms)
    );
    Gauge::default()
        .gauge_style(Style::new().yellow().on_black())
        .label(label)
        .ratio(share)
}

fn lately(fleet: &FleetView, now_ms: u64) -> Paragraph<'static> {
    let mut lines: Vec<Line<'static>> = fleet
        .incidents
        .iter()
        .rev()
        .map(|i| told(i, now_ms))
        .collect();
    if let Some(error) = &fleet.last_reload_error {
        let first = error.lines().next().unwrap_or_default();
        lines.insert(
            0,
            Line::from(format!("the last reload failed: {first}")).red(),
        );
    }
    if lines.is_empty() {
        lines.push(Line::from("none").dim());
    }
    Paragraph::new(lines).block(Block::bordered().title("incidents"))
}

fn told(incident: &Incident, now_ms: u64) -> Line<'static> {
    let ago = units::span(now_ms.saturating_sub(incident.at.0));
    let reason = incident.reason.lines().next().unwrap_or_default();
    let frame = incident.stack.as_ref().and_then(|s| s.lines().next());
    Line::from(format!(
        "{ago} ago: {}: slot {}, worker {}: {reason} {}",
        incident.kind.name(),
        incident.slot,
        incident.worker,
        frame.unwrap_or_default().trim()
    ))
}

fn centre(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    /// What a terminal shows of two workers with the largest pids, one of which is hung.
    fn screen(columns: u16) -> String {
        let workers: Vec<_> = [4_194_302u32, 4_194_303]
            .iter()
            .zip(0u32..)
            .map(|(pid, slot)| {
                serde_json::json!({
                    "slot": slot, "id": slot + 1, "pid": pid, "generation": 100, "state": "ready",
                    "restarts": 12345, "uptime_ms": 1_000_000_000u64, "silent_ms": 0,
                    "beat": {"requests": 9, "connections": 12345, "heap_used": 1u64 << 30,
                        "heap_limit": 1u64 << 31, "delay_us": 123_456_789, "busy": 1000},
                    "usage": {"memory": 1u64 << 30, "cpu_ms": 5, "fds": 20, "fd_limit": 1024},
                })
            })
            .collect();
        let status = serde_json::from_value(serde_json::json!({
            "version": 1, "name": "shop", "pid": 4_194_301, "clock_ms": 5000, "state": "serving",
            "generation": 100, "wanted": 3, "workers": workers, "reload": null, "reloads_done": 0,
            "reloads_failed": 0, "last_reload_error": null, "drained_total": 0, "cut_total": 0,
            "waiting": [[2, 4, 30000]], "slots": [], "incidents": [], "listeners": [], "unused_binds": [],
        }));
        let mut view = View::default();
        view.take(Seen {
            status: status.expect("a status"),
            p99_us: None,
        });
        let mut terminal = Terminal::new(TestBackend::new(columns, 24)).expect("a terminal");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn a_narrow_terminal_has_fewer_columns_and_cuts_none() {
        for (columns, shown) in [(40, "REQ/S"), (80, "RSS"), (200, "BALANCE")] {
            let text = screen(columns);
            for whole in [
                " 4194302 ",
                " 4194303 ",
                "pid 4194301",
                " crash loop",
                shown,
            ] {
                assert!(
                    text.contains(whole),
                    "{whole} at {columns} columns:\n{text}"
                );
            }
            assert_eq!(text.contains("BALANCE"), columns > 110, "{text}");
        }
    }
}
