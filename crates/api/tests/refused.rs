//! What Azure has and this server has not is refused in words, and `docs/az.md` lists it; what truly is empty is answered so.

mod common;

use common::estate::{Estate, names};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use strongroom_api::arm::{NOT_AVAILABLE, routes};

const NOT_HERE: &str = "UserErrorFeatureNotSupportedOnThisServer";

/// A route's path, of things that are there where they can be.
fn path_of(estate: &Estate, pattern: &str) -> String {
    estate.path_of(pattern).replace(['{', '}'], "")
}

#[test]
fn all_that_says_so_is_marked_so() {
    let estate = Estate::new();
    let mut marked = 0;
    for route in routes() {
        // What goes may be what others are looked for in.
        if route.method == Method::DELETE && route.tag != NOT_AVAILABLE {
            continue;
        }
        let body = route.is_write().then(|| json!({}));
        let (status, told) = estate.ask(route.method.clone(), &path_of(&estate, route.pattern), body);
        let is_refused = told["error"]["code"] == NOT_HERE;
        assert_eq!(is_refused, route.tag == NOT_AVAILABLE, "{route:?}: {status} {told}");
        if is_refused {
            let message = told["error"]["message"].as_str().unwrap();
            assert_eq!(
                (status, message),
                (400, &*format!("{} is not available on this server.", route.summary))
            );
            marked += 1;
        }
    }
    assert!(marked > 35, "{marked}");
}

/// With STRONGROOM_WRITE_DOCS=1 it writes the list.
#[test]
fn the_document_lists_all_that_is_refused() {
    const BEGIN: &str = "<!-- refused: written by a test, from the routes -->\n";
    const END: &str = "<!-- refused: end -->\n";
    let mut by_feature: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for route in routes() {
        if route.tag == NOT_AVAILABLE || route.summary.starts_with("Refused: ") {
            let tail = route.pattern.split("/providers/Microsoft.").last().unwrap();
            let (_, tail) = tail.split_once('/').unwrap();
            let tail = tail.strip_prefix("vaults/{vault}/").unwrap_or(tail);
            let tail = tail.replace(
                "backupFabrics/{fabric}/protectionContainers/{container}/protectedItems/{item}/",
                "…/",
            );
            by_feature.entry(route.summary).or_default().push(format!("`{} {tail}`", route.method));
        }
    }
    let rows: Vec<String> =
        by_feature.iter().map(|(what, calls)| format!("| {what} | {} |\n", calls.join(", "))).collect();
    let list = format!("{BEGIN}| what | calls |\n|---|---|\n{}{END}", rows.concat());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/az.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let wanted = format!("{head}{list}{tail}");
    if std::env::var_os("STRONGROOM_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/az.md is not what the routes say: run this with STRONGROOM_WRITE_DOCS=1"
        );
    }
}

#[test]
fn what_azure_has_under_a_provider_of_ours_is_not_called_missing() {
    let estate = Estate::new();
    for path in [
        format!("{}/replicationFabrics", estate.vault()),
        format!("{}/backupFabrics/Azure/somethingNew/x", estate.vault()),
        estate.location("operationStatus/x"),
        format!("{}/providers/Microsoft.Compute/virtualMachineScaleSets", estate.subscription),
    ] {
        let (code, message) = estate.refused(Method::GET, &path, None);
        assert_eq!(code, NOT_HERE, "{path}");
        assert!(message.contains("is not available on this server"), "{message}");
    }
    for namespace in ["Microsoft.ClassicStorage/storageAccounts/x", "Microsoft.DataProtection/backupVaults"] {
        let path = format!("{}/providers/{namespace}", estate.group());
        assert_eq!(estate.refused(Method::GET, &path, None).0, "InvalidResourceNamespace");
    }
}

