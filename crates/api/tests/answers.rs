//! An empty answer says that there is nothing. What is not understood, or not known, is refused or left out.

mod common;

use common::estate::{Estate, names};
use http::Method;
use serde_json::json;
use strongroom_api::route::FILTER;
use strongroom_api::{Access, Request};

const NOT_HERE: &str = "UserErrorFeatureNotSupportedOnThisServer";
const GRAPH: &str = "/providers/Microsoft.ResourceGraph/resources";
const ITEMS: &str =
    "microsoft.recoveryservices/locations/deletedvaults/backupfabrics/protectioncontainers/protecteditems";

/// What `az backup deleted-vault list-containers` sends.
fn as_az_asks(more: &str) -> String {
    format!(
        "recoveryservicesresources\n| where type == \"{ITEMS}\"\n| extend dataSourceType = \
         strcat(properties.backupManagementType, '/', properties.workloadType){more}\n| project id, type, name, \
         location, resourceGroup, subscriptionId, dataSourceType, properties, tags"
    )
}

#[test]
fn the_graph_refuses_what_it_does_not_understand() {
    let estate = Estate::new();
    let vault = estate.vault();
    estate.must(Method::DELETE, &estate.item("web"), None);
    estate.must(Method::DELETE, &vault, None);
    let ask = |query: &str| {
        let subscription = estate.service().subscription().to_string();
        estate.ask(
            Method::POST,
            GRAPH,
            Some(json!({"query": query, "options": {"subscriptions": [subscription]}})),
        )
    };
    let (status, told) = ask(&as_az_asks("\n| where tostring(id) contains \"deletedvaults\""));
    assert_eq!(status, 200, "{told}");
    let row = &told["data"][0];
    assert_eq!(row["dataSourceType"], "AzureIaasVM/VM");
    assert_eq!(row["properties"]["friendlyName"], "web");
    assert_eq!(told["count"], 1);
    assert_eq!(ask(&as_az_asks("\n| where tostring(id) contains \"elsewhere\"")).1["data"], json!([]));
    let (status, told) = ask(
        "RecoveryServicesResources | where type =~ 'Microsoft.RecoveryServices/locations/deletedVaults' and \
         resourceGroup == 'g' | project name, properties",
    );
    assert_eq!(
        (status, told["data"][0]["properties"]["vaultId"].as_str()),
        (200, Some(vault.as_str())),
        "{told}"
    );
    assert_eq!(told["data"][0].as_object().unwrap().len(), 2);

    let jobs = "recoveryservicesresources | where type == 'microsoft.recoveryservices/vaults/backupjobs'";
    for query in [
        jobs,
        "recoveryservicesresources",
        "resources | where type == 'microsoft.compute/virtualmachines'",
        "resources | summarize count() by type",
        "",
        &as_az_asks(" | where properties.protectionState != 'Protected'"),
        &as_az_asks(" | where tostring(properties.noSuchThing) == 'x'"),
        &as_az_asks(" | where noSuchColumn == 'x'"),
        &as_az_asks(" | summarize count()"),
        &as_az_asks(" | take 1"),
        &as_az_asks(" | join (recoveryservicesresources) on id"),
        &as_az_asks(" | where name contains 'a' or name contains 'b'"),
        &as_az_asks(" // a remark"),
        &as_az_asks(" | project noSuchColumn"),
        &as_az_asks(" | where name has 'a'"),
        &as_az_asks(" | where name contains \"open"),
        &format!("{} | order by name", as_az_asks("")),
        // All rows would be named so.
        "recoveryservicesresources | extend type = 'x' | where type == 'x'",
    ] {
        let (status, told) = ask(query);
        assert_eq!((status, told["error"]["code"].as_str()), (400, Some(NOT_HERE)), "{query}: {told}");
        assert!(told["error"]["message"].as_str().unwrap().contains("deletedvaults"), "{told}");
    }
    for (name, value) in [("$skip", json!(1)), ("resultFormat", json!("table")), ("later", json!("x"))] {
        let body = json!({"query": as_az_asks(""), "options": {name: value}});
        assert_eq!(estate.refused(Method::POST, GRAPH, Some(body)).0, NOT_HERE, "{name}");
    }
    let others = json!({"query": as_az_asks(""), "subscriptions": ["11111111-1111-1111-1111-111111111111"]});
    assert_eq!(estate.refused(Method::POST, GRAPH, Some(others)).0, NOT_HERE);
}

