//! Safe handles for a machine and its checkpoints. One method a C call; no decisions are taken here.

use super::conn::{Conn, VirtError, VirtResult, borrowed, c_string};
use super::sys::{self, BlockInfo, BlockJobInfo, JobInfo, Ptr};
use libc::{c_char, c_int, c_uint};
use std::sync::Arc;

/// A job on a disk, by libvirt's number for its kind.
#[derive(Debug, Clone, Copy)]
pub struct BlockJob {
    pub kind: c_int,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// A machine.
pub struct Dom {
    ptr: Ptr,
    pub conn: Arc<Conn>,
}

// SAFETY: as for `Conn`.
unsafe impl Send for Dom {}
unsafe impl Sync for Dom {}

impl Drop for Dom {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and freed once.
        unsafe { (self.conn.f.virDomainFree)(self.ptr) };
    }
}

pub const CHECKPOINT_REDEFINE: c_uint = 1;
pub const CHECKPOINT_REDEFINE_VALIDATE: c_uint = 1 << 2;
const CHECKPOINT_XML_NO_DOMAIN: c_uint = 1 << 1;
const CHECKPOINT_DELETE_METADATA_ONLY: c_uint = 1 << 1;
pub const XML_SECURE: c_uint = 1;
pub const XML_INACTIVE: c_uint = 1 << 1;

/// Finding machines, and making them.
impl Conn {
    /// All machines, or those that libvirt's filter says.
    pub fn domains(self: &Arc<Self>, filter: c_uint) -> VirtResult<Vec<Dom>> {
        // SAFETY: valid pointers.
        let list =
            self.list(|array| unsafe { (self.f.virConnectListAllDomains)(self.ptr, array, filter) })?;
        Ok(list.into_iter().map(|ptr| Dom { ptr, conn: self.clone() }).collect())
    }

    pub fn domain(self: &Arc<Self>, name: &str) -> VirtResult<Dom> {
        let c_name = c_string(name)?;
        // SAFETY: valid pointers; the result is checked.
        let ptr = unsafe { (self.f.virDomainLookupByName)(self.ptr, c_name.as_ptr()) };
        if ptr.is_null() { self.fail() } else { Ok(Dom { ptr, conn: self.clone() }) }
    }

    /// By UUID, running or not.
    pub fn domain_by_uuid(self: &Arc<Self>, uuid: &str) -> VirtResult<Dom> {
        let c_uuid = c_string(uuid)?;
        // SAFETY: valid pointers; the result is checked.
        let ptr = unsafe { (self.f.virDomainLookupByUUIDString)(self.ptr, c_uuid.as_ptr()) };
        if ptr.is_null() { self.fail() } else { Ok(Dom { ptr, conn: self.clone() }) }
    }

