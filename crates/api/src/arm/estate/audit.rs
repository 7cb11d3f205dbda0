//! The audit, for whoever follows it. Azure has no call for it.

use crate::arm::shared::{Answer, App, check_subscription};
use crate::route::QueryParameter;
use crate::{ArmError, Params, Request, Response, Route, limits};
use serde_json::json;
use strongroom_service::audit;
use uuid::Uuid;

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    vec![
        Route::get(
            "/subscriptions/{subscription}/providers/Strongroom.Backup/auditEvents",
            "Audit_List",
            audit_events,
        )
        .action("Microsoft.Insights/eventtypes/values/read")
        .query(AUDIT)
        .summary("The audit: changes and refusals, in the order in which they were written.")
        .tag(TAG),
    ]
}

const AUDIT: &[QueryParameter] = &[
    QueryParameter::optional(
        "after",
        "A cursor: the `cursor` of an answer before, to go on; `oldest` to begin with the oldest. Without it: the newest.",
    ),
    QueryParameter::optional("$top", "How many events at most."),
];

/// The service's activity log, for whoever follows it: a page, and the cursor of what comes after it.
fn audit_events(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let invalid = |what: &str| ArmError::bad_request("InvalidQueryParameter", what);
    let most = match request.query.get("$top") {
        None => limits::PAGE_MAX_ITEMS as u32,
        Some(text) => match text.parse::<u32>() {
            Ok(most) if most as usize <= limits::PAGE_MAX_ITEMS => most,
            _ => return Err(invalid("$top is a number up to 1000.")),
        },
    };
    let page = match request.query.get("after") {
        None => audit::page(&app.service, None, most)?,
        Some("oldest") => audit::oldest(&app.service, most)?,
        Some(cursor) => {
            let cursor = cursor.parse::<Uuid>().map_err(|_| invalid("after is no cursor of an answer."))?;
            audit::page(&app.service, Some(cursor), most)?
        }
    };
    Response::ok(json!({ "value": page.rows, "cursor": page.cursor }))
}
