//! `rcluster rehearse`: a trial of the user's own app before production.
//!
//! Owns the trial from the first to the last process: a real master (this binary, as a child with a private control folder) runs the app; the
//! [ledger](rcluster_ledger) sends requests and accounts for each; meanwhile workers are reloaded, stopped and continued, and killed. It must not
//! know how a master does any of that: it uses the control socket and signals, as an operator would.
//!
//! # What counts as lost, and what is excused
//!
//! The load runs through from the start to the end; the ledger marks phases. `quiet` is before the first event and between two, then there are
//! `reload`, `pause` and `kill`, and `after` the last one. An event begins when its phase is marked. It is over when its effect is (the old
//! workers are gone, the worker goes on, the replacement is ready), each client has had time to use each of its connections once more, and
//! every request that began before that has got its class ([`Control::settled`](rcluster_ledger::Control::settled)). So no request
//! is under way in two phases that are not quiet, and a request that a killed worker takes with it always belongs to `kill`.
//!
//! A killed worker loses what it had accepted; nobody can save that. Excused is therefore a loss
//!
//! - in the phase `kill`, and
//! - of a kind that a dying peer causes: a connection that ended before or within the answer (with TLS, also within the handshake), and
//! - within the number of requests that can have been under way: one a client for each kill.
//!
//! Any other loss, in `kill` or elsewhere, is not, and makes the exit code 14. Refused connections, requests that are never answered and
//! answers of 500 and above are never excused.
//!
//! # Bounds
//!
//! Load goes to loopback addresses and unix sockets only. `--limit` ends the trial. The app and its master are stopped on each way out; if
//! this process is killed, the kernel tells the master to stop.

mod aim;
mod drill;
mod excuse;
mod hand_over;
mod loading;
mod picture;
mod plan;
mod rehearsal;
mod run;
mod table;
mod trial;

pub use run::run;
