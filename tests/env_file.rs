//! Promise: `--env-file` reads the dialect of `node --env-file`, exactly.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::common::{self, Launch, Node, on_every_node, scratch};
use rcluster::config::dotenv;

/// What makes files interesting, more often than other characters.
const PIECES: [&str; 24] = [
    "A", "B", "=", "=", "=", "\n", "\n", "\n", " ", "\t", "\"", "\"", "'", "`", "#", "\\", "\\n",
    "\r", "\r\n", "export ", ".", "-", "\u{feff}", "é",
];

/// A file by chance, the same for the same number.
fn by_chance(random: &mut fastrand::Rng) -> String {
    let length = random.usize(1..24);
    (0..length)
        .map(|_| PIECES[random.usize(..PIECES.len())])
        .collect()
}

/// What Node makes of each file (`util.parseEnv`), less what no process can have.
fn by_node(node: Node, files: &[String]) -> Vec<BTreeMap<String, String>> {
    let program = "const all = JSON.parse(require('fs').readFileSync(0, 'utf8'));\
        console.log(JSON.stringify(all.map(require('util').parseEnv)));";
    let mut child = Command::new(node.binary())
        .args(["-e", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs");
    let text = serde_json::to_vec(files).expect("JSON");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&text).expect("written");
    drop(stdin);
    let out = child.wait_with_output().expect("it ends").stdout;
    let mut told: Vec<BTreeMap<String, String>> = serde_json::from_slice(&out).expect("JSON");
    for variables in &mut told {
        variables.remove("");
    }
    told
}

#[test]
fn the_dialect_is_nodes_own() {
    let mut files: Vec<String> = [
        "A=1 # c\nB='x # y'\nC=\"1\\n2\"\nD=`1\n2`\nE=\"open\nF=2",
        "\u{feff}A=1\nB.c-d=2\nexport   C = 3\nexport=4\nexport export D=5",
        "A= \nB=1\n=\n=x\nC\n  D=1\nE=\r\nF=\"a\r\nb\"\r\n",
        "",
    ]
    .map(str::to_owned)
    .into();
    let mut random = fastrand::Rng::with_seed(33);
    files.extend((0..20_000).map(|_| by_chance(&mut random)));
    for node in [Node::V22, Node::V24, Node::V26] {
        for (text, theirs) in files.iter().zip(by_node(node, &files)) {
            let ours: BTreeMap<_, _> = dotenv::parse(text).into_iter().collect();
            assert_eq!(ours, theirs, "{node:?}: {text:?}");
        }
    }
}

/// The whole way, from the file into `process.env`.
fn a_worker_gets_what_node_would_set(node: Node) {
    let folder = scratch();
    let file = folder.path().join("app.env");
    let text = "\u{feff}LOST=1\nTEST_A=1 # c\r\nexport TEST_B='x\n# y'\nTEST_C=\"1\\n2\" junk\nnot a variable\n\
        TEST.d-e=`\"'`\nTEST_F=\nTEST_G=\"open\nTEST_H=a\0b\n";
    let mut bytes = text.as_bytes().to_vec();
    bytes.extend(b"TEST_I=\xff\n");
    fs::write(&file, bytes).expect("written");
    let program = "console.log(JSON.stringify(Object.fromEntries(Object.entries(process.env)\
        .filter(([name]) => /^TEST.[A-Za-z]/.test(name) && name !== 'TEST_RUN'))));";
    let script = folder.path().join("vars.js");
    fs::write(&script, program).expect("written");
    let mut option = "--env-file=".to_owned();
    option.push_str(file.to_str().expect("UTF-8"));
    // Node 18 has no such option, Node 20 another dialect.
    let reference = match node {
        Node::V18 | Node::V20 => Node::V24,
        Node::V22 | Node::V24 | Node::V26 => node,
    };
    let out = Command::new(reference.binary())
        .args([option.as_ref(), script.as_os_str()])
        .output()
        .expect("node runs");
    let wanted: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert!(wanted.as_object().is_some_and(|w| w.len() >= 8), "{wanted}");
    let mut master = Launch::new(&script)
        .node(node)
        .workers(1)
        .options(["--ready", "online"])
        .option(option)
        .start();
    master.wait_ready(1);
    let told = common::wait_until("the variables", common::BOOT, || {
        serde_json::from_str::<serde_json::Value>(master.out().lines().next()?).ok()
    });
    master.signal(nix::sys::signal::Signal::SIGTERM);
    master.wait_exit();
    master.finish();
    assert_eq!(told, wanted);
}

on_every_node!(a_worker_gets_what_node_would_set);

/// An app that listens where PORT says, or at a port of its own.
const LISTENS: &str = "require('http').createServer((_, answer) => answer.end(process.env.PORT)).listen(process.env.PORT || 0);";

#[test]
fn an_empty_port_counts_as_unset() {
    let folder = scratch();
    let script = folder.path().join("app.js");
    fs::write(&script, LISTENS).expect("written");
    let file = folder.path().join("port.env");
    let empty = "PORT=\n";
    for (shell, text) in [
        (Some(""), None),
        (None, Some(empty)),
        (Some(""), Some(empty)),
        // The file's counts more.
        (Some("1"), Some(empty)),
        (Some(""), Some("OTHER=1\n")),
    ] {
        let port = common::Addr::free_port();
        let mut launch = Launch::new(&script)
            .workers(1)
            .option("-b")
            .option(format!("127.0.0.1:{port}"));
        if let Some(shell) = shell {
            launch = launch.env("PORT", shell);
        }
        if let Some(text) = text {
            fs::write(&file, text).expect("written");
            launch = launch.option("--env-file").option(&file);
        }
        let mut master = launch.start();
        master.wait_ready(1);
        let told = common::Addr::port(port).get("/").body;
        assert_eq!(told, port.to_string(), "{shell:?} {text:?}");
        master.stop();
    }
}
