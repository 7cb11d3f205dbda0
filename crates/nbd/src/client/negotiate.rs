//! The client's side of the negotiation, over any stream: what is asked for, and what of the
//! server's answers is believed.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits::*;
use crate::wire::{self, Fields, handshake, info, opt, rep, tflag};

/// What a server says about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportInfo {
    /// Size of the export, in bytes.
    pub size_bytes: u64,
    /// The transmission flags as sent, bits of [`crate::wire::tflag`].
    pub flags: u16,
    /// Requests must begin and end at multiples of this many bytes (reads by [`super::Client`] need not).
    pub min_block_bytes: u32,
    /// Requests of this size and alignment are fast, in bytes.
    pub preferred_block_bytes: u32,
    /// Largest read or write in one request, in bytes; larger ones are split.
    pub max_block_bytes: u32,
    /// The server's own name for the export, when it differs or is told.
    pub canonical_name: Option<String>,
    /// What the server says the export is.
    pub description: Option<String>,
}

impl ExportInfo {
    fn new(size_bytes: u64, flags: u16) -> Result<ExportInfo> {
        if size_bytes > i64::MAX as u64 {
            return Err(Error::malformed(format!("export of {size_bytes} bytes")));
        }
        Ok(ExportInfo {
            size_bytes,
            flags: if flags & tflag::HAS_FLAGS == 0 { 0 } else { flags },
            min_block_bytes: 1,
            preferred_block_bytes: 4096,
            max_block_bytes: DEFAULT_MAX_BLOCK_BYTES,
            canonical_name: None,
            description: None,
        })
    }

    /// The export cannot be written.
    pub fn is_read_only(&self) -> bool {
        self.flags & tflag::READ_ONLY != 0
    }

    /// Several connections see the same data.
    pub fn can_multi_conn(&self) -> bool {
        self.flags & tflag::CAN_MULTI_CONN != 0
    }

    /// Flushing means something.
    pub fn can_flush(&self) -> bool {
        self.flags & tflag::SEND_FLUSH != 0
    }

    /// Ranges can be discarded.
    pub fn can_trim(&self) -> bool {
        self.flags & tflag::SEND_TRIM != 0
    }

    /// Zeroes can be written without sending them.
    pub fn can_write_zeroes(&self) -> bool {
        self.flags & tflag::SEND_WRITE_ZEROES != 0
    }
}

/// The outcome of a negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(hidden)]
pub struct Negotiated {
    pub info: ExportInfo,
    pub structured: bool,
    /// Names and numbers of the contexts in use.
    pub contexts: Vec<(String, u32)>,
}

/// One name of a server's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// The export's name.
    pub name: String,
    /// The server's further words, may be empty.
    pub description: String,
}

/// The options' half of a conversation; generic so that parsers can be fed from memory.
#[doc(hidden)]
pub struct Handshake<S> {
    stream: S,
    timeout: Duration,
    fixed: bool,
    no_zeroes: bool,
}

struct OptionReply {
    kind: u32,
    payload: Vec<u8>,
}

impl<S: Read + Write> Handshake<S> {
    /// Exchanges greetings. `timeout` is only for messages: `stream` enforces it.
    pub fn begin(stream: S, timeout: Duration) -> Result<Handshake<S>> {
        let mut this = Handshake { stream, timeout, fixed: false, no_zeroes: false };
        let greeting = this.read_array::<16>()?;
        let mut fields = Fields::new("greeting", &greeting);
        if fields.u64()? != wire::NBD_MAGIC {
            return Err(Error::malformed("the greeting is not that of an NBD server"));
        }
        match fields.u64()? {
            wire::OPTION_MAGIC => {}
            wire::OLD_STYLE_MAGIC => {
                return Err(Error::Unsupported("NBD server speaks only the oldstyle protocol".into()));
            }
            _ => return Err(Error::malformed("the greeting is not that of an NBD server")),
        }
        let server = u16::from_be_bytes(this.read_array()?);
        this.fixed = server & handshake::FIXED_NEWSTYLE != 0;
        this.no_zeroes = server & handshake::NO_ZEROES != 0;
        let ours = server & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        this.write(&u32::from(ours).to_be_bytes())?;
        Ok(this)
    }

    /// Chooses an export, with structured replies and the contexts if the server has them.
    pub fn go(&mut self, name: &str, contexts: &[String]) -> Result<Negotiated> {
        check_name(name)?;
        if !self.fixed {
            let info = self.export_name(name)?;
            return Ok(Negotiated { info, structured: false, contexts: Vec::new() });
        }
        let structured = self.structured_replies()?;
        let contexts = if structured && !contexts.is_empty() {
            self.meta_contexts(opt::SET_META_CONTEXT, name, contexts)?
        } else {
            Vec::new()
        };
        let wanted = [info::BLOCK_SIZE, info::NAME, info::DESCRIPTION];
        self.send(opt::GO, &wire::encode_go(name, &wanted))?;
        let info = match self.infos(name, opt::GO) {
            Err(Error::Unsupported(_)) => self.export_name(name)?,
            other => other?,
        };
        Ok(Negotiated { info, structured, contexts })
    }

