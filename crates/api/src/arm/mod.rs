//! The resources, as Azure shows them: routes and handlers over the service's use cases.
//!
//! Each file is a part of the surface; each handler translates a request, calls the service, and translates what it says.

mod compute;
mod containers;
mod deleted;
mod format;
mod graph;
mod groups;
mod holdings;
mod ids;
mod items;
mod jobs;
mod kinds;
mod own;
mod places;
mod points;
mod policies;
mod proof;
mod reads;
mod restores;
mod schemas;
mod status;
mod subscriptions;
mod unavailable;
mod vault_config;
mod vaults;

pub use format::{duration, no_time, time};
pub use schemas::schemas;
pub use unavailable::TAG as NOT_AVAILABLE;

use crate::auth::{CatalogDirectory, Gate, HasSignIn, SignIn, SignInConfig};
use crate::route::Link;
use crate::{ArmError, Client, Params, Request, Route};
use http::StatusCode;
use std::collections::HashMap;
use std::sync::Arc;
use strongroom_catalog::{Item, Machine, Vault};
use strongroom_domain::access::DRILL_OUTPUT;
use strongroom_domain::arm_names;
use strongroom_engine::service::Service;
use strongroom_engine::{Error, ErrorKind};

/// What handlers work with.
pub struct App {
    pub service: Service,
    pub gate: Arc<dyn Gate>,
    pub sign_in: Arc<SignIn>,
}

impl HasSignIn for App {
    fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }
}

impl App {
    /// The service behind its own sign-in, with all routes.
    pub fn api(service: Service) -> Result<crate::Api<Self>, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Failed, format!("the API: {e}"));
        let directory = Arc::new(CatalogDirectory::new(service.catalog().clone()));
        let sign_in = SignIn::new(SignInConfig::new(service.tenant()), directory.clone(), directory)
            .map_err(|e| failed(&e.0))?;
        let sign_in = Arc::new(sign_in);
        let gate: Arc<dyn Gate> = sign_in.clone();
        let clock = service.clone();
        // The installation's own, so that links outlive a restart. No secret: a cursor is no permission.
        let identity = [service.tenant().as_bytes().as_slice(), service.subscription().as_bytes()].concat();
        let mut page_key = [0; 32];
        page_key.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &identity).as_ref());
        let app = Arc::new(Self { service, gate: gate.clone(), sign_in });
        crate::Api::builder(app, gate)
            .routes(crate::auth::routes())
            .routes(routes())
            .schemas(schemas())
            .page_key(page_key)
            .clock(Arc::new(move || clock.now()))
            .build()
            .map_err(|e| failed(&e))
    }
}

/// Every resource route.
pub fn routes() -> Vec<Route<App>> {
    let mut routes = Vec::new();
    for part in [
        subscriptions::routes,
        groups::routes,
        graph::routes,
        compute::routes,
        places::routes,
        vaults::routes,
        deleted::routes,
        vault_config::routes,
        policies::routes,
        containers::routes,
        items::routes,
        points::routes,
        restores::routes,
        proof::routes,
        jobs::routes,
        status::routes,
        reads::routes,
        unavailable::routes,
        own::routes,
        holdings::routes,
    ] {
        routes.extend(part());
    }
    for route in &mut routes {
        // Whatever is listed, it is listed in the same form.
        if [crate::route::LIST, crate::route::PAGED].contains(&route.query) && route.response_schema.is_none()
        {
            route.response_schema = Some("ResourceList");
        }
    }
    routes
}

pub(crate) const SUBSCRIPTION: &str = "/subscriptions/{subscription}";

/// The vault's path, as a pattern.
macro_rules! vault_path {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}",
            $rest
        )
    };
}
/// A protected item's path, as a pattern.
macro_rules! item_path {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}",
            "/backupFabrics/{fabric}/protectionContainers/{container}/protectedItems/{item}",
            $rest
        )
    };
}
pub(crate) use {item_path, vault_path};

/// A use case's error, as Azure would say it.
pub(crate) fn arm_error(error: Error) -> ArmError {
    let coded = error.code;
    let is_user_error = coded.is_some_and(|c| c.contains("UserError") || c.starts_with("ServiceResource"));
    let (status, code) = match error.kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "NotFound"),
        ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Busy => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Unsupported => (StatusCode::BAD_REQUEST, "NotSupported"),
        ErrorKind::NeedsFull => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "DataDamaged"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "Forbidden"),
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "BadRequest"),
        ErrorKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        ErrorKind::Cancelled => (StatusCode::CONFLICT, "OperationCancelled"),
        ErrorKind::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError"),
    };
    // Azure's backup plane answers what the user did wrong with 400, whatever it was.
    let status = match is_user_error && status != StatusCode::NOT_FOUND {
        true => StatusCode::BAD_REQUEST,
        false => status,
    };
    if status.is_server_error() {
        tracing::error!(target: crate::ANSWERS, %error, "a request failed");
    }
    ArmError::new(status, coded.unwrap_or(code), error.message)
}

