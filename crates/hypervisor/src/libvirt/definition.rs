//! Reading domain definitions. They are written by users and other programs: everything is
//! optional, sizes and nesting are bounded, and nothing is believed about them.

use crate::error::{Error, Result};
use crate::image::{Below, Layer, Place};
use crate::limits::{DEFINITION_BYTES_MAX, DEFINITION_DEPTH_MAX};
use crate::model::{AgentState, Disk, DiskFormat, DiskSource};
use crate::skipped::{CDROM, FLOPPY, NO_MEDIUM};
use roxmltree::{Document, Node};
use std::path::PathBuf;

/// Parses a document within this crate's bounds.
pub fn parse<'a>(what: &str, xml: &'a str) -> Result<Document<'a>> {
    if xml.len() > DEFINITION_BYTES_MAX {
        return Err(Error::unsupported(what, "its definition is larger than is accepted"));
    }
    check_depth(what, xml)?;
    let options = roxmltree::ParsingOptions { nodes_limit: 200_000, ..Default::default() };
    Document::parse_with_options(xml, options)
        .map_err(|cause| Error::unsupported(what, format!("its definition is not well-formed XML: {cause}")))
}

/// Refuses nesting that could exhaust the stack of a recursive reader, before one sees it.
fn check_depth(what: &str, xml: &str) -> Result<()> {
    let bytes = xml.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' => match bytes.get(at + 1) {
                Some(b'/') => depth = depth.saturating_sub(1),
                Some(b'!' | b'?') | None => {}
                _ => depth += 1,
            },
            b'>' if at > 0 && bytes[at - 1] == b'/' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEFINITION_DEPTH_MAX {
            return Err(Error::unsupported(what, "its definition is nested too deeply"));
        }
    }
    Ok(())
}

pub fn child<'a, 'd>(node: Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    node.children().find(|c| c.has_tag_name(name))
}

/// The drives of a machine, in its order. Sizes are not filled in.
pub fn disks(document: &Document<'_>) -> Vec<Disk> {
    let Some(devices) = child(document.root_element(), "devices") else { return Vec::new() };
    devices.children().filter(|n| n.has_tag_name("disk")).filter_map(disk).collect()
}

/// Disks (by target) whose data is read from elsewhere over NBD and may be on its way in: asking QEMU for their sizes walks all
/// its block nodes, and QEMU 7.2 has been seen to crash when that met the end or the beginning of a block job.
pub fn streamed_disks(document: &Document<'_>) -> Vec<String> {
    let Some(devices) = child(document.root_element(), "devices") else { return Vec::new() };
    let is_remote = |disk: &Node<'_, '_>| {
        disk.descendants().any(|n| n.has_tag_name("source") && n.attribute("protocol") == Some("nbd"))
    };
    devices
        .children()
        .filter(|n| n.has_tag_name("disk") && is_remote(n))
        .filter_map(|n| Some(child(n, "target")?.attribute("dev")?.to_owned()))
        .collect()
}

/// A disk's image, and all that the definition says is below it: that of a running machine says what libvirt opened.
pub fn layer(document: &Document<'_>, target: &str) -> Option<Layer> {
    let devices = child(document.root_element(), "devices")?;
    let is_it = |n: &Node<'_, '_>| child(*n, "target").and_then(|t| t.attribute("dev")) == Some(target);
    let disk = devices.children().filter(|n| n.has_tag_name("disk")).find(is_it)?;
    let format = child(disk, "driver").and_then(|d| d.attribute("type")).unwrap_or("raw");
    // The nodes from the first to the last; built from the last one up.
    let mut nodes = vec![disk];
    while let Some(next) = nodes.last().and_then(|n| child(*n, "backingStore")) {
        nodes.push(next);
    }
    let mut below = Below::Unsaid;
    for node in nodes.iter().skip(1).rev() {
        let Some(source) = child(*node, "source") else {
            below = Below::Nothing;
            continue;
        };
        // libvirt would probe one of which it is not told.
        let format = child(*node, "format").and_then(|f| f.attribute("type")).unwrap_or("raw");
        below = Below::Layer(Box::new(layer_of(*node, source, format, below)));
    }
    let source = child(disk, "source")?;
    Some(layer_of(disk, source, format, below))
}

