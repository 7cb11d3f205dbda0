//! Objects of a vault: manifest.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_store::fuzzing::manifest(data));
