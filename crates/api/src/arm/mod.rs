//! The resources, as Azure shows them: routes and handlers over the service's use cases.
//!
//! Each handler translates a request, calls the service, and translates what it says. A room is a part of the surface, and a file
//! in it a kind of resource. Rooms meet only downward, in this order from the lowest:
//!
//! - `shared`: the application, paths and ids, what a path names, lists, times, refusals. It knows no room;
//! - `jobs`: jobs, and operations as clients follow them;
//! - `vaults`: their settings, the deleted ones, what they hold;
//! - `estate`: subscriptions, groups, machines, places, hosts;
//! - `protection`: points, policies, items, containers, the graph of deleted items;
//! - `restore`: restores, instant restores, drills;
//! - `absent`: what is not here.

mod absent;
mod estate;
mod jobs;
mod protection;
mod restore;
mod schemas;
mod shared;
mod vaults;

pub use absent::unavailable::TAG as NOT_AVAILABLE;
pub use shared::App;

use crate::auth::{CatalogDirectory, Gate, SignIn, SignInConfig};
use crate::openapi;
use crate::{Access, Params, Request, Response, Route};
use serde_json::{Map, Value, json};
use shared::Answer;
use std::collections::BTreeMap;
use std::sync::Arc;
use strongroom_service::Service;
use strongroom_service::{Error, ErrorKind};

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

/// The schemas of all that routes take and answer.
pub fn schemas() -> Map<String, Value> {
    let mut all = schemas::by_hand();
    // One that is told in two ways the document finds again, and refuses: nothing is lost here.
    let _ = openapi::add_types(&routes(), &mut all);
    all
}

/// Every resource route.
pub fn routes() -> Vec<Route<App>> {
    let mut routes = [
        estate::routes(),
        vaults::routes(),
        protection::routes(),
        restore::routes(),
        jobs::routes(),
        absent::routes(),
        vec![
            Route::get("/providers/Microsoft.RecoveryServices/operations", "Operations_List", operations)
                .summary("What can be done with vaults: the actions that roles allow.")
                .tag("Subscriptions"),
        ],
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    for route in &mut routes {
        // Whatever is listed, it is listed in the same form.
        if [crate::route::LIST, crate::route::PAGED].contains(&route.query) && route.response_schema.is_none()
        {
            route.response_schema = Some("ResourceList");
        }
    }
    routes
}

/// By the actions that routes need, of whichever room: what there is to be allowed.
fn operations(_: &App, _: &Request, _: &Params) -> Answer {
    const PROVIDER: &str = "Microsoft.RecoveryServices/";
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for route in routes() {
        if let Access::Action(action) = route.access
            && action.starts_with(PROVIDER)
        {
            found.entry(action).or_insert(route.summary);
        }
    }
    let shown = found.into_iter().map(|(action, summary)| {
        let rest = action.strip_prefix(PROVIDER).unwrap_or(action);
        let resource = rest.rsplit_once('/').map_or(rest, |(resource, _)| resource);
        json!({
            "name": action,
            "display": {
                "provider": "Microsoft.RecoveryServices", "resource": resource, "operation": rest, "description": summary,
            },
            "origin": "user",
        })
    });
    Response::ok(json!({"value": shown.collect::<Vec<_>>()}))
}
