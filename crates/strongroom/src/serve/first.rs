//! The first start: somebody must be able to sign in.

use jiff::Timestamp;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use strongroom_api::auth::{Unavailable, generate_secret, hash_secret};
use strongroom_catalog::{Change, Principal, PrincipalKind, Query, RoleAssignment};
use strongroom_domain::access::Role;
use strongroom_service::Service;
use strongroom_service::{Error, ErrorKind, Result};
use uuid::Uuid;

/// The principal that the first start makes: Owner of everything.
pub struct Administrator {
    pub app_id: Uuid,
    /// Where its secret is, for root alone.
    pub secret_file: PathBuf,
}

pub const NAME: &str = "administrator";

/// The file with the administrator's secret.
pub fn secret_file(service_data: &strongroom_service::DataDirectory) -> PathBuf {
    service_data.0.join("administrator.secret")
}

/// Makes the administrator if there are no principals at all. The secret is written to a file first: a start that is cut
/// short makes another one.
pub fn ensure_administrator(service: &Service) -> Result<Option<Administrator>> {
    let catalog = service.catalog();
    if catalog.first::<Principal>(Query::all())?.is_some() {
        return Ok(None);
    }
    let (principal, secret) = new_principal(PrincipalKind::Service, NAME, service.now())?;
    let path = secret_file(&service.data());
    let failed = |e| Error::io(format!("writing {}", path.display()), e);
    let _ = fs::remove_file(&path);
    let mut file =
        fs::File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    writeln!(file, "{secret}").and_then(|()| file.sync_all()).map_err(failed)?;
    let assignment = RoleAssignment {
        id: Uuid::new_v4(),
        version: 0,
        principal: principal.id,
        role: Role::Owner,
        scope: "/".into(),
        created_at: service.now(),
    };
    catalog.apply(&[Change::put(&principal), Change::put(&assignment)])?;
    Ok(Some(Administrator { app_id: principal.app_id, secret_file: path }))
}

/// A principal that is not written yet, and its secret, which nothing else keeps.
pub fn new_principal(kind: PrincipalKind, name: &str, now: Timestamp) -> Result<(Principal, String)> {
    let unavailable = |e: Unavailable| Error::new(ErrorKind::Failed, e.0);
    let secret = generate_secret().map_err(unavailable)?;
    let principal = Principal {
        id: Uuid::new_v4(),
        version: 0,
        kind,
        app_id: Uuid::new_v4(),
        name: name.to_owned(),
        secret_hash: hash_secret(&secret).map_err(unavailable)?,
        created_at: now,
        disabled: false,
    };
    Ok((principal, secret))
}
