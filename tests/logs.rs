//! Promise: what workers print is their own business by default; with --log-prefix or --log-file the master carries whole
//! lines with bounded memory, loses none to a crash or a reload, and is blocked by no reader and no disk.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{self, Addr, BOOT, Conn, Launch, Master, wait_until};
use nix::sys::signal::Signal;

fn prints(workers: u32) -> Launch {
    Launch::new("prints.js").workers(workers)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(n.into(), 16).expect("a digit");
    let both = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    bytes.iter().flat_map(both).collect()
}

/// Asks a worker to print `bytes`, and waits until it has.
#[track_caller]
fn print(addr: &Addr, query: &str, bytes: &[u8]) -> serde_json::Value {
    addr.get(&format!("/?{query}&hex={}", hex(bytes))).json()
}

/// What a file says, as far as it is text.
fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[track_caller]
fn wait_text(what: &str, path: &Path, probe: impl Fn(&str) -> bool) -> String {
    wait_until(what, BOOT, || Some(text(path)).filter(|text| probe(text)))
}

fn out(master: &Master) -> PathBuf {
    master.dir.path().join("out")
}

fn log(master: &Master) -> PathBuf {
    master.dir.path().join("log")
}

/// A FIFO that is open, and that nobody reads.
fn unread_fifo(path: &Path) -> File {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    options.open(path).expect("the FIFO")
}

/// Takes what a FIFO holds now.
fn drain(fifo: &mut File, into: &mut Vec<u8>) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = fifo.read(&mut buffer) {
        into.extend_from_slice(&buffer[..count]);
    }
}

/// Waits until all that the worker has printed on a stream has passed the master's hands.
#[track_caller]
fn wait_taken(master: &Master, addr: &Addr, stream: &str) {
    print(addr, &format!("stream={stream}"), b"taken\n");
    wait_until("the master to go on", BOOT, || {
        let kept = master.command(&["logs", "-n", "1"]).stdout;
        (kept == b"w0 | taken\n").then_some(())
    });
}

#[test]
fn by_default_the_master_holds_no_byte() {
    let mut master = prints(1).start();
    master.wait_ready(1);
    let answer = print(&master.addr(), "", b"plain\n");
    assert_eq!(answer["stdout"], out(&master).to_str().expect("a path"));
    assert_eq!(master.out(), "booted\nplain\n");
    let threads = fs::read_dir(format!("/proc/{}/task", master.pid())).expect("threads");
    let names: Vec<_> = threads
        .flatten()
        .map(|task| text(&task.path().join("comm")))
        .collect();
    // The one that writes the master's own lines is no reader of workers' lines.
    let others = names.iter().filter(|name| name.starts_with("log"));
    assert_eq!(others.collect::<Vec<_>>(), ["log-stderr\n"]);

    let asked = master.command(&["logs"]);
    assert_eq!(asked.status.code(), Some(2));
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(
        said.contains("start it with --log-prefix or --log-file"),
        "{said}"
    );
    master.signal(Signal::SIGUSR1);
    wait_text("a word about USR1", &log(&master), |log| {
        log.contains("no log files")
    });
    master.stop();
}

#[test]
fn a_prefix_says_which_slot_printed_and_lines_stay_whole() {
    let mut master = prints(2).option("--log-prefix").start();
    master.wait_ready(2);
    let addr = master.addr();
    master.each_answers(|| common::pid_in(&print(&addr, "times=2000&fill=100", b"end\n")));
    print(&addr, "stream=stderr", b"to stderr\n");
    let line = format!("{}end", "x".repeat(100));
    let all = wait_text("all lines", &out(&master), |out| {
        out.matches("xend\n").count() == 4000
    });
    for slot in ["w0", "w1"] {
        let count = all
            .lines()
            .filter(|l| *l == format!("{slot} | {line}"))
            .count();
        assert_eq!(count, 2000, "{slot}");
    }
    // A file is no terminal: no colours. Each stream keeps its way.
    assert!(!all.contains('\x1b') && !all.contains("to stderr"));
    let log = wait_text("the line on stderr", &log(&master), |log| {
        log.contains("| to stderr\n")
    });
    assert!(
        log.lines()
            .all(|l| l.starts_with("20") || l.starts_with('w')),
        "{log}"
    );
    master.stop();
}

