//! The vault's header: what a vault is, and its wrapped data key. Two copies, each with its hash.

use crate::crypto::VaultKeys;
use crate::error::{Result, StoreError};
use crate::keys::{KeyProvider, WrappedKey};
use crate::limits::{BLOCK_SIZE_MAX_BYTES, BLOCK_SIZE_MIN_BYTES, HEADER_MAX_BYTES};
use crate::objects::{BlobStore, Kind};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::VaultId;

pub const HEADER_NAME: &str = "vault.json";
pub const HEADER_COPY_NAME: &str = "vault.copy.json";
pub const FORMAT: &str = "strongroom-vault";
/// What this program makes, and the highest it reads.
pub const VERSION: u64 = 2;
/// What a program must know to write to a vault of version 2, or to judge what is in it. Every later change of the format adds a
/// name here, and the release that brought it below.
pub const REQUIRES: [&str; 5] = ["kept", "tombstones", "roll", "marker", "commits"];
/// Required besides of a vault for a single writer: who writes to it must know that nobody else may.
pub const SINGLE_WRITER: &str = "single-writer";
/// The first release that knows all of them.
pub const REQUIRES_RELEASE: &str = "0.1.0";

/// See `docs/vault-format.md`, section 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub format: String,
    pub version: u64,
    pub id: VaultId,
    pub created_at: Timestamp,
    pub block_size_bytes: u32,
    pub key: WrappedKey,
    /// Since version 2: names of what a program must know to open the vault, and the first release that does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

impl Header {
    /// Makes the header of a new vault around a fresh data key: of version 1, until what version 2 promises is there.
    pub fn create(
        id: VaultId,
        created_at: Timestamp,
        block_size_bytes: u32,
        provider: &dyn KeyProvider,
    ) -> Result<(Self, VaultKeys)> {
        check_block_size(block_size_bytes)?;
        let mut data_key = [0; 32];
        crate::crypto::random(&mut data_key)?;
        let additional = additional_data(&id, &created_at, block_size_bytes);
        let key = provider.wrap(id, additional.as_bytes(), &data_key)?;
        let header = Self {
            format: FORMAT.into(),
            version: 1,
            id,
            created_at,
            block_size_bytes,
            key,
            requires: Vec::new(),
            release: None,
        };
        Ok((header, VaultKeys::new(id, data_key)))
    }

    /// The same vault's, of the version that this program makes.
    pub fn upgraded(&self) -> Self {
        let mut requires: Vec<String> = REQUIRES.iter().map(|name| (*name).to_owned()).collect();
        requires.extend(self.requires.iter().filter(|name| !REQUIRES.contains(&name.as_str())).cloned());
        Self { version: VERSION, requires, release: Some(REQUIRES_RELEASE.into()), ..self.clone() }
    }

    /// Whether who opens the vault must know this.
    pub fn requires(&self, name: &str) -> bool {
        self.requires.iter().any(|required| required == name)
    }

    /// From here on who opens the vault must know this.
    pub fn require(&mut self, name: &str) {
        if !self.requires(name) {
            self.requires.push(name.to_owned());
            self.release = Some(REQUIRES_RELEASE.into());
        }
    }

    /// Whether it is what this program makes of it.
    pub fn is_current(&self) -> bool {
        self.version == VERSION && REQUIRES.iter().all(|name| self.requires(name))
    }

    pub fn unwrap_keys(&self, provider: &dyn KeyProvider) -> Result<VaultKeys> {
        let additional = additional_data(&self.id, &self.created_at, self.block_size_bytes);
        provider.unwrap(self.id, additional.as_bytes(), &self.key).map(|key| VaultKeys::new(self.id, key))
    }

    pub fn to_bytes(&self) -> Result<Bytes> {
        let line = serde_json::to_string(self)
            .map_err(|e| StoreError::Invalid { what: "header", detail: e.to_string() })?;
        Ok(format!("{line}\nblake3 {}\n", blake3::hash(line.as_bytes()).to_hex()).into())
    }

