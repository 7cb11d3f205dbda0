//! Which files an image is read through. One rule, for everything that gives an image to QEMU's tools.
//!
//! A qcow2 image's header may name a backing file and a file for its data. Whoever can write the header chooses those names: they
//! may be any file of this host, relative, a `json:` description, an address. So no name in a header is ever followed. What
//! is below an image is what libvirt's definition says, or the chain that libvirt itself made ([`Layer`]); an image that
//! names more than that is refused. QEMU is given all block nodes one by one, with their formats, so that it neither
//! probes nor looks for more, also if a header is changed after it was looked at.

use crate::error::{Error, Result};
use crate::text::shorten;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The longest name that a header can hold.
const NAME_BYTES_MAX: usize = 1023;
/// Extensions of a header that are looked at; an image has three.
const EXTENSIONS_MAX: usize = 64;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Images below an image, at most.
const LAYERS_MAX: usize = 200;
/// A VMDK's own description is that long at most.
const VMDK_DESCRIPTION_BYTES_MAX: u64 = 1 << 20;

/// What a qcow2 image's header says. None of it is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Header {
    /// The format's.
    pub version: u32,
    /// As written: a path, relative to the image or not, or anything else that QEMU takes for a name.
    pub backing: Option<String>,
    /// Its data is in another file; named so, where it is named.
    pub data_file: Option<String>,
    /// Whether QEMU encrypts it.
    pub is_encrypted: bool,
}

impl Qcow2Header {
    /// `None`: it is no qcow2 image.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
        let damaged = |why: &str| Error::unsupported(path.display().to_string(), why);
        let at = |offset: u64, buffer: &mut [u8]| match file.read_exact_at(buffer, offset) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io("reading", path, e)),
        };
        let mut head = [0; 104];
        if !at(0, &mut head[..72])? || head[..4] != MAGIC {
            return Ok(None);
        }
        let number =
            |from: usize| u32::from_be_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
        let long = |from: usize| (u64::from(number(from)) << 32) | u64::from(number(from + 4));
        let version = number(4);
        let (backing_at, backing_bytes) = (long(8), number(16) as usize);
        let is_encrypted = number(32) != 0;
        let name = |offset: u64, length: usize| -> Result<String> {
            let mut bytes = vec![0; length.min(NAME_BYTES_MAX)];
            if length > NAME_BYTES_MAX || !at(offset, &mut bytes)? {
                return Err(damaged("its header is damaged: a name in it is not all there"));
            }
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let backing = match backing_at {
            0 => None,
            at => Some(name(at, backing_bytes)?),
        };
        let mut data_file = None;
        if version >= 3 {
            if !at(72, &mut head[72..])? {
                return Err(damaged("its header is cut short"));
            }
            let long = |from: usize| {
                head[from..from + 8].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
            };
            if long(72) & INCOMPATIBLE_DATA_FILE != 0 {
                data_file = Some(String::new());
                let mut next = long(96) & u64::from(u32::MAX);
                for _ in 0..EXTENSIONS_MAX {
                    let mut extension = [0; 8];
                    if !at(next, &mut extension)? {
                        break;
                    }
                    let kind = u32::from_be_bytes([extension[0], extension[1], extension[2], extension[3]]);
                    let length = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                    match kind {
                        0 => break,
                        EXTENSION_DATA_FILE => {
                            data_file = Some(name(next + 8, length as usize)?);
                            break;
                        }
                        _ => next += 8 + u64::from(length).next_multiple_of(8),
                    }
                }
            }
        }
        Ok(Some(Self { version, backing, data_file, is_encrypted }))
    }
}

/// Where a layer's bytes are, as libvirt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// An export of an NBD server on a Unix socket.
    Nbd {
        /// The server's socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
    },
    /// Other network storage, by libvirt's word for it.
    Other(String),
}

impl Place {
    /// Of a file or a device.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            Self::Nbd { .. } | Self::Other(_) => None,
        }
    }
}

/// What libvirt says is below an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Below {
    /// It says nothing about it.
    Unsaid,
    /// It says that there is nothing.
    Nothing,
    /// Another image.
    Layer(Box<Layer>),
}

