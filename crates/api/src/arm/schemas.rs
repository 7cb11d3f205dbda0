//! Schemas of the bodies that are read, or put together, by hand; `tests/schemas.rs` holds them against that. All others come from
//! their types (`Route::reads`, `Route::shows`).

use serde_json::{Map, Value, json};

/// Of those that routes name.
pub fn by_hand() -> Map<String, Value> {
    let text = || json!({"type": "string"});
    let tags = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required});
    let properties = |inner: Value| object(json!({"properties": inner}), json!(["properties"]));
    let duration = || {
        object(
            json!({"count": {"type": "integer", "minimum": 1}, "durationType": {"enum": ["Days", "Weeks", "Months", "Years"]}}),
            json!(["count", "durationType"]),
        )
    };
    let all = json!({
        "Resource": object(json!({
            "id": text(), "name": text(), "type": text(), "location": text(), "tags": tags(), "properties": {"type": "object"},
        }), json!(["id", "name", "type", "properties"])),
        "ResourceList": object(json!({
            "value": {"type": "array", "items": {"type": "object"}}, "nextLink": {"type": "string", "minLength": 1},
        }), json!(["value"])),
        "UndeleteRequest": object(json!({"properties": {"type": "object"}}), json!([])),
        "Policy": properties(object(json!({
            "backupManagementType": {"enum": ["AzureIaasVM"]},
            "policyType": {"enum": ["V1", "V2"]},
            "timeZone": text(),
            "snapshotConsistencyType": {"enum": ["OnlyCrashConsistent"]},
            "instantRPDetails": object(json!({
                "azureBackupRGNamePrefix": text(), "azureBackupRGNameSuffix": text(),
            }), json!([])),
            "tieringPolicy": {"type": "object", "additionalProperties": object(json!({
                "tieringMode": {"enum": ["TierRecommended", "TierAfter", "DoNotTier", "Invalid"]},
                "duration": {"type": "integer", "minimum": 0},
                "durationType": {"enum": ["Days", "Weeks", "Months", "Years", "Invalid"]},
            }), json!(["tieringMode"]))},
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
                "dailySchedule": object(
                    json!({"retentionTimes": {"type": "array", "items": text()}, "retentionDuration": duration()}),
                    json!(["retentionDuration"]),
                ),
                "weeklySchedule": object(json!({
                    "daysOfTheWeek": {"type": "array", "items": text()},
                    "retentionTimes": {"type": "array", "items": text()}, "retentionDuration": duration(),
                }), json!(["retentionDuration"])),
                "monthlySchedule": {"type": "object"}, "yearlySchedule": {"type": "object"},
            }), json!([])),
        }), json!(["schedulePolicy", "retentionPolicy"]))),
        "Container": properties(object(json!({
            "sourceResourceId": text(), "friendlyName": text(), "backupManagementType": {"enum": ["AzureIaasVM"]},
            "containerType": {"enum": ["Microsoft.Compute/virtualMachines"]},
        }), json!([]))),
        "CapabilitiesRequest": object(json!({"type": text(), "properties": object(json!({"dnsZones": {
            "type": "array", "items": object(json!({"subResource": text()}), json!([])),
        }}), json!([]))}), json!(["type"])),
        "GraphQuery": object(json!({"query": text(), "subscriptions": {"type": "array", "items": text()}}), json!(["query"])),
    });
    match all {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
