#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hob::fuzz::archive(data));
