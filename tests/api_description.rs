//! Promise: `/v1/openapi.json` describes the API as it is: checked against the real server by schemathesis, and by hand
//! where a question has no end or ends the master.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::common::{self, Addr, Conn, Launch, Master, Node};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn start() -> Master {
    let launch = Launch::new("http.js").node(Node::V24).workers(1).options([
        "--admin",
        "127.0.0.1:0",
        "--log-prefix",
        // Reloads are asked for by the dozen.
        "--min-uptime",
        "0s",
    ]);
    let file = launch.dir.path().join("token");
    fs::write(&file, TOKEN).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
    let master = launch.env("RCLUSTER_ADMIN_TOKEN_FILE", file).start();
    master.wait_ready(1);
    master
}

fn control(master: &Master) -> Addr {
    Addr::Unix(master.control.clone())
}

#[test]
fn the_server_does_what_its_description_says() {
    let Some(schemathesis) = common::tool("schemathesis") else {
        return common::skip(
            "no schemathesis (PyPI): the API is not checked against its description",
        );
    };
    let mut master = start();
    let status = control(&master).get("/v1/status").json();
    let door = status["admin"].as_str().expect("--admin is shown");
    // Its cache goes where it runs.
    let dir = common::scratch();
    let report = Command::new(schemathesis)
        .args(["run", &format!("http://{door}/v1/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--exclude-path", "/v1/stop", "--exclude-path", "/v1/events"])
        .args(["--phases", "examples,coverage,fuzzing", "--checks", "all"])
        .args([
            "--max-examples",
            "20",
            "--seed",
            "6",
            "--request-timeout",
            "60",
            "--no-color",
        ])
        .env("SCHEMATHESIS_HOOKS", "api_hooks")
        .env("PYTHONPATH", common::app("").parent().expect("tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(dir.path())
        .output()
        .expect("schemathesis runs");
    let said = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.status.success(), "{said}");
    // A description without routes would pass, too. It does not ask for the description again.
    let paths = control(&master).get("/v1/openapi.json").json();
    let routes = paths["paths"].as_object().expect("paths").len();
    assert!(
        said.contains(&format!("Tested: {}", routes - 3)),
        "{routes} routes: {said}"
    );
    assert!(!master.log().contains(TOKEN));
    master.stop();
}

#[test]
fn every_route_and_every_field_is_described() {
    let mut master = start();
    let described = control(&master).get("/v1/openapi.json").json();
    let source = include_str!("../src/admin/routes.rs");
    let routes: BTreeSet<_> = source
        .split(".route(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let paths: BTreeSet<_> = described["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .collect();
    assert_eq!(
        routes,
        paths
            .into_iter()
            .map(String::as_str)
            .collect::<BTreeSet<_>>()
    );
    let schemas = &described["components"]["schemas"];
    let check = |schema: &str, value: &Value| {
        let known = schemas[schema]["properties"]
            .as_object()
            .expect("properties");
        for key in value.as_object().expect("an object").keys() {
            assert!(known.contains_key(key), "{schema}: {key} is not described");
        }
    };
    let status = control(&master).get("/v1/status").json();
    check("Status", &status);
    check("Worker", &status["workers"][0]);
    check("Figures", &status["figures"][0]);
    check("SlotStatus", &control(&master).get("/v1/workers/0").json());
    master.stop();
}

#[test]
fn what_schemathesis_cannot_ask() {
    let mut master = start();
    let wrong = control(&master).get("/v1/events?status_ms=often");
    assert_eq!(wrong.status, 400);
    assert!(wrong.json()["error"].is_string());
    let mut conn = Conn::open(&control(&master)).expect("connected");
    conn.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let post = |body: &str| {
        let mut conn = Conn::open(&control(&master)).expect("connected");
        let length = body.len();
        conn.send(&format!("POST /v1/stop HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"))
            .expect("sent");
        conn.read().expect("an answer")
    };
    let wrong = post(r#"{"now": "please"}"#);
    assert_eq!(wrong.status, 400, "{wrong:?}");
    assert_eq!(master.status().state, "serving");
    let stopped = post("{}");
    assert_eq!(stopped.status, 200);
    assert_eq!(stopped.json(), serde_json::json!({"code": 0}));
    // The stream of events ends with the master.
    let told = conn.read_to_end().expect("a stream to its end");
    assert!(told.contains("text/event-stream"), "{told}");
    for event in ["listening", "moved", "ended"] {
        assert!(told.contains(&format!("event: {event}\n")), "{told}");
    }
    assert_eq!(master.wait_exit().code(), Some(0));
    master.finish();
}
