//! Large objects are written and read past the page cache.
//!
//! A pack is written once and seldom read soon: through the page cache it would cost more CPU time than its compression,
//! and push out what the machines on this host have cached. Reads that the cache can answer are answered by it.
//! Where the file system can't, all goes the usual way.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::ReadWriteFlags;

use super::limits::{DIRECT_MIN_BYTES, DIRECT_PIECE_BYTES, DIRECT_READ_MIN_BYTES};

/// Memory, offset and length of direct writes are multiples of this; no disk asks for more.
const ALIGNMENT: usize = 4096;

thread_local! {
    /// Kept, because fresh memory costs as much as the copying into it.
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes the parts, one after the other, to a new and empty file.
pub(super) fn write_parts(file: &mut File, parts: &[Bytes]) -> io::Result<()> {
    let total: usize = parts.iter().map(Bytes::len).sum();
    let mut done = 0;
    if total >= DIRECT_MIN_BYTES && set_direct(file, true) {
        let aligned = total / ALIGNMENT * ALIGNMENT;
        done = write_aligned(file, parts, aligned)?;
        set_direct(file, false);
        io::Seek::seek(file, io::SeekFrom::Start(done as u64))?;
    }
    let mut skip = done;
    for part in parts {
        let from = skip.min(part.len());
        skip -= from;
        file.write_all(&part[from..])?;
    }
    Ok(())
}

/// False if the file system doesn't have it.
fn set_direct(file: &File, on: bool) -> bool {
    let Ok(mut flags) = fcntl_getfl(file) else {
        return false;
    };
    flags.set(OFlags::DIRECT, on);
    fcntl_setfl(file, flags).is_ok()
}

/// Writes the first `length` bytes; returns how many, fewer if the file system turns out not to take them this way.
fn write_aligned(file: &File, parts: &[Bytes], length: usize) -> io::Result<usize> {
    PIECE.with_borrow_mut(|buffer| {
        buffer.resize(DIRECT_PIECE_BYTES + ALIGNMENT, 0);
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        let Some(piece) = buffer.get_mut(start..start + DIRECT_PIECE_BYTES) else {
            return Ok(0);
        };
        let mut source = parts.iter().flat_map(|part| part.chunks(DIRECT_PIECE_BYTES));
        let mut rest: &[u8] = &[];
        let mut done = 0;
        while done < length {
            let wanted = DIRECT_PIECE_BYTES.min(length - done);
            let mut filled = 0;
            while filled < wanted {
                if rest.is_empty() {
                    match source.next() {
                        Some(next) => rest = next,
                        None => return Ok(done),
                    }
                }
                let n = rest.len().min(wanted - filled);
                piece[filled..filled + n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                filled += n;
            }
            match file.write_all_at(&piece[..wanted], done as u64) {
                Ok(()) => done += wanted,
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    })
}

/// Reads a range that lies within the file; `None` if it is better or only to be had the usual way.
///
/// The file's flags are changed: nobody else may use it meanwhile.
pub(super) fn read_range(file: &File, range: &Range<u64>) -> io::Result<Option<Bytes>> {
    let Ok(length) = usize::try_from(range.end - range.start) else { return Ok(None) };
    if length < DIRECT_READ_MIN_BYTES {
        return Ok(None);
    }
    // Whole blocks around the range, at an aligned place in memory.
    let before = (range.start % ALIGNMENT as u64) as usize;
    let wanted = (before + length).next_multiple_of(ALIGNMENT);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(wanted + ALIGNMENT)?;
    buffer.resize(wanted + ALIGNMENT, 0);
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let Some(blocks) = buffer.get_mut(start..start + wanted) else { return Ok(None) };
    let first = range.start - before as u64;

    let nowait = ReadWriteFlags::NOWAIT;
    let cached = rustix::io::preadv2(file, &mut [IoSliceMut::new(blocks)], first, nowait).unwrap_or(0);
    if cached < before + length {
        if !set_direct(file, true) {
            return Ok(None);
        }
        let read = read_blocks(file, blocks, first, before + length);
        set_direct(file, false);
        if !read? {
            return Ok(None);
        }
    }
    let from = start + before;
    Ok(Some(Bytes::from(buffer).slice(from..from + length)))
}

/// Reads blocks until at least `needed` bytes are there. False if the file system doesn't take it, or the file ends.
fn read_blocks(file: &File, blocks: &mut [u8], offset: u64, needed: usize) -> io::Result<bool> {
    let mut done = 0;
    while done < needed {
        // A short answer that is no whole number of blocks is the file's end.
        if done % ALIGNMENT != 0 {
            return Ok(false);
        }
        match file.read_at(&mut blocks[done..], offset + done as u64) {
            Ok(0) => return Ok(false),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_every_cut_arrives_whole() {
        let bytes: Vec<u8> =
            (0..3 * DIRECT_PIECE_BYTES + 9999).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        let bytes = Bytes::from(bytes);
        let piece = DIRECT_PIECE_BYTES;
        // On a disk and, where direct writing may not be had, in memory.
        for dir in ["/var/tmp", "/dev/shm"] {
            let Ok(dir) = tempfile::tempdir_in(dir) else { continue };
            for length in
                [0, 1, 4096, DIRECT_MIN_BYTES - 1, DIRECT_MIN_BYTES, DIRECT_MIN_BYTES + 1, piece, piece + 1]
                    .into_iter()
                    .chain([2 * piece - 1, 2 * piece + 4096, 3 * piece + 4095, bytes.len()])
            {
                for part in [length.max(1), 1_000_003, 70_001] {
                    let whole = bytes.slice(..length);
                    let parts: Vec<Bytes> =
                        (0..length).step_by(part).map(|at| whole.slice(at..length.min(at + part))).collect();
                    let path = dir.path().join("x");
                    let mut file = File::create(&path).unwrap();
                    write_parts(&mut file, &parts).unwrap();
                    assert!(std::fs::read(&path).unwrap() == whole, "{length} bytes in parts of {part}");
                }
            }
        }
    }

    #[test]
    fn ranges_are_read_alike_cached_or_not() {
        let bytes: Vec<u8> = (0..9_000_001).map(|i: u32| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        for dir in ["/var/tmp", "/dev/shm"] {
            let Ok(dir) = tempfile::tempdir_in(dir) else { continue };
            let path = dir.path().join("x");
            let mut file = File::create(&path).unwrap();
            write_parts(&mut file, &[Bytes::from(bytes.clone())]).unwrap();
            file.sync_all().unwrap();
            let end = bytes.len() as u64;
            let least = DIRECT_READ_MIN_BYTES as u64;
            let file = File::open(&path).unwrap();
            let mut answered = 0;
            for range in
                [0..end, 0..least, 1..least + 1, 4095..end - 1, 8192..8192 + least, end - least..end, 0..9]
            {
                for cached in [false, true] {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    if cached {
                        std::fs::read(&path).unwrap();
                    }
                    if let Some(read) = read_range(&file, &range).unwrap() {
                        assert!(read == bytes[range.start as usize..range.end as usize], "{range:?}");
                        answered += 1;
                    }
                }
            }
            assert!(answered >= 6, "the cache at least has answers");
            // Cut short under the reader.
            File::options().write(true).open(&path).unwrap().set_len(end - 5000).unwrap();
            assert!(read_range(&file, &(0..end)).unwrap().is_none());
        }
    }
}
