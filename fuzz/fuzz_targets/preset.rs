#![no_main]

#[path = "../../tests/support/survives.rs"]
mod survives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| survives::preset(bytes));