#[test]
fn status_leaves_out_what_there_is_not() {
    let estate = Estate::new();
    let ask = |machine: &str| {
        let body = json!({"resourceType": "VM", "resourceId": estate.machine(machine)});
        estate.must(Method::POST, &estate.location("backupStatus"), Some(body))
    };
    assert_eq!(ask("db"), json!({"protectionStatus": "NotProtected"}));
    let web = ask("web");
    assert_eq!(web["protectionStatus"], "Protected");
    assert_eq!(web["vaultId"], estate.vault());
    assert_eq!(web["fabricName"], "Azure");
    assert_eq!(web["containerName"], "iaasvmcontainer;iaasvmcontainerv2;g;web");
    assert_eq!(web["protectedItemName"], "vm;iaasvmcontainerv2;g;web");
    assert_eq!(web["policyName"], "DefaultPolicy");
    let stop = json!({"properties": {"protectionState": "ProtectionStopped", "policyId": ""}});
    estate.must(Method::PUT, &estate.item("web"), Some(stop));
    assert_eq!(ask("web").get("policyName"), None);
    // Of what it knows nothing of it does not say that it is unprotected.
    let share = json!({"resourceType": "AzureFileShare", "resourceId": estate.machine("web")});
    assert_eq!(estate.refused(Method::POST, &estate.location("backupStatus"), Some(share)).0, NOT_HERE);
    // Nor that a disk has no bytes.
    let disk = format!("{}/providers/Microsoft.Compute/disks/web_vda", estate.group());
    let disk = estate.get(&disk);
    assert_eq!(disk["properties"].get("diskSizeGB"), None, "{disk}");
    assert_eq!(disk["properties"].get("diskSizeBytes"), None, "{disk}");
}

/// Every path that is read, with a filter by a name that nothing has.
#[test]
fn no_filter_is_passed_over() {
    let estate = Estate::new();
    let app_routes = strongroom_api::arm::routes();
    let mut walked = 0;
    for route in app_routes.iter().filter(|r| !r.is_write() && matches!(r.access, Access::Action(_))) {
        let path = estate.path_of(route.pattern);
        // What is not there says so first, where a filter is taken.
        if route.query.contains(&FILTER) && path.contains('{') {
            continue;
        }
        let path = path.replace(['{', '}'], "");
        let target = Request::in_process(
            route.method.clone(),
            &format!("{path}?api-version=1&$filter=noSuchName+eq+'x'"),
            None,
        )
        .unwrap();
        let answer = estate.api.dispatch(target);
        let told = answer.json_body().unwrap_or_default();
        if told["error"]["code"] == NOT_HERE {
            continue;
        }
        assert_eq!(
            (answer.status.as_u16(), told["error"]["code"].as_str()),
            (400, Some("InvalidFilterInQueryString")),
            "{route:?}: {told}"
        );
        walked += 1;
    }
    assert!(walked > 55, "{walked}");
}

