//! The shim as files that node can `--require`: the binary carries their text.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The first is the one that node is told; it requires the others.
const FILES: [(&str, &str); 3] = [
    ("shim.cjs", include_str!("../../node-shim/shim.cjs")),
    ("hooks.cjs", include_str!("../../node-shim/hooks.cjs")),
    ("drain.cjs", include_str!("../../node-shim/drain.cjs")),
];

/// The folder with the shim's files, removed with this value.
#[derive(Debug)]
pub(super) struct ShimFile {
    folder: PathBuf,
    main: PathBuf,
}

impl ShimFile {
    /// Writes the shim beside the control socket.
    pub(super) fn beside(control: &Path) -> io::Result<Self> {
        let folder = control.with_extension("shim");
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
        for (name, text) in FILES {
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o444)
                .open(self.folder.join(name))?
                .write_all(text.as_bytes())?;
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

impl Drop for ShimFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
