//! Objects of a vault: roll and tombstones.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_store::fuzzing::sealed(data));
