//! The report: Markdown sections with tables, and the verdict on each target.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::nodes::Node;
use super::procfs;
use super::stats::Samples;

/// Stands in the text for the path of a picture until that is known.
const PICTURE: &str = "picture:";
/// Most noise with which the verdict on a ratio means something.
const QUIET: f64 = 0.05;

/// Markdown that grows section by section, and the list of targets.
#[derive(Debug, Default)]
pub(crate) struct Report {
    text: String,
    targets: Vec<[String; 4]>,
    /// What was said to be missing.
    missing: Vec<String>,
    /// Names and texts of SVG files.
    pictures: Vec<(String, String)>,
}

impl Report {
    /// A report that starts with its title and the machine.
    pub(crate) fn new(title: &str, nodes: &[Node]) -> Self {
        let mut report = Self::default();
        let versions: Vec<_> = nodes.iter().map(|node| node.version.as_str()).collect();
        report.text = format!(
            "# {title}\n\n{} · Node {} · load of the machine at the start: {:.2}\n",
            machine(),
            versions.join(", "),
            procfs::load()
        );
        report
    }

    /// A section's heading and what was done.
    pub(crate) fn section(&mut self, title: &str, about: &str) {
        eprintln!("== {title}");
        let _ = write!(self.text, "\n## {title}\n\n{about}\n");
    }

    /// A line of text under a table.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = write!(self.text, "\n{text}\n");
    }

    /// Says that something is missing, and why; once, however often it is asked for.
    pub(crate) fn missing(&mut self, what: &str, why: &str) {
        let text = format!("Not measured: {what}: {why}.");
        if !self.missing.contains(&text) {
            self.note(&text);
            self.missing.push(text);
        }
    }

    /// A table.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let _ = write!(
            self.text,
            "\n| {} |\n|{}\n",
            head.join(" | "),
            "---|".repeat(head.len())
        );
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
    }

    /// A picture, which is written beside the report as `REPORT-NAME.svg`; shown only where the report is a file.
    pub(crate) fn picture(&mut self, name: &str, about: &str, svg: String) {
        let _ = write!(self.text, "\n![{about}]({PICTURE}{name})\n");
        self.pictures.push((name.to_owned(), svg));
    }

    /// A target and whether it was met.
    pub(crate) fn target(
        &mut self,
        what: impl Into<String>,
        wanted: impl Into<String>,
        got: String,
        met: bool,
    ) {
        let what = what.into();
        eprintln!("   {} {what}: {got}", if met { "PASS" } else { "SHORT" });
        self.targets.push([
            what,
            wanted.into(),
            got,
            if met { "PASS" } else { "**short**" }.to_owned(),
        ]);
    }

    /// A target for a ratio whose noise (see `Samples::noise`) was measured beside it. On a machine so busy that two equal things
    /// differ by more than [`QUIET`], neither outcome proves anything, and the verdict says so.
    pub(crate) fn ratio(
        &mut self,
        what: String,
        wanted: &str,
        got: &Samples,
        met: bool,
        noise: f64,
    ) {
        if noise <= QUIET {
            self.target(what, wanted, got.show(3), met);
            return;
        }
        eprintln!("   NOISY {what}: {}", got.show(3));
        let verdict = format!("inconclusive: {:.0} % noise", noise * 100.0);
        self.targets
            .push([what, wanted.to_owned(), got.show(3), verdict]);
    }

    /// A target that could not be measured here.
    pub(crate) fn unmeasured(&mut self, what: &str, wanted: &str, why: &str) {
        self.targets.push([
            what.to_owned(),
            wanted.to_owned(),
            why.to_owned(),
            "not measured".to_owned(),
        ]);
    }

    /// Adds the table of targets, prints all of it, and writes it to `out` if given.
    pub(crate) fn finish(mut self, out: Option<&Path>) -> Result<()> {
        if !self.targets.is_empty() {
            let rows: Vec<_> = std::mem::take(&mut self.targets)
                .into_iter()
                .map(Vec::from)
                .collect();
            let _ = write!(self.text, "\n## Targets\n");
            self.table(&["target", "wanted", "measured", "verdict"], &rows);
        }
        for (name, svg) in std::mem::take(&mut self.pictures) {
            let link = format!("{PICTURE}{name}");
            let Some(out) = out else {
                // Without a file there is no place for it.
                self.text = self
                    .text
                    .replace(&format!("({link})"), "(not written: no --out)");
                continue;
            };
            let stem = out.file_stem().unwrap_or_default().to_string_lossy();
            let file = format!("{stem}-{name}.svg");
            let path = out.with_file_name(&file);
            fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
            self.text = self
                .text
                .replace(&format!("({link})"), &format!("({file})"));
        }
        println!("{}", self.text);
        if let Some(out) = out {
            fs::write(out, &self.text).with_context(|| format!("write {}", out.display()))?;
        }
        Ok(())
    }
}

/// Cores, processor and kernel.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The local part of a kernel's name says nothing about its speed.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!(
        "{cores} cores ({model}), Linux {kernel} {}",
        std::env::consts::ARCH
    )
}
