//! A file on its way into a container, in parts.
//!
//! Nothing of a file is visible before [`Upload::finish`]; parts of one that is not finished are taken away by
//! [`Container::discard`], also after a crash, by the id that [`Upload::id`] had. What is sent is held in memory only
//! while it is on its way, within a fixed bound; holes are sent without being held at all.

use super::container::Container;
use super::error::{ObjectError, classify};
use super::kind::{Kind, Op};
use super::limits::{
    PART_BUFFER_BYTES, PART_MAX_BYTES, PART_MIN_BYTES, PARTS_AT_ONCE, PARTS_END_PATIENCE, PARTS_MAX,
    STOP_LOOK_INTERVAL,
};
use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::PartId;
use object_store::path::Path;
use std::collections::VecDeque;
use std::sync::{LazyLock, mpsc};
use std::time::Instant;

type Result<T> = std::result::Result<T, ObjectError>;
type StoreResult<T> = std::result::Result<T, object_store::Error>;

impl Container {
    /// Begins an object of exactly this size.
    pub fn upload(&self, name: &str, size_bytes: u64) -> Result<Upload> {
        let path = self.path(Op::Put, name)?;
        let part_bytes = size_bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20).max(PART_MIN_BYTES);
        if part_bytes > PART_MAX_BYTES {
            let most = PART_MAX_BYTES * PARTS_MAX;
            let why =
                format!("{size_bytes} bytes are more than the {most} that a container takes in one object");
            return Err(ObjectError::new(
                Kind::TooLarge,
                Op::Put,
                &self.name(name),
                &self.remote.location,
                why,
            ));
        }
        let id = self.patiently(|| {
            let (store, path) = (self.store.clone(), path.clone());
            let made = self.remote.attempt(async move { store.create_multipart(&path).await });
            made.map_err(|e| self.error(Op::Put, name, e))
        })?;
        Ok(Upload {
            container: self.clone(),
            name: name.to_owned(),
            path,
            id,
            size_bytes,
            part_bytes,
            at_once: ((PART_BUFFER_BYTES / part_bytes) as usize).clamp(1, PARTS_AT_ONCE),
            taken_bytes: 0,
            sent_bytes: 0,
            filling: Vec::new(),
            filling_bytes: 0,
            under_way: VecDeque::new(),
            parts: Vec::new(),
        })
    }
}

/// Zeroes that are sent again and again.
static ZEROES: LazyLock<Bytes> = LazyLock::new(|| vec![0; 1 << 20].into());

/// A part on its way.
struct Sending {
    index: usize,
    length_bytes: u64,
    payload: PutPayload,
    began: Instant,
    attempt: u32,
    answer: mpsc::Receiver<StoreResult<PartId>>,
}

/// An object being sent, from its beginning to its end.
pub struct Upload {
    container: Container,
    name: String,
    path: Path,
    id: String,
    size_bytes: u64,
    part_bytes: u64,
    at_once: usize,
    /// Given to us.
    taken_bytes: u64,
    /// Taken by the server.
    sent_bytes: u64,
    filling: Vec<Bytes>,
    filling_bytes: u64,
    under_way: VecDeque<Sending>,
    parts: Vec<Option<PartId>>,
}

