//! The timeline as SVG: three panels over one axis of time, and a mark for each event.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{
    drill::{Event, Kind},
    rehearsal::Rehearsal,
};

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 760;
/// Title and legend.
const HEAD: u32 = 70;
/// Width of the labels of the vertical axes, in pixels.
const LABELS: u32 = 70;
/// Least distance of two labelled marks, in pixels.
const APART: f64 = 58.0;
const FONT: &str = "sans-serif";

const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const ANSWERED: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const LOST: RGBColor = RGBColor(0xc5, 0x30, 0x30);
const LATENCY: RGBColor = RGBColor(0x55, 0x3c, 0x9a);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Error<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Reload => RGBColor(0x2f, 0x85, 0x5a),
        Kind::Pause => RGBColor(0xb7, 0x79, 0x1f),
        Kind::Kill => RGBColor(0xc0, 0x26, 0xd3),
    }
}

/// The picture, as SVG.
///
/// # Errors
/// None that is known: it is drawn into memory.
pub(super) fn draw(result: &Rehearsal) -> Result<String, String> {
    let mut text = String::new();
    paint(result, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn paint<'a>(result: &Rehearsal, text: &'a mut String) -> Result<(), Error<'a>> {
    let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    title(result, &head)?;
    let end = (result.timeline.len().max(1) as f64 / 10.0).max(1.0);
    let (upper, lower) = body.split_vertically((HEIGHT - HEAD) * 45 / 100);
    let (middle, lower) = lower.split_vertically((HEIGHT - HEAD) * 20 / 100);

    let slots = || (0u32..).zip(&result.timeline);
    let rate: Vec<_> = slots().map(|(n, s)| (n, f64::from(s.ok) * 10.0)).collect();
    let lost: Vec<_> = slots().map(|(n, s)| (n, f64::from(s.lost))).collect();
    let worst: Vec<_> = slots().map(|(n, s)| (n, s.worst_us as f64 / 1e3)).collect();
    let panel = |name, values, colour, least, last| Panel {
        name,
        values,
        colour,
        least,
        end,
        last,
    };
    panel("answered, requests/s", rate, ANSWERED, 10.0, false).paint(
        &upper,
        &result.events,
        true,
    )?;
    panel("lost, per 100 ms", lost, LOST, 4.0, false).paint(&middle, &result.events, false)?;
    panel("longest latency, ms", worst, LATENCY, 10.0, true).paint(
        &lower,
        &result.events,
        false,
    )?;
    root.present()
}

fn title<'a>(result: &Rehearsal, area: &Area<'a>) -> Result<(), Error<'a>> {
    let big = (FONT, 20).into_font().color(&INK);
    let small = (FONT, 13).into_font().color(&INK);
    let line = result.headline();
    area.draw(&Text::new(line, (20, 12), big))?;
    let mut x = 20;
    for kind in Kind::ALL {
        let count = result.events.iter().filter(|e| e.kind == kind).count();
        if count == 0 {
            continue;
        }
        let what = match kind {
            Kind::Reload => format!("reload ({count})"),
            Kind::Pause => format!("worker stopped and continued ({count})"),
            Kind::Kill => format!("worker killed ({count})"),
        };
        let width = i32::try_from(what.len()).unwrap_or(0) * 7 + 40;
        let swatch = [(x, 44), (x + 16, 56)];
        area.draw(&Rectangle::new(swatch, colour(kind).mix(0.25).filled()))?;
        area.draw(&PathElement::new(
            [(x, 44), (x, 56)],
            colour(kind).stroke_width(2),
        ))?;
        area.draw(&Text::new(what, (x + 22, 44), small.clone()))?;
        x += width;
    }
    Ok(())
}

/// One diagram over time.
struct Panel {
    name: &'static str,
    /// Number of the tenth of a second, and value.
    values: Vec<(u32, f64)>,
    colour: RGBColor,
    /// The vertical axis goes at least up to this.
    least: f64,
    /// Seconds.
    end: f64,
    /// The lowest one carries the axis of time.
    last: bool,
}

