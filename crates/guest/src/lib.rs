//! The extension that runs inside a machine.
//!
//! - [`phases`]: the two calls around a snapshot, `prepare` and `finish`, which run the user's scripts as Azure's
//!   framework does: same files, same keys, same codes.
//! - [`warden`]: the process that `prepare` leaves behind. Whatever becomes of the host, of the guest agent or of the
//!   extension, it thaws what stayed frozen within [`limits::HOLD_LIMIT_SECONDS`], and runs the post-script if nobody else does.
//! - [`hold`]: freezing without the guest agent.
//! - [`port`]: the requests of a host over the extension's own virtio-serial port.
//! - [`wire`]: what host and extension say to each other. The host uses this module alone.
//!
//! The binary is static, has one thread, opens no network port, and keeps its state in `/run/strongroom-guest`.

#![warn(missing_docs)]

pub mod config;
pub mod hold;
pub mod limits;
pub mod mounts;
pub mod phases;
pub mod pid;
pub mod port;
pub mod script;
pub mod session;
pub mod sys;
pub mod text;
pub mod trusted;
pub mod warden;
pub mod wire;
