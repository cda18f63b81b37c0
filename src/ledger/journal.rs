//! Journals of workers, against the ledger.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Class, Id, Line, Report};

/// What the workers know of a request that was not answered right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// No worker has received it.
    NeverSeen,
    /// A worker (the name of its journal) has accepted the connection, and not received the request on it.
    Accepted(String),
    /// A worker has received it and not answered.
    Received(String),
    /// A worker has answered; the answer was lost.
    Answered(String),
}

/// The journals against the ledger.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reconciliation {
    /// Each request of [`Report::failures`], and what the workers know of it.
    pub failures: Vec<(Id, Class, Fate)>,
    /// Requests that were received more than once.
    pub duplicates: Vec<Id>,
    /// Requests that were answered right, but that no worker has received: a journal is missing or the ledger is blind.
    pub unjournaled: u64,
    /// Different requests received.
    pub received: u64,
    /// Journals by name, with the number of requests that each received.
    pub workers: Vec<(String, u64)>,
    /// Lines that are no record of this load: other loads, and what a killed worker left unfinished.
    pub foreign: u64,
}

impl Reconciliation {
    /// Number of failures that no worker knows of, whose connection a worker has accepted, that a worker has received only,
    /// that a worker has answered.
    pub fn fates(&self) -> (usize, usize, usize, usize) {
        let count =
            |of: fn(&Fate) -> bool| self.failures.iter().filter(|(_, _, fate)| of(fate)).count();
        (
            count(|fate| matches!(fate, Fate::NeverSeen)),
            count(|fate| matches!(fate, Fate::Accepted(_))),
            count(|fate| matches!(fate, Fate::Received(_))),
            count(|fate| matches!(fate, Fate::Answered(_))),
        )
    }
}

/// Reads the journals in a folder (one file a process; lines `R id` when a request is received, `A id` when it is answered, and, if
/// the process likes, `C port ms` when a connection from a client's port is accepted, in milliseconds since 1970) and compares
/// them with a report. Takes a bit of memory for each request, and more for those that failed.
///
/// # Errors
///
/// If the folder or a file cannot be read.
pub fn reconcile(folder: &Path, report: &Report) -> io::Result<Reconciliation> {
    let mut result = Reconciliation::default();
    let mut received: HashMap<u32, Bits> = report
        .clients
        .iter()
        .map(|(client, sent)| (*client, Bits::new(*sent)))
        .collect();
    let mut fates: HashMap<Id, Fate> = report
        .failures
        .iter()
        .map(|(id, _)| (*id, Fate::NeverSeen))
        .collect();
    let mut accepted = Accepted::of(report);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    for path in files {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut of_worker = 0;
        let mut reader = BufReader::new(File::open(&path)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let record = line.strip_suffix(b"\n").and_then(parse);
            if record.is_none() && accepted.note(&line, &name) {
                continue;
            }
            let Some((kind, id)) = record
                .filter(|(_, id)| received.get(&id.client()).is_some_and(|b| b.has(id.seq())))
            else {
                result.foreign += 1;
                continue;
            };
            if kind == b'R' {
                of_worker += 1;
                let first = received
                    .get_mut(&id.client())
                    .is_some_and(|bits| bits.set(id.seq()));
                if first {
                    result.received += 1;
                } else {
                    result.duplicates.push(id);
                }
            }
            if let Some(fate) = fates.get_mut(&id) {
                if kind == b'A' {
                    *fate = Fate::Answered(name.clone());
                } else if *fate == Fate::NeverSeen {
                    *fate = Fate::Received(name.clone());
                }
            }
        }
        result.workers.push((name, of_worker));
    }
    result.unjournaled = report
        .clients
        .iter()
        .flat_map(|(client, sent)| (1..=*sent).map(|seq| Id::new(*client, seq)))
        .filter(|id| !fates.contains_key(id) && !received[&id.client()].get(id.seq()))
        .count() as u64;
    result.failures = report
        .failures
        .iter()
        .map(|(id, class)| {
            let fate = match &fates[id] {
                Fate::NeverSeen => accepted.fate(report.lines.get(id)),
                known @ (Fate::Accepted(_) | Fate::Received(_) | Fate::Answered(_)) => {
                    known.clone()
                }
            };
            (*id, *class, fate)
        })
        .collect();
    Ok(result)
}

/// Who accepted connections from the ports that matter, and when, in milliseconds since 1970.
struct Accepted(HashMap<u16, Vec<(u128, String)>>);

impl Accepted {
    fn of(report: &Report) -> Self {
        let ports = report.lines.values().map(|line| (line.port, Vec::new()));
        Self(ports.collect())
    }

