//! Texts of errors that an app threw, for people. Pure.

/// An error as one text: `NAME: MESSAGE` first, then where it was thrown, then the rest of the stack.
///
/// V8 puts file, line and source of a syntax error before its message (`stack` of an error that
/// `node:internal/modules/cjs/loader` decorated).
pub fn compose(name: &str, message: &str, stack: &str) -> String {
    let headline = match (name, message) {
        ("", message) => message.to_owned(),
        (name, "") => name.to_owned(),
        (name, message) => format!("{name}: {message}"),
    };
    let first = headline.lines().next().unwrap_or_default();
    if stack.is_empty() {
        return headline;
    }
    if stack.starts_with(first) {
        return stack.to_owned();
    }
    let Some((excerpt, rest)) = stack.split_once(&format!("\n{first}")) else {
        return format!("{headline}\n{stack}");
    };
    let mut excerpt = excerpt.lines();
    let place = excerpt.next().unwrap_or_default();
    let source: String = excerpt
        .filter(|line| !line.trim().is_empty())
        .flat_map(|line| ["\n        ", line])
        .collect();
    format!("{first}\n    at {place}{source}{rest}")
}

/// An error on one line: its message, and the first frame of the app, or else the first frame.
pub fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    let frames: Vec<_> = lines.filter(|line| line.starts_with("at ")).collect();
    let own = frames.iter().find(|frame| !frame.contains("node:"));
    match own.or(frames.first()) {
        Some(frame) => format!("{first} ({frame})"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_comes_first_and_the_place_is_the_apps() {
        let stack = "/app/x.js:2\nlisten(0\n      ^\n\nSyntaxError: missing )\n    at wrapSafe (node:internal/loader:1)";
        let text = compose("SyntaxError", "missing )", stack);
        assert_eq!(
            text,
            "SyntaxError: missing )\n    at /app/x.js:2\n        listen(0\n              ^\n    at wrapSafe (node:internal/loader:1)"
        );
        assert_eq!(one_line(&text), "SyntaxError: missing ) (at /app/x.js:2)");
        let plain = "TypeError: no\n    at f (node:fs:1)\n    at g (/app/y.js:3:4)";
        assert_eq!(compose("TypeError", "no", plain), plain);
        assert_eq!(one_line(plain), "TypeError: no (at g (/app/y.js:3:4))");
        assert_eq!(compose("E", "m", ""), "E: m");
        assert_eq!(compose("E", "m", "own words"), "E: m\nown words");
        assert_eq!(compose("", "thrown text", ""), "thrown text");
    }
}