fn layer_of(node: Node<'_, '_>, source: Node<'_, '_>, format: &str, below: Below) -> Layer {
    let path = |name: &str| source.attribute(name).map(PathBuf::from);
    let kind = node.attribute("type").unwrap_or("file");
    let nbd = || {
        let host = child(source, "host")?;
        let is_unix = host.attribute("transport") == Some("unix");
        let socket = host.attribute("socket").filter(|_| is_unix)?.into();
        (source.attribute("protocol") == Some("nbd"))
            .then(|| Place::Nbd { socket, export: source.attribute("name").unwrap_or_default().to_owned() })
    };
    let place = match kind {
        "file" => path("file").map(Place::File),
        "block" => path("dev").map(Place::Block),
        "network" => nbd(),
        _ => None,
    };
    let data_file = child(source, "dataStore")
        .and_then(|data| child(data, "source"))
        .and_then(|s| s.attribute("file").or(s.attribute("dev")))
        .map(PathBuf::from);
    let place = place.unwrap_or_else(|| Place::Other(kind.to_owned()));
    Layer { place, format: format.to_owned(), data_file, below }
}

fn disk(node: Node<'_, '_>) -> Option<Disk> {
    let target_node = child(node, "target")?;
    let target = target_node.attribute("dev")?.to_owned();
    let bus = target_node.attribute("bus").unwrap_or("").to_owned();
    let device = node.attribute("device").unwrap_or("disk").to_owned();
    let source_node = child(node, "source");
    let at = |name| source_node.and_then(|s| s.attribute(name)).map(PathBuf::from);
    let source = match node.attribute("type").unwrap_or("file") {
        "file" => at("file").map_or(DiskSource::None, DiskSource::File),
        "block" => at("dev").map_or(DiskSource::None, DiskSource::Block),
        other => DiskSource::Other(other.to_owned()),
    };
    let format_name = child(node, "driver").and_then(|d| d.attribute("type")).unwrap_or("raw");
    let format = match format_name {
        "raw" => Some(DiskFormat::Raw),
        "qcow2" => Some(DiskFormat::Qcow2),
        _ => None,
    };
    let mut disk = Disk {
        target,
        bus,
        device,
        source,
        format,
        size_bytes: None,
        allocated_bytes: None,
        read_only: child(node, "readonly").is_some(),
        shareable: child(node, "shareable").is_some(),
        transient: child(node, "transient").is_some(),
        encrypted: child(node, "encryption").is_some()
            || source_node.is_some_and(|s| child(s, "encryption").is_some()),
        has_backing_store: child(node, "backingStore").is_some_and(|b| child(b, "source").is_some()),
        skipped: None,
    };
    disk.skipped = why_skipped(&disk, format_name);
    Some(disk)
}

fn why_skipped(disk: &Disk, format_name: &str) -> Option<String> {
    // Targets become parts of file names and export names.
    if disk.target.is_empty()
        || !disk.target.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return Some("its target name is not one of a disk".into());
    }
    Some(match disk.device.as_str() {
        "cdrom" => CDROM.into(),
        "floppy" => FLOPPY.into(),
        "lun" => "it is passed through as a SCSI device".into(),
        "disk" => match &disk.source {
            DiskSource::None => NO_MEDIUM.into(),
            DiskSource::Other(kind) => {
                format!(
                    "its storage is of type `{}`; files and block devices are supported",
                    crate::text::shorten(kind)
                )
            }
            _ if disk.shareable => "it is shared with other machines".into(),
            _ if disk.transient => "it is transient: its changes vanish when the machine stops".into(),
            _ if disk.format.is_none() => {
                format!("its format is `{}`; raw and qcow2 are supported", crate::text::shorten(format_name))
            }
            _ => return None,
        },
        other => format!("it is a device of kind `{}`", crate::text::shorten(other)),
    })
}

/// State of the guest agent's channel: only the definition of a running machine says whether it is connected.
pub fn agent(document: &Document<'_>) -> AgentState {
    let Some(devices) = child(document.root_element(), "devices") else { return AgentState::NoChannel };
    let target = devices
        .children()
        .filter(|n| n.has_tag_name("channel"))
        .filter_map(|n| child(n, "target"))
        .find(|t| t.attribute("name") == Some("org.qemu.guest_agent.0"));
    match target.map(|t| t.attribute("state")) {
        None => AgentState::NoChannel,
        Some(Some("connected")) => AgentState::Connected,
        Some(_) => AgentState::NotConnected,
    }
}

