//! Errors of a vault, named by what the caller can do about them.

use crate::objects::ObjectError;
use std::io;
use strongroom_domain::PointId;
use thiserror::Error;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why an operation on a vault did not succeed.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error(
        "{location} is not a vault: {detail}. Make one with `strongroom rescue vault init`, or check the location"
    )]
    NotAVault { location: String, detail: String },
    #[error(
        "{location} is a vault of format version {found}; this program reads up to version {supported}. Use a newer Strongroom"
    )]
    NewerFormat { location: String, found: u64, supported: u64 },
    #[error(
        "{location} is a vault that uses {}, which this program does not know; Strongroom {release} does, and later ones", names.join(", ")
    )]
    UnknownRequirement { location: String, names: Vec<String>, release: String },
    #[error(
        "{location} does not carry the marker of its vault ({detail}); nothing was written or deleted there. Check that \
         the right file system is mounted or the right bucket named; if it is, `strongroom rescue vault check \
         --renew-marker` marks it anew"
    )]
    Unmarked { location: String, detail: String },
    #[error(
        "which points the vault at {location} has is not known ({detail}); nothing was freed. Run `strongroom rescue vault \
         check`, put the object `roll` or `roll.copy` back if you have it, or look at `strongroom rescue point list` and, \
         if all points are there, run `strongroom rescue vault reclaim --as-listed`"
    )]
    RollUnknown { location: String, detail: String },
    #[error(
        "{} known to be in the vault, but not there, and nobody forgot {}: {}. Nothing was freed. Mount or restore what is missing of \
         the vault; `strongroom rescue vault check` looks at it. If the loss is certain, `strongroom rescue vault reclaim \
         --accept-loss POINT` writes a point off",
        match points.len() { 1 => "a point is".to_owned(), n => format!("{n} points are") },
        if points.len() == 1 { "it" } else { "them" },
        points.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    PointsMissing { points: Vec<PointId> },
    #[error(
        "the key does not open vault {vault}: it wants key {wanted}, this is key {given}. Give the right one with --key-file, or import it with `strongroom rescue vault key import`"
    )]
    WrongKey { vault: String, wanted: String, given: String },
    #[error(
        "no key for vault {vault}: {detail}. Give it with --key-file, or import it with `strongroom rescue vault key import`"
    )]
    KeyMissing { vault: String, detail: String },
    #[error("{what} not found{hint}")]
    NotFound { what: String, hint: &'static str },
    #[error("{what} already exists")]
    AlreadyExists { what: String },
    #[error("{what} is in use: {by}")]
    Busy { what: String, by: String },
    #[error("{object} is damaged: {detail}")]
    Corrupt { object: String, detail: String },
    #[error("invalid {what}: {detail}")]
    Invalid { what: &'static str, detail: String },
    #[error("this session lost its lease on the vault ({detail}); nothing was committed. Run it again")]
    LeaseLost { detail: String },
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("{doing}: {cause}")]
    Io { doing: String, cause: io::Error },
}

impl StoreError {
    pub(crate) fn corrupt(object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { object: object.into(), detail: detail.into() }
    }

    pub(crate) fn io(doing: impl Into<String>, cause: io::Error) -> Self {
        Self::Io { doing: doing.into(), cause }
    }

    /// Whether stored bytes were found missing or wrong, as opposed to not reachable.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}
