//! Where the key-encryption key comes from: the `KeyProvider` trait, and key files.
//!
//! A vault's data key never leaves memory unwrapped. Who wraps it is exchangeable: here a local key
//! file; others plug in by implementing [`KeyProvider`]. Changing the wrapping key rewrites no data.

use crate::crypto::{self, SealKey, hex, unhex};
use crate::error::{Result, StoreError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use strongroom_domain::VaultId;

/// A data key as the header holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// [`KeyProvider::name`] of who wrapped it.
    pub provider: String,
    /// Which of the provider's keys it is wrapped with; tells nothing of the key.
    pub key_id: String,
    /// As the provider writes it; of a key file 12 bytes in hexadecimal.
    pub nonce: String,
    /// As the provider writes it; of a key file the sealed key and its tag in hexadecimal.
    pub wrapped: String,
}

/// Wraps and unwraps data keys.
pub trait KeyProvider: Send + Sync {
    /// Its name in the header.
    fn name(&self) -> &'static str;

    /// Wraps `data_key`, bound to `additional`.
    fn wrap(&self, vault: VaultId, additional: &[u8], data_key: &[u8; 32]) -> Result<WrappedKey>;

    /// The data key; [`StoreError::WrongKey`] or [`StoreError::KeyMissing`] if it is not to be had.
    fn unwrap(&self, vault: VaultId, additional: &[u8], wrapped: &WrappedKey) -> Result<[u8; 32]>;
}

/// A key-encryption key with the vault it belongs to: what a key file holds.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The only vault that it is for.
    pub vault: VaultId,
    key: [u8; 32],
}

const KEY_TEXT_TAG: &str = "STRONGROOM-KEY-1";
/// A key file is a few lines; more is not read.
const KEY_FILE_MAX_BYTES: u64 = 64 << 10;

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({}, key not shown)", self.vault)
    }
}

impl KeyFile {
    /// Makes a new random key.
    pub fn generate(vault: VaultId) -> Result<Self> {
        let mut key = [0; 32];
        crypto::random(&mut key)?;
        Ok(Self { vault, key })
    }

    /// 16 bytes in hexadecimal that tell this key from others, and nothing of it.
    pub fn key_id(&self) -> String {
        hex(&blake3::derive_key("strongroom v1 key id", &self.key)[..16])
    }

    /// The key as text that can be printed, typed in again and checked.
    pub fn to_text(&self) -> String {
        let body = format!("{KEY_TEXT_TAG}:{}:{}", self.vault, hex(&self.key));
        let sum = hex(&blake3::hash(body.as_bytes()).as_bytes()[..4]);
        let digits = hex(&self.key);
        let groups: Vec<&str> = (0..8).map(|i| &digits[i * 8..i * 8 + 8]).collect();
        format!(
            "# Key of the Strongroom vault {}.\n# Whoever has it and the vault can read everything; without it nothing can be read.\n\
             {KEY_TEXT_TAG}:{}:\n{}\n{}\n:{sum}\n",
            self.vault,
            self.vault,
            groups[..4].join(" "),
            groups[4..].join(" ")
        )
    }

    /// Reads what [`to_text`](Self::to_text) wrote, however it was folded.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid =
            |detail: &str| StoreError::Invalid { what: "key", detail: format!("{detail}; export it again") };
        let joined: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect();
        let (body, sum) = joined.rsplit_once(':').ok_or_else(|| invalid("this is no Strongroom key"))?;
        let mut parts = body.split(':');
        let (Some(tag), Some(vault), Some(key), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid("this is no Strongroom key"));
        };
        if tag != KEY_TEXT_TAG {
            return Err(invalid("this is no Strongroom key, or one of a newer version"));
        }
        if hex(&blake3::hash(body.as_bytes()).as_bytes()[..4]) != sum.to_ascii_lowercase() {
            return Err(invalid("its checksum does not match: a digit is wrong or missing"));
        }
        let vault = vault.parse().map_err(|_| invalid("its vault id is wrong"))?;
        let key: [u8; 32] = unhex(key)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| invalid("it has not 64 hexadecimal digits"))?;
        Ok(Self { vault, key })
    }

    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self> {
        use std::io::Read as _;
        let failed = |e| StoreError::io(format!("reading key file {}", path.display()), e);
        let mut text = String::new();
        fs::File::open(path)
            .map_err(failed)?
            .take(KEY_FILE_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(failed)?;
        Self::parse(&text).map_err(|e| match e {
            StoreError::Invalid { what, detail } => {
                StoreError::Invalid { what, detail: format!("{}: {detail}", path.display()) }
            }
            other => other,
        })
    }

    /// Writes a new key file (0600), durably. Never overwrites.
    pub fn save_new(&self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                StoreError::AlreadyExists { what: format!("key file {}", path.display()) }
            }
            _ => StoreError::io(format!("writing key file {}", path.display()), e),
        };
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(self.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl KeyProvider for KeyFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn wrap(&self, _vault: VaultId, additional: &[u8], data_key: &[u8; 32]) -> Result<WrappedKey> {
        let mut nonce = [0; 12];
        crypto::random(&mut nonce)?;
        let mut sealed = data_key.to_vec();
        let tag = SealKey::new(&self.key).seal(nonce, additional, &mut sealed);
        sealed.extend_from_slice(&tag);
        Ok(WrappedKey {
            provider: self.name().into(),
            key_id: self.key_id(),
            nonce: hex(&nonce),
            wrapped: hex(&sealed),
        })
    }

    fn unwrap(&self, vault: VaultId, additional: &[u8], wrapped: &WrappedKey) -> Result<[u8; 32]> {
        if wrapped.key_id != self.key_id() {
            return Err(StoreError::WrongKey {
                vault: vault.to_string(),
                wanted: wrapped.key_id.clone(),
                given: self.key_id(),
            });
        }
        let damaged = || StoreError::corrupt("vault.json", "the wrapped data key does not open");
        let nonce: [u8; 12] = unhex(&wrapped.nonce).and_then(|n| n.try_into().ok()).ok_or_else(damaged)?;
        let mut sealed = unhex(&wrapped.wrapped).ok_or_else(damaged)?;
        let opened = SealKey::new(&self.key).open(nonce, additional, &mut sealed).ok_or_else(damaged)?;
        <[u8; 32]>::try_from(&*opened).map_err(|_| damaged())
    }
}

