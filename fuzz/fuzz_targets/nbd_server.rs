//! What a client says to our server, from the greeting into requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _answers = strongroom_nbd::fuzzing::server_conversation(data);
});
