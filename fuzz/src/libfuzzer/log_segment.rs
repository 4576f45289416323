//! libFuzzer's way into `log_segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::log_segment::bytes(data));
