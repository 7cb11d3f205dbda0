//! Hosts, and where their machines are placed. Azure has no calls for it.

use crate::arm::estate::machines::show as show_machine;
use crate::arm::shared::{Answer, App, check_subscription, format, ids, subscription_id};
use crate::route::{Named, Needs};
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_domain::access::linked;
use strongroom_service::{machines, untrack};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    vec![
        Route::get("/subscriptions/{subscription}/providers/Strongroom.Backup/hosts", "Hosts_List", hosts)
            .action("Strongroom.Backup/hosts/read")
            .summary("The hosts whose machines are protected, and how they were when last looked at.")
            .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Strongroom.Backup/discover",
            "Hosts_Discover",
            discover,
        )
        .action("Strongroom.Backup/hosts/discover/action")
        .summary("Looks for machines on all hosts now.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{machine}/providers/Strongroom.Backup/place",
            "VirtualMachines_Place",
            place,
        )
        .action("Microsoft.Compute/virtualMachines/write")
        .reads::<PlaceBody>("PlaceRequest")
        .names(&[Named { field: "resourceGroup", needs: Needs::Group(linked::PLACED_MACHINE) }])
        .summary("Puts a machine into another resource group and location.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{machine}/providers/Strongroom.Backup/untrack",
            "VirtualMachines_Untrack",
            untrack_machine,
        )
        .action("Microsoft.Compute/virtualMachines/write")
        .summary("Takes away what backups left in a machine to follow its changes; its next backup reads everything once.")
        .tag(TAG),
    ]
}

fn hosts(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let seen = machines::hosts_seen(&app.service);
    let shown: Vec<Value> = app
        .service
        .hosts()
        .iter()
        .map(|host| {
            let seen = seen.get(&host.name);
            json!({
                "id": format!("{}/providers/Strongroom.Backup/hosts/{}", subscription_id(app), host.name),
                "name": host.name,
                "type": "Strongroom.Backup/hosts",
                "location": host.location,
                "properties": {
                    "resourceGroup": host.group,
                    "machines": seen.map(|s| s.machines),
                    "lastSeen": seen.map(|s| format::time(s.at)),
                    "problem": seen.and_then(|s| s.problem.clone()),
                },
            })
        })
        .collect();
    Response::ok(json!({"value": shown}))
}

fn discover(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    machines::discover(&app.service)?;
    hosts(app, request, params)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PlaceBody {
    resource_group: String,
    location: String,
}

fn place(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: PlaceBody = request.json()?;
    ids::check_named(request, "resourceGroup", &body.resource_group)?;
    let machine = machines::get(&app.service, &params["group"], &params["machine"])?;
    let machine = machines::place(&app.service, &machine, &body.resource_group, &body.location)?;
    Response::ok(show_machine(app, &machine, false))
}

fn untrack_machine(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let machine = machines::get(&app.service, &params["group"], &params["machine"])?;
    let gone = untrack::untrack(&app.service, &machine).map_err(ArmError::from)?;
    Response::ok(json!({"checkpoints": gone.checkpoints, "warnings": gone.warnings}))
}
