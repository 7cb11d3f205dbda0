//! Who has which role where.

use super::catalog::{Catalog, DataArgs};
use crate::context::{Context, Outcome};
use crate::text::table;
use clap::Args;
use serde::Serialize;
use strongroom_catalog::{Change, Machine, Principal, Query, ResourceGroup, RoleAssignment, Vault, key};
use strongroom_domain::access::{Role, Scope};
use strongroom_service::{Error, Result};
use uuid::Uuid;

#[derive(Debug, Args)]
#[command(after_help = "\
Roles: Owner, \"Backup Contributor\", \"Backup Operator\", \"Backup Reader\", Contributor, Reader. A scope is a
path, or a vault's or group's short form; without one the role holds everywhere. What it names must be
there.

Examples:
  strongroom access assign nightly \"Backup Operator\"
  strongroom access assign alice \"Backup Reader\" --group strongroom --vault main")]
pub struct AssignArgs {
    /// The principal's name, application id or object id.
    principal: String,
    /// The role.
    role: String,
    /// Where it holds: an ARM path.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["group", "vault"])]
    scope: Option<String>,
    /// A resource group.
    #[arg(long, short = 'g', value_name = "GROUP")]
    group: Option<String>,
    /// A vault of that group.
    #[arg(long, value_name = "VAULT", requires = "group")]
    vault: Option<String>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
pub struct UnassignArgs {
    #[command(flatten)]
    assignment: AssignArgs,
    /// Also from the last one who is Owner of everything, who stays that without this.
    #[arg(long)]
    allow_no_owner: bool,
}

const MAKE_ASSIGNMENT: &str = "Microsoft.Authorization/roleAssignments/write";

const DELETE_ASSIGNMENT: &str = "Microsoft.Authorization/roleAssignments/delete";

fn scope_of(arguments: &AssignArgs, catalog: &Catalog) -> Result<Scope> {
    let subscription = format!("/subscriptions/{}", catalog.subscription);
    let given = [&arguments.scope, &arguments.group, &arguments.vault];
    // An empty variable of a script would mean everything.
    if given.into_iter().flatten().any(|text| text.trim().is_empty()) {
        return Err(Error::invalid(
            "the scope is empty; for everything there is, give `--scope /`".to_owned(),
        ));
    }
    Ok(match (&arguments.scope, &arguments.group, &arguments.vault) {
        (Some(scope), ..) => {
            if !scope.starts_with('/') {
                return Err(Error::invalid(format!(
                    "`{scope}` is no scope: that is a path such as {subscription}/resourceGroups/NAME; for everything there is, give `--scope /`"
                )));
            }
            Scope::new(scope)
        }
        (None, Some(group), Some(vault)) => Scope::new(&format!(
            "{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}"
        )),
        (None, Some(group), None) => Scope::new(&format!("{subscription}/resourceGroups/{group}")),
        _ => Scope::root(),
    })
}

fn role_of(text: &str) -> Result<Role> {
    Role::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Role::ALL.iter().map(|r| r.arm_name()).collect();
        Error::invalid(format!("there is no role `{text}`; there are: {}", known.join(", ")))
    })
}

#[derive(Serialize)]
struct AssignmentDocument {
    principal: String,
    role: &'static str,
    scope: String,
}

/// The scope that was asked for, for a row of a refusal.
fn asked_scope(arguments: &AssignArgs, catalog: &Catalog) -> String {
    scope_of(arguments, catalog).map_or_else(
        |_| arguments.scope.clone().unwrap_or_else(|| "/".into()).chars().take(500).collect(),
        |scope| scope.as_str().to_owned(),
    )
}

/// Refuses a scope that nothing here is below: a role on it would be none.
fn check_scope(scope: &Scope, catalog: &Catalog) -> Result<()> {
    let parts: Vec<&str> = scope.as_str().split('/').filter(|part| !part.is_empty()).collect();
    let is = |at: usize, wanted: &str| parts.get(at).is_some_and(|part| part.eq_ignore_ascii_case(wanted));
    if parts.is_empty() {
        return Ok(());
    }
    let subscription = format!("/subscriptions/{}", catalog.subscription);
    if !is(0, "subscriptions") || !is(1, &catalog.subscription) {
        return Err(Error::invalid(format!(
            "`{scope}` is no scope of this service: all that is here is below {subscription}"
        )));
    }
    if parts.len() == 2 {
        return Ok(());
    }
    let no_resource = || {
        Error::invalid(format!(
            "`{scope}` is no scope: a group's is {subscription}/resourceGroups/NAME, and that of something in it goes on with /providers/NAMESPACE/TYPE/NAME"
        ))
    };
    let group = parts.get(3).filter(|_| is(2, "resourceGroups")).ok_or_else(no_resource)?;
    let of_group = || Query::all().eq("group_key", key(group));
    if catalog.rows().first::<ResourceGroup>(Query::all().eq("name_key", key(group)))?.is_none() {
        return Err(Error::not_found(format!(
            "there is no resource group `{group}`: make it first, or look at its name in `strongroom vault list`"
        )));
    }
    if parts.len() == 4 {
        return Ok(());
    }
    // /providers/NAMESPACE, then pairs of type and name.
    if !is(4, "providers") || parts.len() < 8 || !parts.len().is_multiple_of(2) {
        return Err(no_resource());
    }
    let (kind, name) = (format!("{}/{}", parts[5], parts[6]).to_lowercase(), parts[7]);
    let is_there = match kind.as_str() {
        "microsoft.recoveryservices/vaults" => catalog
            .rows()
            .first::<Vault>(of_group().eq("name_key", key(name)).eq("deleted", false))?
            .is_some(),
        "microsoft.compute/virtualmachines" => {
            catalog.rows().first::<Machine>(of_group().eq("name_key", key(name)).eq("gone", false))?.is_some()
        }
        // Those are of the configuration.
        "microsoft.storage/storageaccounts" | "microsoft.network/virtualnetworks" => true,
        _ => {
            return Err(Error::invalid(format!(
                "`{}/{}` is no kind of resource here: roles are given on vaults, virtual machines, storage accounts and networks, on groups, and on everything",
                parts[5], parts[6]
            )));
        }
    };
    match is_there {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "there is no `{name}` of {}/{} in resource group `{group}`",
            parts[5], parts[6]
        ))),
    }
}

