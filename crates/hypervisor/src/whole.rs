//! Whether an image is whole. What an image's tables say to be beyond the end of its file QEMU reads as zeroes, without
//! a word: a copy that was cut short looks like a disk with less on it. So it is looked for before anything is read.

use crate::error::{Error, Result};
use crate::image::{Layer, node_name};
use crate::limits::{IMAGE_CHECK_TIMEOUT, TOOL_OUTPUT_BYTES_MAX};
use crate::text::shorten;
use crate::tools::{itself, missing};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Lines of a check's own words that are passed on.
const WORDS_LINES: usize = 3;

/// What was found of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing, as far as its format has a check.
    Sound,
    /// It takes more room than it needs; what is read of it is right.
    Leaks(String),
    /// What is read of it may be wrong.
    Damaged(String),
}

/// What `qemu-img check` prints for programs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Report {
    corruptions: u64,
    leaks: u64,
    check_errors: u64,
}

/// Looks at an image that stands alone, by its format's own check; that reads its tables and none of its data.
pub fn check(path: &Path, format: &str, is_cancelled: &dyn Fn() -> bool) -> Result<Condition> {
    if format == "vdi"
        && let Some(why) = vdi_cut_short(path)?
    {
        return Ok(Condition::Damaged(why));
    }
    match format {
        "qcow2" | "vdi" | "vmdk" | "vhdx" => {
            run_check(path, &node_name(&Layer::alone(path, format)?.node()?), is_cancelled)
        }
        // Whoever opens it is told where it ends too early (vpc), or there is nothing to look at.
        _ => Ok(Condition::Sound),
    }
}

/// The same of a qcow2 image by itself, whatever it names: what is below it is somebody else's to look at.
pub fn check_itself(path: &Path) -> Result<Condition> {
    run_check(path, &node_name(&itself(path)?), &|| false)
}

fn run_check(path: &Path, node: &str, is_cancelled: &dyn Fn() -> bool) -> Result<Condition> {
    let failed = |e: io::Error| Error::failed("checking", path.display().to_string(), e);
    let (mut out, mut messages) =
        (tempfile::tempfile().map_err(failed)?, tempfile::tempfile().map_err(failed)?);
    let mut child = Command::new("qemu-img")
        .args(["check", "--output=json", node])
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(messages.try_clone().map_err(failed)?)
        .spawn()
        .map_err(|e| missing("qemu-img", e))?;
    let deadline = Instant::now() + IMAGE_CHECK_TIMEOUT;
    let mut pause = Duration::from_micros(500);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        let why = match is_cancelled() {
            true => "it was stopped",
            false if Instant::now() > deadline => "qemu-img did not end in time",
            false => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
                continue;
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::failed("checking", path.display().to_string(), why));
    };
    let read = |file: &mut File| -> String {
        let mut bytes = Vec::new();
        let _ = file.rewind();
        let _ = file.take(TOOL_OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (out, said) = (read(&mut out), read(&mut messages));
    let report: Report = serde_json::from_str(&out).unwrap_or_default();
    let damaged = |report: &Report| {
        let told = words(&said);
        let told = if told.is_empty() { "it says no more".to_owned() } else { told };
        Condition::Damaged(match report.corruptions {
            0 => format!("it cannot be read to its end: {told}"),
            count => format!("{count} error(s): {told}"),
        })
    };
    match status.code() {
        Some(0) => Ok(Condition::Sound),
        Some(2) => Ok(damaged(&report)),
        Some(3) => Ok(Condition::Leaks(format!("{} leaked cluster(s)", report.leaks))),
        // This format has no check.
        Some(63) => Ok(Condition::Sound),
        _ if report.check_errors > 0 || said.contains("Check failed") => Ok(damaged(&report)),
        _ if said.contains("Permission denied") => {
            Err(Error::Denied { what: path.display().to_string(), hint: shorten(said.trim()) })
        }
        _ if said.contains("lock") && said.contains("Failed to get") => {
            Err(Error::Busy { what: path.display().to_string(), why: "another process has it open".into() })
        }
        _ => Err(Error::failed("checking", path.display().to_string(), words(&said))),
    }
}

/// The first of what it said, without the image's name in QEMU's spelling.
fn words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut told: Vec<&str> =
        lines.iter().take(WORDS_LINES).map(|line| line.strip_prefix("qemu-img: ").unwrap_or(line)).collect();
    if lines.len() > told.len() {
        told.push("…");
    }
    shorten(&told.join("; "))
}

