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
    words,
};
use crate::{
    admin::Status,
    supervisor::{FleetView, Incident, ReloadView, Slot, State, WorkerView},
};

/// Rows of the incidents' box, its border included.
const INCIDENTS: u16 = 6;
/// Cells of a full balance bar.
const BAR: usize = 12;

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
        self.workers(frame, table, fleet);
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
            Span::from(fleet.state.clone()).style(tone(&fleet.state)),
            Span::from(format!(
                "  generation {}  {ready} of {} ready  up {}",
                fleet.generation,
                fleet.wanted,
                words::span(status.clock_ms)
            )),
        ];
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
                    now => format!("p99 {}", words::delay(now)),
                },
                None,
            ),
            (
                &history.delay,
                format!("loop delay {}", words::delay(history.delay.now())),
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
                    now => format!("memory {}", words::bytes(now)),
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

    fn workers(&self, frame: &mut Frame<'_>, area: Rect, fleet: &FleetView) {
        let titles = [
            "SLOT", "PID", "GEN", "STATE", "UPTIME", "RESTARTS", "REQ/S", "BUSY", "DELAY", "HEAP",
            "RSS", "CONNS", "BALANCE",
        ];
        let rows = fleet.workers.iter().map(|worker| self.row(worker));
        let waiting = fleet.waiting.iter().map(|(slot, deaths, left)| {
            let text = format!("crash loop, next in {}", words::span(*left));
            let mut cells = vec![slot.to_string(), "-".into(), "-".into(), text];
            cells.extend([String::new(), deaths.to_string()]);
            Row::new(cells).style(Style::new().red())
        });
        let widths = [4, 8, 4, 9, 8, 8, 6, 5, 7, 7, 7, 6].map(Constraint::Length);
        let widths = widths.into_iter().chain([Constraint::Min(16)]);
        let table = Table::new(rows.chain(waiting), widths)
            .header(Row::new(titles).style(Style::new().dim()))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(Some(self.row));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn row(&self, worker: &WorkerView) -> Row<'static> {
        let none = || "-".to_owned();
        let beat = worker.beat.as_ref();
        let state = if worker.spare {
            "spare"
        } else {
            worker.state.name()
        };
        let (rate, share) = if worker.beat.is_some() {
            let slot = worker.slot;
            (self.history.rate_of(slot), self.history.share_of(slot))
        } else {
            (0, 0)
        };
        let filled = (share as usize * BAR).div_ceil(100).min(BAR);
        let bar = format!(
            "{}{} {share}%",
            "█".repeat(filled),
            "░".repeat(BAR - filled)
        );
        Row::new([
            Cell::from(worker.slot.to_string()),
            Cell::from(worker.pid.map_or_else(none, |pid| pid.to_string())),
            Cell::from(worker.generation.to_string()),
            Cell::from(state.to_owned()).style(tone(state)),
            Cell::from(words::span(worker.uptime_ms)),
            Cell::from(worker.restarts.to_string()),
            Cell::from(rate.to_string()),
            Cell::from(beat.map_or_else(none, |b| format!("{}%", b.busy / 10))),
            Cell::from(beat.map_or_else(none, |b| words::delay(b.delay_us))),
            Cell::from(beat.map_or_else(none, |b| words::bytes(b.heap_used))),
            Cell::from(worker.usage.map_or_else(none, |u| words::bytes(u.memory))),
            Cell::from(beat.map_or_else(none, |b| b.connections.to_string())),
            Cell::from(bar),
        ])
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
        words::span(reload.elapsed_ms)
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
    let ago = words::span(now_ms.saturating_sub(incident.at.0));
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