impl From<Error> for ArmError {
    fn from(error: Error) -> Self {
        arm_error(error)
    }
}

pub(crate) type Answer = Result<crate::Response, ArmError>;

/// The subscription's path.
pub(crate) fn subscription_id(app: &App) -> String {
    format!("/subscriptions/{}", app.service.subscription())
}

/// There is one subscription.
pub(crate) fn check_subscription(app: &App, params: &Params) -> Result<(), ArmError> {
    let Some(given) = params.get("subscription") else { return Ok(()) };
    if given.eq_ignore_ascii_case(&app.service.subscription().to_string()) {
        return Ok(());
    }
    Err(ArmError::new(
        StatusCode::NOT_FOUND,
        "SubscriptionNotFound",
        format!("The subscription '{}' could not be found.", crate::error::shorten(given)),
    ))
}

pub(crate) fn vault_of(app: &App, params: &Params) -> Result<Vault, ArmError> {
    check_subscription(app, params)?;
    Ok(strongroom_engine::service::vaults::get(&app.service, &params["group"], &params["vault"])?)
}

/// The vault and the item that a path names. Container and fabric must be the item's own.
pub(crate) fn item_of(app: &App, params: &Params) -> Result<(Vault, Item), ArmError> {
    let vault = vault_of(app, params)?;
    let item = strongroom_engine::service::items::get(&app.service, &vault, &params["item"])?;
    check_container(params, &item.container())?;
    Ok((vault, item))
}

/// Whether the path's fabric and container are those of what it names.
pub(crate) fn check_container(params: &Params, container: &str) -> Result<(), ArmError> {
    check_fabric(params)?;
    let given = &params["container"];
    let bare = |name: &str| {
        let name = name.to_lowercase();
        name.strip_prefix("iaasvmcontainer;").map(str::to_owned).unwrap_or(name)
    };
    if bare(given) == bare(container) {
        return Ok(());
    }
    Err(ArmError::new(
        StatusCode::NOT_FOUND,
        "BMSUserErrorContainerObjectNotFound",
        format!("The container '{}' was not found in this vault.", crate::error::shorten(given)),
    ))
}

pub(crate) fn check_fabric(params: &Params) -> Result<(), ArmError> {
    match params.get("fabric") {
        Some(fabric) if !fabric.eq_ignore_ascii_case("Azure") => Err(ArmError::new(
            StatusCode::NOT_FOUND,
            "BMSUserErrorFabricNotFound",
            format!("There is no backup fabric '{}'; there is one, 'Azure'.", crate::error::shorten(fabric)),
        )),
        _ => Ok(()),
    }
}

/// A resource as ARM shows it. Lists hold thousands: everything moves into place, which `json!` would copy.
pub(crate) fn resource(
    id: String,
    name: String,
    kind: &str,
    properties: serde_json::Map<String, serde_json::Value>,
) -> serde_json::Value {
    serde_json::Map::from_iter([
        ("id".to_owned(), id.into()),
        ("name".to_owned(), name.into()),
        ("type".to_owned(), kind.into()),
        ("properties".to_owned(), properties.into()),
    ])
    .into()
}

/// ARM ids.
pub(crate) fn group_id(app: &App, group: &str) -> String {
    [&subscription_id(app), "/resourceGroups/", group].concat()
}

pub(crate) fn vault_id(app: &App, vault: &Vault) -> String {
    format!("{}/providers/Microsoft.RecoveryServices/vaults/{}", group_id(app, &vault.group), vault.name)
}

pub(crate) fn machine_id(app: &App, group: &str, name: &str) -> String {
    [&group_id(app, group), "/providers/Microsoft.Compute/virtualMachines/", name].concat()
}

pub(crate) fn id_of_machine(app: &App, machine: &Machine) -> String {
    machine_id(app, &machine.group, &machine.name)
}

pub(crate) fn container_id(app: &App, vault: &Vault, container: &str) -> String {
    container_id_in(&vault_id(app, vault), container)
}

fn container_id_in(vault_id: &str, container: &str) -> String {
    // Not `format!`, which lets a long text grow bit by bit.
    [vault_id, "/backupFabrics/Azure/protectionContainers/", container].concat()
}

pub(crate) fn item_id(app: &App, vault: &Vault, item: &Item) -> String {
    let container = arm_names::container_short_name(&item.group, &item.machine_name);
    item_id_in(&vault_id(app, vault), &container)
}

/// The same, by the vault's id and the container's short name.
pub(crate) fn item_id_in(vault_id: &str, container: &str) -> String {
    let (item, container) = (arm_names::item_name_of(container), arm_names::container_name_of(container));
    container_id_in(vault_id, &container) + "/protectedItems/" + &item
}

