//! The shim as a file that node can `--require`: the binary carries its text.

#![expect(
    clippy::disallowed_methods,
    reason = "the files are the master's own, beside its control socket"
)]

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use rcluster_sys::identity::{Identity, is_root, others_reach};

const NAME: &str = "shim.cjs";
/// How often the folder that masters share is made again: others remove it when they end.
const REMADE: u32 = 3;

/// A module of the shim inside of the one file: its `require` finds the modules before it, then Node's own.
macro_rules! module {
    ($file:literal) => {
        concat!(
            "{ const module = { exports: {} }; ((module, require) => {",
            include_str!(concat!("../../node-shim/", $file)),
            "\n})(module, part); parts['./",
            $file,
            "'] = module.exports; }\n"
        )
    };
}

/// All modules, each after those that it requires. One file is read and compiled at once when a worker starts: nothing
/// is left to be read when the app runs, and it costs less than two files.
const TEXT: &str = concat!(
    "'use strict';\nconst parts = {};\nconst part = (name) => parts[name] || require(name);\n",
    module!("base.cjs"),
    module!("hooks.cjs"),
    module!("beat.cjs"),
    module!("queue.cjs"),
    module!("stack.cjs"),
    module!("h2.cjs"),
    module!("drain.cjs"),
    module!("shim.cjs"),
);

/// The folder with the shim's file, removed with this value.
#[derive(Debug)]
pub(super) struct ShimFile {
    folder: PathBuf,
    main: PathBuf,
    /// Where the first program of this master wrote its own.
    first: PathBuf,
    /// Those of other versions: a thread that one of their workers starts reads the file again.
    older: Vec<PathBuf>,
}

/// A [`ShimFile`] written out. It removes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ShimState {
    folder: PathBuf,
    first: PathBuf,
    older: Vec<PathBuf>,
}

impl ShimFile {
    /// Writes the shim beside the control socket, or, where workers cannot go
    /// there, into a folder that is theirs to read. An app that is root may stop
    /// being root, and a thread that it starts then reads the file as that user.
    pub(super) fn beside(control: &Path, identity: Option<&Identity>) -> io::Result<Self> {
        let beside = control.parent().unwrap_or(Path::new("/"));
        let own = || control.with_extension("shim");
        let open = || Ok(open_folder()?.join(own_name(control)));
        let folder = match identity {
            Some(identity) if identity.uid != 0 && identity.reaches(beside) => own(),
            Some(identity) if identity.uid != 0 => open()?,
            Some(_) | None if !is_root() || others_reach(beside) => own(),
            Some(_) | None => open().unwrap_or_else(|_: io::Error| own()),
        };
        let shim = Self {
            main: folder.join(NAME),
            first: folder.clone(),
            folder,
            older: vec![],
        };
        shim.write()?;
        Ok(shim)
    }

    /// Written out, for the next program of this process.
    pub(super) fn state(&self) -> ShimState {
        ShimState {
            folder: self.folder.clone(),
            first: self.first.clone(),
            older: self.older.clone(),
        }
    }

    /// Goes on with what the program before this one had: in its folder, if its
    /// shim was the same; else in one beside it, and the old ones stay.
    pub(super) fn resume(state: ShimState) -> io::Result<Self> {
        let ShimState {
            mut folder,
            first,
            mut older,
        } = state;
        let ours =
            |folder: &Path| fs::read(folder.join(NAME)).is_ok_and(|there| there == TEXT.as_bytes());
        if !ours(&folder) {
            older.push(folder);
            folder = match older.iter().position(|folder| ours(folder)) {
                Some(index) => older.remove(index),
                None => of_version(&first),
            };
            older.retain(|other| *other != folder);
        }
        let shim = Self {
            main: folder.join(NAME),
            folder,
            first,
            older,
        };
        if !ours(&shim.folder) {
            shim.write()?;
        }
        Ok(shim)
    }

