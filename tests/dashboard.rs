//! Promise: GET / is one page that shows what goes on, asks nobody else, runs no foreign script, and can be used by
//! keyboard, by screen reader, in the dark and on a phone. Looked at with a real browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{self, Addr, Launch, Node, skip};

#[test]
fn the_page_needs_nobody_else() {
    let mut master = Launch::new("http.js").workers(1).start();
    master.wait_ready(1);
    let answer = Addr::Unix(master.control.clone()).get("/");
    assert_eq!(answer.status, 200);
    let policy = answer
        .head
        .lines()
        .find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(
        !policy.contains("unsafe") && !policy.contains("http"),
        "{policy}"
    );
    for word in [
        "http://",
        "https://",
        "/*STYLE*/",
        "/*SCRIPT*/",
        "innerHTML",
    ] {
        // The one address is the name of a markup language.
        let page = answer.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(word), "{word} in the page");
    }
    assert!(answer.body.len() < 64 * 1024);
    master.stop();
}

#[test]
fn a_browser_shows_what_goes_on() {
    let Some(chromium) = common::tool("chromium") else {
        return skip("no chromium (Debian's package): the dashboard is not looked at");
    };
    if !common::module("puppeteer-core/package.json").exists()
        || !common::module("axe-core/package.json").exists()
    {
        return skip("puppeteer-core or axe-core is missing: npm ci --prefix tests");
    }
    let mut master = Launch::new("board.js")
        .option("--autopsy")
        .workers(2)
        .options(["--hang-timeout", "3s"])
        .start();
    master.wait_ready(2);
    // Kept, to be looked at.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    fs::create_dir_all(&folder).expect("a folder");
    let run = Command::new(Node::V24.binary())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dashboard.js"))
        .args([&chromium, &master.control])
        .arg(master.addr().tcp_port().to_string())
        .arg(&folder)
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(
        run.status.success(),
        "{said}\npictures are in {}",
        folder.display()
    );
    master.wait_exit();
    master.finish();
}
