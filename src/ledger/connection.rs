//! One HTTP/1.1 connection, and exactly how far each answer came.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::check::{self, Checker};
use super::context::{Context, End, Failure};
use super::decode::{Decoder, Head, Step};
use super::report::Line;
use super::wire::Io;
use super::{Check, Class, Id, Mode, Scheme};

/// Is the status the expected one, and the id ours?
pub(super) fn check_head(
    check: Check,
    status: u16,
    id: Id,
    echoed: Option<&str>,
) -> Result<(), Failure> {
    let expected = match check {
        Check::Echo => status == 200,
        Check::Complete => (200..400).contains(&status),
        Check::Served => status < 500,
    };
    if !expected {
        return Err(Failure::new(Class::Status, format!("status {status}")));
    }
    if check == Check::Echo && echoed.and_then(|echoed| echoed.parse().ok()) != Some(id) {
        let echoed = echoed.unwrap_or("none");
        return Err(Failure::new(
            Class::WrongBody,
            format!("the answer to another request (x-id: {echoed})"),
        ));
    }
    Ok(())
}

/// A complete and right answer, and then?
pub(super) enum Answer {
    /// The connection stays.
    Kept,
    /// The server closes.
    Close,
    /// The load is over, the client has left an endless stream.
    Left,
}

pub(super) struct Connection {
    io: Io,
    port: Option<u16>,
    opened: SystemTime,
    decoder: Decoder,
    /// The first and the last request; all before the last were answered right.
    first: Id,
    pub(super) last: Id,
    pub(super) uses: u64,
    idle_since: Instant,
    /// How long the server keeps an idle connection, if it says so.
    keep: Option<Duration>,
}

impl Connection {
    pub(super) fn new(io: Io, first: Id) -> Self {
        let decoder = Decoder::new();
        Self {
            port: io.port(),
            opened: SystemTime::now(),
            io,
            decoder,
            first,
            last: first,
            uses: 0,
            idle_since: Instant::now(),
            keep: None,
        }
    }

    /// What is to be known of it when a request on it fails, now.
    pub(super) fn line(&self) -> Option<Line> {
        let (opened, failed) = (self.opened, SystemTime::now());
        self.port.map(|port| Line {
            port,
            opened,
            failed,
        })
    }

    /// Judged by what the client knows without looking at the socket.
    pub(super) fn may_be_reused(&self) -> bool {
        let idle = self.idle_since.elapsed();
        self.decoder.left() == 0
            && self
                .keep
                .is_none_or(|keep| idle + Duration::from_secs(1) <= keep)
    }

    pub(super) async fn write(&mut self, context: &Context, request: &[u8]) -> io::Result<()> {
        self.uses += 1;
        let limit = Instant::now() + context.load.request_timeout;
        let written = timeout_at(limit, async {
            self.io.write_all(request).await?;
            self.io.flush().await
        });
        written
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if let Scheme::Upload { bytes, over } = context.load.scheme {
            self.upload(context, bytes, over).await?;
        }
        Ok(())
    }

    /// The body of an upload, in slices; never looks whether the server still wants it.
    async fn upload(&mut self, context: &Context, bytes: u64, over: Duration) -> io::Result<()> {
        let start = Instant::now();
        let slices = u64::try_from(over.as_millis() / 10)
            .unwrap_or(u64::MAX)
            .clamp(1, bytes.max(1));
        let mut sent = 0;
        let mut piece = Vec::new();
        for slice in 1..=slices {
            let end = (u128::from(bytes) * u128::from(slice) / u128::from(slices)) as u64;
            while sent < end {
                let next = end.min(sent + 64 * 1024);
                piece.clear();
                piece.extend((sent..next).map(check::pattern));
                let limit = Instant::now() + context.load.request_timeout;
                let written = timeout_at(limit, async {
                    self.io.write_all(&piece).await?;
                    self.io.flush().await
                });
                written
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                sent = next;
            }
            if slice < slices {
                sleep_until(start + over.mul_f64(slice as f64 / slices as f64)).await;
            }
        }
        Ok(())
    }

