//! One check under way: what it looks at, and what it has found.

use super::report::{CheckReport, TouchedPoint};
use crate::frame::PackId;
use crate::vault::Vault;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is wrong with one object, and which points that touches.
#[derive(Default)]
pub struct Fault {
    pub details: BTreeSet<String>,
    pub points: BTreeSet<TouchedPoint>,
}

pub struct Run<'a> {
    pub vault: &'a Vault,
    pub report: CheckReport,
    /// By object.
    pub faults: BTreeMap<String, Fault>,
    /// Packs there are, with their sizes.
    pub sizes: HashMap<PackId, u64>,
}

impl Run<'_> {
    pub(super) fn fault(&mut self, object: impl Into<String>, detail: impl Into<String>) {
        self.faults.entry(object.into()).or_default().details.insert(detail.into());
    }
}
