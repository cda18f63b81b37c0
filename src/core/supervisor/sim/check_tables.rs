//! `rcluster check`, step by step.

use std::time::Duration;

use super::{
    super::{Fact, Policy},
    table::{Table, policy},
};

fn table() -> Table {
    let mut table = Table::checking(&Policy {
        min_uptime: Duration::from_millis(500),
        ..policy()
    });
    assert_eq!(table.fleet(), ["1:1:starting"]);
    let wanted = table.machine.policy().workers;
    assert_eq!(wanted, 1, "however many the configuration asks for");
    assert_eq!(table.spawned(1), [""; 0]);
    table
}

#[test]
fn who_lives_at_the_gate_for_the_minimum_uptime_is_ready_and_goes() {
    let mut table = table();
    assert_eq!(table.at(100).fact(1, Fact::AtGate), [""; 0]);
    assert_eq!(table.fleet(), ["1:1:held"], "its listener is withheld");
    assert_eq!(table.tick(599), [""; 0]);
    assert_eq!(table.tick(600), ["stop 1"]);
    assert_eq!(table.exits(1, 0), ["exit 0"]);
}

#[test]
fn who_ends_before_that_fails() {
    let mut table = table();
    assert_eq!(table.at(100).fact(1, Fact::AtGate), [""; 0]);
    assert_eq!(table.at(599).exits(1, 1), ["exit 3"]);
}

#[test]
fn who_never_asks_for_its_listener_fails_at_the_ready_timeout() {
    let mut table = table();
    assert_eq!(table.tick(29_999), [""; 0]);
    assert_eq!(table.tick(30_000), ["stop 1"]);
    assert_eq!(table.exits(1, 0), ["exit 4"]);
}
