//! Starting machines over NBD exports, moving their data in behind them, and machines that are thrown away.
//!
//! A machine that stays is defined with its overlays alone: the images themselves name their exports, so that it can be
//! stopped and started at any time. It is started with more than that: how long requests wait for exports that went
//! away, and that it is paused, not failed, when that was too long. Nothing of it remains in the definition.
//!
//! A machine that is thrown away is never defined. libvirt ends it when the connection that made it is closed, also when
//! that is because this process was killed. Everything that would tie it to the world outside is taken out first.

use super::conn::{Conn, VirtResult};
use super::definition::{self, child};
use super::dom::{BlockJob, Dom};
use super::{new_machine, tpm};
use crate::error::{Error, Result};
use crate::instant::{OverlayMachine, PullState, ThrowAway};
use crate::limits::DRILL_PREFIX;
use crate::model::{CreatedMachine, MachineSummary};
use crate::text::{Xml, machine};
use roxmltree::Node;
use std::ops::Range;
use std::sync::Arc;

/// Whether it is one of those that are thrown away: nobody's to list, to protect or to back up.
pub fn is_throw_away(summary: &MachineSummary) -> bool {
    !summary.persistent && summary.name.starts_with(DRILL_PREFIX)
}

/// Defines the machine and starts it. The commit is its definition; one that cannot be started is taken back.
pub fn start(connection: &Arc<Conn>, wanted: &OverlayMachine) -> Result<CreatedMachine> {
    let what = machine(&wanted.machine.new_name);
    let rewritten = new_machine::definition(connection, &wanted.machine, wanted.uuid)?;
    let live = over_exports(&rewritten.xml, wanted, false)?;
    let tpm = tpm::prepare(&wanted.machine, wanted.uuid, |uuid| connection.exists(uuid))?;
    let defined = connection.define(&rewritten.xml).map_err(|e| e.about("defining", &what))?;
    if let Err(e) = connection.create(&live, false) {
        let _ = defined.undefine();
        return Err(e.about("starting", &what));
    }
    tpm.keep();
    Ok(CreatedMachine {
        name: wanted.machine.new_name.clone(),
        uuid: wanted.uuid.to_string(),
        warnings: rewritten.warnings,
        losses: rewritten.losses,
    })
}

/// Starts again what was defined and is off, as it was started first.
pub fn start_again(connection: &Arc<Conn>, wanted: &OverlayMachine) -> Result<()> {
    let what = machine(&wanted.machine.new_name);
    let rewritten = new_machine::definition(connection, &wanted.machine, wanted.uuid)?;
    let live = over_exports(&rewritten.xml, wanted, false)?;
    connection.create(&live, false).map(drop).map_err(|e| e.about("starting", &what))
}

struct Guard(Dom);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy()
            && self.0.is_active().unwrap_or(true)
        {
            tracing::warn!(machine = self.0.name(), %error, "a machine to be thrown away did not end");
        }
    }
}

/// Starts a machine that ends with the answer, isolated.
pub fn start_throw_away(connection: &Arc<Conn>, wanted: &OverlayMachine) -> Result<ThrowAway> {
    let name = wanted.machine.new_name.clone();
    let what = machine(&name);
    if !name.starts_with(DRILL_PREFIX) {
        return Err(Error::unsupported(what, format!("its name must begin with {DRILL_PREFIX}")));
    }
    let rewritten = new_machine::definition(connection, &wanted.machine, wanted.uuid)?;
    let live = over_exports(&rewritten.xml, wanted, true)?;
    let tpm = tpm::prepare(&wanted.machine, wanted.uuid, |uuid| connection.exists(uuid))?;
    let dom = connection.create(&live, true).map_err(|e| e.about("starting", &what))?;
    let notes = [rewritten.warnings, rewritten.losses].concat();
    Ok(ThrowAway { name, notes, _guard: Box::new((Guard(dom), tpm)) })
}

pub fn pull_state(dom: &Dom, target: &str) -> Result<PullState> {
    let what = format!("disk `{}` of {}", crate::text::shorten(target), machine(&dom.name()));
    let ask = || -> VirtResult<_> { Ok((dom.block_job(target)?, dom.xml(0)?)) };
    let (job, xml) = ask().map_err(|e| e.about("looking at", &what))?;
    if let Some(BlockJob { done_bytes, total_bytes, .. }) = job {
        return Ok(PullState::Moving { done_bytes, total_bytes });
    }
    let document = definition::parse(&what, &xml)?;
    let disk = disks(document.root_element())
        .find(|d| target_of(*d) == target)
        .ok_or_else(|| Error::NotFound { what: what.clone() })?;
    let is_backed = child(disk, "backingStore").is_some_and(|b| child(b, "source").is_some());
    Ok(if is_backed { PullState::Waiting } else { PullState::Done })
}

