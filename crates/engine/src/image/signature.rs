//! By what bytes images of other formats are known, so that none goes in as a raw disk without a word.

use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const HEAD_BYTES: usize = 512;
const SECTOR_BYTES: u64 = 512;
const VDI_SIGNATURE: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();
const CLOOP: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop";

/// What a file begins as, or ends as, beside a raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// Read where its format is named so.
    Read(&'static str),
    /// QEMU knows it, and we do not read it.
    Foreign(&'static str),
    /// The text that names a vmdk's files.
    VmdkDescriptor,
    /// Its content is as good as random without the passphrase.
    Luks,
}

impl Signature {
    /// What a backup of the bytes as they are is to say.
    pub fn warning(self, path: &Path) -> String {
        let shown = path.display();
        match self {
            Self::Read(format) => format!(
                "{shown} looks like a {format} image but was read as raw bytes; use --source-format {format} to back up the disk in it, or \
                 --source-format raw if the bytes are what is wanted"
            ),
            Self::Foreign(format) => format!(
                "{shown} looks like a {format} image but was read as raw bytes; to back up the disk in it, make an image of another \
                 format of it first (`qemu-img convert -f {format} -O qcow2`), or use --source-format raw if the bytes are what is wanted"
            ),
            Self::VmdkDescriptor => format!(
                "{shown} looks like the descriptor of a vmdk image, which names the files that hold its data but holds none; to back up \
                 the disk, make one file of it first (`qemu-img convert -f vmdk -O qcow2`), or use --source-format raw if the bytes are what is wanted"
            ),
            Self::Luks => format!(
                "{shown} looks like a luks image, and was read as raw bytes: without its passphrase, which is not in the backup, nobody can \
                 use what is restored; --source-format raw says that this is known"
            ),
        }
    }
}

/// By the first and last bytes of a file; none of what could as well be a raw disk.
pub fn of(path: &Path, file: &File, length_bytes: u64) -> Result<Option<Signature>> {
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let head = read(file, 0).map_err(failed)?;
    if let Some(found) = of_head(&head) {
        return Ok(Some(found));
    }
    let Some(last) = length_bytes.checked_sub(SECTOR_BYTES) else { return Ok(None) };
    let tail = read(file, last).map_err(failed)?;
    Ok(match () {
        // A fixed VHD is a raw disk with a footer.
        () if tail.starts_with(b"conectix") => Some(Signature::Read("vpc")),
        () if tail.starts_with(b"koly\0\0\0\x04") => Some(Signature::Foreign("dmg")),
        () => None,
    })
}

fn read(file: &File, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// By the first bytes alone.
pub fn of_head(head: &[u8]) -> Option<Signature> {
    let has = |at: usize, bytes: &[u8]| head.get(at..at + bytes.len()) == Some(bytes);
    let begins = |bytes: &[u8]| has(0, bytes);
    Some(match () {
        () if begins(b"QFI\xfb\0\0\0\x01") => Signature::Foreign("qcow"),
        () if begins(b"QFI\xfb") => Signature::Read("qcow2"),
        () if begins(b"KDMV") => Signature::Read("vmdk"),
        () if begins(b"COWD") => Signature::Foreign("vmdk"),
        () if is_vmdk_descriptor(head) => Signature::VmdkDescriptor,
        () if begins(b"vhdxfile") => Signature::Read("vhdx"),
        () if begins(b"conectix") => Signature::Read("vpc"),
        () if has(64, &VDI_SIGNATURE) => Signature::Read("vdi"),
        () if begins(b"QED\0") => Signature::Foreign("qed"),
        () if begins(b"WithoutFreeSpace") || begins(b"WithouFreSpacExt") => Signature::Foreign("parallels"),
        () if begins(b"LUKS\xba\xbe") => Signature::Luks,
        () if begins(b"Bochs Virtual HD Image") => Signature::Foreign("bochs"),
        () if begins(CLOOP) => Signature::Foreign("cloop"),
        () => return None,
    })
}

/// Remarks and empty lines, one of which says what it is, or a version before anything else.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    let text = head.split(|byte| *byte == 0).next().unwrap_or_default();
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.starts_with(b"# Disk DescriptorFile") || line.starts_with(b"version=") {
            return true;
        }
        if !line.is_empty() && !line.starts_with(b"#") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn found(bytes: &[u8]) -> Option<Signature> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        of(Path::new("x"), &file, bytes.len() as u64).unwrap()
    }

    #[test]
    fn what_qemu_makes_is_known() {
        let directory = tempfile::tempdir().unwrap();
        for (format, options, wanted) in [
            ("qcow2", "", Signature::Read("qcow2")),
            ("qcow", "", Signature::Foreign("qcow")),
            ("vmdk", "", Signature::Read("vmdk")),
            ("vmdk", "subformat=streamOptimized", Signature::Read("vmdk")),
            ("vmdk", "subformat=monolithicFlat", Signature::VmdkDescriptor),
            ("vhdx", "", Signature::Read("vhdx")),
            ("vpc", "", Signature::Read("vpc")),
            ("vpc", "subformat=fixed", Signature::Read("vpc")),
            ("vdi", "", Signature::Read("vdi")),
            ("qed", "", Signature::Foreign("qed")),
            ("parallels", "", Signature::Foreign("parallels")),
        ] {
            let path = directory.path().join(format!("{format}{}", options.len()));
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", format]);
            if !options.is_empty() {
                create.args(["-o", options]);
            }
            assert!(create.arg(&path).arg("1M").status().unwrap().success(), "{format} {options}");
            let file = File::open(&path).unwrap();
            let length = file.metadata().unwrap().len();
            assert_eq!(of(&path, &file, length).unwrap(), Some(wanted), "{format} {options}");
            assert!(wanted.warning(&path).contains(if format == "qcow2" { "qcow2" } else { format }));
        }
    }

    #[test]
    fn what_others_make_is_known_and_disks_are_not() {
        let mut image = vec![0; 4096];
        image[3584..3592].copy_from_slice(b"koly\0\0\0\x04");
        assert_eq!(found(&image), Some(Signature::Foreign("dmg")));
        assert_eq!(found(b"LUKS\xba\xbe\0\x02"), Some(Signature::Luks));
        assert_eq!(found(b"COWD\x01\0\0\0"), Some(Signature::Foreign("vmdk")));
        assert_eq!(found(b"\n# a remark\r\n# Disk DescriptorFile\r\n"), Some(Signature::VmdkDescriptor));
        assert_eq!(found(CLOOP), Some(Signature::Foreign("cloop")));
        assert_eq!(found(b"Bochs Virtual HD Image\0"), Some(Signature::Foreign("bochs")));
        for disk in [&b""[..], b"QF", b"# a script\necho\n", &[0; 4096], b"\xeb\x63\x90GRUB"] {
            assert_eq!(found(disk), None, "{disk:?}");
        }
    }
}
