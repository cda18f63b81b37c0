//! PM2's ecosystem file as `rcluster.toml`. Pure: JSON in, text out.
//!
//! The keys are those of PM2's `lib/API/schema.json`. What has no counterpart
//! is said in a comment, and again to whoever asked for the import.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::known;

/// What came out.
#[derive(Debug, Default)]
pub struct Made {
    /// The text of `rcluster.toml`.
    pub toml: String,
    /// What could not be carried over, a line each.
    pub lost: Vec<String>,
    env: Vec<(String, String)>,
}

/// Converts what an ecosystem file exports. `app` chooses one of several by
/// its name, `env` one of its `env_NAME` tables.
///
/// # Errors
/// What is wrong with its shape.
pub fn convert(value: &Value, app: Option<&str>, env: Option<&str>) -> Result<Made, String> {
    let wrong = || "it is neither a list of apps nor an object that has one".to_owned();
    let inner = match value.as_object() {
        Some(map) => map.get("apps").or(map.get("pm2")).unwrap_or(value),
        None => value,
    };
    let apps = match inner.as_array() {
        Some(list) => list.as_slice(),
        None if inner.is_object() => std::slice::from_ref(inner),
        None => return Err(wrong()),
    };
    let apps: Vec<_> = apps.iter().filter_map(Value::as_object).collect();
    let name_of = |app: &Map<String, Value>| text(app.get("name")).unwrap_or_default();
    let chosen = match (app, &apps[..]) {
        (_, []) => return Err("there is no app in it".to_owned()),
        (Some(wanted), _) => apps.iter().find(|app| name_of(app) == wanted),
        (None, [one]) => Some(one),
        (None, _) => None,
    };
    let Some(chosen) = chosen else {
        let names: Vec<_> = apps.iter().map(|app| name_of(app)).collect();
        return Err(format!(
            "say which of its apps with --app: {}",
            names.join(", ")
        ));
    };
    let mut made = Made::default();
    made.note("Made by `rcluster import` from a PM2 ecosystem file. One app a file.");
    made.carry(chosen, env);
    if value.get("deploy").is_some() {
        made.lose("deploy", "rcluster does not copy files to machines; see \"Deploying by release folders\" in its README");
    }
    Ok(made)
}

