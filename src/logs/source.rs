//! One stream of one worker: read, cut into lines, handed on.

use std::{
    fs::File,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    net::unix::pipe,
    sync::{Notify, watch},
};

use super::{
    carried::{Begun, Held},
    cutter::{Cutter, Piece},
    hub::Hub,
    render::{Origin, Stream, Style},
    sink::{Chunk, Sink},
};

/// Where a stream's lines go, and how they look there.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) sink: Sink,
    pub(super) target_is_files: bool,
    pub(super) style: Style,
}

/// What the streams are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    On,
    /// Stop between two reads.
    Pause,
    /// Read what there is, and end.
    End,
}

/// One stream of one worker.
pub(super) struct Source {
    pub(super) worker: u64,
    pub(super) slot: Arc<AtomicU32>,
    pub(super) stream: Stream,
    pub(super) way: Way,
    pub(super) hub: Arc<Hub>,
    /// Something is to be told.
    pub(super) news: Arc<Notify>,
    /// Lines that had to be cut.
    pub(super) long: Arc<AtomicU32>,
}

impl Source {
    /// Until its end of file, which comes when every process that had it is gone;
    /// or, when all this ends, until nothing is left in it. At a pause it gives itself back.
    pub(super) async fn follow(
        self,
        pipe: pipe::Receiver,
        mut cutter: Cutter,
        mut ending: watch::Receiver<Turn>,
    ) -> Option<Held> {
        loop {
            if *ending.borrow() == Turn::Pause {
                let begun = Begun {
                    origin: self.origin(),
                    rest: cutter.begun().to_vec(),
                };
                let pipe = pipe.into_nonblocking_fd().ok()?;
                return Some(Held { pipe, begun });
            }
            match pipe.try_read(cutter.room()) {
                Ok(0) => break,
                Ok(count) => {
                    if let Some(piece) = cutter.took(count) {
                        self.pass(piece).await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match *ending.borrow_and_update() {
                        Turn::On => {}
                        Turn::Pause => continue,
                        Turn::End => break,
                    }
                    tokio::select! {
                        _ = pipe.readable() => {}
                        _ = ending.changed() => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if let Ok(fd) = pipe.into_nonblocking_fd() {
            // tokio's idea of what is readable may be older than the end.
            let mut pipe = File::from(fd);
            while let Ok(count @ 1..) = pipe.read(cutter.room()) {
                if let Some(piece) = cutter.took(count) {
                    self.pass(piece).await;
                }
            }
        }
        if let Some(piece) = cutter.rest() {
            self.pass(piece).await;
        }
        None
    }

    fn origin(&self) -> Origin {
        Origin {
            slot: self.slot.load(Ordering::Relaxed),
            worker: self.worker,
            stream: self.stream,
        }
    }

    async fn pass(&self, piece: Piece) {
        let origin = self.origin();
        let Piece { bytes, cut } = piece;
        if cut {
            self.long.fetch_add(1, Ordering::Relaxed);
            self.news.notify_one();
        }
        self.hub.add(origin, &bytes, cut);
        let mut out = vec![];
        let lines = self.way.style.render(origin, &bytes, cut, &mut out);
        let key = if self.way.target_is_files {
            (origin.slot, origin.stream)
        } else {
            (0, Stream::Stdout)
        };
        self.way
            .sink
            .put(Chunk {
                key,
                bytes: out,
                lines,
            })
            .await;
    }
}
