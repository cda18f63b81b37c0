//! The commands that need no master.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::{completions, doctor, man_page, man_pages, unit};
use crate::{
    cli::{Command, ConfigArgs, DoctorArgs, ManArgs, UnitArgs},
    config::Config,
    settings::{self, Line, Loaded},
};
use rcluster_core::exit_code::ExitCode;
use rcluster_sys::{files, identity::Identity};

/// Carries such a command out; `None` for one that needs a master.
pub fn run(command: &Command, loaded: &Loaded, line: &Line) -> Option<ExitCode> {
    let result = if let Command::Config(args) = command {
        if args.schema {
            say(&format!("{:#}\n", settings::schema()))
        } else {
            in_force(args, loaded, line).and_then(|()| say(&settings::show(loaded, args.json)))
        }
    } else if let Command::Import(args) = command {
        settings::import(args)
            .map(|lost| {
                for line in lost {
                    crate::say::error(line);
                }
            })
            .map_err(|error| error.to_string())
    } else if let Command::SystemdUnit(args) = command {
        write_unit(args, loaded, line)
    } else if let Command::Doctor(args) = command {
        return Some(examine(args, line));
    } else if let Command::Completions(args) = command {
        let mut text = vec![];
        completions(args.shell, &mut text);
        say(&String::from_utf8_lossy(&text))
    } else if let Command::Man(args) = command {
        man(args)
    } else {
        return None;
    };
    Some(match result {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            crate::say::error(error);
            ExitCode::Usage
        }
    })
}

/// What a start refuses is in force nowhere.
fn in_force(args: &ConfigArgs, loaded: &Loaded, line: &Line) -> Result<(), String> {
    let mut run = args.run.clone();
    if run.target.is_empty() {
        // The options can be asked for without a script.
        run.target = vec!["app.js".into()];
    }
    Config::new(&run, &line.pwd)
        .map(|_| ())
        .map_err(|error| loaded.located(&error))
}

/// To stdout; a reader that goes away is no error of ours.
fn say(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("failed to write to stdout: {error}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_unit(args: &UnitArgs, loaded: &Loaded, line: &Line) -> Result<(), String> {
    let mut run = args.run.clone();
    // The unit's user is not the one who writes the unit.
    run.host.user = None;
    run.host.group = None;
    let config = Config::new(&run, &line.pwd).map_err(|error| loaded.located(&error))?;
    let text = unit(args, &config, loaded, line).map_err(|error| error.to_string())?;
    for missing in missing(&config) {
        crate::say::error(format_args!("warning: {missing}"));
    }
    say(&text)
}

/// Files that the unit names and this host lacks. They may come later, or be on another host.
fn missing(config: &Config) -> Vec<String> {
    let launch = &config.launch;
    let named = [
        ("script", Some(&launch.script)),
        ("env file", launch.env_file.as_ref()),
        (
            "node binary",
            launch.node.as_ref().filter(|path| path.is_absolute()),
        ),
    ];
    let lacks = |(what, path): (&str, Option<&PathBuf>)| {
        let path = path?.clone();
        let looked = files::within(files::PATIENCE, {
            let path = path.clone();
            move || std::fs::metadata(path)
        });
        let why = looked.flatten().err()?;
        Some(format!(
            "the unit names the {what} {}, which cannot be used here: {why}",
            path.display()
        ))
    };
    named.into_iter().filter_map(lacks).collect()
}

fn examine(args: &DoctorArgs, line: &Line) -> ExitCode {
    let config = Config::new(&args.run, &line.pwd).ok();
    let launch = config.as_ref().map(|config| &config.launch);
    // Also without a script.
    let host = &args.run.host;
    let identity = Identity::find(host.user.as_deref(), host.group.as_deref());
    let identity = identity.ok().flatten();
    let findings = doctor::examine(args.run.node.as_deref(), launch, identity.as_ref());
    let text = if args.json {
        serde_json::to_string_pretty(&findings).unwrap_or_default() + "\n"
    } else {
        doctor::render(&findings)
    };
    let bad = findings
        .iter()
        .any(|finding| finding.grade == doctor::Grade::Bad);
    match say(&text) {
        Ok(()) if !bad => ExitCode::Ok,
        Ok(()) | Err(_) => ExitCode::Usage,
    }
}

fn man(args: &ManArgs) -> Result<(), String> {
    match &args.dir {
        None => {
            let mut text = vec![];
            man_page(&mut text).map_err(|error| error.to_string())?;
            say(&String::from_utf8_lossy(&text))
        }
        Some(folder) => man_pages(folder)
            .map(|count| crate::say::error(format_args!("{count} pages in {}", folder.display())))
            .map_err(|error| {
                format!(
                    "failed to write man pages into {}: {error}",
                    folder.display()
                )
            }),
    }
}