impl Made {
    fn carry(&mut self, app: &Map<String, Value>, env: Option<&str>) {
        let get = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| app.get(*name))
                .filter(|v| !v.is_null())
        };
        match get(&["script", "exec"]) {
            Some(script) => self.set("script", script.clone()),
            None => self.lose("script", "there is none; name the app here"),
        }
        if let Some(args) = get(&["args"]) {
            self.set("args", words(args));
        }
        // Cluster mode is the only one.
        let instances = match get(&["instances"]) {
            Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n > 0) => Value::Number(n.clone()),
            Some(Value::String(n)) if n.parse::<u32>().is_ok_and(|n| n > 0) => {
                n.parse::<u32>().map_or(Value::Null, Value::from)
            }
            Some(_) => "auto".into(),
            None => 1.into(),
        };
        self.set("workers", instances);
        let fork = text(app.get("exec_mode")).is_none_or(|mode| !mode.starts_with("cluster"));
        if fork && get(&["instances"]).is_some() {
            self.note("exec_mode was fork: PM2's processes bound ports of their own; these workers share one listener.");
        }
        // What PM2 sends; apps written for it expect it.
        self.set("stop-signal", "INT");
        let mut known: Vec<&str> = vec![
            "script",
            "exec",
            "args",
            "instances",
            "exec_mode",
            "env",
            "port",
        ];
        for (names, how) in TABLE {
            known.extend(*names);
            let Some(value) = get(names) else { continue };
            self.one(names[0], value, *how);
        }
        self.environment(app, env);
        for (key, value) in app {
            if known.contains(&key.as_str()) || key.starts_with("env_") || value.is_null() {
                continue;
            }
            self.lose(key, "rcluster does not know it");
        }
        if let Some(port) = get(&["port"]) {
            self.env.push(("PORT".to_owned(), plain(port)));
        }
        if !self.env.is_empty() {
            self.toml.push_str("\n[env]\n");
            for (name, value) in std::mem::take(&mut self.env) {
                let _ = writeln!(self.toml, "{} = {}", quoted_key(&name), string(&value));
            }
        }
    }

    fn one(&mut self, name: &str, value: &Value, how: How) {
        match how {
            How::Text(key) => self.set(key, Value::String(plain(value))),
            How::Words(key) => self.set(key, words(value)),
            How::Millis(key) => self.set(key, Value::String(duration(value))),
            How::Yes(key, yes) if is_true(value) => {
                let yes: Value = if yes.is_empty() { true.into() } else { yes.into() };
                self.set(key, yes);
            }
            How::Interpreter => match plain(value).as_str() {
                "node" => {}
                node if node.rsplit('/').next().is_some_and(|n| n.starts_with("node")) => {
                    self.set("node", node);
                }
                other => self.lose(name, &format!("{other}: rcluster runs node; a loader can be given by node-arg, as [\"--import\", \"tsx\"]")),
            },
            How::Same(why) => self.note(&format!("{name}: {why}")),
            How::Lost(_) if matches!(value, Value::Bool(false)) => {}
            How::Lost(why) => self.lose(name, why),
            How::Off(why) if matches!(value, Value::Bool(false)) => self.lose(name, why),
            How::Off(_) | How::Yes(..) => {}
        }
    }

    fn environment(&mut self, app: &Map<String, Value>, wanted: Option<&str>) {
        let mut variables = Map::new();
        let mut add = |table: &Value| {
            if let Value::Object(table) = table {
                variables.extend(table.clone());
            }
        };
        if let Some(table) = app.get("env") {
            add(table);
        }
        let mut notes = vec![];
        for (key, table) in app {
            let Some(name) = key.strip_prefix("env_") else {
                continue;
            };
            if Some(name) == wanted {
                add(table);
            } else {
                notes.push(format!(
                    "{key} is not merged in; to have it: rcluster import --env {name}"
                ));
            }
        }
        for (name, value) in variables {
            if !value.is_null() {
                self.env.push((name, plain(&value)));
            }
        }
        for note in notes {
            self.note(&note);
        }
        if let Some(name) = wanted
            && !app.contains_key(&format!("env_{name}"))
        {
            self.lose(&format!("env_{name}"), "the file has no such table");
        }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let options = known::options();
        if !known::EXTRA.contains(&key) && !options.iter().any(|arg| known::key(arg) == key) {
            self.lose(key, "this rcluster has no such option");
            return;
        }
        let value = match &value {
            Value::String(text) => string(text),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| string(&plain(item))).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null | Value::Object(_) => return self.lose(key, "it is neither text nor list"),
        };
        let _ = writeln!(self.toml, "{key} = {value}");
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.toml, "# {}", one_line(text));
    }

    fn lose(&mut self, key: &str, why: &str) {
        let line = format!("{key}: not carried over: {why}");
        self.note(&line);
        self.lost.push(one_line(&line));
    }
}

