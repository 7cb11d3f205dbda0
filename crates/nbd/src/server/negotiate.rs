//! The server's side of the negotiation, over any stream. A client gets an export and perhaps a
//! metadata context, or is turned away; what it may send before that is bounded.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::export::Export;
use crate::error::{Error, Result};
use crate::limits::*;
use crate::wire::{self, BASE_ALLOCATION, Fields, handshake, info, opt, rep, tflag};

/// The number our one metadata context goes by.
pub(crate) const ALLOCATION_CONTEXT_ID: u32 = 1;

/// Named exports, and which of them the empty name means.
#[derive(Clone, Default)]
#[doc(hidden)]
pub struct ExportTable {
    exports: Vec<(String, Arc<dyn Export>)>,
    default: Option<usize>,
}

impl ExportTable {
    pub fn add(&mut self, name: &str, export: Arc<dyn Export>) -> Result<()> {
        if name.len() > MAX_STRING_BYTES {
            return Err(Error::Invalid(format!("an export name of {} bytes", name.len())));
        }
        if self.exports.iter().any(|(known, _)| known == name) {
            return Err(Error::Invalid(format!("two exports named {name:?}")));
        }
        if export.size_bytes() > i64::MAX as u64 {
            return Err(Error::Invalid(format!("export {name:?} is larger than NBD allows")));
        }
        self.exports.push((name.to_owned(), export));
        Ok(())
    }

    pub fn set_default(&mut self, name: &str) -> Result<()> {
        let place = self.exports.iter().position(|(known, _)| known == name);
        self.default = Some(place.ok_or_else(|| Error::NotFound {
            export: name.to_owned(),
            message: "it cannot be the default".into(),
        })?);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.exports.is_empty()
    }

    fn find(&self, name: &str) -> Option<&(String, Arc<dyn Export>)> {
        let named = self.exports.iter().find(|(known, _)| known == name);
        match (named, self.default) {
            (Some(found), _) => Some(found),
            (None, _) if !name.is_empty() => None,
            (None, Some(place)) => self.exports.get(place),
            (None, None) if self.exports.len() == 1 => self.exports.first(),
            (None, None) => None,
        }
    }
}

/// What a client has chosen.
#[doc(hidden)]
pub struct Accepted {
    pub name: String,
    pub export: Arc<dyn Export>,
    pub size_bytes: u64,
    pub read_only: bool,
    pub structured: bool,
    /// `base:allocation` is in use.
    pub allocation: bool,
}

#[doc(hidden)]
pub struct Negotiation<'a, S> {
    stream: S,
    exports: &'a ExportTable,
    max_request_bytes: u32,
    timeout: Duration,
    structured: bool,
    no_zeroes: bool,
    fixed: bool,
    /// The export for which `base:allocation` was chosen.
    allocation_for: Option<String>,
}

impl<'a, S: Read + Write> Negotiation<'a, S> {
    pub fn new(stream: S, exports: &'a ExportTable, limits: &ServerLimits) -> Self {
        Negotiation {
            stream,
            exports,
            max_request_bytes: limits.max_request_bytes,
            timeout: limits.negotiation_timeout,
            structured: false,
            no_zeroes: false,
            fixed: false,
            allocation_for: None,
        }
    }

    /// Talks until the client has chosen (`Some`) or has taken its leave (`None`).
    pub fn run(&mut self) -> Result<Option<Accepted>> {
        let mut greeting = Vec::new();
        greeting.extend(wire::NBD_MAGIC.to_be_bytes());
        greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
        greeting.extend((handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
        self.write(&greeting)?;
        let flags = u32::from_be_bytes(self.read_array()?);
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        if flags & !known != 0 {
            return Err(Error::malformed(format!("client flags {flags:#x}")));
        }
        self.fixed = flags & u32::from(handshake::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        for _ in 0..MAX_OPTIONS_PER_CLIENT {
            let head = self.read_array::<16>()?;
            let mut fields = Fields::new("option", &head);
            if fields.u64()? != wire::OPTION_MAGIC {
                return Err(Error::malformed("option without its magic"));
            }
            let (option, length) = (fields.u32()?, fields.u32()? as usize);
            if length > MAX_OPTION_BYTES {
                // Not worth reading: say why and hang up.
                self.refuse(option, rep::ERR_TOO_BIG, "option too long")?;
                return Err(Error::malformed(format!("option {option} of {length} bytes")));
            }
            let mut payload = vec![0; length];
            self.read(&mut payload)?;
            if !self.fixed && option != opt::EXPORT_NAME {
                return Err(Error::malformed(format!(
                    "option {option} from a client without fixed newstyle"
                )));
            }
            match option {
                opt::EXPORT_NAME => return self.export_name(payload).map(Some),
                opt::ABORT => {
                    self.reply(option, rep::ACK, &[])?;
                    return Ok(None);
                }
                opt::LIST => self.list(&payload)?,
                opt::STRUCTURED_REPLY if payload.is_empty() => {
                    self.structured = true;
                    self.reply(option, rep::ACK, &[])?;
                }
                opt::STRUCTURED_REPLY => self.refuse(option, rep::ERR_INVALID, "payload not expected")?,
                opt::INFO | opt::GO => {
                    if let Some(accepted) = self.info_or_go(option, &payload)? {
                        return Ok(Some(accepted));
                    }
                }
                opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, &payload)?,
                _ => self.refuse(option, rep::ERR_UNSUP, "unknown option")?,
            }
        }
        Err(Error::malformed("too many options"))
    }

    fn export_name(&mut self, payload: Vec<u8>) -> Result<Accepted> {
        // This option has no way to say no but hanging up.
        let name =
            String::from_utf8(payload).map_err(|_| Error::malformed("export name that is not UTF-8"))?;
        let Some(accepted) = self.accept(&name) else {
            return Err(Error::NotFound { export: name, message: String::new() });
        };
        let mut answer = Vec::new();
        answer.extend(accepted.size_bytes.to_be_bytes());
        answer.extend(self.flags(&accepted).to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; 124]);
        }
        self.write(&answer)?;
        Ok(accepted)
    }

