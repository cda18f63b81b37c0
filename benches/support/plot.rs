//! Three kinds of pictures, as SVG: bars with their quartiles, shares of a whole, lines over a doubling axis.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: i32 = 960;
/// Room for the title, and below the rows.
const HEAD: i32 = 54;
const FOOT: i32 = 18;
const ROW: i32 = 26;
/// Where names end and values begin.
const NAMES: i32 = 250;
const RIGHT: i32 = 120;
const FONT: &str = "sans-serif";

const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const OURS: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const THEIRS: RGBColor = RGBColor(0xa0, 0xae, 0xc0);
const MARK: RGBColor = RGBColor(0xc5, 0x30, 0x30);
const SERIES: [RGBColor; 8] = [
    RGBColor(0x2b, 0x6c, 0xb0),
    RGBColor(0xc5, 0x30, 0x30),
    RGBColor(0x2f, 0x85, 0x5a),
    RGBColor(0xb7, 0x79, 0x1f),
    RGBColor(0x55, 0x3c, 0x9a),
    RGBColor(0x31, 0x97, 0x95),
    RGBColor(0x71, 0x80, 0x96),
    RGBColor(0xd5, 0x3f, 0x8c),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// One bar: median and quartiles.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Drawn in our colour.
    pub(crate) ours: bool,
}

/// Bars beneath each other; `mark` draws a line at a value.
pub(crate) fn bars(
    title: &str,
    bars: &[Bar],
    decimals: usize,
    mark: Option<f64>,
) -> Result<String> {
    let bars: Vec<_> = bars.iter().filter(|bar| bar.median.is_finite()).collect();
    let most = bars
        .iter()
        .map(|bar| bar.high.max(bar.median))
        .chain(mark)
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| NAMES + (f64::from(WIDTH - NAMES - RIGHT) * value / most) as i32;
    let height = rows_height(bars.len());
    let mut text = String::new();
    let mut paint = || -> Drawn<'_> {
        let root = canvas(&mut text, title, height)?;
        for (row, bar) in (0..).zip(&bars) {
            let top = HEAD + row * ROW;
            let middle = top + ROW / 2 - 2;
            label(&root, &bar.name, (NAMES - 8, middle), HPos::Right)?;
            let colour = if bar.ours { OURS } else { THEIRS };
            root.draw(&Rectangle::new(
                [(NAMES, top), (x(bar.median), top + ROW - 6)],
                colour.filled(),
            ))?;
            line(&root, [(x(bar.low), middle), (x(bar.high), middle)], INK)?;
            for end in [bar.low, bar.high] {
                line(&root, [(x(end), middle - 3), (x(end), middle + 3)], INK)?;
            }
            let value = format!("{:.decimals$}", bar.median);
            let at = x(bar.high.max(bar.median)) + 6;
            label(&root, &value, (at, middle), HPos::Left)?;
        }
        if let Some(value) = mark {
            line(
                &root,
                [(x(value), HEAD - 6), (x(value), height - FOOT)],
                MARK,
            )?;
        }
        root.present()
    };
    done(paint())?;
    Ok(text)
}

/// One row a name: how a whole is divided.
pub(crate) fn shares(title: &str, rows: &[(String, Vec<u64>)]) -> Result<String> {
    let mut text = String::new();
    let height = rows_height(rows.len());
    let mut paint = || -> Drawn<'_> {
        let root = canvas(&mut text, title, height)?;
        for (row, (name, parts)) in (0..).zip(rows) {
            let top = HEAD + row * ROW;
            let middle = top + ROW / 2 - 2;
            label(&root, name, (NAMES - 8, middle), HPos::Right)?;
            let sum = parts.iter().sum::<u64>().max(1) as f64;
            let x = |part: u64| NAMES + (f64::from(WIDTH - NAMES - 20) * part as f64 / sum) as i32;
            let mut before = 0;
            for (index, part) in parts.iter().enumerate() {
                let colour = OURS.mix([0.9, 0.65, 0.45, 0.28][index % 4]);
                let corners = [(x(before), top), (x(before + part) - 1, top + ROW - 6)];
                if *part > 0 {
                    root.draw(&Rectangle::new(corners, colour.filled()))?;
                    let at = (x(before) + 5, middle);
                    label(&root, &part.to_string(), at, HPos::Left)?;
                }
                before += part;
            }
        }
        root.present()
    };
    done(paint())?;
    Ok(text)
}

