//! Where a worker hangs: its inspector is opened for a moment, on a loopback
//! port that the kernel chooses then (`--inspect-port=0`), and asked for the
//! JavaScript stack. SIGUSR1 starts the inspector in a thread of its own, so
//! this works while the event loop is blocked. What it speaks is V8's
//! inspector protocol, its `Debugger` domain.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    pin::pin,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{supervisor::Pid, sys::procfs};

/// Frames that are kept.
const FRAMES: usize = 25;
/// Clock ticks (hundredths of a second) during a look that sleeping does not explain.
const BUSY: u64 = 10;
/// How often to look whether the inspector listens.
const LOOK: Duration = Duration::from_millis(10);
/// What a limit is made of.
const STEP: Duration = Duration::from_millis(100);

/// The stack of what a process executes right now. `open` are the loopback
/// ports that it had before it was sent SIGUSR1. Bounded by the caller.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn examine(pid: Pid, open: &BTreeSet<u16>) -> Result<String, String> {
    let port = loop {
        if let Some(port) = procfs::ports(pid).difference(open).next() {
            break *port;
        }
        tokio::time::sleep(LOOK).await;
    };
    let path = target(port).await?;
    let stream = connect(port).await?;
    let url = format!("ws://127.0.0.1:{port}{path}");
    let (mut socket, _) = client_async(url, stream)
        .await
        .map_err(|e| format!("failed to speak to its inspector: {e}"))?;
    for (id, method) in [(1, "Debugger.enable"), (2, "Debugger.pause")] {
        let text = json!({"id": id, "method": method}).to_string();
        let sent = socket.send(Message::text(text)).await;
        sent.map_err(|e| format!("its inspector went away: {e}"))?;
    }
    let mut files = HashMap::new();
    while let Some(message) = socket.next().await {
        let message = message.map_err(|e| format!("its inspector went away: {e}"))?;
        let Message::Text(text) = message else {
            continue;
        };
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        // They all come when the debugger is enabled; frames name a script by its number.
        if value["method"] == "Debugger.scriptParsed"
            && let (Some(id), Some(url)) = (
                value["params"]["scriptId"].as_str(),
                value["params"]["url"].as_str(),
            )
        {
            files.insert(id.to_owned(), url.to_owned());
        }
        if value["method"] == "Debugger.paused" {
            // When the connection ends the debugger lets it run on.
            let _ = socket.close(None).await;
            return Ok(stack(&value["params"]["callFrames"], &files));
        }
    }
    Err("its inspector said nothing".to_owned())
}

/// What a future gives within `limit`. However long the master (and with it perhaps the machine) stands still, one step
/// of the limit passes, so that an answer which has come meanwhile is heard.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..limit.as_millis().div_ceil(STEP.as_millis()) {
        if let Ok(done) = tokio::time::timeout(STEP, &mut future).await {
            return Some(done);
        }
    }
    None
}

/// Where a process is whose JavaScript does not run: in one long call of native code, which the debugger cannot
/// interrupt. `before` is [`procfs::loop_ticks`] of when the look began.
pub(super) fn native(pid: Pid, before: Option<u64>) -> String {
    if !procfs::is_alive(pid) {
        return "it ended while it was looked into".to_owned();
    }
    let now = procfs::loop_ticks(pid);
    if now
        .zip(before)
        .is_some_and(|(now, before)| now >= before + BUSY)
    {
        return "one long call of native code uses the processor (JSON.parse, crypto, an addon)"
            .to_owned();
    }
    let children = procfs::children(pid);
    if children.is_empty() {
        return "one long call of native code waits for the kernel (a file, a lock)".to_owned();
    }
    let children = children.join(", ");
    format!("one long call of native code waits, perhaps for its child (execSync): {children}")
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    stream.map_err(|e| format!("failed to reach its inspector: {e}"))
}

/// The path of the one debugging target (`/json/list`).
async fn target(port: u16) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("failed to ask its inspector: {e}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(connect(port).await?))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .uri("/json/list")
        .header("host", format!("127.0.0.1:{port}"))
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let body = Limited::new(answer.into_body(), 64 * 1024);
    let bytes = body.collect().await.map_err(|e| failed(&e))?.to_bytes();
    let list: Value = serde_json::from_slice(&bytes).map_err(|e| failed(&e))?;
    let id = list[0]["id"].as_str();
    id.map(|id| format!("/{id}"))
        .ok_or_else(|| "its inspector names no target".to_owned())
}

