//! Promise: a master that runs as root never acts as root on a path that the app's user can influence. The attacks are
//! real: a worker under --user nobody swaps folders for symbolic links while the master uses them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{self, BOOT, LONG, Launch, Master, list, wait_until};

const NOBODY: u32 = 65534;
/// Fewer than the listeners that a master allows.
const NAMES: usize = 60;

/// A folder that everybody can enter, with one of the app's user and one of root in it.
pub(crate) struct Ground {
    pub(crate) dir: tempfile::TempDir,
    /// The app's.
    pub(crate) app: PathBuf,
    /// Root's: what an attack is after.
    pub(crate) secret: PathBuf,
}

impl Ground {
    /// `None` (and says so) where no other user can be had.
    pub(crate) fn new() -> Option<Self> {
        if !common::can_be_somebody_else() || common::tool("python3").is_none() {
            return None;
        }
        let dir = common::scratch();
        let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
        open(dir.path()).expect("chmod");
        let (app, secret) = (dir.path().join("app"), dir.path().join("secret"));
        for folder in [&app, &secret] {
            fs::create_dir(folder).expect("a folder");
            open(folder).expect("chmod");
        }
        give(&app);
        Some(Self { dir, app, secret })
    }

    /// A file of tests/apps where everybody can read it.
    pub(crate) fn app_file(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::copy(common::app(name), &path).expect("copied");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        path
    }

    /// Under --user nobody, in the app's folder.
    pub(crate) fn launch(&self, script: &str) -> Launch {
        Launch::new(self.app_file(script))
            .workers(1)
            .options(["--user", "nobody"])
            .option("--cwd")
            .option(&self.app)
    }
}

/// Makes a path the app's.
pub(crate) fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
}

/// Sockets that nobody listens on any more.
fn stale_sockets(folder: &Path, names: &[String]) {
    for name in names {
        let path = folder.join(name);
        drop(UnixListener::bind(&path).expect("bound"));
        give(&path);
    }
}

/// A worker listens on `names` in a folder that it swaps for a link to `secret`; how that went.
fn race(ground: &Ground, names: &[String]) -> (Master, Value) {
    let (run, link) = (ground.app.join("run"), ground.app.join("link"));
    fs::create_dir(&run).expect("a folder");
    give(&run);
    symlink(&ground.secret, &link).expect("a link");
    give(&link);
    let done = ground.app.join("done");
    let master = ground
        .launch("redirects.js")
        .env("RUN", &run)
        .env("LINK", &link)
        .env("SWAP", ground.app_file("swap.py"))
        .env("DONE", &done)
        .env("NAMES", serde_json::json!(names).to_string());
    if names[0].starts_with("stale") {
        stale_sockets(&run, names);
    }
    let master = master.start();
    master.wait_ready(1);
    let told = wait_until("the end of the attack", LONG, || {
        serde_json::from_slice(&fs::read(&done).ok()?).ok()
    });
    (master, told)
}

fn names(prefix: &str) -> Vec<String> {
    (0..NAMES).map(|n| format!("{prefix}-{n}")).collect()
}

/// Most of the attempts met a folder, and many a link: the race was run.
#[track_caller]
fn was_run(told: &Value) {
    let count = |name: &str| told[name].as_u64().expect("a number");
    assert!(count("bound") >= 30, "{told}");
    assert!(count("refused") >= 10, "{told}");
}

#[test]
fn a_stale_socket_is_not_removed_where_the_worker_leads() {
    let Some(ground) = Ground::new() else { return };
    let names = names("stale");
    for name in &names {
        fs::write(ground.secret.join(name), "root's").expect("written");
    }
    let (mut master, told) = race(&ground, &names);
    let mut left = list(&ground.secret);
    left.sort();
    let mut all = names.clone();
    all.sort();
    assert_eq!(left, all, "root's files: {told}");
    was_run(&told);
    master.stop();
    assert_eq!(list(&ground.secret).len(), NAMES, "after the end");
}