#[test]
fn json_lines_take_any_byte_and_say_who() {
    let mut master = prints(1)
        .options(["--log-prefix", "--log-format", "json"])
        .start();
    master.wait_ready(1);
    print(&master.addr(), "", b"say \"hi\" \xff\x1b[0m\x00\n");
    let all = wait_text("the line", &out(&master), |out| out.contains("say"));
    let last: serde_json::Value =
        serde_json::from_str(all.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["line"], "say \"hi\" \u{fffd}\x1b[0m\0");
    assert_eq!(
        (&last["slot"], &last["worker"], &last["stream"]),
        (&0.into(), &1.into(), &"stdout".into())
    );
    assert!(
        last["timestamp"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );
    for line in master.log().lines() {
        serde_json::from_str::<serde_json::Value>(line)
            .expect("the master's own lines are JSON, too");
    }
    master.stop();
}

#[test]
fn the_last_words_of_a_killed_worker_are_there_with_a_newline() {
    let mut master = prints(1).option("--log-prefix").start();
    let worker = master.wait_ready(1).remove(0);
    // More than a pipe's buffer holds at once, and no newline at its end.
    let request = format!("/?die=1&fill=60000&hex={}", hex(b"\nlast words"));
    let _ = master.addr().try_request("GET", &request);
    master.wait_replaced(&worker);
    let all = wait_text("the last words", &out(&master), |out| {
        out.contains("w0 | last words\n")
    });
    assert!(all.contains(&format!("w0 | {}\n", "x".repeat(60_000))));
    master.stop();
    // And so does what a handler prints on the way out.
    assert!(
        master.out().ends_with("w0 | bye from the handler\n"),
        "{}",
        master.out().len()
    );
}

#[test]
fn old_and_new_worker_of_a_slot_print_through_a_reload() {
    let mut master = prints(1)
        .options(["--log-prefix", "--log-format", "json"])
        .start();
    master.wait_ready(1);
    let reload = master.command(&["reload", "--drained"]);
    assert!(reload.status.success(), "{reload:?}");
    let all = wait_text("the old worker's last line", &out(&master), |out| {
        out.contains("bye from")
    });
    let workers = |word: &str| -> Vec<u64> {
        let lines = all
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
        lines
            .filter(|l| l["line"].as_str().is_some_and(|text| text.contains(word)))
            .map(|l| l["worker"].as_u64().expect("an id"))
            .collect()
    };
    assert_eq!(
        (workers("booted"), workers("bye from")),
        (vec![1, 2], vec![1])
    );
    master.stop();
}

#[test]
fn a_spare_prints_under_the_slot_that_it_takes() {
    let mut master = prints(1).options(["--log-prefix", "--spares", "1"]).start();
    let worker = master.wait_ready(1).remove(0);
    let spare = master.wait_status("a booted spare", |status| {
        let held = status.workers.iter().find(|worker| worker.state == "held");
        held.map(|worker| worker.id)
    });
    // What it printed is marked when it is read: not later than this.
    wait_text("the spare's first line", &out(&master), |out| {
        out.contains("w1 | booted\n")
    });
    common::kill(worker.process(), Signal::SIGKILL);
    assert_eq!(master.wait_replaced(&worker).id, spare);
    print(&master.addr(), "", b"promoted\n");
    let all = wait_text("its line", &out(&master), |out| out.contains("promoted"));
    assert!(
        all.contains("w1 | booted\n") && all.contains("w0 | promoted\n"),
        "{all}"
    );
    master.stop();
}

#[test]
fn files_for_slots_and_streams_are_opened_anew_on_usr1() {
    let dir = common::scratch();
    let file = |name: &str| dir.path().join(name);
    let mut master = prints(2)
        .option("--log-file")
        .option(file("{slot}.{stream}"))
        .start();
    master.wait_ready(2);
    assert_eq!(common::list(dir.path()).len(), 4);
    let mode = fs::metadata(file("0.stdout"))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    let addr = master.addr();
    master.each_answers(|| common::pid_in(&print(&addr, "", b"one\n")));
    for slot in ["0.stdout", "1.stdout"] {
        wait_text("a raw line", &file(slot), |text| text == "booted\none\n");
        fs::rename(file(slot), file(&format!("{slot}.1"))).expect("renamed");
    }
    master.signal(Signal::SIGUSR1);
    wait_until("new files", BOOT, || {
        (file("0.stdout").exists() && file("1.stdout").exists()).then_some(())
    });
    master.each_answers(|| common::pid_in(&print(&addr, "stream=stdout", b"two\n")));
    for slot in ["0.stdout", "1.stdout"] {
        wait_text("the next line", &file(slot), |text| text == "two\n");
        assert_eq!(text(&file(&format!("{slot}.1"))), "booted\none\n");
    }
    assert_eq!(master.out(), "");
    master.stop();
    assert_eq!(text(&file("0.stdout")), "two\nbye from the handler\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_said_before_anything_starts() {
    let dir = common::scratch();
    let missing = dir.path().join("missing/{slot}.log");
    for (path, words) in [
        (
            missing.to_str().expect("a path"),
            "its folder does not exist: make it first",
        ),
        (dir.path().to_str().expect("a path"), "it is a folder"),
        (
            "/tmp/{pid}.log",
            "`{pid}` is no part of it: {slot} and {stream} are",
        ),
    ] {
        let ended = prints(1).options(["--log-file", path]).run();
        assert_eq!(ended.code, Some(2), "{path}: {}", ended.log);
        assert!(
            ended.log.contains("log file") && ended.log.contains(words),
            "{}",
            ended.log
        );
        assert!(!ended.log.contains("rcluster starts"), "{}", ended.log);
    }
    if common::is_root() && common::can_be_somebody_else() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).expect("mode");
        let file = dir.path().join("x.log");
        let ended = prints(1).uid(65534).option("--log-file").option(file).run();
        assert_eq!(ended.code, Some(2), "{}", ended.log);
        assert!(
            ended.log.contains("let the master's user write there"),
            "{}",
            ended.log
        );
    }
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let mut master = prints(1).options(["--log-file", "/dev/full"]).start();
    master.wait_ready(1);
    let addr = master.addr();
    // Many more bytes than any buffer on the way holds: each request is answered all the same.
    for _ in 0..40 {
        print(&addr, "times=100&fill=1000", b"\n");
    }
    let log = wait_text("a warning", &log(&master), |log| {
        log.contains("log lines dropped")
    });
    assert!(
        log.contains("No space left on device") && log.contains("output=\"files\""),
        "{log}"
    );
    master.stop();
    // Once now, and once with the rest at the end: not for each line. None is forgotten.
    let log = master.log();
    let lost: Vec<u64> = log
        .lines()
        .filter(|line| line.contains("log lines dropped"))
        .filter_map(|line| line.split_once("lines=")?.1.split(' ').next()?.parse().ok())
        .collect();
    assert!(lost.len() <= 2, "{log}");
    // "booted" and the last words as well.
    assert_eq!(lost.iter().sum::<u64>(), 4002, "{log}");
}

