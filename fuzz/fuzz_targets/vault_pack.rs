//! Objects of a vault: pack.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_store::fuzzing::pack(data));
