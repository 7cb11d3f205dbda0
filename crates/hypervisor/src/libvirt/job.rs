//! A pull-mode backup job of ours in a machine's QEMU, and its end, whatever becomes of this process and of libvirt meanwhile.
//!
//! A job that nobody ends writes what the guest overwrites to its scratch files for as long as the machine runs. So a job is
//! written down before it begins (`UUID.job` in the directory for what runs), and its scratch files keep their names
//! until it has been seen to be over. Who cannot end it leaves both behind; whoever connects to libvirt next ends
//! it ([`end_left`]).

use super::conn::{Conn, VirtError};
use super::dom::Dom;
use super::job_end::{end_begun_job, end_job, job_told_of, socket_of};
use super::options::LibvirtOptions;
use super::session::{self, Session};
use super::state;
use crate::error::{Error, Result};
use crate::files::{self, OwnedFile};
use crate::limits::{CLONE_PREFIX, LEFT_JOB_RETRY, SCRATCH_RESERVE_BYTES};
use crate::text::machine;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const RECORD_SUFFIX: &str = "job";
const SCRATCH_SUFFIX: &str = ".scratch";

/// What has to be known to end a job, and to clear away its files.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    uuid: String,
    name: String,
    /// Tells the job apart.
    socket: PathBuf,
    scratch: Vec<PathBuf>,
}

/// A job, from before it begins until it has been seen to be over.
pub struct Job {
    pub socket: PathBuf,
    pub scratch_limit_bytes: Option<u64>,
    scratch: Mutex<Vec<OwnedFile>>,
    scratch_paths: Vec<PathBuf>,
    record: PathBuf,
    /// It may be in the machine.
    may_run: AtomicBool,
}

/// What became of a job.
pub enum Fate {
    /// As libvirt tells of it.
    Runs(String),
    /// One sentence: why.
    Gone(String),
}

impl Job {
    /// Writes down a job that is about to begin.
    pub fn prepare(
        session: &Session,
        socket: &Path,
        scratch: Vec<OwnedFile>,
        limit: Option<u64>,
    ) -> Result<Self> {
        let path = record_path(session);
        // Of one that was left behind and is over by now.
        if let Some(old) = read(&path) {
            remove_scratch(&old);
        }
        let scratch_paths: Vec<PathBuf> = scratch.iter().map(|f| f.path().to_owned()).collect();
        let record = Record {
            uuid: session.uuid.clone(),
            name: session.name.clone(),
            socket: socket.to_owned(),
            scratch: scratch_paths.clone(),
        };
        let text = serde_json::to_vec(&record)
            .map_err(|e| Error::failed("writing", path.display().to_string(), e))?;
        let new = path.with_extension("job-new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|e| Error::io("writing", &path, e))?;
        Ok(Self {
            socket: socket.to_owned(),
            scratch_limit_bytes: limit,
            scratch: Mutex::new(scratch),
            scratch_paths,
            record: path,
            may_run: AtomicBool::new(false),
        })
    }

    /// To be said before libvirt is asked to begin it.
    pub fn begins(&self) {
        self.may_run.store(true, Ordering::Release);
    }

    /// libvirt said that it did not begin.
    pub fn did_not_begin(&self) {
        self.may_run.store(false, Ordering::Release);
    }

    /// Whether it runs. Waits for a libvirt that is away; fails when it does not come back in that time.
    pub fn fate(&self, session: &Session, patience: Duration) -> Result<Fate> {
        let what = session.what();
        let about = |e: VirtError| unknown(e, &what);
        let dom = match session.revive(patience) {
            Err(e) if e.code == super::sys::ERR_NO_DOMAIN => {
                return Ok(Fate::Gone("the machine was stopped and is not defined any more".into()));
            }
            found => found.map_err(about)?,
        };
        match dom.backup_xml().map_err(about)? {
            Some(xml) if has_socket(&xml, &self.socket) => Ok(Fate::Runs(xml)),
            _ => Ok(Fate::Gone(self.why_gone(session, &dom))),
        }
    }

    fn why_gone(&self, session: &Session, dom: &Dom) -> String {
        if let Ok((state, reason)) = state::now(dom)
            && !state.is_active()
        {
            return match reason {
                state::SHUTOFF_SHUTDOWN => "the machine was shut down",
                state::SHUTOFF_DESTROYED => "the machine was powered off",
                state::SHUTOFF_CRASHED => "the machine's QEMU was killed or crashed",
                state::SHUTOFF_MIGRATED => "the machine was moved to another host",
                state::SHUTOFF_SAVED => "the machine's memory was saved, and it was stopped",
                _ => "the machine was stopped",
            }
            .into();
        }
        if session.instance.is_some() && dom.id_at_lookup() != session.instance {
            return "the machine was stopped and started again".into();
        }
        if let Some(directory) = self.full_directory() {
            return format!("the file system of the scratch directory {} is full", directory.display());
        }
        "somebody cancelled its backup job (`virsh domjobabort`), or QEMU gave it up".into()
    }

    fn full_directory(&self) -> Option<PathBuf> {
        let mut directories = self.scratch_paths.iter().filter_map(|f| f.parent());
        directories.find(|d| files::free_bytes(d).is_some_and(|free| free < 1 << 20)).map(Path::to_owned)
    }

    /// Why the job must be cancelled now, if so.
    pub fn excess(&self) -> Option<String> {
        let used: u64 = self.scratch_paths.iter().map(|f| files::allocated_bytes(f)).sum();
        if let Some(limit) = self.scratch_limit_bytes
            && used > limit
        {
            return Some(format!("the scratch files grew to {used} bytes; their limit is {limit}"));
        }
        let directories: BTreeSet<_> = self.scratch_paths.iter().filter_map(|f| f.parent()).collect();
        for directory in directories {
            if let Some(free) = files::free_bytes(directory)
                && free < SCRATCH_RESERVE_BYTES.min(self.reserve_of(used))
            {
                return Some(format!(
                    "the file system of the scratch directory {} has only {free} bytes left",
                    directory.display()
                ));
            }
        }
        None
    }

    /// On small file systems a smaller reserve must do: an eighth of what there was.
    fn reserve_of(&self, used: u64) -> u64 {
        let parents = self.scratch_paths.iter().filter_map(|f| f.parent());
        let total = parents.filter_map(files::free_bytes).min().unwrap_or(0).saturating_add(used);
        total / 8
    }

    /// Ends the job where it runs, waiting for a libvirt that is away, and removes its files. What cannot be ended now is
    /// left written down.
    pub fn end(&self, session: &Session) -> Result<()> {
        if self.may_run.load(Ordering::Acquire) {
            if let Fate::Runs(xml) = self.fate(session, session.patience)? {
                end_job(&session.dom(), &session.what(), &xml)?;
            }
            self.did_not_begin();
        }
        self.remove_files();
        Ok(())
    }

    fn remove_files(&self) {
        self.scratch.lock().unwrap_or_else(|p| p.into_inner()).clear();
        // Last: what is written down is looked for again.
        let _ = std::fs::remove_file(&self.record);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.may_run.load(Ordering::Acquire) {
            self.scratch.lock().unwrap_or_else(|p| p.into_inner()).iter_mut().for_each(OwnedFile::keep);
        } else {
            self.remove_files();
        }
    }
}

/// What becomes of a job cannot be said, because libvirt cannot be asked.
fn unknown(error: VirtError, what: &str) -> Error {
    if error.is_away() {
        Error::Unavailable {
            what: "libvirt".into(),
            hint: format!(
                "it went away during the backup of {what} and did not come back ({error}); start it, then run the backup again"
            ),
        }
    } else {
        error.about("asking for the backup job of", what)
    }
}

/// The job has its disks at this socket. Compared as text of the document, not of its XML: names have quotes and the like.
fn has_socket(xml: &str, socket: &Path) -> bool {
    socket_of(xml).is_some_and(|found| found == socket)
}

fn record_path(session: &Session) -> PathBuf {
    session.run_directory.with_extension(RECORD_SUFFIX)
}

fn read(path: &Path) -> Option<Record> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a job's record cannot be read"))
        .ok()
}

