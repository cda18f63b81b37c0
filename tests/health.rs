//! Promise: with --health-path each worker's own server is asked; a bad one never counts as ready, fails a reload, rolls
//! a baking generation back, and is replaced when it turns bad later.

use crate::common::{self, Addr, Launch, Master, Node, on_two_nodes, wait_until};
use serde_json::Value;

fn launch(node: Node) -> Launch {
    Launch::new("unwell.js")
        .node(node)
        .workers(2)
        .options(["--health-path", "/healthz"])
        .options(["--health-interval", "200ms", "--health-timeout", "1s"])
        .options(["--min-uptime", "100ms"])
}

fn document(master: &Master) -> Value {
    let control = Addr::Unix(master.control.clone());
    let answer = control.try_request("GET", "/v1/status");
    answer.expect("the control socket answers").json()
}

fn a_worker_that_turns_bad_is_replaced(node: Node) {
    let mut master = launch(node).start();
    let before = master.wait_ready(2);
    assert!(master.log().contains("its health check is answered well"));
    let ill = common::pid_in(&master.addr().get("/sick").json());
    let ill = before.iter().find(|w| w.process() == ill).expect("ours");
    master.wait_replaced(ill);
    let kinds = document(&master)["incidents"].clone();
    assert_eq!(kinds[0]["kind"], "unhealthy", "{kinds}");
    let reason = kinds[0]["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("GET /healthz: 503 Service Unavailable (3 times in a row)"),
        "{reason}"
    );
    master.wait_ready(2);
    let other = before.iter().find(|w| w.id != ill.id).expect("two");
    assert_eq!(
        master.status().in_slot(other.slot).expect("there").id,
        other.id
    );
    wait_until(
        "the drain of the old one, without a cut",
        common::BOOT,
        || (document(&master)["drained_total"] == 1).then_some(()),
    );
    assert_eq!(document(&master)["cut_total"], 0);
    master.stop();
}
on_two_nodes!(a_worker_that_turns_bad_is_replaced);

#[test]
fn one_that_is_never_well_never_counts_as_ready() {
    for (trouble, words) in [("SICK", "503"), ("SILENT", "no answer within")] {
        let mut master = launch(Node::V24)
            .env(trouble, "1")
            .options(["--ready-timeout", "3s"])
            .start();
        assert_eq!(master.wait_exit().code(), Some(4), "{}", master.log());
        let log = master.log();
        assert!(log.contains("GET /healthz") && log.contains(words), "{log}");
        master.finish();
    }
}

#[test]
fn an_endless_answer_is_not_read() {
    let mut master = launch(Node::V24).env("HUGE", "1").start();
    master.wait_ready(2);
    let rss = |master: &Master| {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", master.pid())).expect("statm");
        let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        pages.expect("a number") * 4096
    };
    let before = rss(&master);
    let asked = |master: &Master| document(master)["workers"][0]["uptime_ms"].as_u64();
    let start = asked(&master).expect("a worker");
    wait_until("twenty more checks", common::BOOT, || {
        (asked(&master)? > start + 4000).then_some(())
    });
    let grown = rss(&master).saturating_sub(before);
    assert!(grown < 8 << 20, "the master grew by {grown} bytes");
    assert_eq!(master.status().ready().len(), 2);
    master.stop();
}

#[test]
fn a_release_that_is_not_well_fails_its_reload() {
    let folder = common::scratch();
    let env = folder.path().join("env");
    std::fs::write(&env, "SICK=0\n").expect("a file");
    let mut master = launch(Node::V24)
        .options(["--ready-timeout", "2s"])
        .option("--env-file")
        .option(&env)
        .start();
    let before = master.wait_ready(2);
    std::fs::write(&env, "SICK=1\n").expect("a file");
    let told = master.command(&["reload"]);
    assert_eq!(told.status.code(), Some(10));
    let err = String::from_utf8_lossy(&told.stderr);
    assert!(err.contains("503"), "{err}");
    let after = master.wait_ready(2);
    assert!(before.iter().zip(&after).all(|(a, b)| a.id == b.id));
    std::fs::write(&env, "SICK=0\n").expect("a file");
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    master.stop();
}

#[test]
fn turning_bad_during_the_bake_rolls_back() {
    let mut master = launch(Node::V24)
        .options(["--bake", "30s", "--surge", "100%"])
        .start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    master.signal(nix::sys::signal::Signal::SIGHUP);
    master.wait_status("both generations", |status| {
        (status.ready().len() == 4).then_some(())
    });
    // Whoever of the new ones takes it.
    wait_until("a new worker that is ill", common::BOOT, || {
        let pid = common::pid_in(&addr.get("/").json());
        if before.iter().any(|w| w.process() == pid) {
            return None;
        }
        let pid = common::pid_in(&addr.get("/sick").json());
        (!before.iter().any(|w| w.process() == pid)).then_some(())
    });
    wait_until("the reload's failure", common::BOOT, || {
        (document(&master)["reloads_failed"] == 1).then_some(())
    });
    let error = document(&master)["last_reload_error"].clone();
    assert!(
        error.as_str().is_some_and(|e| e.contains("unhealthy")),
        "{error}"
    );
    master.wait_status("the old generation alone", |status| {
        let ready = status.ready();
        (ready.len() == 2 && ready.iter().all(|w| w.generation == 1)).then_some(())
    });
    master.stop();
}

fn tls_servers_are_asked_by_tls(node: Node) {
    let folder = common::scratch();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("a file");
    std::fs::write(
        folder.path().join("key.pem"),
        made.signing_key.serialize_pem(),
    )
    .expect("a file");
    let app = folder.path().join("tls.js");
    std::fs::write(
        &app,
        "const fs = require('fs');\nconst at = (f) => fs.readFileSync(__dirname + '/' + f);\n\
         require('https').createServer({ key: at('key.pem'), cert: at('cert.pem') }, (q, s) => s.end(q.url)).listen(0);\n",
    )
    .expect("a file");
    let mut master = Launch::new(&app)
        .node(node)
        .workers(2)
        .options(["--health-path", "/any"])
        .start();
    master.wait_ready(2);
    assert!(master.log().contains("its health check is answered well"));
    master.stop();
}
on_two_nodes!(tls_servers_are_asked_by_tls);