#[test]
fn a_reader_that_takes_nothing_blocks_neither_worker_nor_master() {
    let dir = common::scratch();
    let path = dir.path().join("fifo");
    let mut fifo = unread_fifo(&path);
    let shell = format!("exec \"$0\" \"$@\" >{}", path.display());
    let mut master = prints(1)
        .option("--log-prefix")
        .under(["sh", "-c", &shell])
        .start();
    master.wait_ready(1);
    let addr = master.addr();
    for _ in 0..30 {
        print(&addr, "times=1000&fill=1000", b"lost\n");
    }
    // 30 MB were printed, and all of it has been taken from the worker.
    wait_taken(&master, &addr, "stdout");
    let rss = common::rss_kib(master.pid());
    assert!(rss < 40 * 1024, "the master holds {rss} KiB");
    wait_text("a warning", &log(&master), |log| {
        log.contains("log lines dropped") && log.contains("its reader takes nothing")
    });
    // It reads again: what is printed from then on arrives, in whole lines.
    let mut seen = vec![];
    wait_until("a new line after the gap", BOOT, || {
        drain(&mut fifo, &mut seen);
        print(&addr, "", b"after the gap\n");
        seen.ends_with(b"w0 | after the gap\n").then_some(())
    });
    let seen = String::from_utf8_lossy(&seen).into_owned();
    let whole = format!("w0 | {}lost", "x".repeat(1000));
    for line in seen.lines() {
        assert!(
            line == whole || line.len() < 100,
            "a torn line of {} bytes",
            line.len()
        );
    }
    master.stop();
}

