//! Accounts, keys and the audit in the service's catalog.

use super::directory::{Account, AccountKind, Directory, KeyStore, StoredKey, Unavailable};
use super::gate::AuditEvent;
use std::sync::Arc;
use strongroom_catalog::{
    AuditEntry, Change, Principal, PrincipalKind, Query, RoleAssignment, ServiceCatalog, ServiceError,
    SigningKey, key,
};
use strongroom_domain::access::{Assignment, Scope};
use uuid::Uuid;

/// The catalog as [`Directory`] and [`KeyStore`].
#[derive(Clone)]
pub struct CatalogDirectory {
    catalog: Arc<dyn ServiceCatalog>,
}

impl CatalogDirectory {
    /// All of them are in this catalog, and read anew each time.
    pub fn new(catalog: Arc<dyn ServiceCatalog>) -> Self {
        Self { catalog }
    }
}

impl From<ServiceError> for Unavailable {
    fn from(error: ServiceError) -> Self {
        Self(error.to_string())
    }
}

fn account(row: Principal) -> Account {
    let kind = match row.kind {
        PrincipalKind::Service => AccountKind::Application,
        PrincipalKind::User => AccountKind::User,
    };
    let Principal { id, app_id, name, secret_hash, disabled, .. } = row;
    Account { object_id: id, app_id, kind, name, secret_hash, disabled }
}

impl Directory for CatalogDirectory {
    fn by_name(&self, kind: AccountKind, name: &str) -> Result<Option<Account>, Unavailable> {
        let wanted = match kind {
            AccountKind::Application => PrincipalKind::Service,
            AccountKind::User => PrincipalKind::User,
        };
        if kind == AccountKind::Application
            && let Ok(id) = Uuid::try_parse(name)
            && let Some(row) = self.catalog.first::<Principal>(Query::all().eq("app_id", id))?
        {
            return Ok(Some(row).filter(|row| row.kind == wanted).map(account));
        }
        let rows = self.catalog.find::<Principal>(&Query::all().eq("name_key", key(name)))?;
        Ok(rows.into_iter().find(|row| row.kind == wanted).map(account))
    }

    fn by_object_id(&self, object_id: Uuid) -> Result<Option<Account>, Unavailable> {
        Ok(self.catalog.get::<Principal>(object_id)?.map(account))
    }

    fn assignments(&self, object_id: Uuid) -> Result<Vec<Assignment>, Unavailable> {
        let rows = self.catalog.find::<RoleAssignment>(&Query::all().eq("principal", object_id))?;
        Ok(rows.iter().map(|row| Assignment { role: row.role, scope: Scope::new(&row.scope) }).collect())
    }

    fn record(&self, event: &AuditEvent) -> Result<(), Unavailable> {
        let action = match event.action.as_str() {
            // What needs no permission is known by its operation.
            "" => format!("{} {}", event.method, event.operation).trim_end().to_owned(),
            action => action.to_owned(),
        };
        let entry = AuditEntry {
            status: event.status,
            code: event.code.clone(),
            client: event.client.clone(),
            correlation_id: event.correlation_id.to_string(),
            left_out: event.left_out,
            detail: event.detail.clone(),
            ..AuditEntry::new(event.at, &event.caller_name, action, &event.scope)
        };
        Ok(self.catalog.apply(&[Change::put(&entry)])?)
    }
}

impl KeyStore for CatalogDirectory {
    fn load(&self) -> Result<Vec<StoredKey>, Unavailable> {
        let rows = self.catalog.find::<SigningKey>(&Query::all().descending("created_us"))?;
        let stored = |row: SigningKey| StoredKey {
            id: row.id,
            private_key_pem: row.private_key_pem,
            created_at: row.created_at,
        };
        Ok(rows.into_iter().map(stored).collect())
    }

    fn add(&self, key: &StoredKey) -> Result<(), Unavailable> {
        let row = SigningKey {
            id: key.id.clone(),
            version: 0,
            private_key_pem: key.private_key_pem.clone(),
            created_at: key.created_at,
            retired_at: None,
        };
        Ok(self.catalog.apply(&[Change::put(&row)])?)
    }

    fn remove(&self, id: &str) -> Result<(), Unavailable> {
        match self.catalog.get::<SigningKey>(id)? {
            Some(row) => match self.catalog.apply(&[Change::delete(&row)]) {
                // Somebody else removed it, or changed it: then it is theirs.
                Err(ServiceError::Conflict { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            },
            None => Ok(()),
        }
    }
}
