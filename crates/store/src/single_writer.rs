//! Vaults in stores that do not honour create-if-absent: at most one run writes at a time, by what such a store can do.
//!
//! The vault's header says so, from its making on, so that a program that does not know of it refuses the vault; and a note, which
//! brings it back into a header that an earlier program wrote. A run that is to write puts its lease there first and then looks at
//! all others: where another one that writes is not over, it takes its own back and writes nothing. Of two that begin at once each
//! sees the other, so that at most one goes on. What is created is looked up first, under the lease. Readers are not in the way.

use crate::error::Result;
use crate::header::SINGLE_WRITER;
use crate::vault::Vault;
use serde_json::json;

const NOTE: &str = "single-writer";

impl Vault {
    pub(crate) fn note_single_writer(&self) -> Result<()> {
        self.write_note(NOTE, &json!({ "since": self.environment().now().to_string() }))
    }

    /// Whether at most one run at a time may write to it.
    pub fn is_single_writer(&self) -> Result<bool> {
        if self.header().requires(SINGLE_WRITER) {
            // The header may have come to say so since it was first read.
            self.objects().look_before_creating();
            return Ok(true);
        }
        if let Some(known) = self.single_writer().get() {
            return Ok(*known);
        }
        let is_one = self.read_note(NOTE)?.is_some();
        if is_one {
            self.objects().look_before_creating();
        }
        Ok(*self.single_writer().get_or_init(|| is_one))
    }

    /// Where the note says so, the header is to say so too.
    pub(crate) fn require_single_writer(&self) -> Result<()> {
        if self.is_single_writer()? {
            self.require(SINGLE_WRITER);
        }
        Ok(())
    }

    /// Fails where points cannot safely be written: its store replaces what it is to create, and it is not for a single writer.
    pub fn check_exclusive(&self) -> Result<()> {
        match self.objects().check_exclusive() {
            Err(e) if e.kind == crate::objects::Kind::NotExclusive && self.is_single_writer()? => Ok(()),
            done => Ok(done?),
        }
    }
}
