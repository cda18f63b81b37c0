//! Reading `rcluster.toml`: every key checked, every error with its line.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::{Arg, Command};
use thiserror::Error;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::known;
use crate::{cli::one_line, config::absolute};
use rcluster_sys::{
    files::{self, ReadError},
    safe_path::{self, Refusal},
};

/// How alike an unknown key and a known one must be to be suggested (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.8;

/// A file that cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("failed to read the configuration file {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: ReadError,
    },
    /// Something in it is wrong.
    #[error("failed to read {path}, line {line}: {why}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What, and what to do.
        why: String,
    },
    /// Another user could make the master do what they want.
    #[error(
        "{path} cannot be used {by}: {why}; chown it to root and chmod go-w, or keep it elsewhere and name it with --config"
    )]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// By whom it cannot be used.
        by: &'static str,
        /// Who could.
        why: String,
    },
}

/// One option that the file sets.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// clap's id of the option.
    pub(super) id: String,
    /// As they would stand on the command line.
    pub(super) values: Vec<OsString>,
    /// The line, from 1.
    pub(super) line: usize,
}

/// A file that was read and checked.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path, symbolic links as given.
    pub path: PathBuf,
    /// The table `[env]`.
    pub env: Vec<(OsString, OsString)>,
    pub(super) entries: Vec<Entry>,
    /// `script` and, after it, `args`.
    pub(super) target: Option<Entry>,
}

impl File {
    /// Reads and checks a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// A [`FileError`] for the first thing that is wrong.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = files::read_text(path, files::LONGEST).map_err(|error| FileError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file; `path` is for errors, and its folder for the paths in the file.
    ///
    /// # Errors
    /// [`FileError::Wrong`] for the first thing that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        Reader { path, text }.file()
    }
}