#[test]
fn a_blocked_stderr_does_not_block_the_masters_own_log() {
    let dir = common::scratch();
    let path = dir.path().join("fifo");
    let mut fifo = unread_fifo(&path);
    let shell = format!("exec \"$0\" \"$@\" 2>{}", path.display());
    let mut master = prints(1)
        .option("--log-prefix")
        .under(["sh", "-c", &shell])
        .start();
    let worker = master.wait_ready(1).remove(0);
    for _ in 0..10 {
        print(&master.addr(), "stream=stderr&times=1000&fill=1000", b"\n");
    }
    wait_taken(&master, &master.addr(), "stderr");
    // It still reaps, replaces and answers.
    common::kill(worker.process(), Signal::SIGKILL);
    master.wait_replaced(&worker);
    let mut seen = vec![];
    wait_until("the master's own words", BOOT, || {
        drain(&mut fifo, &mut seen);
        let seen = String::from_utf8_lossy(&seen);
        (seen.contains("worker died") && seen.contains("log lines dropped")).then_some(())
    });
    // Nobody reads the rest; it ends all the same.
    print(&master.addr(), "stream=stderr&times=1000&fill=1000", b"\n");
    master.stop();
}

#[test]
fn without_options_a_blocked_stderr_does_not_stop_the_master_either() {
    let dir = common::scratch();
    let path = dir.path().join("fifo");
    let mut fifo = unread_fifo(&path);
    let shell = format!("exec \"$0\" \"$@\" 2>{}", path.display());
    let mut master = prints(1).under(["sh", "-c", &shell]).start();
    let worker = master.wait_ready(1).remove(0);
    // Full to the brim, as by a worker whose log nobody reads.
    while fifo.write(&[b'x'; 4096]).is_ok() {}
    while fifo.write(b"x").is_ok() {}
    common::kill(worker.process(), Signal::SIGKILL);
    let next = master.wait_replaced(&worker);
    let mut seen = vec![];
    wait_until("what was said meanwhile", BOOT, || {
        drain(&mut fifo, &mut seen);
        String::from_utf8_lossy(&seen)
            .contains("worker died")
            .then_some(())
    });
    // And again, to the end: exit code 0 with nobody reading.
    while fifo.write(&[b'x'; 4096]).is_ok() {}
    while fifo.write(b"x").is_ok() {}
    common::kill(next.process(), Signal::SIGKILL);
    master.wait_replaced(&next);
    master.stop();
}

