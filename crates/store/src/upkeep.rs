//! Makes vaults, brings them up to this version, and puts right what says what they are.

use crate::error::{Result, StoreError};
use crate::header::{HEADER_COPY_NAME, HEADER_NAME, Header, SINGLE_WRITER};
use crate::keys::KeyProvider;
use crate::limits::{HEADER_MAX_BYTES, RECORD_MAX_BYTES};
use crate::objects::{self, BlobStore, Kind, ObjectError, OpenOptions, Questions};
use crate::roll::{self, Roll};
use crate::vault::{InitOptions, Vault};
use crate::{lists, marker, single_writer};

impl Vault {
    /// Makes a vault. The commit is `vault.json`, created if absent: of two at once, one wins. Cut short after that, the
    /// first opening for writing does the rest.
    pub fn init(objects: BlobStore, provider: &dyn KeyProvider, options: InitOptions) -> Result<Self> {
        let exists = |location: &str| StoreError::AlreadyExists { what: format!("a vault at {location}") };
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            if objects.head(name)?.is_some() {
                return Err(exists(objects.location()));
            }
        }
        let now = options.environment.now();
        let (mut header, keys) = Header::create(options.vault, now, options.block_size_bytes, provider)?;
        if options.single_writer {
            header.require(SINGLE_WRITER);
            objects.look_before_creating();
        }
        match objects.put_new(HEADER_NAME, header.to_bytes()?) {
            Err(e) if e.kind == Kind::AlreadyExists => return Err(exists(objects.location())),
            other => other?,
        }
        let vault = Self::assemble(objects.plain(), header, keys, options.environment);
        vault.write_version_2(&Roll { generation: 1, confirmed: true, ..Roll::default() })?;
        if options.single_writer {
            vault.note_single_writer()?;
        }
        Ok(vault)
    }

    /// Fails when the location no longer has this vault: its file system is not mounted, say. Whoever writes asks first, or it
    /// would write into whatever is there instead.
    pub(crate) fn check_there(&self) -> Result<()> {
        if self.version() > 1 {
            return marker::check(self);
        }
        // Read by somebody who never writes, and so never upgraded.
        let missing = |name| matches!(self.objects().head(name), Ok(None));
        match missing(HEADER_NAME) && missing(HEADER_COPY_NAME) {
            true => Err(marker::vault_is_gone(self)),
            false => Ok(()),
        }
    }

    /// What everybody does first who is about to write or delete: makes sure that the location is this vault's, and
    /// brings a vault of an earlier version up to this one.
    pub(crate) fn begin_writing(&self) -> Result<()> {
        if !self.header().is_current() {
            self.upgrade()?;
        }
        marker::check(self)
    }

    /// Makes a vault of version 1 one of version 2; one of version 2 gets the names that it does not require yet. Cut short
    /// anywhere, it is done again: the header comes last. What the vault has is taken from a listing, so the roll is not
    /// confirmed, and nothing is freed by it.
    fn upgrade(&self) -> Result<()> {
        // Another process may have done it since this one opened the vault.
        let (header, _) = Header::load(self.objects())?;
        if header.id != self.id() {
            return Err(marker::vault_is_gone(self));
        }
        if header.version > 1 {
            let is_current = header.is_current();
            self.set_header(header);
            return if is_current { Ok(()) } else { self.write_upgraded_header() };
        }
        tracing::info!("the vault at {} becomes one of format version 2", self.location());
        let mut roll = roll::anew(self)?;
        if let roll::RollState::Known { roll: before, .. } = roll::load(self)? {
            roll.generation = before.generation + 1;
            roll.accounted = roll.accounted.max(before.accounted);
        }
        roll.points = self.survey(None)?.roll_points(self);
        self.write_version_2(&roll)
    }

    fn write_version_2(&self, roll: &Roll) -> Result<()> {
        marker::write(self)?;
        roll::put(self, roll)?;
        lists::begin(self, roll.accounted)?;
        self.write_upgraded_header()
    }

    fn write_upgraded_header(&self) -> Result<()> {
        marker::check(self)?;
        self.require_single_writer()?;
        let header = self.header().upgraded();
        for name in [HEADER_COPY_NAME, HEADER_NAME] {
            self.objects().put(name, header.to_bytes()?)?;
        }
        self.set_header(header);
        Ok(())
    }

    /// Opens the place of a vault, and asks at once what [`open`](Self::open) and [`identify`](Self::identify) will want to know.
    pub fn open_place(
        location: &objects::Location,
        options: OpenOptions,
    ) -> std::result::Result<BlobStore, ObjectError> {
        BlobStore::open_asking(location, options, Self::opening_questions())
    }

    /// The same of a store that is open already.
    pub fn ask_place(objects: &BlobStore) -> BlobStore {
        objects.asking(Self::opening_questions())
    }

    fn opening_questions() -> Questions {
        single_writer::question(Self::heal_questions())
    }

    /// What [`heal`](Self::heal) asks, as long as nothing is wrong.
    pub(crate) fn heal_questions() -> Questions {
        let questions =
            Questions::default().get(HEADER_NAME, HEADER_MAX_BYTES).get(HEADER_COPY_NAME, HEADER_MAX_BYTES);
        marker::MARKER_NAMES.into_iter().fold(questions, |all, name| all.get(name, RECORD_MAX_BYTES))
    }

    /// Whether [`heal`](Self::heal) would have nothing to do.
    pub(crate) fn is_whole(&self) -> bool {
        marker::MARKER_NAMES.into_iter().all(|name| matches!(marker::fault(self, name), Ok(None)))
            && [HEADER_NAME, HEADER_COPY_NAME].into_iter().all(|name| {
                Header::load_copy(self.objects(), name).is_ok_and(|header| header == self.header())
            })
    }

    /// Puts both copies of header and marker right, if one is missing or damaged, beside a right marker.
    pub(crate) fn heal(&self) -> Result<()> {
        marker::heal(self)?;
        self.require_single_writer()?;
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            let sound = match Header::load_copy(self.objects(), name) {
                // An earlier program, at work since before the upgrade, has put its own back: what it forgot has no
                // tombstones.
                Ok(header) if header.id == self.id() && header.version == 1 => {
                    self.set_header(header);
                    self.upgrade()?;
                    true
                }
                Ok(header) => header == self.header(),
                Err(StoreError::Object(e)) if e.kind != Kind::NotFound => return Err(e.into()),
                Err(e @ (StoreError::NewerFormat { .. } | StoreError::UnknownRequirement { .. })) => {
                    return Err(e);
                }
                Err(_) => false,
            };
            if !sound {
                tracing::warn!("{name} was missing or damaged; writing it anew");
                self.objects().put(name, self.header().to_bytes()?)?;
            }
        }
        Ok(())
    }

    /// Writes the marker anew, both copies: for somebody who made sure that this is the right location. It has this vault's
    /// header, or it would not be open.
    pub fn renew_marker(&self) -> Result<()> {
        let (header, _) = Header::load(self.objects())?;
        if header.id != self.id() {
            return Err(marker::vault_is_gone(self));
        }
        if header.version == 1 {
            return self.upgrade();
        }
        marker::write(self)
    }
}
