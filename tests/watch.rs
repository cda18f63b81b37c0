//! Promise: with --watch a change of the app's files is a reload, what git ignores and `node_modules` is not, a mistake is
//! shown and costs nothing, and a first start that fails waits for the next change.

use std::fs;
use std::path::PathBuf;

use crate::common::{self, BOOT, Launch, Master, wait_until};

struct Project(tempfile::TempDir);

impl Project {
    fn new(answer: &str) -> Self {
        let project = Self(common::scratch());
        project.write(".gitignore", "built/\n*.gen.js\n");
        for folder in ["built", "node_modules/x", "lib"] {
            fs::create_dir_all(project.path(folder)).expect("a folder");
        }
        project.answer(answer);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    /// A server that says this.
    fn answer(&self, text: &str) {
        let code = format!(
            "require('http').createServer((_, res) => res.end('{text}')).listen(process.env.PORT, '127.0.0.1')"
        );
        // As editors save: a new file in the old one's place.
        self.write("app.js.new~", &code);
        fs::rename(self.path("app.js.new~"), self.path("app.js")).expect("renamed");
    }

    fn launch(&self, watch: &str) -> Launch {
        let port = common::Addr::free_port();
        Launch::new(self.path("app.js"))
            .cwd(self.0.path())
            .env("PORT", port.to_string())
            .option(watch)
    }
}

#[track_caller]
fn wait_answer(master: &Master, text: &str) {
    wait_until(&format!("the answer {text}"), BOOT, || {
        let addr = common::Addr::parse(master.try_status()?.addresses().first()?)?;
        (addr.try_request("GET", "/").ok()?.body == text).then_some(())
    });
}

/// The files that were told as changed.
fn changes(master: &Master) -> Vec<String> {
    let log = master.log();
    let lines = log.lines().filter(|line| line.contains("changed: reload"));
    lines
        .map(|line| {
            line.rsplit_once("path=")
                .expect("a path")
                .1
                .rsplit('/')
                .next()
                .expect("a name")
                .to_owned()
        })
        .collect()
}

#[test]
fn a_change_is_a_reload_and_what_is_ignored_is_not() {
    let project = Project::new("one");
    let mut master = project.launch("--watch").start();
    // One worker, unless somebody says otherwise.
    master.wait_ready(1);
    assert_eq!(master.status().workers.len(), 1);
    wait_answer(&master, "one");
    // If one of these counted it would be told first.
    for name in [
        "built/x.js",
        "x.gen.js",
        "node_modules/x/index.js",
        "notes.txt",
        ".#app.js",
        "app.js~",
    ] {
        project.write(name, "x");
    }
    project.answer("two");
    wait_answer(&master, "two");
    assert_eq!(changes(&master), ["app.js"]);
    // A folder that is new, with a file in it.
    fs::create_dir_all(project.path("lib/deep/er")).expect("folders");
    project.write("lib/deep/er/new.js", "");
    wait_until("a second reload", BOOT, || {
        (changes(&master).len() >= 2).then_some(())
    });
    master.stop();
}

#[test]
fn a_mistake_is_shown_and_the_old_code_answers_until_it_is_mended() {
    let project = Project::new("one");
    let mut master = project.launch("--watch").start();
    master.wait_ready(1);
    wait_answer(&master, "one");
    project.write("app.js", "this is no JavaScript");
    wait_until("the mistake", BOOT, || {
        let log = master.log();
        (log.contains("reload failed") && log.contains("SyntaxError")).then_some(())
    });
    wait_answer(&master, "one");
    project.answer("two");
    wait_answer(&master, "two");
    master.stop();
}

#[test]
fn a_first_start_that_fails_waits_for_the_next_change() {
    let project = Project::new("one");
    project.write("app.js", "throw new Error('not yet')");
    let mut master = project.launch("--watch").start();
    wait_until("the mistake", BOOT, || {
        let log = master.log();
        (log.contains("not yet") && log.contains("waiting for a change")).then_some(())
    });
    project.answer("now");
    wait_answer(&master, "now");
    master.stop();
    // And it can be ended while it waits.
    project.write("app.js", "throw new Error('not yet')");
    let mut master = project.launch("--watch").start();
    wait_until("the wait", BOOT, || {
        master.log().contains("waiting for a change").then_some(())
    });
    master.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(master.wait_exit().code(), Some(3), "{}", master.log());
    master.finish();
}

#[test]
fn a_glob_says_what_counts() {
    let project = Project::new("one");
    let mut master = project.launch("--watch=lib/**/*.txt").start();
    master.wait_ready(1);
    project.answer("two");
    project.write("lib/notes.txt", "x");
    wait_answer(&master, "two");
    assert_eq!(changes(&master), ["notes.txt"]);
    master.stop();
}

#[test]
fn a_glob_that_is_none_is_told() {
    let ended = Project::new("one").launch("--watch=[").run();
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(
        ended.log.contains("failed to read the glob `[`"),
        "{}",
        ended.log
    );
}