/// The directory where keys are kept when no key file is named: one file a vault, named by its id.
#[derive(Debug, Clone)]
pub struct Keyring {
    directory: PathBuf,
}

impl Keyring {
    /// The keys in a directory, which need not be there yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// `$XDG_CONFIG_HOME/strongroom/keys`, or below `$HOME/.config`.
    pub fn of_user() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base =
            set("XDG_CONFIG_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".config")))
                .ok_or(StoreError::Invalid {
                what: "environment",
                detail:
                    "neither XDG_CONFIG_HOME nor HOME is set, so there is no place for keys; use --key-file"
                        .into(),
            })?;
        Ok(Self::new(base.join("strongroom/keys")))
    }

    /// Where a vault's key is, or would be.
    pub fn path(&self, vault: VaultId) -> PathBuf {
        self.directory.join(format!("{vault}.key"))
    }

    /// A vault's key. [`StoreError::KeyMissing`] if there is none; [`StoreError::Invalid`] if the file holds another vault's, or
    /// no key.
    pub fn load(&self, vault: VaultId) -> Result<KeyFile> {
        let path = self.path(vault);
        if !path.exists() {
            return Err(StoreError::KeyMissing {
                vault: vault.to_string(),
                detail: format!("{} does not exist", path.display()),
            });
        }
        let key = KeyFile::load(&path)?;
        if key.vault != vault {
            return Err(StoreError::Invalid {
                what: "key",
                detail: format!("{} holds the key of vault {}", path.display(), key.vault),
            });
        }
        Ok(key)
    }

    /// Keeps a key. Making it twice is fine if it is the same.
    pub fn save(&self, key: &KeyFile) -> Result<PathBuf> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|e| StoreError::io(format!("making {}", self.directory.display()), e))?;
        let path = self.path(key.vault);
        match key.save_new(&path) {
            Err(StoreError::AlreadyExists { .. }) if self.load(key.vault).is_ok_and(|kept| kept == *key) => {
                Ok(path)
            }
            other => other.map(|()| path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyFile {
        KeyFile { vault: VaultId::from_bytes([5; 16]), key: [9; 32] }
    }

    #[test]
    fn text_survives_folding_and_shows_typing_errors() {
        let text = key().to_text();
        assert_eq!(KeyFile::parse(&text).unwrap(), key());
        let folded = text.replace('\n', "\r\n ").replace("# ", "  # ");
        assert_eq!(KeyFile::parse(&folded).unwrap(), key());
        let error = KeyFile::parse(&text.replacen("09", "08", 1)).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
        for junk in ["", "hello", "a:b:c:d", ":::"] {
            assert!(KeyFile::parse(junk).is_err());
        }
    }

    #[test]
    fn unwraps_only_with_the_same_key_and_binding() {
        let data = [1; 32];
        let wrapped = key().wrap(key().vault, b"place", &data).unwrap();
        assert_eq!(key().unwrap(key().vault, b"place", &wrapped).unwrap(), data);
        assert!(key().unwrap(key().vault, b"other", &wrapped).unwrap_err().is_damage());
        let other = KeyFile { key: [8; 32], ..key() };
        let error = other.unwrap(key().vault, b"place", &wrapped).unwrap_err();
        assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    }

    #[test]
    fn the_ring_keeps_keys_private_and_apart() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::new(dir.path().join("keys"));
        assert!(matches!(ring.load(key().vault), Err(StoreError::KeyMissing { .. })));
        let path = ring.save(&key()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ring.save(&key()).unwrap(), path);
        assert_eq!(ring.load(key().vault).unwrap(), key());
        let other = KeyFile { key: [8; 32], ..key() };
        assert!(matches!(ring.save(&other), Err(StoreError::AlreadyExists { .. })));
    }
}
