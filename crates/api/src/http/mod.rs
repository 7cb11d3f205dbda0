//! HTTP without Azure: targets, requests, answers, and the server.

mod exchange;
mod io;
mod pool;
pub mod request;
pub mod response;
pub mod server;
pub mod target;

pub(crate) use request::Rows;
pub use request::{Client, Request};
pub use response::{Body, Response};
pub use server::{Server, ServerBounds, ServerConfig, ServerError, Stop};