    /// Takes a line that is a record of a connection; false if it is none.
    fn note(&mut self, line: &[u8], worker: &str) -> bool {
        let record = || {
            let line = std::str::from_utf8(line).ok()?;
            let (port, ms) = line
                .strip_suffix('\n')?
                .strip_prefix("C ")?
                .split_once(' ')?;
            Some((port.parse().ok()?, ms.parse().ok()?))
        };
        let Some((port, ms)) = record() else {
            return false;
        };
        if let Some(seen) = self.0.get_mut(&port) {
            seen.push((ms, worker.to_owned()));
        }
        true
    }

    /// While a connection is there, no other has its client's port.
    fn fate(&self, line: Option<&Line>) -> Fate {
        let ms = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let accepted = line.and_then(|line| {
            let while_open = ms(line.opened)..=ms(line.failed);
            let seen = self.0.get(&line.port)?;
            seen.iter().find(|(at, _)| while_open.contains(at))
        });
        match accepted {
            Some((_, worker)) => Fate::Accepted(worker.clone()),
            None => Fate::NeverSeen,
        }
    }
}

fn parse(line: &[u8]) -> Option<(u8, Id)> {
    let (kind, id) = line.split_at_checked(2)?;
    let kind = match kind {
        b"R " => b'R',
        b"A " => b'A',
        _ => return None,
    };
    Some((kind, std::str::from_utf8(id).ok()?.parse().ok()?))
}

/// One bit for each sequence number from 1 on.
struct Bits {
    sent: u64,
    words: Vec<u64>,
}

impl Bits {
    fn new(sent: u64) -> Self {
        Self {
            sent,
            words: vec![0; (sent / 64 + 1) as usize],
        }
    }

    fn has(&self, seq: u64) -> bool {
        (1..=self.sent).contains(&seq)
    }

    fn get(&self, seq: u64) -> bool {
        self.words[(seq / 64) as usize] & (1 << (seq % 64)) != 0
    }

    /// Sets it; true if it was not set before.
    fn set(&mut self, seq: u64) -> bool {
        let new = !self.get(seq);
        self.words[(seq / 64) as usize] |= 1 << (seq % 64);
        new
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::Control;
    use super::super::book::Book;
    use super::*;

    #[test]
    fn the_fate_of_each_failure() {
        let mut book = Book::new(Control::new(), 2, 5);
        let ends = [
            Class::Ok,
            Class::FinBeforeByte,
            Class::RstBeforeByte,
            Class::Truncated,
            Class::Ok,
        ];
        for class in ends {
            let ticket = book.commit(0);
            let failed = UNIX_EPOCH + Duration::from_millis(2000);
            let line = (class == Class::FinBeforeByte).then(|| Line {
                port: 4000,
                opened: failed - Duration::from_millis(100),
                failed,
            });
            book.on_line(ticket.id(), line);
            book.close(ticket, class, Instant::now(), String::new);
        }
        let ticket = book.commit(1);
        book.close(ticket, Class::Ok, Instant::now(), String::new);
        let report = book.finish();

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("100"),
            "C 4000 1899\nC 4001 1950\nR 5.1\nA 5.1\nR 5.3\nR 5.4\nA 5.4\nR 9.1\nR 5.99\nR 5.",
        )
        .unwrap();
        std::fs::write(
            folder.path().join("200"),
            "C 4000 1900\nR 6.1\nR 5.1\nnonsense\n\nA 6.1\nC 4000 x\n",
        )
        .unwrap();
        let result = reconcile(folder.path(), &report).unwrap();
        assert_eq!(
            result.failures,
            [
                (
                    Id::new(5, 2),
                    Class::FinBeforeByte,
                    Fate::Accepted("200".into())
                ),
                (
                    Id::new(5, 3),
                    Class::RstBeforeByte,
                    Fate::Received("100".into())
                ),
                (
                    Id::new(5, 4),
                    Class::Truncated,
                    Fate::Answered("100".into())
                ),
            ]
        );
        assert_eq!(result.fates(), (0, 1, 1, 1));
        assert_eq!(result.duplicates, [Id::new(5, 1)]);
        assert_eq!(result.unjournaled, 1, "5.5");
        assert_eq!(result.received, 4);
        assert_eq!(result.foreign, 6);
        assert_eq!(result.workers, [("100".into(), 3), ("200".into(), 2)]);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let report = Book::new(Control::new(), 1, 0).finish();
        assert!(reconcile(Path::new("/nonexistent"), &report).is_err());
    }
}
