//! What is remembered of changes and refusals: how long, where it goes then, and who else is told.
//!
//! Rows are written by the API for requests, and by the catalog for everything else
//! ([`strongroom_catalog::Recorded`]). They are kept in the catalog for so long and up to such a size; then the oldest are
//! appended to a file of their month in the data directory, as lines of JSON, and removed when they are on the disk there. Killed
//! in between, they are recognised in the file and not written twice. Files go too, in their time.
//!
//! Whoever follows, follows in the order of writing ([`page`]): a clock that is put back hides nothing.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::jobs::chore::{Chore, Rest};
use crate::limits::{
    AUDIT_BATCH_ROWS, AUDIT_FILE_MAX_BYTES, AUDIT_ROW_MAX_BYTES, RETENTION_INTERVAL, SYSLOG_INTERVAL,
    SYSLOG_SEND_TIMEOUT,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;
use strongroom_catalog::{AuditEntry, Change, Query, Setting, Table, differences};
use uuid::Uuid;

/// A part of the audit, in the order in which it was written.
#[derive(Debug)]
pub struct Page {
    /// In the order in which they were written; no more than were asked for.
    pub rows: Vec<AuditEntry>,
    /// What comes later comes after this row. None: there is no row yet.
    pub cursor: Option<Uuid>,
}

/// Rows after a cursor, the oldest first; without one the newest.
pub fn page(service: &Service, after: Option<Uuid>, most: u32) -> Result<Page> {
    let catalog = &service.catalog;
    let rows: Vec<AuditEntry> = match after {
        Some(cursor) => {
            if catalog.get::<AuditEntry>(cursor)?.is_none() {
                return Err(Error::not_found(format!(
                    "The audit has no row {cursor} any more: it has been moved to a file in {}. Begin anew, without it.",
                    service.data().audit().display()
                ))
                .coded("AuditCursorExpired"));
            }
            catalog.find(&Query::all().written_after(cursor).in_order_of_writing().limit(most))?
        }
        None => {
            let mut newest: Vec<AuditEntry> =
                catalog.find(&Query::all().last_written_first().limit(most.max(1)))?;
            let cursor = newest.first().map(|row| row.id);
            newest.truncate(most as usize);
            newest.reverse();
            return Ok(Page { rows: newest, cursor });
        }
    };
    let cursor = rows.last().map(|row| row.id).or(after);
    Ok(Page { rows, cursor })
}

/// The oldest row there is; where somebody begins whose cursor is no longer known.
pub fn oldest(service: &Service, most: u32) -> Result<Page> {
    let rows: Vec<AuditEntry> = service.catalog.find(&Query::all().in_order_of_writing().limit(most))?;
    let cursor = rows.last().map(|row| row.id);
    Ok(Page { rows, cursor })
}

/// Something that is no change of a row, and is to be remembered.
pub(crate) fn note(service: &Service, principal: &str, action: &str, scope: &str, detail: String) {
    let entry = AuditEntry { detail, ..AuditEntry::new(service.now(), principal, action, scope) };
    if let Err(error) = service.catalog.apply(&[Change::put(&entry)]) {
        tracing::error!(%error, action, "the audit could not be written");
    }
}

const CONFIGURATION: &str = "configuration";

/// Compares the configuration with the last start's, and remembers what of it is another. `now`: its parts, by name; no secrets.
pub fn configuration(service: &Service, now: Map<String, Value>) -> Result<()> {
    let mut setting = service.catalog.get::<Setting>(CONFIGURATION)?.unwrap_or_else(|| Setting {
        id: CONFIGURATION.into(),
        version: 0,
        value: Value::Null,
    });
    // An earlier release kept each part as a text, which is not comparable.
    let before = setting.value.as_object().filter(|parts| parts.values().any(|part| part.is_object()));
    let says = match before {
        Some(before) if *before == now => return Ok(()),
        Some(_) => format!("changed: {}", differences(&setting.value, &now.clone().into())),
        None => {
            let is_empty = |says: &Value| says.is_null() || says.as_array().is_some_and(Vec::is_empty);
            let said = now.iter().filter(|(_, says)| !is_empty(says));
            let said: Vec<String> = said.map(|(name, says)| format!("{name} = {says}")).collect();
            format!("first seen: {}", said.join("; "))
        }
    };
    setting.value = now.into();
    service.catalog.apply(&[Change::put(&setting)])?;
    let detail: String = says.chars().take(2000).collect();
    note(service, "service: start", "Strongroom.Backup/configuration/write", "/", detail);
    Ok(())
}

/// Keeps the audit within its bounds, and tells syslog.
#[derive(Default)]
pub(crate) struct KeepAudit {
    syslog: Option<Syslog>,
    kept: Option<Instant>,
}

impl Chore for KeepAudit {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        if let Some(socket) = &service.config.audit.syslog {
            self.syslog.get_or_insert_with(|| Syslog::new(socket.clone())).forward(service);
        }
        if self.kept.is_none_or(|at| at.elapsed() >= RETENTION_INTERVAL) {
            self.kept = Some(Instant::now());
            if let Err(error) = keep(service) {
                tracing::error!(%error, "the audit could not be kept within its bounds; it is tried again");
            }
        }
        Rest::For(if self.syslog.is_some() { SYSLOG_INTERVAL } else { RETENTION_INTERVAL })
    }

    fn last(&mut self, service: &Service) {
        if let Some(syslog) = &mut self.syslog {
            syslog.forward(service);
        }
    }
}

