//! Test support (feature `test-support`): the conformance suite every back-end must pass, and a real S3 server.

mod conformance;
mod encrypted;
mod front;
mod s3_server;

pub use conformance::conformance;
pub use front::{Asked, Refuse};
pub use s3_server::{ErrorAnswer, S3Server};