struct Image<'a> {
    file: File,
    path: &'a Path,
    length_bytes: u64,
}

impl<'a> Image<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
        // A device has no length of its own; its end can be sought.
        let length_bytes = file.seek(SeekFrom::End(0)).map_err(|e| Error::io("looking at", path, e))?;
        Ok(Self { file, path, length_bytes })
    }

    /// False if it ends before.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<bool> {
        match self.file.read_exact_at(buffer, at) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io("reading", self.path, e)),
        }
    }
}

/// The check of VDI images does not look where their file ends: their blocks lie one after the other.
fn vdi_cut_short(path: &Path) -> Result<Option<String>> {
    let image = Image::open(path)?;
    let mut head = [0; 400];
    if !image.read(0, &mut head)? {
        return Ok(Some("its header is cut short".into()));
    }
    let number =
        |at: usize| u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    let (data_at, block_bytes, blocks) = (number(344), number(376), number(388));
    let end = data_at + block_bytes * blocks;
    Ok((end > image.length_bytes).then(|| {
        format!(
            "it has {blocks} blocks, the last of which ends at byte {end}, and its file ends at byte {}",
            image.length_bytes
        )
    }))
}

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
/// Blocks of reference counts without any that are passed over, from the end: an image whose end was discarded has some.
const EMPTY_BLOCKS_MAX: usize = 256;
/// As QEMU has it.
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;

/// Why a qcow2 image may be cut short or damaged, by the little that costs next to nothing: its header, its table of reference
/// counts, and the last of those counts. It says so also of one that merely leaks at its end, so [`check`] is to be asked then.
pub fn qcow2_suspicion(path: &Path) -> Result<Option<String>> {
    let image = Image::open(path)?;
    let mut head = [0; 104];
    if !image.read(0, &mut head[..72])? || head[..4] != *b"QFI\xfb" {
        return Ok(Some("its header is cut short, or none".into()));
    }
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| (u64::from(number(at)) << 32) | u64::from(number(at + 4));
    let (version, cluster_bits) = (number(4), number(20));
    let (table_at, table_clusters) = (long(48), u64::from(number(56)));
    let (mut features, mut order) = (0, 4);
    if version >= 3 {
        let mut rest = [0; 104];
        if !image.read(0, &mut rest)? {
            return Ok(Some("its header is cut short".into()));
        }
        features = u64::from_be_bytes(rest[72..80].try_into().unwrap_or_default());
        order = u32::from_be_bytes(rest[96..100].try_into().unwrap_or_default());
    }
    if features & CORRUPT != 0 {
        return Ok(Some("its header says that it is corrupt".into()));
    }
    // Its counts may lag behind, or say nothing of its data.
    if features & (DIRTY | DATA_FILE) != 0 {
        return Ok(None);
    }
    if !(9..=21).contains(&cluster_bits) || order > 6 {
        return Ok(Some("its header is not one that QEMU writes".into()));
    }
    let cluster_bytes = 1u64 << cluster_bits;
    let table_bytes = table_clusters.saturating_mul(cluster_bytes).min(REFCOUNT_TABLE_BYTES_MAX);
    let mut table = vec![0; table_bytes as usize];
    if !image.read(table_at, &mut table)? {
        return Ok(Some(image.beyond("the table of its reference counts", table_at)));
    }
    let count_bits = 1u64 << order;
    let counts_per_block = cluster_bytes * 8 / count_bits;
    let mut block = vec![0; cluster_bytes as usize];
    let entries = table.chunks_exact(8).enumerate().rev();
    let blocks = entries.filter_map(|(index, entry)| {
        let at = u64::from_be_bytes(entry.try_into().ok()?) & !0x1ff;
        (at != 0).then_some((index as u64, at))
    });
    for (index, at) in blocks.take(EMPTY_BLOCKS_MAX) {
        if !image.read(at, &mut block)? {
            return Ok(Some(image.beyond("a block of its reference counts", at)));
        }
        let Some(last) = block.iter().rposition(|byte| *byte != 0) else { continue };
        // Counts of less than a byte lie several to one: the first of them is there at least.
        let cluster = index * counts_per_block + last as u64 * 8 / count_bits;
        let at = cluster * cluster_bytes;
        // The last one in use may be there in part.
        return Ok((at >= image.length_bytes).then(|| image.beyond("a cluster that is in use", at)));
    }
    Ok(None)
}

