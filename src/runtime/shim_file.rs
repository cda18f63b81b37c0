//! The shim as files that node can `--require`: the binary carries their text.

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::sys::identity::Identity;

/// The first is the one that node is told; it requires the others.
const FILES: [(&str, &str); 4] = [
    ("shim.cjs", include_str!("../../node-shim/shim.cjs")),
    ("hooks.cjs", include_str!("../../node-shim/hooks.cjs")),
    ("beat.cjs", include_str!("../../node-shim/beat.cjs")),
    ("drain.cjs", include_str!("../../node-shim/drain.cjs")),
];

/// The folder with the shim's files, removed with this value.
#[derive(Debug)]
pub(super) struct ShimFile {
    folder: PathBuf,
    main: PathBuf,
}

impl ShimFile {
    /// Writes the shim beside the control socket, or, where workers cannot go
    /// there, into a folder that is theirs to read.
    pub(super) fn beside(control: &Path, identity: Option<&Identity>) -> io::Result<Self> {
        let beside = control.parent().unwrap_or(Path::new("/"));
        let folder = match identity {
            Some(identity) if !identity.reaches(beside) => open_folder()?.join(own_name(control)),
            Some(_) | None => control.with_extension("shim"),
        };
        let shim = Self {
            main: folder.join(FILES[0].0),
            folder,
        };
        shim.write()?;
        Ok(shim)
    }

    fn write(&self) -> io::Result<()> {
        // What a master that was killed left behind may be of another version.
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::DirBuilder::new().mode(0o755).create(&self.folder)?;
        // The mode that was asked for, whatever the umask: other users read it.
        fs::set_permissions(&self.folder, Permissions::from_mode(0o755))?;
        for (name, text) in FILES {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o444)
                .open(self.folder.join(name))?;
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// The file to `--require`, after making sure that nobody has cleaned the folder away.
    pub(super) fn path(&self) -> io::Result<&Path> {
        if !FILES
            .iter()
            .all(|(name, _)| self.folder.join(name).is_file())
        {
            self.write()?;
        }
        Ok(&self.main)
    }
}

/// A folder of ours that all can read and none can write: in `/run`, else in the temporary folder.
fn open_folder() -> io::Result<PathBuf> {
    let run = Path::new("/run");
    let folder = if run.is_dir() {
        run.join("rcluster-shim")
    } else {
        std::env::temp_dir().join("rcluster-shim")
    };
    match fs::DirBuilder::new().mode(0o755).create(&folder) {
        Ok(()) => fs::set_permissions(&folder, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let meta = fs::symlink_metadata(&folder)?;
    let ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw();
    if ours && meta.mode() & 0o022 == 0 {
        return Ok(folder);
    }
    let why = format!("{} is not ours alone to write to", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
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
        let _ = fs::remove_dir_all(&self.folder);
        if self.folder.extension().is_none_or(|e| e != "shim")
            && let Some(parent) = self.folder.parent()
        {
            // Fails where another master's is still in it.
            let _ = fs::remove_dir(parent);
        }
    }
}