pub fn begin_pull(dom: &Dom, target: &str) -> Result<()> {
    let what = format!("disk `{}` of {}", crate::text::shorten(target), machine(&dom.name()));
    dom.block_pull(target).map_err(|e| e.about("moving data into", &what))
}

fn disks<'a, 'd: 'a>(root: Node<'a, 'd>) -> impl Iterator<Item = Node<'a, 'd>> {
    root.children()
        .filter(|c| c.has_tag_name("devices"))
        .flat_map(|devices| devices.children().filter(|c| c.has_tag_name("disk")))
}

fn target_of<'a>(disk: Node<'a, '_>) -> &'a str {
    child(disk, "target").and_then(|t| t.attribute("dev")).unwrap_or_default()
}

/// Changes to a text, by places in it.
#[derive(Default)]
struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    fn cut(&mut self, range: Range<usize>) {
        self.0.push((range, String::new()));
    }

    fn insert(&mut self, at: usize, text: String) {
        self.0.push((at..at, text));
    }

    /// Later ones that lie within an earlier cut are void.
    fn apply(mut self, text: &str) -> String {
        self.0.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        let mut out = String::with_capacity(text.len() + 4096);
        let mut at = 0;
        for (range, new) in self.0 {
            if range.start < at {
                continue;
            }
            out.push_str(&text[at..range.start]);
            out.push_str(&new);
            at = range.end;
        }
        out.push_str(&text[at..]);
        out
    }
}

/// The definition to start from: disks over their exports; and isolated, if nothing is to remain of it.
fn over_exports(xml: &str, wanted: &OverlayMachine, isolated: bool) -> Result<String> {
    let what = machine(&wanted.machine.new_name);
    let document = definition::parse(&what, xml)?;
    let root = document.root_element();
    let mut edits = Edits::default();
    let odd = || Error::unsupported(what.clone(), "its definition has no devices");
    let devices = child(root, "devices").ok_or_else(odd)?;
    for disk in disks(root) {
        let target = target_of(disk);
        if !wanted.machine.disks.iter().any(|d| d.target == target) {
            continue;
        }
        let (Some(driver), Some(source)) = (child(disk, "driver"), child(disk, "source")) else { continue };
        let (gone, new): (&[&str], &str) = match isolated {
            // It need not survive anything.
            true => (&["error_policy", "rerror_policy", "cache", "io"], " cache=\"unsafe\""),
            false => (&["error_policy", "rerror_policy"], " error_policy=\"stop\" rerror_policy=\"stop\""),
        };
        for attribute in driver.attributes().filter(|a| gone.contains(&a.name())) {
            edits.cut(attribute.range());
        }
        edits.insert(driver.range().start + "<driver".len(), new.to_owned());
        edits.insert(source.range().end, backing_store(wanted, target));
    }
    if isolated {
        isolate(root, devices, &mut edits);
    }
    Ok(edits.apply(xml))
}

fn backing_store(wanted: &OverlayMachine, target: &str) -> String {
    let mut xml = Xml::new();
    xml.start("backingStore").attribute("type", "network");
    xml.start("format").attribute("type", "raw").end();
    xml.start("source").attribute("protocol", "nbd").attribute("name", target);
    xml.start("host")
        .attribute("transport", "unix")
        .attribute("socket", &wanted.socket.to_string_lossy())
        .end();
    xml.start("reconnect").attribute("delay", &wanted.reconnect_seconds.to_string()).end();
    xml.end();
    xml.start("backingStore").end();
    xml.end();
    xml.finish()
}

/// Takes out what reaches beyond the machine: networks, devices and directories of the host, consoles, media, foreign
/// arguments. Gives it a screen if it has none.
fn isolate(root: Node<'_, '_>, devices: Node<'_, '_>, edits: &mut Edits) {
    for node in root.children().filter(Node::is_element) {
        let is_foreign = node.tag_name().namespace().is_some() && node.tag_name().name() == "commandline";
        if is_foreign || node.has_tag_name("metadata") {
            edits.cut(node.range());
        }
    }
    for device in devices.children().filter(Node::is_element) {
        let kind = device.attribute("type").unwrap_or_default();
        let connects = child(device, "source").and_then(|s| s.attribute("mode")) == Some("connect");
        let goes = match device.tag_name().name() {
            "interface" | "hostdev" | "redirdev" | "redirfilter" | "filesystem" | "graphics" | "sound"
            | "audio" | "smartcard" | "vsock" | "shmem" | "lease" | "parallel" | "crypto" => true,
            "serial" | "console" => !matches!(kind, "pty" | "null" | "vc"),
            "channel" => kind != "unix" || connects,
            "memory" => matches!(device.attribute("model"), Some("nvdimm" | "virtio-pmem")),
            "tpm" => child(device, "backend").and_then(|b| b.attribute("type")) == Some("passthrough"),
            "rng" => child(device, "backend").and_then(|b| b.attribute("model")) == Some("egd"),
            "disk" => device.attribute("device") == Some("floppy"),
            _ => false,
        };
        if goes {
            edits.cut(device.range());
        } else if device.has_tag_name("disk") && device.attribute("device") == Some("cdrom") {
            child(device, "source").into_iter().for_each(|source| edits.cut(source.range()));
        } else if let Some(log) = child(device, "log") {
            edits.cut(log.range());
        }
    }
    if child(devices, "video").is_none()
        && let Some(last) = devices.children().rfind(Node::is_element)
    {
        edits.insert(last.range().end, "<video><model type=\"vga\"/></video>".into());
    }
}

