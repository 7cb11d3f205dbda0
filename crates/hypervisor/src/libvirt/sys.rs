//! The C functions of libvirt that are used here, found at run time.
//!
//! The library is opened when it is first needed instead of being linked: vault commands work on
//! hosts that have no libvirt, and where it is missing a message can say so.

use crate::error::{Error, Result};
use libc::{c_char, c_int, c_uint, c_ulong, c_ulonglong, c_void, size_t};
use libloading::Library;
use std::ffi::CStr;
use std::sync::OnceLock;

pub type Ptr = *mut c_void;

/// `virError`, up to the fields read here. Its layout is part of libvirt's stable ABI.
#[repr(C)]
pub struct VirError {
    pub code: c_int,
    pub domain: c_int,
    pub message: *const c_char,
}

#[repr(C)]
#[derive(Default)]
pub struct BlockInfo {
    pub capacity: c_ulonglong,
    pub allocation: c_ulonglong,
    pub physical: c_ulonglong,
}

/// `virStorageVolInfo`.
#[repr(C)]
#[derive(Default)]
pub struct VolumeInfo {
    pub kind: c_int,
    pub capacity: c_ulonglong,
    pub allocation: c_ulonglong,
}

/// `virDomainBlockJobInfo`.
#[repr(C)]
#[derive(Default)]
pub struct BlockJobInfo {
    pub kind: c_int,
    pub bandwidth: c_ulong,
    pub done: c_ulonglong,
    pub total: c_ulonglong,
}

/// `virDomainJobInfo`: the type, then figures which are not used here.
#[repr(C)]
#[derive(Default)]
pub struct JobInfo {
    pub kind: c_int,
    _figures: [c_ulonglong; 11],
}

macro_rules! functions {
    ($($library:ident { $($name:ident($($arg:ty),*) -> $ret:ty;)* })*) => {
        #[allow(non_snake_case)]
        pub struct Functions {
            $($(pub $name: unsafe extern "C" fn($($arg),*) -> $ret,)*)*
            _libraries: Vec<Library>,
        }

        impl Functions {
            fn load() -> Result<Self, String> {
                let mut libraries = Vec::new();
                // SAFETY: both are libvirt's own libraries, whose initialisers are harmless, and
                // the signatures are those of its public headers, stable since the named functions exist.
                unsafe {
                    $(
                        let $library = Library::new(concat!(stringify!($library), ".so.0").replace('_', "-"))
                            .map_err(|e| e.to_string())?;
                        $(let $name = *$library
                            .get::<unsafe extern "C" fn($($arg),*) -> $ret>(concat!(stringify!($name), "\0").as_bytes())
                            .map_err(|e| e.to_string())?;)*
                        libraries.push($library);
                    )*
                    Ok(Self { $($($name,)*)* _libraries: libraries })
                }
            }
        }
    };
}

type ErrorHandler = unsafe extern "C" fn(Ptr, *const VirError);

