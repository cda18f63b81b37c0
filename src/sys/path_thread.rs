//! The thread on which sockets' files are made, put back and removed, in order: a file system may not answer for ever.

use std::{
    sync::{
        OnceLock,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

type Job = Box<dyn FnOnce() + Send>;

/// Does something on the thread, after all that was given to it before. Where there can be no thread it is done here.
pub fn run(job: impl FnOnce() + Send + 'static) {
    static THREAD: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("paths".to_owned())
            .stack_size(256 * 1024);
        let started = thread.spawn(move || jobs.into_iter().for_each(|job| job()));
        started.is_ok().then_some(sender)
    });
    match thread {
        // It ends with the process only.
        Some(thread) => drop(thread.send(Box::new(job))),
        None => job(),
    }
}

/// Waits until all is done that was given to the thread; whether it was done in time.
pub fn settle(limit: Duration) -> bool {
    let (done, wait) = mpsc::channel();
    run(move || {
        let _ = done.send(());
    });
    wait.recv_timeout(limit).is_ok()
}
