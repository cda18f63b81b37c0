//! What commands print: the only users of the standard streams for text. `clippy.toml` forbids
//! `println!` and its like elsewhere, so text cannot reach a terminal without passing here.

use std::{
    fmt,
    io::{self, Write as _},
};

use rcluster_core::escape;

/// Prints text of ours on stdout, colours included, and a newline. Parts that somebody else chose must
/// be escaped before; documents from [`Client`](crate::admin::Client) are.
///
/// Who reads it may have gone, as in `rcluster status | head -1`: that changes nothing.
pub fn out(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints JSON text on stdout, and a newline. Its value is unchanged; characters that act on a terminal
/// become `\u` escapes.
///
/// # Errors
/// Those of write(2): nobody reads any more.
pub fn json(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", escape::json(text))?;
    stdout.flush()
}

/// Prints an error on stderr, escaped: `rcluster: WHAT`.
pub fn error(what: impl fmt::Display) {
    note(format_args!("rcluster: {what}"));
}

/// Prints a line on stderr, escaped. Further lines of the text are indented.
pub fn note(what: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{}", escape::block(&what.to_string()));
}
