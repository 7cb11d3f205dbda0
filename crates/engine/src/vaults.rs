//! Making and opening vaults, and their keys.

use crate::error::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};
use strongroom_domain::VaultId;
use strongroom_store::objects::{BlobStore, Location, OpenOptions, Reach, Stop, TEMP_DIR};
use strongroom_store::{InitOptions, KeyFile, Keyring, StoreError, Vault, check_block_size};

/// A vault that was made, and where its key is.
pub struct NewVault {
    /// Open.
    pub vault: Vault,
    /// The file that its key was saved to. Without it the vault cannot be read.
    pub key_path: PathBuf,
    /// Made in the user's keyring, where later commands find it by themselves.
    pub key_in_ring: bool,
}

/// How vaults' stores are opened.
#[derive(Debug, Clone)]
pub struct Stores {
    /// How remote ones are reached.
    pub reach: Reach,
    /// Ends waiting for a remote one that does not answer.
    pub stop: Stop,
    /// Where what was read of vaults that are far away is kept between runs.
    pub cache: Option<PathBuf>,
}

impl Default for Stores {
    fn default() -> Self {
        Self { reach: Reach::default(), stop: Stop::default(), cache: cache_directory() }
    }
}

impl Stores {
    fn options(&self) -> OpenOptions {
        OpenOptions { reach: self.reach.clone(), stop: self.stop.clone(), ..OpenOptions::default() }
    }

    /// Makes a vault at `location`, a directory that is missing or empty, or a prefix of a bucket.
    ///
    /// The key is durable before the vault exists. Once written it stays: that a vault could not be made is never known for sure.
    ///
    /// `single_writer`: at most one run at a time is to write to it; then its store need not honour create-if-absent.
    pub fn init(
        &self,
        location: &Location,
        key_file: Option<&Path>,
        block_size_bytes: Option<u32>,
        single_writer: bool,
    ) -> Result<NewVault> {
        let mut options = InitOptions { single_writer, ..InitOptions::new() };
        if let Some(size) = block_size_bytes {
            check_block_size(size)?;
            options.block_size_bytes = size;
        }
        if let Some(path) = key_file
            && path.symlink_metadata().is_ok()
        {
            return Err(Error::already_exists(format!(
                "key file {} already exists; a new vault makes a new key: name a file that does not exist",
                path.display()
            )));
        }
        // Refuse what is visibly wrong before anything is made.
        let made_directory = match location {
            Location::Directory(path) => check_directory(path)?,
            Location::S3 { .. } => false,
        };
        let objects = BlobStore::open(location, OpenOptions { create: true, ..self.options() })?;
        let undo_directory = || {
            if let (true, Location::Directory(path)) = (made_directory, location) {
                // Only ever empty directories.
                let _ = fs::remove_dir(path.join(TEMP_DIR));
                let _ = fs::remove_dir(path);
            }
        };
        // What is there already, or cannot be asked, costs no key.
        match Vault::identify(&objects) {
            Err(StoreError::NotAVault { .. }) => {}
            Ok(_) => {
                return Err(
                    StoreError::AlreadyExists { what: format!("a vault at {}", objects.location()) }.into()
                );
            }
            Err(error) => {
                undo_directory();
                return Err(error.into());
            }
        }
        // Before there is a key, and anything that one would believe in.
        if !single_writer && let Err(error) = objects.check_exclusive() {
            undo_directory();
            return Err(error.into());
        }
        let (key, key_path) = match make_key(options.vault, key_file) {
            Ok(saved) => saved,
            Err(error) => {
                undo_directory();
                return Err(error.into());
            }
        };
        match Vault::init(objects, &key, options) {
            Ok(vault) => Ok(NewVault { vault, key_path, key_in_ring: key_file.is_none() }),
            Err(error) => Err(key_stays(error.into(), &key_path)),
        }
    }

    /// Opens a location without a key: enough to tell which vault is there.
    pub fn open_objects(&self, location: &Location) -> Result<BlobStore> {
        Ok(BlobStore::open(location, self.options())?)
    }

    /// Opens a vault with the key in `key_file`, or the one the user's keyring has for it.
    pub fn open(&self, location: &Location, key_file: Option<&Path>) -> Result<Vault> {
        let objects = Vault::open_place(location, self.options())?;
        let key = find_key(&objects, key_file)?;
        let vault = Vault::open(objects, &key)?;
        if let Some(directory) = &self.cache {
            vault.keep_index_in(directory);
        }
        Ok(vault)
    }

