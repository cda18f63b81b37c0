#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rcluster_fuzz::lines(input));
