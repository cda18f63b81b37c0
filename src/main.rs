//! The `rcluster` command: parse, set up the log, dispatch, exit code.

use std::{process, time::Duration};

use rcluster::{
    cli::{Command, FormatArg, RunArgs, one_line as clap_line},
    commands,
    config::{self, Config},
    host,
    logs::{self, OwnLog},
    rehearse,
    runtime::{BootError, Verdict, boot, check, turn_watchdog, upgrade},
    say,
    settings::{Line, LineError, Loaded},
    top,
};
use rcluster_core::{exit_code::ExitCode, thrown};
use tracing::level_filters::LevelFilter;

fn main() -> process::ExitCode {
    // Before anything else: until the handlers are in place, no signal may
    // have its default action.
    rcluster_sys::process::block_signals();
    rcluster_sys::startup::reset_signals();
    match upgrade::resumption() {
        None => {}
        Some(Ok(resumption)) => {
            rcluster_sys::startup::reset_limits();
            log(resumption.log());
            let result = runtime().map(|runtime| {
                if let Err(error) = keep_a_thread(&runtime) {
                    // Work that blocks fails until there is one; all else goes on.
                    tracing::warn!(event = "no_thread", %error, "failed to start a thread");
                }
                runtime.block_on(async { end(Box::pin(boot::resume(resumption)).await) })
            });
            OwnLog::drain();
            return finish(result.map_err(Into::into));
        }
        Some(Err(error)) => {
            say::error(error);
            return ExitCode::Internal.into();
        }
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == upgrade::ASK)
    {
        return upgrade::answer().into();
    }
    let line = Line {
        words: std::env::args_os().collect(),
        // A deleted one matters only to those who need it.
        pwd: config::logical_pwd().unwrap_or_default(),
    };
    let loaded = match line.load() {
        Ok(loaded) => loaded,
        Err(LineError::Clap(error)) => return usage(&error),
        Err(LineError::File(error)) => {
            say::error(error);
            return ExitCode::Usage.into();
        }
    };
    match &loaded.cli.command {
        Some(Command::Guard { path, grace_ms }) => {
            rcluster_sys::guard::run(path, Duration::from_millis(*grace_ms));
            ExitCode::Ok.into()
        }
        // Its signals stay blocked until it can put away what it started.
        Some(Command::Rehearse(args)) => {
            finish(on_runtime(async { Ok(rehearse::run(args).await) }))
        }
        Some(Command::Check(args)) => finish(run(&args.run, &loaded, line, Mode::Check)),
        Some(command) => {
            // A command has nothing to put in order before it ends.
            rcluster_sys::process::unblock_signals();
            match host::run(command, &loaded, &line) {
                Some(code) => code.into(),
                None => finish(on_runtime(dispatch(command))),
            }
        }
        None => finish(run(&loaded.cli.run, &loaded, line, Mode::Serve)),
    }
}

/// Help and version as clap prints them; an error as one line.
fn usage(error: &clap::Error) -> process::ExitCode {
    if error.exit_code() == 0 {
        error.exit();
    }
    say::error(format_args!("{} (see rcluster --help)", clap_line(error)));
    ExitCode::Usage.into()
}

fn finish(result: anyhow::Result<ExitCode>) -> process::ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            complain(&format!("{error:#}"));
            OwnLog::drain();
            ExitCode::Internal.into()
        }
    }
}

fn on_runtime(future: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(future)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    turn_watchdog::watch(&mut builder);
    // Threads of the pool stay: see `keep_a_thread`.
    builder
        .thread_keep_alive(Duration::MAX)
        .max_blocking_threads(16);
    builder.enable_all().build()
}

/// Starts the first thread of the pool for blocking work. In a pool without threads `spawn_blocking` panics when none can be
/// started, as in a full pids cgroup; in any other the work waits.
///
/// # Errors
/// The errno of `clone(2)`.
fn keep_a_thread(runtime: &tokio::runtime::Runtime) -> std::io::Result<()> {
    // The standard library gives an error where tokio panics.
    rcluster_sys::limits::can_start_thread()?;
    drop(runtime.spawn_blocking(|| ()));
    Ok(())
}

