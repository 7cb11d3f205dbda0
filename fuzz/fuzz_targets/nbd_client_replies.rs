//! What a server replies to one request of our client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strongroom_nbd::fuzzing::client_replies(data));