/// For a comment, which ends at a line break and may hold no control character (TOML 1.0, "Comment"), and for a terminal.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// How a key of PM2's is carried over.
#[derive(Clone, Copy)]
enum How {
    /// The same, as text.
    Text(&'static str),
    /// A list, or words in one string.
    Words(&'static str),
    /// Milliseconds, or `10s`.
    Millis(&'static str),
    /// Where it is true: the key gets this value (empty: `true`).
    Yes(&'static str, &'static str),
    /// The program that runs the script.
    Interpreter,
    /// Nothing to do, and why.
    Same(&'static str),
    /// No counterpart, and what to do instead; `false` is no loss.
    Lost(&'static str),
    /// No counterpart for its being off.
    Off(&'static str),
}

const OWN: &str = "it concerns PM2 itself";
const LOGS: &str = "the app's output goes where the master's goes: to journald, Docker, or `rcluster ... >app.log`; their tools stamp, split and rotate";

const TABLE: &[(&[&str], How)] = &[
    (&["name"], How::Text("name")),
    (&["cwd"], How::Text("cwd")),
    (&["exec_interpreter", "interpreter"], How::Interpreter),
    (
        &[
            "node_args",
            "nodeArgs",
            "interpreterArgs",
            "interpreter_args",
        ],
        How::Words("node-arg"),
    ),
    (&["wait_ready"], How::Yes("ready", "message")),
    (&["listen_timeout"], How::Millis("ready-timeout")),
    (&["kill_timeout"], How::Millis("drain-timeout")),
    (&["min_uptime"], How::Millis("min-uptime")),
    (&["shutdown_with_message"], How::Yes("shutdown-message", "")),
    (&["max_memory_restart"], How::Text("max-rss")),
    (&["pid_file", "pid"], How::Text("pidfile")),
    (&["uid", "user", "username"], How::Text("user")),
    (&["gid"], How::Text("group")),
    (
        &["source_map_support"],
        How::Lost("add \"--enable-source-maps\" to node-arg"),
    ),
    (
        &["exp_backoff_restart_delay"],
        How::Same("built in: 100 ms doubling to 30 s"),
    ),
    (
        &["restart_delay"],
        How::Same("the backoff is built in: 100 ms doubling to 30 s"),
    ),
    (
        &["max_restarts"],
        How::Lost("rcluster never gives up once the app has served"),
    ),
    (
        &["autorestart"],
        How::Off("rcluster always replaces a worker that ends"),
    ),
    (
        &["stop_exit_codes"],
        How::Lost("rcluster always replaces a worker that ends"),
    ),
    (
        &["cron_restart", "cron"],
        How::Lost("let cron or a systemd timer run `rcluster reload`, which loses no request"),
    ),
    (
        &["merge_logs", "combine_logs"],
        How::Same("all workers write to one place anyway"),
    ),
    (&["out_file", "out", "output", "out_log"], How::Lost(LOGS)),
    (
        &["error_file", "error", "err", "err_file", "err_log"],
        How::Lost(LOGS),
    ),
    (&["log_file", "log"], How::Lost(LOGS)),
    (&["log_date_format"], How::Lost(LOGS)),
    (&["time"], How::Lost(LOGS)),
    (&["log_type"], How::Lost(LOGS)),
    (&["disable_logs"], How::Lost("send the output to /dev/null")),
    (&["watch"], How::Lost("for development: rcluster --watch")),
    (&["ignore_watch"], How::Lost("--watch heeds .gitignore")),
    (
        &["watch_delay"],
        How::Lost("--watch waits by itself until a change is complete"),
    ),
    (&["watch_options"], How::Lost("--watch needs none")),
    (
        &["instance_var"],
        How::Lost("the slot is in NODE_APP_INSTANCE"),
    ),
    (
        &["increment_var"],
        How::Lost("compute it from NODE_APP_INSTANCE in the app"),
    ),
    (
        &["treekill"],
        How::Off("a worker's whole process group ends with it"),
    ),
    (
        &["post_update"],
        How::Lost("run it before `rcluster reload`"),
    ),
    (
        &["filter_env"],
        How::Lost("start the master with the environment that the app is to have"),
    ),
    (&["execute_command"], How::Lost("rcluster runs node")),
    (
        &["kill_retry_time"],
        How::Same("after kill-timeout comes SIGKILL"),
    ),
    (&["name_prefix"], How::Lost(OWN)),
    (&["namespace"], How::Lost(OWN)),
    (&["install_url"], How::Lost(OWN)),
    (&["vizion"], How::Same(OWN)),
    (
        &["autostart"],
        How::Same("`rcluster systemd-unit` starts it at boot"),
    ),
    (&["force"], How::Same(OWN)),
    (&["append_env_to_name"], How::Lost(OWN)),
    (
        &["disable_source_map_support"],
        How::Same("source maps are off unless node-arg asks for them"),
    ),
    (&["trace"], How::Lost(OWN)),
    (&["disable_trace"], How::Same(OWN)),
    (&["v8"], How::Lost(OWN)),
    (&["event_loop_inspector"], How::Lost(OWN)),
    (&["deep_monitoring"], How::Lost(OWN)),
    (&["pmx"], How::Same(OWN)),
    (&["automation"], How::Same(OWN)),
    (&["windowsHide"], How::Same(OWN)),
    (&["write"], How::Same(OWN)),
    (&["io"], How::Lost(OWN)),
];

fn text(value: Option<&Value>) -> Option<String> {
    value.filter(|value| !value.is_null()).map(plain)
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn is_true(value: &Value) -> bool {
    matches!(value, Value::Bool(true)) || value == "true"
}

/// As PM2 splits it: at spaces, quotes keep words together.
fn words(value: &Value) -> Value {
    if value.is_array() {
        return value.clone();
    }
    let Some(line) = value.as_str() else {
        return Value::Array(vec![value.clone()]);
    };
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            (' ' | '\t', None) => words.extend(word.take().map(Value::String)),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.map(Value::String));
    Value::Array(words)
}

/// A number is milliseconds; `10s`, `5m` and `1h` are as here.
fn duration(value: &Value) -> String {
    let text = plain(value);
    if text.parse::<u64>().is_ok() {
        format!("{text}ms")
    } else {
        text
    }
}

fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn quoted_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        string(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_whole_schema_has_an_answer_and_the_file_can_be_read() {
        let app = json!({ "apps": [{
            "name": "shop", "script": "dist/server.js", "args": "--port 80 'two words'", "instances": "max",
            "exec_mode": "cluster", "wait_ready": true, "listen_timeout": 8000, "kill_timeout": 4000,
            "min_uptime": "10s", "exp_backoff_restart_delay": 100, "cron_restart": "0 0 * * *",
            "node_args": ["--max-old-space-size=512"], "interpreter": "node", "cwd": "/srv/shop",
            "merge_logs": true, "out_file": "o.log", "shutdown_with_message": true, "watch": false,
            "surprise": 1, "env": { "A": 1, "B": "x\"y" }, "env_production": { "A": 2 }, "port": 3000
        }], "deploy": {} });
        let made = convert(&app, None, Some("production")).unwrap();
        for line in [
            "script = \"dist/server.js\"",
            "args = [\"--port\", \"80\", \"two words\"]",
            "workers = \"auto\"",
            "stop-signal = \"INT\"",
            "ready = \"message\"",
            "ready-timeout = \"8000ms\"",
            "drain-timeout = \"4000ms\"",
            "min-uptime = \"10s\"",
            "node-arg = [\"--max-old-space-size=512\"]",
            "shutdown-message = true",
            "A = \"2\"",
            "PORT = \"3000\"",
        ] {
            assert!(
                made.toml.lines().any(|l| l == line),
                "{line}\n{}",
                made.toml
            );
        }
        let lost: Vec<_> = made
            .lost
            .iter()
            .map(|l| l.split(':').next().unwrap())
            .collect();
        assert_eq!(lost, ["cron_restart", "out_file", "surprise", "deploy"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rcluster.toml");
        std::fs::write(&path, &made.toml).unwrap();
        super::super::File::read(&path).unwrap();
    }

    #[test]
    fn a_table_where_text_belongs_is_not_carried_over() {
        let made = convert(&json!({ "script": { "A": 1, "x": null } }), None, None).unwrap();
        assert!(made.lost[0].starts_with("script: "), "{}", made.toml);
    }

    #[test]
    fn which_app() {
        let two = json!([{ "name": "a", "script": "a.js" }, { "name": "b", "script": "b.js" }]);
        assert!(
            convert(&two, None, None)
                .unwrap_err()
                .contains("--app: a, b")
        );
        assert!(
            convert(&two, Some("b"), None)
                .unwrap()
                .toml
                .contains("b.js")
        );
        assert!(convert(&json!("x"), None, None).is_err());
    }
}
