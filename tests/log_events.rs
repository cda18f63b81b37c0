//! The events of the log: each line has one, and each one is described.

use std::{collections::BTreeSet, fs, path::Path};

const MACROS: [&str; 5] = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];

fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            found.push((path.display().to_string(), text));
        }
    }
}

/// What stands between the parentheses that the text begins within.
fn arguments(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// Names after `before`, up to the next quotation mark.
fn names<'a>(text: &'a str, before: &str) -> impl Iterator<Item = &'a str> {
    let parts: Vec<_> = text.split(before).skip(1).collect();
    parts.into_iter().filter_map(|rest| rest.split('"').next())
}

#[test]
fn every_log_line_has_an_event_that_is_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = vec![];
    files(&root.join("src"), &mut sources);
    let (mut lines, mut without, mut used) = (0, vec![], BTreeSet::new());
    for (path, text) in &sources {
        for level in MACROS {
            for (at, _) in text.match_indices(level) {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                lines += 1;
                let arguments = arguments(&text[at + level.len()..]);
                let short = arguments.split(',').any(|part| part.trim() == "event");
                if !short && !arguments.contains("event = ") {
                    without.push(format!("{path}: {level}{arguments})"));
                }
            }
        }
        used.extend(names(text, "event = \"").map(str::to_owned));
        used.extend(names(text, r#"\"event\":\""#).map(|name| name.replace('\\', "")));
        // Those that are chosen by a state.
        let chosen = text.split("fn event_of").nth(1).unwrap_or_default();
        let chosen = chosen.split("\n}").next().unwrap_or_default();
        used.extend(names(chosen, "=> \"").map(str::to_owned));
    }
    assert!(lines > 100, "{lines} lines were found");
    assert_eq!(without, Vec::<String>::new());

    let page = fs::read_to_string(root.join("docs/reference/events.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let described: BTreeSet<_> = rows
        .filter_map(|row| row.split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    assert_eq!(used, described);
}
