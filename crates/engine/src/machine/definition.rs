//! The little that a restore has to know of a machine's definition. It was written by others: nothing in it is believed.

use std::collections::BTreeSet;

/// Definitions are not nested deeper than this.
const DEPTH_MAX: usize = 64;
const NODES_MAX: u32 = 200_000;

/// The virtual networks that its interfaces are connected to. None of one that is not understood: whoever makes the machine
/// of it says so better.
pub fn networks(xml: &str) -> BTreeSet<String> {
    let Some(document) = parse(xml) else { return BTreeSet::new() };
    fn children<'a, 'd>(
        node: roxmltree::Node<'a, 'd>,
        name: &'static str,
    ) -> impl Iterator<Item = roxmltree::Node<'a, 'd>> {
        node.children().filter(move |c| c.has_tag_name(name))
    }
    let found: BTreeSet<String> = children(document.root_element(), "devices")
        .flat_map(|devices| children(devices, "interface"))
        .filter(|interface| interface.attribute("type") == Some("network"))
        .flat_map(|interface| children(interface, "source"))
        .filter_map(|source| source.attribute("network").map(str::to_owned))
        .collect();
    found
}

/// Whether it has network interfaces. Not one that is not understood.
pub fn has_interfaces(xml: &str) -> bool {
    let Some(document) = parse(xml) else { return false };
    let devices = document.root_element().children().filter(|c| c.has_tag_name("devices"));
    devices.flat_map(|d| d.children()).any(|device| device.has_tag_name("interface"))
}

/// Disks (by target) that libvirt encrypts. None of one that is not understood.
pub fn encrypted_disks(xml: &str) -> BTreeSet<String> {
    let Some(document) = parse(xml) else { return BTreeSet::new() };
    let devices = document.root_element().children().filter(|c| c.has_tag_name("devices"));
    devices
        .flat_map(|d| d.children())
        .filter(|device| device.has_tag_name("disk"))
        .filter(|disk| {
            let sources = disk.children().filter(|c| c.has_tag_name("source"));
            sources.chain([*disk]).any(|n| n.children().any(|c| c.has_tag_name("encryption")))
        })
        .filter_map(|disk| {
            let target = disk.children().find(|c| c.has_tag_name("target"))?;
            target.attribute("dev").map(str::to_owned)
        })
        .collect()
}

/// Whether it has UEFI with variables of its own. Not one that is not understood.
pub fn is_uefi(xml: &str) -> bool {
    let Some(document) = parse(xml) else { return false };
    let Some(os) = document.root_element().children().find(|c| c.has_tag_name("os")) else { return false };
    let loader = os.children().find(|c| c.has_tag_name("loader"));
    let is_stateless = loader.is_some_and(|l| l.attribute("stateless") == Some("yes"));
    let has_flash = loader.is_some_and(|l| l.attribute("type") == Some("pflash"));
    let has_nvram = os.children().any(|c| c.has_tag_name("nvram"));
    !is_stateless && (os.attribute("firmware") == Some("efi") || has_flash || has_nvram)
}

/// What a server shows of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The virtual networks that its interfaces are connected to, by libvirt's names.
    pub networks: BTreeSet<String>,
    /// Virtual processors that it may have.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// `Windows` where the definition says so, else `Linux`.
    pub os: &'static str,
}

/// All of them 0 or empty in a definition that is not understood.
pub fn facts(xml: &str) -> Facts {
    let mut facts = Facts { networks: networks(xml), os: "Linux", ..Facts::default() };
    let Some(document) = parse(xml) else { return facts };
    let root = document.root_element();
    let child = |name: &str| root.children().find(|c| c.has_tag_name(name));
    let number = |name: &str| child(name).and_then(|c| c.text()).and_then(|t| t.trim().parse::<u64>().ok());
    facts.vcpus = number("vcpu").unwrap_or(1).min(4096) as u32;
    let unit = match child("memory").and_then(|c| c.attribute("unit")).unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        _ => 1024,
    };
    facts.memory_mib = number("memory").unwrap_or(0).saturating_mul(unit) >> 20;
    // libosinfo's id, and the Hyper-V features that only Windows guests are given.
    let says_windows = child("metadata").is_some_and(|metadata| {
        metadata.descendants().filter_map(|n| n.attribute("id")).any(|id| id.contains("microsoft.com/win"))
    });
    let has_hyperv =
        child("features").is_some_and(|features| features.children().any(|c| c.has_tag_name("hyperv")));
    if says_windows || has_hyperv {
        facts.os = "Windows";
    }
    facts
}

/// None of one that is not understood.
fn parse(xml: &str) -> Option<roxmltree::Document<'_>> {
    if is_too_deep(xml) {
        return None;
    }
    let options = roxmltree::ParsingOptions { nodes_limit: NODES_MAX, ..Default::default() };
    roxmltree::Document::parse_with_options(xml, options).ok()
}

/// Counted without recursion, before a reader that may recurse sees it.
fn is_too_deep(xml: &str) -> bool {
    let bytes = xml.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate() {
        match (byte, bytes.get(at + 1)) {
            (b'<', Some(b'/')) | (b'/', Some(b'>')) => depth = depth.saturating_sub(1),
            (b'<', Some(b'!' | b'?') | None) => {}
            (b'<', Some(_)) => depth += 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_found() {
        let xml = "<domain><metadata><interface type='network'><source network='no'/></interface></metadata><devices>
            <interface type='network'><mac address='1'/><source network='de&amp;fault' portid='x'/></interface>
            <interface type='bridge'><source bridge='br0'/></interface>
            <interface type='network'><source network='b'/></interface></devices></domain>";
        assert_eq!(networks(xml).into_iter().collect::<Vec<_>>(), ["b", "de&fault"]);
        assert!(has_interfaces(xml));
        assert!(!has_interfaces(
            "<domain><metadata><interface/></metadata><devices><disk/></devices></domain>"
        ));
    }

    #[test]
    fn encrypted_disks_are_found() {
        let xml = "<domain><devices>
            <disk><source file='/a'><encryption format='luks'/></source><target dev='vda'/></disk>
            <disk><source file='/b'/><encryption format='luks'/><target dev='vdb'/></disk>
            <disk><source file='/c'/><target dev='vdc'/><backingStore><source file='/d'><encryption/></source></backingStore></disk>
            </devices></domain>";
        assert_eq!(encrypted_disks(xml).into_iter().collect::<Vec<_>>(), ["vda", "vdb"]);
        assert!(encrypted_disks("<domain").is_empty());
    }

    #[test]
    fn what_is_hostile_has_none() {
        assert!(networks("<domain").is_empty());
        assert!(networks(&"<a>".repeat(1_000_000)).is_empty());
        assert!(networks("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>").is_empty());
    }
}
