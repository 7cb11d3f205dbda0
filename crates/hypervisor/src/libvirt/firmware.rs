//! UEFI machines: where their variables are, and which definition makes libvirt take those of a restore.
//!
//! With `<os firmware='efi'>` libvirt chooses firmware and variables at each start. Before version 9.2 the saved definition says
//! nothing of either: of a machine that is off, libvirt is asked which it would take. Such a definition may name the
//! variables (`<nvram>`), and then they are taken; it may not name the firmware, or the variables' template, beside.

use super::conn::Conn;
use super::definition::{self, child};
use super::options::LibvirtOptions;
use crate::model::Firmware;
use crate::text::Xml;
use roxmltree::{Document, Node};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is known of a machine's UEFI. Empty of one that has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The file of its variables. None: it was never started, or see `problem`.
    pub variables: Option<PathBuf>,
    pub firmware: Option<Firmware>,
    /// Why its variables cannot be had.
    pub problem: Option<String>,
}

pub fn os<'a, 'd>(document: &'a Document<'d>) -> Option<Node<'a, 'd>> {
    child(document.root_element(), "os")
}

/// Whether it has UEFI with variables that it keeps.
pub fn is_uefi(document: &Document<'_>) -> bool {
    let Some(os) = os(document) else { return false };
    let loader = child(os, "loader");
    if loader.is_some_and(|l| l.attribute("stateless") == Some("yes")) {
        return false;
    }
    os.attribute("firmware") == Some("efi")
        || loader.is_some_and(|l| l.attribute("type") == Some("pflash"))
        || child(os, "nvram").is_some()
}

pub fn loader_path(os: Node<'_, '_>) -> Option<PathBuf> {
    child(os, "loader")?.text().map(str::trim).filter(|t| !t.is_empty()).map(PathBuf::from)
}

/// Whether libvirt chooses the firmware at each start.
pub fn is_chosen_by_libvirt(os: Node<'_, '_>) -> bool {
    os.attribute("firmware") == Some("efi") && loader_path(os).is_none()
}

/// Looks for a machine's firmware and variables. `xml`: of `document`, which is the running machine's definition, or the saved one.
pub fn find(
    options: &LibvirtOptions,
    conn: &Arc<Conn>,
    xml: &str,
    document: &Document<'_>,
    is_active: bool,
) -> Found {
    let Some(os) = os(document).filter(|_| is_uefi(document)) else { return Found::default() };
    let name = child(document.root_element(), "name").and_then(|n| n.text()).unwrap_or_default();
    let said = definition::nvram(document);
    let is_elsewhere = said.is_none()
        && child(os, "nvram").is_some_and(|n| !matches!(n.attribute("type"), None | Some("file")));
    let mut chosen = Chosen { loader: loader_path(os), variables: said, is_secure: is_secure(os) };
    if chosen.loader.is_none() || chosen.variables.is_none() {
        let asked = ask(conn, xml).unwrap_or_default();
        chosen.is_secure |= chosen.loader.is_none() && asked.is_secure;
        chosen.loader = chosen.loader.or(asked.loader);
        chosen.variables = chosen.variables.or(asked.variables);
    }
    let by_name = || default_places(options, name).into_iter().find(|path| path.exists());
    let variables = chosen.variables.or_else(by_name).filter(|path| is_active || !is_absent(path));
    let problem = match (&variables, is_active) {
        _ if is_elsewhere => Some("they are not in a file of this host"),
        (None, true) => Some("libvirt does not say where they are"),
        _ => None,
    };
    Found {
        firmware: chosen.loader.and_then(|loader| {
            let loader_bytes = size_of(&loader)?;
            Some(Firmware { loader, loader_bytes, is_secure: chosen.is_secure })
        }),
        variables: variables.filter(|_| problem.is_none()),
        problem: problem.map(|why| {
            format!("the UEFI variables of the machine are not in the backup ({why}); a restored machine begins with fresh ones")
        }),
    }
}

fn is_secure(os: Node<'_, '_>) -> bool {
    child(os, "loader").is_some_and(|l| l.attribute("secure") == Some("yes"))
}

pub fn is_absent(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

pub fn size_of(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())
}