    /// The key of a vault, after making sure that it opens it.
    pub fn export_key(&self, location: &Location, key_file: Option<&Path>) -> Result<KeyFile> {
        let objects = self.open_objects(location)?;
        let key = find_key(&objects, key_file)?;
        Vault::open(objects, &key)?;
        Ok(key)
    }
}

/// A new key, durable in `key_file` or in the user's keyring, and the file that it is in.
fn make_key(vault: VaultId, key_file: Option<&Path>) -> Result<(KeyFile, PathBuf), StoreError> {
    let key = KeyFile::generate(vault)?;
    let path = match key_file {
        Some(path) => key.save_new(path).map(|()| path.to_owned()),
        None => Keyring::of_user().and_then(|ring| ring.save(&key)),
    };
    Ok((key, path?))
}

/// Why a vault could not be made, and where its key is.
fn key_stays(error: Error, key_path: &Path) -> Error {
    // Also one that says that another was faster may have been this one, whose answer was lost.
    let kept = format!(
        "; a vault may have been made all the same: its key stays in {}, delete it if there is no such vault",
        key_path.display()
    );
    Error::new(error.kind, format!("{error}{kept}")).caused_by(error)
}

/// Whether a directory is to be made. One with other things in it is no place for a vault.
fn check_directory(path: &Path) -> Result<bool> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Error::invalid(format!(
                "{} is not a directory; give a directory that is empty or does not exist",
                path.display()
            )));
        }
        Err(e) => return Err(Error::io(format!("reading directory {}", path.display()), e)),
    };
    let mut stranger = None;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(format!("reading directory {}", path.display()), e))?;
        let name = entry.file_name();
        // There is a vault: making one says so better.
        if ["vault.json", "vault.copy.json"].iter().any(|header| name == *header) {
            return Ok(false);
        }
        // What a fresh file system and an attempt that was cut short have.
        if name != "lost+found" && name != TEMP_DIR {
            stranger = Some(name);
        }
    }
    match stranger {
        Some(name) => Err(Error::already_exists(format!(
            "{} is not empty (it has {}); give a directory that is empty or does not exist",
            path.display(),
            name.display()
        ))),
        None => Ok(false),
    }
}

/// Opens a vault as [`Stores::open`] does, reached in no other way than the environment says.
pub fn open(location: &Location, key_file: Option<&Path>) -> Result<Vault> {
    Stores::default().open(location, key_file)
}

fn find_key(objects: &BlobStore, key_file: Option<&Path>) -> Result<KeyFile> {
    match key_file {
        Some(path) => Ok(KeyFile::load(path)?),
        None => Ok(Keyring::of_user()?.load(Vault::identify(objects)?)?),
    }
}

/// Reads a key from text and keeps it in the user's keyring. The same key again is fine.
pub fn import_key(text: &str) -> Result<(KeyFile, PathBuf)> {
    let key = KeyFile::parse(text)?;
    let path = Keyring::of_user()?.save(&key).map_err(|error| match error {
        StoreError::AlreadyExists { what } => Error::already_exists(format!(
            "{what} already exists and holds another key of vault {}; nothing was changed. Move that file away first, \
             or use this key with --key-file",
            key.vault
        )),
        other => other.into(),
    })?;
    Ok((key, path))
}

/// Where what can be found out again is kept between runs: `$XDG_CACHE_HOME/strongroom`, or below `$HOME/.cache`.
pub fn cache_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative one would be somewhere else each time.
    let base = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("strongroom"))
}

/// Refuses for a vault that says of itself that its points are not to go before their time. Whoever has its key and may write to
/// its store is above that, and says that it is meant.
pub fn refuse_immutable(vault: &Vault, is_meant: bool) -> Result<()> {
    if is_meant || !says_immutable(vault)? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Denied,
        format!(
            "vault {} is immutable: its points stay until they expire. With `--although-immutable` it is done all the same",
            vault.location()
        ),
    ))
}

/// Whether a vault says of itself that its points are not to go before their time (`docs/vault-format.md`, section 8). One that says
/// it in words that cannot be read does.
fn says_immutable(vault: &Vault) -> Result<bool> {
    match vault.read_note("settings") {
        Ok(None) => Ok(false),
        Ok(Some(serde_json::Value::Object(settings))) => {
            Ok(settings.get("immutability").is_some_and(|state| state != "disabled"))
        }
        Ok(Some(_)) => Ok(true),
        Err(error) if error.is_damage() => Ok(true),
        Err(error) => Err(error.into()),
    }
}