/// A line a name over values that double, both axes logarithmic. A value that is not positive is left out.
pub(crate) fn lines(
    title: &str,
    unit: &str,
    at: &[usize],
    rows: &[(String, Vec<f64>)],
) -> Result<String> {
    const HEIGHT: i32 = 420;
    const LEFT: i32 = 70;
    const LEGEND: i32 = 270;
    let values = || rows.iter().flat_map(|(_, row)| row).filter(|v| **v > 0.0);
    let least = values()
        .fold(f64::INFINITY, |a, b| a.min(*b))
        .log10()
        .floor();
    let most = values().fold(0.0_f64, |a, b| a.max(*b)).log10().ceil();
    let log = |n: usize| (n.max(1) as f64).ln();
    let (left_end, right_end) = (
        log(at.first().copied().unwrap_or(1)),
        log(at.last().copied().unwrap_or(2)),
    );
    let x = |n: usize| {
        LEFT + 20
            + (f64::from(WIDTH - LEFT - LEGEND - 40) * (log(n) - left_end)
                / (right_end - left_end).max(0.1)) as i32
    };
    let y = |value: f64| {
        let share = (value.log10() - least) / (most - least).max(1.0);
        HEIGHT - 40 - (f64::from(HEIGHT - HEAD - 50) * share) as i32
    };
    let mut text = String::new();
    let mut paint = || -> Drawn<'_> {
        let root = canvas(&mut text, title, HEIGHT)?;
        for &n in at {
            label(&root, &n.to_string(), (x(n), HEIGHT - 24), HPos::Center)?;
        }
        label(&root, "workers", (WIDTH - LEGEND, HEIGHT - 24), HPos::Left)?;
        label(&root, unit, (LEFT - 50, HEAD - 12), HPos::Left)?;
        let mut power = least;
        while power <= most {
            let level = y(10_f64.powf(power));
            line(&root, [(LEFT, level), (WIDTH - LEGEND, level)], THEIRS)?;
            let name = format!("{}", 10_f64.powf(power));
            label(&root, &name, (LEFT - 8, level), HPos::Right)?;
            power += 1.0;
        }
        for (index, (name, row)) in rows.iter().enumerate() {
            let colour = SERIES[index % SERIES.len()];
            let points: Vec<_> = at
                .iter()
                .zip(row)
                .filter(|(_, value)| **value > 0.0)
                .map(|(n, value)| (x(*n), y(*value)))
                .collect();
            root.draw(&PathElement::new(points.clone(), colour.stroke_width(2)))?;
            for point in points {
                root.draw(&Circle::new(point, 3, colour.filled()))?;
            }
            let top = HEAD + i32::try_from(index).unwrap_or(0) * 20;
            let left = WIDTH - LEGEND + 20;
            let corners = [(left, top - 5), (left + 14, top + 5)];
            root.draw(&Rectangle::new(corners, colour.filled()))?;
            label(&root, name, (left + 20, top), HPos::Left)?;
        }
        root.present()
    };
    done(paint())?;
    Ok(text)
}

fn rows_height(rows: usize) -> i32 {
    HEAD + i32::try_from(rows).unwrap_or(0) * ROW + FOOT
}

fn canvas<'a>(
    text: &'a mut String,
    title: &str,
    height: i32,
) -> Result<Area<'a>, DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let size = (WIDTH.cast_unsigned(), height.cast_unsigned());
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    root.fill(&WHITE)?;
    let big = (FONT, 17).into_font().color(&INK);
    root.draw(&Text::new(title.to_owned(), (16, 12), big))?;
    Ok(root)
}

fn label<'a>(root: &Area<'a>, text: &str, at: (i32, i32), side: HPos) -> Drawn<'a> {
    let style = (FONT, 13)
        .into_font()
        .color(&INK)
        .pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(text.to_owned(), at, style))
}

fn line<'a>(root: &Area<'a>, ends: [(i32, i32); 2], colour: RGBColor) -> Drawn<'a> {
    root.draw(&PathElement::new(ends, colour.stroke_width(1)))
}

fn done(drawn: Drawn<'_>) -> Result<()> {
    drawn.map_err(|error| anyhow!("draw a picture: {error}"))
}