#[cfg(test)]
mod tests {
    use super::super::rewrite;
    use super::*;
    use crate::model::{DiskFormat, NetworkChoice, RestoreMachineRequest, RestoredDisk};
    use uuid::Uuid;

    const SAVED: &str = r#"<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
      <name>old</name><uuid>11111111-1111-1111-1111-111111111111</uuid>
      <metadata><o:x xmlns:o='urn:o'/></metadata><os><type arch='x86_64'>hvm</type></os>
      <devices>
        <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='native' error_policy='report'/><source file='/a'/><target dev='vda' bus='virtio'/></disk>
        <disk type='file' device='cdrom'><source file='/etc/hostname'/><target dev='sda'/><readonly/></disk>
        <disk type='file' device='floppy'><source file='/etc/hostname'/><target dev='fda'/></disk>
        <interface type='network'><source network='default'/></interface>
        <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
        <filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>
        <graphics type='vnc' port='-1' listen='0.0.0.0'/>
        <serial type='tcp'><source mode='connect' host='192.0.2.1' service='1'/></serial>
        <serial type='pty'><log file='/log'/></serial>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
        <channel type='unix'><source mode='connect' path='/x'/><target type='virtio' name='y'/></channel>
      </devices><qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline></domain>"#;

    fn wanted() -> OverlayMachine {
        OverlayMachine {
            machine: RestoreMachineRequest {
                definition_xml: SAVED.into(),
                new_name: "strongroom-drill-1".into(),
                disks: vec![RestoredDisk {
                    target: "vda".into(),
                    path: "/o & 'v'.qcow2".into(),
                    format: DiskFormat::Qcow2,
                    secret: None,
                }],
                network: NetworkChoice::Keep,
                nvram: None,
                firmware: None,
                tpm: None,
                unencrypted: false,
            },
            uuid: Uuid::new_v4(),
            socket: "/run/s & t.sock".into(),
            reconnect_seconds: 60,
        }
    }

    fn made(isolated: bool) -> String {
        let wanted = wanted();
        let xml = rewrite::rewrite(&wanted.machine, wanted.uuid).unwrap().xml;
        over_exports(&xml, &wanted, isolated).unwrap()
    }

    #[test]
    fn disks_lie_over_their_exports() {
        let xml = made(false);
        let document = definition::parse("new", &xml).unwrap();
        let disk = disks(document.root_element()).next().unwrap();
        let store = child(disk, "backingStore").unwrap();
        let source = child(store, "source").unwrap();
        assert_eq!((source.attribute("protocol"), source.attribute("name")), (Some("nbd"), Some("vda")));
        assert_eq!(child(source, "host").unwrap().attribute("socket"), Some("/run/s & t.sock"));
        assert_eq!(child(source, "reconnect").unwrap().attribute("delay"), Some("60"));
        assert!(child(store, "backingStore").is_some());
        let driver = child(disk, "driver").unwrap();
        assert_eq!(driver.attribute("error_policy"), Some("stop"));
        assert_eq!(driver.attribute("rerror_policy"), Some("stop"));
        assert_eq!((driver.attribute("cache"), driver.attribute("io")), (Some("none"), Some("native")));
        assert!(xml.contains("<interface") && xml.contains("-netdev") && xml.contains("0.0.0.0"));
    }

    #[test]
    fn what_is_thrown_away_reaches_nothing() {
        let xml = made(true);
        let document = definition::parse("new", &xml).unwrap();
        for outside in [
            "<interface",
            "<hostdev",
            "<filesystem",
            "<graphics",
            "192.0.2.1",
            "<log",
            "spicevmc",
            "path=\"/x\"",
            "-netdev",
            "hostname",
            "urn:o",
            "fda",
            "0.0.0.0",
        ] {
            assert!(!xml.contains(outside), "{outside} is still in {xml}");
        }
        let devices = child(document.root_element(), "devices").unwrap();
        assert!(child(devices, "video").is_some() && xml.contains("guest_agent"));
        let driver = child(disks(document.root_element()).next().unwrap(), "driver").unwrap();
        assert_eq!((driver.attribute("cache"), driver.attribute("io")), (Some("unsafe"), None));
    }
}
