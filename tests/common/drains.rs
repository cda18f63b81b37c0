//! A master whose app is drain.js, and what its drains leave behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{BOOT, Launch, Master, Node, wait_until};
use crate::deploys::{number, wait_settled};

pub(crate) fn launch(node: Node, kinds: &[&str]) -> Launch {
    let launch = Launch::new("drain.js").node(node).workers(1);
    let launch = launch.env("RCLUSTER_MIN_UPTIME", "0s");
    kinds.iter().fold(launch, Launch::arg)
}

/// The master, its only worker's process, and the file that lets held answers go.
pub(crate) fn start(launch: Launch) -> (Master, i32, PathBuf) {
    let master = launch.start();
    let pid = master.wait_ready(1)[0].process();
    let go = master.dir.path().join("go");
    (master, pid, go)
}

/// The old worker is gone; so many connections were cut, and the log says so.
#[track_caller]
pub(crate) fn ended(master: &Master, cut: u64) {
    wait_settled(master, 1);
    assert_eq!(number(master, "cut_total"), cut, "{}", master.log());
    assert_eq!(number(master, "drained_total"), 1);
    let logged = format!("cut={cut}");
    assert_eq!(master.log().contains("had to be cut"), cut > 0);
    assert!(
        cut == 0 || master.log().contains(&logged),
        "{}",
        master.log()
    );
}

pub(crate) fn requests(master: &Master, path: &str) -> usize {
    let events = master.events("request");
    events.iter().filter(|event| event["path"] == path).count()
}

#[track_caller]
pub(crate) fn wait_requests(master: &Master, path: &str, count: usize) {
    wait_until(path, BOOT, || {
        (requests(master, path) >= count).then_some(())
    });
}

pub(crate) fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("cert.pem"), made.cert.pem()).expect("written");
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
}
