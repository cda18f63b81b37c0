//! Promise: help fits a screen, completions complete, man pages are whole and well-formed, and the doctor finds what is wrong.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{self, scratch, skip, tool};
use serde_json::Value;

fn rcluster(words: &[&str]) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(words)
        .env("COLUMNS", "100")
        .output();
    out.expect("rcluster runs")
}

fn said(words: &[&str]) -> String {
    let out = rcluster(words);
    assert!(out.status.success(), "{words:?}: {out:?}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// The long names in a help text.
fn options(help: &str) -> Vec<String> {
    let first = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with("--"))
            .map(str::to_owned)
    };
    let starts = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'));
    starts
        .filter_map(first)
        .map(|word| {
            word.split([',', '[', '='])
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[test]
fn short_help_fits_a_screen_and_long_help_has_the_rest() {
    let short = said(&["-h"]);
    assert!(short.lines().count() <= 40, "{short}");
    assert!(
        short.lines().all(|line| line.chars().count() <= 100),
        "{short}"
    );
    let long = said(&["--help"]);
    let (short, long) = (options(&short), options(&long));
    assert!(
        short.iter().all(|option| long.contains(option)),
        "{short:?}"
    );
    assert!(long.len() > 2 * short.len(), "{long:?}");
    for command in ["check", "rehearse", "systemd-unit", "doctor", "config"] {
        assert!(said(&[command, "-h"]).lines().count() <= 40, "{command}");
    }
    // What is not shown is still there.
    assert!(rcluster(&["systemd-unit", "--help"]).status.success());
}

#[test]
fn completions_complete() {
    let dir = scratch();
    let write = |shell: &str| {
        let path = dir.path().join(shell);
        fs::write(&path, said(&["completions", shell])).expect("written");
        path
    };
    let bash = write("bash");
    let script = format!(
        "source {} && COMP_WORDS=(rcluster --drain-t) COMP_CWORD=1 && _rcluster rcluster --drain-t rcluster && echo \"${{COMPREPLY[*]}}\" && \
         COMP_WORDS=(rcluster rel) COMP_CWORD=1 && _rcluster rcluster rel rcluster && echo \"${{COMPREPLY[*]}}\"",
        bash.display()
    );
    let out = Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("bash runs");
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "--drain-timeout\nreload\n",
        "{out:?}"
    );
    // What each says when it has read them: that it has a completer; the words that it would offer.
    for (shell, options, script, said) in [
        (
            "zsh",
            &["-f", "-c"][..],
            "autoload -Uz compinit && compinit -D && source \"$FILE\" && print ${_comps[rcluster]}",
            "_rcluster\n",
        ),
        (
            "fish",
            &["--no-config", "-c"],
            "source $FILE; complete -C 'rcluster --drain-t'; complete -C 'rcluster rel'",
            "--drain-timeout\nreload\n",
        ),
    ] {
        let path = write(shell);
        if tool(shell).is_none() {
            skip(&format!("no {shell} to read its completions with"));
            continue;
        }
        let out = Command::new(shell)
            .args(options)
            .arg(script)
            .env("FILE", &path)
            .env("HOME", dir.path())
            .output()
            .expect("it runs");
        // fish adds what each is for.
        let words = String::from_utf8_lossy(&out.stdout);
        let words = words.lines().filter_map(|line| line.split('\t').next());
        assert!(
            out.status.success() && out.stderr.is_empty() && words.eq(said.lines()),
            "{shell}: {out:?}"
        );
    }
}

/// What groff says of a page; nothing, if it is well-formed.
fn complaints(page: &Path) -> Option<String> {
    tool("groff")?;
    let out = Command::new("groff")
        .args(["-man", "-ww", "-z", "-Tutf8", "-Kutf8"])
        .arg(page)
        .output()
        .expect("groff runs");
    Some(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn man_pages_have_every_command_and_option_and_are_well_formed() {
    let dir = scratch();
    let folder = dir.path().join("man");
    let out = rcluster(&["man", "--dir", folder.to_str().expect("UTF-8")]);
    assert!(out.status.success(), "{out:?}");
    let long = said(&["--help"]);
    let commands = long
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1);
    let commands: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 8, "{commands:?}");
    for command in &commands {
        let page = folder.join(format!("rcluster-{command}.1"));
        assert!(page.exists(), "no page for {command}");
        assert_eq!(complaints(&page).unwrap_or_default(), "", "{command}");
    }
    let main = folder.join("rcluster.1");
    let page = fs::read_to_string(&main).expect("a page").replace('\\', "");
    for option in options(&long) {
        assert!(page.contains(&option), "{option} is not in the page");
    }
    assert_eq!(page, said(&["man"]).replace('\\', ""));
    if complaints(&main).is_none() {
        skip("no groff to read man pages with");
        return;
    }
    assert_eq!(complaints(&main).unwrap_or_default(), "");
    // The control: it would have complained.
    fs::write(&main, ".TH x 1\n.no-such-macro\n").expect("written");
    assert_ne!(complaints(&main).unwrap_or_default(), "");
}

#[test]
fn the_doctor_finds_what_is_wrong() {
    let node = common::Node::V24.binary();
    let node = node.to_str().expect("UTF-8");
    let findings = |wrapper: &[&str], words: &[&str]| {
        let mut line = wrapper.to_vec();
        line.extend([env!("CARGO_BIN_EXE_rcluster"), "doctor", "--json"]);
        line.extend(words);
        let out = Command::new(line[0])
            .args(&line[1..])
            .output()
            .expect("it runs");
        let found: Vec<Value> = serde_json::from_slice(&out.stdout).expect("JSON");
        (out.status.code(), found)
    };
    let about = |found: &[Value], about: &str| {
        found
            .iter()
            .find(|f| f["about"] == about)
            .cloned()
            .expect("it was looked at")
    };
    let (code, found) = findings(&[], &["--node", node]);
    assert_eq!(code, Some(0), "{found:?}");
    assert_eq!(about(&found, "node")["grade"], "good");
    let (code, found) = findings(&[], &["--node", "/no/node", "no-such.js"]);
    assert_eq!(code, Some(2), "{found:?}");
    assert_eq!(about(&found, "node")["grade"], "bad");
    assert_eq!(about(&found, "script")["grade"], "bad");
    if tool("prlimit").is_some() {
        let (code, found) = findings(&["prlimit", "--nofile=256:256"], &["--node", node]);
        assert_eq!(code, Some(0));
        let files = about(&found, "open files");
        assert!(
            files["grade"] == "warning"
                && files["advice"]
                    .as_str()
                    .is_some_and(|a| a.contains("LimitNOFILE")),
            "{files}"
        );
    }
}

#[test]
fn the_doctor_sees_the_memory_limit_of_the_cgroup() {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let v2 = Path::new("/sys/fs/cgroup");
    let (root, file) = if v1.is_dir() {
        (v1, "memory.limit_in_bytes")
    } else {
        (v2, "memory.max")
    };
    let group = root.join(format!("rcluster-doctor-{}", std::process::id()));
    if fs::create_dir(&group).is_err() || fs::write(group.join(file), "536870912").is_err() {
        let _ = fs::remove_dir(&group);
        skip("no right to make a cgroup with a memory limit");
        return;
    }
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
    let out = Command::new("sh")
        .args(["-c", &enter, "sh", env!("CARGO_BIN_EXE_rcluster"), "doctor"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    common::wait_until("an empty cgroup", common::BOOT, || {
        fs::remove_dir(&group).is_ok().then_some(())
    });
    assert!(text.contains("the cgroup's limit is 512 MiB"), "{text}");
}
