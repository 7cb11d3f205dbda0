//! `strongroom access`: who may sign in, and what they may do. Works on the service's catalog directly, for root.

use crate::client::{Client, ServiceArgs};
use crate::context::{Context, Outcome};
use crate::failure::{self, Failure};
use crate::serve::{self, directory, first};
use crate::text::{table, time};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use strongroom_catalog::{
    AuditEntry, Change, Machine, Principal, PrincipalKind, Query, Recorded, ResourceGroup, RoleAssignment,
    ServiceCatalog, ServiceError, Setting, SqliteServiceCatalog, Vault, actor, key,
};
use strongroom_domain::access::{Role, Scope};
use strongroom_engine::{Error, ErrorKind, Result};
use uuid::Uuid;

#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Make, list and delete those who may sign in.
    #[command(subcommand)]
    Principal(PrincipalCommand),
    /// Give a principal a role.
    Assign(AssignArgs),
    /// Take a role away.
    #[command(after_help = "Example:\n  strongroom access unassign nightly \"Backup Operator\"")]
    Unassign(UnassignArgs),
    /// List who has which role where.
    #[command(after_help = "Example:\n  strongroom access list --json")]
    List(DataArgs),
    /// Show what was changed and refused.
    Audit(AuditArgs),
}

#[derive(Debug, Subcommand)]
pub enum PrincipalCommand {
    /// Make a service principal, or a user; the secret is shown once.
    Create(CreateArgs),
    /// List principals.
    #[command(after_help = "Example:\n  strongroom access principal list --json")]
    List(DataArgs),
    /// Delete a principal with its roles: its tokens are refused from then on.
    Delete(DeleteArgs),
}

/// Which service.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The service's data directory.
    #[arg(long, value_name = "DIR", env = "STRONGROOM_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
}

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

#[derive(Debug, Args)]
#[command(after_help = "\
With --follow --json each entry is a document of its own, in a line of its own, until it is stopped. It follows a service that
runs, on this host or at --server (who may read all of the subscription may read this).

Examples:
  strongroom access audit --last 50 --refused
  strongroom access audit --follow --json
  strongroom access audit --follow --last 0 --server https://backup.example.org:8443")]
