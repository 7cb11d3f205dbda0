//! QEMU's own tools: `qemu-img` for looking at images and their bitmaps, `qemu-nbd` for reading them.

use crate::error::{Error, Result};
use crate::image::{self, Layer, Place, Qcow2Header};
use crate::limits::{TOOL_OUTPUT_BYTES_MAX, TOOL_TIMEOUT};
use crate::text::shorten;
use serde::Deserialize;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a program to its end, within a time and an amount of output; returns stdout.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S], about: &Path) -> Result<Vec<u8>> {
    let what = about.display().to_string();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| missing(program, e))?;
    let collect = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(stream) = stream {
                let _ = stream.take(TOOL_OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let out = collect(child.stdout.take().map(|s| Box::new(s) as _));
    let err = collect(child.stderr.take().map(|s| Box::new(s) as _));
    let deadline = Instant::now() + TOOL_TIMEOUT;
    let mut pause = Duration::from_micros(500);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| Error::failed("running", program, e))? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::failed(
                "looking at",
                what,
                format!("{program} did not end within {TOOL_TIMEOUT:?}"),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let out = out.join().unwrap_or_default();
    let err = err.join().unwrap_or_default();
    if status.success() {
        Ok(out)
    } else {
        let text = shorten(&String::from_utf8_lossy(&err));
        if text.contains("Permission denied") {
            return Err(Error::Denied { what, hint: text });
        }
        if text.contains("lock") && text.contains("Failed to get") {
            return Err(Error::Busy { what, why: "another process has it open".into() });
        }
        Err(Error::failed("looking at", what, text))
    }
}

/// The program could not be started.
pub fn missing(program: &str, cause: std::io::Error) -> Error {
    if cause.kind() == std::io::ErrorKind::NotFound {
        Error::Unavailable {
            what: format!("`{program}`"),
            hint: "install it (Debian: apt install qemu-utils)".into(),
        }
    } else {
        Error::failed("starting", program, cause)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Bitmap {
    pub name: String,
    #[serde(default)]
    flags: Vec<String>,
}

impl Bitmap {
    /// Whether it was written completely, and records from now on as well.
    pub fn is_sound(&self) -> bool {
        !self.flags.iter().any(|f| f == "in-use") && self.flags.iter().any(|f| f == "auto")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Qcow2Info {
    #[serde(default)]
    bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct FormatSpecific {
    data: serde_json::Value,
}

#[derive(Debug, Clone, Deserialize)]
struct InternalSnapshot {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawImageInfo {
    #[serde(default)]
    format_specific: Option<FormatSpecific>,
    #[serde(default)]
    snapshots: Vec<InternalSnapshot>,
}

/// What an image says of itself.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// Its header names an image below it: which one it is, libvirt says.
    pub names_backing: bool,
    /// Guest data is in another file.
    pub has_data_file: bool,
    /// Older qcow2 images cannot keep bitmaps.
    pub can_keep_bitmaps: bool,
    pub bitmaps: Vec<Bitmap>,
    /// Names of the snapshots within it.
    pub snapshots: Vec<String>,
}

/// Looks at a qcow2 image, which may be in use, and at nothing that it names.
pub fn image_info(path: &Path) -> Result<ImageInfo> {
    let header = Qcow2Header::read(path)?
        .ok_or_else(|| Error::unsupported(path.display().to_string(), "it is no qcow2 image"))?;
    let mut info = ImageInfo {
        names_backing: header.backing.is_some(),
        has_data_file: header.data_file.is_some(),
        can_keep_bitmaps: header.version >= 3,
        bitmaps: Vec::new(),
        snapshots: Vec::new(),
    };
    // `qemu-img` would open it.
    if info.has_data_file {
        return Ok(info);
    }
    let name = image::node_name(&itself(path)?);
    let arguments: [&OsStr; 4] = ["info".as_ref(), "-U".as_ref(), "--output=json".as_ref(), name.as_ref()];
    // Its owner may be changing what is looked at.
    let mut tries = 0;
    let out = loop {
        tries += 1;
        match run("qemu-img", &arguments, path) {
            Err(Error::Failed { .. }) if tries < 3 => std::thread::sleep(Duration::from_millis(100)),
            done => break done?,
        }
    };
    let cannot = |e: &dyn std::fmt::Display| Error::failed("understanding", path.display().to_string(), e);
    let said: RawImageInfo = serde_json::from_slice(&out).map_err(|e| cannot(&e))?;
    info.snapshots = said.snapshots.into_iter().map(|s| s.name).collect();
    if let Some(specific) = said.format_specific {
        let qcow2 = serde_json::from_value::<Qcow2Info>(specific.data).map_err(|e| cannot(&e))?;
        info.bitmaps = qcow2.bitmaps;
    }
    Ok(info)
}

/// A qcow2 image without what it names: its bitmaps are its own.
pub fn itself(path: &Path) -> Result<serde_json::Value> {
    let Layer { place, .. } = Layer::alone(path, "qcow2")?;
    let driver = if matches!(place, Place::Block(_)) { "host_device" } else { "file" };
    let file = place
        .path()
        .and_then(Path::to_str)
        .ok_or_else(|| Error::unsupported(path.display().to_string(), "its path is not valid UTF-8"))?;
    Ok(serde_json::json!({
        "driver": "qcow2", "file": { "driver": driver, "filename": file }, "backing": null,
    }))
}

/// Makes an empty qcow2 image in a file that is there.
pub fn create_qcow2(path: &Path, size_bytes: u64) -> Result<()> {
    let size = size_bytes.to_string();
    let arguments: [&OsStr; 6] =
        ["create".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str(), size.as_ref()];
    run("qemu-img", &arguments, path).map(drop)
}

/// Adds a bitmap that records from now on to an image nobody has open.
pub fn bitmap_add(path: &Path, name: &str) -> Result<()> {
    bitmap("--add", path, name)
}

/// Removes a bitmap from an image nobody has open.
pub fn bitmap_remove(path: &Path, name: &str) -> Result<()> {
    bitmap("--remove", path, name)
}

fn bitmap(action: &str, path: &Path, name: &str) -> Result<()> {
    if Qcow2Header::read(path)?.is_some_and(|h| h.data_file.is_some()) {
        return Err(Error::unsupported(path.display().to_string(), "its data is in another file"));
    }
    let image = image::node_name(&itself(path)?);
    run("qemu-img", &["bitmap", action, &image, name], path).map(drop)
}