/// Whether nobody but root and we can change a file, or put another one in its place.
///
/// # Errors
/// [`FileError::Unsafe`], with who cannot use it.
pub(super) fn is_trusted(path: &Path, by: &'static str) -> Result<(), FileError> {
    let read = |error: io::Error| FileError::Read {
        path: path.to_owned(),
        error: error.into(),
    };
    let meta = fs::metadata(path).map_err(read)?;
    let why = if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        "it belongs to another user".to_owned()
    } else if meta.mode() & 0o022 != 0 {
        "others can write to it".to_owned()
    } else {
        match safe_path::check(path) {
            Ok(()) => return Ok(()),
            Err(Refusal::Io(error)) => return Err(read(error)),
            Err(refusal @ Refusal::Unsafe { .. }) => refusal.to_string(),
        }
    };
    let path = path.to_owned();
    Err(FileError::Unsafe { path, by, why })
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        before.matches('\n').count() + 1
    }

    fn wrong(&self, span: &Range<usize>, why: impl Into<String>) -> FileError {
        FileError::Wrong {
            path: self.path.to_owned(),
            line: self.line(span.start),
            why: why.into(),
        }
    }

    fn file(&self) -> Result<File, FileError> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.wrong(&span, error.message())
        })?;
        let options = known::options();
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut file = File {
            path: self.path.to_owned(),
            env: vec![],
            entries: vec![],
            target: None,
        };
        let mut args = None;
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            match name {
                "env" => file.env = self.env(value)?,
                "script" => {
                    file.target = Some(Entry {
                        id: "target".to_owned(),
                        values: vec![self.text_of("script", value)?.into()],
                        line: self.line(key.span().start),
                    });
                }
                "args" => args = Some((key.span(), self.list("args", value)?)),
                _ => {
                    let arg = options
                        .iter()
                        .find(|arg| known::key(arg) == name)
                        .ok_or_else(|| self.wrong(&key.span(), unknown(name, &options)))?;
                    let mut values = self.values(arg, value)?;
                    for text in &mut values {
                        *text = rebased(arg, text, folder);
                    }
                    file.entries.push(Entry {
                        id: arg.get_id().to_string(),
                        values,
                        line: self.line(key.span().start),
                    });
                }
            }
        }
        match (&mut file.target, args) {
            (Some(target), Some((_, args))) => target.values.extend(args),
            (None, Some((span, _))) => {
                return Err(self.wrong(&span, "`args` needs a `script` to go to"));
            }
            (_, None) => {}
        }
        Ok(file)
    }

    fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, FileError> {
        match value.get_ref().as_str() {
            Some(text) => self.without_nul(key, &value.span(), text),
            None => Err(self.wrong(&value.span(), format!("`{key}` must be a string"))),
        }
    }

    /// Words of a command line and variables end at a NUL byte (execve(2)).
    fn without_nul(&self, key: &str, span: &Range<usize>, text: &str) -> Result<String, FileError> {
        if text.contains('\0') {
            let why = format!(
                "`{key}` has a NUL character (\\u0000), which no argument and no variable can hold: remove it"
            );
            return Err(self.wrong(span, why));
        }
        Ok(text.to_owned())
    }

    fn list(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, FileError> {
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong(&value.span(), format!("`{key}` must be a list of strings")));
        };
        items
            .iter()
            .map(|item| self.scalar(key, item).map(OsString::from))
            .collect()
    }

    fn scalar(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, FileError> {
        match value.get_ref() {
            DeValue::String(text) => self.without_nul(key, &value.span(), text),
            DeValue::Integer(number) => Ok(number.as_str().replace('_', "")),
            DeValue::Float(number) => Ok(number.as_str().replace('_', "")),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(self.wrong(
                    &value.span(),
                    format!("`{key}` must be a string or a number"),
                ))
            }
        }
    }

    fn env(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<(OsString, OsString)>, FileError> {
        let DeValue::Table(table) = value.get_ref() else {
            let why = "`env` must be a table: [env], then KEY = \"value\" a line";
            return Err(self.wrong(&value.span(), why));
        };
        let variable = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(self.wrong(&key.span(), format!("`{name}` is no name of a variable")));
            }
            let text = match value.get_ref().as_bool() {
                Some(yes) => yes.to_string(),
                None => self.scalar(name, value)?,
            };
            Ok((name.as_ref().into(), text.into()))
        };
        table.iter().map(variable).collect()
    }

    /// The values as words of a command line; clap itself says whether they are right.
    fn values(&self, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, FileError> {
        let key = known::key(arg);
        if known::is_switch(arg) {
            return match value.get_ref().as_bool() {
                Some(yes) => Ok(vec![yes.to_string().into()]),
                None => Err(self.wrong(&value.span(), format!("`{key}` must be true or false"))),
            };
        }
        let many = value.get_ref().is_array();
        if many && !known::is_list(arg) {
            return Err(self.wrong(&value.span(), format!("`{key}` takes one value, no list")));
        }
        let values = if many {
            self.list(key, value)?
        } else {
            vec![self.scalar(key, value)?.into()]
        };
        let command = Command::new("rcluster")
            .no_binary_name(true)
            .disable_help_flag(true)
            .arg(arg.clone().env(None::<&str>));
        let words = values.iter().map(|value| {
            let mut word = OsString::from(format!("--{key}="));
            word.push(value);
            word
        });
        command
            .try_get_matches_from(words)
            .map_err(|error| self.wrong(&value.span(), one_line(&error)))?;
        Ok(values)
    }
}

/// A path in the file is relative to the file; `unix:PATH` too. A bare name of
/// a program is looked up in PATH, as everywhere.
fn rebased(arg: &Arg, text: &OsStr, folder: &Path) -> OsString {
    if let Some(path) = text.to_str().and_then(|text| text.strip_prefix("unix:")) {
        return if path.is_empty() || path.starts_with('@') {
            text.to_owned()
        } else {
            let mut word = OsString::from("unix:");
            word.push(absolute(folder, Path::new(path)));
            word
        };
    }
    let bare = Path::new(text).components().count() == 1;
    if !known::is_path(arg) || text.is_empty() || (bare && known::key(arg) == "node") {
        return text.to_owned();
    }
    absolute(folder, Path::new(text)).into()
}

