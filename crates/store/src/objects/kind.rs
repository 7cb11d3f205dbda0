//! What a failed operation means for whoever asked for it.

/// What a failed operation means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No such object (or, when opening, no such location).
    NotFound,
    /// Create-if-absent met an object that is already there.
    AlreadyExists,
    /// The file system, quota or bucket is full. Nothing was written.
    NoSpace,
    /// Permission or credentials refused.
    Denied,
    /// The location can be read but not written.
    ReadOnly,
    /// The request itself can't be right: a malformed name, location or setting.
    Invalid,
    /// The object is larger than the caller's bound.
    TooLarge,
    /// The object ends before the range that was asked for.
    Short,
    /// Failed in a way that may pass: the bounded retries are used up, the outcome is unknown.
    Transient,
    /// The store replaces objects that it is to create only if there are none: no vault is safe in it.
    NotExclusive,
    /// Whoever asked has been told to stop, and no longer waits; the outcome is unknown.
    Cancelled,
    /// Anything else; the source says what.
    Other,
}

impl Kind {
    /// The advice that goes with the kind; empty where the cause says it all.
    pub(super) fn advice(self, op: Op) -> &'static str {
        match self {
            Kind::NotFound if op == Op::Open => "check the location, or create the vault there first",
            Kind::NoSpace => {
                "free space there or move the vault to a larger place, then run again; nothing is lost"
            }
            Kind::Denied => "check the owner and permissions of the location, or the credentials in use",
            Kind::ReadOnly => "remount it for writing, or use another location",
            Kind::NotExclusive => {
                "points of runs that write at the same time would be lost without anybody noticing: use a server, or a release of \
                 it, that honours conditional writes (Amazon S3 and MinIO do), or a directory; or make the vault for one writer at a time (`strongroom vault create` and `strongroom rescue vault init`, with `--single-writer`)"
            }
            Kind::Transient => "the outcome is unknown; check that the storage is reachable, then run again",
            _ => "",
        }
    }
}

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opening a location.
    Open,
    /// Create-if-absent.
    PutNew,
    /// Create or replace.
    Put,
    /// Reading a whole object.
    Get,
    /// Reading part of an object.
    GetRange,
    /// Asking for size and time.
    Head,
    /// Listing names.
    List,
    /// Deleting.
    Delete,
}

impl Op {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Op::Open => "open",
            Op::PutNew => "create",
            Op::Put => "write",
            Op::Get | Op::GetRange => "read",
            Op::Head => "look up",
            Op::List => "list",
            Op::Delete => "delete",
        }
    }
}
