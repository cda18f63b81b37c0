use rcluster::config::dotenv::parse;

/// The text of an environment file: every variable is one that a process can have, and carriage returns count for nothing.
pub fn env(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let found = parse(text);
    for (name, value) in &found {
        assert!(!name.is_empty() && !name.contains('=') && !name.contains('\0'));
        assert!(!value.contains('\0') && !value.contains('\r'));
    }
    assert_eq!(found, parse(&text.replace('\r', "")));
}