    pub(crate) fn parse(bytes: &[u8], name: &str, location: &str) -> Result<Self> {
        let corrupt = |detail: &str| StoreError::corrupt(name, detail);
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not text"))?;
        let (line, hash) = text.split_once('\n').ok_or_else(|| corrupt("it is cut short"))?;
        if hash != format!("blake3 {}\n", blake3::hash(line.as_bytes()).to_hex()) {
            return Err(corrupt("it does not match its hash"));
        }
        // The version first: a newer header may look otherwise.
        #[derive(Deserialize)]
        struct Versioned {
            format: String,
            version: u64,
            #[serde(default)]
            requires: Vec<String>,
            #[serde(default)]
            release: Option<String>,
        }
        let versioned: Versioned =
            serde_json::from_str(line).map_err(|e| corrupt(&format!("not a header: {e}")))?;
        if versioned.format != FORMAT {
            return Err(StoreError::NotAVault {
                location: location.into(),
                detail: format!("{name} says it is of format {:?}", versioned.format),
            });
        }
        if !(1..=VERSION).contains(&versioned.version) {
            return Err(StoreError::NewerFormat {
                location: location.into(),
                found: versioned.version,
                supported: VERSION,
            });
        }
        let mut names = versioned.requires;
        names.retain(|name| !REQUIRES.contains(&name.as_str()) && name != SINGLE_WRITER);
        if !names.is_empty() {
            return Err(StoreError::UnknownRequirement {
                location: location.into(),
                names,
                release: versioned.release.unwrap_or_else(|| "of a newer version".into()),
            });
        }
        let header: Self = serde_json::from_str(line).map_err(|e| corrupt(&format!("not a header: {e}")))?;
        check_block_size(header.block_size_bytes).map_err(|e| corrupt(&e.to_string()))?;
        Ok(header)
    }

    /// Reads one copy.
    pub fn load_copy(store: &BlobStore, name: &str) -> Result<Self> {
        let bytes = store.get_bounded(name, HEADER_MAX_BYTES)?;
        Self::parse(&bytes, name, store.location())
    }

    /// Reads the header from whichever copy is sound. The second value says what is wrong with the other one.
    pub fn load(store: &BlobStore) -> Result<(Self, Option<StoreError>)> {
        match Self::load_copy(store, HEADER_NAME) {
            Ok(header) => Ok((header, None)),
            Err(first) => {
                let missing = matches!(&first, StoreError::Object(e) if e.kind == Kind::NotFound);
                if !missing && !first.is_damage() {
                    return Err(first);
                }
                match Self::load_copy(store, HEADER_COPY_NAME) {
                    Ok(header) => Ok((header, Some(first))),
                    Err(StoreError::Object(e)) if missing && e.kind == Kind::NotFound => {
                        Err(StoreError::NotAVault {
                            location: store.location().to_owned(),
                            detail: format!("it has no {HEADER_NAME}"),
                        })
                    }
                    Err(_) => Err(first),
                }
            }
        }
    }
}

/// Refuses a block size ([`StoreError::Invalid`]) that is no power of two between the bounds of [`limits`](crate::limits).
pub fn check_block_size(block_size_bytes: u32) -> Result<()> {
    if block_size_bytes.is_power_of_two()
        && (BLOCK_SIZE_MIN_BYTES..=BLOCK_SIZE_MAX_BYTES).contains(&block_size_bytes)
    {
        return Ok(());
    }
    Err(StoreError::Invalid {
        what: "block size",
        detail: format!(
            "{block_size_bytes} is not a power of two from {BLOCK_SIZE_MIN_BYTES} to {BLOCK_SIZE_MAX_BYTES} bytes"
        ),
    })
}

fn additional_data(id: &VaultId, created_at: &Timestamp, block_size_bytes: u32) -> String {
    // 1 is the version of this binding: the data key stays wrapped as it is when the header becomes a newer one.
    format!("{FORMAT}/1/{id}/{created_at}/{block_size_bytes}")
}