fn unknown(name: &str, options: &[Arg]) -> String {
    let wanted = name.to_lowercase().replace('_', "-");
    let names = options.iter().map(known::key).chain(known::EXTRA);
    let best = names
        .map(|known| (strsim::jaro_winkler(known, &wanted), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best {
        Some((_, known)) => format!("unknown key `{name}`; did you mean `{known}`?"),
        None => format!("unknown key `{name}` (see rcluster --help: every option can stand here)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<File, String> {
        let path = Path::new("/srv/app/rcluster.toml");
        Reader { path, text }.file().map_err(|e| e.to_string())
    }

    #[test]
    fn values_as_on_a_command_line() {
        let file = read(
            "workers = 4\nready = \"message\"\ndrain-timeout = 1_0\nbind = [\":80\", \"unix:x.sock\", \"unix:@y\"]\n\
             node = \"node\"\nno-shim = true\nenv-file = \"../.env\"\nscript = \"a.js\"\nargs = [\"-v\", 1]\n\
             [env]\nA = \"x\"\nB = 1\nC = true\n",
        )
        .unwrap();
        let shown: Vec<_> = file
            .entries
            .iter()
            .map(|e| format!("{}:{} {:?}", e.line, e.id, e.values))
            .collect();
        assert!(
            shown.contains(&r#"1:workers ["4"]"#.to_owned()),
            "{shown:?}"
        );
        assert!(shown.contains(&r#"3:drain_timeout ["10"]"#.to_owned()));
        assert!(shown.contains(&r#"4:bind [":80", "unix:/srv/app/x.sock", "unix:@y"]"#.to_owned()));
        assert!(shown.contains(&r#"5:node ["node"]"#.to_owned()));
        assert!(shown.contains(&r#"6:no_shim ["true"]"#.to_owned()));
        assert!(shown.contains(&r#"7:env_file ["/srv/app/../.env"]"#.to_owned()));
        assert_eq!(file.target.unwrap().values, ["a.js", "-v", "1"]);
        assert_eq!(file.env.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            (
                "workers = 1\nworker = 4",
                "line 2: unknown key `worker`; did you mean `workers`?",
            ),
            (
                "drain_timeout = 1",
                "line 1: unknown key `drain_timeout`; did you mean `drain-timeout`?",
            ),
            (
                "[environment]\n",
                "line 1: unknown key `environment`; did you mean `env`?",
            ),
            ("zzz = 1", "line 1: unknown key `zzz` (see rcluster --help"),
            (
                "\n\nbake = \"soon\"",
                "line 3: invalid value 'soon' for '--bake <DUR>'",
            ),
            (
                "bind = 1\nworkers = [1]",
                "line 2: `workers` takes one value, no list",
            ),
            (
                "no-shim = \"yes\"",
                "line 1: `no-shim` must be true or false",
            ),
            ("args = [\"x\"]", "line 1: `args` needs a `script`"),
            (
                "script = \"a\"\nargs = [\"b\\u0000c\"]",
                "line 2: `args` has a NUL",
            ),
            ("script = \"a\\u0000\"", "line 1: `script` has a NUL"),
            ("[env]\nA = \"\\u0000\"", "line 2: `A` has a NUL"),
            (
                "script = \"a\"\nargs = [true]",
                "line 2: `args` must be a string or a number",
            ),
            ("env = 1", "line 1: `env` must be a table"),
            ("[env]\n\"A=B\" = 1", "line 2: `A=B` is no name"),
            ("workers = ", "line 1: "),
            ("workers = 1\nworkers = 2", "line 2: duplicate key"),
            ("config = \"x\"", "line 1: unknown key `config`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.contains("failed to read /srv/app/rcluster.toml, ") && error.contains(told),
                "{text:?}: {error}"
            );
        }
    }
}
