//! Safe handles for a connection to libvirt, a machine and its checkpoints. One method a C call;
//! no decisions are taken here.

use super::sys::{self, BlockInfo, BlockJobInfo, Functions, JobInfo, Ptr, VolumeInfo};
use crate::error::{Error, Result};
use crate::limits::DEFINITION_BYTES_MAX;
use libc::{c_char, c_int, c_uint};
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// A failed libvirt call: its code is kept, because reconciliation decides by it.
#[derive(Debug, Clone)]
pub struct VirtError {
    pub code: c_int,
    pub message: String,
}

impl std::fmt::Display for VirtError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl VirtError {
    pub(super) fn own(message: &str) -> Self {
        Self { code: 0, message: message.into() }
    }

    /// The guest agent gave no answer: whether it did what was asked is not known.
    pub fn is_agent_silence(&self) -> bool {
        matches!(
            self.code,
            sys::ERR_AGENT_UNRESPONSIVE | sys::ERR_AGENT_UNSYNCED | sys::ERR_OPERATION_TIMEOUT
        )
    }

    /// libvirt itself is away, or this connection to it is: nothing is known of the machine.
    pub fn is_away(&self) -> bool {
        matches!(self.code, sys::ERR_RPC | sys::ERR_NO_CONNECT)
    }

    /// A job, or a call of somebody else's, stood in the way.
    pub fn is_in_the_way(&self) -> bool {
        matches!(self.code, sys::ERR_OPERATION_INVALID | sys::ERR_OPERATION_TIMEOUT)
    }

    /// As an error of this crate, about `what`.
    pub fn about(self, doing: &'static str, what: &str) -> Error {
        let what = what.to_owned();
        match self.code {
            sys::ERR_NO_DOMAIN | sys::ERR_NO_SECRET => Error::NotFound { what },
            sys::ERR_DOM_EXIST => Error::AlreadyExists { what },
            sys::ERR_RESOURCE_BUSY => Error::Busy { what, why: self.message },
            sys::ERR_OPERATION_TIMEOUT => Error::Busy { what, why: format!("{doing}: {}", self.message) },
            sys::ERR_ACCESS_DENIED | sys::ERR_OPERATION_DENIED => Error::Denied { what, hint: self.message },
            sys::ERR_RPC | sys::ERR_NO_CONNECT => {
                Error::Unavailable { what: "libvirt".into(), hint: self.message }
            }
            _ => Error::Failed { doing, what, cause: self.message },
        }
    }
}

pub type VirtResult<T> = Result<T, VirtError>;

pub struct Conn {
    ptr: Ptr,
    f: &'static Functions,
}

// SAFETY: libvirt's connections, and the objects made from them, may be used from any thread;
// its error state is per thread.
unsafe impl Send for Conn {}
unsafe impl Sync for Conn {}

impl Drop for Conn {
    fn drop(&mut self) {
        // SAFETY: the pointer came from virConnectOpen and is closed once.
        unsafe { (self.f.virConnectClose)(self.ptr) };
    }
}

fn c_string(text: &str) -> VirtResult<CString> {
    CString::new(text).map_err(|_| VirtError::own("the text contains a zero byte"))
}

impl Conn {
    pub fn open(uri: &str) -> Result<Arc<Self>> {
        let f = sys::functions()?;
        let c_uri = c_string(uri).map_err(|_| Error::NotFound { what: format!("libvirt at `{uri}`") })?;
        // SAFETY: a valid string; the result is checked.
        let ptr = unsafe { (f.virConnectOpen)(c_uri.as_ptr()) };
        if ptr.is_null() {
            let (code, message) = sys::last_error(f);
            let denied = matches!(
                code,
                sys::ERR_AUTH_FAILED
                    | sys::ERR_AUTH_CANCELLED
                    | sys::ERR_AUTH_UNAVAILABLE
                    | sys::ERR_ACCESS_DENIED
                    | sys::ERR_OPERATION_DENIED
            ) || message.contains("Permission denied");
            return Err(if denied {
                Error::Denied {
                    what: format!("libvirt at {uri}"),
                    hint: format!("run as root, or as a member of the group `libvirt` ({message})"),
                }
            } else {
                Error::Unavailable {
                    what: format!("libvirt at {uri}"),
                    hint: format!(
                        "start it (`systemctl start libvirtd`, or `virtlogd -d; libvirtd -d` where there is no systemd) ({message})"
                    ),
                }
            });
        }
        Ok(Arc::new(Self { ptr, f }))
    }

    fn fail<T>(&self) -> VirtResult<T> {
        let (code, message) = sys::last_error(self.f);
        // On a connection that broke, libvirt answers with errors of many kinds: all mean the same.
        // SAFETY: a valid pointer.
        let is_alive = unsafe { (self.f.virConnectIsAlive)(self.ptr) } != 0;
        Err(VirtError { code: if is_alive { code } else { sys::ERR_RPC }, message })
    }

    fn check(&self, answer: c_int) -> VirtResult<c_int> {
        if answer < 0 { self.fail() } else { Ok(answer) }
    }

    /// Takes over a string that libvirt allocated.
    fn string(&self, text: *mut c_char) -> VirtResult<String> {
        if text.is_null() {
            return self.fail();
        }
        // SAFETY: libvirt returned a string allocated with malloc, which is now ours to free.
        let owned = unsafe {
            let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            owned
        };
        if owned.len() > DEFINITION_BYTES_MAX {
            return Err(VirtError::own("the answer is larger than is accepted"));
        }
        Ok(owned)
    }