impl Upload {
    /// What [`Container::discard`] wants.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As it was given to [`Container::upload`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much of it the server has.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The next bytes. Waits while too many are on their way.
    pub fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let room = (self.part_bytes - self.filling_bytes).min(bytes.len() as u64);
            self.filling.push(bytes.split_to(room as usize));
            self.filling_bytes += room;
            self.taken_bytes += room;
            if self.filling_bytes == self.part_bytes {
                self.send_part()?;
            }
        }
        Ok(())
    }

    /// The next bytes, which are zeroes.
    pub fn write_zeroes(&mut self, length_bytes: u64) -> Result<()> {
        let mut left = length_bytes;
        while left > 0 {
            let now = left.min(ZEROES.len() as u64);
            self.write(ZEROES.slice(..now as usize))?;
            left -= now;
        }
        Ok(())
    }

    fn send_part(&mut self) -> Result<()> {
        while self.under_way.len() >= self.at_once {
            self.wait_for_one()?;
        }
        let payload = PutPayload::from_iter(self.filling.drain(..));
        let length_bytes = std::mem::take(&mut self.filling_bytes);
        let index = self.parts.len();
        self.parts.push(None);
        let answer = self.begin(index, payload.clone());
        self.under_way.push_back(Sending {
            index,
            length_bytes,
            payload,
            began: Instant::now(),
            attempt: 0,
            answer,
        });
        Ok(())
    }

    fn begin(&self, index: usize, payload: PutPayload) -> mpsc::Receiver<StoreResult<PartId>> {
        let (store, path, id) = (self.container.store.clone(), self.path.clone(), self.id.clone());
        self.container.remote.executor.begin(async move { store.put_part(&path, &id, index, payload).await })
    }

    /// Waits for the oldest part on its way, sending it again if need be.
    fn wait_for_one(&mut self) -> Result<()> {
        let Some(mut part) = self.under_way.pop_front() else { return Ok(()) };
        loop {
            let error = match part.answer.recv_timeout(STOP_LOOK_INTERVAL) {
                Ok(Ok(id)) => {
                    self.parts[part.index] = Some(id);
                    self.sent_bytes += part.length_bytes;
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(mpsc::RecvTimeoutError::Timeout) if !(self.container.stop)() => continue,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // Still on its way: whoever takes it back waits for it.
                    self.under_way.push_front(part);
                    return Err(self.container.error(Op::Put, &self.name, generic("it was told to stop")));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => generic("the task that sent a part died"),
            };
            let passes = classify(&error) == Kind::Transient;
            if !passes || !self.container.may_try_again(part.began, part.attempt) {
                return Err(self.container.error(Op::Put, &self.name, error));
            }
            tracing::debug!(name = self.name, part = part.index, %error, "sending a part again");
            part.attempt += 1;
            part.answer = self.begin(part.index, part.payload.clone());
        }
    }

    /// Returns when all was taken by the server. The object is not visible yet.
    pub fn flush(&mut self) -> Result<()> {
        if self.taken_bytes != self.size_bytes {
            let why = format!("{} of its {} bytes were written", self.taken_bytes, self.size_bytes);
            return Err(self.container.error(Op::Put, &self.name, generic(&why)));
        }
        // An empty object has one part, too.
        if self.filling_bytes > 0 || self.parts.is_empty() {
            self.send_part()?;
        }
        while !self.under_way.is_empty() {
            self.wait_for_one()?;
        }
        Ok(())
    }

    /// The object is there from now on, with all its bytes.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let parts: Option<Vec<PartId>> = self.parts.iter().cloned().collect();
        let parts = parts
            .ok_or_else(|| self.container.error(Op::Put, &self.name, generic("a part of it was not sent")))?;
        let mut again = false;
        self.container.patiently(|| {
            let (store, path, id) = (self.container.store.clone(), self.path.clone(), self.id.clone());
            let parts = parts.clone();
            let done = self
                .container
                .remote
                .attempt(async move { store.complete_multipart(&path, &id, parts).await });
            let error = match done {
                Ok(_) => return Ok(()),
                Err(error) => self.container.error(Op::Put, &self.name, error),
            };
            // The attempt before may have done it unseen.
            if std::mem::replace(&mut again, true)
                && error.kind != Kind::Transient
                && self.container.size_bytes(&self.name)? == Some(self.size_bytes)
            {
                return Ok(());
            }
            Err(error)
        })?;
        let there = self.container.size_bytes(&self.name)?;
        if there != Some(self.size_bytes) {
            let there = there.map_or("it is not there".to_owned(), |size| format!("it has {size} bytes"));
            let why = format!("after {} bytes were sent {there}", self.size_bytes);
            return Err(self.container.error(Op::Put, &self.name, generic(&why)));
        }
        Ok(())
    }
}

impl Drop for Upload {
    /// Parts that are on their way come to an end first: one that arrives after it was all taken away would be left.
    fn drop(&mut self) {
        let until = Instant::now() + PARTS_END_PATIENCE;
        for part in self.under_way.drain(..) {
            let _ = part.answer.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

fn generic(why: &str) -> object_store::Error {
    object_store::Error::Generic { store: "container", source: why.to_owned().into() }
}