pub fn nvram(document: &Document<'_>) -> Option<PathBuf> {
    let node = child(child(document.root_element(), "os")?, "nvram")?;
    let by_source = child(node, "source").and_then(|s| s.attribute("file"));
    by_source.or(node.text()).map(str::trim).filter(|t| !t.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_told_apart() {
        let xml = r#"<domain><devices>
          <disk type='file' device='disk'><driver type='qcow2'/><source file='/a&amp;b'/><target dev='vda' bus='virtio'/></disk>
          <disk type='block'><driver type='raw'/><source dev='/dev/x'/><target dev='vdb'/></disk>
          <disk type='file' device='cdrom'><source file='/iso'/><target dev='sda'/><readonly/></disk>
          <disk type='file' device='floppy'><target dev='fda'/></disk>
          <disk type='file'><driver type='raw'/><source file='/s'/><target dev='vdc'/><shareable/></disk>
          <disk type='file'><driver type='raw'/><source file='/s'/><target dev='vdd'/><transient/></disk>
          <disk type='network'><driver type='raw'/><source protocol='rbd' name='x'/><target dev='vde'/></disk>
          <disk type='file'><driver type='vmdk'/><source file='/v'/><target dev='vdf'/></disk>
          <disk type='file'><driver type='raw'/><source file='/r'/><target dev='vdg'/><readonly/></disk>
          <disk type='file'><source file='/no-target'/></disk>
          <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
        </devices><os><nvram> /n </nvram></os></domain>"#;
        let document = parse("m", xml).unwrap();
        let disks = disks(&document);
        let taken: Vec<_> = disks.iter().filter(|d| d.skipped.is_none()).map(|d| d.target.as_str()).collect();
        assert_eq!(taken, ["vda", "vdb", "vdg"]);
        let missed: Vec<_> =
            disks.iter().filter(|d| d.missed().is_some()).map(|d| d.target.as_str()).collect();
        assert_eq!(missed, ["vdc", "vdd", "vde", "vdf"]);
        assert_eq!(disks.len(), 9);
        assert_eq!(disks[0].source, DiskSource::File("/a&b".into()));
        assert!(disks[4].skipped.as_ref().unwrap().contains("shared"));
        assert!(disks[6].skipped.as_ref().unwrap().contains("network"));
        assert!(disks[7].skipped.as_ref().unwrap().contains("vmdk"));
        assert_eq!(agent(&document), AgentState::Connected);
        assert_eq!(nvram(&document), Some("/n".into()));
    }

    #[test]
    fn what_is_below_a_disk_is_what_the_definition_says() {
        let xml = r#"<domain><devices>
          <disk type='file'><driver type='qcow2'/><source file='/a'/><target dev='vda'/>
            <backingStore type='file'><format type='qcow2'/><source file='/b'><dataStore type='file'><format type='raw'/><source file='/b.data'/></dataStore></source>
              <backingStore type='network'><format type='raw'/><source protocol='nbd' name='x'><host transport='unix' socket='/s'/></source><backingStore/></backingStore>
            </backingStore></disk>
          <disk type='block'><driver type='qcow2'/><source dev='/dev/x'/><target dev='vdb'/><backingStore/></disk>
          <disk type='file'><driver type='qcow2'/><source file='/c'/><target dev='vdc'/></disk>
          <disk type='file'><driver type='qcow2'/><source file='/d'/><target dev='vdd'/>
            <backingStore type='network'><format type='raw'/><source protocol='rbd' name='x'/></backingStore></disk>
        </devices></domain>"#;
        let document = parse("m", xml).unwrap();
        let layer = |target| super::layer(&document, target).unwrap();
        let below: Vec<Layer> = layer("vda").below().cloned().collect();
        assert_eq!(below[0].place, Place::File("/b".into()));
        assert_eq!(below[0].data_file, Some("/b.data".into()));
        assert_eq!(below[1].place, Place::Nbd { socket: "/s".into(), export: "x".into() });
        assert_eq!((below.len(), &below[1].below), (2, &Below::Nothing));
        assert_eq!((layer("vdb").place, layer("vdb").below), (Place::Block("/dev/x".into()), Below::Nothing));
        assert_eq!(layer("vdc").below, Below::Unsaid);
        assert!(
            layer("vdd").why_not_here().unwrap().contains("network") && layer("vda").why_not_here().is_none()
        );
        assert!(super::layer(&document, "vdz").is_none());
        let has: Vec<bool> = disks(&document).iter().map(|d| d.has_backing_store).collect();
        assert_eq!(has, [true, false, false, true]);
    }

    #[test]
    fn hostile_definitions_are_refused() {
        assert!(parse("m", &"<a>".repeat(100_000)).is_err());
        assert!(parse("m", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>").is_err());
        assert!(parse("m", "<domain").is_err());
    }
}
