//! Promise: no file that the master reads can stop it, whatever stands at its path: a FIFO, a device without an end, a
//! file system that does not answer. The reload fails and says why; the master answers meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::{Launch, Master, Node, app, rss_kib, scratch};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// An app whose files can be replaced one by one.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = scratch();
        fs::copy(app("site.js"), folder.path().join("site.js")).expect("copied");
        fs::write(folder.path().join("rcluster.toml"), "workers = 2\n").expect("written");
        fs::write(folder.path().join("app.env"), "COLOR=red\n").expect("written");
        symlink(Node::V24.binary(), folder.path().join("node")).expect("a link");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&self) -> Launch {
        Launch::new(self.path("site.js"))
            .without_node()
            .option("--node")
            .option(self.path("node"))
            .option("--env-file")
            .option(self.path("app.env"))
    }

    /// Puts something else in a file's place.
    fn replace(&self, name: &str, what: &What) -> PathBuf {
        let path = self.path(name);
        fs::rename(&path, self.path("kept")).expect("moved");
        match what {
            What::Fifo => mkfifo(&path, Mode::S_IRWXU).expect("a FIFO"),
            What::Link(to) => symlink(to, &path).expect("a link"),
        }
        path
    }

    fn put_back(&self, name: &str) {
        fs::rename(self.path("kept"), self.path(name)).expect("moved back");
    }
}

#[derive(Debug)]
enum What {
    Fifo,
    Link(&'static str),
}

const FILES: [&str; 4] = ["site.js", "app.env", "rcluster.toml", "node"];
const WRONG: [What; 2] = [What::Fifo, What::Link("/dev/zero")];

#[track_caller]
fn fails(master: &Master, path: &Path, what: &str) {
    let told = master.command(&["reload"]);
    let err = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(10), "{what}: {err}");
    let named = path.file_stem().and_then(|name| name.to_str());
    assert!(err.contains(named.expect("a name")), "{what}: {err}");
}

#[test]
fn a_fifo_or_an_endless_device_fails_the_reload() {
    let site = Site::new();
    let mut master = site.launch().start();
    let before = master.wait_ready(2);
    let rss = rss_kib(master.pid());
    for name in FILES {
        for what in &WRONG {
            let path = site.replace(name, what);
            fails(&master, &path, &format!("{what:?} as {name}"));
            fs::remove_file(&path).expect("removed");
            site.put_back(name);
        }
    }
    let after = master.wait_ready(2);
    assert!(before.iter().zip(&after).all(|(a, b)| a.id == b.id));
    let grown = rss_kib(master.pid()).saturating_sub(rss);
    assert!(grown < 16 * 1024, "it grew by {grown} KiB");
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    master.stop();
}

#[test]
fn a_fifo_or_an_endless_device_fails_the_start() {
    let site = Site::new();
    for name in FILES {
        for what in &WRONG {
            let path = site.replace(name, what);
            let ended = site.launch().run();
            assert_eq!(ended.code, Some(2), "{what:?} as {name}: {}", ended.log);
            fs::remove_file(&path).expect("removed");
            site.put_back(name);
        }
    }
    fs::write(site.path("token"), "x").expect("written");
    for what in &WRONG {
        let path = site.replace("token", what);
        let launch = site.launch().options(["--admin", "127.0.0.1:0"]);
        let ended = launch.option("--admin-token-file").option(&path).run();
        assert_eq!(ended.code, Some(2), "{what:?} as token: {}", ended.log);
        assert!(ended.log.contains("token file"), "{}", ended.log);
        fs::remove_file(&path).expect("removed");
        site.put_back("token");
    }
}
