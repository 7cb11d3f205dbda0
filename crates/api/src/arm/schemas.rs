//! Schemas of request and answer bodies, for the OpenAPI document.

use serde_json::{Map, Value, json};

/// All that the routes name.
pub fn schemas() -> Map<String, Value> {
    let text = || json!({"type": "string"});
    let tags = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required});
    let properties = |inner: Value| object(json!({"properties": inner}), json!(["properties"]));
    let vault_properties = || {
        object(
            json!({
                "securitySettings": object(json!({
                    "softDeleteSettings": object(json!({
                        "softDeleteState": {"enum": ["Enabled", "Disabled", "AlwaysON"]},
                        "enhancedSecurityState": {"enum": ["Enabled", "Disabled", "AlwaysON"]},
                        "softDeleteRetentionPeriodInDays": {"type": "integer", "minimum": 14, "maximum": 180},
                    }), json!([])),
                    "immutabilitySettings": object(json!({"state": {"enum": ["Disabled", "Unlocked", "Locked"]}}), json!([])),
                }), json!([])),
                "redundancySettings": object(json!({
                    "standardTierStorageRedundancy": {"enum": ["LocallyRedundant", "ZoneRedundant", "GeoRedundant"]},
                    "crossRegionRestore": {"enum": ["Enabled", "Disabled"]},
                }), json!([])),
                "strongroomSingleWriter": {"type": "boolean"},
                "monitoringSettings": {"type": "object"},
                "costManagementSettings": {"type": "object"},
                "publicNetworkAccess": {"enum": ["Enabled", "Disabled"]},
                "restoreSettings": {"type": "object"},
            }),
            json!([]),
        )
    };
    let identity =
        || object(json!({"type": text(), "userAssignedIdentities": {"type": "object"}}), json!(["type"]));
    let duration = || {
        object(
            json!({"count": {"type": "integer", "minimum": 1}, "durationType": {"enum": ["Days", "Weeks", "Months", "Years"]}}),
            json!(["count", "durationType"]),
        )
    };
    let restore = || {
        object(
            json!({
                "objectType": {"enum": ["IaasVMRestoreRequest"]},
                "recoveryType": {"enum": ["RestoreDisks", "AlternateLocation", "OriginalLocation"]},
                "recoveryPointId": text(), "sourceResourceId": text(), "targetVirtualMachineId": text(),
                "targetResourceGroupId": text(), "storageAccountId": text(), "virtualNetworkId": text(),
                "subnetId": text(), "region": text(), "diskFormat": {"enum": ["qcow2", "raw", "vhd"]},
                "restoreDiskLunList": {"type": "array", "items": {"type": "integer"}}, "unencrypted": {"type": "boolean"},
                "discardSavedState": {"type": "boolean"},
            }),
            json!(["recoveryType"]),
        )
    };
    let all = json!({
        "Resource": object(json!({
            "id": text(), "name": text(), "type": text(), "location": text(), "tags": tags(), "properties": {"type": "object"},
        }), json!(["id", "name", "type", "properties"])),
        "ResourceList": object(json!({
            "value": {"type": "array", "items": {"type": "object"}}, "nextLink": {"type": "string", "minLength": 1},
        }), json!(["value"])),
        "OperationStatus": object(json!({
            "id": text(), "name": text(), "status": {"enum": ["InProgress", "Succeeded", "Failed", "Canceled"]},
            "startTime": {"type": "string", "format": "date-time"}, "endTime": {"type": "string", "format": "date-time"},
            "properties": {"type": "object"},
            "error": object(json!({"code": text(), "message": text()}), json!(["code", "message"])),
        }), json!(["id", "name", "status", "startTime"])),
        "ResourceGroup": object(json!({"location": text(), "tags": tags()}), json!(["location"])),
        "TagsPatch": object(json!({"tags": tags()}), json!([])),
        "Vault": object(json!({
            "location": text(), "tags": tags(),
            "sku": object(json!({"name": {"enum": ["Standard", "RS0"]}}), json!(["name"])),
            "identity": identity(), "properties": vault_properties(),
        }), json!(["location"])),
        "VaultPatch": object(json!({"tags": tags(), "identity": identity(), "properties": vault_properties()}), json!([])),
        "UndeleteRequest": object(json!({"properties": {"type": "object"}}), json!([])),
        "VaultConfig": properties(object(json!({
            "softDeleteFeatureState": {"enum": ["Enabled", "Disabled", "AlwaysON"]},
            "enhancedSecurityState": {"enum": ["Enabled", "Disabled", "AlwaysON"]},
            "softDeleteRetentionPeriodInDays": {"type": "integer", "minimum": 14, "maximum": 180},
        }), json!([]))),
        "StorageConfig": properties(object(json!({
            "storageModelType": {"enum": ["LocallyRedundant", "ZoneRedundant", "GeoRedundant"]},
            "crossRegionRestoreFlag": {"type": "boolean"},
        }), json!([]))),
        "Policy": properties(object(json!({
            "backupManagementType": {"enum": ["AzureIaasVM"]},
            "policyType": {"enum": ["V1", "V2"]},
            "timeZone": text(),
            "strongroomRequireAllDisks": {"type": "boolean"},
            "instantRpRetentionRangeInDays": {"type": "integer", "minimum": 1, "maximum": 30},
            "schedulePolicy": object(json!({
                "schedulePolicyType": {"enum": ["SimpleSchedulePolicy", "SimpleSchedulePolicyV2"]},
                "scheduleRunFrequency": {"enum": ["Daily", "Weekly", "Hourly"]},
                "scheduleRunTimes": {"type": "array", "items": text()},
                "scheduleRunDays": {"type": "array", "items": text()},
                "hourlySchedule": object(json!({
                    "interval": {"type": "integer"}, "scheduleWindowStartTime": text(),
                    "scheduleWindowDuration": {"type": "integer"},
                }), json!([])),
                "dailySchedule": {"type": "object"}, "weeklySchedule": {"type": "object"},
            }), json!(["scheduleRunFrequency"])),
            "retentionPolicy": object(json!({
                "retentionPolicyType": {"enum": ["LongTermRetentionPolicy"]},
                "dailySchedule": object(json!({"retentionDuration": duration()}), json!(["retentionDuration"])),
                "weeklySchedule": object(json!({
                    "daysOfTheWeek": {"type": "array", "items": text()}, "retentionDuration": duration(),
                }), json!(["retentionDuration"])),
                "monthlySchedule": {"type": "object"}, "yearlySchedule": {"type": "object"},
            }), json!([])),
        }), json!(["schedulePolicy", "retentionPolicy"]))),
        "Container": properties(object(json!({
            "sourceResourceId": text(), "friendlyName": text(), "backupManagementType": {"enum": ["AzureIaasVM"]},
            "containerType": {"enum": ["Microsoft.Compute/virtualMachines"]},
        }), json!([]))),
        "ProtectedItem": properties(object(json!({
            "protectedItemType": {"enum": ["Microsoft.Compute/virtualMachines"]},
            "policyId": text(), "sourceResourceId": text(),
            "protectionState": {"enum": ["ProtectionStopped", "BackupsSuspended"]},
            "isRehydrate": {"type": "boolean"},
            "extendedProperties": object(json!({"diskExclusionProperties": object(json!({
                "diskLunList": {"type": "array", "items": {"type": "integer"}}, "isInclusionList": {"type": "boolean"},
            }), json!([]))}), json!([])),
        }), json!([]))),
        "BackupRequest": properties(object(json!({
            "objectType": {"enum": ["IaasVMBackupRequest"]},
            "recoveryPointExpiryTimeInUTC": {"type": "string", "format": "date-time"},
        }), json!([]))),
        "RestoreRequest": properties(restore()),
        "InstantRestoreRequest": properties(object(json!({
            "recoveryPointId": text(), "sourceResourceId": text(), "targetVirtualMachineId": text(),
            "targetResourceGroupId": text(), "storageAccountId": text(), "virtualNetworkId": text(),
            "subnetId": text(), "restoreDiskLunList": {"type": "array", "items": {"type": "integer"}},
            "unencrypted": {"type": "boolean"},
        }), json!(["targetVirtualMachineId"]))),
        "DrillRequest": properties(object(json!({
            "check": text(), "timeoutSeconds": {"type": "integer", "minimum": 5, "maximum": 21600}, "unencrypted": {"type": "boolean"},
        }), json!([]))),
        "Drill": object(json!({
            "passed": {"type": "boolean"}, "time": {"type": "string", "format": "date-time"}, "jobId": text(),
            "answeredBy": {"enum": ["agent", "screen", null]}, "seconds": {"type": "number"}, "message": text(),
            "check": {"type": ["object", "null"]}, "hasScreenshot": {"type": "boolean"},
            "screenshot": {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"},
        }), json!(["passed", "time", "jobId", "seconds", "hasScreenshot"])),
        "BackupStatusRequest": object(json!({"resourceType": text(), "resourceId": text()}), json!(["resourceId"])),
        "FeatureRequest": object(
            json!({"featureType": text(), "vmSize": text(), "vmSku": text()}),
            json!(["featureType"]),
        ),
        "ValidateRequest": object(json!({
            "id": text(),
            "properties": object(json!({
                "objectType": {"enum": ["ValidateIaasVMRestoreOperationRequest", "ValidateRestoreOperationRequest"]},
                "restoreRequest": restore(),
            }), json!(["objectType", "restoreRequest"])),
        }), json!(["id", "properties"])),
        "ValidateResponse": object(json!({"validateOperationResponse": object(json!({"validationResults": {
            "type": "array",
            "items": object(json!({
                "code": text(), "message": text(), "recommendations": {"type": "array", "items": text()},
            }), json!(["code", "message"])),
        }}), json!(["validationResults"]))}), json!(["validateOperationResponse"])),
        "PreValidateRequest": object(json!({"resourceType": text(), "resourceId": text(), "vaultId": text()}), json!(["resourceId"])),
        "NameRequest": object(json!({"name": text(), "type": text()}), json!(["name", "type"])),
        "CapabilitiesRequest": object(json!({"type": text(), "properties": object(json!({"dnsZones": {
            "type": "array", "items": object(json!({"subResource": text()}), json!([])),
        }}), json!([]))}), json!(["type"])),
        "GraphQuery": object(json!({"query": text(), "subscriptions": {"type": "array", "items": text()}}), json!([])),
        "ImportRequest": object(json!({
            "name": text(), "store": text(), "keyFile": text(), "location": text(),
        }), json!(["name", "store"])),
        "PlaceRequest": object(json!({"resourceGroup": text(), "location": text()}), json!(["resourceGroup", "location"])),
    });
    match all {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
