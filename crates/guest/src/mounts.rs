//! Which file systems can be frozen: those on disks of the machine's own, each once, in the order they have to be frozen.

use crate::limits::MOUNTS_MAX;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`; of btrfs, where each subvolume has another, its source.
    pub device: String,
    /// Where it is mounted.
    pub path: std::path::PathBuf,
}

const KINDS: [&str; 4] = ["ext3", "ext4", "xfs", "btrfs"];
/// Of loop devices: what is in them lies in a file on a file system that is frozen itself.
const LOOP_MAJOR: &str = "7:";

/// What `/proc/self/mountinfo` names, deepest first and `/` last.
pub fn freezable(mountinfo: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mountinfo.lines().take(MOUNTS_MAX) {
        let Some(mount) = parse(line) else { continue };
        // Mounted twice it is one file system still.
        match found.iter_mut().find(|m| m.device == mount.device) {
            Some(known) if mount.path.as_os_str() == "/" => known.path = mount.path,
            Some(_) => {}
            None => found.push(mount),
        }
    }
    // Later mounts may lie on earlier ones.
    found.reverse();
    found.sort_by_key(|m| m.path.as_os_str() == "/");
    found
}

/// What is mounted and can be frozen.
pub fn now() -> std::io::Result<Vec<Mount>> {
    Ok(freezable(&String::from_utf8_lossy(&std::fs::read("/proc/self/mountinfo")?)))
}

fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(2);
    let device = front.next()?;
    let path = front.nth(1)?;
    let mut back = back.split(' ');
    let kind = back.next()?;
    let source = back.next()?;
    let is_loop = device.starts_with(LOOP_MAJOR) || source.starts_with("/dev/loop");
    (KINDS.contains(&kind) && !is_loop).then(|| Mount {
        device: if kind == "btrfs" { source } else { device }.into(),
        path: unescape(path).into(),
    })
}

/// Blanks and the like are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) if byte.is_ascii() => {
                out.push(byte as char);
                rest = &rest[at + 4..];
            }
            _ => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_choice() {
        let text = "\
21 1 0:19 / /proc rw - proc proc rw
25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
26 25 0:5 / /dev rw - devtmpfs udev rw
30 25 254:16 / /data rw shared:9 - xfs /dev/vdb rw
31 30 254:32 / /data/with\\040blank rw - btrfs /dev/vdc rw
32 25 7:3 / /mnt/image rw - ext4 /dev/loop3 rw
33 25 254:16 /sub /bound rw - xfs /dev/vdb rw
34 25 0:40 / /net rw - nfs4 server:/x rw
garbage
";
        let paths: Vec<String> = freezable(text).iter().map(|m| m.path.display().to_string()).collect();
        assert_eq!(paths, ["/data/with blank", "/data", "/"]);
    }

    #[test]
    fn anything_can_be_read() {
        assert_eq!(unescape(r"a\040b\134c\9\"), r"a b\c\9\");
        assert!(freezable(" - \n1 2 3 - ext4").is_empty());
    }
}
