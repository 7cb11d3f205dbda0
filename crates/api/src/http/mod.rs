//! HTTP without Azure: targets, requests, answers, and the server.

mod bodies;
mod connections;
mod exchange;
mod io;
mod paging;
mod pool;
pub mod request;
pub mod response;
pub mod server;
mod source;
pub mod target;

pub(crate) use request::Rows;
pub use request::{Client, Request};
pub use response::{Body, Response};
pub use server::{Server, ServerBounds, ServerConfig, ServerError, Stop};
pub(crate) use source::Source;
