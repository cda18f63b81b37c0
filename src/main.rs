//! The `rcluster` command.

fn main() {}
