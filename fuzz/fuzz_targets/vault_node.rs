//! Objects of a vault: node.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_store::fuzzing::node(data));