impl Panel {
    fn paint<'a>(self, area: &Area<'a>, events: &[Event], labelled: bool) -> Result<(), Error<'a>> {
        let most = self
            .values
            .iter()
            .map(|(_, v)| *v)
            .fold(self.least, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin_left(14)
            .margin_right(24)
            .margin_top(if labelled { 24 } else { 8 })
            .margin_bottom(4)
            .y_label_area_size(LABELS)
            .x_label_area_size(if self.last { 44 } else { 8 })
            .build_cartesian_2d(0.0..self.end, 0.0..most * 1.08)?;
        let plain = (FONT, 13).into_font().color(&INK);
        let mut mesh = chart.configure_mesh();
        let number = |value: &f64| format!("{value:.0}");
        let second = |value: &f64| format!("{value}");
        mesh.disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK.mix(0.5))
            .y_desc(self.name)
            .y_labels(5)
            .x_labels(if self.last { 12 } else { 0 })
            .label_style(plain.clone())
            .axis_desc_style(plain)
            .x_label_formatter(&second)
            .y_label_formatter(&number);
        if self.last {
            mesh.x_desc("seconds since the load began");
        }
        mesh.draw()?;

        let top = most * 1.08;
        for event in events {
            let from = event.at_ms as f64 / 1e3;
            let until = event.until_ms.map_or(self.end, |ms| ms as f64 / 1e3);
            let band = [(from, 0.0), (until.min(self.end), top)];
            let shade = colour(event.kind).mix(0.12).filled();
            chart.draw_series([Rectangle::new(band, shade)])?;
        }
        let colour_of_values = self.colour;
        if self.last {
            // Tenths without an answer have no latency.
            let known = self.values.iter().filter(|(_, v)| *v > 0.0);
            chart.draw_series(known.map(|(n, v)| {
                let (from, to) = (f64::from(*n) / 10.0, f64::from(*n + 1) / 10.0);
                Rectangle::new([(from, 0.0), (to, *v)], colour_of_values.mix(0.65).filled())
            }))?;
        } else if self.name.starts_with("lost") {
            let some = self.values.iter().filter(|(_, v)| *v > 0.0);
            chart.draw_series(some.map(|(n, v)| {
                let (from, to) = (f64::from(*n) / 10.0, f64::from(*n + 1) / 10.0);
                Rectangle::new([(from, 0.0), (to, *v)], colour_of_values.filled())
            }))?;
        } else {
            let points = self
                .values
                .iter()
                .map(|(n, v)| (f64::from(*n) / 10.0 + 0.05, *v));
            let line = colour_of_values.stroke_width(2);
            let area = AreaSeries::new(points, 0.0, colour_of_values.mix(0.15)).border_style(line);
            chart.draw_series(area)?;
        }
        for event in events {
            let at = event.at_ms as f64 / 1e3;
            let line = colour(event.kind).stroke_width(1);
            chart.draw_series([PathElement::new([(at, 0.0), (at, top)], line)])?;
        }
        if labelled {
            let pixels = f64::from(WIDTH - LABELS) / self.end;
            chart.draw_series(labels(events, pixels).into_iter().map(|(event, text)| {
                let style = (FONT, 12)
                    .into_font()
                    .color(&colour(event.kind))
                    .pos(Pos::new(HPos::Left, VPos::Bottom));
                Text::new(text, (event.at_ms as f64 / 1e3, top), style)
            }))?;
        }
        Ok(())
    }
}

/// The marks that have room for a label.
fn labels(events: &[Event], pixels_a_second: f64) -> Vec<(&Event, String)> {
    let mut free = 0.0;
    let mut shown = vec![];
    for event in events {
        let x = event.at_ms as f64 / 1e3 * pixels_a_second;
        if x >= free {
            free = x + APART;
            shown.push((event, format!("{} {}", event.kind.name(), event.number)));
        }
    }
    shown
}
