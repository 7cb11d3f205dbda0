//! Turns a saved definition into that of a new machine: new name and disks, fresh identity, and
//! nothing in it that would tie the new machine to the old one's files, ports or addresses.

use super::definition::{self, child};
use super::firmware;
use crate::error::{Error, Result};
use crate::limits::DEFINITION_DEPTH_MAX;
use crate::model::{Firmware, NetworkChoice, RestoreMachineRequest, RestoredDisk};
use crate::text::Xml;
use roxmltree::Node;
use std::path::Path;
use uuid::Uuid;

pub struct Rewritten {
    pub xml: String,
    pub uuid: Uuid,
    /// What is different, as it must be.
    pub warnings: Vec<String>,
    /// What it had and has not any more.
    pub losses: Vec<String>,
}

/// Longest accepted name of a machine (bytes); libvirt uses it in file names.
const NAME_BYTES_MAX: usize = 200;

pub fn rewrite(request: &RestoreMachineRequest, uuid: Uuid) -> Result<Rewritten> {
    rewrite_with(request, uuid, &[], None)
}

/// With this firmware, instead of what libvirt would choose.
pub fn rewrite_pinned(request: &RestoreMachineRequest, uuid: Uuid, firmware: &Firmware) -> Result<Rewritten> {
    rewrite_with(request, uuid, &[], Some(firmware))
}

fn rewrite_with(
    request: &RestoreMachineRequest,
    uuid: Uuid,
    drivers: &[(&str, &str)],
    pinned: Option<&Firmware>,
) -> Result<Rewritten> {
    check_name(&request.new_name)?;
    let what = format!("the saved definition for `{}`", request.new_name);
    let document = definition::parse(&what, &request.definition_xml)?;
    let root = document.root_element();
    if !root.has_tag_name("domain") {
        return Err(Error::unsupported(what, "it is not a machine's definition"));
    }
    let known = definition::disks(&document);
    for disk in &request.disks {
        if !known.iter().any(|k| k.target == disk.target) {
            return Err(Error::NotFound { what: format!("disk `{}` in {what}", disk.target) });
        }
        if !disk.path.is_absolute() || disk.path.to_str().is_none() {
            return Err(Error::unsupported(
                disk.path.display().to_string(),
                "the path of a restored disk must be absolute and valid UTF-8",
            ));
        }
    }
    let mut writer =
        Writer { request, drivers, pinned, uuid, xml: Xml::new(), warnings: Vec::new(), losses: Vec::new() };
    if firmware::is_uefi(&document) && request.nvram.is_none() && request.firmware.is_none() {
        let afresh = "its UEFI variables are made afresh (boot entries may have to be chosen again)";
        writer.losses.push(afresh.into());
    }
    writer.node(root, "")?;
    let Writer { xml, warnings, losses, .. } = writer;
    Ok(Rewritten { xml: xml.finish(), uuid, warnings, losses })
}

/// The definition that [`create`](crate::Hypervisor::create) would use, without making a machine of it. `drivers` names, by target,
/// QEMU's drivers of disks that are in other formats than machines are made of (`vpc`).
pub fn new_definition(request: &RestoreMachineRequest, drivers: &[(&str, &str)]) -> Result<String> {
    Ok(rewrite_with(request, Uuid::new_v4(), drivers, None)?.xml)
}

fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.starts_with('.')
        || name.trim() != name
        || name.chars().any(|c| c.is_control() || c == '/');
    if bad {
        return Err(Error::unsupported(
            format!("the name `{}`", crate::text::shorten(name)),
            "a machine's name has 1 to 200 bytes, no `/`, no control characters, no dot at the start, no blanks around it",
        ));
    }
    Ok(())
}

struct Writer<'r> {
    request: &'r RestoreMachineRequest,
    drivers: &'r [(&'r str, &'r str)],
    pinned: Option<&'r Firmware>,
    uuid: Uuid,
    xml: Xml,
    warnings: Vec<String>,
    losses: Vec<String>,
}