#[test]
fn what_truly_is_empty_is_answered() {
    let estate = Estate::new();
    let vault = estate.vault();
    let container = estate.item("web").split("/protectedItems").next().unwrap().to_owned();
    let empty = json!({"value": []});
    for rest in [
        "replicationUsages",
        "replicationVaultSettings",
        "privateLinkResources",
        "privateEndpointConnections",
    ] {
        assert_eq!(estate.get(&format!("{vault}/{rest}")), empty, "{rest}");
        let one = estate.ask(Method::GET, &format!("{vault}/{rest}/x"), None);
        assert!(one.0 >= 400 && one.1["error"]["message"].is_string(), "{rest}: {one:?}");
    }
    let items = format!("{container}/items");
    assert_eq!(estate.filtered(&items, "backupManagementType eq 'AzureWorkload'"), (200, empty));
    assert_eq!(estate.filtered(&items, "backupManagementType eq 'x'").0, 400);
    assert_eq!(estate.ask(Method::GET, &items.replace(";web", ";nosuch"), None).0, 404);
    assert_eq!(estate.refused(Method::GET, &format!("{vault}/backupEngines/x"), None).0, "ResourceNotFound");

    let all = estate.get("/providers/Microsoft.RecoveryServices/operations");
    let actions = names(&all);
    assert!(actions.contains(&"Microsoft.RecoveryServices/Vaults/read"), "{all}");
    assert!(actions.len() > 40 && all["value"][0]["display"]["description"].is_string(), "{all}");

    let check = format!(
        "{}/providers/Microsoft.RecoveryServices/locations/local/checkNameAvailability",
        estate.group()
    );
    let ask = |name: &str| {
        estate.must(
            Method::POST,
            &check,
            Some(json!({"type": "Microsoft.RecoveryServices/Vaults", "name": name})),
        )
    };
    assert_eq!(ask("new-one"), json!({"nameAvailable": true}));
    assert_eq!(ask("VAULT")["reason"], "AlreadyExists");
    assert_eq!(ask("1a")["reason"], "Invalid");
    let other = json!({"type": "Microsoft.Compute/disks", "name": "x"});
    assert_eq!(estate.refused(Method::POST, &check, Some(other)).0, "InvalidParameter");

    let zones = json!({"type": "Microsoft.RecoveryServices/vaults", "properties": {"dnsZones": [{"subResource": "AzureBackup"}]}});
    let told = estate.must(Method::POST, &estate.location("capabilities"), Some(zones));
    assert_eq!(
        told["properties"]["dnsZones"][0],
        json!({"subResource": "AzureBackup", "requiredZoneNames": []})
    );
}

#[test]
fn shapes_are_azures() {
    let estate = Estate::new();
    let vault = estate.vault();
    // Looking for machines is followed by either header.
    let answer = estate.call(Method::POST, &format!("{vault}/backupFabrics/Azure/refreshContainers"), None);
    let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    let path = |url: String| url["https://localhost".len()..].split('?').next().unwrap().to_owned();
    let status = path(header("azure-asyncoperation"));
    assert!(status.contains("/operationsStatus/"), "{status}");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while estate.get(&status)["status"] == "InProgress" {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(estate.get(&status)["status"], "Succeeded");
    assert_eq!(estate.ask(Method::GET, &path(header("location")), None).0, 204);

    let usage = estate.get(&format!("{vault}/backupUsageSummaries"));
    assert_eq!(
        (&usage["value"][0]["name"]["value"], &usage["value"][0]["currentValue"]),
        (&json!("AzureIaasVM"), &json!(1))
    );

    let ask = |machine: &str, vault: Value| {
        let body = json!({"resourceType": "VM", "resourceId": estate.machine(machine), "vaultId": vault});
        estate.must(Method::POST, &estate.location("backupPreValidateProtection"), Some(body))
    };
    assert_eq!(
        ask("db", json!(vault)),
        json!({
            "status": "Succeeded", "containerName": "IaasVMContainer;iaasvmcontainerv2;g;db",
            "protectedItemName": "VM;iaasvmcontainerv2;g;db",
        })
    );
    let other = estate.vault_called("second");
    estate.must(Method::PUT, &other, Some(json!({"location": "local"})));
    for at in [json!(vault), json!(other), Value::Null] {
        let told = ask("web", at);
        assert_eq!(
            (&told["status"], &told["errorCode"]),
            (&json!("Failed"), &json!("VirtualMachineAlreadyProtected")),
            "{told}"
        );
        assert_eq!(told["protectedItemName"], "VM;iaasvmcontainerv2;g;web");
    }
    // A restore has come somewhere from its first moment on.
    let restore = json!({"properties": {
        "objectType": "IaasVMRestoreRequest", "recoveryType": "RestoreDisks",
        "storageAccountId": format!("{}/providers/Microsoft.Storage/storageAccounts/places", estate.group()),
    }});
    estate.must(Method::POST, &format!("{}/recoveryPoints/4711/restore", estate.item("web")), Some(restore));
    let jobs = estate.filtered(&format!("{vault}/backupJobs"), "operation eq 'Restore'").1;
    let job = estate.get(&format!("{vault}/backupJobs/{}", names(&jobs)[0]));
    assert_eq!(job["properties"]["extendedInfo"]["progressPercentage"], 1.0, "{job}");
    // Stopped, it is protected again by protecting it.
    let stop = json!({"properties": {"protectionState": "ProtectionStopped", "policyId": ""}});
    estate.must(Method::PUT, &estate.item("web"), Some(stop));
    assert_eq!(ask("web", json!(vault))["status"], "Succeeded");
    // A size that nobody noted is not shown.
    let point = estate.get(&format!("{}/recoveryPoints/4711", estate.item("web")));
    assert_eq!(point["properties"].get("virtualMachineSize"), None, "{point}");
}
