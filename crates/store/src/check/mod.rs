//! Checking a vault: every object, every tree, and on request every stored byte.
//!
//! What is found damaged is recorded, so that the next backup of the same data heals it, and named with the points
//! it touches. The index is derived from packs: where it is damaged it is rebuilt here, and reported all the same.

mod index;
mod packs;
mod records;
mod report;
mod run;
mod trees;

use crate::error::{Result, StoreError};
use crate::lease::Lease;
use crate::objects::Kind;
use crate::progress::Progress;
use crate::vault::Vault;
pub use report::{CheckOptions, CheckReport, Finding, TouchedPoint};
use run::Run;
use std::collections::{BTreeMap, HashMap};

/// Checks a vault. An error means that it could not look; damage is in the report.
pub fn check(vault: &Vault, options: &CheckOptions, progress: &Progress) -> Result<CheckReport> {
    let started = vault.environment().elapsed();
    let lease = Lease::acquire(vault, vault.environment().new_session_id(), "check", true)?;
    vault.reload();
    let mut run =
        Run { vault, report: CheckReport::default(), faults: BTreeMap::new(), sizes: HashMap::new() };
    run.header()?;
    run.roll()?;
    let listed = vault.objects().list("")?;
    run.report.objects = listed.len() as u64;
    run.records(&listed)?;
    let points = run.manifests()?;
    let index = run.index(&listed)?;
    run.packs(&index, options.read_data, progress)?;
    let mut trees = run.trees(&points, &index, progress)?;
    run.look_again(&index, &mut trees)?;
    run.attribute(&points, &index, trees, progress)?;
    match vault.record_damage() {
        // Looking does not need writing.
        Err(StoreError::Object(e)) if matches!(e.kind, Kind::Denied | Kind::ReadOnly | Kind::NoSpace) => {
            tracing::warn!("damage that was found could not be recorded: {e}");
        }
        done => done?,
    }
    let mut report = run.report;
    if let Some(lease) = lease {
        report.left_behind.extend(lease.release_or_end()?);
    }
    report.findings.extend(run.faults.into_iter().map(|(object, fault)| Finding {
        object,
        detail: match fault.details.is_empty() {
            true => "damage was found here before; `strongroom rescue vault reclaim` keeps what of it is sound".into(),
            false => fault.details.into_iter().collect::<Vec<_>>().join("; "),
        },
        points: fault.points,
    }));
    report.seconds = vault.environment().elapsed().saturating_sub(started).as_secs_f64();
    Ok(report)
}