#[test]
fn filters_by_what_nothing_ever_is_are_refused() {
    let estate = Estate::new();
    let vault = estate.vault();
    let points = format!("{}/recoveryPoints", estate.item("web"));
    let at = |rest: &str| format!("{vault}/{rest}");
    let cases: [(String, &[&str], &[&str]); 7] = [
        (
            at("backupProtectedItems"),
            &["backupManagementType eq 'AzureIaasVM' and itemType eq 'VM'", "healthState eq 'passed'"],
            &["backupManagementType eq 'MAB'", "itemType eq 'AzureFileShare'", "backupEngineName eq 'x'"],
        ),
        (
            at("backupJobs"),
            &["status eq 'completed'", "operation eq 'ConfigureBackup'"],
            &["operation eq 'UnRegister'", "status eq 'Failed'", "backupManagementType eq 'AzureStorage'"],
        ),
        (
            at("backupProtectionContainers"),
            &["status eq 'Registered' and containerType eq 'IaasVMContainer'", "healthStatus eq 'Healthy'"],
            &["status eq 'SoftDeleted'", "containerType eq 'Windows'", "healthStatus eq 'Bad'"],
        ),
        (
            at("backupProtectableItems"),
            &["workloadType eq 'VM'", "status eq 'NotProtected'"],
            &["workloadType eq 'SQLDataBase'", "status eq 'Protected'", "itemType eq 'SQLInstance'"],
        ),
        (
            at("backupPolicies"),
            &["policySubType eq 'Enhanced'", "workloadType eq 'VM' and name eq 'defaultpolicy'"],
            &["backupManagementType eq 'AzureWorkload'", "name eq 'x'"],
        ),
        (
            points,
            &[
                "restorePointQueryType eq 'All'",
                "isVaultTierRecoveryPoint eq true",
                "recoveryPointType eq 'CrashConsistent'",
            ],
            &[
                "restorePointQueryType eq 'Log'",
                "isVaultTierRecoveryPoint eq false",
                "recoveryPointType eq 'AppConsistent'",
            ],
        ),
        (at("backupEngines"), &[], &["backupManagementType eq 'DPM'"]),
    ];
    for (path, found, empty) in &cases {
        for filter in *found {
            let (status, told) = estate.filtered(path, filter);
            assert_eq!(
                (status, told["value"].as_array().map(Vec::len)),
                (200, Some(1)),
                "{path} {filter}: {told}"
            );
        }
        for filter in *empty {
            let (status, told) = estate.filtered(path, filter);
            assert_eq!((status, &told), (200, &json!({"value": []})), "{path} {filter}");
        }
    }
    for (path, filter) in [
        (&cases[0].0, "backupManagementType eq 'AzureIaaSVMs'"),
        (&cases[0].0, "itemType eq 'VMs'"),
        (&cases[0].0, "healthState eq 'well'"),
        (&cases[1].0, "status eq 'Succeeded'"),
        (&cases[1].0, "operation eq 'BackUpNow'"),
        (&cases[1].0, "jobId eq 'x'"),
        (&cases[2].0, "status eq 'Gone'"),
        (&cases[2].0, "containerType eq 'Box'"),
        (&cases[3].0, "workloadType eq 'Machine'"),
        (&cases[3].0, "status eq 'x'"),
        (&cases[4].0, "policySubType eq 'V2'"),
        (&cases[5].0, "restorePointQueryType eq 'x'"),
        (&cases[5].0, "recoveryPointType eq 'Consistent'"),
        (&cases[5].0, "isVaultTierRecoveryPoint eq 'perhaps'"),
        (&cases[6].0, "backupManagementType eq 'x'"),
        (&at("backupUsageSummaries"), "type eq 'x'"),
        (&estate.item("web"), "expand eq 'all'"),
    ] {
        let (status, told) = estate.filtered(path, filter);
        assert_eq!(
            (status, told["error"]["code"].as_str()),
            (400, Some("InvalidFilterInQueryString")),
            "{path} {filter}: {told}"
        );
    }
    let (_, all) = estate.ask(Method::GET, &cases[1].0, None);
    let job = names(&all)[0];
    let both = |status: &str| {
        let (_, told) = estate.filtered(&cases[1].0, &format!("jobId eq '{job}' and status eq '{status}'"));
        names(&told).len()
    };
    assert_eq!((both("Completed"), both("Failed")), (1, 0));
    let (_, told) = estate.filtered(&estate.item("web"), "expand eq 'extendedInfo'");
    assert_eq!(told["properties"]["extendedInfo"]["recoveryPointCount"], 1, "{told}");
}
