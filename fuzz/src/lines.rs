use rcluster_core::ipc::{Inbound, Line, LineDecoder, bounds::MAX_LINE, outbound};
use serde_json::Value;

/// This byte stands for [`RUN`] bytes, so that a small input makes a long line.
const LONG: u8 = 0xF5;
/// Bytes that [`LONG`] stands for.
const RUN: usize = 300 * 1024;
/// How many [`LONG`] bytes of an input count.
const RUNS: usize = 5;

/// What a worker writes, in pieces: the first byte is the size of a piece in steps of 7 bytes.
///
/// The decoder gives the lines that a plain split gives, and keeps no more than its limit. Every
/// line is a message or malformed, and what is echoed of a message stays one line.
pub fn lines(input: &[u8]) {
    let Some((step, input)) = input.split_first() else {
        return;
    };
    let bytes = expanded(input);
    let step = if bytes.len() > 65_536 {
        65_536
    } else {
        usize::from(*step) * 7 + 1
    };
    let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    expected.pop();
    let mut expected = expected.into_iter();
    let mut decoder = LineDecoder::default();
    for piece in bytes.chunks(step) {
        decoder.feed(piece, |line| {
            let whole = expected.next().expect("a line that is not there");
            match line {
                Line::TooLong => assert!(whole.len() > MAX_LINE),
                Line::Whole(line) => {
                    assert_eq!(line, whole);
                    message(line);
                }
            }
        });
        assert!(decoder.pending() <= MAX_LINE);
    }
    assert_eq!(expected.next(), None);
}

fn expanded(input: &[u8]) -> Vec<u8> {
    let mut runs = 0;
    let mut bytes = Vec::with_capacity(input.len());
    for byte in input {
        if *byte == LONG && runs < RUNS {
            runs += 1;
            bytes.resize(bytes.len() + RUN, b'x');
        } else {
            bytes.push(*byte);
        }
    }
    bytes
}

fn message(line: &[u8]) {
    let read = Inbound::parse(line);
    if line.len() < 65_536 {
        let json = serde_json::from_slice::<Value>(line);
        // What is no JSON is malformed, whatever it contains.
        assert!(json.is_err() || read.is_ok());
    }
    if let Ok(Inbound::Query(query)) = read {
        let key = query.key();
        for answer in [
            outbound::listener(&query.seq, &key, &query.data, query.address_type.is_udp()),
            outbound::refusal(&query.seq, &key, 98, &query.data),
        ] {
            let (end, line) = answer.split_last().expect("an answer");
            assert!(*end == b'\n' && !line.contains(&b'\n'));
            serde_json::from_slice::<Value>(line).expect("an answer in JSON");
        }
    }
}
