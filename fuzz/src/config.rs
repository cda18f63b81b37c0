use std::path::Path;

use rcluster::settings::{File, FileError};

/// The text of a `rcluster.toml`: it is read, or the error names a line that the text has.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let read = || File::parse(Path::new("/srv/app/rcluster.toml"), text);
    match read() {
        Ok(file) => {
            assert!(file.env.iter().all(|(name, value)| {
                let (name, value) = (name.as_encoded_bytes(), value.as_encoded_bytes());
                !name.is_empty()
                    && !name.contains(&b'=')
                    && !name.contains(&0)
                    && !value.contains(&0)
            }));
            assert_eq!(
                format!("{file:?}"),
                format!("{:?}", read().expect("read again"))
            );
        }
        Err(FileError::Wrong { line, why, .. }) => {
            assert!((1..=text.matches('\n').count() + 1).contains(&line));
            assert!(!why.is_empty());
        }
        Err(other) => panic!("{other}"),
    }
}
