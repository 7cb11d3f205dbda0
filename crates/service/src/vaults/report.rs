//! What is known of a vault beside its row: how it and the catalog compare, and what stands in the way of what.

use crate::core::error::{Error, Result};
use crate::core::service::{Inner, Service};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_catalog::{Change, ServiceError, Setting, Vault};
use strongroom_domain::PointId;
use uuid::Uuid;

/// How a vault and the catalog compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// They name the same points.
    Agreed,
    /// They do not: the report says in what.
    Differs,
    /// The vault could not be looked at.
    #[default]
    Unknown,
}

/// What a reconciliation found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// When the vault was looked at.
    pub at: Timestamp,
    /// What was found.
    pub state: State,
    /// Why nothing is known.
    pub problem: Option<String>,
    /// Points that are in the vault.
    pub points: u64,
    /// Points that the catalog has and the vault does not, without a word of the vault that they may go.
    pub missing: Vec<PointId>,
    /// Points that are there, and that the vault's list did not have.
    pub unlisted: Vec<PointId>,
    /// Points that the catalog does not know.
    pub unmanaged: u64,
    /// Points that the catalog was told of now.
    pub adopted: Vec<PointId>,
    /// Rows that went, as their points were forgotten.
    pub forgotten: Vec<PointId>,
    /// Points that were missing, and are there again.
    pub returned: Vec<PointId>,
    /// The vault could not write down that it agrees.
    pub is_unnoted: bool,
    /// Why space was not given back at last.
    pub reclaim_problem: Option<String>,
    /// Why the deleted vault could not be purged.
    pub purge_problem: Option<String>,
    /// Why nothing is written to its store.
    pub store_problem: Option<String>,
}

pub(crate) fn setting(vault: Uuid) -> String {
    format!("reconciliation/{vault}")
}

/// What was found last, if it was looked at.
pub fn report(service: &Inner, vault: &Vault) -> Result<Option<Report>> {
    let setting = service.catalog.get::<Setting>(setting(vault.id))?;
    Ok(setting.and_then(|s| serde_json::from_value(s.value).ok()))
}

/// Changes what is kept of a vault.
pub(crate) fn keep(service: &Inner, vault: Uuid, change: impl Fn(&mut Report)) -> Result<Report> {
    let id = setting(vault);
    for _ in 0..10 {
        let before = service.catalog.get::<Setting>(&id)?;
        let mut report: Report =
            before.as_ref().and_then(|s| serde_json::from_value(s.value.clone()).ok()).unwrap_or_default();
        change(&mut report);
        let value = serde_json::to_value(&report)
            .map_err(|e| Error::invalid(format!("a reconciliation's report cannot be written down: {e}")))?;
        let version = before.map_or(0, |s| s.version);
        match service.catalog.apply(&[Change::put(&Setting { id: id.clone(), version, value })]) {
            Ok(()) => return Ok(report),
            Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::new(
        crate::core::error::ErrorKind::Busy,
        "the reconciliation's report is being written by others",
    ))
}

/// Notes how giving space back went; the same again is not written.
pub(crate) fn note_reclaim(service: &Service, vault: &Vault, problem: Option<String>) {
    note(service, vault, problem, |report| &mut report.reclaim_problem);
}

/// Notes why a deleted vault is still there.
pub(crate) fn note_purge(service: &Service, vault: &Vault, problem: Option<String>) {
    note(service, vault, problem, |report| &mut report.purge_problem);
}

/// Notes why nothing may be written to a vault's store.
pub(crate) fn note_store(service: &Inner, vault: &Vault, problem: Option<String>) {
    note(service, vault, problem, |report| &mut report.store_problem);
}

fn note(
    service: &Inner,
    vault: &Vault,
    problem: Option<String>,
    field: impl Fn(&mut Report) -> &mut Option<String>,
) {
    let done = || -> Result<bool> {
        let mut before = report(service, vault)?.unwrap_or_default();
        if *field(&mut before) == problem {
            return Ok(false);
        }
        keep(service, vault.id, |report| field(report).clone_from(&problem))?;
        Ok(true)
    };
    match (done(), &problem) {
        // Said once; it is tried again and again.
        (Ok(true), Some(problem)) => tracing::warn!(vault = vault.name, "{problem}"),
        (Ok(_), _) => {}
        (Err(error), _) => {
            tracing::warn!(vault = vault.name, %error, "what was found could not be written down")
        }
    }
}
