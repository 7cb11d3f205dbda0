//! Vaults in stores that do not honour create-if-absent: at most one run writes at a time, by what such a store can do.
//!
//! The vault's header says so, from its making on, so that a program that does not know of it refuses the vault; and a note, which
//! brings it back into a header that an earlier program wrote. A run that is to write puts its lease there first and then looks at
//! all others: where another one that writes is not over, it takes its own back and writes nothing. Of two that begin at once each
//! sees the other, so that at most one goes on. What is created is looked up first, under the lease. Readers are not in the way.

use crate::error::{Result, StoreError};
use crate::header::SINGLE_WRITER;
use crate::limits::NOTE_MAX_BYTES;
use crate::note::NOTES_PREFIX;
use crate::objects::{Kind, ObjectError, Questions};
use crate::probe::{Exclusive, Probe};
use crate::vault::Vault;
use serde_json::json;
use std::sync::mpsc;

const NOTE: &str = "single-writer";

/// These, and what says so beside the header.
pub(crate) fn question(questions: Questions) -> Questions {
    questions.get(format!("{NOTES_PREFIX}{NOTE}"), NOTE_MAX_BYTES)
}

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

    /// What [`is_single_writer`](Self::is_single_writer) asks, if it is not known.
    pub(crate) fn single_writer_question(&self, questions: Questions) -> Questions {
        match self.header().requires(SINGLE_WRITER) || self.single_writer().get().is_some() {
            true => questions,
            false => question(questions),
        }
    }

    /// Where the note says so, the header is to say so too.
    pub(crate) fn require_single_writer(&self) -> Result<()> {
        if self.is_single_writer()? {
            self.require(SINGLE_WRITER);
        }
        Ok(())
    }

    /// Begins to find out what [`check_exclusive`](Self::check_exclusive) says, while a session begins; one that has something to
    /// write waits for the answer before, and any before it commits.
    pub fn check_exclusive_meanwhile(&self) {
        let (sender, verdict) = mpsc::sync_channel(1);
        let vault = self.clone();
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || {
            let tell = |outcome: &std::result::Result<(), ObjectError>| {
                let _ = sender.send(vault.judge_exclusive(outcome.clone()));
            };
            // What it was is told by then, and what is left is warned of.
            let _ = vault.objects().check_exclusive_telling(tell);
        });
        let mut probe = self.probe().lock();
        *probe = match thread {
            Ok(thread) => Probe { exclusive: Exclusive::Checking(verdict), thread: Some(thread) },
            Err(_) => Probe { exclusive: Exclusive::Checked(self.check_exclusive()), thread: None },
        };
    }

    /// Waits for what was begun to be found out, and fails as [`check_exclusive`](Self::check_exclusive) does.
    pub fn settle_exclusive(&self) -> Result<()> {
        let failed = |why: String| StoreError::io("probing the store", std::io::Error::other(why));
        let mut probe = self.probe().lock();
        probe.exclusive = match std::mem::take(&mut probe.exclusive) {
            Exclusive::Checking(verdict) => Exclusive::Checked(
                verdict.recv().unwrap_or_else(|_| Err(failed("the thread panicked".into()))),
            ),
            known => known,
        };
        match &probe.exclusive {
            Exclusive::Checked(Err(StoreError::Object(error))) => Err(error.clone().into()),
            Exclusive::Checked(Err(error)) => Err(failed(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Waits until nothing is left of what the store was probed with.
    pub fn end_probe(&self) {
        let thread = self.probe().lock().thread.take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Fails where points cannot safely be written: its store replaces what it is to create, and it is not for a single writer.
    pub fn check_exclusive(&self) -> Result<()> {
        self.judge_exclusive(self.objects().check_exclusive())
    }

    fn judge_exclusive(&self, outcome: std::result::Result<(), ObjectError>) -> Result<()> {
        match outcome {
            Err(e) if e.kind == Kind::NotExclusive && self.is_single_writer()? => Ok(()),
            done => Ok(done?),
        }
    }
}
