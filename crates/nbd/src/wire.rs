//! Numbers and layouts of the NBD protocol, and the parsing of byte slices. No I/O policy here:
//! everything takes bytes, or any reader, and promises only that what it returns is well formed.
#![allow(missing_docs)] // the names are the protocol's own

use std::io::{self, IoSlice, Read, Write};

use crate::error::{Error, Result};
use crate::limits::MAX_STRING_BYTES;

pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OLD_STYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the same bits both ways.
pub mod handshake {
    pub const FIXED_NEWSTYLE: u16 = 1;
    pub const NO_ZEROES: u16 = 2;
}

/// Options of the negotiation.
pub mod opt {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub mod rep {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR | 1;
    pub const ERR_POLICY: u32 = ERROR | 2;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags of an export.
pub mod tflag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Commands.
pub mod cmd {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;

    /// The command's name for messages.
    pub fn name(command: u16) -> &'static str {
        match command {
            READ => "read",
            WRITE => "write",
            DISC => "disconnect",
            FLUSH => "flush",
            TRIM => "trim",
            WRITE_ZEROES => "write zeroes",
            BLOCK_STATUS => "block status",
            _ => "unknown command",
        }
    }
}

/// Flags of commands.
pub mod cflag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies.
pub mod chunk {
    pub const FLAG_DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT | 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// The context every server knows, and its bits.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// In `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1;
/// In `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 2;

/// Takes fields off the front of a message whose whole length is known.
pub struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes, what }
    }

    fn short(&self) -> Error {
        Error::malformed(format!("{} ends too early", self.what))
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A string of `count` bytes, at most the protocol's limit.
    pub fn string(&mut self, count: usize) -> Result<String> {
        if count > MAX_STRING_BYTES {
            return Err(Error::malformed(format!("{}: a string of {count} bytes", self.what)));
        }
        let bytes = self.bytes(count)?;
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::malformed(format!("{}: a string that is not UTF-8", self.what)))
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::malformed(format!("{} has {} bytes too many", self.what, self.rest.len())))
        }
    }
}

/// The server's words in an error, made safe to print.
pub fn words(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(MAX_STRING_BYTES)];
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

/// One request as it stands on the wire, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset_bytes: u64,
    pub length_bytes: u32,
}

/// Length of a request on the wire, in bytes.
pub const REQUEST_BYTES: usize = 28;

impl Request {
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        out[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset_bytes.to_be_bytes());
        out[24..28].copy_from_slice(&self.length_bytes.to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Request> {
        let mut fields = Fields::new("request", bytes);
        let magic = fields.u32()?;
        if magic != REQUEST_MAGIC {
            return Err(Error::malformed(format!("request with magic {magic:#010x}")));
        }
        Ok(Request {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset_bytes: fields.u64()?,
            length_bytes: fields.u32()?,
        })
    }
}

/// The header of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    Simple { error: u32, cookie: u64 },
    Chunk { flags: u16, kind: u16, cookie: u64, length_bytes: u32 },
}

impl ReplyHeader {
    pub fn cookie(&self) -> u64 {
        match *self {
            ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. } => cookie,
        }
    }

    /// Reads one header; `Err` inside is a malformed one, outside a failed read.
    pub fn read(from: &mut impl Read, structured: bool) -> io::Result<Result<ReplyHeader>> {
        let mut head = [0; 16];
        from.read_exact(&mut head)?;
        let mut fields = Fields::new("reply", &head);
        let (Ok(magic), Ok(upper), Ok(cookie)) = (fields.u32(), fields.u32(), fields.u64()) else {
            return Ok(Err(Error::malformed("reply ends too early")));
        };
        match magic {
            SIMPLE_REPLY_MAGIC => Ok(Ok(ReplyHeader::Simple { error: upper, cookie })),
            CHUNK_MAGIC if structured => {
                let mut length = [0; 4];
                from.read_exact(&mut length)?;
                let (flags, kind) = ((upper >> 16) as u16, upper as u16);
                let length_bytes = u32::from_be_bytes(length);
                Ok(Ok(ReplyHeader::Chunk { flags, kind, cookie, length_bytes }))
            }
            CHUNK_MAGIC => Ok(Err(Error::malformed("structured reply, which was not agreed"))),
            _ => Ok(Err(Error::malformed(format!("reply with magic {magic:#010x}")))),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20);
        match *self {
            ReplyHeader::Simple { error, cookie } => {
                out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
                out.extend(error.to_be_bytes());
                out.extend(cookie.to_be_bytes());
            }
            ReplyHeader::Chunk { flags, kind, cookie, length_bytes } => {
                out.extend(CHUNK_MAGIC.to_be_bytes());
                out.extend(flags.to_be_bytes());
                out.extend(kind.to_be_bytes());
                out.extend(cookie.to_be_bytes());
                out.extend(length_bytes.to_be_bytes());
            }
        }
        out
    }
}

/// One option request: header and payload.
pub fn encode_option(option: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + payload.len());
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

/// One reply to an option: header and payload.
pub fn encode_option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + payload.len());
    out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

/// The payload of GO and INFO.
pub fn encode_go(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, name);
    out.extend((infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| out.extend(info.to_be_bytes()));
    out
}

/// Reads the payload of GO and INFO: the name and the kinds of information asked for.
pub fn parse_go(payload: &[u8]) -> Result<(String, Vec<u16>)> {
    let mut fields = Fields::new("GO option", payload);
    let length = fields.u32()? as usize;
    let name = fields.string(length)?;
    let count = fields.u16()? as usize;
    // Allocation follows the bytes that are really there, not the count.
    let infos = (0..count).map(|_| fields.u16()).collect::<Result<Vec<_>>>()?;
    fields.end()?;
    Ok((name, infos))
}

/// The payload of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn encode_meta_context(name: &str, queries: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, name);
    out.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| put_string(&mut out, query));
    out
}

/// Reads the payload of LIST_META_CONTEXT and SET_META_CONTEXT: the export and the queries.
pub fn parse_meta_context(payload: &[u8]) -> Result<(String, Vec<String>)> {
    let mut fields = Fields::new("META_CONTEXT option", payload);
    let length = fields.u32()? as usize;
    let name = fields.string(length)?;
    let count = fields.u32()? as usize;
    if count > fields.remaining() / 4 {
        return Err(Error::malformed(format!("META_CONTEXT option with {count} queries")));
    }
    let mut queries = Vec::new();
    for _ in 0..count {
        let length = fields.u32()? as usize;
        queries.push(fields.string(length)?);
    }
    fields.end()?;
    Ok((name, queries))
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u32).to_be_bytes());
    out.extend(string.as_bytes());
}

/// Writes header and payload with as few system calls as the socket allows, without joining them.
pub fn write_both(to: &mut impl Write, head: &[u8], body: &[u8]) -> io::Result<()> {
    let total = head.len() + body.len();
    let mut done = 0;
    while done < total {
        let written = if done < head.len() {
            to.write_vectored(&[IoSlice::new(&head[done..]), IoSlice::new(body)])
        } else {
            to.write(&body[done - head.len()..])
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