    fn write(&self) -> io::Result<()> {
        // What a master that was killed left behind may be of another version.
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let create = || fs::DirBuilder::new().mode(0o755).create(&self.folder);
        let mut folder = create();
        for _ in 0..REMADE {
            let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
            if !folder.as_ref().is_err_and(gone) || self.folder.parent() != Some(&open_path()) {
                break;
            }
            // The last other master that ended has removed it.
            open_folder()?;
            folder = create();
        }
        folder?;
        // The mode that was asked for, whatever the umask: other users read it.
        fs::set_permissions(&self.folder, Permissions::from_mode(0o755))?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&self.main)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.write_all(TEXT.as_bytes())
    }

    /// The file to `--require`, after making sure that nobody has cleaned the folder away.
    pub(super) fn path(&self) -> io::Result<&Path> {
        if !self.main.is_file() {
            self.write()?;
        }
        Ok(&self.main)
    }
}

fn open_path() -> PathBuf {
    let run = Path::new("/run");
    if run.is_dir() {
        run.join("rcluster-shim")
    } else {
        std::env::temp_dir().join("rcluster-shim")
    }
}

/// The shim's folders of all masters in [`open_folder`], each with its master's control path. Nobody but us makes any there.
pub(super) fn in_open_folder() -> Vec<(PathBuf, PathBuf)> {
    let folder = open_path();
    if !is_ours(&folder).unwrap_or(false) {
        return vec![];
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let control = |name: std::ffi::OsString| Some(format!("/{}", name.to_str()?.replace('!', "/")));
    entries
        .filter_map(|entry| Some((entry.path(), control(entry.file_name())?.into())))
        .collect()
}

/// Whether a file is one of a shim's folders beside the control socket whose file has this stem.
pub(super) fn is_of(name: &str, stem: &str) -> bool {
    let rest = name
        .strip_prefix(stem)
        .and_then(|rest| rest.strip_suffix(".shim"));
    // With the number of a version, or without.
    rest.is_some_and(|rest| match rest.strip_prefix('.') {
        Some(hash) => hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
        None => rest.is_empty(),
    })
}

/// Removes a folder of a shim, and nothing that is not a shim's. Whether there is none any more.
pub(super) fn remove(folder: &Path) -> bool {
    let ours = fs::symlink_metadata(folder)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw());
    if !ours {
        return false;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for file in entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "cjs")) {
        let _ = fs::remove_file(file.path());
    }
    fs::remove_dir(folder).is_ok()
}

/// Whether only we can write to a folder.
fn is_ours(folder: &Path) -> io::Result<bool> {
    let meta = fs::symlink_metadata(folder)?;
    let ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw();
    Ok(ours && meta.mode() & 0o022 == 0)
}

/// A folder of ours that all can read and none can write: in `/run`, else in the temporary folder.
fn open_folder() -> io::Result<PathBuf> {
    let folder = open_path();
    match fs::DirBuilder::new().mode(0o755).create(&folder) {
        Ok(()) => fs::set_permissions(&folder, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if is_ours(&folder)? {
        return Ok(folder);
    }
    let why = format!("{} is not ours alone to write to", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// A folder for this version's files beside the first one.
fn of_version(first: &Path) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    TEXT.hash(&mut hasher);
    let stem = first.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}.{:08x}.shim", hasher.finish() as u32);
    first.with_file_name(name)
}

/// One for each control path, the same after a restart.
fn own_name(control: &Path) -> String {
    control
        .to_string_lossy()
        .trim_start_matches('/')
        .replace('/', "!")
}

impl Drop for ShimFile {
    fn drop(&mut self) {
        for folder in self.older.iter().chain([&self.folder]) {
            let _ = fs::remove_dir_all(folder);
        }
        if self.first.extension().is_none_or(|e| e != "shim")
            && let Some(parent) = self.first.parent()
        {
            // Fails where another master's is still in it.
            let _ = fs::remove_dir(parent);
        }
    }
}