    /// Names all exports the server is willing to list.
    pub fn list(&mut self) -> Result<Vec<ListedExport>> {
        self.need_fixed("listing exports")?;
        self.send(opt::LIST, &[])?;
        let mut found = Vec::new();
        loop {
            let reply = self.reply(opt::LIST, "", "listing exports")?;
            match reply.kind {
                rep::ACK => return Ok(found),
                rep::SERVER if found.len() < MAX_OPTION_REPLIES => {
                    let mut fields = Fields::new("listed export", &reply.payload);
                    let length = fields.u32()? as usize;
                    let name = fields.string(length)?;
                    found.push(ListedExport { name, description: wire::words(fields.rest()) });
                }
                rep::SERVER => return Err(Error::malformed("an endless list of exports")),
                kind => return Err(unexpected(opt::LIST, kind)),
            }
        }
    }

    /// Names the metadata contexts an export has that match `queries` (none: all of them).
    pub fn list_contexts(&mut self, name: &str, queries: &[String]) -> Result<Vec<String>> {
        check_name(name)?;
        self.need_fixed("listing metadata contexts")?;
        if !self.structured_replies()? {
            return Err(Error::Unsupported("metadata contexts, by this NBD server".into()));
        }
        let found = self.meta_contexts(opt::LIST_META_CONTEXT, name, queries)?;
        Ok(found.into_iter().map(|(name, _)| name).collect())
    }

    /// Ends the conversation politely. The server's answer is not waited for.
    pub fn abort(mut self) {
        if self.fixed {
            // Whether it arrives does not matter: the connection is closed next.
            let _ = self.send(opt::ABORT, &[]);
        }
    }

    fn need_fixed(&self, what: &str) -> Result<()> {
        if self.fixed {
            return Ok(());
        }
        Err(Error::Unsupported(format!("{what}, by this NBD server (no fixed newstyle negotiation)")))
    }

