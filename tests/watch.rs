//! Promise: with --watch a change of the app's files is a reload, what git ignores and `node_modules` is not, a mistake is
//! shown and costs nothing, and a first start that fails waits for the next change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::common::{self, BOOT, Dead, Launch, Master, field, wait_until};

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
            field(line, "path")
                .expect("a path")
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
fn patterns_of_folders_inside_and_above_count_as_in_git() {
    let above = common::scratch();
    fs::create_dir(above.path().join(".git")).expect("a repository");
    fs::create_dir_all(above.path().join(".git/info")).expect("a folder");
    fs::write(above.path().join(".git/info/exclude"), "private.js\n").expect("written");
    fs::write(above.path().join(".gitignore"), "*.tmp.js\n/app/out/\n").expect("written");
    let app = above.path().join("app");
    for folder in ["out", "lib/out"] {
        fs::create_dir_all(app.join(folder)).expect("a folder");
    }
    let project = Project(above);
    let write = |name: &str| project.write(&format!("app/{name}"), "");
    fs::write(app.join("lib/.gitignore"), "/inner.js\n!kept.tmp.js\n").expect("written");
    fs::write(
        app.join("app.js"),
        "require('http').createServer((_, res) => res.end()).listen(0)",
    )
    .expect("written");
    let mut master = Launch::new(app.join("app.js"))
        .cwd(&app)
        .option("--watch")
        .start();
    master.wait_ready(1);
    let mut told = vec![];
    for ignored in [
        "private.js",
        "x.tmp.js",
        "out/x.js",
        "lib/inner.js",
        "lib/x.tmp.js",
    ] {
        write(ignored);
    }
    for counts in ["inner.js", "lib/kept.tmp.js", "lib/out/x.js"] {
        write(counts);
        told.push(counts.rsplit('/').next().expect("a name").to_owned());
        wait_until("a reload", BOOT, || {
            (changes(&master).len() >= told.len()).then_some(())
        });
        assert_eq!(changes(&master), told);
    }
    master.stop();
}

#[test]
fn a_fifo_or_a_device_as_gitignore_stops_neither_the_start_nor_the_master() {
    let project = Project::new("one");
    fs::remove_file(project.path(".gitignore")).expect("removed");
    let fifo = |path: PathBuf| {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    };
    fifo(project.path(".gitignore"));
    symlink("/dev/zero", project.path("lib/.gitignore")).expect("a link");
    let mut master = project.launch("--watch").start();
    master.wait_ready(1);
    wait_answer(&master, "one");
    let skipped = || master.log().matches("gitignore_skipped").count();
    assert_eq!(skipped(), 2, "{}", master.log());
    // A folder that is new, and complete when it is seen.
    let other = common::scratch();
    fs::create_dir(other.path().join("new")).expect("a folder");
    fifo(other.path().join("new/.gitignore"));
    fs::rename(other.path().join("new"), project.path("renamed")).expect("renamed");
    symlink(project.path("renamed"), project.path("linked")).expect("a link");
    wait_until("the look at it", BOOT, || (skipped() >= 3).then_some(()));
    project.answer("two");
    wait_answer(&master, "two");
    master.stop();
}

#[test]
fn files_are_watched_with_the_rights_of_the_user() {
    if !common::can_be_somebody_else() {
        return;
    }
    let project = Project::new("one");
    fs::set_permissions(project.0.path(), Permissions::from_mode(0o755)).expect("chmod");
    // What root alone can read would ignore all.
    let secret = common::scratch();
    fs::write(secret.path().join("all"), "*.js\n").expect("written");
    fs::remove_file(project.path(".gitignore")).expect("removed");
    symlink(secret.path().join("all"), project.path(".gitignore")).expect("a link");
    let mut master = project
        .launch("--watch")
        .options(["--user", "nobody"])
        .start();
    master.wait_ready(1);
    wait_answer(&master, "one");
    project.answer("two");
    wait_answer(&master, "two");
    master.stop();
}

#[test]
fn a_folder_that_does_not_answer_stops_nobody() {
    let dead = common::scratch();
    let Some(dead) = Dead::mount(dead.path().join("dead")) else {
        return;
    };
    let project = Project::new("one");
    let mut master = project.launch("--watch").start();
    master.wait_ready(1);
    symlink(dead.path(), project.path("linked")).expect("a link");
    wait_until("the look at it", BOOT, || {
        let tasks = fs::read_dir(format!("/proc/{}/task", master.pid())).ok()?;
        let mut tasks = tasks.flatten().map(|task| task.path());
        tasks.find(|task| {
            let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
            read("comm").trim() == "watch" && read("wchan").contains("fuse")
        })
    });
    wait_answer(&master, "one");
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    // execve(2) would wait for the thread.
    let told = master.command(&["upgrade"]);
    assert_ne!(told.status.code(), Some(0), "{told:?}");
    wait_answer(&master, "one");
    master.stop();
}

#[test]
fn a_folder_that_does_not_answer_fails_the_start() {
    let project = Project::new("one");
    let Some(_dead) = Dead::mount(project.path("dead")) else {
        return;
    };
    let ended = project.launch("--watch").run();
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("does not answer"), "{}", ended.log);
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
