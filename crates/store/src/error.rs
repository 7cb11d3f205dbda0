//! Errors of a vault, named by what the caller can do about them.

use crate::objects::ObjectError;
use std::io;
use strongroom_domain::PointId;
use thiserror::Error;

/// A result of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why an operation on a vault did not succeed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The location has no header, or one of something else.
    #[error(
        "{location} is not a vault: {detail}. Make one with `strongroom rescue vault init`, or check the location"
    )]
    NotAVault {
        /// Where it was looked.
        location: String,
        /// What was found instead.
        detail: String,
    },
    /// Use a newer program.
    #[error(
        "{location} is a vault of format version {found}; this program reads up to version {supported}. Use a newer Strongroom"
    )]
    NewerFormat {
        /// Which vault.
        location: String,
        /// Its format's version.
        found: u64,
        /// The highest that this program reads.
        supported: u64,
    },
    /// Use a newer program: the vault uses what this one does not know.
    #[error(
        "{location} is a vault that uses {}, which this program does not know; Strongroom {release} does, and later ones", names.join(", ")
    )]
    UnknownRequirement {
        /// Which vault.
        location: String,
        /// What it uses.
        names: Vec<String>,
        /// The first release that knows all of it, as the vault says.
        release: String,
    },
    /// The location may be another place than the vault's: a file system that is not mounted, another bucket.
    #[error(
        "{location} does not carry the marker of its vault ({detail}); nothing was written or deleted there. Check that \
         the right file system is mounted or the right bucket named; if it is, `strongroom rescue vault check \
         --renew-marker` marks it anew"
    )]
    Unmarked {
        /// Which vault.
        location: String,
        /// What is wrong with the marker.
        detail: String,
    },
    /// No copy of the roll can be read, so nothing may be freed.
    #[error(
        "which points the vault at {location} has is not known ({detail}); nothing was freed. Run `strongroom rescue vault \
         check`, put the object `roll` or `roll.copy` back if you have it, or look at `strongroom rescue point list` and, \
         if all points are there, run `strongroom rescue vault reclaim --as-listed`"
    )]
    RollUnknown {
        /// Which vault.
        location: String,
        /// What is wrong with the copies.
        detail: String,
    },
    /// Bring back what is missing, or write it off.
    #[error(
        "{} known to be in the vault, but not there, and nobody forgot {}: {}. Nothing was freed. Mount or restore what is missing of \
         the vault; `strongroom rescue vault check` looks at it. If the loss is certain, `strongroom rescue vault reclaim \
         --accept-loss POINT` writes a point off",
        match points.len() { 1 => "a point is".to_owned(), n => format!("{n} points are") },
        if points.len() == 1 { "it" } else { "them" },
        points.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    PointsMissing {
        /// Those that are not there; never empty.
        points: Vec<PointId>,
    },
    /// The key is another vault's, or an older one.
    #[error(
        "the key does not open vault {vault}: it wants key {wanted}, this is key {given}. Give the right one with --key-file, or import it with `strongroom rescue vault key import`"
    )]
    WrongKey {
        /// Which vault.
        vault: String,
        /// The id of the key that its data key is wrapped with.
        wanted: String,
        /// The id of the key that was given.
        given: String,
    },
    /// There is no key where keys are kept.
    #[error(
        "no key for vault {vault}: {detail}. Give it with --key-file, or import it with `strongroom rescue vault key import`"
    )]
    KeyMissing {
        /// Which vault.
        vault: String,
        /// Where it was looked.
        detail: String,
    },
    /// What was named is not there.
    #[error("{what} not found{hint}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What to do, as the end of a sentence; may be empty.
        hint: &'static str,
    },
    /// What was to be made is there already; it was left as it is.
    #[error("{what} already exists")]
    AlreadyExists {
        /// What it is.
        what: String,
    },
    /// Try again when the other is done.
    #[error("{what} is in use: {by}")]
    Busy {
        /// What is in use.
        what: String,
        /// Who uses it.
        by: String,
    },
    /// Stored bytes are missing or wrong: see [`is_damage`](Self::is_damage).
    #[error("{object} is damaged: {detail}")]
    Corrupt {
        /// Which object; or a block or node, where no object is to blame.
        object: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The caller asked for what cannot be.
    #[error("invalid {what}: {detail}")]
    Invalid {
        /// What of it is wrong.
        what: &'static str,
        /// How.
        detail: String,
    },
    /// Others may have taken this session for over: run it again.
    #[error("this session lost its lease on the vault ({detail}); nothing was committed. Run it again")]
    LeaseLost {
        /// How it was noticed.
        detail: String,
    },
    /// Somebody asked to stop: [`Progress::cancel`](crate::Progress::cancel).
    #[error("cancelled")]
    Cancelled,
    /// The object store failed; its kind says what the caller can do.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A call to the system failed, of what is no object.
    #[error("{doing}: {cause}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        cause: io::Error,
    },
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
