//! Azure Resource Manager's wire format, as Strongroom speaks it: HTTPS, sign-in, routes, errors, filters and paging.
//!
//! This crate translates and delegates; it decides nothing. Handlers are plain blocking functions over the application's
//! state `S`; [`Api::dispatch`] takes a [`Request`] through route, sign-in, permission, handler and audit to a
//! [`Response`]. The server ([`http::server`]) calls it for what comes over HTTPS and the local socket; the command line
//! calls it in process where no server runs. `docs/api.md` is the contract.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api;
pub mod arm;
pub mod auth;
pub mod error;
pub mod http;
pub mod limits;
pub mod odata;
pub mod openapi;
pub mod route;
pub mod schema;
mod table;
pub mod tls;
pub mod wire;

/// The target of the log's lines that say what a request was answered: of no use to whoever sees the answer itself.
pub const ANSWERS: &str = "strongroom_api::answers";

pub use api::{Admission, Api, ApiBuilder, Clock, Dispatch};
pub use error::{ArmError, ArmErrorDetail};
pub use http::{Body, Client, Request, Response};
pub use route::{Access, Handler, Params, QueryParameter, Route, RouteError};
