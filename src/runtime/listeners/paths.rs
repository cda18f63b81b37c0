//! Queries for Unix paths: their files are made and put back off the loop.

use std::fmt;

use super::{Listeners, MAX_LISTENERS, asked};
use rcluster_core::{ipc::Query, supervisor::Pid};
use rcluster_sys::listener::{self, BindError, Bound, Endpoint, FileOptions};

/// What is done before a query for a path is answered.
pub(in crate::runtime) struct PathJob {
    work: Box<dyn FnOnce() -> Result<Option<Bound>, BindError> + Send>,
    /// The answer does not depend on it.
    pub(in crate::runtime) optional: bool,
}

impl fmt::Debug for PathJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathJob(..)")
    }
}

impl PathJob {
    /// Does it; may block. A socket, if it is a new one.
    pub(in crate::runtime) fn run(self) -> Result<Option<Bound>, BindError> {
        (self.work)()
    }
}

impl Listeners {
    /// What is to be done on the file system for a query; `None` for nothing. `pid` is who asks.
    ///
    /// # Errors
    /// Why there will be no socket.
    pub(in crate::runtime) fn path_job(
        &self,
        query: &Query,
        pid: Option<Pid>,
    ) -> Result<Option<PathJob>, BindError> {
        let endpoint = match asked::endpoint(query)? {
            path @ Endpoint::Path(_) => path,
            Endpoint::Tcp { .. } | Endpoint::Udp { .. } | Endpoint::Abstract(_) => return Ok(None),
        };
        let declared = || self.declared.iter().find(|d| d.serves(&endpoint));
        let there = self.by_key.get(&query.key()).map(|l| l.group);
        let mode = query.file_mode();
        if let Some(group) = there.or_else(|| declared().map(|d| d.group)) {
            // The worker may have removed its file before it asked.
            let file = self.groups.get(&group).and_then(|g| g.file.as_ref());
            return Ok(file.map(|file| {
                let restore = file.restore(mode);
                PathJob {
                    work: Box::new(|| {
                        restore();
                        Ok(None)
                    }),
                    optional: true,
                }
            }));
        }
        let refused = |errno, hint: &str| Err(BindError::refused(&endpoint, errno, hint));
        if self.held() >= MAX_LISTENERS {
            let hint = format!("the app has {MAX_LISTENERS} listeners already");
            return refused(libc::EMFILE, &hint);
        }
        self.rights.check(&endpoint)?;
        let Some(Ok(how)) = pid.map(|pid| self.rights.of_worker(pid)) else {
            return refused(libc::EACCES, "the worker has ended");
        };
        let (rights, backlog) = (self.rights.clone(), self.backlog);
        let bind = move || {
            if let Endpoint::Path(path) = &endpoint {
                rights.check_folder(path, &how)?;
            }
            let options = FileOptions { how, mode };
            listener::bind(&endpoint, backlog, &options).map(Some)
        };
        Ok(Some(PathJob {
            work: Box::new(bind),
            optional: false,
        }))
    }

    /// A socket that was bound for a query.
    pub(in crate::runtime) fn insert(&mut self, query: &Query, bound: Bound) {
        let group = self.open_group(bound);
        let listener = self.listener(group, query);
        self.by_key.insert(query.key(), listener);
    }
}
