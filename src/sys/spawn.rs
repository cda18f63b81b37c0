//! Starting a worker's process.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::{CStr, CString, NulError, OsStr, OsString, c_char},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::{
        resource::{Resource, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        stat::stat,
    },
    unistd::{ForkResult, pipe2},
};

use super::{
    identity::Identity,
    oom_score,
    startup::{self, Inherited},
};
use rcluster_core::supervisor::Pid;

/// The descriptor on which a worker finds its channel.
pub const CHANNEL_FD: RawFd = 3;

/// What to start.
#[derive(Debug)]
pub struct Spawn {
    /// The program.
    pub program: PathBuf,
    /// Its zeroth argument; else its path.
    pub name: Option<OsString>,
    /// Its arguments before the script, without the zeroth.
    pub args: Vec<OsString>,
    /// The script and the arguments after it.
    pub script: Option<(Either, Vec<OsString>)>,
    /// Its working directory; with a script the variable `PWD` says it, too.
    pub cwd: Either,
    /// It is entered with our rights, not with those of [`Spawn::identity`]: nobody can redirect its path.
    pub safe_cwd: bool,
    /// Variables to set.
    pub set: Vec<(OsString, OsString)>,
    /// Variables to remove.
    pub remove: Vec<OsString>,
    /// Who it is to be; else who we are.
    pub identity: Option<Identity>,
    /// What it reads; else nothing.
    pub stdin: Option<OwnedFd>,
    /// Where it prints; else where we do.
    pub output: Option<Output>,
    /// Its channel to us, on [`CHANNEL_FD`], if it has one.
    pub channel: Option<OwnedFd>,
    /// Its largest core file in bytes; else as our parent had it.
    pub core: Option<u64>,
    /// When memory runs out the kernel is to end it before us: its `oom_score_adj` is [`oom_score::ABOVE`] above ours.
    pub expendable: bool,
}

/// A path as it was given, and what it led to at an earlier time. The child uses the latter if the given one leads
/// somewhere else by now, or nowhere. It asks the kernel itself: that may wait for a file system that does not answer.
#[derive(Clone, Debug)]
pub struct Either {
    /// As it was given.
    pub given: PathBuf,
    /// Without symbolic links.
    pub real: PathBuf,
}

impl From<&str> for Either {
    fn from(path: &str) -> Self {
        let path = PathBuf::from(path);
        Self {
            given: path.clone(),
            real: path,
        }
    }
}

/// Where a process prints.
#[derive(Debug)]
pub struct Output {
    /// Its stdout.
    pub stdout: OwnedFd,
    /// Its stderr.
    pub stderr: OwnedFd,
}

/// Occupies [`CHANNEL_FD`] in this process, so that no other descriptor can
/// have that number when a child's channel is put there.
///
/// # Errors
/// The errno of `open(2)`.
pub fn reserve_channel_fd() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    if null.as_raw_fd() == CHANNEL_FD {
        // Kept open for the life of the process, on purpose.
        let _ = OwnedFd::from(null).into_raw_fd();
    }
    Ok(())
}

/// A process that was started and has, perhaps, not yet run its program.
#[derive(Debug)]
pub struct Started {
    /// Its number.
    pub pid: Pid,
    /// Reports a failed `execve(2)`.
    pub exec: ExecReport,
}

/// The child's end of it closes with `execve(2)`; before that the child writes what failed.
#[derive(Debug)]
pub struct ExecReport(OwnedFd);

/// What a child does between `fork(2)` and `execve(2)`, and can fail at.
const STEPS: [&str; 6] = [
    "set up its descriptors",
    "make a session",
    "change to its working directory",
    "become its user",
    "run its program",
    "set its limits",
];

impl ExecReport {
    /// Why the program was never run, if it was not. Does not wait: call it once the process has ended.
    pub fn failure(&self) -> Option<String> {
        let mut report = [0; 5];
        // Non-blocking; a report this short is written at once or not at all.
        let read = nix::unistd::read(&self.0, &mut report).ok()?;
        let (step, errno) = report.split_first().filter(|_| read == report.len())?;
        let errno = i32::from_ne_bytes(errno.try_into().ok()?);
        let step = STEPS.get(usize::from(*step))?;
        let error = io::Error::from_raw_os_error(errno);
        Some(format!("failed to {step}: {error}"))
    }
}

