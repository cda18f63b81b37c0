//! The command line, the environment and the file, put together.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, FromArgMatches, parser::ValueSource};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    file::{Entry, File, FileError, is_trusted},
    known,
};
use crate::{
    cli::{Cli, Command, command},
    config::{ConfigError, absolute},
};
use rcluster_sys::files;

/// What was typed, and where. Kept, so that a reload can read the file anew.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    /// The words, that of the program first.
    pub words: Vec<OsString>,
    /// The working directory, symbolic links kept.
    pub pwd: PathBuf,
}

/// A line that cannot be used.
#[derive(Debug, Error)]
pub enum LineError {
    /// clap's word: an error, or the help that was asked for.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This variable.
    Variable(String),
    /// This line of the file, from 1.
    File(usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "command line"),
            Self::Variable(name) => write!(f, "{name}"),
            Self::File(line) => write!(f, "{}:{line}", known::FILE),
            Self::Default => write!(f, "default"),
        }
    }
}

/// One option as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name: that of the flag.
    pub key: String,
    /// Its values; none for an option that is not set.
    pub values: Vec<OsString>,
    /// Where they came from.
    pub origin: Origin,
}

/// Everything that a line says.
#[derive(Debug)]
pub struct Loaded {
    /// The command line with the file's values in it.
    pub cli: Cli,
    /// The file, if there is one.
    pub file: Option<File>,
    /// The master's options, if the line has any.
    pub settings: Vec<Setting>,
}

impl Loaded {
    /// What is wrong with the configuration, and where it stands: the file and its line, or the variable.
    pub fn located(&self, error: &ConfigError) -> String {
        let setting = error
            .option()
            .and_then(|key| self.settings.iter().find(|setting| setting.key == key));
        match (setting.map(|setting| &setting.origin), &self.file) {
            (Some(Origin::File(line)), Some(file)) => {
                format!(
                    "failed to read {}, line {line}: {error}",
                    file.path.display()
                )
            }
            (Some(Origin::Variable(name)), _) => format!("{name}: {error}"),
            _ => error.to_string(),
        }
    }
}

impl Line {
    /// Parses the line, finds and reads the file, and puts both together. Waits [`files::PATIENCE`] for the file at most.
    ///
    /// # Errors
    /// A [`LineError`] for the first thing that is wrong.
    pub fn load(&self) -> Result<Loaded, LineError> {
        self.load_by(Place::read_in_time)
    }

    /// The same without a limit of time, for a thread that may wait. `reading` is told the file before it is read.
    ///
    /// # Errors
    /// A [`LineError`] for the first thing that is wrong.
    pub fn load_patiently(&self, reading: impl FnOnce(&Path)) -> Result<Loaded, LineError> {
        self.load_by(|place| {
            reading(&place.path);
            place.read()
        })
    }

    fn load_by(
        &self,
        read: impl FnOnce(Place) -> Result<Option<File>, FileError>,
    ) -> Result<Loaded, LineError> {
        let command = command(self.words.iter().map(OsString::as_os_str));
        let first = command.clone().try_get_matches_from(&self.words)?;
        let sub = first.subcommand_name().map(str::to_owned);
        let given = first.subcommand().map_or(&first, |(_, given)| given);
        // Commands to a running master have no use for the file.
        // The definition says which those are: without debug assertions clap's matches know every name.
        let runs = match &sub {
            Some(name) => command.find_subcommand(name),
            None => Some(&command),
        };
        if !runs.is_some_and(|c| c.get_arguments().any(|arg| arg.get_id() == "target")) {
            return Ok(Loaded {
                cli: Cli::from_arg_matches(&first)?,
                file: None,
                settings: vec![],
            });
        }
        let file = self.find(given).map_or(Ok(None), read)?;
        let entries = file.as_ref().map_or(vec![], |file| effective(file, given));
        let with_file = |command: clap::Command| {
            entries.iter().fold(command, |command, entry| {
                command.mut_arg(&entry.id, |arg| {
                    arg.default_values(entry.values.iter().map(clap::builder::OsStr::from))
                })
            })
        };
        let command = match &sub {
            Some(name) => command.mut_subcommand(name, with_file),
            None => with_file(command),
        };
        let matches = command.try_get_matches_from(&self.words)?;
        let given = matches.subcommand().map_or(&matches, |(_, given)| given);
        let mut settings: Vec<Setting> = known::options()
            .iter()
            .map(|arg| setting(arg, given, &entries))
            .collect();
        let other_user = settings
            .iter()
            .any(|s| s.key == "user" && !s.values.is_empty());
        // What the doctor finds it runs at once.
        let strict = match sub.as_deref() {
            _ if other_user => Some("together with --user"),
            Some("doctor") if nix::unistd::geteuid().is_root() => Some("by root"),
            Some(_) | None => None,
        };
        if let (Some(file), Some(by)) = (&file, strict) {
            is_trusted(&file.path, by)?;
        }
        let mut cli = Cli::from_arg_matches(&matches)?;
        let run = match &mut cli.command {
            None => Some(&mut cli.run),
            Some(command) => command.run_args(),
        };
        if let Some(run) = run {
            if let Some(file) = &file {
                run.host.env.clone_from(&file.env);
            }
            let both = run.health.autopsy && run.health.no_autopsy;
            if both {
                // The last one on the command line; both flags have an index only there.
                let at = |id| {
                    let flag = given.value_source(id) == Some(ValueSource::CommandLine);
                    given.index_of(id).filter(|_| flag)
                };
                let yes = at("autopsy") > at("no_autopsy");
                let yes = yes || counts_more(&settings, "autopsy", "no-autopsy");
                run.health.autopsy = yes;
                run.health.no_autopsy = !yes;
                for setting in &mut settings {
                    match setting.key.as_str() {
                        "autopsy" => setting.values = vec![yes.to_string().into()],
                        "no-autopsy" => setting.values = vec![(!yes).to_string().into()],
                        _ => {}
                    }
                }
            }
        }
        Ok(Loaded {
            cli,
            file,
            settings,
        })
    }