#[test]
fn long_lines_come_in_pieces_and_that_is_said() {
    let mut master = prints(1).option("--log-prefix").start();
    master.wait_ready(1);
    print(&master.addr(), "fill=10000000", b"end\n");
    let all = wait_text("the end of the line", &out(&master), |out| {
        out.ends_with("xend\n")
    });
    let pieces: Vec<_> = all.lines().skip(1).collect();
    assert_eq!(
        pieces.iter().map(|p| p.matches('x').count()).sum::<usize>(),
        10_000_000
    );
    let mark = " [rcluster: a long line, it goes on]";
    let (last, first) = pieces.split_last().expect("pieces");
    let fine =
        |piece: &&str| piece.len() < 66_000 && piece.starts_with("w0 | x") && piece.ends_with(mark);
    assert!(first.len() > 100 && first.iter().all(fine));
    assert!(last.len() < 66_000 && !last.ends_with(mark));
    wait_text("a word about it", &log(&master), |log| {
        log.contains("cut into pieces")
    });
    master.stop();
}

#[test]
fn binary_passes_untouched() {
    let mut master = prints(1).option("--log-prefix").start();
    master.wait_ready(1);
    let bytes: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    print(&master.addr(), "", &[&bytes[..], b"\n"].concat());
    let wanted = [b"w0 | ", &bytes[..], b"\n"].concat();
    wait_until("all bytes", BOOT, || {
        fs::read(out(&master))
            .expect("the output")
            .ends_with(&wanted)
            .then_some(())
    });
    master.stop();
}

#[test]
fn a_killed_master_takes_no_printing_worker_with_it() {
    let mut master = prints(1).option("--log-prefix").start();
    master.wait_ready(1);
    let mut conn = Conn::open(&master.addr()).expect("connected");
    // It prints 100 kB when the master is gone: more than a plain pipe holds, and its reader is dead.
    conn.send(&format!(
        "GET /?later=1&times=100&fill=1000&hex={} HTTP/1.1\r\nhost: x\r\n\r\n",
        hex(b"\n")
    ))
    .expect("sent");
    wait_until("the request in the worker", BOOT, || {
        master.try_status()?;
        print(&master.addr(), "", b"");
        Some(())
    });
    master.kill_master();
    let answer = conn.read().expect("an answer");
    assert_eq!(answer.body, "begun done");
    master.wait_no_process();
    master.forget();
}

#[test]
fn logs_shows_what_is_kept_and_follows() {
    let mut master = prints(2).option("--log-prefix").start();
    master.wait_ready(2);
    let addr = master.addr();
    master.each_answers(|| common::pid_in(&print(&addr, "", b"a\nb\nc\n")));
    wait_text("both", &out(&master), |out| {
        out.matches("| c\n").count() == 2
    });
    let ask = |words: &[&str]| String::from_utf8(master.command(words).stdout).expect("text");
    assert_eq!(ask(&["logs", "0"]), "w0 | booted\nw0 | a\nw0 | b\nw0 | c\n");
    assert_eq!(ask(&["logs", "1", "-n", "2"]), "w1 | b\nw1 | c\n");
    let json: serde_json::Value =
        serde_json::from_str(&ask(&["logs", "1", "-n", "1", "--json"])).expect("JSON");
    assert_eq!((&json["line"], &json["slot"]), (&"c".into(), &1.into()));
    // What is kept is bounded.
    for _ in 0..20 {
        print(&addr, "times=100&fill=1000", b"\n");
    }
    let kept = wait_until("enough to be kept", BOOT, || {
        Some(ask(&["logs"]).len()).filter(|kept| *kept >= 64_000)
    });
    assert!(kept < 400_000, "{kept}");

    let followed = master.dir.path().join("followed");
    let mut reader = Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(["logs", "-f", "-n", "0", "--control"])
        .arg(&master.control)
        .stdout(Stdio::from(File::create(&followed).expect("a file")))
        .spawn()
        .expect("rcluster logs");
    wait_until("a followed line", BOOT, || {
        print(&addr, "", b"live\n");
        text(&followed).contains("| live\n").then_some(())
    });
    assert!(!text(&followed).contains("| a\n"));
    master.stop();
    let status = wait_until("the end of logs -f", BOOT, || {
        reader.try_wait().expect("our child")
    });
    assert!(status.success(), "{status}");
    assert!(text(&followed).contains("bye from the handler\n"));
}