/// Starts a process in a session of its own, which has no terminal and is one process group, with the descriptors that
/// [`Spawn`] names and no other. Umask and limits are those of our parent.
///
/// Does not wait for `execve(2)`: the program may be on a file system that does not answer. What
/// goes wrong there ends the child with exit code 127; then [`ExecReport::failure`] has the reason.
///
/// # Errors
/// The errno of `pipe(2)`, `open(2)` or `fork(2)`; `EINVAL` for a NUL in a path, an argument or a variable.
pub fn spawn(what: &Spawn) -> io::Result<Started> {
    let program = Program::new(what)?;
    let null = File::open("/dev/null")?;
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let child = Child {
        program: &program,
        identity: what.identity.as_ref(),
        inherited: startup::inherited(),
        core: what.core,
        stdio: [
            Some(what.stdin.as_ref().map_or(null.as_fd(), AsFd::as_fd)),
            what.output.as_ref().map(|o| o.stdout.as_fd()),
            what.output.as_ref().map(|o| o.stderr.as_fd()),
        ],
        channel: what.channel.as_ref().map(AsFd::as_fd),
        safe_cwd: what.safe_cwd,
        oom_score: what.expendable.then(oom_score::of_children).flatten(),
        report: theirs.as_fd(),
    };
    // A signal that comes before execve(2) must not run a handler of ours in the child, which would swallow it.
    let mut mask = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut mask),
    )?;
    // SAFETY: the child calls only async-signal-safe functions until execve(2) or _exit(2): `Child::run` touches
    // nothing but memory that was prepared here.
    #[expect(unsafe_code)]
    let forked = unsafe { nix::unistd::fork() };
    if !matches!(forked, Ok(ForkResult::Child)) {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
    }
    match forked? {
        ForkResult::Child => child.run(),
        ForkResult::Parent { child } => Ok(Started {
            pid: Pid(child.as_raw()),
            exec: ExecReport(ours),
        }),
    }
}

/// Everything that `execve(2)` needs, made before the fork: memory cannot be allocated after it. Of each pair the first
/// is for the path as given, the second for the real one.
struct Program {
    path: CString,
    cwd: [CString; 2],
    script: Option<[CString; 2]>,
    args: [Strings; 2],
    env: [Strings; 2],
    /// The same as a shell script, as `execvp(3)` runs a program without `#!`.
    as_script: [Strings; 2],
}

/// Strings, and the array of pointers to them that ends with null.
struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

impl Program {
    fn new(what: &Spawn) -> io::Result<Self> {
        let string = |text: &OsStr| CString::new(text.as_bytes());
        let path = string(what.program.as_os_str())?;
        let name = what.name.as_deref().map_or(Ok(path.clone()), string)?;
        let mut variables: BTreeMap<_, _> = std::env::vars_os().collect();
        for name in &what.remove {
            variables.remove(name);
        }
        variables.extend(what.set.iter().cloned());
        let env = |cwd: &Path| {
            let mut variables = variables.clone();
            if what.script.is_some() {
                variables.insert("PWD".into(), cwd.into());
            }
            let pairs = variables.into_iter().map(|(name, value)| {
                CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
            });
            pairs.collect::<Result<_, _>>().map(Strings::new)
        };
        let args = |zeroth: &[&CString], script: Option<&Path>| {
            let zeroth = zeroth.iter().map(|text| Ok((*text).clone()));
            let after = what.script.iter().flat_map(|(_, after)| after);
            let rest = (what.args.iter().map(OsString::as_os_str))
                .chain(script.map(Path::as_os_str))
                .chain(after.map(OsString::as_os_str))
                .map(string);
            zeroth
                .chain(rest)
                .collect::<Result<_, _>>()
                .map(Strings::new)
        };
        let script = what.script.as_ref().map(|(script, _)| script);
        let (given, real) = (
            script.map(|s| s.given.as_path()),
            script.map(|s| s.real.as_path()),
        );
        let shell = SHELL.to_owned();
        Ok(Self {
            cwd: [
                string(what.cwd.given.as_os_str())?,
                string(what.cwd.real.as_os_str())?,
            ],
            script: (script.map(|s| {
                Ok::<_, NulError>([string(s.given.as_os_str())?, string(s.real.as_os_str())?])
            }))
            .transpose()?,
            args: [args(&[&name], given)?, args(&[&name], real)?],
            as_script: [
                args(&[&shell, &path], given)?,
                args(&[&shell, &path], real)?,
            ],
            env: [env(&what.cwd.given)?, env(&what.cwd.real)?],
            path,
        })
    }
}

/// Which of the two to use: the second where the first leads elsewhere or nowhere. Async-signal-safe.
fn choose(paths: &[CString; 2]) -> usize {
    let inode = |path: &CString| stat(path.as_c_str()).map(|s| (s.st_dev, s.st_ino)).ok();
    let [given, real] = paths.each_ref().map(inode);
    usize::from(real.is_some() && given != real)
}

const SHELL: &CStr = c"/bin/sh";

/// The life of a child until it is somebody else. Everything here is async-signal-safe.
struct Child<'a> {
    program: &'a Program,
    identity: Option<&'a Identity>,
    inherited: Option<Inherited>,
    core: Option<u64>,
    /// `None`: as ours.
    stdio: [Option<BorrowedFd<'a>>; 3],
    channel: Option<BorrowedFd<'a>>,
    safe_cwd: bool,
    /// Its `oom_score_adj`; else as ours.
    oom_score: Option<String>,
    report: BorrowedFd<'a>,
}