    /// Takes over a list that libvirt allocated.
    fn list(&self, call: impl FnOnce(*mut *mut Ptr) -> c_int) -> VirtResult<Vec<Ptr>> {
        let mut array: *mut Ptr = std::ptr::null_mut();
        let count = call(&mut array);
        if count < 0 {
            return self.fail();
        }
        if array.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: `count` pointers, in an array allocated with malloc, which is now ours to free.
        unsafe {
            let items = std::slice::from_raw_parts(array, count as usize).to_vec();
            libc::free(array.cast());
            Ok(items)
        }
    }

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

    /// Names of the virtual networks, and whether each is active.
    pub fn networks(&self) -> VirtResult<Vec<(String, bool)>> {
        // SAFETY: valid pointers; each item is read and then freed once.
        unsafe {
            let list = self.list(|array| (self.f.virConnectListAllNetworks)(self.ptr, array, 0))?;
            Ok(list
                .into_iter()
                .map(|item| {
                    let name = borrowed((self.f.virNetworkGetName)(item));
                    let active = (self.f.virNetworkIsActive)(item) == 1;
                    (self.f.virNetworkFree)(item);
                    (name, active)
                })
                .collect())
        }
    }

    /// libvirt's number for a volume's kind, and its path.
    pub fn volume(&self, pool: &str, volume: &str) -> VirtResult<(c_int, String)> {
        let (c_pool, c_volume) = (c_string(pool)?, c_string(volume)?);
        // SAFETY: valid pointers; pool and volume are freed once, after their last use.
        unsafe {
            let pool = (self.f.virStoragePoolLookupByName)(self.ptr, c_pool.as_ptr());
            if pool.is_null() {
                return self.fail();
            }
            let volume = (self.f.virStorageVolLookupByName)(pool, c_volume.as_ptr());
            let found = match volume.is_null() {
                true => self.fail(),
                false => {
                    let mut info = VolumeInfo::default();
                    let looked = self.check((self.f.virStorageVolGetInfo)(volume, &mut info));
                    let path = looked.and_then(|_| self.string((self.f.virStorageVolGetPath)(volume)));
                    (self.f.virStorageVolFree)(volume);
                    path.map(|path| (info.kind, path))
                }
            };
            (self.f.virStoragePoolFree)(pool);
            found
        }
    }

    /// QEMU's command line of a machine with this definition, as libvirt would start it. Nothing is made.
    pub fn command_line(&self, xml: &str) -> VirtResult<String> {
        let (format, xml) = (c_string("qemu-argv")?, c_string(xml)?);
        // SAFETY: valid pointers; the result is taken over.
        self.string(unsafe {
            (self.f.virConnectDomainXMLToNative)(self.ptr, format.as_ptr(), xml.as_ptr(), 0)
        })
    }

    /// Looks anew at what a storage pool holds.
    pub fn refresh_pool(&self, name: &str) -> VirtResult<()> {
        let c_name = c_string(name)?;
        // SAFETY: valid pointers; the pool is freed once, after its last use.
        unsafe {
            let pool = (self.f.virStoragePoolLookupByName)(self.ptr, c_name.as_ptr());
            if pool.is_null() {
                return self.fail();
            }
            let done = (self.f.virStoragePoolRefresh)(pool, 0);
            let result = if done < 0 { self.fail() } else { Ok(()) };
            (self.f.virStoragePoolFree)(pool);
            result
        }
    }

    /// Defines a secret and gives it its value, or nothing.
    pub fn make_secret(&self, xml: &str, value: &[u8]) -> VirtResult<()> {
        let c_xml = c_string(xml)?;
        // SAFETY: valid pointers and lengths; the secret is freed once, after its last use.
        unsafe {
            let secret = (self.f.virSecretDefineXML)(self.ptr, c_xml.as_ptr(), 0);
            if secret.is_null() {
                return self.fail();
            }
            let done = (self.f.virSecretSetValue)(secret, value.as_ptr(), value.len(), 0);
            let result = if done < 0 { self.fail() } else { Ok(()) };
            if result.is_err() {
                (self.f.virSecretUndefine)(secret);
            }
            (self.f.virSecretFree)(secret);
            result
        }
    }

    pub fn remove_secret(&self, uuid: &str) -> VirtResult<()> {
        let c_uuid = c_string(uuid)?;
        // SAFETY: valid pointers; the secret is freed once, after its last use.
        unsafe {
            let secret = (self.f.virSecretLookupByUUIDString)(self.ptr, c_uuid.as_ptr());
            if secret.is_null() {
                return self.fail();
            }
            let done = (self.f.virSecretUndefine)(secret);
            let result = if done < 0 { self.fail() } else { Ok(()) };
            (self.f.virSecretFree)(secret);
            result
        }
    }

    /// Names of the storage pools, whether each is active, and its definition.
    pub fn storage_pools(&self) -> VirtResult<Vec<(String, bool, String)>> {
        // SAFETY: valid pointers; each item is read and then freed once.
        unsafe {
            let list = self.list(|array| (self.f.virConnectListAllStoragePools)(self.ptr, array, 0))?;
            Ok(list
                .into_iter()
                .filter_map(|item| {
                    let name = borrowed((self.f.virStoragePoolGetName)(item));
                    let active = (self.f.virStoragePoolIsActive)(item) == 1;
                    let xml = self.string((self.f.virStoragePoolGetXMLDesc)(item, 0));
                    (self.f.virStoragePoolFree)(item);
                    // A pool that went away in between is left out.
                    xml.ok().map(|xml| (name, active, xml))
                })
                .collect())
        }
    }
}

/// SAFETY: `text` is null or a valid string that lives during the call.
unsafe fn borrowed(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

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
