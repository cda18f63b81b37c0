//! Connections, with a delay line that simulates the network.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

/// Bytes on their way to the server after which a writer has to wait.
const WINDOW: usize = 4 << 20;
/// Pieces on their way from the server after which its socket is no longer read.
const PIECES: usize = 256;

/// Implements the I/O traits for an enum whose variants all have them.
macro_rules! delegate_io {
    ($name:ident { $($variant:ident),+ }) => {
        impl AsyncRead for $name {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_read(cx, buf)),+ }
            }
        }
        impl AsyncWrite for $name {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write(cx, buf)),+ }
            }
            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_flush(cx)),+ }
            }
            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_shutdown(cx)),+ }
            }
        }
    };
}

/// A socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}
delegate_io!(Socket { Tcp, Unix });

/// A socket, perhaps a long way off.
pub(super) enum Wire {
    Near(Socket),
    Far(Far),
}
delegate_io!(Wire { Near, Far });

impl Wire {
    pub(super) fn new(socket: Socket, latency: Duration) -> Self {
        if latency.is_zero() {
            Self::Near(socket)
        } else {
            Self::Far(Far::new(socket, latency / 2))
        }
    }
}

/// A connection, perhaps under TLS.
pub(super) enum Io {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}
delegate_io!(Io { Plain, Tls });

impl Io {
    /// The client's port, if it is a near one of TCP.
    pub(super) fn port(&self) -> Option<u16> {
        let wire = match self {
            Self::Plain(wire) => wire,
            Self::Tls(stream) => stream.get_ref().0,
        };
        match wire {
            Wire::Near(Socket::Tcp(socket)) => Some(socket.local_addr().ok()?.port()),
            Wire::Near(Socket::Unix(_)) | Wire::Far(_) => None,
        }
    }
}

enum Up {
    Data(Bytes),
    Fin,
}

enum Down {
    Data(Bytes),
    End(Option<io::ErrorKind>),
}

/// The client's end of a delay line. Two tasks move the bytes whether or not the client looks, as a network does: what arrives is noticed
/// half a round trip later. Dropped, the socket closes half a round trip later.
pub(super) struct Far {
    half: Duration,
    up: mpsc::UnboundedSender<(Instant, Up)>,
    down: mpsc::Receiver<(Instant, Down)>,
    next: Option<(Instant, Down)>,
    sleep: Pin<Box<Sleep>>,
    flow: Rc<Flow>,
}

/// What both ends of the line know.
#[derive(Default)]
struct Flow {
    /// Bytes on their way to the server.
    queued: Cell<usize>,
    writer: RefCell<Option<Waker>>,
    /// A write has consumed the socket's error: an end of file is none.
    reset: Cell<bool>,
}

impl Far {
    fn new(socket: Socket, half: Duration) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        let (up, up_queue) = mpsc::unbounded_channel();
        let (down_queue, down) = mpsc::channel(PIECES);
        let flow = Rc::new(Flow::default());
        tokio::task::spawn_local(upstream(writer, up_queue, half, Rc::clone(&flow)));
        tokio::task::spawn_local(downstream(reader, down_queue, half, Rc::clone(&flow)));
        Self {
            half,
            up,
            down,
            next: None,
            sleep: Box::pin(sleep_until(Instant::now())),
            flow,
        }
    }
}

async fn upstream(
    mut socket: WriteHalf<Socket>,
    mut queue: mpsc::UnboundedReceiver<(Instant, Up)>,
    half: Duration,
    flow: Rc<Flow>,
) {
    while let Some((due, up)) = queue.recv().await {
        sleep_until(due).await;
        let done = match up {
            Up::Data(bytes) => {
                let done = socket.write_all(&bytes).await;
                flow.queued.set(flow.queued.get() - bytes.len());
                if let Some(waker) = flow.writer.take() {
                    waker.wake();
                }
                done
            }
            Up::Fin => socket.shutdown().await,
        };
        // The client learns of it by what it reads, half a round trip later. What it has sent until then is lost.
        if done.is_err() {
            flow.reset.set(true);
        }
    }
    tokio::time::sleep(half).await;
}