    /// The file: as named, or beside the script, or where we are.
    fn find(&self, given: &ArgMatches) -> Option<Place> {
        let one = |id: &str| given.get_raw(id).and_then(|mut values| values.next());
        if let Some(path) = one("config").filter(|path| !path.is_empty()) {
            let path = absolute(&self.pwd, Path::new(path));
            return Some(Place { path, named: true });
        }
        let cwd = one("cwd").map_or(self.pwd.clone(), |dir| absolute(&self.pwd, Path::new(dir)));
        let folder = match one("target") {
            Some(script) => absolute(&cwd, Path::new(script)).parent()?.to_owned(),
            None => cwd,
        };
        let path = folder.join(known::FILE);
        Some(Place { path, named: false })
    }
}

/// Where the file may be.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    /// By `--config`: then it must be there.
    named: bool,
}

impl Place {
    /// Reads the file, if there is one.
    fn read(self) -> Result<Option<File>, FileError> {
        // What cannot be seen is not there.
        if !self.named && fs::metadata(&self.path).is_err() {
            return Ok(None);
        }
        // Nobody named it: it may be anybody's who knew where root would be.
        if !self.named && nix::unistd::geteuid().is_root() {
            is_trusted(&self.path, "by root")?;
        }
        File::read(&self.path).map(Some)
    }

    fn read_in_time(self) -> Result<Option<File>, FileError> {
        let place = self.clone();
        let read = files::within(files::PATIENCE, || place.read());
        read.unwrap_or_else(|error| {
            Err(FileError::Read {
                path: self.path,
                error: error.into(),
            })
        })
    }
}

/// What of the file counts: not what a variable says that clap does not read
/// itself; and a script of the file runs in the file's folder.
fn effective(file: &File, given: &ArgMatches) -> Vec<Entry> {
    let mut entries = file.entries.clone();
    let options = known::options();
    entries.retain(|entry| {
        let arg = options.iter().find(|arg| arg.get_id() == entry.id.as_str());
        arg.is_none_or(|arg| arg.get_env().is_some() || by_hand(arg).is_none())
    });
    if given.value_source("target").is_none()
        && let Some(target) = &file.target
    {
        entries.push(target.clone());
        if !entries.iter().any(|entry| entry.id == "cwd") {
            let folder = file.path.parent().unwrap_or(Path::new("/"));
            entries.push(Entry {
                id: "cwd".to_owned(),
                values: vec![folder.into()],
                line: target.line,
            });
        }
    }
    entries
}

/// Whether an option was said at a place that counts more than that of another one.
fn counts_more(settings: &[Setting], one: &str, other: &str) -> bool {
    let rank = |key: &str| {
        let setting = settings.iter().find(|setting| setting.key == key);
        setting.map(|setting| match setting.origin {
            Origin::Flag => 3,
            Origin::Variable(_) => 2,
            Origin::File(_) => 1,
            Origin::Default => 0,
        })
    };
    rank(one) > rank(other)
}

/// The variable of an option that `config.rs` reads, if it is set.
fn by_hand(arg: &Arg) -> Option<(String, OsString)> {
    let name = known::variable(arg);
    if arg.get_env().is_some() {
        return None;
    }
    let value = std::env::var_os(&name).filter(|value| !value.is_empty())?;
    Some((name, value))
}

fn setting(arg: &Arg, given: &ArgMatches, entries: &[Entry]) -> Setting {
    let id = arg.get_id().as_str();
    let values = given.get_raw(id).into_iter().flatten();
    let mut values: Vec<_> = values.map(OsStr::to_owned).collect();
    let origin = match given.value_source(id) {
        Some(ValueSource::CommandLine) => Origin::Flag,
        Some(ValueSource::EnvVariable) => Origin::Variable(known::variable(arg)),
        _ => match (by_hand(arg), entries.iter().find(|entry| entry.id == id)) {
            (Some((name, value)), _) => {
                values = vec![value];
                Origin::Variable(name)
            }
            (None, Some(entry)) => Origin::File(entry.line),
            (None, None) => Origin::Default,
        },
    };
    if known::is_switch(arg) {
        values = vec![given.get_flag(id).to_string().into()];
    }
    Setting {
        key: known::key(arg).to_owned(),
        values,
        origin,
    }
}

impl Command {
    /// The master's options that a command carries.
    pub fn run_args(&mut self) -> Option<&mut crate::cli::RunArgs> {
        if let Self::Check(args) = self {
            return Some(&mut args.run);
        }
        if let Self::Rehearse(args) = self {
            return Some(&mut args.run);
        }
        if let Self::Config(args) = self {
            return Some(&mut args.run);
        }
        if let Self::SystemdUnit(args) = self {
            return Some(&mut args.run);
        }
        if let Self::Doctor(args) = self {
            return Some(&mut args.run);
        }
        None
    }
}
