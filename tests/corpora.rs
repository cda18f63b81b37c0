//! The fuzz targets over the inputs that are kept: what once went wrong stays right.

use std::{fs, path::Path};

#[expect(unreachable_pub, reason = "there it is a library")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Runs a target over its inputs. It panics where a promise is broken.
fn over(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let inputs = fs::read_dir(folder.join(name)).expect("a folder of inputs");
    let mut count = 0;
    for input in inputs {
        let path = input.expect("an input").path();
        // Shown only if the test fails.
        println!("{}", path.display());
        target(&fs::read(&path).expect("a readable input"));
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn lines_of_a_worker() {
    over("lines", targets::lines);
}

#[test]
fn orders_of_a_channel() {
    over("channel", targets::channel);
}

#[test]
fn connections_to_the_admin_server() {
    over("http", targets::http);
}

#[test]
fn configuration_files() {
    over("config", targets::config);
}

#[test]
fn environment_files() {
    over("env", targets::env);
}

#[test]
fn ecosystem_files_of_pm2() {
    over("pm2", targets::pm2);
}
