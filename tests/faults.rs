//! Faults that belong to no other promise, and the table of all faults (FAULTS.md), whose tests must exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::common::{self, Launch, Node, wait_until};

/// Functions that a test file defines.
fn functions(folder: &Path, file: &str) -> BTreeSet<String> {
    let path = folder.join(format!("{file}.rs"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let names = text.lines().filter_map(|line| line.strip_prefix("fn "));
    names
        .filter_map(|rest| rest.split(['(', '<']).next())
        .map(str::to_owned)
        .collect()
}

/// `file::function` of each row of a table, with the row.
fn named(table: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| fault"));
    rows.map(|row| {
        let words = row.split('`').skip(1).step_by(2);
        (
            row,
            words.filter_map(|word| word.split_once("::")).collect(),
        )
    })
    .collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table = fs::read_to_string(folder.join("FAULTS.md")).expect("the table");
    let mut files = BTreeMap::new();
    let rows = named(&table);
    assert!(rows.len() > 40, "{} rows were found", rows.len());
    for (row, tests) in rows {
        assert!(!tests.is_empty(), "a row without a test: {row}");
        for (file, function) in tests {
            let there: &BTreeSet<_> = files
                .entry(file)
                .or_insert_with(|| functions(&folder, file));
            assert!(there.contains(function), "no {file}::{function}: {row}");
        }
    }
    // The control.
    let missing = named("| a | b | `faults::nobody_wrote_this` | |");
    assert!(!functions(&folder, "faults").contains(missing[0].1[0].1));
}

#[test]
fn hundreds_of_megabytes_of_log_do_not_grow_the_master() {
    let launch = Launch::new("prints.js").node(Node::V24).workers(1);
    let counted = launch.dir.path().join("counted");
    let mut master = launch
        .option("--log-prefix")
        .env("COUNTED", &counted)
        .env("COUNT", common::app("count.py"))
        .under([
            "bash",
            "-c",
            "exec \"$@\" > >(exec python3 -S -E \"$COUNT\")",
            "bash",
        ])
        .start();
    master.wait_ready(1);
    let addr = master.addr();
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", master.pid()));
        let status = status.expect("it lives");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("a number of KiB")
    };
    let before = peak();
    // 200 MB in lines of 1 MB, 200 MB in lines of 10 MB.
    for (times, fill) in [(200, 1_000_000), (20, 10_000_000)] {
        let path = format!("/?stream=stdout&times={times}&fill={fill}&hex=0a");
        assert_eq!(addr.get(&path).status, 200);
        assert_eq!(master.status().ready().len(), 1);
    }
    // What a pipe does not take at once Node keeps.
    wait_until("all of it", common::LONG, || {
        let passed = fs::read_to_string(&counted).ok()?;
        (passed.parse::<u64>().ok()? > 400_000_000).then_some(())
    });
    let grown = peak().saturating_sub(before);
    assert!(grown < 16 * 1024, "the master grew by {grown} KiB");
    master.stop();
}