/// Moves what is too old or too much out of the catalog, and removes files whose time is over. Returns how many rows were
/// moved.
pub fn keep(service: &Service) -> Result<usize> {
    let config = &service.config.audit;
    let now = service.watch_clock().wall;
    // A clock that jumped makes nothing old.
    let is_time_known = service.guard.lock().may_expire();
    let mut moved = 0;
    if is_time_known {
        let before = now.saturating_sub(SignedDuration::from_hours(24 * i64::from(config.keep_days)))?;
        let old = || Query::all().less("at_us", before).in_order_of_writing();
        moved += move_while(service, |_| Ok(Some(old())))?;
    }
    let most = config.keep_megabytes.saturating_mul(1 << 20);
    // Looking at every row's size takes a while: not where it cannot matter.
    if service.catalog.count(Table::Audit, &Query::all())? > most / AUDIT_ROW_MAX_BYTES {
        // Some more than needed, so that it is not needed again at once.
        let enough = most - most / 10;
        let mut is_over = service.catalog.bytes(Table::Audit)? > most;
        moved += move_while(service, |freed| {
            is_over = is_over && (freed == 0 || service.catalog.bytes(Table::Audit)? > enough);
            Ok(is_over.then(|| Query::all().in_order_of_writing()))
        })?;
    }
    remove_files(service, now, is_time_known)?;
    Ok(moved)
}

/// Moves rows batch by batch, as long as `next` names some; it is told how many went so far.
fn move_while(service: &Service, mut next: impl FnMut(usize) -> Result<Option<Query>>) -> Result<usize> {
    let mut moved = 0;
    while let Some(query) = next(moved)? {
        if service.life.is_stopping() {
            break;
        }
        // The newest stays: what is written next comes after it, whatever else went.
        let newest = service.catalog.first::<AuditEntry>(Query::all().last_written_first())?;
        let mut rows: Vec<AuditEntry> = service.catalog.find(&query.limit(AUDIT_BATCH_ROWS))?;
        rows.retain(|row| newest.as_ref().is_none_or(|newest| newest.id != row.id));
        if rows.is_empty() {
            break;
        }
        write_out(&service.data().audit(), &rows)?;
        let changes: Vec<Change> = rows.iter().map(Change::delete).collect();
        service.catalog.apply(&changes)?;
        moved += rows.len();
    }
    if moved > 0 {
        tracing::info!(rows = moved, "rows of the audit were moved to files");
    }
    Ok(moved)
}

/// Appends rows to the files of their months, durably.
fn write_out(directory: &Path, rows: &[AuditEntry]) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| Error::io(format!("writing the audit to {path}"), e)
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
    let mut months: BTreeMap<(i16, i8), Vec<&AuditEntry>> = BTreeMap::new();
    for row in rows {
        let date = row.at.to_zoned(TimeZone::UTC).date();
        months.entry((date.year(), date.month())).or_default().push(row);
    }
    for (month, rows) in months {
        let path = file_of(directory, month).map_err(failed(directory))?;
        append(&path, &rows).map_err(failed(&path))?;
    }
    // Its new entries, and its own.
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed(directory))?;
    if let Some(parent) = directory.parent() {
        File::open(parent).and_then(|d| d.sync_all()).map_err(failed(parent))?;
    }
    Ok(())
}

/// An exported file: its month, its number in that month, its path and size.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ExportFile {
    month: (i16, i8),
    part: u32,
    path: PathBuf,
    bytes: u64,
}