#[test]
fn no_socket_is_made_where_the_worker_leads() {
    let Some(ground) = Ground::new() else { return };
    let (mut master, told) = race(&ground, &names("new"));
    assert_eq!(list(&ground.secret), [""; 0], "{told}");
    was_run(&told);
    let socket = ground.app.join("run").join("new-0");
    let real = fs::symlink_metadata(&socket).or_else(|_| {
        let swapped = ground.app.join("link").join("new-0");
        fs::symlink_metadata(swapped)
    });
    assert_eq!(
        real.expect("it is there").uid(),
        NOBODY,
        "it is the worker's"
    );
    master.stop();
    assert_eq!(list(&ground.secret), [""; 0], "after the end");
}

/// Listens on paths once each, without a race; how that went.
fn listen(ground: &Ground, launch: Launch, paths: &[PathBuf]) -> (Master, Value) {
    let done = ground.app.join("done");
    let names: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
    let master = launch
        .env("RUN", "")
        .env("DONE", &done)
        .env("NAMES", serde_json::json!(names).to_string())
        .start();
    master.wait_ready(1);
    let told = wait_until("all answers", BOOT, || {
        serde_json::from_slice(&fs::read(&done).ok()?).ok()
    });
    (master, told)
}

pub(crate) fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").uid()
}

#[test]
fn the_working_directory_root_grants_nothing() {
    let Some(ground) = Ground::new() else { return };
    let launch = Launch::new(ground.app_file("redirects.js"))
        .workers(1)
        .options(["--user", "nobody", "--cwd", "/"]);
    let (mut master, told) = listen(&ground, launch, &[ground.secret.join("x.sock")]);
    assert_eq!(told["bound"], 0, "{told}");
    assert_eq!(list(&ground.secret), [""; 0]);
    master.stop();
}

#[test]
fn an_app_that_becomes_another_user_by_itself_has_that_users_rights() {
    let Some(ground) = Ground::new() else { return };
    give(ground.dir.path());
    let launch = Launch::new(ground.app_file("redirects.js"))
        .workers(1)
        .env("DROP", "1")
        // Its files are closed to that user.
        .options(["--no-shim", "--cwd"])
        .option(ground.dir.path());
    let paths = [ground.secret.join("x.sock"), ground.app.join("x.sock")];
    let (mut master, told) = listen(&ground, launch, &paths);
    assert_eq!(told, serde_json::json!({ "bound": 1, "refused": 1 }));
    assert_eq!(list(&ground.secret), [""; 0]);
    assert_eq!(owner(&paths[1]), NOBODY);
    master.stop();
    assert!(!paths[1].exists(), "left behind");
}

#[test]
fn an_upgraded_master_removes_a_workers_socket_with_the_workers_rights() {
    let Some(ground) = Ground::new() else { return };
    let path = ground.app.join("x.sock");
    let launch = ground.launch("redirects.js");
    let (mut master, _) = listen(&ground, launch, std::slice::from_ref(&path));
    assert_eq!(owner(&path), NOBODY);
    assert!(master.command(&["upgrade"]).status.success());
    // Where it leads now: a hard link to the socket itself, so that it cannot be told apart by its number.
    let (run, kept) = (ground.secret.join("x.sock"), ground.dir.path().join("kept"));
    fs::hard_link(&path, &run).expect("a link");
    fs::rename(&ground.app, &kept).expect("moved");
    symlink(&ground.secret, &ground.app).expect("a link");
    master.stop();
    assert!(run.exists(), "root's name is left alone");
}

#[test]
fn a_declared_path_is_used_with_the_rights_of_who_can_redirect_it() {
    let Some(ground) = Ground::new() else { return };
    for (folder, uid) in [(&ground.app, NOBODY), (&ground.secret, 0)] {
        let path = folder.join("x.sock");
        let bind = format!("unix:{}", path.display());
        let mut master = ground.launch("site.js").options(["-b", &bind]).start();
        wait_until("the socket", BOOT, || path.exists().then_some(()));
        assert_eq!(owner(&path), uid);
        master.wait_ready(1);
        master.stop();
        assert!(!path.exists(), "left behind");
    }
    // Without another user for the workers there are no rights but root's.
    let bind = format!("unix:{}", ground.app.join("x.sock").display());
    let ended = Launch::new("site.js").options(["-b", &bind]).run();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(list(&ground.app), [""; 0]);
}
