//! An object store that fails on purpose: [`FaultStore`] around any other, following a [`FaultPlan`].
//!
//! Faults, and which layer must survive them:
//!
//! | fault | what happens | who must survive it |
//! |---|---|---|
//! | error before | nothing is done, an error is returned | façade retries `Transient`; every other kind ends the session, the next one just works |
//! | error after | all is done, an error is returned | façade: a create tried again must take its own object for success; store: a manifest may be committed unseen |
//! | torn object | a prefix of the bytes lands under the name, then an error | store: readers call the object damaged, never use it; only stores that break the promise of atomic puts do this |
//! | torn temporary | a prefix of the bytes lands in `.tmp/`, then an error | local store: never listed, removed at a later open |
//! | delay | the operation takes longer | sessions: leases, reclaim beside writers |
//! | disk full | from a number of bytes on every put fails with `NoSpace`, leaving a torn temporary | engine: a clear error, no committed point lost |
//! | crash | one operation fails before, after or torn; every one from then on fails, reads too | store: committed points are there, uncommitted ones not, no repair needed |
//! | short list | a listing leaves out names, chosen by the rule's seed | store: what is not listed is not taken for gone |
//! | empty list | a listing shows nothing | as above |
//! | late list | a listing leaves out what was written since the plan was set | as above |
//! | not found | get and head say that what is there is not | as above |
//! | lost delete | the delete says it worked, the object stays | reclaim: an object that comes back does no harm and is taken again |
//!
//! Operations are counted from 0 in the order they start, so that a test can run once without faults and then again
//! with operation `k` failing, for every `k` below [`FaultStore::operations`].
//! The bytes of a crashed store are looked at by opening the inner store anew.

mod plan;
mod store;

pub use plan::{Crash, Fault, FaultPlan, Matches, Nth, OpKind};
pub use store::{FaultError, FaultStore, Operation};
