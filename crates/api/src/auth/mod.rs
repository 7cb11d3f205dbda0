//! Who asks, whether they may, and what is remembered of it.

mod gate;

pub use gate::{AuditEvent, Caller, CallerKind, Credentials, Gate};