async fn downstream(
    mut socket: ReadHalf<Socket>,
    queue: mpsc::Sender<(Instant, Down)>,
    half: Duration,
    flow: Rc<Flow>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = socket.read(&mut buffer) => read,
            () = queue.closed() => return,
        };
        let down = match read {
            Ok(0) if flow.reset.get() => Down::End(Some(io::ErrorKind::ConnectionReset)),
            Ok(0) => Down::End(None),
            Ok(n) => Down::Data(Bytes::copy_from_slice(&buffer[..n])),
            Err(error) => Down::End(Some(error.kind())),
        };
        let end = matches!(down, Down::End(_));
        if queue.send((Instant::now() + half, down)).await.is_err() || end {
            return;
        }
    }
}

impl AsyncRead for Far {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.next.is_none() {
            this.next = ready!(this.down.poll_recv(cx));
        }
        let Some((due, down)) = &mut this.next else {
            return Poll::Ready(Ok(()));
        };
        if *due > Instant::now() {
            if this.sleep.deadline() != *due {
                this.sleep.as_mut().reset(*due);
            }
            ready!(this.sleep.as_mut().poll(cx));
        }
        match down {
            Down::Data(bytes) => {
                let n = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..n]);
                bytes.advance(n);
                if bytes.is_empty() {
                    this.next = None;
                }
                Poll::Ready(Ok(()))
            }
            // Stays: the end is the end, however often one asks.
            Down::End(None) => Poll::Ready(Ok(())),
            Down::End(Some(kind)) => Poll::Ready(Err((*kind).into())),
        }
    }
}

impl AsyncWrite for Far {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.flow.queued.get() >= WINDOW {
            self.flow.writer.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        self.flow.queued.set(self.flow.queued.get() + buf.len());
        let due = Instant::now() + self.half;
        // The other end of the queue lives as long as this one.
        drop(self.up.send((due, Up::Data(Bytes::copy_from_slice(buf)))));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        drop(self.up.send((Instant::now() + self.half, Up::Fin)));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use tokio::net::TcpListener;

    /// Runs a client on a line of 20 ms with its server's socket.
    fn with_line(test: impl AsyncFnOnce(Far, TcpStream)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (server, _) = listener.accept().await.unwrap();
            test(
                Far::new(Socket::Tcp(client), Duration::from_millis(10)),
                server,
            )
            .await;
        });
    }

    #[test]
    fn bytes_and_ends_take_half_a_round_trip_each_way() {
        with_line(async |mut client, mut server| {
            let start = Instant::now();
            client.write_all(b"there").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"there");
            assert!(start.elapsed() >= Duration::from_millis(10));
            server.write_all(b"back").await.unwrap();
            drop(server);
            got.clear();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"back");
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert_eq!(
                client.read(&mut [0; 8]).await.unwrap(),
                0,
                "the end stays the end"
            );
        });
    }

    #[test]
    fn a_reset_comes_after_the_bytes_before_it() {
        with_line(async |mut client, mut server| {
            server.write_all(b"last words").await.unwrap();
            let mut got = [0; 10];
            client.read_exact(&mut got).await.unwrap();
            socket2::SockRef::from(&server.as_fd())
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(server);
            let error = client.read(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn writing_to_a_closed_server_is_noticed_by_reading_only() {
        with_line(async |mut client, server| {
            drop(server);
            client.write_all(b"lost").await.unwrap();
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
            client.write_all(b"lost as well").await.unwrap();
        });
    }

    #[test]
    fn a_dropped_line_closes_after_what_was_written() {
        with_line(async |mut client, mut server| {
            let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
            client.write_all(&sent).await.unwrap();
            drop(client);
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert!(got == sent);
        });
    }

    #[test]
    fn a_writer_waits_for_a_server_that_does_not_read() {
        with_line(async |mut client, mut server| {
            let sent = vec![7; WINDOW * 3];
            let read = async {
                let mut got = vec![0; sent.len()];
                server.read_exact(&mut got).await.unwrap();
                got
            };
            let (done, got) = tokio::join!(client.write_all(&sent), read);
            done.unwrap();
            assert!(got == sent);
        });
    }
}
