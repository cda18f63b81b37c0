//! Promise: `-w` takes a number, `auto` counts what this process may use, and the environment is honoured.

use std::{fs, thread};

use crate::common::{self, BOOT, Launch, tool, wait_until};

/// Starts it, counts the workers, stops it.
#[track_caller]
fn count_workers(launch: Launch) -> usize {
    let mut master = launch.start();
    let count = master.wait_status("all workers ready", |status| {
        (status.state == "serving" && status.workers.iter().all(common::Worker::is_ready))
            .then_some(status.workers.len())
    });
    master.stop();
    count
}

#[test]
fn workers_as_a_number_and_from_the_environment() {
    let quick = || Launch::new("good.py");
    assert_eq!(count_workers(quick().options(["-w", "3"])), 3);
    assert_eq!(count_workers(quick().options(["--workers=2"])), 2);
    assert_eq!(count_workers(quick().env("RCLUSTER_WORKERS", "3")), 3);
    assert_eq!(count_workers(quick().env("WEB_CONCURRENCY", "3")), 3);
    assert_eq!(
        count_workers(quick().env("WEB_CONCURRENCY", "3").options(["-w", "2"])),
        2,
        "the flag wins"
    );
    assert_eq!(
        count_workers(
            quick()
                .env("RCLUSTER_WORKERS", "3")
                .env("WEB_CONCURRENCY", "4")
        ),
        3,
        "our own variable wins"
    );
    assert_eq!(
        count_workers(quick().env("RCLUSTER_WORKERS", "3").options(["-w", "2"])),
        2,
        "the flag wins"
    );
}

#[test]
fn auto_counts_the_processors_that_it_may_use() {
    let all = std::thread::available_parallelism().expect("a count").get();
    assert_eq!(
        count_workers(Launch::new("good.py").options(["-w", "auto"])),
        all
    );
    if tool("taskset").is_none() {
        common::skip("no taskset to narrow the affinity with");
        return;
    }
    let allowed = fs::read_to_string("/proc/self/status").expect("status");
    let list = allowed
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("a list")
        .trim();
    let first = list.split([',', '-']).next().expect("a processor");
    assert_eq!(
        count_workers(
            Launch::new("good.py")
                .under(["taskset", "-c", first])
                .options(["-w", "auto"])
        ),
        1
    );
}

#[test]
fn auto_counts_the_quota_of_the_cgroup() {
    let Some(group) = Cgroup::with_one_processor() else {
        common::skip("no right to make a cgroup with a CPU quota");
        return;
    };
    if std::thread::available_parallelism().expect("a count").get() < 2 {
        common::skip("one processor: a quota of one shows nothing");
        return;
    }
    // The shell enters the group, then becomes rcluster.
    let enter = format!(
        "echo $$ > {}/cgroup.procs && exec \"$@\"",
        group.0.display()
    );
    let launch = Launch::new("good.py").under(["sh", "-c", &enter, "sh"]);
    assert_eq!(count_workers(launch.options(["-w", "auto"])), 1);
}

/// A cgroup, v1 or v2, whose CPU quota is one processor.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn with_one_processor() -> Option<Self> {
        for (root, file, quota) in [
            ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
        ] {
            let path =
                std::path::Path::new(root).join(format!("rcluster-quota-{}", std::process::id()));
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self(path);
            // Beside cgroup v1 that path is a plain folder.
            let real = group.0.join("cgroup.procs").exists();
            if real && fs::write(group.0.join(file), quota).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !thread::panicking() {
            // Busy until its last process is reaped.
            wait_until("an empty cgroup", BOOT, || {
                fs::remove_dir(&self.0).is_ok().then_some(())
            });
        }
    }
}
