//! Promise: `process.send`, messages, handles and `cluster.worker` in an app behave as under Node's own primary.

use crate::common::{self, Launch, Node, on_every_node, pid_in, wait_until};
use serde_json::{Value, json};

fn the_app_sees_a_cluster_worker(node: Node) {
    let mut master = Launch::new("ipc.js").node(node).workers(2).start();
    let ready = master.wait_ready(2);
    let addr = master.addr();
    master.each_answers(|| {
        let seen = addr.get("/").json();
        let worker = ready
            .iter()
            .find(|worker| worker.process() == pid_in(&seen))
            .expect("a known worker");
        assert_eq!(seen["id"], worker.id);
        assert_eq!(
            (&seen["isWorker"], &seen["isPrimary"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(
            (
                &seen["connected"],
                &seen["workerConnected"],
                &seen["isDead"]
            ),
            (&json!(true), &json!(true), &json!(false))
        );
        assert_eq!(
            seen["leaked"],
            json!([]),
            "the channel's variables are visible to the app"
        );
        pid_in(&seen)
    });
    assert_eq!(
        addr.get("/send").json()["errors"],
        json!([null, null, null, null])
    );
    let large = addr.get("/large").json();
    assert_eq!(
        (&large["errors"], &large["opened"]),
        (&json!([]), &json!(4))
    );
    assert_eq!(
        addr.get("/handle").json()["results"],
        json!([null, null, null])
    );
    let after = master.wait_ready(2);
    assert_eq!(
        [ready[0].id, ready[1].id],
        [after[0].id, after[1].id],
        "a message killed a worker"
    );
    assert_eq!(
        master.events("message"),
        Vec::<Value>::new(),
        "the master's own messages reached the app"
    );
    master.stop();
}

fn disconnect_and_kill_by_the_app(node: Node) {
    let mut master = Launch::new("ipc.js").node(node).workers(2).start();
    for (path, count) in [("/disconnect", 1), ("/kill", 2)] {
        master.wait_ready(2);
        let pid = pid_in(&master.addr().get(path).json());
        let old = master
            .status()
            .workers
            .into_iter()
            .find(|worker| worker.pid == Some(pid));
        let events = master.wait_events("workerDisconnect", count);
        let event = events
            .iter()
            .find(|event| pid_in(event) == pid)
            .expect("the worker's own event");
        assert_eq!(event["exitedAfterDisconnect"], true, "after {path}");
        if let Some(old) = old {
            master.wait_replaced(&old);
        }
        wait_until("the end of the old worker", common::BOOT, || {
            (!common::running(pid)).then_some(())
        });
    }
    master.wait_ready(2);
    master.stop();
}

fn channel_closed_by_the_app(node: Node) {
    // Node exits with 0 when its channel ends without a `disconnect`; either way the slot gets a new worker.
    let mut master = Launch::new("ipc.js").node(node).workers(2).start();
    master.wait_ready(2);
    let pid = pid_in(&master.addr().get("/process-disconnect").json());
    master.wait_status("two ready workers without the old one", |status| {
        let ready = status.ready();
        (ready.len() == 2 && ready.iter().all(|worker| worker.pid != Some(pid))).then_some(())
    });
    wait_until("the end of the old worker", common::BOOT, || {
        (!common::running(pid)).then_some(())
    });
    master.stop();
}

fn disconnect_of_the_master_reaches_the_app(node: Node) {
    let mut master = Launch::new("ipc.js").node(node).workers(2).start();
    master.wait_ready(2);
    master.stop();
    let events = master.events("workerDisconnect");
    assert_eq!(events.len(), 2, "{}", master.out());
    assert!(
        events
            .iter()
            .all(|event| event["exitedAfterDisconnect"] == true),
        "{events:?}"
    );
    assert!(
        master.events("exit").iter().all(|event| event["code"] == 0),
        "{}",
        master.out()
    );
}

on_every_node!(
    the_app_sees_a_cluster_worker,
    disconnect_and_kill_by_the_app,
    channel_closed_by_the_app,
    disconnect_of_the_master_reaches_the_app,
);
