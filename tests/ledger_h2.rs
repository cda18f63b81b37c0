//! Promise: a reload loses no HTTP/2 request, and refuses at most one stream in 1,000 at 20 ms of latency. A refused stream was not
//! processed, but Node's own client does not send it again.

use rcluster_ledger::{Load, Report, Scheme};

use crate::common::{Launch, Node, on_every_node};
use crate::deploys::count;
use crate::ledger_reload::with_tls;
use crate::service::{Service, ms};

/// Clients with 20 ms of latency and with none, over reloads.
fn reloads(node: Node, set: impl FnOnce(Launch) -> Launch, tls: bool, latency: u64) -> Report {
    let service = Service::start("ledger-h2.cjs", node, None, set);
    let load = Load {
        tls,
        scheme: Scheme::H2,
        clients: 12,
        latency: ms(latency),
        ..service.load()
    };
    let number = count(4, 40);
    let (report, _) = service.under(vec![load], |loads| service.reloads(number, loads));
    println!(
        "{node:?}, TLS {tls}, {latency} ms: {} refused of {}",
        report.streams_refused(),
        report.total
    );
    assert_eq!(report.lost(), 0, "{report}");
    service.stop(number);
    report
}

#[track_caller]
fn few_are_refused(node: Node, tls: bool) {
    let set = if tls { with_tls } else { |launch| launch };
    for latency in [20, 0] {
        let report = reloads(node, set, tls, latency);
        let (refused, total) = (report.streams_refused(), report.total);
        assert!(refused * 1000 <= total, "{refused} of {total}: {report}");
    }
}

fn over_plain_tcp(node: Node) {
    few_are_refused(node, false);
}

fn over_tls(node: Node) {
    few_are_refused(node, true);
}

/// Control: one GOAWAY at once refuses what is on its way.
#[test]
fn control_one_goaway_refuses_streams() {
    let report = reloads(Node::V24, |launch| launch.env("GOAWAY", "1"), false, 20);
    let (refused, total) = (report.streams_refused(), report.total);
    assert!(refused * 1000 > total, "the ledger is blind: {report}");
}

on_every_node!(over_plain_tcp, over_tls);