/// An image, and what libvirt says is below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Where it is.
    pub place: Place,
    /// QEMU's name of it.
    pub format: String,
    /// Where libvirt says that its data is, if not in itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_file: Option<PathBuf>,
    /// What it is based on.
    pub below: Below,
}

impl Layer {
    /// An image that has nothing below it.
    pub fn alone(path: &Path, format: &str) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(|e| Error::io("looking at", path, e))?.file_type();
        let path = std::path::absolute(path).map_err(|e| Error::io("finding", path, e))?;
        let place = if kind.is_block_device() { Place::Block(path) } else { Place::File(path) };
        Ok(Self { place, format: format.to_owned(), data_file: None, below: Below::Nothing })
    }

    /// The same layers under a copy of the first one.
    pub fn with_first(&self, copy: &Path) -> Self {
        Self { place: Place::File(copy.to_owned()), ..self.clone() }
    }

    fn next(&self) -> Option<&Self> {
        match &self.below {
            Below::Layer(below) => Some(below),
            Below::Unsaid | Below::Nothing => None,
        }
    }

    /// The layers below it, the next one first.
    pub fn below(&self) -> impl Iterator<Item = &Layer> {
        std::iter::successors(self.next(), |layer| layer.next())
    }

    /// Files and devices below it, and those that hold layers' data.
    pub fn files_below(&self) -> Vec<PathBuf> {
        let below = self.below().filter_map(|l| l.place.path());
        let data = std::iter::once(self).chain(self.below()).filter_map(|l| l.data_file.as_deref());
        below.chain(data).map(Path::to_owned).collect()
    }

    /// Why none but QEMU itself can read it, if so.
    pub fn why_not_here(&self) -> Option<String> {
        std::iter::once(self).chain(self.below()).find_map(|layer| match &layer.place {
            Place::Other(kind) => Some(format!("is based on storage of type `{}`", shorten(kind))),
            _ => None,
        })
    }

    /// The block node that QEMU is to open, and it alone. Refuses an image that names what libvirt does not.
    pub fn node(&self) -> Result<Value> {
        if self.below().count() > LAYERS_MAX {
            return Err(Error::unsupported(self.shown(), "there are too many images below it"));
        }
        // From the last one up.
        let layers: Vec<&Self> = std::iter::once(self).chain(self.below()).collect();
        let mut below: Option<Value> = None;
        for layer in layers.into_iter().rev() {
            below = Some(layer.one(below)?);
        }
        Ok(below.unwrap_or_default())
    }

    fn shown(&self) -> String {
        match &self.place {
            Place::File(path) | Place::Block(path) => path.display().to_string(),
            Place::Nbd { export, .. } => format!("export `{}`", shorten(export)),
            Place::Other(kind) => format!("storage of type `{}`", shorten(kind)),
        }
    }

    fn one(&self, below: Option<Value>) -> Result<Value> {
        let mut node = json!({ "driver": self.format, "file": self.protocol()? });
        match self.format.as_str() {
            "qcow2" => {
                let path = self.place.path().ok_or_else(|| {
                    Error::unsupported(self.shown(), "a qcow2 image is read from files and block devices")
                })?;
                let header = Qcow2Header::read(path)?
                    .ok_or_else(|| Error::unsupported(self.shown(), "it is no qcow2 image"))?;
                match (header.data_file, &self.data_file) {
                    (None, _) => {}
                    (Some(_), Some(data)) => {
                        let data = Self::alone(data, "raw")?;
                        node["data-file"] = json!({ "driver": "raw", "file": data.protocol()? });
                    }
                    (Some(named), None) => return Err(self.foreign("the file for its data", &named)),
                }
                node["backing"] = match below {
                    Some(below) => below,
                    None => match header.backing {
                        Some(named) => return Err(self.foreign("its backing file", &named)),
                        None => Value::Null,
                    },
                };
            }
            "raw" | "vdi" | "vhdx" | "vpc" => {
                if below.is_some() {
                    return Err(Error::unsupported(
                        self.shown(),
                        format!("its format is `{}`, which is not based on other images", self.format),
                    ));
                }
            }
            "vmdk" => {
                self.check_vmdk()?;
                if below.is_some() {
                    return Err(Error::unsupported(self.shown(), "a vmdk image is read alone"));
                }
                node["backing"] = Value::Null;
            }
            other => {
                return Err(Error::unsupported(
                    self.shown(),
                    format!("its format is `{}`, which may name further files", shorten(other)),
                ));
            }
        }
        Ok(node)
    }

    fn protocol(&self) -> Result<Value> {
        let text = |path: &Path| {
            let path = path.to_str().filter(|_| path.is_absolute());
            path.map(str::to_owned)
                .ok_or_else(|| Error::unsupported(self.shown(), "its path is not absolute and valid UTF-8"))
        };
        match &self.place {
            Place::File(path) => Ok(json!({ "driver": "file", "filename": text(path)? })),
            Place::Block(path) => Ok(json!({ "driver": "host_device", "filename": text(path)? })),
            Place::Nbd { socket, export } => Ok(json!({
                "driver": "nbd", "server": { "type": "unix", "path": text(socket)? }, "export": export,
            })),
            Place::Other(kind) => Err(Error::unsupported(
                self.shown(),
                format!("it is on storage of type `{}`, which only a running machine reads", shorten(kind)),
            )),
        }
    }

    fn foreign(&self, what: &str, named: &str) -> Error {
        let named = if named.is_empty() { "none" } else { named };
        Error::unsupported(
            self.shown(),
            format!(
                "its header names `{}` as {what}, and libvirt does not: what is written in an image is not followed, \
                 because whoever wrote it may have chosen any file of this host. If that file belongs to it: of a machine's disk, start \
                 the machine, so that libvirt names its chain, or name it in the machine's definition (`virsh edit`, \
                 <backingStore>); of another image, make one file of them first (`qemu-img convert -O qcow2`). Else leave \
                 the image out",
                shorten(named)
            ),
        )
    }

    /// A VMDK in one file, and without a parent.
    fn check_vmdk(&self) -> Result<()> {
        let Some(path) = self.place.path() else { return Ok(()) };
        let failed = |e| Error::io("reading", path, e);
        let refused = |why: &str| Err(Error::unsupported(self.shown(), why));
        let file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
        let mut head = [0; 44];
        match file.read_exact_at(&mut head, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => head.fill(0),
            other => other.map_err(failed)?,
        }
        let long =
            |from: usize| head[from..from + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        let (capacity, description_at, description_sectors) = (long(12), long(28), long(36));
        if head[..4] != *b"KDMV" || capacity == 0 {
            return refused(
                "it is a vmdk image of several files, and what is written in an image is not followed; make one file of it first (`qemu-img convert -O qcow2`)",
            );
        }
        let length = description_sectors.saturating_mul(512).min(VMDK_DESCRIPTION_BYTES_MAX);
        let mut description = vec![0; length as usize];
        let mut done = 0;
        while done < description.len() {
            let at = description_at.saturating_mul(512).saturating_add(done as u64);
            match file.read_at(&mut description[done..], at).map_err(failed)? {
                0 => break,
                count => done += count,
            }
        }
        let description = String::from_utf8_lossy(&description);
        if description.to_ascii_lowercase().contains("parentfilenamehint") {
            return refused(
                "it is based on another image, and what is written in an image is not followed; make one file of them first (`qemu-img convert -O qcow2`)",
            );
        }
        Ok(())
    }
}