    /// Reads the answer. A failed write matters only if there is none: a server may answer early.
    pub(super) async fn read(
        &mut self,
        context: &Context,
        id: Id,
        checker: &mut Checker<'_>,
        write_error: Option<io::Error>,
    ) -> Result<Answer, Failure> {
        self.decoder.begin();
        let timeout = context.load.request_timeout;
        let stream = matches!(
            context.load.scheme,
            Scheme::Sse { .. } | Scheme::Download { .. }
        );
        let endless = matches!(context.load.scheme, Scheme::Sse { .. });
        let mut limit = Instant::now() + timeout;
        let mut head: Option<Head> = None;
        loop {
            loop {
                match self
                    .decoder
                    .step()
                    .map_err(|error| Failure::new(Class::WrongBody, error.to_string()))?
                {
                    Step::Need => break,
                    Step::Head(found) => {
                        if let Some(earlier) = self.earlier(&found, id) {
                            context.duplicate(earlier, "answered once more");
                            self.skip_answer(limit).await?;
                            self.decoder.begin();
                            continue;
                        }
                        check_head(context.load.check, found.status, id, found.id.as_deref())?;
                        head = Some(found);
                    }
                    Step::Body(range) => {
                        let fed = checker.feed(self.decoder.bytes(range));
                        fed.map_err(|seen| Failure::new(Class::WrongBody, seen))?;
                    }
                    Step::End => return self.complete(context, id, head.take(), checker),
                }
            }
            let read = tokio::select! {
                read = timeout_at(limit, self.io.read_buf(self.decoder.buffer())) => read,
                () = context.stopped(), if endless && head.is_some() => return Ok(Answer::Left),
            };
            let seen = self.decoder.seen();
            match read {
                Ok(Ok(n)) if n > 0 => {
                    if stream {
                        limit = Instant::now() + timeout;
                    }
                }
                Ok(end) => {
                    let end = if unclean_tls(&end) { Ok(0) } else { end };
                    if end.is_ok() && self.decoder.may_end() {
                        return self.complete(context, id, head.take(), checker);
                    }
                    return Err(cut(seen, end.err().or(write_error)));
                }
                Err(_) if seen == 0 => {
                    return Err(Failure::new(
                        Class::NeverAnswered,
                        format!("not a byte within {timeout:?}"),
                    ));
                }
                Err(_) => {
                    return Err(Failure::new(
                        Class::Truncated,
                        format!("{seen} bytes, then silence for {timeout:?}"),
                    ));
                }
            }
        }
    }

    /// The earlier request of this connection that this answer belongs to.
    fn earlier(&self, head: &Head, id: Id) -> Option<Id> {
        let earlier: Id = head.id.as_deref()?.parse().ok()?;
        (self.first <= earlier && earlier < id).then_some(earlier)
    }

    /// Reads over an answer that nobody asked for.
    async fn skip_answer(&mut self, limit: Instant) -> Result<(), Failure> {
        let surplus = |seen: &str| {
            Failure::new(
                Class::Truncated,
                format!("an earlier answer once more, {seen}"),
            )
        };
        loop {
            match self
                .decoder
                .step()
                .map_err(|error| Failure::new(Class::WrongBody, error.to_string()))?
            {
                Step::End => return Ok(()),
                Step::Head(_) | Step::Body(_) => continue,
                Step::Need => {}
            }
            match timeout_at(limit, self.io.read_buf(self.decoder.buffer())).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return Err(surplus("then the end")),
                Err(_) => return Err(surplus("then silence")),
            }
        }
    }

    fn complete(
        &mut self,
        context: &Context,
        id: Id,
        head: Option<Head>,
        checker: &Checker<'_>,
    ) -> Result<Answer, Failure> {
        checker
            .end()
            .map_err(|seen| Failure::new(Class::WrongBody, seen))?;
        let head = head.unwrap_or_default();
        self.last = id;
        self.keep = head.keep;
        self.idle_since = Instant::now();
        let close = head.close || context.load.mode == Mode::Short;
        Ok(if close { Answer::Close } else { Answer::Kept })
    }

    /// Half-closes, then reads on.
    pub(super) async fn leave(&mut self) -> End {
        // Fails if the server has closed already, which reading shows.
        drop(self.io.shutdown().await);
        self.drain().await
    }

    /// Reads on after the last answer.
    pub(super) async fn drain(&mut self) -> End {
        if self.decoder.left() > 0 {
            return End::Extra;
        }
        match self.io.read(&mut [0; 64]).await {
            Ok(0) => End::Fin,
            Ok(_) => End::Extra,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => End::Fin,
            Err(_) => End::Rst,
        }
    }
}

/// A TLS connection that ended without `close_notify`: a FIN. Lengths and chunks say whether the answer was complete.
fn unclean_tls(end: &io::Result<usize>) -> bool {
    end.as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// The connection ended within the answer.
fn cut(seen: u64, error: Option<io::Error>) -> Failure {
    match (seen, error) {
        (0, None) => Failure::new(Class::FinBeforeByte, "FIN"),
        (0, Some(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Failure::new(Class::NeverAnswered, "the server did not read the request")
        }
        (0, Some(error)) => Failure::new(Class::RstBeforeByte, error.to_string()),
        (n, None) => Failure::new(Class::Truncated, format!("{n} bytes, then FIN")),
        (n, Some(error)) => Failure::new(Class::Truncated, format!("{n} bytes, then {error}")),
    }
}
