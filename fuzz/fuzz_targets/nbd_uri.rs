//! NBD URIs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_nbd::fuzzing::uri(data));