/// How QEMU's tools are given a block node: instead of a file's name, without a `--format`.
pub fn node_name(node: &Value) -> String {
    format!("json:{node}")
}

/// The name by which QEMU's tools open an image that stands alone, and nothing else. Refuses one that names other files.
pub fn alone(path: &Path, format: &str) -> Result<String> {
    Ok(node_name(&Layer::alone(path, format)?.node()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn qemu_img(arguments: &[&str]) -> String {
        let done = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn read(node: &Value, at: u64) -> String {
        let command = format!("read -v {at} 16");
        let done = Command::new("qemu-io").args(["-r", "-c", &command, &node_name(node)]).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    }

    #[test]
    fn what_a_header_names_is_seen_and_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("secret"), "SECRET OF THE HOST".repeat(4096)).unwrap();
        let image = path("disk.qcow2");
        for name in [
            "secret",
            &path("secret"),
            "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}",
            "nbd://localhost/x",
        ] {
            qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", &image, "1M"]);
            let header = Qcow2Header::read(Path::new(&image)).unwrap().unwrap();
            assert_eq!(header.backing.as_deref(), Some(name));
            for below in [Below::Nothing, Below::Unsaid] {
                let layer = Layer { below, ..Layer::alone(Path::new(&image), "qcow2").unwrap() };
                let refused = layer.node().unwrap_err().to_string();
                assert!(refused.contains(&image) && refused.contains(&shorten(name)), "{refused}");
            }
        }
        let options = format!("data_file={},data_file_raw=on", path("data"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, &image, "1M"]);
        let refused = alone(Path::new(&image), "qcow2").unwrap_err().to_string();
        assert!(refused.contains(&path("data")) && refused.contains("for its data"), "{refused}");
        // Where libvirt names it, that file is opened, whatever the header says.
        let mut layer = Layer::alone(Path::new(&image), "qcow2").unwrap();
        std::fs::write(path("named"), [7; 1 << 20]).unwrap();
        layer.data_file = Some(path("named").into());
        let node = layer.node().unwrap();
        assert_eq!(node["data-file"]["file"]["filename"], path("named"));
        assert_eq!(layer.files_below(), [PathBuf::from(path("named"))]);
        qemu_img(&["create", "-q", "-f", "qcow2", &image, "1M"]);
        let header = Qcow2Header::read(Path::new(&image)).unwrap().unwrap();
        assert_eq!((header.version, header.backing, header.data_file), (3, None, None));
        assert!(Qcow2Header::read(Path::new(&path("secret"))).unwrap().is_none());
    }

    #[test]
    fn a_chain_is_the_one_that_libvirt_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for (name, byte) in [("secret.raw", b'S'), ("base, \"1\".raw", b'B')] {
            std::fs::write(path(name), vec![byte; 1 << 20]).unwrap();
        }
        let middle = path("middle.qcow2");
        qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", "secret.raw", "-F", "raw", &middle, "1M"]);
        let top = path("top.qcow2");
        qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", "secret.raw", "-F", "raw", &top, "1M"]);
        let layer = |name: &str, format: &str, below| Layer {
            below,
            ..Layer::alone(Path::new(&path(name)), format).unwrap()
        };
        let base = layer("base, \"1\".raw", "raw", Below::Nothing);
        let chain = layer(
            "top.qcow2",
            "qcow2",
            Below::Layer(Box::new(layer("middle.qcow2", "qcow2", Below::Layer(Box::new(base))))),
        );
        let said = read(&chain.node().unwrap(), 4096);
        assert!(said.contains("42 42 42 42") && !said.contains("53 53"), "{said}");
        // Where libvirt stops, so must the headers.
        let short = layer(
            "top.qcow2",
            "qcow2",
            Below::Layer(Box::new(layer("middle.qcow2", "qcow2", Below::Unsaid))),
        );
        let refused = short.node().unwrap_err().to_string();
        assert!(refused.contains(&middle) && refused.contains("secret.raw"), "{refused}");
        // A base whose content poses as an image stays what libvirt says it is.
        std::fs::copy(path("top.qcow2"), path("base, \"1\".raw")).unwrap();
        let said = read(&chain.node().unwrap(), 0);
        assert!(said.contains("51 46 49 fb") && !said.contains("53 53"), "{said}");
    }

    #[test]
    fn a_vmdk_stands_alone_or_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        qemu_img(&["create", "-q", "-f", "vmdk", &path("one.vmdk"), "1M"]);
        assert!(alone(Path::new(&path("one.vmdk")), "vmdk").is_ok());
        qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", &path("two.vmdk"), "1M"]);
        let refused = alone(Path::new(&path("two.vmdk")), "vmdk").unwrap_err().to_string();
        assert!(refused.contains("several files"), "{refused}");
        qemu_img(&["create", "-q", "-f", "vmdk", "-b", &path("one.vmdk"), "-F", "vmdk", &path("child.vmdk")]);
        let refused = alone(Path::new(&path("child.vmdk")), "vmdk").unwrap_err().to_string();
        assert!(refused.contains("based on another"), "{refused}");
    }
}
