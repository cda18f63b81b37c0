use std::collections::VecDeque;

use rcluster_core::ipc::{Channel, Outgoing, Refused, outbound};

/// Bytes that may wait for a worker.
const MAX_QUEUED: usize = 1 << 20;
/// How often a refused handle is sent again.
const RESENDS: u32 = 3;

/// A script of what the master sends and the worker answers, a byte a step.
///
/// Messages leave in the order in which they came, acknowledgements first while a handle waits for
/// its own; never two handles at a time; what waits is bounded; and a channel that is written out
/// and read back goes on as if nothing had been.
pub fn channel(script: &[u8]) {
    let mut channel = Channel::<u32>::default();
    let mut model = Model::default();
    for (number, byte) in script.iter().enumerate().take(2000) {
        let (step, size) = (byte % 8, usize::from(byte / 8));
        match step {
            0 | 1 => {
                // Sizes from a few bytes to more than fits.
                let mut line = format!("{number}:").into_bytes();
                line.resize(line.len() + size * size * size * 40, b'x');
                let handle = (step == 1).then(|| u32::try_from(number).expect("a small number"));
                let fits = model.bytes() + line.len() <= MAX_QUEUED;
                let message = Outgoing { line, handle };
                assert_eq!(channel.push(message.clone()).is_ok(), fits);
                if fits {
                    model.waiting.push_back(message);
                }
            }
            2 => {
                let line = outbound::handle_ack();
                let fits = model.bytes() + line.len() <= MAX_QUEUED;
                assert_eq!(channel.push_ack(line).is_ok(), fits);
                model.acks += usize::from(fits);
            }
            3 => match channel.pop() {
                Some(message) if model.acks > 0 => {
                    assert_eq!(message.line, outbound::handle_ack());
                    model.acks -= 1;
                }
                Some(message) => {
                    assert_eq!(model.flying, None);
                    assert_eq!(Some(&message), model.waiting.pop_front().as_ref());
                    model.flying = message.handle.map(|handle| (handle, 0));
                }
                None => {
                    assert!(
                        model.acks == 0 && (model.flying.is_some() || model.waiting.is_empty())
                    );
                }
            },
            4 => assert_eq!(
                channel.acknowledged().is_ok(),
                model.flying.take().is_some()
            ),
            5 => match (channel.refused(), model.flying.take()) {
                (Err(_), None) => {}
                (Ok(Refused::ForGood(gone)), Some((handle, resends))) => {
                    assert!(resends == RESENDS && gone.handle == Some(handle));
                }
                (Ok(Refused::Again(again)), Some((handle, resends))) => {
                    assert!(resends < RESENDS && again.handle == Some(handle));
                    model.flying = Some((handle, resends + 1));
                }
                other => panic!("{other:?}"),
            },
            6 => {
                let odd = |m: &Outgoing<u32>| m.handle.is_some_and(|handle| handle % 2 == 1);
                let gone = channel.withdraw(odd);
                let (expected, kept) = model.waiting.drain(..).partition(odd);
                model.waiting = kept;
                assert_eq!(gone, Vec::from(expected));
            }
            _ => {
                let text = serde_json::to_string(&channel).expect("written out");
                channel = serde_json::from_str(&text).expect("read back");
            }
        }
        assert_eq!(channel.len(), model.waiting.len() + model.acks);
    }
}

#[derive(Default)]
struct Model {
    acks: usize,
    waiting: VecDeque<Outgoing<u32>>,
    /// The handle in flight, and how often it was sent again.
    flying: Option<(u32, u32)>,
}

impl Model {
    fn bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|message| message.line.len()).sum();
        waiting + self.acks * outbound::handle_ack().len()
    }
}