    fn structured_replies(&mut self) -> Result<bool> {
        self.send(opt::STRUCTURED_REPLY, &[])?;
        match self.reply(opt::STRUCTURED_REPLY, "", "structured replies") {
            Ok(OptionReply { kind: rep::ACK, .. }) => Ok(true),
            Ok(reply) => Err(unexpected(opt::STRUCTURED_REPLY, reply.kind)),
            Err(Error::Unsupported(_) | Error::Denied { .. } | Error::Invalid(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn meta_contexts(&mut self, option: u32, name: &str, queries: &[String]) -> Result<Vec<(String, u32)>> {
        if queries.len() > MAX_CONTEXTS {
            return Err(Error::Invalid(format!("more than {MAX_CONTEXTS} metadata contexts")));
        }
        queries.iter().try_for_each(|query| check_name(query))?;
        let set = option == opt::SET_META_CONTEXT;
        self.send(option, &wire::encode_meta_context(name, queries))?;
        let mut found: Vec<(String, u32)> = Vec::new();
        let mut ids = HashSet::new();
        let limit = if set { MAX_CONTEXTS } else { MAX_OPTION_REPLIES };
        loop {
            let reply = match self.reply(option, name, "metadata contexts") {
                // An older server: the caller sees which contexts it got.
                Err(Error::Unsupported(_)) if set => return Ok(Vec::new()),
                other => other?,
            };
            match reply.kind {
                rep::ACK => return Ok(found),
                rep::META_CONTEXT => {
                    let mut fields = Fields::new("metadata context", &reply.payload);
                    let id = fields.u32()?;
                    let length = fields.remaining();
                    let context = fields.string(length)?;
                    if found.len() >= limit {
                        return Err(Error::malformed("an endless list of metadata contexts"));
                    }
                    if set && (!ids.insert(id) || found.iter().any(|(known, _)| *known == context)) {
                        return Err(Error::malformed(format!("metadata context {context:?} twice")));
                    }
                    found.push((context, id));
                }
                kind => return Err(unexpected(option, kind)),
            }
        }
    }

    /// Collects the answers to GO or INFO.
    fn infos(&mut self, name: &str, option: u32) -> Result<ExportInfo> {
        let mut export = None;
        let mut block_sizes = None;
        let (mut canonical_name, mut description) = (None, None);
        for _ in 0..MAX_OPTION_REPLIES {
            let reply = self.reply(option, name, "access to the export")?;
            match reply.kind {
                rep::ACK => {
                    let mut info: ExportInfo =
                        export.ok_or_else(|| Error::malformed("no size for the export"))?;
                    if let Some(sizes) = block_sizes {
                        set_block_sizes(&mut info, sizes)?;
                    }
                    info.canonical_name = canonical_name;
                    info.description = description;
                    return Ok(info);
                }
                rep::INFO => {
                    let mut fields = Fields::new("export information", &reply.payload);
                    match fields.u16()? {
                        info::EXPORT => {
                            export = Some(ExportInfo::new(fields.u64()?, fields.u16()?)?);
                            fields.end()?;
                        }
                        info::BLOCK_SIZE => {
                            block_sizes = Some((fields.u32()?, fields.u32()?, fields.u32()?));
                            fields.end()?;
                        }
                        info::NAME => canonical_name = Some(fields.string(fields.remaining())?),
                        info::DESCRIPTION => description = Some(wire::words(fields.rest())),
                        _ => {} // the protocol tells us to ignore what we do not know
                    }
                }
                kind => return Err(unexpected(option, kind)),
            }
        }
        Err(Error::malformed("endless information about the export"))
    }

    /// The oldest way to choose an export: the server answers with it, or hangs up.
    fn export_name(&mut self, name: &str) -> Result<ExportInfo> {
        self.send(opt::EXPORT_NAME, name.as_bytes())?;
        let answer = self.read_array::<10>().map_err(|error| match error {
            Error::Disconnected { .. } => Error::NotFound {
                export: name.to_owned(),
                message: "the server hung up when asked for it".into(),
            },
            other => other,
        })?;
        let mut fields = Fields::new("export", &answer);
        let info = ExportInfo::new(fields.u64()?, fields.u16()?)?;
        if !self.no_zeroes {
            self.read_array::<124>()?;
        }
        Ok(info)
    }

    /// Reads one reply; the server's errors become ours.
    fn reply(&mut self, option: u32, name: &str, what: &str) -> Result<OptionReply> {
        let head = self.read_array::<20>()?;
        let mut fields = Fields::new("option reply", &head);
        let magic = fields.u64()?;
        if magic != wire::OPTION_REPLY_MAGIC {
            return Err(Error::malformed(format!("option reply with magic {magic:#018x}")));
        }
        let (echo, kind, length) = (fields.u32()?, fields.u32()?, fields.u32()? as usize);
        if echo != option {
            return Err(Error::malformed(format!("reply to option {echo} instead of {option}")));
        }
        if length > MAX_OPTION_BYTES {
            return Err(Error::malformed(format!("option reply of {length} bytes")));
        }
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        if kind & rep::ERROR == 0 {
            if kind == rep::ACK && length != 0 {
                return Err(Error::malformed("acknowledgement with a payload"));
            }
            return Ok(OptionReply { kind, payload });
        }
        let message = wire::words(&payload);
        let what = what.to_owned();
        Err(match kind {
            rep::ERR_UNSUP => Error::Unsupported(format!("{what}, by this NBD server: {message}")),
            rep::ERR_UNKNOWN => Error::NotFound { export: name.to_owned(), message },
            rep::ERR_POLICY => Error::Denied { what, message },
            rep::ERR_TLS_REQD => Error::Unsupported("NBD server insists on TLS".into()),
            rep::ERR_PLATFORM => Error::Unsupported(format!("{what}, on the server's platform: {message}")),
            rep::ERR_SHUTDOWN => {
                Error::Disconnected { during: "negotiating", reason: "the server is shutting down".into() }
            }
            rep::ERR_INVALID | rep::ERR_TOO_BIG | rep::ERR_BLOCK_SIZE_REQD => {
                Error::Invalid(format!("NBD server rejects the request for {what}: {message}"))
            }
            other => Error::Unsupported(format!("{what}: NBD server's error {other:#x}: {message}")),
        })
    }

    fn send(&mut self, option: u32, payload: &[u8]) -> Result<()> {
        self.write(&wire::encode_option(option, payload))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|error| Error::socket("negotiating", self.timeout, error))
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<()> {
        self.stream.read_exact(buf).map_err(|error| Error::socket("negotiating", self.timeout, error))
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut buf = [0; N];
        self.read(&mut buf)?;
        Ok(buf)
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.len() > MAX_STRING_BYTES {
        return Err(Error::Invalid(format!("a name of {} bytes", name.len())));
    }
    Ok(())
}

fn unexpected(option: u32, kind: u32) -> Error {
    Error::malformed(format!("reply of kind {kind} to option {option}"))
}

fn set_block_sizes(info: &mut ExportInfo, (min, preferred, max): (u32, u32, u32)) -> Result<()> {
    let sound = min.is_power_of_two()
        && min <= 64 * 1024
        && preferred >= min
        && max >= min
        && (max == u32::MAX || max % min == 0);
    if !sound {
        return Err(Error::malformed(format!("block sizes {min}, {preferred}, {max}")));
    }
    info.min_block_bytes = min;
    info.preferred_block_bytes = preferred;
    info.max_block_bytes = max.min(CLIENT_MAX_BLOCK_BYTES);
    Ok(())
}
