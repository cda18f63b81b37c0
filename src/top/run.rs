//! The loop of `top`: keys, answers, a picture.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use ratatui::{DefaultTerminal, crossterm::event};
use tokio::sync::mpsc;

use super::{
    history::Seen,
    keys::{self, Mode, Order, Then},
    picture::View,
};
use crate::{
    admin::{
        Client, ClientError, ReloadReply, ReloadWish, RestartReply, ScaleReply, ScaleWish, Status,
    },
    cli::TopArgs,
};
use rcluster_core::{escape, exit_code::ExitCode};

/// Something to react to.
enum Input {
    Terminal(event::Event),
    Status(Box<Result<Seen, ClientError>>),
    News(String),
}

/// `rcluster top`: until `q`.
///
/// # Errors
/// The terminal's.
pub async fn top(args: &TopArgs) -> anyhow::Result<ExitCode> {
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        crate::say::error("top needs a terminal; use rcluster status, or status --json");
        return Ok(ExitCode::Usage);
    }
    let first = match Client::find(&args.which).await {
        Ok(client) => look(&client).await.map(|first| (client, first)),
        Err(error) => Err(error),
    };
    let (client, first) = match first {
        Ok((client, first)) => (Arc::new(client), first),
        // Before the screen is taken: it would wipe the message away.
        Err(error) => return Ok(crate::commands::failed(&error)),
    };
    let mut terminal = ratatui::try_init()?;
    let result = run(&mut terminal, client, first, args.interval).await;
    ratatui::try_restore()?;
    result?;
    Ok(ExitCode::Ok)
}

async fn run(
    terminal: &mut DefaultTerminal,
    client: Arc<Client>,
    first: Seen,
    interval: Duration,
) -> std::io::Result<()> {
    let (to_us, mut inputs) = mpsc::channel(64);
    let keys = to_us.clone();
    // Reading a terminal blocks; the thread ends with the process.
    std::thread::Builder::new().spawn(move || {
        while let Ok(event) = event::read() {
            if keys.blocking_send(Input::Terminal(event)).is_err() {
                return;
            }
        }
    })?;
    let (asker, answers) = (Arc::clone(&client), to_us.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let status = Box::new(look(&asker).await);
            if answers.send(Input::Status(status)).await.is_err() {
                return;
            }
        }
    });
    let mut view = View::default();
    view.take(first);
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        let Some(input) = inputs.recv().await else {
            return Ok(());
        };
        match input {
            Input::Terminal(event::Event::Key(key)) => {
                match keys::key(&view.mode, key, view.selected()) {
                    Then::Quit => return Ok(()),
                    Then::Nothing => {}
                    Then::Move(by) => view.step(by),
                    Then::Go(mode) => {
                        view.news = None;
                        view.mode = mode;
                    }
                    Then::Do(order) => {
                        view.mode = Mode::Look;
                        view.news = Some("asked for; waiting".to_owned());
                        let (client, news) = (Arc::clone(&client), to_us.clone());
                        tokio::spawn(async move {
                            let outcome = carry_out(&client, &order).await;
                            let text = outcome.unwrap_or_else(|error| {
                                escape::line(&format!("failed: {error}")).into_owned()
                            });
                            let _ = news.send(Input::News(text)).await;
                        });
                    }
                }
            }
            // A resize: the next picture has the new size.
            Input::Terminal(_) => {}
            Input::News(news) => view.news = Some(news),
            Input::Status(status) => match *status {
                Ok(seen) => view.take(seen),
                Err(error) => view.silence = Some(escape::line(&error.to_string()).into_owned()),
            },
        }
    }
}

/// The status, and what is in it beyond the workers.
async fn look(client: &Client) -> Result<Seen, ClientError> {
    let document: serde_json::Value = client.get("/v1/status").await?;
    let p99_us = document["figures"].as_array().and_then(|slots| {
        slots
            .iter()
            .filter_map(|slot| slot["p99_us"].as_u64())
            .max()
    });
    let status: Status = serde_json::from_value(document).map_err(|e| client.answer_error(&e))?;
    Ok(Seen { status, p99_us })
}

/// The end of a reload, with the first of its warnings.
fn served(generation: rcluster_core::supervisor::Generation, warnings: &[String]) -> String {
    let first = warnings.first().and_then(|text| text.lines().next());
    let more = match warnings.len() {
        0 | 1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    first.map_or_else(
        || format!("generation {generation} serves"),
        |first| {
            let first = escape::line(first);
            format!("generation {generation} serves; warning: {first}{more}")
        },
    )
}

async fn carry_out(client: &Client, order: &Order) -> Result<String, ClientError> {
    let reload = async |route: &str| {
        let reply: ReloadReply = client.post(route, &ReloadWish::default()).await?;
        Ok(match (reply.generation, reply.reason) {
            (Some(generation), _) => served(generation, &reply.warnings),
            (None, reason) => {
                let reason = reason.unwrap_or_default();
                let first = reason.lines().next().unwrap_or_default();
                format!("reload {}: {first}", reply.outcome)
            }
        })
    };
    match order {
        Order::Reload => reload("/v1/reload").await,
        Order::Rollback => reload("/v1/rollback").await,
        Order::Scale(workers) => {
            let wish = ScaleWish {
                workers: workers.clone(),
                force: false,
            };
            let reply: ScaleReply = client.post("/v1/scale", &wish).await?;
            Ok(format!("{} workers wanted", reply.workers))
        }
        Order::Restart(slot) => {
            let route = format!("/v1/workers/{slot}/restart");
            let reply: RestartReply = client.post(&route, &serde_json::json!({})).await?;
            Ok(format!(
                "worker {} of slot {} is being replaced",
                reply.worker, reply.slot
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use rcluster_core::supervisor::Generation;

    #[test]
    fn the_end_of_a_reload_shows_its_first_warning() {
        let served = |warnings: &[&str]| {
            let warnings: Vec<_> = warnings.iter().map(|w| (*w).to_owned()).collect();
            super::served(Generation(2), &warnings)
        };
        assert_eq!(served(&[]), "generation 2 serves");
        assert_eq!(served(&["a\nb"]), "generation 2 serves; warning: a");
        let two = "generation 2 serves; warning: a\\u{1b} (and 1 more)";
        assert_eq!(served(&["a\u{1b}", "b"]), two);
    }
}