/// Who asks, as jobs note it.
pub(crate) fn caller(request: &Request) -> String {
    request.caller().name.clone()
}

/// One page of what is all in memory, after the caller's `$skipToken`, in ascending order of `key`, which is unique. The
/// token holds the last key of the page before: what comes or goes meanwhile shifts nothing else into or out of sight.
pub(crate) fn page<T>(
    request: &Request,
    mut all: Vec<T>,
    max: usize,
    key: impl Fn(&T) -> String,
    show: impl Fn(&T) -> serde_json::Value,
) -> Answer {
    let page = request.page(max)?;
    if request.rows.is_some() {
        // Before it is cut: neither a page's length nor the token of the next tells of rows that are not shown.
        all = retain(all, |row| request.shows_row(show(row)["id"].as_str().unwrap_or("/")))?;
    }
    all.sort_by_cached_key(&key);
    let (shown, cursor) = page.cut(all, &key);
    request.list(shown.iter().map(show), cursor.as_deref())
}

fn retain<T>(all: Vec<T>, keep: impl Fn(&T) -> Result<bool, ArmError>) -> Result<Vec<T>, ArmError> {
    let mut kept = Vec::with_capacity(all.len());
    for row in all {
        if keep(&row)? {
            kept.push(row);
        }
    }
    Ok(kept)
}

/// What is of machines that the caller may read, each by its group and name. Groups are asked about once.
pub(crate) fn of_readable_machines<T>(
    app: &App,
    request: &Request,
    all: Vec<T>,
    machine: impl Fn(&T) -> (&str, &str),
) -> Result<Vec<T>, ArmError> {
    let may = |id: &str| app.gate.allowed(request.caller(), compute::READ, id);
    if may(&subscription_id(app))? {
        return Ok(all);
    }
    let mut groups: HashMap<String, bool> = HashMap::new();
    for group in all.iter().map(|row| machine(row).0) {
        if !groups.contains_key(group) {
            groups.insert(group.to_owned(), may(&group_id(app, group))?);
        }
    }
    retain(all, |row| {
        let (group, name) = machine(row);
        if groups.get(group) == Some(&true) { Ok(true) } else { may(&machine_id(app, group, name)) }
    })
}

/// Whether the caller may see what a drill saw inside a machine.
pub(crate) fn sees_drills(
    app: &App,
    request: &Request,
    vault: &Vault,
    scope: &str,
) -> Result<bool, ArmError> {
    Ok(check_data_access(app, request, vault).is_ok()
        && app.gate.allowed(request.caller(), DRILL_OUTPUT, scope)?)
}

/// Whether what is in a vault's points may go where the request comes from. Every handler that answers bytes of points asks this;
/// managing the vault does not depend on it.
pub(crate) fn check_data_access(app: &App, request: &Request, vault: &Vault) -> Result<(), ArmError> {
    let Client::Address(address) = request.client else { return Ok(()) };
    let is_listed = app.service.config().private_networks.iter().any(|network| network.contains(address));
    if is_listed || !strongroom_engine::service::vaults::is_closed_to_public_networks(vault) {
        return Ok(());
    }
    Err(ArmError::new(
        StatusCode::FORBIDDEN,
        "PublicNetworkAccessDisabled",
        format!(
            "Vault '{}' is closed to public networks: what is in its recovery points goes only to the service's own host, over its socket, and to the configuration's private_networks, and {address} is in none. Ask from there, or open the vault (`az backup vault update --public-network-access Enable`).",
            vault.name
        ),
    ))
}

/// Something is needed over a machine, by its group and name.
pub(crate) fn machine_link(app: &App, actions: &'static [&'static str], group: &str, name: &str) -> Link {
    Link { actions, scope: machine_id(app, group, name) }
}

/// The same over the machine of an item: under the name that it was protected by, and under the one that it has now.
pub(crate) fn item_machine_links(
    app: &App,
    actions: &'static [&'static str],
    item: &Item,
) -> Result<Vec<Link>, ArmError> {
    let mut links = vec![machine_link(app, actions, &item.group, &item.machine_name)];
    let now: Option<Machine> =
        app.service.catalog().get(item.machine).map_err(|e| ArmError::from(Error::from(e)))?;
    links.extend(now.map(|machine| machine_link(app, actions, &machine.group, &machine.name)));
    links.dedup();
    Ok(links)
}

/// A key of [`page`]: by name without regard to case, then by what tells those of one name apart.
pub(crate) fn by_name(name: &str, group: &str) -> String {
    format!("{}\u{1}{}", name.to_lowercase(), group.to_lowercase())
}

/// A key of [`page`], of resources in the form that they are shown in.
pub(crate) fn by_shown_name(shown: &serde_json::Value) -> String {
    let field = |name: &str| shown[name].as_str().unwrap_or_default().to_lowercase();
    format!("{}\u{1}{}", field("name"), field("id"))
}
