//! What is to go wrong, and when.

use std::time::Duration;

use crate::objects::kind::Kind;

/// The operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Any put.
    Put,
    /// Reading an object or part of it; several ranges at once count as one.
    Get,
    /// Asking for size and time.
    Head,
    /// A listing, counted when it is first read from.
    List,
    /// Deleting one object.
    Delete,
    /// Copying.
    Copy,
}

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; an error of this kind.
    ErrorBefore(Kind),
    /// All is done; then an error of this kind.
    ErrorAfter(Kind),
    /// A put leaves its first bytes under the name, then an error of this kind. Other operations: as `ErrorBefore`.
    TornObject {
        /// Bytes that land, at most all but one.
        keep_bytes: usize,
        /// The error.
        kind: Kind,
    },
    /// A put leaves its first bytes in the temporary directory (see
    /// [`FaultStore::with_temp_dir`](super::FaultStore::with_temp_dir)), then an error of this kind. Other operations: as
    /// `ErrorBefore`.
    TornTemp {
        /// Bytes that land.
        keep_bytes: usize,
        /// The error.
        kind: Kind,
    },
    /// The operation starts this much later.
    Delay(Duration),
    /// A delete says it worked and does nothing. Other operations go through.
    LoseDelete,
    /// A listing leaves out about half of the names, which ones by this seed. Other operations go through.
    ShortList {
        /// Chooses the names.
        seed: u64,
    },
    /// A listing shows nothing. Other operations go through.
    EmptyList,
    /// A listing leaves out what was written since the plan was set, and shows what was deleted since. Other operations
    /// go through.
    LateList,
    /// A get or head says that the object is not there. Other operations go through.
    SayNotFound,
}

/// Which operations a rule is about.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Only this kind of operation.
    pub op: Option<OpKind>,
    /// Only names (or listed prefixes) that start so.
    pub name_prefix: Option<String>,
    /// Of those, which.
    pub nth: Nth,
}

/// Which of the matching operations, counted from 0.
#[derive(Clone, Copy, Debug, Default)]
pub enum Nth {
    /// All.
    #[default]
    Every,
    /// Only this one.
    Only(u64),
    /// This and all later ones.
    From(u64),
    /// Those before this one.
    Before(u64),
    /// From the first of these up to before the second.
    Between(u64, u64),
    /// About one in so many, which ones by a seed.
    OneIn {
        /// One in so many.
        of: u64,
        /// Chooses them.
        seed: u64,
    },
}

impl Nth {
    pub(super) fn has(self, n: u64) -> bool {
        match self {
            Nth::Every => true,
            Nth::Only(k) => n == k,
            Nth::From(k) => n >= k,
            Nth::Before(k) => n < k,
            Nth::Between(from, to) => (from..to).contains(&n),
            Nth::OneIn { of, seed } => mixed(seed ^ n.wrapping_mul(0x9e37_79b9)).is_multiple_of(of),
        }
    }
}

/// A number that looks random.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Whether a short listing leaves a name out.
pub(super) fn leaves_out(seed: u64, name: &str) -> bool {
    name.bytes().fold(mixed(seed), |hash, byte| mixed(hash ^ u64::from(byte))) & 1 == 1
}

/// How the operation at which a simulated crash strikes ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing of it is done.
    Before,
    /// All of it is done, but nobody hears.
    After,
    /// A put leaves half its bytes in the temporary directory. Others: as `Before`.
    TornTemp,
    /// A put leaves half its bytes under the name: a store that breaks its promise. Others: as `Before`.
    TornObject,
}

/// What will go wrong, and when. Of several rules that match an operation, the first counts.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    pub(super) rules: Vec<(Matches, Fault)>,
    pub(super) crash: Option<(u64, Crash)>,
    pub(super) full_after_bytes: Option<u64>,
}

impl FaultPlan {
    /// Nothing goes wrong; operations are counted.
    pub fn none() -> Self {
        FaultPlan::default()
    }

    /// Adds a fault for matching operations.
    #[must_use]
    pub fn rule(mut self, matches: Matches, fault: Fault) -> Self {
        self.rules.push((matches, fault));
        self
    }

    /// Only operation `k` of all fails.
    pub fn fail_operation(k: u64, fault: Fault) -> Self {
        FaultPlan::none().rule(Matches { nth: Nth::Only(k), ..Matches::default() }, fault)
    }

    /// The process dies at operation `k`: that one ends as `how` says, all later ones fail.
    pub fn crash_at(k: u64, how: Crash) -> Self {
        FaultPlan { crash: Some((k, how)), ..FaultPlan::default() }
    }

    /// Puts fail with `NoSpace` once they would bring the bytes written in all above this.
    pub fn full_after(bytes: u64) -> Self {
        FaultPlan { full_after_bytes: Some(bytes), ..FaultPlan::default() }
    }
}