impl Writer<'_> {
    /// Copies a node with what has to change. `path` names the element's parents, as in `/domain/devices`.
    fn node(&mut self, node: Node<'_, '_>, parent: &str) -> Result<()> {
        if node.is_text() {
            if let Some(text) = node.text().filter(|t| !t.trim().is_empty()) {
                self.xml.text(text);
            }
            return Ok(());
        }
        if !node.is_element() {
            return Ok(());
        }
        let path = format!("{parent}/{}", node.tag_name().name());
        if path.matches('/').count() > DEFINITION_DEPTH_MAX {
            return Err(Error::unsupported("the saved definition", "it is nested too deeply"));
        }
        if self.written_anew(node, &path)? || self.is_left_out(node, &path) {
            return Ok(());
        }
        self.tell(node, &path);
        self.start(node, &[]);
        self.children(node, &path)?;
        self.xml.end();
        Ok(())
    }

    /// Writes an element that is another one in the new machine; answers whether it is one.
    fn written_anew(&mut self, node: Node<'_, '_>, path: &str) -> Result<bool> {
        match path {
            "/domain" => {
                self.start(node, &["id"]);
                self.xml.element("name", &self.request.new_name);
                self.xml.element("uuid", &self.uuid.hyphenated().to_string());
                self.children(node, path)?;
                self.xml.end();
            }
            "/domain/genid" => {
                self.xml.element("genid", &Uuid::new_v4().hyphenated().to_string());
            }
            "/domain/os" => self.os(node, path)?,
            "/domain/features" if self.pinned.is_some_and(|p| p.is_secure) => {
                self.start(node, &[]);
                self.children(node, path)?;
                self.xml.start("smm").attribute("state", "on").end();
                self.xml.end();
            }
            "/domain/devices/disk" => self.disk(node, path)?,
            "/domain/devices/interface" => self.interface(node, path)?,
            "/domain/devices/graphics" => self.graphics(node, path)?,
            _ if is_console_file(path, node) => self.console_file(node),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Two machines cannot write one log, nor should they.
    fn console_file(&mut self, node: Node<'_, '_>) {
        let (attribute, old) = match (node.attribute("file"), node.attribute("path")) {
            (Some(file), _) => ("file", file),
            (None, path) => ("path", path.unwrap_or_default()),
        };
        self.start(node, &[attribute]);
        let new = format!("{old}.{}", self.request.new_name);
        self.xml.attribute(attribute, &new).end();
        // Serial port and console are often one device, which is defined twice.
        let note = format!("its console is logged to {}", crate::text::shorten(&new));
        if !self.warnings.contains(&note) {
            self.warnings.push(note);
        }
    }

    /// What belongs to the one machine that was saved, and what is written elsewhere.
    fn is_left_out(&self, node: Node<'_, '_>, path: &str) -> bool {
        match path {
            // Written with the root, or made afresh by libvirt.
            "/domain/name" | "/domain/uuid" => true,
            "/domain/sysinfo/system/entry" => node.attribute("name") == Some("uuid"),
            "/domain/seclabel" => node.attribute("type") != Some("none"),
            // Written with the rest of it.
            "/domain/os/nvram" => true,
            "/domain/os/loader" | "/domain/os/firmware" => self.pinned.is_some(),
            "/domain/features/smm" => self.pinned.is_some_and(|p| p.is_secure),
            // The path of the agent's socket belongs to one machine; libvirt makes a new one.
            "/domain/devices/channel/source" => node.attribute("mode") == Some("bind"),
            _ => false,
        }
    }

    /// Says what will not be as it was, although the element is copied.
    fn tell(&mut self, node: Node<'_, '_>, path: &str) {
        match path {
            "/domain/devices/tpm"
                if self.request.tpm.is_none()
                    && child(node, "backend").and_then(|b| b.attribute("type")) == Some("emulator") =>
            {
                self.losses.push(
                    "its TPM begins empty: what the old one had sealed (BitLocker, disks unlocked by it) asks for its recovery key".into(),
                );
            }
            "/domain/devices/hostdev" => self.warnings.push(
                "a device of the host is passed through to it; it cannot run at the same time as the original".into(),
            ),
            _ => {}
        }
    }

    fn children(&mut self, node: Node<'_, '_>, path: &str) -> Result<()> {
        for child in node.children() {
            self.node(child, path)?;
        }
        Ok(())
    }

    /// Starts the same element, with its attributes except those named, and its namespaces.
    fn start(&mut self, node: Node<'_, '_>, without: &[&str]) {
        self.xml.start(&qualified(node, node.tag_name().namespace(), node.tag_name().name()));
        let inherited: Vec<_> = node
            .parent_element()
            .map(|p| p.namespaces().map(|n| (n.name(), n.uri())).collect())
            .unwrap_or_default();
        for namespace in node.namespaces() {
            if namespace.name() == Some("xml") || inherited.contains(&(namespace.name(), namespace.uri())) {
                continue;
            }
            match namespace.name() {
                Some(prefix) => self.xml.attribute(&format!("xmlns:{prefix}"), namespace.uri()),
                None => self.xml.attribute("xmlns", namespace.uri()),
            };
        }
        for attribute in node.attributes().filter(|a| !without.contains(&a.name())) {
            let name = match attribute.namespace() {
                Some(uri) => qualified(node, Some(uri), attribute.name()),
                None => attribute.name().to_owned(),
            };
            self.xml.attribute(&name, attribute.value());
        }
    }

    /// With the new machine's own UEFI variables. Where libvirt chooses the firmware it takes them, if nothing else is said of them.
    fn os(&mut self, node: Node<'_, '_>, path: &str) -> Result<()> {
        self.start(node, if self.pinned.is_some() { &["firmware"] } else { &[] });
        self.children(node, path)?;
        if let Some(firmware) = self.pinned {
            self.xml.start("loader").attribute("readonly", "yes").attribute("type", "pflash");
            if firmware.is_secure {
                self.xml.attribute("secure", "yes");
            }
            self.xml.text(&firmware.loader.to_string_lossy()).end();
        }
        let old = child(node, "nvram");
        let is_uefi = old.is_some() || node.attribute("firmware") == Some("efi");
        let is_chosen = firmware::is_chosen_by_libvirt(node);
        let has_template = old.is_some_and(|n| n.attribute("template").is_some()) && !is_chosen;
        if is_uefi && (self.request.nvram.is_some() || has_template) {
            self.xml.start("nvram");
            let kept = |name: &str| ["template", "templateFormat", "format"].contains(&name);
            for attribute in old.into_iter().flat_map(|n| n.attributes()).filter(|a| kept(a.name())) {
                if !is_chosen || attribute.name() == "format" {
                    self.xml.attribute(attribute.name(), attribute.value());
                }
            }
            if let Some(path) = &self.request.nvram {
                self.xml.text(&path.to_string_lossy());
            }
            self.xml.end();
        }
        self.xml.end();
        if self.pinned.is_some_and(|p| p.is_secure)
            && node.parent().is_some_and(|domain| child(domain, "features").is_none())
        {
            self.xml.start("features").start("smm").attribute("state", "on").end();
            self.xml.end();
        }
        Ok(())
    }

    fn disk(&mut self, node: Node<'_, '_>, path: &str) -> Result<()> {
        let target = child(node, "target").and_then(|t| t.attribute("dev")).unwrap_or("").to_owned();
        if let Some(restored) = self.request.disks.iter().find(|d| d.target == target) {
            let restored = restored.clone();
            return self.restored_disk(node, path, &restored);
        }
        if matches!(node.attribute("device"), Some("cdrom" | "floppy")) {
            // The drive stays; its medium only when it is still there.
            let medium = child(node, "source").and_then(|s| s.attribute("file"));
            let keep = medium.is_some_and(|file| Path::new(file).exists());
            self.start(node, &[]);
            for part in node.children() {
                let is_medium = part.has_tag_name("source") || part.has_tag_name("backingStore");
                if keep || !is_medium {
                    self.node(part, path)?;
                }
            }
            self.xml.end();
            return Ok(());
        }
        self.warnings
            .push(format!("disk `{}` is left out: it was not restored", crate::text::shorten(&target)));
        Ok(())
    }

    fn restored_disk(&mut self, node: Node<'_, '_>, path: &str, restored: &RestoredDisk) -> Result<()> {
        self.xml.start("disk").attribute("type", "file");
        for attribute in node.attributes().filter(|a| a.namespace().is_none() && a.name() != "type") {
            self.xml.attribute(attribute.name(), attribute.value());
        }
        let driver = self.drivers.iter().find(|(target, _)| *target == restored.target);
        let driver = driver.map_or(restored.format.name(), |(_, name)| name);
        self.xml.start("driver").attribute("name", "qemu").attribute("type", driver);
        if let Some(driver) = child(node, "driver") {
            for attribute in driver.attributes() {
                if !matches!(attribute.name(), "name" | "type") {
                    self.xml.attribute(attribute.name(), attribute.value());
                }
            }
        }
        self.xml.end();
        let source = child(node, "source");
        let was_encrypted =
            [Some(node), source].into_iter().flatten().any(|n| child(n, "encryption").is_some());
        self.xml.start("source").attribute("file", &restored.path.to_string_lossy());
        match restored.secret {
            Some(secret) => {
                self.xml.start("encryption").attribute("format", "luks").start("secret");
                self.xml.attribute("type", "passphrase").attribute("uuid", &secret.hyphenated().to_string());
                self.xml.end();
                self.xml.end();
            }
            None if was_encrypted && !self.request.unencrypted => {
                return Err(Error::unsupported(
                    format!("disk `{}`", restored.target),
                    "it was encrypted, and would not be any more",
                ));
            }
            None => {}
        }
        self.xml.end();
        for part in node.children().filter(|n| n.is_element()) {
            match part.tag_name().name() {
                // Bound to the old file: chains, jobs, keys, labels, throttling groups stay behind.
                "driver" | "source" | "backingStore" | "mirror" | "auth" | "encryption" | "seclabel"
                | "shareable" | "transient" | "wwn" | "serial_path" => {}
                _ => self.node(part, path)?,
            }
        }
        self.xml.end();
        Ok(())
    }

    fn interface(&mut self, node: Node<'_, '_>, path: &str) -> Result<()> {
        // What is bound to the one machine: its address, host device names, switch port identifiers.
        const DROPPED: [&str; 3] = ["mac", "target", "virtualport"];
        match &self.request.network {
            NetworkChoice::None => return Ok(()),
            NetworkChoice::Keep => {
                self.start(node, &[]);
                for part in node.children().filter(|n| n.is_element()) {
                    let name = part.tag_name().name();
                    if name == "source" && node.attribute("type") == Some("network") {
                        self.start(part, &["portid", "bridge"]);
                        self.xml.end();
                    } else if !DROPPED.contains(&name) {
                        self.node(part, path)?;
                    }
                }
            }
            NetworkChoice::Network(network) => {
                self.xml.start("interface").attribute("type", "network");
                self.xml.start("source").attribute("network", network).end();
                for part in node.children().filter(|n| n.is_element()) {
                    if matches!(
                        part.tag_name().name(),
                        "model" | "driver" | "boot" | "address" | "link" | "mtu"
                    ) {
                        self.node(part, path)?;
                    }
                }
            }
        }
        self.xml.end();
        Ok(())
    }

    /// A fixed port would clash with the original's.
    fn graphics(&mut self, node: Node<'_, '_>, path: &str) -> Result<()> {
        let fixed = node.attribute("port").is_some_and(|p| p != "-1");
        if !fixed {
            self.start(node, &[]);
        } else {
            self.start(node, &["port", "tlsPort", "autoport", "websocket"]);
            self.xml.attribute("port", "-1").attribute("autoport", "yes");
            self.warnings
                .push("its console's port is chosen by libvirt, as the saved one may be in use".into());
        }
        self.children(node, path)?;
        self.xml.end();
        Ok(())
    }
}

/// Whether this names the file which a console of a machine is written to.
fn is_console_file(path: &str, node: Node<'_, '_>) -> bool {
    let Some((device, part)) = path.strip_prefix("/domain/devices/").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let is_console = matches!(device, "serial" | "console" | "parallel" | "channel");
    let writes_file = node.parent_element().is_some_and(|p| p.attribute("type") == Some("file"));
    is_console
        && ((part == "log" && node.attribute("file").is_some())
            || (part == "source" && writes_file && node.attribute("path").is_some()))
}

fn qualified(node: Node<'_, '_>, namespace: Option<&str>, name: &str) -> String {
    match namespace.and_then(|uri| node.lookup_prefix(uri)) {
        Some(prefix) if !prefix.is_empty() => format!("{prefix}:{name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DiskFormat, DiskSource};

    const SAVED: &str = r#"<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
      <name>old</name><uuid>11111111-1111-1111-1111-111111111111</uuid><genid>22222222-2222-2222-2222-222222222222</genid>
      <metadata><o:x xmlns:o='urn:o' o:k='a&amp;b'><o:y>1 &lt; 2</o:y></o:x></metadata>
      <sysinfo type='smbios'><system><entry name='uuid'>11111111-1111-1111-1111-111111111111</entry><entry name='serial'>s</entry></system></sysinfo>
      <os><type arch='x86_64'>hvm</type><nvram template='/t'>/old_VARS.fd</nvram></os>
      <devices>
        <disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/><source dev='/dev/old'/><backingStore/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
        <disk type='file' device='disk'><driver type='raw'/><source file='/old-b'/><target dev='vdb'/></disk>
        <disk type='file' device='cdrom'><source file='/nowhere.iso'/><target dev='sda'/><readonly/></disk>
        <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet3'/><model type='virtio'/></interface>
        <graphics type='vnc' port='5901' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>
        <serial type='file'><source path='/log/serial'/><log file='/log/of old' append='on'/></serial>
        <console type='file'><source path='/log/serial'/><log file='/log/of old' append='on'/></console>
        <channel type='unix'><source mode='bind' path='/var/lib/libvirt/x'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
      </devices><seclabel type='dynamic' model='dac'><label>x</label></seclabel>
      <qemu:commandline><qemu:arg value='-foo'/></qemu:commandline></domain>"#;

    fn request() -> RestoreMachineRequest {
        RestoreMachineRequest {
            definition_xml: SAVED.into(),
            new_name: "new <&\">".into(),
            disks: vec![RestoredDisk {
                target: "vda".into(),
                path: "/new & '1'".into(),
                format: DiskFormat::Qcow2,
                secret: None,
            }],
            network: NetworkChoice::Keep,
            nvram: None,
            firmware: None,
            tpm: None,
            unencrypted: false,
        }
    }

    #[test]
    fn the_new_machine_shares_nothing_with_the_old_one() {
        let uuid = Uuid::new_v4();
        let new = rewrite(&request(), uuid).unwrap();
        for old in [
            "11111111",
            "22222222",
            "52:54",
            "vnet3",
            "/old",
            "5901",
            "nowhere",
            "/var/lib",
            "<seclabel",
            "/dev/old",
        ] {
            assert!(!new.xml.contains(old), "{old} is still in {}", new.xml);
        }
        let document = definition::parse("new", &new.xml).unwrap();
        let root = document.root_element();
        assert_eq!(child(root, "name").unwrap().text(), Some("new <&\">"));
        assert_eq!(child(root, "uuid").unwrap().text(), Some(uuid.to_string().as_str()));
        let disks = definition::disks(&document);
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[0].source, DiskSource::File("/new & '1'".into()));
        assert_eq!(disks[0].format, Some(DiskFormat::Qcow2));
        assert!(new.xml.contains("discard=\"unmap\"") && new.xml.contains("<boot order=\"1\"/>"));
        assert!(new.xml.contains("bridge=\"br0\"") && new.xml.contains("qemu:arg value=\"-foo\""));
        let foreign = root.descendants().find(|n| n.has_tag_name(("urn:o", "x"))).unwrap();
        assert_eq!(foreign.attribute(("urn:o", "k")), Some("a&b"));
        assert_eq!(foreign.first_element_child().unwrap().text(), Some("1 < 2"));
        assert!(new.warnings.iter().any(|w| w.contains("`vdb` is left out")));
        assert!(new.losses.iter().any(|w| w.contains("UEFI")));
        // Each log once, though two devices name it.
        assert_eq!(new.warnings.iter().filter(|w| w.contains("its console is logged to")).count(), 2);
        let serial = root.descendants().find(|n| n.has_tag_name("serial")).unwrap();
        assert_eq!(child(serial, "source").unwrap().attribute("path"), Some("/log/serial.new <&\">"));
        assert_eq!(child(serial, "log").unwrap().attribute("file"), Some("/log/of old.new <&\">"));
    }

    #[test]
    fn an_encrypted_disk_is_never_silently_unencrypted() {
        const ENCRYPTION: &str = "<encryption format='luks'><secret type='passphrase' uuid='33333333-3333-3333-3333-333333333333'/></encryption>";
        for (old, new) in [
            ("<source dev='/dev/old'/>", format!("<source dev='/dev/old'>{ENCRYPTION}</source>")),
            ("<backingStore/>", format!("<backingStore/>{ENCRYPTION}")),
        ] {
            let mut wanted = request();
            wanted.definition_xml = SAVED.replace(old, &new);
            let refused = rewrite(&wanted, Uuid::new_v4()).map(|r| r.xml).unwrap_err().to_string();
            assert!(refused.contains("vda") && refused.contains("encrypted"), "{refused}");
            wanted.unencrypted = true;
            assert!(!rewrite(&wanted, Uuid::new_v4()).unwrap().xml.contains("encryption"));
            wanted.unencrypted = false;
            let secret = Uuid::new_v4();
            wanted.disks[0].secret = Some(secret);
            let xml = rewrite(&wanted, Uuid::new_v4()).unwrap().xml;
            assert!(xml.contains(&secret.to_string()) && !xml.contains("33333333"), "{xml}");
            let document = definition::parse("new", &xml).unwrap();
            assert!(definition::disks(&document)[0].encrypted);
        }
    }

    #[test]
    fn variables_are_named_as_libvirt_takes_them() {
        let of = |os: &str, pinned: Option<&Firmware>| {
            let old = "<os><type arch='x86_64'>hvm</type><nvram template='/t'>/old_VARS.fd</nvram></os>";
            let mut wanted = request();
            wanted.definition_xml = SAVED.replace(old, os);
            wanted.nvram = Some("/new/vars".into());
            let made = rewrite_with(&wanted, Uuid::new_v4(), &[], pinned).unwrap();
            assert!(made.losses.is_empty());
            made.xml
        };
        let xml = of(
            "<os firmware='efi'><firmware><feature name='secure-boot' enabled='no'/></firmware></os>",
            None,
        );
        assert!(xml.contains("<nvram>/new/vars</nvram>") && xml.contains("secure-boot"), "{xml}");
        // libvirt refuses a template where it chooses the firmware, and takes one beside a firmware that is named.
        assert!(
            of("<os firmware='efi'><nvram template='/t'>/o</nvram></os>", None).contains("<nvram>/new/vars")
        );
        let xml = of(
            "<os firmware='efi'><loader type='pflash'>/l</loader><nvram template='/t' format='qcow2'>/o</nvram></os>",
            None,
        );
        assert!(xml.contains("<nvram template=\"/t\" format=\"qcow2\">/new/vars"), "{xml}");
        assert!(!of("<os><type>hvm</type></os>", None).contains("nvram"));
        let pinned = Firmware { loader: "/code".into(), loader_bytes: 1, is_secure: true };
        let xml =
            of("<os firmware='efi'><firmware><feature name='secure-boot'/></firmware></os>", Some(&pinned));
        assert!(xml.contains("type=\"pflash\" secure=\"yes\">/code</loader><nvram>/new/vars"), "{xml}");
        assert!(
            !xml.contains("efi") && !xml.contains("<firmware") && xml.contains("<smm state=\"on\"/>"),
            "{xml}"
        );
    }

    #[test]
    fn networks_can_be_chosen() {
        let mut wanted = request();
        wanted.network = NetworkChoice::Network("n'1".into());
        let xml = rewrite(&wanted, Uuid::new_v4()).unwrap().xml;
        assert!(xml.contains("network=\"n&apos;1\"") && !xml.contains("br0") && xml.contains("<model"));
        wanted.network = NetworkChoice::None;
        assert!(!rewrite(&wanted, Uuid::new_v4()).unwrap().xml.contains("<interface"));
    }

    #[test]
    fn bad_requests_are_refused_by_name() {
        for bad in ["", "a/b", ".a", " a", "a\n"] {
            let wanted = RestoreMachineRequest { new_name: bad.into(), ..request() };
            assert!(matches!(rewrite(&wanted, Uuid::new_v4()), Err(Error::Unsupported { .. })), "{bad:?}");
        }
        let mut wanted = request();
        wanted.disks[0].target = "vdz".into();
        assert!(
            matches!(rewrite(&wanted, Uuid::new_v4()), Err(Error::NotFound { what }) if what.contains("vdz"))
        );
        wanted = request();
        wanted.disks[0].path = "relative".into();
        assert!(rewrite(&wanted, Uuid::new_v4()).is_err());
        wanted = request();
        wanted.definition_xml = "<x/>".into();
        assert!(rewrite(&wanted, Uuid::new_v4()).is_err());
    }
}
