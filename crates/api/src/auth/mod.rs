//! Who asks, whether they may, and what is remembered of it.
//!
//! [`Gate`] is what the rest of the API asks. [`SignIn`] is the real one: it gives out tokens and checks them, over a
//! [`Directory`] of accounts and a [`KeyStore`]; [`CatalogDirectory`] is both, over the service's catalog.

mod catalog;
mod directory;
mod documents;
mod gate;
mod jwt;
mod keys;
mod secret;
mod sign_in;
mod throttle;
mod token_endpoint;

pub use catalog::CatalogDirectory;
pub use directory::{Account, AccountKind, Directory, KeyStore, StoredKey, Unavailable};
pub use documents::AUDIENCE;
pub use gate::{AuditEvent, Caller, CallerKind, Credentials, Gate};
pub use secret::{generate_secret, hash_secret};
pub use sign_in::{HasSignIn, SignIn, SignInConfig};
pub use token_endpoint::routes;

pub(crate) use throttle::{Refusals, Whose};
