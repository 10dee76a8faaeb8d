#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sidestep_fuzz::porch(bytes));
