//! What the service's tests share.

use std::collections::BTreeMap;
use strongroom_catalog::Machine;
use strongroom_service::Service;
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
