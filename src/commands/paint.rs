//! Colours on a terminal, and none in a pipe.

use std::io::IsTerminal;

use comfy_table::Color;

/// Whether what is printed may have colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paint(bool);

impl Paint {
    /// On a terminal that can, unless `NO_COLOR` is set (no-color.org).
    pub(super) fn of(output: &impl IsTerminal) -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Self(output.is_terminal() && set("NO_COLOR").is_none() && !dumb)
    }

    pub(super) fn is_on(self) -> bool {
        self.0
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Something to look at.
    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// A state in its colour.
    pub(super) fn word(self, state: &str) -> String {
        self.with(look(state).0, state)
    }
}

/// The colour of a state, as in `rcluster top`.
pub(super) fn tone(state: &str) -> Color {
    look(state).1
}

/// Its SGR code (ECMA-48, 8.3.117), and what a table calls it.
fn look(state: &str) -> (&'static str, Color) {
    match state {
        "ready" | "serving" => ("32", Color::DarkGreen),
        "booting" | "starting" | "held" | "spare" | "reloading" => ("33", Color::DarkYellow),
        "draining" => ("36", Color::DarkCyan),
        _ => ("31", Color::DarkRed),
    }
}
