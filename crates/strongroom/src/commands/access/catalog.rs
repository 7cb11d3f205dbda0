//! The service's catalog, opened beside the service.

use crate::serve::{self, directory};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use strongroom_catalog::{
    AuditEntry, Change, Principal, Query, Recorded, RoleAssignment, ServiceCatalog, Setting,
    SqliteServiceCatalog, key,
};
use strongroom_domain::access::{Role, Scope};
use strongroom_service::{Error, ErrorKind, Result};

/// Which service.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The service's data directory.
    #[arg(long, value_name = "DIR", env = "STRONGROOM_DATA", hide_env_values = true)]
    pub(super) data: Option<PathBuf>,
}

pub(super) struct Catalog {
    rows: Recorded<SqliteServiceCatalog>,
    pub(super) subscription: String,
}

impl Catalog {
    pub(super) fn open(arguments: &DataArgs) -> Result<Self> {
        let data = arguments.data.clone().unwrap_or_else(serve::default_data_directory);
        let path = directory(&data).catalog();
        if !path.exists() {
            return Err(Error::not_found(format!(
                "no service has been started on {}: start it once with `strongroom serve`",
                data.display()
            )));
        }
        let rows = Recorded::new(SqliteServiceCatalog::open(&path)?, Arc::new(jiff::Timestamp::now));
        let dynamic: &dyn ServiceCatalog = &rows;
        let subscription = dynamic
            .get::<Setting>("subscription")?
            .and_then(|s| s.value.as_str().map(str::to_owned))
            .unwrap_or_default();
        Ok(Self { rows, subscription })
    }

    pub(super) fn rows(&self) -> &dyn ServiceCatalog {
        &self.rows
    }

    pub(super) fn principal(&self, named: &str) -> Result<Principal> {
        let all: Vec<Principal> = self.rows().find(&Query::all())?;
        all.into_iter()
            .find(|p| {
                key(&p.name) == key(named)
                    || p.app_id.to_string() == named.to_lowercase()
                    || p.id.to_string() == named.to_lowercase()
            })
            .ok_or_else(|| {
                Error::not_found(format!(
                    "there is no principal `{named}`; see `strongroom access principal list`"
                ))
            })
    }

    /// Refuses to take these away where nobody would be Owner of everything afterwards.
    pub(super) fn check_owner_left(&self, going: &[&RoleAssignment]) -> Result<()> {
        let everything = format!("/subscriptions/{}", self.subscription);
        let owns = |a: &RoleAssignment| a.role == Role::Owner && Scope::new(&a.scope).contains(&everything);
        if !going.iter().any(|a| owns(a)) {
            return Ok(());
        }
        let principals: Vec<Principal> = self.rows().find(&Query::all())?;
        let is_there = |a: &RoleAssignment| principals.iter().any(|p| p.id == a.principal && !p.disabled);
        let all: Vec<RoleAssignment> = self.rows().find(&Query::all())?;
        let is_left = |a: &&RoleAssignment| owns(a) && is_there(a) && !going.iter().any(|g| g.id == a.id);
        match all.iter().find(is_left) {
            Some(_) => Ok(()),
            None => Err(Error::new(
                ErrorKind::Busy,
                "nobody would be Owner of everything any more: make somebody else that first (`strongroom access assign PRINCIPAL Owner`), or say --allow-no-owner; root on this host can do so later as well",
            )
            .coded("LastOwner")),
        }
    }

    /// Remembers that a change was refused.
    fn note_refusal(&self, action: &str, scope: &str, error: &Error) {
        let status = match error.kind {
            ErrorKind::NotFound => 404,
            ErrorKind::AlreadyExists | ErrorKind::Busy => 409,
            ErrorKind::Denied => 403,
            ErrorKind::Invalid | ErrorKind::Unsupported => 400,
            _ => 500,
        };
        let row = AuditEntry {
            status,
            code: error.code.unwrap_or(error.kind.code()).to_owned(),
            detail: error.message.chars().take(1000).collect(),
            ..AuditEntry::new(jiff::Timestamp::now(), local_administrator(), action, scope)
        };
        if let Err(error) = self.rows().apply(&[Change::put(&row)]) {
            tracing::warn!(%error, "a refusal could not be written to the audit");
        }
    }

    /// Makes a change, which has its row, or a row that it was refused.
    pub(super) fn change<T>(&self, action: &str, scope: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = work();
        if let Err(error) = &done {
            self.note_refusal(action, scope, error);
        }
        done
    }
}

/// Whose changes these are.
pub(super) fn local_administrator() -> String {
    format!("local administrator (user {})", rustix::process::getuid().as_raw())
}