/// `audit-2026-11.jsonl`, `audit-2026-11.2.jsonl`, …, the oldest first. Whatever else is there is not ours.
fn files(directory: &Path) -> io::Result<Vec<ExportFile>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let parsed = name.to_str().and_then(|name| {
            let middle = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
            let (month, part) =
                middle.split_once('.').map_or((middle, Some(1)), |(m, p)| (m, p.parse().ok()));
            let (year, month) = month.split_once('-')?;
            Some(((year.parse().ok()?, month.parse().ok()?), part?))
        });
        if let Some((month, part)) = parsed {
            found.push(ExportFile { month, part, path: entry.path(), bytes: entry.metadata()?.len() });
        }
    }
    found.sort();
    Ok(found)
}

/// Where a month's next rows go.
fn file_of(directory: &Path, (year, month): (i16, i8)) -> io::Result<PathBuf> {
    let last = files(directory)?.into_iter().rfind(|f| f.month == (year, month));
    let part = match last {
        Some(file) if file.bytes >= AUDIT_FILE_MAX_BYTES => file.part + 1,
        Some(file) => file.part,
        None => 1,
    };
    let number = if part > 1 { format!(".{part}") } else { String::new() };
    Ok(directory.join(format!("audit-{year:04}-{month:02}{number}.jsonl")))
}

/// Appends what the file's end does not have already.
fn append(path: &Path, rows: &[&AuditEntry]) -> io::Result<()> {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(u64::from(AUDIT_BATCH_ROWS) * AUDIT_ROW_MAX_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    // A line that a crash cut short is of rows that are still in the catalog.
    let whole = end.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let length = from + whole as u64;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    let there: HashSet<Uuid> = end[..whole]
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice::<AuditEntry>(line).ok())
        .map(|row| row.id)
        .collect();
    let mut text = Vec::new();
    for row in rows.iter().filter(|row| !there.contains(&row.id)) {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    file.sync_all()
}

fn remove_files(service: &Service, now: Timestamp, is_time_known: bool) -> Result<()> {
    let config = &service.config.audit;
    let directory = service.data().audit();
    let failed = |e| Error::io(format!("looking at {}", directory.display()), e);
    let files = files(&directory).map_err(failed)?;
    let today = now.to_zoned(TimeZone::UTC).date();
    let months = |(year, month): (i16, i8)| i64::from(year) * 12 + i64::from(month);
    let now = months((today.year(), today.month()));
    let mut total: u64 = files.iter().map(|f| f.bytes).sum();
    let most = config.files_keep_megabytes.saturating_mul(1 << 20);
    for (at, file) in files.iter().enumerate() {
        let is_old = is_time_known && now - months(file.month) > i64::from(config.files_keep_months);
        // What was exported last stays, however large.
        let is_too_much = total > most && at + 1 < files.len();
        if !is_old && !is_too_much {
            continue;
        }
        std::fs::remove_file(&file.path)
            .map_err(|e| Error::io(format!("removing {}", file.path.display()), e))?;
        total -= file.bytes;
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let why = if is_old { "its time is over" } else { "all files together are too large" };
        let detail = format!("removed {name}: {why}");
        note(service, "service: retention", "Strongroom.Backup/auditFiles/delete", "/", detail);
    }
    Ok(())
}

/// Tells the host's syslog every row, in the order of writing; goes on after the last one told, also after a restart.
struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The last row told. None: not looked up yet.
    cursor: Option<Option<Uuid>>,
    warned: Option<Instant>,
}

const SYSLOG: &str = "audit-syslog";

impl Syslog {
    fn new(path: PathBuf) -> Self {
        Self { path, socket: None, cursor: None, warned: None }
    }

    fn forward(&mut self, service: &Service) {
        if let Err(error) = self.try_forward(service) {
            self.socket = None;
            if self.warned.is_none_or(|at| at.elapsed() >= RETENTION_INTERVAL) {
                self.warned = Some(Instant::now());
                tracing::warn!(%error, socket = %self.path.display(), "syslog cannot be told of the audit; it will be");
            }
        }
    }