pub(super) fn assign(arguments: &AssignArgs, context: &Context) -> Result<Outcome> {
    let catalog = Catalog::open(&arguments.data)?;
    let asked = asked_scope(arguments, &catalog);
    let (principal, role, scope) = catalog.change(MAKE_ASSIGNMENT, &asked, || {
        let principal = catalog.principal(&arguments.principal)?;
        let (role, scope) = (role_of(&arguments.role)?, scope_of(arguments, &catalog)?);
        check_scope(&scope, &catalog)?;
        let all: Vec<RoleAssignment> = catalog.rows().find(&Query::all().eq("principal", principal.id))?;
        let same = |a: &RoleAssignment| a.role == role && a.scope.eq_ignore_ascii_case(scope.as_str());
        if !all.iter().any(same) {
            catalog.rows().apply(&[Change::put(&RoleAssignment {
                id: Uuid::new_v4(),
                version: 0,
                principal: principal.id,
                role,
                scope: scope.as_str().to_owned(),
                created_at: jiff::Timestamp::now(),
            })])?;
        }
        Ok((principal, role, scope))
    })?;
    show_assignment(context, principal.name, role, scope.as_str())
}

fn show_assignment(context: &Context, principal: String, role: Role, scope: &str) -> Result<Outcome> {
    let shown = AssignmentDocument { principal, role: role.arm_name(), scope: scope.to_owned() };
    context.print(&shown, || format!("{}: {} on {}\n", shown.principal, shown.role, shown.scope))?;
    Ok(Outcome::Done)
}

pub(super) fn unassign(wanted: &UnassignArgs, context: &Context) -> Result<Outcome> {
    let arguments = &wanted.assignment;
    let catalog = Catalog::open(&arguments.data)?;
    let asked = asked_scope(arguments, &catalog);
    let (principal, role, scope) = catalog.change(DELETE_ASSIGNMENT, &asked, || {
        let principal = catalog.principal(&arguments.principal)?;
        // One that was given on something that is gone can be taken away.
        let (role, scope) = (role_of(&arguments.role)?, scope_of(arguments, &catalog)?);
        let all: Vec<RoleAssignment> = catalog.rows().find(&Query::all().eq("principal", principal.id))?;
        let found = all.iter().find(|a| a.role == role && a.scope.eq_ignore_ascii_case(scope.as_str()));
        let found = found.ok_or_else(|| {
            Error::not_found(format!(
                "`{}` does not have the role {} on {scope}",
                principal.name,
                role.arm_name()
            ))
        })?;
        if !wanted.allow_no_owner {
            catalog.check_owner_left(&[found])?;
        }
        catalog.rows().apply(&[Change::delete(found)])?;
        Ok((principal, role, scope))
    })?;
    show_assignment(context, principal.name, role, scope.as_str())
}

pub(super) fn list_assignments(arguments: &DataArgs, context: &Context) -> Result<Outcome> {
    let catalog = Catalog::open(arguments)?;
    let principals: Vec<Principal> = catalog.rows().find(&Query::all().ascending("name_key"))?;
    let all: Vec<RoleAssignment> = catalog.rows().find(&Query::all())?;
    let mut shown = Vec::new();
    for principal in &principals {
        for assignment in all.iter().filter(|a| a.principal == principal.id) {
            shown.push(AssignmentDocument {
                principal: principal.name.clone(),
                role: assignment.role.arm_name(),
                scope: assignment.scope.clone(),
            });
        }
    }
    context.print(&shown, || {
        let rows = shown.iter().map(|a| vec![a.principal.clone(), a.role.to_owned(), a.scope.clone()]);
        table(&["PRINCIPAL", "ROLE", "SCOPE"], &rows.collect::<Vec<_>>())
    })?;
    Ok(Outcome::Done)
}
