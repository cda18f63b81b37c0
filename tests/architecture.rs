//! The house rules that a compiler does not know: who may use what.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// Lines of code outside of tests and comments that hold one of the words.
fn offences(folder: &str, words: &[&str]) -> Vec<String> {
    let mut offences = vec![];
    for (path, text) in sources(folder) {
        if path.components().any(|c| c.as_os_str() == "sim") || path.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
        for (number, line) in code.lines().enumerate() {
            let line = line.trim();
            if !line.starts_with("//") && words.iter().any(|w| line.contains(w)) {
                offences.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    offences
}

/// That core knows no clock, descriptor, runtime or log, the compiler checks: see `src/core/Cargo.toml` and `clippy.toml` there.
#[test]
fn the_machines_know_no_json_and_no_protocol() {
    for folder in ["src/core/supervisor", "src/core/balance"] {
        let found = offences(folder, &["serde_json", "crate::ipc", "std::io"]);
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn core_depends_on_no_runtime_and_no_system() {
    let manifest = include_str!("../src/core/Cargo.toml");
    let dependencies = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .expect("a list of dependencies");
    let names: Vec<_> = dependencies
        .lines()
        .filter_map(|line| line.split(['.', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(names, ["serde", "serde_json", "thiserror"]);
}

/// That nothing else holds unsafe code, socket2 or sendfd, the compiler checks: `forbid(unsafe_code)`, and the manifests.
#[test]
fn system_calls_know_no_policy() {
    assert_eq!(offences("src/sys", &["Supervisor"]), Vec::<String>::new());
}

/// Text reaches a terminal through `src/say.rs` and `src/logs`, which escape. `clippy.toml` forbids `println!` and its like.
#[test]
fn few_files_write_to_the_standard_streams() {
    let found = offences("src", &["stdout()", "stderr()"]);
    let may = [
        "src/say.rs",
        "src/logs/own.rs",
        "src/logs/collector.rs",
        // Colours, progress, the workers' own lines.
        "src/commands.rs",
        "src/commands/",
        "src/sys/terminal.rs",
        "src/top/run.rs",
        // A unit, a man page, completions: text of ours.
        "src/host/run.rs",
        "src/cli/help.rs",
    ];
    let others = found
        .iter()
        .filter(|line| !may.iter().any(|file| line.contains(file)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn settings_do_not_know_a_master() {
    let words = ["tokio", "crate::runtime", "crate::admin", "Supervisor"];
    assert_eq!(offences("src/settings", &words), Vec::<String>::new());
}

#[test]
fn logs_do_not_know_a_master() {
    let words = [
        "crate::runtime",
        "crate::admin",
        "rcluster_core::supervisor",
        "Supervisor",
    ];
    assert_eq!(offences("src/logs", &words), Vec::<String>::new());
}

#[test]
fn top_asks_what_everybody_can_ask() {
    let words = ["crate::runtime", "rcluster_sys", "crate::logs"];
    assert_eq!(offences("src/top", &words), Vec::<String>::new());
}

#[test]
fn files_are_short_and_module_roots_hold_no_logic() {
    for (path, text) in sources("src") {
        let lines = text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines", path.display());
        if path.ends_with("mod.rs") && !path.components().any(|c| c.as_os_str() == "sim") {
            let logic = text
                .lines()
                .find(|l| l.contains("fn ") && !l.trim().starts_with("//"));
            assert_eq!(logic, None, "{}", path.display());
        }
    }
}

/// Tests run our own code with debug assertions, users without: it must not matter, but for two back doors of the upgrade tests.
#[test]
fn what_a_release_leaves_out_is_known() {
    let found = offences("src", &["debug_assert"]);
    let files = [
        "upgrade/pack.rs",
        "upgrade/state.rs",
        "runtime/turn_watchdog.rs",
    ];
    let harmless = |line: &&String| {
        line.contains(": debug_assert!(") || files.iter().any(|file| line.contains(file))
    };
    let others: Vec<_> = found.iter().filter(|line| !harmless(line)).collect();
    assert_eq!(others, Vec::<&String>::new());
}

#[test]
fn these_rules_can_fail() {
    assert!(!offences("src/runtime", &["tokio"]).is_empty());
    assert!(!offences("src/sys", &["unsafe {"]).is_empty());
    assert!(!offences("src/runtime/upgrade", &["cfg(debug_assert"]).is_empty());
}

#[test]
fn every_file_of_tests_is_in_the_one_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let program = fs::read_to_string(root.join("all.rs")).expect("the program");
    let entries = fs::read_dir(root).expect("the tests").flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().expect("UTF-8");
        name.strip_suffix(".rs").map(str::to_owned)
    });
    let forgotten = |name: &String| !program.contains(&format!("\nmod {name};\n"));
    let forgotten: Vec<_> = names.filter(forgotten).collect();
    // It does not name itself: the control.
    assert_eq!(forgotten, ["all"]);
}