#[allow(non_snake_case)]
mod table {
    use super::*;
    functions! {
        libvirt {
            virInitialize() -> c_int;
            virSetErrorFunc(Ptr, Option<ErrorHandler>) -> ();
            virGetLastError() -> *const VirError;
            virConnectOpen(*const c_char) -> Ptr;
            virConnectClose(Ptr) -> c_int;
            virConnectIsAlive(Ptr) -> c_int;
            virConnectDomainXMLToNative(Ptr, *const c_char, *const c_char, c_uint) -> *mut c_char;
            virConnectListAllDomains(Ptr, *mut *mut Ptr, c_uint) -> c_int;
            virConnectListAllNetworks(Ptr, *mut *mut Ptr, c_uint) -> c_int;
            virConnectListAllStoragePools(Ptr, *mut *mut Ptr, c_uint) -> c_int;
            virNetworkGetName(Ptr) -> *const c_char;
            virNetworkIsActive(Ptr) -> c_int;
            virNetworkFree(Ptr) -> c_int;
            virStoragePoolGetName(Ptr) -> *const c_char;
            virStoragePoolIsActive(Ptr) -> c_int;
            virStoragePoolGetXMLDesc(Ptr, c_uint) -> *mut c_char;
            virStoragePoolLookupByName(Ptr, *const c_char) -> Ptr;
            virStoragePoolRefresh(Ptr, c_uint) -> c_int;
            virStorageVolLookupByName(Ptr, *const c_char) -> Ptr;
            virStorageVolGetInfo(Ptr, *mut VolumeInfo) -> c_int;
            virStorageVolGetPath(Ptr) -> *mut c_char;
            virStorageVolFree(Ptr) -> c_int;
            virStoragePoolFree(Ptr) -> c_int;
            virSecretDefineXML(Ptr, *const c_char, c_uint) -> Ptr;
            virSecretSetValue(Ptr, *const u8, size_t, c_uint) -> c_int;
            virSecretLookupByUUIDString(Ptr, *const c_char) -> Ptr;
            virSecretUndefine(Ptr) -> c_int;
            virSecretFree(Ptr) -> c_int;
            virDomainLookupByName(Ptr, *const c_char) -> Ptr;
            virDomainLookupByUUIDString(Ptr, *const c_char) -> Ptr;
            virDomainFree(Ptr) -> c_int;
            virDomainGetName(Ptr) -> *const c_char;
            virDomainGetUUIDString(Ptr, *mut c_char) -> c_int;
            virDomainGetID(Ptr) -> c_uint;
            virDomainGetState(Ptr, *mut c_int, *mut c_int, c_uint) -> c_int;
            virDomainGetXMLDesc(Ptr, c_uint) -> *mut c_char;
            virDomainIsPersistent(Ptr) -> c_int;
            virDomainIsActive(Ptr) -> c_int;
            virDomainGetAutostart(Ptr, *mut c_int) -> c_int;
            virDomainHasManagedSaveImage(Ptr, c_uint) -> c_int;
            virDomainManagedSaveRemove(Ptr, c_uint) -> c_int;
            virDomainGetBlockInfo(Ptr, *const c_char, *mut BlockInfo, c_uint) -> c_int;
            virDomainDefineXMLFlags(Ptr, *const c_char, c_uint) -> Ptr;
            virDomainCreateWithFlags(Ptr, c_uint) -> c_int;
            virDomainShutdown(Ptr) -> c_int;
            virDomainDestroyFlags(Ptr, c_uint) -> c_int;
            virDomainUndefineFlags(Ptr, c_uint) -> c_int;
            virDomainCreateXML(Ptr, *const c_char, c_uint) -> Ptr;
            virDomainBlockPull(Ptr, *const c_char, c_ulong, c_uint) -> c_int;
            virDomainGetBlockJobInfo(Ptr, *const c_char, *mut BlockJobInfo, c_uint) -> c_int;
            virDomainScreenshot(Ptr, Ptr, c_uint, c_uint) -> *mut c_char;
            virStreamNew(Ptr, c_uint) -> Ptr;
            virStreamRecv(Ptr, *mut c_char, size_t) -> c_int;
            virStreamFinish(Ptr) -> c_int;
            virStreamAbort(Ptr) -> c_int;
            virStreamFree(Ptr) -> c_int;
            virDomainSuspend(Ptr) -> c_int;
            virDomainResume(Ptr) -> c_int;
            virDomainFSFreeze(Ptr, *const *const c_char, c_uint, c_uint) -> c_int;
            virDomainFSThaw(Ptr, *const *const c_char, c_uint, c_uint) -> c_int;
            virDomainAgentSetResponseTimeout(Ptr, c_int, c_uint) -> c_int;
            virDomainGetTime(Ptr, *mut i64, *mut c_uint, c_uint) -> c_int;
            virDomainBackupBegin(Ptr, *const c_char, *const c_char, c_uint) -> c_int;
            virDomainBackupGetXMLDesc(Ptr, c_uint) -> *mut c_char;
            virDomainAbortJob(Ptr) -> c_int;
            virDomainGetJobInfo(Ptr, *mut JobInfo) -> c_int;
            virDomainListAllCheckpoints(Ptr, *mut *mut Ptr, c_uint) -> c_int;
            virDomainCheckpointCreateXML(Ptr, *const c_char, c_uint) -> Ptr;
            virDomainCheckpointLookupByName(Ptr, *const c_char, c_uint) -> Ptr;
            virDomainCheckpointGetName(Ptr) -> *const c_char;
            virDomainCheckpointGetXMLDesc(Ptr, c_uint) -> *mut c_char;
            virDomainCheckpointDelete(Ptr, c_uint) -> c_int;
            virDomainCheckpointFree(Ptr) -> c_int;
        }
        libvirt_qemu {
            virDomainQemuMonitorCommand(Ptr, *const c_char, *mut *mut c_char, c_uint) -> c_int;
            virDomainQemuAgentCommand(Ptr, *const c_char, c_int, c_uint) -> *mut c_char;
        }
    }
    pub(super) fn load() -> Result<Functions, String> {
        Functions::load()
    }
}
pub use table::Functions;

