//! What a server says while our client negotiates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_nbd::fuzzing::client_negotiation(data));
