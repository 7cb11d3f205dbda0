//! Backup policies.

use crate::arm::protection::items::policy_id;
use crate::arm::shared::kinds::Kinds;
use crate::arm::shared::{Answer, App, by_shown_name, page, vault_of, vault_path};
use crate::route::{LIST, Named, Needs};
use crate::wire::policy::{self, Texts};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use serde_json::{Value, json};
use strongroom_catalog::{Policy, Vault};
use strongroom_domain::policy::PolicyTier;
use strongroom_service::policies;

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Policies";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupPolicies/read";
    const TIMES: Needs = Needs::Nothing("it says when, and for how long");
    vec![
        Route::get(vault_path!("/backupPolicies"), "BackupPolicies_List", list)
            .action(READ)
            .query(LIST)
            .summary("The vault's policies.")
            .tag(TAG),
        Route::get(vault_path!("/backupPolicies/{policy}"), "ProtectionPolicies_Get", get)
            .answers("Resource")
            .action(READ)
            .summary("A policy.")
            .tag(TAG),
        Route::put(vault_path!("/backupPolicies/{policy}"), "ProtectionPolicies_CreateOrUpdate", put)
            .answers("Resource")
            .action("Microsoft.RecoveryServices/Vaults/backupPolicies/write")
            .takes("Policy")
            .names(&[
                Named { field: "properties.schedulePolicy.dailySchedule", needs: TIMES },
                Named { field: "properties.schedulePolicy.weeklySchedule", needs: TIMES },
                Named { field: "properties.retentionPolicy.monthlySchedule", needs: TIMES },
                Named { field: "properties.retentionPolicy.yearlySchedule", needs: TIMES },
            ])
            .summary("Makes a policy, or changes one for all its items.")
            .tag(TAG),
        Route::delete(vault_path!("/backupPolicies/{policy}"), "ProtectionPolicies_Delete", delete)
            .action("Microsoft.RecoveryServices/Vaults/backupPolicies/delete")
            .success(&[200, 204])
            .summary("Removes a policy that no item uses.")
            .tag(TAG),
    ]
}

fn show(app: &App, vault: &Vault, found: &Policy) -> Result<Value, ArmError> {
    let texts: Texts = serde_json::from_value(found.wire.clone()).unwrap_or_default();
    let day = jiff::tz::TimeZone::UTC.to_datetime(found.created_at).date();
    let items = policies::items_of(&app.service, found)?;
    Ok(json!({
        "id": policy_id(app, vault, &found.name),
        "name": found.name,
        "type": "Microsoft.RecoveryServices/vaults/backupPolicies",
        "properties": policy::show(&found.rules, &texts, day, items),
    }))
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let mut found = policies::list(&app.service, &vault)?;
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter
            .equalities(&["backupManagementType", "workloadType", "policySubType", "name"])
            .map_err(refused)?;
        let tier = wanted.one_of("policySubType", &["Standard", "Enhanced"]).map_err(refused)?;
        let kinds = Kinds::wanted(&wanted).map_err(refused)?;
        found.retain(|p| {
            let is_enhanced = p.rules.tier == PolicyTier::Enhanced;
            kinds.take(p.datasource)
                && wanted.passes("name", &p.name)
                && tier.is_none_or(|tier| (tier == "Enhanced") == is_enhanced)
        });
    }
    let shown = found.iter().map(|p| show(app, &vault, p)).collect::<Result<Vec<_>, _>>()?;
    page(request, shown, 500, by_shown_name, Value::clone)
}

fn get(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let found = policies::get(&app.service, &vault, &params["policy"])?;
    Response::ok(show(app, &vault, &found)?)
}

fn put(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let body: Value = request.json()?;
    let properties = body.get("properties").filter(|p| p.is_object()).ok_or_else(|| {
        ArmError::bad_request("BMSUserErrorInvalidPolicyInput", "The policy has no properties.")
    })?;
    let (mut rules, texts) = policy::parse(properties)?;
    if policy::require_all_disks(properties)?.is_none() {
        // Azure's clients do not know it, and send back the rest.
        let before = policies::list(&app.service, &vault)?;
        let before = before.iter().find(|p| p.name.eq_ignore_ascii_case(&params["policy"]));
        rules.require_all_disks = before.is_some_and(|p| p.rules.require_all_disks);
    }
    let wire = serde_json::to_value(texts).unwrap_or_default();
    let (found, _) = policies::put(&app.service, &vault, &params["policy"], rules, wire)?;
    Response::ok(show(app, &vault, &found)?)
}

fn delete(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    Ok(match policies::delete(&app.service, &vault, &params["policy"])? {
        true => Response::empty(StatusCode::OK),
        false => Response::empty(StatusCode::NO_CONTENT),
    })
}