unsafe extern "C" fn quiet(_: Ptr, _: *const VirError) {}

/// The functions; opens the library at the first call.
pub fn functions() -> Result<&'static Functions> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    let loaded = FUNCTIONS.get_or_init(|| {
        let functions = table::load()?;
        // SAFETY: both may be called at any time; the handler does nothing and lives for ever.
        unsafe {
            if (functions.virInitialize)() < 0 {
                return Err("virInitialize failed".into());
            }
            // Without a handler libvirt writes every error to stderr as well.
            (functions.virSetErrorFunc)(std::ptr::null_mut(), Some(quiet));
        }
        Ok(functions)
    });
    loaded.as_ref().map_err(|cause| Error::Unavailable {
        what: "libvirt".into(),
        hint: format!(
            "install it (Debian: apt install libvirt0 libvirt-daemon-system libvirt-clients); {cause}"
        ),
    })
}

// Error codes of `virErrorNumber` which are told apart here.
pub const ERR_NO_CONNECT: c_int = 5;
pub const ERR_DOM_EXIST: c_int = 28;
pub const ERR_OPERATION_DENIED: c_int = 29;
pub const ERR_RPC: c_int = 39;
pub const ERR_NO_DOMAIN: c_int = 42;
pub const ERR_AUTH_FAILED: c_int = 45;
pub const ERR_OPERATION_INVALID: c_int = 55;
pub const ERR_OPERATION_TIMEOUT: c_int = 68;
pub const ERR_AUTH_CANCELLED: c_int = 79;
pub const ERR_AGENT_UNRESPONSIVE: c_int = 86;
pub const ERR_AGENT_UNSYNCED: c_int = 97;
pub const ERR_RESOURCE_BUSY: c_int = 87;
pub const ERR_ACCESS_DENIED: c_int = 88;
pub const ERR_AUTH_UNAVAILABLE: c_int = 94;
pub const ERR_NO_SECRET: c_int = 66;
pub const ERR_NO_CHECKPOINT: c_int = 103;
pub const ERR_NO_BACKUP: c_int = 104;
pub const ERR_CHECKPOINT_INCONSISTENT: c_int = 109;

/// The last error of this thread: code and message.
pub fn last_error(functions: &Functions) -> (c_int, String) {
    // SAFETY: the error belongs to this thread and stays valid until its next libvirt call.
    unsafe {
        let error = (functions.virGetLastError)();
        if error.is_null() || (*error).message.is_null() {
            return (0, "libvirt gave no reason".into());
        }
        let text = CStr::from_ptr((*error).message).to_string_lossy();
        ((*error).code, crate::text::shorten(&text))
    }
}
