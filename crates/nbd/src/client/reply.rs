//! Takes in the reply to one request: reads payloads straight to where they belong, and believes
//! nothing it has not checked. An `Err` from here means the connection can no longer be used.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use crate::error::{Errno, Error, Result};
use crate::limits::*;
use crate::wire::{self, Fields, ReplyHeader, chunk, cmd};

/// One piece of a block-status answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Where it begins in the export, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes; never 0.
    pub length_bytes: u64,
    /// The context's bits, for `base:allocation` [`wire::STATE_HOLE`] and [`wire::STATE_ZERO`].
    pub flags: u32,
}

impl StatusExtent {
    /// The first byte after it.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.length_bytes
    }
}

/// Where the answer goes.
#[doc(hidden)]
pub enum Sink<'a> {
    /// The data of a read.
    Data(&'a mut [u8]),
    /// Only whether it worked.
    Nothing,
    /// Extents for each of the contexts with these numbers, in their order.
    Status { ids: &'a [u32], extents: Vec<Option<Vec<StatusExtent>>> },
}

/// The server's refusal of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(hidden)]
pub struct Refusal {
    pub errno: Errno,
    pub message: String,
}

/// One request's answer in the making.
#[doc(hidden)]
pub struct Reply<'a> {
    pub sink: Sink<'a>,
    command: u16,
    offset_bytes: u64,
    length_bytes: u64,
    structured: bool,
    io_timeout: Duration,
    arrived: Coverage,
    refusal: Option<Refusal>,
    error_chunks: usize,
}

