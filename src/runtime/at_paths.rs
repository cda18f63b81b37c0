//! Queries for Unix paths: answered when the file is made or put back, off the loop, one after the other.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{effects::World, link::FromLink, listeners::PathJob};
use rcluster_core::{
    ipc::{AddressType, Query, bounds::MAX_WITHHELD},
    supervisor::{Fact, Supervisor, Worker},
};
use rcluster_sys::{
    listener::{BindError, Bound},
    path_thread,
};

/// How long making the file of a Unix socket may take.
const PATH_TIME: Duration = Duration::from_secs(5);

impl World {
    /// Answers a query; one for a Unix path, when its file is made or put back.
    pub(super) fn query(&mut self, worker: &Worker, query: Query) -> Option<Fact> {
        if query.address_type != AddressType::Unix {
            return self.answer(worker, &query);
        }
        let key = query.key();
        let all = self.at_paths.values().flatten();
        if all.filter(|(id, _)| *id == worker.id).count() >= MAX_WITHHELD {
            let hint = "too many Unix paths of this worker are being made";
            let error = BindError::refused(&key, libc::EMFILE, hint);
            return self.refuse(worker.id, &query, &error);
        }
        let waiting = self.at_paths.entry(key.clone()).or_default();
        waiting.push_back((worker.id, query));
        if waiting.len() == 1 {
            self.begin_at_path(key);
        }
        None
    }

    /// Begins with the first query for a path.
    fn begin_at_path(&mut self, key: String) {
        let Some((id, query)) = self.at_paths.get(&key).and_then(VecDeque::front) else {
            self.at_paths.remove(&key);
            return;
        };
        let (id, inbox) = (*id, self.inbox.clone());
        let job = self.listeners.path_job(query, self.pid_of(id));
        tokio::spawn(async move {
            let outcome = match job {
                Ok(Some(job)) => off_loop(&key, job).await,
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            // Nobody hears it at the end.
            let _ = inbox.send((id, FromLink::AtPath { key, outcome })).await;
        });
    }

    /// The file of a path is made or put back.
    pub(super) fn at_path(
        &mut self,
        key: &str,
        outcome: Result<Option<Bound>, BindError>,
        supervisor: &Supervisor,
    ) -> Option<Fact> {
        let waiting = self.at_paths.get_mut(key)?;
        let (id, query) = waiting.pop_front()?;
        let failed = match outcome {
            Ok(bound) => {
                if let Some(bound) = bound {
                    self.listeners.insert(&query, bound);
                }
                None
            }
            Err(error) => Some(error),
        };
        let worker = supervisor.worker(id);
        let fact = worker.and_then(|worker| match failed {
            None => self.answer(worker, &query),
            Some(error) => self.refuse(id, &query, &error),
        });
        self.begin_at_path(key.to_owned());
        fact
    }
}

/// Does a path's job where it may block, for a limited time.
async fn off_loop(key: &str, job: PathJob) -> Result<Option<Bound>, BindError> {
    let (done, result) = oneshot::channel();
    let optional = job.optional;
    path_thread::run(move || drop(done.send(job.run())));
    match timeout(PATH_TIME, result).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) if optional => Ok(None),
        Ok(Err(_)) | Err(_) => {
            let hint = "its file system does not answer";
            Err(BindError::refused(key, libc::ETIMEDOUT, hint))
        }
    }
}
