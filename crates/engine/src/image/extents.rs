//! Lists of changed extents, as others who track changes write them.

use crate::error::{Error, Result};
use crate::limits::EXTENTS_FILE_MAX_BYTES;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use strongroom_domain::Extent;
use strongroom_domain::extent::normalize;

/// A list as it was given: its order and places matter for messages.
pub struct ExtentList {
    given: Vec<Extent>,
    shown: String,
}

impl ExtentList {
    /// Reads a JSON list of `{"offset": bytes, "length": bytes}`; `-` is standard input.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let doing = || format!("reading the changed extents in {shown}");
        let mut text = Vec::new();
        let limit = EXTENTS_FILE_MAX_BYTES + 1;
        let read = match path.as_os_str() == "-" {
            true => io::stdin().lock().take(limit).read_to_end(&mut text),
            false => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text)),
        };
        read.map_err(|e| Error::io(doing(), e))?;
        if text.len() as u64 > EXTENTS_FILE_MAX_BYTES {
            return Err(Error::invalid(format!(
                "{}: it is larger than {EXTENTS_FILE_MAX_BYTES} bytes; join neighbouring extents, or back up without it",
                doing()
            )));
        }
        let values: Vec<&serde_json::value::RawValue> = serde_json::from_slice(&text).map_err(|e| {
            Error::invalid(format!(
                "{}: it is not a JSON list of {{\"offset\": bytes, \"length\": bytes}}: {e}",
                doing()
            ))
        })?;
        let mut given = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let extent = serde_json::from_str(value.get()).map_err(|e| {
                // Line and column would be those within the entry.
                let why = e.to_string();
                let why = why.split(" at line ").next().unwrap_or(&why);
                let entry: String = value.get().chars().take(120).collect();
                Error::invalid(format!(
                    "{}: extent {index} is {entry}: {why}; expected {{\"offset\": bytes, \"length\": bytes}}",
                    doing()
                ))
            })?;
            given.push(extent);
        }
        Ok(Self { given, shown })
    }

    /// The extents, sorted and joined, if they fit a disk of `size_bytes`.
    pub fn within(&self, size_bytes: u64) -> Result<Vec<Extent>> {
        normalize(&self.given, size_bytes).map_err(|e| {
            Error::invalid(format!("the changed extents in {}: {e}; nothing was backed up", self.shown))
        })
    }
}
