//! Objects of a vault: index_run.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_store::fuzzing::index_run(data));