    /// By UUID, if there is one.
    pub fn find_by_uuid(self: &Arc<Self>, uuid: &str) -> VirtResult<Option<Dom>> {
        match self.domain_by_uuid(uuid) {
            Ok(dom) => Ok(Some(dom)),
            Err(e) if e.code == sys::ERR_NO_DOMAIN => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether there is a machine of this UUID, running or not.
    pub fn exists(self: &Arc<Self>, uuid: &uuid::Uuid) -> crate::error::Result<bool> {
        let uuid = uuid.hyphenated().to_string();
        let found =
            self.find_by_uuid(&uuid).map_err(|e| e.about("looking for", &format!("machine {uuid}")))?;
        Ok(found.is_some())
    }

    pub fn define(self: &Arc<Self>, xml: &str) -> VirtResult<Dom> {
        let c_xml = c_string(xml)?;
        // SAFETY: valid pointers; the result is checked.
        let ptr = unsafe { (self.f.virDomainDefineXMLFlags)(self.ptr, c_xml.as_ptr(), 0) };
        if ptr.is_null() { self.fail() } else { Ok(Dom { ptr, conn: self.clone() }) }
    }

    /// Starts a machine of this definition: one that is defined under its name and UUID, else one that vanishes when it
    /// stops. `ends_with_us`: libvirt ends it when this connection is closed, however that comes.
    pub fn create(self: &Arc<Self>, xml: &str, ends_with_us: bool) -> VirtResult<Dom> {
        const AUTODESTROY: c_uint = 1 << 1;
        let c_xml = c_string(xml)?;
        let flags = if ends_with_us { AUTODESTROY } else { 0 };
        // SAFETY: valid pointers; the result is checked.
        let ptr = unsafe { (self.f.virDomainCreateXML)(self.ptr, c_xml.as_ptr(), flags) };
        if ptr.is_null() { self.fail() } else { Ok(Dom { ptr, conn: self.clone() }) }
    }
}

// SAFETY of all calls below: `self.ptr` is a live domain, strings outlive the calls, results are checked.
impl Dom {
    pub fn name(&self) -> String {
        unsafe { borrowed((self.conn.f.virDomainGetName)(self.ptr)) }
    }

    pub fn uuid(&self) -> VirtResult<String> {
        let mut buffer = [0 as c_char; 37];
        self.conn.check(unsafe { (self.conn.f.virDomainGetUUIDString)(self.ptr, buffer.as_mut_ptr()) })?;
        Ok(unsafe { borrowed(buffer.as_ptr()) })
    }

    /// Number of the running instance when this handle was made; `None`: it was not running then.
    pub fn id_at_lookup(&self) -> Option<u32> {
        let id = unsafe { (self.conn.f.virDomainGetID)(self.ptr) };
        (id != c_uint::MAX).then_some(id)
    }

    /// Whether it runs (or is paused) now. One that is gone does not.
    pub fn is_active(&self) -> VirtResult<bool> {
        match self.conn.check(unsafe { (self.conn.f.virDomainIsActive)(self.ptr) }) {
            Ok(answer) => Ok(answer == 1),
            Err(e) if e.code == sys::ERR_NO_DOMAIN => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// State and its reason, as libvirt numbers them.
    pub fn state(&self) -> VirtResult<(c_int, c_int)> {
        let (mut state, mut reason) = (0, 0);
        self.conn.check(unsafe { (self.conn.f.virDomainGetState)(self.ptr, &mut state, &mut reason, 0) })?;
        Ok((state, reason))
    }

    pub fn xml(&self, flags: c_uint) -> VirtResult<String> {
        self.conn.string(unsafe { (self.conn.f.virDomainGetXMLDesc)(self.ptr, flags) })
    }

    pub fn is_persistent(&self) -> VirtResult<bool> {
        let answer = unsafe { (self.conn.f.virDomainIsPersistent)(self.ptr) };
        self.conn.check(answer).map(|answer| answer == 1)
    }

    /// Of machines that vanish when they stop libvirt refuses the question: they do not start by themselves.
    pub fn autostart(&self) -> VirtResult<bool> {
        let mut on = 0;
        match self.conn.check(unsafe { (self.conn.f.virDomainGetAutostart)(self.ptr, &mut on) }) {
            Ok(_) => Ok(on != 0),
            Err(e) if e.is_away() => Err(e),
            Err(_) => Ok(false),
        }
    }

    /// Whether its memory was saved, to go on from at its next start.
    pub fn has_managed_save(&self) -> VirtResult<bool> {
        let answer = unsafe { (self.conn.f.virDomainHasManagedSaveImage)(self.ptr, 0) };
        self.conn.check(answer).map(|answer| answer == 1)
    }

    pub fn remove_managed_save(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainManagedSaveRemove)(self.ptr, 0) }).map(drop)
    }

    pub fn block_info(&self, target: &str) -> VirtResult<BlockInfo> {
        let target = c_string(target)?;
        let mut info = BlockInfo::default();
        self.conn
            .check(unsafe { (self.conn.f.virDomainGetBlockInfo)(self.ptr, target.as_ptr(), &mut info, 0) })?;
        Ok(info)
    }

    /// Begins to move all that a disk's image still has from its backing store into it.
    pub fn block_pull(&self, target: &str) -> VirtResult<()> {
        let target = c_string(target)?;
        self.conn
            .check(unsafe { (self.conn.f.virDomainBlockPull)(self.ptr, target.as_ptr(), 0, 0) })
            .map(drop)
    }

    /// The job on a disk, and how far it is; `None`: there is none.
    pub fn block_job(&self, target: &str) -> VirtResult<Option<BlockJob>> {
        let target = c_string(target)?;
        let mut info = BlockJobInfo::default();
        let found = self.conn.check(unsafe {
            (self.conn.f.virDomainGetBlockJobInfo)(self.ptr, target.as_ptr(), &mut info, 0)
        })?;
        Ok((found > 0).then_some(BlockJob {
            kind: info.kind,
            done_bytes: info.done,
            total_bytes: info.total,
        }))
    }

    /// A picture of the first screen, of at most so many bytes.
    pub fn screenshot(&self, limit: usize) -> VirtResult<Vec<u8>> {
        let f = self.conn.f;
        let stream = unsafe { (f.virStreamNew)(self.conn.ptr, 0) };
        if stream.is_null() {
            return self.conn.fail();
        }
        let read = || -> VirtResult<Vec<u8>> {
            self.conn.string(unsafe { (f.virDomainScreenshot)(self.ptr, stream, 0, 0) })?;
            let mut bytes = Vec::new();
            let mut piece = vec![0u8; 256 << 10];
            loop {
                let got = unsafe { (f.virStreamRecv)(stream, piece.as_mut_ptr().cast(), piece.len()) };
                match self.conn.check(got)? as usize {
                    0 => break,
                    got if bytes.len() + got > limit => {
                        return Err(VirtError::own("the picture is larger than is accepted"));
                    }
                    got => bytes.extend_from_slice(&piece[..got.min(piece.len())]),
                }
            }
            self.conn.check(unsafe { (f.virStreamFinish)(stream) })?;
            Ok(bytes)
        };
        let bytes = read();
        unsafe {
            if bytes.is_err() {
                (f.virStreamAbort)(stream);
            }
            (f.virStreamFree)(stream);
        }
        bytes
    }

    pub fn create(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainCreateWithFlags)(self.ptr, 0) }).map(drop)
    }

    pub fn shutdown(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainShutdown)(self.ptr) }).map(drop)
    }

    pub fn destroy(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainDestroyFlags)(self.ptr, 0) }).map(drop)
    }

    pub fn undefine(&self) -> VirtResult<()> {
        // Managed save, snapshot and checkpoint metadata, NVRAM and TPM state go as well.
        const ALL: c_uint = 1 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5;
        self.conn.check(unsafe { (self.conn.f.virDomainUndefineFlags)(self.ptr, ALL) }).map(drop)
    }

    pub fn suspend(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainSuspend)(self.ptr) }).map(drop)
    }

    pub fn resume(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainResume)(self.ptr) }).map(drop)
    }

    /// Freezes all file systems; returns how many.
    pub fn freeze(&self) -> VirtResult<u32> {
        let frozen =
            self.conn.check(unsafe { (self.conn.f.virDomainFSFreeze)(self.ptr, std::ptr::null(), 0, 0) })?;
        Ok(frozen as u32)
    }

    pub fn thaw(&self) -> VirtResult<u32> {
        let thawed =
            self.conn.check(unsafe { (self.conn.f.virDomainFSThaw)(self.ptr, std::ptr::null(), 0, 0) })?;
        Ok(thawed as u32)
    }

    pub fn set_agent_timeout(&self, seconds: c_int) -> VirtResult<()> {
        self.conn
            .check(unsafe { (self.conn.f.virDomainAgentSetResponseTimeout)(self.ptr, seconds, 0) })
            .map(drop)
    }

    /// The guest's clock, in seconds, asked of its agent.
    pub fn guest_time(&self) -> VirtResult<i64> {
        let (mut seconds, mut nanoseconds) = (0, 0);
        self.conn
            .check(unsafe { (self.conn.f.virDomainGetTime)(self.ptr, &mut seconds, &mut nanoseconds, 0) })?;
        Ok(seconds)
    }

    pub fn agent_command(&self, json: &str, timeout_seconds: c_int) -> VirtResult<String> {
        let json = c_string(json)?;
        self.conn.string(unsafe {
            (self.conn.f.virDomainQemuAgentCommand)(self.ptr, json.as_ptr(), timeout_seconds, 0)
        })
    }

    pub fn monitor_command(&self, json: &str) -> VirtResult<String> {
        let json = c_string(json)?;
        let mut answer = std::ptr::null_mut();
        self.conn.check(unsafe {
            (self.conn.f.virDomainQemuMonitorCommand)(self.ptr, json.as_ptr(), &mut answer, 0)
        })?;
        self.conn.string(answer)
    }

    /// Begins a backup job whose scratch files are there already.
    pub fn backup_begin(&self, backup_xml: &str, checkpoint_xml: Option<&str>) -> VirtResult<()> {
        const REUSE_EXTERNAL: c_uint = 1;
        let backup = c_string(backup_xml)?;
        let checkpoint = checkpoint_xml.map(c_string).transpose()?;
        let checkpoint_ptr = checkpoint.as_ref().map_or(std::ptr::null(), |c| c.as_ptr());
        self.conn
            .check(unsafe {
                (self.conn.f.virDomainBackupBegin)(self.ptr, backup.as_ptr(), checkpoint_ptr, REUSE_EXTERNAL)
            })
            .map(drop)
    }

    /// The running backup job's definition, if there is one.
    pub fn backup_xml(&self) -> VirtResult<Option<String>> {
        match self.conn.string(unsafe { (self.conn.f.virDomainBackupGetXMLDesc)(self.ptr, 0) }) {
            Ok(xml) => Ok(Some(xml)),
            Err(e) if matches!(e.code, sys::ERR_NO_BACKUP | sys::ERR_OPERATION_INVALID) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a long-running job (backup, migration, save, dump, …) is under way, or just begins. One that is off has none.
    pub fn has_job(&self) -> VirtResult<bool> {
        let mut info = JobInfo::default();
        match self.conn.check(unsafe { (self.conn.f.virDomainGetJobInfo)(self.ptr, &mut info) }) {
            Ok(_) => Ok(matches!(info.kind, 1 | 2)),
            Err(e) if matches!(e.code, sys::ERR_OPERATION_INVALID | sys::ERR_NO_DOMAIN) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub fn abort_job(&self) -> VirtResult<()> {
        self.conn.check(unsafe { (self.conn.f.virDomainAbortJob)(self.ptr) }).map(drop)
    }

    /// Names of all checkpoints, parents before children. libvirt fails to list them at the moment
    /// one is being made or deleted for somebody else: then it is asked again.
    pub fn checkpoints(&self) -> VirtResult<Vec<String>> {
        let mut found = self.checkpoints_now();
        for _ in 0..20 {
            if found.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            found = self.checkpoints_now();
        }
        found
    }

    fn checkpoints_now(&self) -> VirtResult<Vec<String>> {
        const TOPOLOGICAL: c_uint = 1 << 1;
        let f = self.conn.f;
        let list = self
            .conn
            .list(|array| unsafe { (f.virDomainListAllCheckpoints)(self.ptr, array, TOPOLOGICAL) })?;
        Ok(list
            .into_iter()
            .map(|item| unsafe {
                let name = borrowed((f.virDomainCheckpointGetName)(item));
                (f.virDomainCheckpointFree)(item);
                name
            })
            .collect())
    }

    pub fn checkpoint_create(&self, xml: &str, flags: c_uint) -> VirtResult<()> {
        let xml = c_string(xml)?;
        let f = self.conn.f;
        let checkpoint = unsafe { (f.virDomainCheckpointCreateXML)(self.ptr, xml.as_ptr(), flags) };
        if checkpoint.is_null() {
            return self.conn.fail();
        }
        unsafe { (f.virDomainCheckpointFree)(checkpoint) };
        Ok(())
    }

    fn with_checkpoint<T>(&self, name: &str, use_it: impl FnOnce(Ptr) -> VirtResult<T>) -> VirtResult<T> {
        let name = c_string(name)?;
        let f = self.conn.f;
        let checkpoint = unsafe { (f.virDomainCheckpointLookupByName)(self.ptr, name.as_ptr(), 0) };
        if checkpoint.is_null() {
            return self.conn.fail();
        }
        let answer = use_it(checkpoint);
        unsafe { (f.virDomainCheckpointFree)(checkpoint) };
        answer
    }

    pub fn checkpoint_xml(&self, name: &str) -> VirtResult<String> {
        self.with_checkpoint(name, |checkpoint| {
            self.conn.string(unsafe {
                (self.conn.f.virDomainCheckpointGetXMLDesc)(checkpoint, CHECKPOINT_XML_NO_DOMAIN)
            })
        })
    }

    pub fn checkpoint_delete(&self, name: &str, metadata_only: bool) -> VirtResult<()> {
        let flags = if metadata_only { CHECKPOINT_DELETE_METADATA_ONLY } else { 0 };
        self.with_checkpoint(name, |checkpoint| {
            self.conn.check(unsafe { (self.conn.f.virDomainCheckpointDelete)(checkpoint, flags) }).map(drop)
        })
    }
}
