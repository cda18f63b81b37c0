use std::{io, time::Duration};

use rcluster::admin::{Api, Door, Request, Token, serve_tcp};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{broadcast, mpsc},
    time::timeout,
};

/// The token that changes need.
const TOKEN: &str = "0123456789abcdef";

/// How long a stream of events is read: less than the first comment that keeps it alive.
const FOLLOWED: Duration = Duration::from_millis(20);

/// Turns of the scheduler in which everything is answered.
const TURNS: usize = 100;

/// Accepts one connection, which is in memory.
struct One(Option<DuplexStream>);

impl Door for One {
    type Connection = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.0.take() {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

/// The bytes of one connection to the admin server.
///
/// What comes back is HTTP or nothing; and only who shows the token changes anything, reads what
/// the workers print, or is told more than that it must not.
pub fn http(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (requests, mut asked) = mpsc::channel(16);
        let api = Api {
            requests,
            happenings: broadcast::Sender::new(16),
        };
        let token = Token::from(TOKEN.to_owned());
        tokio::spawn(serve_tcp(
            One(Some(server)),
            Some(token),
            api,
            std::future::pending(),
        ));
        let showed = input
            .windows(TOKEN.len())
            .any(|word| word == TOKEN.as_bytes());
        let master = tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                // What only looks gets no answer: "the master is gone".
                if !matches!(request, Request::Status(_) | Request::Readiness(_)) {
                    assert!(
                        !matches!(request, Request::Upgrade(..)),
                        "an upgrade over TCP"
                    );
                    assert!(showed, "without the token: {request:?}");
                }
            }
        });
        // The server may close before it has read everything.
        let _ = client.write_all(input).await;
        // Until everybody is idle: nothing waits for a timer or a thread.
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut answer = vec![];
        // Events are followed without end.
        let _ = timeout(FOLLOWED, client.read_to_end(&mut answer)).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1."),
            "{answer:?}"
        );
        drop(client);
        if master.is_finished() {
            master.await.expect("only what is allowed");
        }
    });
}