impl Child<'_> {
    fn run(&self) -> ! {
        let (step, errno) = match self.become_program() {
            Err((step, error)) => (step, error.raw_os_error().unwrap_or(libc::EINVAL)),
            Ok(never) => match never {},
        };
        let mut report = [step; 5];
        report[1..].copy_from_slice(&errno.to_ne_bytes());
        // The exit code alone tells as much as can be told, if nobody reads this.
        let _ = nix::unistd::write(self.report, &report);
        // SAFETY: it takes a number, and runs no handler of ours.
        #[expect(unsafe_code)]
        unsafe {
            libc::_exit(127)
        }
    }

    fn become_program(&self) -> Result<Infallible, (u8, io::Error)> {
        let at = |step| move |error| (step, error);
        if let Some(score) = &self.oom_score {
            oom_score::offer(score.as_bytes());
        }
        self.place_descriptors().map_err(at(0))?;
        own_session().map_err(at(1))?;
        if let Some(inherited) = self.inherited {
            inherited.apply();
        }
        if let Some(bytes) = self.core {
            setrlimit(Resource::RLIMIT_CORE, bytes, bytes).map_err(|errno| (5, errno.into()))?;
        }
        let Program { path, cwd, .. } = self.program;
        let enter = || {
            let folder = choose(cwd);
            nix::unistd::chdir(cwd[folder].as_c_str()).map_err(|errno| (2, errno.into()))?;
            Ok(folder)
        };
        let assume = || {
            self.identity
                .map_or(Ok(()), Identity::assume)
                .map_err(at(3))
        };
        let folder = if self.safe_cwd {
            let folder = enter()?;
            assume()?;
            folder
        } else {
            assume()?;
            enter()?
        };
        let script = self.program.script.as_ref().map_or(0, choose);
        reset_signals();
        // SAFETY: all pointers are to strings with a NUL, in arrays that end with null, which live until the exec.
        #[expect(unsafe_code)]
        unsafe {
            let env = self.program.env[folder].pointers.as_ptr();
            libc::execve(
                path.as_ptr(),
                self.program.args[script].pointers.as_ptr(),
                env,
            );
            if io::Error::last_os_error().raw_os_error() == Some(libc::ENOEXEC) {
                let script = self.program.as_script[script].pointers.as_ptr();
                libc::execve(SHELL.as_ptr(), script, env);
            }
        }
        Err((4, io::Error::last_os_error()))
    }

    fn place_descriptors(&self) -> io::Result<()> {
        for (number, fd) in (0..).zip(self.stdio) {
            if let Some(fd) = fd {
                duplicate(fd.as_raw_fd(), number)?;
            }
        }
        if self.identity.is_some() {
            // Somebody else must not read what is typed into our terminal.
            for (number, path) in [(1, c"/proc/self/fd/1"), (2, c"/proc/self/fd/2")] {
                only_write_terminal(number, path)?;
            }
        }
        let first = match self.channel {
            Some(channel) => {
                duplicate(channel.as_raw_fd(), CHANNEL_FD)?;
                CHANNEL_FD + 1
            }
            None => CHANNEL_FD,
        };
        close_on_exec_from(first);
        Ok(())
    }
}

/// A session without a controlling terminal: nothing can be typed into the terminal that we were started
/// in (TIOCSTI), and its signals do not reach the process. Async-signal-safe.
fn own_session() -> io::Result<()> {
    // It fails for a leader of a process group, which a process that was just forked is not.
    nix::unistd::setsid()?;
    Ok(())
}

/// Opens a terminal anew without the right to read it. Other files stay as they are. Async-signal-safe.
fn only_write_terminal(number: RawFd, path: &CStr) -> io::Result<()> {
    // SAFETY: isatty(3) asks by tcgetattr(3); open(2) reads a string with a NUL; close(2) takes a number that is ours.
    #[expect(unsafe_code)]
    unsafe {
        if libc::isatty(number) == 0 {
            return Ok(());
        }
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_NOCTTY);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        duplicate(fd, number)?;
        libc::close(fd);
    }
    Ok(())
}

/// `dup2(2)` without close-on-exec, also where both numbers are the same.
fn duplicate(fd: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: both take numbers only.
    #[expect(unsafe_code)]
    let result = unsafe {
        if fd == number {
            libc::fcntl(fd, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd, number)
        }
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A worker starts with no signal blocked and no handler of ours. What is ignored stays ignored, as over any exec;
/// but SIGPIPE, which Rust's start ignores, has its default action again.
fn reset_signals() {
    for signal in Signal::iterator() {
        // SAFETY: sigaction is plain data, for which zero is a value; the calls read and write only `action`, and the
        // default action is no handler.
        #[expect(unsafe_code)]
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let known = libc::sigaction(signal as i32, std::ptr::null(), &raw mut action) == 0;
            let ignored = action.sa_sigaction == libc::SIG_IGN && signal != Signal::SIGPIPE;
            if known && !ignored {
                libc::signal(signal as i32, libc::SIG_DFL);
            }
        }
    }
    // Cannot fail with these arguments.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// What a careless parent left open in us is for no child of ours. Async-signal-safe. Kernels before 5.11
/// do not know the flag: our own descriptors are close-on-exec anyway.
pub(super) fn close_on_exec_from(first: RawFd) {
    // SAFETY: it takes numbers only, and closes nothing now.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code)]
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first.cast_unsigned(),
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}
