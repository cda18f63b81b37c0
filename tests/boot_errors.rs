//! Promise: a boot that fails says why once, readable, with file and line and the number of workers.

use std::fs;

use crate::common::{self, Launch, Node, on_every_node};

/// The lines of the master's own in a log that workers write, too.
fn own(log: &str) -> Vec<&str> {
    let ours = |line: &&str| {
        let stamp = line.len() > 20 && line.as_bytes()[10] == b'T' && line.starts_with("20");
        stamp || line.starts_with("rcluster: ")
    };
    log.lines().filter(ours).collect()
}

/// Two workers of this script fail; the error stands in one line of the master's, the last one.
#[track_caller]
fn fails(node: Node, script: &str, error: &str, place: &str) {
    let folder = common::scratch();
    let path = folder.path().join("app.js");
    fs::write(&path, script).expect("a script");
    let ended = Launch::new(&path).node(node).workers(2).run();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let own = own(&ended.log);
    let told: Vec<_> = own.iter().filter(|line| line.contains(error)).collect();
    let last = own.last().expect("a line");
    assert_eq!(told, [last], "{}", ended.log);
    let place = format!("{}{place}", path.display());
    assert!(last.contains(&place), "{last}");
    let counted = ["(1 of 2 workers)", "(2 of 2 workers)"];
    assert!(counted.iter().any(|count| last.ends_with(count)), "{last}");
    assert!(
        !own.iter().any(|line| line.contains("\\n")),
        "{}",
        ended.log
    );
}

on_every_node!(a_syntax_error_is_told_once, a_thrown_error_is_told_once);

fn a_syntax_error_is_told_once(node: Node) {
    let script = "const http = require('http');\nhttp.createServer().listen(0\n";
    fails(
        node,
        script,
        "SyntaxError: missing ) after argument list",
        ":2",
    );
}

fn a_thrown_error_is_told_once(node: Node) {
    let script =
        "const a = 1;\nfunction boot() { throw new TypeError('no database today'); }\nboot();\n";
    fails(node, script, "TypeError: no database today", ":2:");
}
