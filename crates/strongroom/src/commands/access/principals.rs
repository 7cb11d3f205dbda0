//! Those who may sign in.

use super::catalog::{Catalog, DataArgs};
use crate::context::{Context, Outcome};
use crate::serve::first;
use crate::text::{table, time};
use clap::{Args, ValueEnum};
use serde::Serialize;
use strongroom_catalog::{Change, Principal, PrincipalKind, Query, RoleAssignment, ServiceError};
use strongroom_service::{Error, Result};
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// Signs in with an application id and a secret.
    Service,
    /// Signs in with its name and a password.
    User,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access principal create nightly
  strongroom access principal create alice --kind user --json")]
pub struct CreateArgs {
    /// Its name, which must be free.
    name: String,
    #[arg(long, value_enum, default_value = "service")]
    kind: KindArg,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  strongroom access principal delete nightly")]
pub struct DeleteArgs {
    /// Its name, application id or object id.
    principal: String,
    /// Also the last one who is Owner of everything, who stays without this.
    #[arg(long)]
    allow_no_owner: bool,
    #[command(flatten)]
    data: DataArgs,
}

const MAKE_PRINCIPAL: &str = "Strongroom.Backup/principals/write";

const DELETE_PRINCIPAL: &str = "Strongroom.Backup/principals/delete";

#[derive(Serialize)]
struct PrincipalDocument {
    name: String,
    kind: PrincipalKind,
    app_id: Uuid,
    object_id: Uuid,
    created_at: jiff::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

fn document(principal: Principal, secret: Option<String>) -> PrincipalDocument {
    PrincipalDocument {
        name: principal.name,
        kind: principal.kind,
        app_id: principal.app_id,
        object_id: principal.id,
        created_at: principal.created_at,
        secret,
    }
}

pub(super) fn create(arguments: &CreateArgs, context: &Context) -> Result<Outcome> {
    let catalog = Catalog::open(&arguments.data)?;
    let name = arguments.name.trim();
    let (principal, secret) = catalog.change(MAKE_PRINCIPAL, "/principals", || {
        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            return Err(Error::invalid("a principal's name has 1 to 200 bytes and no control characters"));
        }
        let kind = match arguments.kind {
            KindArg::Service => PrincipalKind::Service,
            KindArg::User => PrincipalKind::User,
        };
        let (principal, secret) = first::new_principal(kind, name, jiff::Timestamp::now())?;
        match catalog.rows().apply(&[Change::put(&principal)]) {
            Ok(()) => Ok((principal, secret)),
            Err(ServiceError::Taken { .. }) => Err(Error::already_exists(format!(
                "there is a principal `{name}` already; choose another name"
            ))),
            Err(error) => Err(error.into()),
        }
    })?;
    let shown = document(principal, Some(secret));
    context.print(&shown, || {
        format!(
            "name:   {}\napp id: {}\nsecret: {}\n",
            shown.name,
            shown.app_id,
            shown.secret.as_deref().unwrap_or_default()
        )
    })?;
    context.note("the secret is not shown again; give it a role with `strongroom access assign`");
    Ok(Outcome::Done)
}

pub(super) fn list_principals(arguments: &DataArgs, context: &Context) -> Result<Outcome> {
    let catalog = Catalog::open(arguments)?;
    let all: Vec<Principal> = catalog.rows().find(&Query::all().ascending("name_key"))?;
    let shown: Vec<PrincipalDocument> = all.into_iter().map(|p| document(p, None)).collect();
    context.print(&shown, || {
        let rows = shown.iter().map(|p| {
            let kind = match p.kind {
                PrincipalKind::Service => "service",
                PrincipalKind::User => "user",
            };
            vec![p.name.clone(), kind.to_owned(), p.app_id.to_string(), time(p.created_at)]
        });
        table(&["NAME", "KIND", "APP ID", "MADE"], &rows.collect::<Vec<_>>())
    })?;
    Ok(Outcome::Done)
}

pub(super) fn delete(arguments: &DeleteArgs, context: &Context) -> Result<Outcome> {
    let catalog = Catalog::open(&arguments.data)?;
    let principal = catalog.change(DELETE_PRINCIPAL, "/principals", || {
        let principal = catalog.principal(&arguments.principal)?;
        let roles: Vec<RoleAssignment> = catalog.rows().find(&Query::all().eq("principal", principal.id))?;
        if !arguments.allow_no_owner {
            catalog.check_owner_left(&roles.iter().collect::<Vec<_>>())?;
        }
        let changes: Vec<Change> =
            roles.iter().map(Change::delete).chain([Change::delete(&principal)]).collect();
        catalog.rows().apply(&changes)?;
        Ok(principal)
    })?;
    context.print(&document(principal, None), || "deleted\n".into())?;
    Ok(Outcome::Done)
}