/// One frame a line, innermost first: function, file, line and column from 1.
fn stack(frames: &Value, files: &HashMap<String, String>) -> String {
    let url = |frame: &Value| {
        let script = frame["location"]["scriptId"].as_str().unwrap_or("");
        files.get(script).map_or("", String::as_str)
    };
    // Where the program is interrupted, Node tells the process that its inspector starts (`Agent::StartIoThread`, an
    // `emit` of `internalMessage`, which `node:cluster` and the shim listen to); the pause may fall in there.
    let all = frames.as_array().map_or(&[][..], Vec::as_slice);
    let listens = |frame: &&Value| {
        let url = url(frame);
        url.starts_with("node:internal/cluster/") || url.contains(".shim/")
    };
    let start = all.iter().take_while(listens).count();
    let is_emit = |frame: &Value| frame["functionName"] == "emit" && url(frame) == "node:events";
    let frames = match &all[start..] {
        [first, rest @ ..] if is_emit(first) && !rest.is_empty() => rest,
        _ => all,
    };
    let mut text = String::new();
    for frame in frames.iter().take(FRAMES) {
        let name = frame["functionName"].as_str().filter(|n| !n.is_empty());
        let name = name.unwrap_or("(anonymous)");
        let url = url(frame);
        let file = url.strip_prefix("file://").unwrap_or(url);
        let at = &frame["location"];
        let number = |key: &str| at[key].as_u64().unwrap_or(0) + 1;
        let (line, column) = (number("lineNumber"), number("columnNumber"));
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{separator}at {name} ({file}:{line}:{column})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn an_answer_that_came_while_the_master_stood_still_is_heard() {
        let limit = 2 * STEP;
        let (answer, asked) = oneshot::channel();
        let look = tokio::spawn(within(limit, asked));
        tokio::task::yield_now().await;
        // Nothing else runs in this thread.
        std::thread::sleep(2 * limit);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        answer.send(1).unwrap();
        assert_eq!(look.await.unwrap(), Some(Ok(1)));
        assert_eq!(within(limit, std::future::pending::<()>()).await, None);
    }

    #[test]
    fn frames_become_lines_that_count_from_one() {
        let frames = json!([
            {"functionName": "spin", "location": {"scriptId": "1", "lineNumber": 4, "columnNumber": 2}},
            {"functionName": "", "location": {"scriptId": "2", "lineNumber": 0, "columnNumber": 0}},
        ]);
        let files = [("1", "file:///app/a.js"), ("2", "node:events")];
        let files = files
            .map(|(id, url)| (id.to_owned(), url.to_owned()))
            .into();
        assert_eq!(
            stack(&frames, &files),
            "at spin (/app/a.js:5:3)\nat (anonymous) (node:events:1:1)"
        );
    }

    #[test]
    fn the_start_of_the_inspector_itself_is_no_part_of_the_stack() {
        let frame = |name: &str, script: &str| json!({"functionName": name, "location": {"scriptId": script, "lineNumber": 0, "columnNumber": 0}});
        let files = [
            ("1", "file:///app/a.js"),
            ("2", "node:events"),
            ("3", "node:internal/cluster/utils"),
            ("4", "file:///run/app/c.shim/hooks.cjs"),
        ];
        let files = files.map(|(id, url)| (id.to_owned(), url.to_owned()));
        let files = HashMap::from(files);
        let (node, app, own) = (frame("emit", "2"), frame("spin", "1"), frame("emit", "1"));
        let (cluster, shim) = (frame("internal", "3"), frame("", "4"));
        let first = |frames: &[&Value]| {
            stack(&json!(frames), &files)
                .lines()
                .next()
                .map(str::to_owned)
        };
        let [spin, emit] = ["at spin (/app/a.js:1:1)", "at emit (node:events:1:1)"];
        assert_eq!(first(&[&node, &app, &node]).as_deref(), Some(spin));
        assert_eq!(
            first(&[&shim, &cluster, &node, &app]).as_deref(),
            Some(spin)
        );
        assert_eq!(first(&[&node]).as_deref(), Some(emit));
        let worker = "at internal (node:internal/cluster/utils:1:1)";
        assert_eq!(first(&[&cluster, &app]).as_deref(), Some(worker));
        assert_eq!(
            first(&[&own, &app]).as_deref(),
            Some("at emit (/app/a.js:1:1)")
        );
    }
}
