use std::path::Path;

use rcluster::settings::{File, FileError, convert, yaml};
use serde_json::Value;

/// A PM2 ecosystem file. The first byte chooses JSON or YAML, and the options.
///
/// What comes out is TOML with known keys only, whatever stood in the file, and each line for the
/// operator is one line.
pub fn pm2(input: &[u8]) {
    let Some((options, input)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let value: Option<Value> = if options & 1 == 0 {
        serde_json::from_str(text).ok()
    } else {
        yaml(text).ok()
    };
    let app = (options & 2 != 0).then_some("a");
    let env = (options & 4 != 0).then_some("production");
    let Some(Ok(made)) = value.map(|value| convert(&value, app, env)) else {
        return;
    };
    if let Err(error) = toml::from_str::<toml::Table>(&made.toml) {
        panic!("not TOML: {error}\n{}", made.toml);
    }
    let read = File::parse(Path::new("/srv/app/rcluster.toml"), &made.toml);
    if let Err(FileError::Wrong { why, .. }) = read {
        assert!(!why.contains("unknown key"), "{why}");
    }
    for lost in &made.lost {
        assert!(!lost.contains(char::is_control), "{lost:?}");
    }
}