impl<'a> Reply<'a> {
    pub fn new(
        command: u16,
        offset_bytes: u64,
        length_bytes: u64,
        structured: bool,
        io_timeout: Duration,
        sink: Sink<'a>,
    ) -> Reply<'a> {
        Reply {
            sink,
            command,
            offset_bytes,
            length_bytes,
            structured,
            io_timeout,
            arrived: Coverage::default(),
            refusal: None,
            error_chunks: 0,
        }
    }

    /// Time within which the whole reply must have come, once it has begun.
    pub fn must_arrive_within(&self) -> Duration {
        let payload_bytes = match &self.sink {
            Sink::Data(buf) => buf.len() as u64,
            Sink::Nothing => 0,
            Sink::Status { ids, .. } => (ids.len() * MAX_STATUS_EXTENTS * 8) as u64,
        };
        self.io_timeout + Duration::from_secs(payload_bytes / MIN_PAYLOAD_BYTES_PER_SECOND)
    }

    /// Takes in what follows `header`. True once the reply is complete.
    pub fn take(&mut self, header: ReplyHeader, from: &mut impl Read) -> Result<bool> {
        match header {
            ReplyHeader::Simple { error: 0, .. } => {
                match &mut self.sink {
                    Sink::Nothing => {}
                    Sink::Data(buf) if !self.structured => {
                        let timeout = self.io_timeout;
                        from.read_exact(buf).map_err(|e| Error::socket("reading data", timeout, e))?;
                        self.arrived.add(0, self.length_bytes)?;
                    }
                    Sink::Data(_) => {
                        return Err(Error::malformed(
                            "simple reply to a read after structured ones were agreed",
                        ));
                    }
                    Sink::Status { .. } => {
                        return Err(Error::malformed("simple reply to a block status request"));
                    }
                }
                Ok(true)
            }
            ReplyHeader::Simple { error, .. } => {
                // Strictly only before structured replies are agreed, but its meaning is plain.
                self.refuse(error, String::new())?;
                Ok(true)
            }
            ReplyHeader::Chunk { flags, kind, length_bytes, .. } => {
                self.take_chunk(flags, kind, length_bytes, from)
            }
        }
    }

    fn take_chunk(&mut self, flags: u16, kind: u16, length: u32, from: &mut impl Read) -> Result<bool> {
        let done = flags & chunk::FLAG_DONE != 0;
        if flags & !chunk::FLAG_DONE != 0 {
            return Err(Error::malformed(format!("reply chunk with unknown flags {flags:#06x}")));
        }
        match kind {
            chunk::NONE if length == 0 && done => {}
            chunk::NONE => return Err(Error::malformed("an empty reply chunk that is not the last")),
            chunk::OFFSET_DATA => {
                let head = self.read_array::<8>(from, length, 9, u32::MAX)?;
                self.place(u64::from_be_bytes(head), u64::from(length - 8), Some(from))?;
            }
            chunk::OFFSET_HOLE => {
                let body = self.read_array::<12>(from, length, 12, 12)?;
                let mut fields = Fields::new("hole", &body);
                let (offset, hole) = (fields.u64()?, fields.u32()?);
                self.place::<std::io::Empty>(offset, u64::from(hole), None)?;
            }
            chunk::BLOCK_STATUS => self.take_status(length, from)?,
            kind if kind & chunk::ERROR_BIT != 0 => self.take_error(kind, length, from)?,
            kind => return Err(Error::malformed(format!("reply chunk of unknown kind {kind}"))),
        }
        Ok(done)
    }

    /// Checks where a piece of a read belongs and puts it there: data from `from`, else zeroes.
    fn place<R: Read>(&mut self, offset: u64, length: u64, from: Option<&mut R>) -> Result<()> {
        let Sink::Data(buf) = &mut self.sink else {
            return Err(Error::malformed(format!("data in the reply to a {}", cmd::name(self.command))));
        };
        let range = offset
            .checked_sub(self.offset_bytes)
            .and_then(|start| Some((start, start.checked_add(length)?)))
            .filter(|(_, end)| length > 0 && *end <= self.length_bytes);
        let Some((start, end)) = range else {
            return Err(Error::malformed(format!(
                "data at {offset}+{length} in the reply to a read of {}+{}",
                self.offset_bytes, self.length_bytes
            )));
        };
        self.arrived.add(start, end)?;
        let target = &mut buf[start as usize..end as usize];
        match from {
            Some(from) => {
                from.read_exact(target).map_err(|error| Error::socket("reading data", self.io_timeout, error))
            }
            None => {
                target.fill(0);
                Ok(())
            }
        }
    }

    fn take_status(&mut self, length: u32, from: &mut impl Read) -> Result<()> {
        let (command, timeout) = (self.command, self.io_timeout);
        let Sink::Status { ids, extents } = &mut self.sink else {
            return Err(Error::malformed(format!("block status in the reply to a {}", cmd::name(command))));
        };
        let count = (length as usize).saturating_sub(4) / 8;
        if length < 12 || !(length - 4).is_multiple_of(8) || count > MAX_STATUS_EXTENTS {
            return Err(Error::malformed(format!("block status of {length} bytes")));
        }
        let mut read = |buf: &mut [u8]| {
            from.read_exact(buf).map_err(|e| Error::socket("reading block status", timeout, e))
        };
        let mut id = [0; 4];
        read(&mut id)?;
        let id = u32::from_be_bytes(id);
        let index = ids
            .iter()
            .position(|known| *known == id)
            .ok_or_else(|| Error::malformed(format!("block status for unknown context number {id}")))?;
        if extents[index].is_some() {
            return Err(Error::malformed("two block status chunks for one context"));
        }
        let end = self.offset_bytes + self.length_bytes;
        let mut found = Vec::new();
        let mut at = self.offset_bytes;
        let mut left = count;
        let mut piece = [0; 8 * 512];
        while left > 0 {
            let now = left.min(512);
            // Memory grows with what has really arrived.
            read(&mut piece[..now * 8])?;
            let mut fields = Fields::new("block status", &piece[..now * 8]);
            for _ in 0..now {
                let (length, flags) = (u64::from(fields.u32()?), fields.u32()?);
                if length == 0 || at >= end {
                    return Err(Error::malformed("block status with an empty or needless extent"));
                }
                // Only the last may reach beyond what was asked for.
                let inside = length.min(end - at);
                found.push(StatusExtent { offset_bytes: at, length_bytes: inside, flags });
                at += inside;
            }
            left -= now;
        }
        extents[index] = Some(found);
        Ok(())
    }

    fn take_error(&mut self, kind: u16, length: u32, from: &mut impl Read) -> Result<()> {
        // Room for the number, the length of the text, the text, and an offset.
        if length < 6 || length as usize > 6 + MAX_STRING_BYTES + 8 {
            return Err(Error::malformed(format!("error chunk of {length} bytes")));
        }
        let mut body = vec![0; length as usize];
        from.read_exact(&mut body)
            .map_err(|error| Error::socket("reading an error", self.io_timeout, error))?;
        let mut fields = Fields::new("error chunk", &body);
        let (errno, words) = (fields.u32()?, fields.u16()?);
        let message = wire::words(fields.bytes(usize::from(words))?);
        match kind {
            chunk::ERROR => fields.end()?,
            chunk::ERROR_OFFSET => {
                let offset = fields.u64()?;
                fields.end()?;
                let end = self.offset_bytes + self.length_bytes;
                if !(self.offset_bytes..=end).contains(&offset) {
                    return Err(Error::malformed(format!("error at offset {offset}, outside the request")));
                }
            }
            _ => {} // an error of a later kind: number and text come first by the protocol
        }
        self.refuse(errno, message)
    }

    fn refuse(&mut self, errno: u32, message: String) -> Result<()> {
        self.error_chunks += 1;
        if errno == 0 || self.error_chunks > MAX_ERROR_CHUNKS {
            return Err(Error::malformed("an error chunk without error, or too many of them"));
        }
        // The first is the cause, later ones are its consequences.
        self.refusal.get_or_insert(Refusal { errno: Errno(errno), message });
        Ok(())
    }

    /// After the last chunk: whether everything asked for has come.
    pub fn finish(&mut self) -> Result<Result<(), Refusal>> {
        if let Some(refusal) = self.refusal.take() {
            return Ok(Err(refusal));
        }
        match &self.sink {
            Sink::Nothing => {}
            Sink::Data(_) if self.arrived.is_exactly(self.length_bytes) => {}
            Sink::Data(_) => return Err(Error::malformed("a read was answered with gaps")),
            Sink::Status { extents, .. } => {
                if extents.iter().any(Option::is_none) {
                    return Err(Error::malformed("block status lacks an agreed context"));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Reads the front of a chunk whose whole length must be within bounds.
    fn read_array<const N: usize>(
        &self,
        from: &mut impl Read,
        length: u32,
        least: u32,
        most: u32,
    ) -> Result<[u8; N]> {
        if !(least..=most).contains(&length) {
            return Err(Error::malformed(format!("reply chunk of {length} bytes")));
        }
        let mut buf = [0; N];
        from.read_exact(&mut buf)
            .map_err(|error| Error::socket("reading a reply", self.io_timeout, error))?;
        Ok(buf)
    }
}

/// Which parts of a read have arrived: disjoint ranges, neighbours joined.
#[derive(Debug, Default)]
struct Coverage {
    ranges: BTreeMap<u64, u64>,
}

impl Coverage {
    fn add(&mut self, mut start: u64, mut end: u64) -> Result<()> {
        if start == end {
            return Ok(());
        }
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back() {
            if before_end > start {
                return Err(Error::malformed("a read was answered twice in part"));
            }
            if before_end == start {
                start = before;
                self.ranges.remove(&before);
            }
        }
        if let Some((&after, &after_end)) = self.ranges.range(start..).next() {
            if after < end {
                return Err(Error::malformed("a read was answered twice in part"));
            }
            if after == end {
                end = after_end;
                self.ranges.remove(&after);
            }
        }
        self.ranges.insert(start, end);
        if self.ranges.len() > MAX_READ_GAPS {
            return Err(Error::malformed("a read was answered in too many scattered pieces"));
        }
        Ok(())
    }

    fn is_exactly(&self, length: u64) -> bool {
        match self.ranges.len() {
            0 => length == 0,
            1 => self.ranges.get(&0) == Some(&length),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coverage_agrees_with_a_bitmap(pieces in prop::collection::vec((0u64..40, 1u64..10), 1..30)) {
            let mut coverage = Coverage::default();
            let mut bits = [false; 64];
            for (start, length) in pieces {
                let range = start as usize..(start + length) as usize;
                let overlaps = bits[range.clone()].iter().any(|bit| *bit);
                prop_assert_eq!(coverage.add(start, start + length).is_err(), overlaps);
                if overlaps {
                    break;
                }
                bits[range].fill(true);
                let ones = bits.iter().filter(|bit| **bit).count() as u64;
                let prefix = bits.iter().take_while(|bit| **bit).count() as u64;
                prop_assert_eq!(coverage.is_exactly(ones), ones == prefix);
            }
        }
    }

    /// A context's number, and extents as length and flags.
    type Chunk<'a> = (u32, &'a [(u32, u32)]);

    /// Feeds block-status chunks to the reply to 100 bytes at 1000 in
    /// contexts 1 and 7; the last is marked as such.
    fn status(chunks: &[Chunk]) -> Result<Vec<Vec<StatusExtent>>> {
        let ids = [1, 7];
        let sink = Sink::Status { ids: &ids, extents: vec![None; 2] };
        let mut reply = Reply::new(cmd::BLOCK_STATUS, 1000, 100, true, Duration::from_secs(1), sink);
        for (number, (id, extents)) in chunks.iter().enumerate() {
            let mut body = id.to_be_bytes().to_vec();
            for (length, flags) in *extents {
                body.extend(length.to_be_bytes());
                body.extend(flags.to_be_bytes());
            }
            let flags = u16::from(number + 1 == chunks.len());
            let length_bytes = body.len() as u32;
            let header = ReplyHeader::Chunk { flags, kind: chunk::BLOCK_STATUS, cookie: 1, length_bytes };
            assert_eq!(reply.take(header, &mut &body[..])?, flags == 1);
        }
        reply.finish()?.expect("no refusal was sent");
        match reply.sink {
            Sink::Status { extents, .. } => Ok(extents.into_iter().flatten().collect()),
            _ => unreachable!("made above"),
        }
    }

    #[test]
    fn block_status_is_believed_only_when_sound() {
        let sound = status(&[(7, &[(60, 1), (1000, 2)]), (1, &[(50, 3)])]).unwrap();
        let extent = |offset_bytes, length_bytes, flags| StatusExtent { offset_bytes, length_bytes, flags };
        assert_eq!(sound, [vec![extent(1000, 50, 3)], vec![extent(1000, 60, 1), extent(1060, 40, 2)]]);
        let unsound: &[(&str, &[Chunk])] = &[
            ("one context twice", &[(1, &[(100, 0)]), (1, &[(100, 1)]), (7, &[(100, 0)])]),
            ("a context missing", &[(1, &[(100, 0)])]),
            ("an unknown context", &[(1, &[(100, 0)]), (2, &[(100, 0)]), (7, &[(100, 0)])]),
            ("no extents", &[(1, &[]), (7, &[(100, 0)])]),
            ("an empty extent", &[(1, &[(0, 0), (100, 0)]), (7, &[(100, 0)])]),
            ("an extent too many", &[(1, &[(100, 0), (1, 1)]), (7, &[(100, 0)])]),
        ];
        for (what, chunks) in unsound {
            assert!(matches!(status(chunks), Err(Error::Malformed(_))), "{what}");
        }
    }
}
