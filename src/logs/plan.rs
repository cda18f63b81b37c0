//! What the options ask for.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::render::Stream;

/// What is to be done with what workers print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `--log-prefix`: each line says who printed it.
    pub prefix: bool,
    /// `--log-format json`: marked lines are JSON objects.
    pub json: bool,
    /// `--log-file`.
    pub file: Option<PathPlan>,
}

/// The path of `--log-file`, absolute, with its placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathPlan(PathBuf);

/// Why a path will not do.
#[derive(Debug, Error)]
pub enum PathError {
    /// Something else in braces.
    #[error("`{{{0}}}` is no part of it: {{slot}} and {{stream}} are")]
    Placeholder(String),
    /// It ends with a slash, or is empty.
    #[error("it names no file")]
    NoFile,
}

impl PathPlan {
    /// Checks the placeholders. `path` is absolute.
    ///
    /// # Errors
    /// A [`PathError`].
    pub fn new(path: PathBuf) -> Result<Self, PathError> {
        let text = path.to_string_lossy();
        if path.file_name().is_none() || text.ends_with('/') {
            return Err(PathError::NoFile);
        }
        let mut rest = &*text;
        while let Some((_, after)) = rest.split_once('{') {
            let (word, after) = after.split_once('}').unwrap_or((after, ""));
            if !matches!(word, "slot" | "stream") {
                return Err(PathError::Placeholder(word.to_owned()));
            }
            rest = after;
        }
        Ok(Self(path))
    }

    /// The file for one worker's stream.
    pub fn expand(&self, slot: u32, stream: Stream) -> PathBuf {
        let mut bytes = self.0.as_os_str().as_bytes().to_vec();
        for (word, value) in [
            ("{slot}", slot.to_string()),
            ("{stream}", stream.name().to_owned()),
        ] {
            while let Some(at) = memchr::memmem::find(&bytes, word.as_bytes()) {
                bytes.splice(at..at + word.len(), value.bytes());
            }
        }
        OsStr::from_bytes(&bytes).into()
    }

    /// The folder that holds all the files, whatever the placeholders say.
    pub fn folder(&self) -> &Path {
        let fixed = |path: &&Path| !path.as_os_str().as_bytes().contains(&b'{');
        let mut folders = self.0.ancestors().skip(1);
        folders.find(fixed).unwrap_or(Path::new("/"))
    }

    /// As it was given.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        let path = |text: &str| PathPlan::new(text.into()).map_err(|e| e.to_string());
        let plan = path("/l/{slot}/{stream}-{slot}.log").expect("a path");
        assert_eq!(
            plan.expand(3, Stream::Stderr),
            Path::new("/l/3/stderr-3.log")
        );
        assert_eq!(plan.folder(), Path::new("/l"));
        assert_eq!(
            path("/l/{pid}.log").expect_err("wrong"),
            "`{pid}` is no part of it: {slot} and {stream} are"
        );
        assert_eq!(path("/l/").expect_err("wrong"), "it names no file");
    }
}
