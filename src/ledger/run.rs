//! Running a load.

use std::rc::Rc;
use std::thread::JoinHandle;

use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::context::Context;
use super::{Control, LedgerError, Load, Report, Scheme};
use super::{http1, http2, websocket};

/// Runs a load to its end, on the current thread: wants a tokio runtime with I/O and time. Ends at the load's limit or at
/// [`Control::stop`], when each request under way has got its class, so at the latest after its timeouts.
///
/// # Errors
///
/// [`LedgerError::Invalid`] before anything is sent. Whatever the server does is no error but in the report.
///
/// # Panics
///
/// If the ledger does not add up, which would be an error in it.
pub async fn run(load: Load, control: Control) -> Result<Report, LedgerError> {
    let duration = load.limit.duration;
    let clients = load.clients;
    let scheme = load.scheme;
    let context = Rc::new(Context::new(load, control.clone())?);
    let local = LocalSet::new();
    let watch = Rc::clone(&context);
    let watch = local.spawn_local(async move {
        match duration {
            Some(duration) => tokio::select! {
                () = control.stopped() => {}
                () = sleep(duration) => {}
            },
            None => control.stopped().await,
        }
        watch.stop();
    });
    let all = Rc::clone(&context);
    local
        .run_until(async move {
            let mut tasks = JoinSet::new();
            for number in 0..clients {
                let context = Rc::clone(&all);
                match scheme {
                    Scheme::H2 => tasks.spawn_local(http2::client(context, number)),
                    Scheme::WebSocket => tasks.spawn_local(websocket::client(context, number)),
                    Scheme::Http1
                    | Scheme::Sse { .. }
                    | Scheme::Upload { .. }
                    | Scheme::Download { .. } => tasks.spawn_local(http1::client(context, number)),
                };
            }
            while let Some(done) = tasks.join_next().await {
                if let Err(error) = done
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            all.settle().await;
        })
        .await;
    watch.abort();
    // With its tasks go their handles on the context.
    drop(local);
    let context = Rc::into_inner(context).expect("all tasks have ended");
    Ok(context.into_book().finish())
}

/// A load that runs in a thread of its own.
#[derive(Debug)]
pub struct Running {
    control: Control,
    thread: JoinHandle<Result<Report, LedgerError>>,
}

impl Running {
    /// The handle of the load.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Waits for the end of the load (see [`Load::limit`] and [`Control::stop`]).
    ///
    /// # Errors
    ///
    /// As [`run`], and if it panicked.
    pub fn join(self) -> Result<Report, LedgerError> {
        self.thread.join().map_err(|_| LedgerError::Panicked)?
    }

    /// Stops the load and waits for its end.
    ///
    /// # Errors
    ///
    /// As [`Running::join`].
    pub fn stop(self) -> Result<Report, LedgerError> {
        self.control.stop();
        self.join()
    }
}

/// Starts a load in a thread of its own.
///
/// # Errors
///
/// If the load is invalid, or thread or runtime cannot be made.
pub fn spawn(load: Load) -> Result<Running, LedgerError> {
    load.validate()?;
    let control = Control::new();
    let own = control.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LedgerError::Start)?;
    let thread = std::thread::Builder::new()
        .name("ledger".into())
        .spawn(move || runtime.block_on(run(load, own)))
        .map_err(LedgerError::Start)?;
    Ok(Running { control, thread })
}
