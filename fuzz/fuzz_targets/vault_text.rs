//! Objects of a vault: text.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_store::fuzzing::text(data));
