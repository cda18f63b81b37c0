//! Everything that a worker can make the master keep or log has its bound here.
//!
//! | what | bound for one worker |
//! |---|---|
//! | the line that comes in, with the buffer's spare room | 2 [`MAX_LINE`] |
//! | messages that wait for the worker, with their containers | 4 [`MAX_QUEUED`] |
//! | queries at the gate, and for Unix paths that are being made | [`MAX_WITHHELD`] queries each |
//! | error texts | [`MAX_TEXT`] each: the last one, and those of the last 20 incidents of all workers |
//! | log lines | [`MAX_LINES`] in 10 s, each at most 16 KiB |
//!
//! All workers share the inbox of the loop (256 messages, 32 KiB each at most), [`MAX_KEYS`] listeners, and
//! [`MAX_WITHHELD`] queries that wait for the owner of a taken port. `runtime/bounds_test.rs` measures the whole with an allocator that counts.

/// Longest line, bytes, without its newline; a longer one is dropped.
pub const MAX_LINE: usize = 1 << 20;
/// Longest line that is read as a tree of values, bytes. Node's own messages and the shim's are shorter; of
/// longer ones only the text of an error is read, and what a query needs to be refused.
pub const MAX_TREE: usize = 64 * 1024;
/// Bytes that may wait for one worker.
pub const MAX_QUEUED: usize = 1 << 20;
/// Longest address, bytes: a path (`PATH_MAX`, limits.h).
pub const MAX_ADDRESS: usize = 4096;
/// Longest key of a listener, bytes: an address and some numbers.
pub const MAX_KEY: usize = MAX_ADDRESS + 128;
/// Longest `data` of a query, bytes of JSON. TLS ticket keys are 250.
pub const MAX_DATA: usize = 1024;
/// Longest text of an error, bytes, and of its stack.
pub const MAX_TEXT: usize = 8 * 1024;
/// Longest name of an error, bytes, and Node's version.
pub const MAX_NAME: usize = 128;
/// Queries of one worker that wait at the gate, or for a Unix path to be made; more are refused with EMFILE.
pub const MAX_WITHHELD: usize = 64;
/// Keys under which workers know the listeners of one master.
pub const MAX_KEYS: usize = 256;
/// Refused queries that are remembered, so that the log tells of each once. Of each a number is kept.
pub const MAX_REFUSED: usize = 1024;
/// Log lines that one worker can cause in 10 s; more are counted.
pub const MAX_LINES: u32 = 20;
/// Largest count that is believed: the largest whole number of JavaScript (`Number.MAX_SAFE_INTEGER`).
pub const MAX_COUNT: u64 = (1 << 53) - 1;
/// Classes of responses that are counted.
pub const MAX_CLASSES: usize = 5;
/// Buckets of durations that are counted (`bucketOf` in `node-shim/hooks.cjs` has 88).
pub const MAX_BUCKETS: usize = 128;
