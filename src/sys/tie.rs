//! A child that must not outlive this process.

use std::{
    io,
    process::{Child, Command},
};

/// Starts a child that gets SIGTERM when the thread that called this ends, however it ends (`PR_SET_PDEATHSIG`, prctl(2)). Elsewhere than on
/// Linux it is an ordinary child.
///
/// # Errors
/// The errno of `fork(2)`, `prctl(2)` or `execve(2)`.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let parent = nix::unistd::getpid();
        // SAFETY: the closure runs between fork and exec; prctl(2) and getppid(2) are plain system calls.
        #[expect(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have ended before; then no signal comes.
                if nix::unistd::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
    }
    command.spawn()
}
