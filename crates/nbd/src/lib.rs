#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod client;
mod endpoint;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod net;
mod server;
#[doc(hidden)]
pub mod wire;

pub use client::{Client, ConnectOptions, DirtyExtent, ExportInfo, JoinedExtent, ListedExport, StatusExtent};
pub use endpoint::{DEFAULT_PORT, Endpoint, NbdUri};
pub use error::{Errno, Error, ErrorKind, Result};
pub use limits::ServerLimits;
pub use server::{Export, Extent, ExtentKind, Server, ServerHandle};
pub use wire::{BASE_ALLOCATION, STATE_HOLE, STATE_ZERO};