/// Where libvirt keeps variables by a machine's name.
fn default_places(options: &LibvirtOptions, name: &str) -> Vec<PathBuf> {
    let directory = match options.uri.contains("///session") {
        false => options.qemu_dir.join("nvram"),
        true => match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute()) {
            Some(config) => config.join("libvirt/qemu/nvram"),
            None => std::env::home_dir().unwrap_or_default().join(".config/libvirt/qemu/nvram"),
        },
    };
    if name.is_empty() || name.contains('/') {
        return Vec::new();
    }
    ["fd", "qcow2"].map(|kind| directory.join(format!("{name}_VARS.{kind}"))).into()
}

/// What libvirt would start a machine with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub loader: Option<PathBuf>,
    variables: Option<PathBuf>,
    is_secure: bool,
}

/// Asks libvirt for the command line of a machine that has nothing but this one's firmware: what else it has cannot stand in the way.
pub fn ask(conn: &Arc<Conn>, xml: &str) -> Option<Chosen> {
    let document = definition::parse("a machine's firmware", xml).ok()?;
    let root = document.root_element();
    let mut head = Xml::new();
    head.start("domain").attribute("type", root.attribute("type")?);
    head.element("name", child(root, "name")?.text()?);
    head.start("memory").attribute("unit", "MiB").text("64").end();
    let parts = ["os", "features"].into_iter().filter_map(|name| child(root, name));
    let parts: String = parts.map(|part| &xml[part.range()]).collect();
    let bare = head.finish().replace("</domain>", &format!("{parts}</domain>"));
    match conn.command_line(&bare) {
        Ok(line) => Some(read(&line)),
        Err(error) => {
            tracing::debug!(%error, "libvirt does not say which firmware it would take");
            None
        }
    }
}

/// The files behind the two flash devices of a command line of QEMU's.
fn read(line: &str) -> Chosen {
    let line = line.replace("'\\''", "'");
    let file = |node: &str| {
        let after = format!(",\"node-name\":\"{node}\"");
        line.match_indices("\"filename\":").find_map(|(at, key)| {
            let text = &line[at + key.len()..];
            let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
            let path = values.next()?.ok()?;
            text[values.byte_offset()..].starts_with(&after).then(|| PathBuf::from(path))
        })
    };
    Chosen {
        loader: file("libvirt-pflash0-storage"),
        variables: file("libvirt-pflash1-storage"),
        is_secure: line.contains("driver=cfi.pflash01,property=secure,value=on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_names_both_files() {
        let line = r#"LC_ALL=C /usr/bin/qemu-system-x86_64 -name guest=x,debug-threads=on \
-blockdev '{"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.ms.fd","node-name":"libvirt-pflash0-storage","auto-read-only":true}' \
-blockdev '{"driver":"file","filename":"/var/lib/nvram/it'\''s \"x\"_VARS.fd","node-name":"libvirt-pflash1-storage"}' \
-global driver=cfi.pflash01,property=secure,value=on -blockdev '{"driver":"file","filename":"/d","node-name":"libvirt-1-storage"}'"#;
        let found = read(line);
        assert_eq!(found.loader, Some("/usr/share/OVMF/OVMF_CODE_4M.ms.fd".into()));
        assert_eq!(found.variables, Some("/var/lib/nvram/it's \"x\"_VARS.fd".into()));
        assert!(found.is_secure);
        assert_eq!(read("qemu -drive file=/x"), Chosen::default());
    }

    #[test]
    fn who_has_variables() {
        for (os, is) in [
            ("<os firmware='efi'/>", true),
            ("<os><loader type='pflash'>/x</loader></os>", true),
            ("<os><nvram>/n</nvram></os>", true),
            ("<os firmware='efi'><loader stateless='yes'/></os>", false),
            ("<os firmware='bios'/>", false),
            ("<os><loader type='rom'>/x</loader></os>", false),
            ("", false),
        ] {
            let xml = format!("<domain>{os}</domain>");
            assert_eq!(is_uefi(&definition::parse("m", &xml).unwrap()), is, "{os}");
        }
    }

    #[test]
    fn default_places_are_by_name() {
        let options = LibvirtOptions::default();
        assert_eq!(default_places(&options, "a b")[0], Path::new("/var/lib/libvirt/qemu/nvram/a b_VARS.fd"));
        assert!(default_places(&options, "../x").is_empty());
    }
}
