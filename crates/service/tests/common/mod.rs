//! What the service's tests share.

use jiff::Timestamp;
use std::collections::BTreeMap;
use strongroom_catalog::Machine;
use strongroom_domain::{Consistency, ConsistencyLevel, ItemName};
use strongroom_service::Service;
use strongroom_store::{Disk, PointDraft, PointKind};
use uuid::Uuid;

/// A machine that no host has; not in the catalog yet.
pub fn machine(service: &Service, name: &str) -> Machine {
    Machine {
        id: Uuid::new_v4(),
        version: 0,
        host: "nowhere".into(),
        host_uuid: Uuid::new_v4().to_string(),
        name: name.into(),
        group: "group".into(),
        location: "local".into(),
        placed: false,
        power: "running".into(),
        disks: Vec::new(),
        networks: Vec::new(),
        vcpus: 1,
        memory_mib: 32,
        agent: "connected".into(),
        os: "Linux".into(),
        tags: BTreeMap::new(),
        discovered_at: service.now(),
        gone_at: None,
    }
}

/// A point of a machine with a disk of one empty MiB, and nothing said of how long it is kept.
#[allow(dead_code)] // not all of those that share this make points
pub fn point_draft(item: ItemName, taken_at: Timestamp) -> PointDraft {
    PointDraft {
        item,
        kind: PointKind::Machine,
        taken_at,
        parent: None,
        consistency: Consistency::new(ConsistencyLevel::Crash, "a test"),
        disks: vec![Disk {
            name: "vda".into(),
            size_bytes: 1 << 20,
            root: None,
            read_bytes: 0,
            changed_bytes: 0,
            new_bytes: 0,
            full_reason: None,
            attributes: serde_json::Map::default(),
        }],
        definition: None,
        kept: None,
        warnings: Vec::new(),
        attributes: serde_json::Map::default(),
    }
}
