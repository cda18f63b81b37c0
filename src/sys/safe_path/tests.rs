//! Against the real file system; only root can give folders away.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
};

use super::*;

const NOBODY: u32 = 65534;

/// A folder of this mode, user and group.
fn folder(path: &Path, mode: u32, uid: u32, gid: u32) {
    let _ = fs::create_dir(path);
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn is_safe(path: &Path) -> bool {
    match check(path) {
        Ok(()) => true,
        Err(Refusal::Unsafe { .. }) => false,
        Err(Refusal::Io(error)) => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn only_what_root_alone_can_redirect_is_safe() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("a/b"));
    let file = b.join("file");
    for (mode, uid, gid, safe) in [
        (0o755, 0, 0, true),
        (0o775, 0, 0, true),
        (0o775, 0, NOBODY, false),
        (0o755, NOBODY, 0, false),
        (0o500, NOBODY, NOBODY, false),
        (0o757, 0, 0, false),
        (0o1757, 0, 0, true),
        (0o1775, 0, NOBODY, true),
        (0o1777, NOBODY, 0, false),
    ] {
        for (path, other) in [(&a, &b), (&b, &a)] {
            folder(&a, 0o755, 0, 0);
            folder(&b, 0o755, 0, 0);
            folder(other, 0o755, 0, 0);
            folder(path, mode, uid, gid);
            assert_eq!(
                is_safe(&file),
                safe,
                "{} {mode:o} {uid}:{gid}",
                path.display()
            );
        }
    }
}

#[test]
fn in_a_sticky_folder_only_what_is_roots_is_safe() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let shared = dir.path().join("shared");
    folder(&shared, 0o1777, 0, 0);
    let (file, theirs) = (shared.join("file"), shared.join("theirs"));
    assert!(is_safe(&file), "nothing is there");
    fs::write(&file, "").unwrap();
    assert!(is_safe(&file));
    fs::hard_link(&file, &theirs).unwrap();
    let open = Use::Option(None).at(&file, |place| place.open_to_append(0o600));
    let why = open.unwrap_err().to_string();
    assert!(why.contains("a second name"), "{why}");
    chown(&file, Some(NOBODY), None).unwrap();
    assert!(!is_safe(&file));
    folder(&theirs.with_extension("d"), 0o755, NOBODY, NOBODY);
    assert!(!is_safe(&theirs.with_extension("d").join("file")));
}

#[test]
fn links_are_followed_as_far_as_root_made_them() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let path = |name: &str| dir.path().join(name);
    folder(&path("safe"), 0o755, 0, 0);
    folder(&path("theirs"), 0o755, NOBODY, NOBODY);
    folder(&path("shared"), 0o1777, 0, 0);
    symlink("safe", path("to-safe")).unwrap();
    symlink(path("theirs"), path("to-theirs")).unwrap();
    symlink("safe/file", path("to-file")).unwrap();
    symlink("loop", path("loop")).unwrap();
    symlink("../safe", path("shared/link")).unwrap();
    assert!(is_safe(&path("to-safe/file")));
    assert!(is_safe(&path("to-file")));
    assert!(
        !is_safe(&path("theirs/../safe/file")),
        "theirs is on the way"
    );
    assert!(!is_safe(&path("to-theirs/file")));
    assert!(is_safe(&path("shared/link/file")));
    std::os::unix::fs::lchown(path("shared/link"), Some(NOBODY), None).unwrap();
    assert!(!is_safe(&path("shared/link/file")));
    let looped = check(&path("loop/file"));
    assert!(matches!(looped, Err(Refusal::Io(e)) if e.raw_os_error() == Some(libc::ELOOP)));
    let missing = check(&path("none/file"));
    assert!(matches!(missing, Err(Refusal::Io(e)) if e.raw_os_error() == Some(libc::ENOENT)));
    assert!(is_safe(Path::new("/dev/stdout")), "our own descriptor");
}

#[test]
fn a_thread_takes_another_users_rights_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let account = Account {
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![NOBODY],
    };
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let file = dir.path().join("file");
    let made = account.run(|| fs::write(&file, ""));
    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    fs::write(&file, "").unwrap();
    let us = Account::of_process(rcluster_core::supervisor::Pid(
        std::process::id().cast_signed(),
    ));
    assert_eq!(us.unwrap().uid, 0, "the others have kept theirs");
}