async fn dispatch(command: &Command) -> anyhow::Result<ExitCode> {
    Ok(match command {
        Command::Status(args) => commands::status(args).await,
        Command::Stop(args) => commands::stop(args).await,
        Command::Reload(args) => commands::reload(args, false).await,
        Command::Rollback(args) => commands::reload(args, true).await,
        Command::Incidents(args) => commands::incidents(args).await,
        Command::Logs(args) => commands::logs(args).await,
        Command::Top(args) => top::top(args).await?,
        Command::Events(args) => commands::events(args).await,
        Command::Ls(args) => commands::ls(args).await,
        Command::Scale(args) => commands::scale(args).await,
        Command::Restart(args) => commands::restart(args).await,
        Command::Upgrade(args) => commands::upgrade(args).await,
        Command::Check(_)
        | Command::Rehearse(_)
        | Command::Config(_)
        | Command::Import(_)
        | Command::SystemdUnit(_)
        | Command::Doctor(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Guard { .. } => ExitCode::Internal,
    })
}

/// What the options of a master are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serve,
    Check,
}

fn run(args: &RunArgs, loaded: &Loaded, line: Line, mode: Mode) -> anyhow::Result<ExitCode> {
    OwnLog::speak_json(args.logs.log_format == FormatArg::Json);
    let usage = |error: &dyn std::fmt::Display| {
        complain(&error.to_string());
        OwnLog::drain();
        Ok(ExitCode::Usage)
    };
    if let Err(error) = config::logical_pwd() {
        return usage(&format_args!(
            "failed to find the working directory: {error}"
        ));
    }
    let mut config = match Config::new(args, &line.pwd) {
        Ok(config) => config,
        Err(error) => return usage(&loaded.located(&error)),
    };
    rcluster_sys::startup::reset_limits();
    rcluster_sys::terminal::append_to_files();
    log(config.log);
    if config.identity.as_ref().is_some_and(|who| who.uid == 0) {
        tracing::warn!(
            event = "workers_are_root",
            "--user or --group leaves the workers root: none of the master's defences against them applies"
        );
    }
    config.line = line;
    let runtime = runtime()?;
    if let Err(error) = keep_a_thread(&runtime) {
        complain(&format!("failed to start a thread: {error}"));
        OwnLog::drain();
        return Ok(ExitCode::Internal);
    }
    let result = runtime.block_on(async {
        let verdict = match mode {
            Mode::Serve => boot::run(config).await,
            Mode::Check => check::check(config).await,
        };
        Ok(end(verdict))
    });
    // A read of `/proc` may not end: its thread is not awaited.
    runtime.shutdown_background();
    OwnLog::drain();
    result
}

/// The last line of a master, by the way of its log: whoever blocks that does not keep it from ending.
fn complain(what: &str) {
    OwnLog::say(what);
}

/// Says how it ended.
fn end(verdict: Result<Verdict, BootError>) -> ExitCode {
    match verdict {
        Ok(Verdict {
            code,
            reason,
            alike,
        }) => {
            match reason {
                // Nobody may be reading any more.
                Some(reason) if code == ExitCode::Ok => {
                    say::out(&rcluster_core::escape::block(&reason));
                }
                Some(reason) => match alike {
                    Some((of, all)) => complain(&format!(
                        "{} ({of} of {all} workers)",
                        thrown::one_line(&reason)
                    )),
                    None => complain(&thrown::one_line(&reason)),
                },
                None => {}
            }
            code
        }
        Err(error) => {
            complain(&error.to_string());
            error.code()
        }
    }
}

fn log((level, format): (logs::Level, logs::Format)) {
    let level = match level {
        logs::Level::Off => LevelFilter::OFF,
        logs::Level::Error => LevelFilter::ERROR,
        logs::Level::Warn => LevelFilter::WARN,
        logs::Level::Info => LevelFilter::INFO,
        logs::Level::Debug => LevelFilter::DEBUG,
        logs::Level::Trace => LevelFilter::TRACE,
    };
    OwnLog::install(level, format == logs::Format::Json);
}