fn remove_scratch(record: &Record) {
    let prefix = format!("{CLONE_PREFIX}{}-", record.uuid);
    for path in &record.scratch {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !name.starts_with(&prefix) || !name.ends_with(SCRATCH_SUFFIX) {
            continue;
        }
        match std::fs::remove_file(path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what an interrupted backup left"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a scratch file could not be removed")
            }
        }
    }
}

/// Ends jobs which killed processes, or such that could not reach libvirt, left in machines. What cannot be looked at
/// now is left for the next time. `except`: a machine that is looked after anyway.
pub fn end_left(options: &LibvirtOptions, conn: &Arc<Conn>, except: Option<&str>) {
    static TRIED: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());
    let Ok(entries) = std::fs::read_dir(&options.run_dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let is_excepted = path.file_stem().is_some_and(|uuid| except.is_some_and(|e| uuid == e));
        if path.extension().is_none_or(|e| e != RECORD_SUFFIX) || is_excepted {
            continue;
        }
        {
            let mut tried = TRIED.lock().unwrap_or_else(|p| p.into_inner());
            if tried.get(&path).is_some_and(|at| at.elapsed() < LEFT_JOB_RETRY) {
                continue;
            }
            // Who uses it holds its machine's lock.
            let Ok(Some(_lock)) = session::try_lock(&path.with_extension("lock")) else { continue };
            let Some(record) = read(&path) else { continue };
            tried.insert(path.clone(), Instant::now());
            drop(tried);
            if let Err(error) = end_recorded(conn, &record) {
                tracing::warn!(machine = record.name, %error, "a backup job that was left behind could not be ended");
                continue;
            }
            remove_scratch(&record);
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(path.with_extension("lock"));
        }
        TRIED.lock().unwrap_or_else(|p| p.into_inner()).remove(&path);
    }
}

fn end_recorded(conn: &Arc<Conn>, record: &Record) -> Result<()> {
    let what = machine(&record.name);
    let found = conn.find_by_uuid(&record.uuid).map_err(|e| e.about("looking for jobs of", &what))?;
    let Some(dom) = found else { return Ok(()) };
    let found = job_told_of(&dom, &what)?;
    let Some(xml) = found.filter(|xml| has_socket(xml, &record.socket)) else { return Ok(()) };
    tracing::info!(machine = record.name, "ending a backup job that was left behind");
    end_begun_job(&dom, &what, &xml)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::job_xml;

    #[test]
    fn a_job_is_told_by_its_socket_whatever_the_machine_is_called() {
        for name in ["plain", "Bob's", "R&D", "\"q\"", "a<b", "back\\slash", "ü ✓"] {
            let socket = PathBuf::from(format!("/var/lib/libvirt/qemu/domain-1-{name}/strongroom-1.sock"));
            let xml = job_xml::pull_job(&socket, &[]);
            assert!(has_socket(&xml, &socket), "{xml}");
            // As libvirt writes it.
            let libvirt = xml.replace('"', "'").replace("&quot;", "\"");
            assert!(has_socket(&libvirt, &socket), "{libvirt}");
            assert!(!has_socket(&xml, Path::new("/var/lib/libvirt/qemu/domain-1-x/strongroom-1.sock")));
        }
        assert!(!has_socket("not xml", Path::new("/x")));
    }
}
