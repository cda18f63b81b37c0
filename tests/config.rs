//! Promise: every option can stand in rcluster.toml, flags count more than the environment, the environment more than
//! the file; what is wrong in it is told with its line; a reload reads it anew, and a bad one changes nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{self, Launch, Master, app, scratch};
use crate::deploys::pids;
use serde_json::{Value, json};

/// An app that shows its variables, with a file beside it.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(toml: &str) -> Self {
        let site = Self { folder: scratch() };
        fs::copy(app("site.js"), site.path().join("site.js")).expect("copied");
        site.write(toml);
        site
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, toml: &str) {
        fs::write(self.path().join("rcluster.toml"), toml).expect("written");
    }

    fn launch(&self) -> Launch {
        Launch::new(self.path().join("site.js"))
    }
}

fn rcluster(words: &[&str], cwd: &Path, envs: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(words)
        .current_dir(cwd)
        .env_remove("WEB_CONCURRENCY")
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("rcluster runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn facts(master: &Master) -> Value {
    master.addr().get("/").json()
}

#[test]
fn flags_over_environment_over_file_over_defaults_each_with_its_origin() {
    let site =
        Site::new("workers = 2\nbake = \"1s\"\nsurge = 3\nbind = \":1\"\nscript = \"site.js\"\n");
    let out = rcluster(
        &["config", "--json", "--surge", "4"],
        site.path(),
        &[("RCLUSTER_BAKE", "2s"), ("RCLUSTER_BIND", ":2,:3")],
    );
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let of = |key: &str| {
        let setting = &told["settings"][key];
        (
            setting["values"][0].clone(),
            setting["from"].clone(),
            setting["line"].clone(),
        )
    };
    assert_eq!(of("workers"), (json!("2"), json!("file"), json!(1)));
    assert_eq!(of("bake"), (json!("2s"), json!("variable"), Value::Null));
    assert_eq!(of("surge"), (json!("4"), json!("flag"), Value::Null));
    assert_eq!(of("bind"), (json!(":2,:3"), json!("variable"), Value::Null));
    assert_eq!(
        of("ready-timeout"),
        (json!("30s"), json!("default"), Value::Null)
    );
    let table = text(&rcluster(&["config"], site.path(), &[]).stdout);
    assert!(
        table.contains("rcluster.toml:1") && table.contains("drain-timeout"),
        "{table}"
    );
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_a_suggestion() {
    let site = Site::new("workers = 2\ndrain-timeot = \"1s\"\n");
    let out = rcluster(&["site.js"], site.path(), &[]);
    assert_eq!(out.status.code(), Some(2));
    let told = text(&out.stderr);
    assert!(
        told.contains(
            "rcluster.toml, line 2: unknown key `drain-timeot`; did you mean `drain-timeout`?"
        ),
        "{told}"
    );
    let out = rcluster(&["--config", "/nowhere.toml", "site.js"], site.path(), &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("/nowhere.toml"), "{out:?}");
}

#[test]
fn secrets_of_the_file_are_not_shown() {
    let site = Site::new("[env]\nTOKEN = \"canary\"\n");
    for words in [&["config", "site.js"][..], &["config", "--json", "site.js"]] {
        let out = rcluster(words, site.path(), &[]);
        assert!(text(&out.stdout).contains("TOKEN"), "{out:?}");
        assert!(!text(&out.stdout).contains("canary"), "{out:?}");
    }
}

#[test]
fn the_file_says_everything_and_no_script_is_named() {
    let site = Site::new(
        "script = \"site.js\"\nargs = [\"--deep\"]\nworkers = 2\nno-shim = true\n[env]\nCOLOR = \"red\"\n",
    );
    let mut master = Launch::bare().cwd(site.path()).start();
    master.wait_ready(2);
    let facts = facts(&master);
    assert_eq!(
        (&facts["color"], &facts["args"]),
        (&json!("red"), &json!(["--deep"]))
    );
    assert_eq!(facts["cwd"], site.path().to_str().expect("UTF-8"));
    // The switch that the file sets: no shim.
    assert_eq!(facts["preloaded"], json!(false));
    master.stop();
}

#[test]
fn a_reload_reads_it_anew() {
    let site = Site::new("workers = 2\nname = \"site\"\n[env]\nCOLOR = \"red\"\n");
    let mut master = site.launch().start();
    master.wait_ready(2);
    assert_eq!(facts(&master)["color"], "red");
    site.write(
        "workers = 3\nname = \"other\"\nnode-arg = [\"--title=blue\"]\n[env]\nCOLOR = \"blue\"\n",
    );
    let out = master.command(&["reload", "--drained"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    master.wait_ready(3);
    let now = facts(&master);
    assert_eq!(
        (&now["color"], &now["title"]),
        (&json!("blue"), &json!("blue"))
    );
    assert_eq!(master.status().name, "site");
    let log = master.log();
    assert!(
        log.contains("takes effect only when the master is restarted key=\"name\""),
        "{log}"
    );
    // Going back is going back to what that generation ran with.
    let out = master.command(&["rollback", "--drained"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(facts(&master)["color"], "red");
    master.stop();
}

#[test]
fn a_bad_file_fails_the_reload_and_changes_nothing() {
    let site = Site::new("workers = 2\n[env]\nCOLOR = \"red\"\n");
    let mut master = site.launch().start();
    let before = pids(&master.wait_ready(2));
    for (bad, why) in [
        ("workers = 3\nbaek = \"1s\"\n", "line 2: unknown key `baek`"),
        ("workers = 0\n", "neither a number from 1"),
        ("workers = [\n", "line "),
        (
            "ready-timeout = 0\n",
            "--ready-timeout must be longer than 0",
        ),
    ] {
        site.write(bad);
        let out = master.command(&["reload"]);
        assert_eq!(out.status.code(), Some(10), "{bad}: {out:?}");
        assert!(text(&out.stderr).contains(why), "{bad}: {out:?}");
        assert_eq!(pids(&master.status().ready()), before, "{bad}");
    }
    // A good file with an app that fails: the numbers go back, too.
    site.write("workers = 3\n[env]\nFAIL = \"1\"\n");
    assert_eq!(master.command(&["reload"]).status.code(), Some(10));
    assert_eq!(pids(&master.status().ready()), before);
    site.write("workers = 1\n");
    assert_eq!(
        master.command(&["reload", "--drained"]).status.code(),
        Some(0)
    );
    master.wait_ready(1);
    assert_eq!(facts(&master)["color"], Value::Null);
    master.stop();
}

#[test]
fn an_ecosystem_file_in_every_language_becomes_a_file_that_runs() {
    let app = json!({
        "name": "shop", "script": "site.js", "instances": 2, "exec_mode": "cluster", "kill_timeout": 3000,
        "env": { "COLOR": "green" }, "env_production": { "COLOR": "gold" }, "cron_restart": "0 0 * * *"
    });
    let yaml = "apps:\n  - name: shop\n    script: site.js\n    instances: 2\n    exec_mode: cluster\n    kill_timeout: 3000\n    \
        env:\n      COLOR: green\n    env_production:\n      COLOR: gold\n    cron_restart: '0 0 * * *'\n";
    let node = common::Node::V20.binary();
    let node = node.to_str().expect("UTF-8");
    for (name, content) in [
        (
            "ecosystem.config.js",
            format!("console.log('noise'); module.exports = {{ apps: [{app}] }}"),
        ),
        (
            "ecosystem.config.cjs",
            format!("module.exports = () => [{app}]"),
        ),
        (
            "ecosystem.config.mjs",
            format!("export default {{ apps: {app} }}"),
        ),
        (
            "ecosystem.config.json",
            json!({ "apps": [app] }).to_string(),
        ),
        ("ecosystem.config.yaml", yaml.to_owned()),
    ] {
        let site = Site::new("");
        fs::write(site.path().join(name), content).expect("written");
        fs::remove_file(site.path().join("rcluster.toml")).expect("removed");
        let words = [
            "import",
            name,
            "--env",
            "production",
            "-o",
            "rcluster.toml",
            "--node",
            node,
        ];
        let out = rcluster(&words, site.path(), &[]);
        assert_eq!(out.status.code(), Some(0), "{name}: {out:?}");
        assert!(
            text(&out.stderr).contains("cron_restart: not carried over"),
            "{out:?}"
        );
        // What exists is left alone.
        assert_eq!(rcluster(&words, site.path(), &[]).status.code(), Some(2));
        let mut master = Launch::bare().cwd(site.path()).start();
        master.wait_ready(2);
        assert_eq!(facts(&master)["color"], "gold", "{name}");
        master.stop();
    }
}
