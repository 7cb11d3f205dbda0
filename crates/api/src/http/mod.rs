//! HTTP without Azure: targets, requests, answers, and the server.

pub mod request;
pub mod response;
pub mod target;

pub use request::{Client, Request};
pub use response::{Body, Response};
