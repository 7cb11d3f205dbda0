//! Entry points for fuzzers: each feeds arbitrary bytes to one of the places where this crate
//! listens to a peer. They promise to return: no panic, no memory out of proportion to the input.
//! The same functions run in the ordinary test suite over a corpus and its mutations.

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Handshake, Reply, Sink};
use crate::server::{Export, ExportTable, Extent, ExtentKind, Negotiation, Session};
use crate::wire::{ReplyHeader, cmd};
use crate::{ConnectOptions, NbdUri, ServerLimits};

/// A peer that has said everything already, and whose ears are closed.
struct Scripted<'a> {
    says: Cursor<&'a [u8]>,
}

impl<'a> Scripted<'a> {
    fn new(says: &'a [u8]) -> Self {
        Scripted { says: Cursor::new(says) }
    }
}

impl Read for Scripted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.says.read(buf)
    }
}

impl Write for Scripted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// 64 KiB: data, zeroes, holes in turn of 4 KiB. Writable, but forgets.
struct Sample;

const SAMPLE_BYTES: u64 = 64 * 1024;

impl Export for Sample {
    fn size_bytes(&self) -> u64 {
        SAMPLE_BYTES
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()> {
        assert!(offset_bytes + buf.len() as u64 <= SAMPLE_BYTES);
        buf.fill(0x5a);
        Ok(())
    }

    fn extents(&self, offset_bytes: u64, _length_bytes: u64) -> io::Result<Vec<Extent>> {
        let kind = match offset_bytes / 4096 % 3 {
            0 => ExtentKind::Data,
            1 => ExtentKind::Zero,
            _ => ExtentKind::Hole,
        };
        Ok(vec![Extent { offset_bytes, length_bytes: 4096 - offset_bytes % 4096, kind }])
    }

    fn read_only(&self) -> bool {
        false
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        assert!(offset_bytes + data.len() as u64 <= SAMPLE_BYTES);
        Ok(())
    }

    fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_punch: bool) -> io::Result<()> {
        assert!(offset_bytes + length_bytes <= SAMPLE_BYTES);
        Ok(())
    }

    fn trim(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        assert!(offset_bytes + length_bytes <= SAMPLE_BYTES);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A server's words to a client that negotiates, chosen by the first byte.
pub fn client_negotiation(data: &[u8]) {
    let Some((&way, says)) = data.split_first() else { return };
    let timeout = ConnectOptions::default().negotiation_timeout;
    let Ok(mut handshake) = Handshake::begin(Scripted::new(says), timeout) else { return };
    let contexts = ["base:allocation".to_owned(), "qemu:dirty-bitmap:b".to_owned()];
    match way % 4 {
        0 => drop(handshake.go("disk", &contexts)),
        1 => drop(handshake.go("", &[])),
        2 => drop(handshake.list()),
        _ => drop(handshake.list_contexts("disk", &contexts)),
    }
}

/// A server's replies to one request, chosen by the first byte. A read that ends well has been
/// filled to the last byte.
pub fn client_replies(data: &[u8]) {
    let Some((&way, says)) = data.split_first() else { return };
    let structured = way & 0x80 == 0;
    let mut from = Cursor::new(says);
    let mut buf = vec![0xee; 16 * 1024];
    let ids = [1, 7];
    let (command, length, sink) = match way % 3 {
        0 => (cmd::READ, buf.len() as u64, Sink::Data(&mut buf)),
        1 => (cmd::BLOCK_STATUS, 1 << 30, Sink::Status { ids: &ids, extents: vec![None; 2] }),
        _ => (cmd::FLUSH, 0, Sink::Nothing),
    };
    let mut reply = Reply::new(command, 4096, length, structured, Duration::from_secs(1), sink);
    loop {
        let Ok(Ok(header)) = ReplyHeader::read(&mut from, structured) else { return };
        match reply.take(header, &mut from) {
            Ok(true) => break,
            Ok(false) => {}
            Err(_) => return,
        }
    }
    if let (Ok(Ok(())), Sink::Status { extents, .. }) = (reply.finish(), &reply.sink) {
        for list in extents {
            let list = list.as_ref().expect("every context was answered");
            let mut at = 4096;
            for extent in list {
                assert_eq!(extent.offset_bytes, at);
                assert!(extent.length_bytes > 0);
                at = extent.end_bytes();
            }
            assert!(!list.is_empty() && at <= 4096 + length);
        }
    }
}

fn table() -> ExportTable {
    let mut table = ExportTable::default();
    for name in ["disk", "other"] {
        table.add(name, Arc::new(Sample)).expect("two different names");
    }
    table.set_default("disk").expect("just added");
    table
}

/// A client's words to a server, from its first one on, through negotiation into requests.
/// Returns what the server answered.
pub fn server_conversation(says: &[u8]) -> Vec<u8> {
    let (table, limits) = (table(), ServerLimits::default());
    let mut peer = Recorded { says: Cursor::new(says), heard: Vec::new() };
    let Ok(Some(accepted)) = Negotiation::new(&mut peer, &table, &limits).run() else {
        return peer.heard;
    };
    let place = peer.says.position() as usize;
    let session = Session::new(accepted, peer.heard, &limits);
    let mut rest = Cursor::new(&says[place..]);
    // Either way of ending is fine.
    let _ = session.run_inline(&mut rest);
    session.into_inner()
}

struct Recorded<'a> {
    says: Cursor<&'a [u8]>,
    heard: Vec<u8>,
}

impl Read for Recorded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.says.read(buf)
    }
}

impl Write for Recorded<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.heard.extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An NBD URI. What is understood can be written and understood again.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(uri) = text.parse::<NbdUri>() {
        let again: NbdUri = uri.to_string().parse().expect("our own words");
        assert_eq!(uri, again);
    }
}