    fn try_forward(&mut self, service: &Service) -> Result<()> {
        let catalog = &service.catalog;
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => match catalog.get::<Setting>(SYSLOG)? {
                Some(known) => known.value.as_str().and_then(|id| id.parse().ok()),
                // What was before somebody wanted to be told is in the audit.
                None => {
                    let newest = page(service, None, 0)?.cursor;
                    self.remember(service, newest)?;
                    newest
                }
            },
        };
        self.cursor = Some(cursor);
        loop {
            let found = match self.cursor.flatten() {
                Some(cursor) if catalog.get::<AuditEntry>(cursor)?.is_some() => {
                    page(service, Some(cursor), AUDIT_BATCH_ROWS)?
                }
                // Moved to a file meanwhile: all that are left were written after it.
                _ => oldest(service, AUDIT_BATCH_ROWS)?,
            };
            if found.rows.is_empty() {
                return Ok(());
            }
            let mut told = None;
            let sent = found.rows.iter().try_for_each(|row| {
                self.send(row)?;
                told = Some(row.id);
                Ok::<_, io::Error>(())
            });
            if told.is_some() {
                self.remember(service, told)?;
            }
            sent.map_err(|e| Error::io(format!("sending to {}", self.path.display()), e))?;
        }
    }

    fn remember(&mut self, service: &Service, cursor: Option<Uuid>) -> Result<()> {
        self.cursor = Some(cursor);
        let mut setting = service.catalog.get::<Setting>(SYSLOG)?.unwrap_or_else(|| Setting {
            id: SYSLOG.into(),
            version: 0,
            value: Value::Null,
        });
        setting.value = cursor.map_or(Value::Null, |id| id.to_string().into());
        Ok(service.catalog.apply(&[Change::put(&setting)])?)
    }

    fn send(&mut self, row: &AuditEntry) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                // A syslog that stands still must not keep the service from stopping.
                socket.set_write_timeout(Some(SYSLOG_SEND_TIMEOUT))?;
                socket
            }
        };
        let message = syslog_message(row, std::process::id(), &TimeZone::system());
        socket.send_to(message.as_bytes(), &self.path)?;
        self.socket = Some(socket);
        Ok(())
    }
}

/// As local syslogs take it (RFC 3164, without the host, which they know): authpriv, refusals as warnings.
fn syslog_message(row: &AuditEntry, process: u32, zone: &TimeZone) -> String {
    let severity = if row.status >= 400 { 4 } else { 6 };
    let at = row.at.to_zoned(zone.clone());
    let json = serde_json::to_string(row).unwrap_or_default();
    format!("<{}>{} strongroom[{process}]: {json}", (10 << 3) + severity, at.strftime("%b %e %H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u128, at: &str) -> AuditEntry {
        let new = AuditEntry::new(at.parse().unwrap(), format!("p{n}"), "a", "/");
        AuditEntry { id: Uuid::from_u128(n), status: 403, ..new }
    }

    fn lines(path: &Path) -> Vec<u128> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str::<AuditEntry>(l).unwrap().id.as_u128()).collect()
    }

    #[test]
    fn rows_go_to_the_files_of_their_months_once() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("audit");
        let rows =
            [row(1, "2026-10-31T23:59:59Z"), row(2, "2026-11-01T00:00:00Z"), row(3, "2026-11-02T00:00:00Z")];
        write_out(&directory, &rows[..2]).unwrap();
        let november = directory.join("audit-2026-11.jsonl");
        // A crash in the middle of a line, and before the rows left the catalog.
        let mut file = File::options().append(true).open(&november).unwrap();
        file.write_all(br#"{"id":"00000000-"#).unwrap();
        write_out(&directory, &rows).unwrap();
        assert_eq!(lines(&directory.join("audit-2026-10.jsonl")), [1]);
        assert_eq!(lines(&november), [2, 3]);
        let mode = std::os::unix::fs::MetadataExt::mode(&november.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
        // A file that is large enough is followed by another one.
        File::options().write(true).open(&november).unwrap().set_len(AUDIT_FILE_MAX_BYTES).unwrap();
        write_out(&directory, &[row(4, "2026-11-03T00:00:00Z")]).unwrap();
        assert_eq!(lines(&directory.join("audit-2026-11.2.jsonl")), [4]);
        std::fs::write(directory.join("audit-notes.txt"), "mine").unwrap();
        let names = files(&directory).unwrap().into_iter().map(|f| (f.month.1, f.part)).collect::<Vec<_>>();
        assert_eq!(names, [(10, 1), (11, 1), (11, 2)]);
    }

    #[test]
    fn syslog_gets_what_it_expects() {
        let message = syslog_message(&row(1, "2026-11-03T04:05:06Z"), 7, &TimeZone::UTC);
        assert!(message.starts_with("<84>Nov  3 04:05:06 strongroom[7]: {\"id\":"), "{message}");
        assert!(!message.contains('\n'));
    }
}
