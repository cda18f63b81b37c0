//! What becomes of a health check, for a reader.

use std::time::Duration;

use super::{
    super::{Fact, Health, Policy},
    table::{Table, policy},
};

fn table() -> Table {
    let health = Health {
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(100),
        threshold: 1,
    };
    let mut table = Table::booting(Policy {
        health: Some(health),
        workers: 1,
        ..policy()
    });
    table.at(10);
    assert_eq!(table.ready(1), ["probe 1"]);
    assert_eq!(table.fact(1, Fact::Probed(Ok(()))), [""; 0]);
    assert_eq!(table.fleet(), ["1:1:ready"]);
    table
}

#[test]
fn an_answer_that_waited_while_the_master_was_slow_counts() {
    let mut table = table();
    assert_eq!(table.tick(1010), ["probe 1"]);
    // The master comes to it late; the answer is in its inbox, behind the clock.
    assert_eq!(table.tick(1900), [""; 0]);
    assert_eq!(table.fact(1, Fact::Probed(Ok(()))), [""; 0]);
    assert_eq!(table.fleet(), ["1:1:ready"], "nobody is blamed");
}

#[test]
fn one_question_at_a_time_and_one_answer_each() {
    let mut table = table();
    assert_eq!(table.tick(1010), ["probe 1"]);
    let late = Err("no answer within 100ms".to_owned());
    // Not asked again until the first question has its answer, however many intervals pass.
    assert_eq!(table.tick(4000), [""; 0]);
    assert_eq!(
        table.fact(1, Fact::Probed(late.clone())),
        ["spawn 2 in slot 0 of generation 1"]
    );
    assert_eq!(table.fact(1, Fact::Probed(late)), [""; 0], "told twice");
}

#[test]
fn a_question_that_nobody_answers_is_given_up() {
    let mut table = table();
    assert_eq!(table.tick(1010), ["probe 1"]);
    assert_eq!(table.tick(6109), [""; 0]);
    assert_eq!(table.tick(6110), ["spawn 2 in slot 0 of generation 1"]);
}