pub struct AuditArgs {
    /// How many of the newest entries.
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: u32,
    /// Refusals alone.
    #[arg(long)]
    refused: bool,
    /// Go on with what comes, until this is stopped (Ctrl-C).
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

struct Catalog {
    rows: Recorded<SqliteServiceCatalog>,
    subscription: String,
}

impl Catalog {
    fn open(arguments: &DataArgs) -> Result<Self> {
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

    fn rows(&self) -> &dyn ServiceCatalog {
        &self.rows
    }

    fn principal(&self, named: &str) -> Result<Principal> {
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
    fn check_owner_left(&self, going: &[&RoleAssignment]) -> Result<()> {
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
    fn change<T>(&self, action: &str, scope: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = work();
        if let Err(error) = &done {
            self.note_refusal(action, scope, error);
        }
        done
    }
}

const MAKE_PRINCIPAL: &str = "Strongroom.Backup/principals/write";
const DELETE_PRINCIPAL: &str = "Strongroom.Backup/principals/delete";
const MAKE_ASSIGNMENT: &str = "Microsoft.Authorization/roleAssignments/write";
const DELETE_ASSIGNMENT: &str = "Microsoft.Authorization/roleAssignments/delete";

/// Whose changes these are.
fn local_administrator() -> String {
    format!("local administrator (user {})", rustix::process::getuid().as_raw())
}

pub fn run(command: AccessCommand, context: &Context) -> failure::Result<Outcome> {
    // Whatever is changed here has a row, with whose it was.
    actor::named(local_administrator(), || run_named(command, context))
}

fn run_named(command: AccessCommand, context: &Context) -> failure::Result<Outcome> {
    Ok(match command {
        AccessCommand::Principal(PrincipalCommand::Create(arguments)) => create(&arguments, context),
        AccessCommand::Principal(PrincipalCommand::List(arguments)) => list_principals(&arguments, context),
        AccessCommand::Principal(PrincipalCommand::Delete(arguments)) => delete(&arguments, context),
        AccessCommand::Assign(arguments) => assign(&arguments, context),
        AccessCommand::Unassign(arguments) => unassign(&arguments, context),
        AccessCommand::List(arguments) => list_assignments(&arguments, context),
        AccessCommand::Audit(arguments) => return audit(&arguments, context),
    }?)
}

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

fn create(arguments: &CreateArgs, context: &Context) -> Result<Outcome> {
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

fn list_principals(arguments: &DataArgs, context: &Context) -> Result<Outcome> {
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

fn delete(arguments: &DeleteArgs, context: &Context) -> Result<Outcome> {
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

fn assign(arguments: &AssignArgs, context: &Context) -> Result<Outcome> {
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

fn unassign(wanted: &UnassignArgs, context: &Context) -> Result<Outcome> {
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

fn list_assignments(arguments: &DataArgs, context: &Context) -> Result<Outcome> {
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

fn cells(e: &AuditEntry) -> Vec<String> {
    let more = if e.left_out > 0 { format!(" (and {} more)", e.left_out) } else { String::new() };
    let what = if e.detail.is_empty() { e.scope.clone() } else { format!("{} ({})", e.scope, e.detail) };
    vec![time(e.at), format!("{}{more}", e.principal), e.action.clone(), e.status.to_string(), what]
}

fn audit(arguments: &AuditArgs, context: &Context) -> failure::Result<Outcome> {
    if arguments.follow || arguments.service.server.is_some() {
        return audit_of_service(arguments, context);
    }
    let catalog = Catalog::open(&DataArgs { data: arguments.service.data.clone() })?;
    let wanted = if arguments.refused { u32::MAX } else { arguments.last };
    let mut all: Vec<AuditEntry> = catalog
        .rows()
        .find(&Query::all().last_written_first().limit(wanted.min(1_000_000)))
        .map_err(Error::from)?;
    all.retain(|e| !arguments.refused || e.status >= 400);
    all.truncate(arguments.last as usize);
    context.print(&all, || {
        table(&["TIME", "WHO", "ACTION", "STATUS", "SCOPE"], &all.iter().map(cells).collect::<Vec<_>>())
    })?;
    Ok(Outcome::Done)
}

/// A page of the API, at most so many rows as it gives.
const PAGE_MAX: u32 = 1000;

struct Page {
    rows: Vec<AuditEntry>,
    cursor: Option<String>,
}

fn page(client: &Client, after: Option<&str>, most: u32) -> failure::Result<Page> {
    let after = after.map_or_else(String::new, |cursor| format!("&after={cursor}"));
    let path = client.path(&format!("/providers/Strongroom.Backup/auditEvents?$top={most}{after}"));
    let mut answer = client.get(&path)?;
    let rows = serde_json::from_value(answer["value"].take())
        .map_err(|e| Error::new(ErrorKind::Failed, format!("the answer is no part of an audit: {e}")))?;
    Ok(Page { rows, cursor: answer["cursor"].as_str().map(str::to_owned) })
}

/// Through the API: page by page, in the order in which rows were written.
fn audit_of_service(arguments: &AuditArgs, context: &Context) -> failure::Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    if arguments.follow && client.is_in_process() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "no service runs on the data directory: there is nothing to follow; leave --follow out to see what there is",
        )
        .into());
    }
    let is_wanted = |e: &AuditEntry| !arguments.refused || e.status >= 400;
    let Page { mut rows, mut cursor } = page(&client, None, arguments.last.min(PAGE_MAX))?;
    rows.retain(is_wanted);
    if !arguments.follow {
        rows.reverse();
        context.print(&rows, || {
            let rows: Vec<_> = rows.iter().map(cells).collect();
            table(&["TIME", "WHO", "ACTION", "STATUS", "SCOPE"], &rows)
        })?;
        return Ok(Outcome::Done);
    }
    loop {
        if !tell(&rows, context)? {
            return Ok(Outcome::Done);
        }
        let is_behind = rows.len() as u32 == PAGE_MAX;
        if !is_behind {
            client.pause()?;
        }
        // The very first row of an audit that was empty is after nothing.
        let found = page(&client, Some(cursor.as_deref().unwrap_or("oldest")), PAGE_MAX);
        let found = match found {
            Err(Failure::Api(error)) if error.code == "AuditCursorExpired" => {
                context.warn("some entries have gone to files meanwhile; going on with the oldest there is");
                page(&client, Some("oldest"), PAGE_MAX)?
            }
            found => found?,
        };
        rows = found.rows;
        rows.retain(is_wanted);
        cursor = found.cursor.or(cursor);
    }
}

/// Lines, as they come; whether anybody still reads them.
fn tell(rows: &[AuditEntry], context: &Context) -> Result<bool> {
    let mut text = String::new();
    for row in rows {
        match context.json {
            true => text += &serde_json::to_string(row).unwrap_or_default(),
            false => text += &cells(row).join("  "),
        }
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("writing to stdout", e)),
    }
}