impl Image<'_> {
    fn beyond(&self, what: &str, at: u64) -> String {
        format!("{what} lies at byte {at}, and its file ends at byte {}", self.length_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path, format: &str, options: &str) -> std::path::PathBuf {
        let raw = directory.join("raw");
        if !raw.exists() {
            std::fs::write(
                &raw,
                (0..8u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect::<Vec<_>>(),
            )
            .unwrap();
        }
        let path = directory.join(format!("disk{}.{format}", options.len()));
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", format]);
        if !options.is_empty() {
            convert.args(["-o", options]);
        }
        assert!(convert.arg(&raw).arg(&path).status().unwrap().success());
        path
    }

    fn cut(path: &Path, bytes: u64) {
        File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }

    #[test]
    fn images_that_were_cut_short_are_damaged() {
        let directory = tempfile::tempdir().unwrap();
        for (format, options) in [
            ("qcow2", ""),
            ("qcow2", "compat=0.10"),
            ("qcow2", "cluster_size=4k,refcount_bits=1"),
            ("vdi", ""),
            ("vmdk", ""),
            ("vhdx", ""),
        ] {
            let path = image(directory.path(), format, options);
            let length = path.metadata().unwrap().len();
            let looked = || check(&path, format, &|| false).unwrap();
            let suspicion = || if format == "qcow2" { qcow2_suspicion(&path).unwrap() } else { None };
            assert_eq!((looked(), suspicion()), (Condition::Sound, None), "{format} {options}");
            cut(&path, length - (2 << 20));
            assert!(matches!(looked(), Condition::Damaged(_)), "{format} {options}: {:?}", looked());
            assert!(format != "qcow2" || suspicion().is_some(), "{format} {options}");
            // So short that some of it cannot even be opened.
            cut(&path, 300 << 10);
            assert!(!matches!(check(&path, format, &|| false), Ok(Condition::Sound)), "{format} {options}");
            assert!(format != "qcow2" || suspicion().is_some(), "{format} {options}");
        }
    }

    #[test]
    fn leaks_are_told_apart_and_checks_can_be_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = image(directory.path(), "qcow2", "");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut place = [0; 8];
        file.read_exact_at(&mut place, 48).unwrap();
        let at = u64::from_be_bytes(place);
        file.read_exact_at(&mut place, at).unwrap();
        let counts = u64::from_be_bytes(place);
        // A cluster that is counted and not there, and that nothing refers to.
        file.write_all_at(&[0, 1], counts + 2 * 1000).unwrap();
        assert!(qcow2_suspicion(&path).unwrap().is_some());
        assert_eq!(check(&path, "qcow2", &|| false).unwrap(), Condition::Sound);
        // And one that is there.
        let cluster = file.metadata().unwrap().len().div_ceil(1 << 16);
        file.set_len((cluster + 1) << 16).unwrap();
        file.write_all_at(&[0, 1], counts + 2 * cluster).unwrap();
        let found = check(&path, "qcow2", &|| false).unwrap();
        assert_eq!(found, Condition::Leaks("1 leaked cluster(s)".into()));
        assert!(check(&path, "qcow2", &|| true).is_err());
        // It says so itself.
        file.write_all_at(&CORRUPT.to_be_bytes(), 72).unwrap();
        assert!(qcow2_suspicion(&path).unwrap().unwrap().contains("corrupt"));
        assert_eq!(check(&path, "raw", &|| false).unwrap(), Condition::Sound);
    }
}
