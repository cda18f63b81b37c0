//! The dialect of environment files: that of `node --env-file` and `util.parseEnv`, exactly.
//!
//! Node 24 is the reference; 22 and 26 read the same. Node 20 reads some files otherwise: it joins a line without `=`
//! to the next one, and drops the last line if its quote is never closed. Node's rules are `Dotenv::ParseContent` in
//! `src/node_dotenv.cc`; `tests/env_file.rs` compares the two on thousands of files.

/// The variables of an environment file in their order; of two with one name the later one counts.
///
/// Nothing is an error, as in Node: a line without `=` is skipped, and a quote that is never closed is part of the value.
/// A byte order mark is part of the first name. Names that no process can have are left out: an empty one, one with a NUL.
/// A value ends at a NUL, as `node --env-file` sets it.
///
/// ```text
/// NAME=value            # spaces and tabs around both go; a comment may follow
/// export NAME=value     # `export ` goes
/// A-B.C=value           # any name
/// NAME="a\nb"           # in double quotes \n is a line break
/// NAME='a # b'          # in quotes ("", '', ``) everything counts, line breaks too
/// ```
pub fn parse(text: &str) -> Vec<(String, String)> {
    let text = text.replace('\r', "");
    let mut rest = trim(&text);
    let mut found = vec![];
    while let Some(first) = rest.chars().next() {
        if first == '\n' || first == '#' {
            rest = after_line(rest);
            continue;
        }
        let Some((name, after)) = name(rest) else {
            rest = trim(after_line(rest));
            continue;
        };
        // So does Node: where nothing follows the `=`, `export ` is part of the name.
        let (name, value, after) = match after.chars().next() {
            None | Some('\n') => (name, String::new(), after),
            Some(_) if name.is_empty() => {
                // Only the `=` is skipped.
                rest = trim(after);
                continue;
            }
            Some(_) => {
                let name = name.strip_prefix("export ").map_or(name, trim);
                let (value, after) = value(after);
                (name, value, after)
            }
        };
        rest = after;
        found.extend(variable(name, &value));
    }
    found
}

/// A name and what follows its `=`, if that comes before the end of the line.
fn name(rest: &str) -> Option<(&str, &str)> {
    // Only this line is searched: the time for a file must grow with its size, not with its square.
    let end = rest.find('\n').unwrap_or(rest.len());
    let at = rest[..end].find('=')?;
    Some((trim(&rest[..at]), &rest[at + 1..]))
}

/// A value, and what follows its line.
fn value(rest: &str) -> (String, &str) {
    // So does Node: where nothing but spaces follows the `=`, the next line is the value.
    let rest = trim(rest);
    let quote = rest.chars().next().filter(|c| "\"'`".contains(*c));
    if let Some(quote) = quote
        && let Some((quoted, after)) = rest[1..].split_once(quote)
    {
        let value = match quote {
            '"' => quoted.replace("\\n", "\n"),
            _ => quoted.to_owned(),
        };
        return (value, after_line(after));
    }
    let line = rest.split('\n').next().unwrap_or_default();
    let value = match quote {
        // It is never closed: part of the value, as is a `#` after it.
        Some(_) => line,
        None => trim(line.split('#').next().unwrap_or_default()),
    };
    (value.to_owned(), trim(after_line(rest)))
}

/// What a process can have of a variable.
fn variable(name: &str, value: &str) -> Option<(String, String)> {
    let value = value.split('\0').next().unwrap_or_default();
    let good = !name.is_empty() && !name.contains('\0');
    good.then(|| (name.to_owned(), value.to_owned()))
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n'])
}

fn after_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let pairs = parse(text);
        pairs.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    #[test]
    fn values_comments_and_quotes() {
        for (text, wanted) in [
            ("# c\n\nA=1\n", vec!["A=1"]),
            (
                "export B = two words # c\r\nC=3",
                vec!["B=two words", "C=3"],
            ),
            ("A.b-c=1#2", vec!["A.b-c=1"]),
            ("A=\"x\\ny\" junk\nB='x\\ny'", vec!["A=x\ny", "B=x\\ny"]),
            ("A=`x\ny#z`\nB=", vec!["A=x\ny#z", "B="]),
            ("nope\n  A=1\n=2\nB=\"x", vec!["A=1", "B=\"x"]),
            ("A=1\nA=x\0y\nB\0=1", vec!["A=1", "A=x"]),
            ("\u{feff}A=1", vec!["\u{feff}A=1"]),
            ("A= \nB=1", vec!["A=B=1"]),
        ] {
            assert_eq!(shown(text), wanted, "{text:?}");
        }
    }
}