    fn list(&mut self, payload: &[u8]) -> Result<()> {
        if !payload.is_empty() {
            return self.refuse(opt::LIST, rep::ERR_INVALID, "payload not expected");
        }
        for (name, export) in &self.exports.exports {
            let mut item = Vec::new();
            item.extend((name.len() as u32).to_be_bytes());
            item.extend(name.as_bytes());
            item.extend(shortened(&export.description()).as_bytes());
            let message = wire::encode_option_reply(opt::LIST, rep::SERVER, &item);
            self.stream.write_all(&message).map_err(|e| Error::socket("negotiating", self.timeout, e))?;
        }
        self.reply(opt::LIST, rep::ACK, &[])
    }

    fn info_or_go(&mut self, option: u32, payload: &[u8]) -> Result<Option<Accepted>> {
        let Ok((name, wanted)) = wire::parse_go(payload) else {
            self.refuse(option, rep::ERR_INVALID, "malformed request")?;
            return Ok(None);
        };
        let Some(accepted) = self.accept(&name) else {
            self.refuse(option, rep::ERR_UNKNOWN, "no such export")?;
            return Ok(None);
        };
        let mut answer = info::EXPORT.to_be_bytes().to_vec();
        answer.extend(accepted.size_bytes.to_be_bytes());
        answer.extend(self.flags(&accepted).to_be_bytes());
        self.reply(option, rep::INFO, &answer)?;
        if wanted.contains(&info::NAME) {
            self.text_info(option, info::NAME, &accepted.name)?;
        }
        let description = accepted.export.description();
        if wanted.contains(&info::DESCRIPTION) && !description.is_empty() {
            self.text_info(option, info::DESCRIPTION, shortened(&description))?;
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            let preferred = accepted.export.preferred_block_bytes();
            let preferred = preferred.clamp(512, self.max_request_bytes).next_power_of_two();
            let mut answer = info::BLOCK_SIZE.to_be_bytes().to_vec();
            for size in [1, preferred.min(self.max_request_bytes), self.max_request_bytes] {
                answer.extend(size.to_be_bytes());
            }
            self.reply(option, rep::INFO, &answer)?;
        }
        self.reply(option, rep::ACK, &[])?;
        Ok((option == opt::GO).then_some(accepted))
    }

    fn text_info(&mut self, option: u32, kind: u16, text: &str) -> Result<()> {
        let mut answer = kind.to_be_bytes().to_vec();
        answer.extend(text.as_bytes());
        self.reply(option, rep::INFO, &answer)
    }

    fn meta_context(&mut self, option: u32, payload: &[u8]) -> Result<()> {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            // A new choice, even a failed one, ends the old one.
            self.allocation_for = None;
        }
        if !self.structured {
            return self.refuse(option, rep::ERR_INVALID, "ask for structured replies first");
        }
        let Ok((name, queries)) = wire::parse_meta_context(payload) else {
            return self.refuse(option, rep::ERR_INVALID, "malformed request");
        };
        if self.exports.find(&name).is_none() {
            return self.refuse(option, rep::ERR_UNKNOWN, "no such export");
        }
        let hit = if set {
            queries.iter().any(|query| query == BASE_ALLOCATION)
        } else {
            queries.is_empty() || queries.iter().any(|query| query == BASE_ALLOCATION || query == "base:")
        };
        if hit {
            // The number in a list means nothing.
            let id = if set { ALLOCATION_CONTEXT_ID } else { 0 };
            let mut answer = id.to_be_bytes().to_vec();
            answer.extend(BASE_ALLOCATION.as_bytes());
            self.reply(option, rep::META_CONTEXT, &answer)?;
            if set {
                self.allocation_for = Some(name);
            }
        }
        self.reply(option, rep::ACK, &[])
    }

    fn accept(&self, name: &str) -> Option<Accepted> {
        let (real_name, export) = self.exports.find(name)?;
        Some(Accepted {
            name: real_name.clone(),
            size_bytes: export.size_bytes().min(i64::MAX as u64),
            read_only: export.read_only(),
            structured: self.structured,
            allocation: self.structured && self.allocation_for.as_deref() == Some(name),
            export: export.clone(),
        })
    }

    fn flags(&self, accepted: &Accepted) -> u16 {
        let mut flags = tflag::HAS_FLAGS | tflag::SEND_FLUSH;
        if accepted.read_only {
            flags |= tflag::READ_ONLY;
        } else {
            flags |= tflag::SEND_FUA | tflag::SEND_TRIM | tflag::SEND_WRITE_ZEROES;
        }
        if accepted.export.can_multi_conn() {
            flags |= tflag::CAN_MULTI_CONN;
        }
        if accepted.structured {
            flags |= tflag::SEND_DF;
        }
        flags
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) -> Result<()> {
        self.reply(option, kind, why.as_bytes())
    }

    fn reply(&mut self, option: u32, kind: u32, payload: &[u8]) -> Result<()> {
        self.write(&wire::encode_option_reply(option, kind, payload))
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

/// At most as much as the protocol allows, cut between characters.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
