//! A safe handle for a connection to libvirt, and what is asked of it beside machines, which are in `dom.rs`. One method a C call; no
//! decisions are taken here.

use super::sys::{self, Functions, Ptr, VolumeInfo};
use crate::error::{Error, Result};
use crate::limits::DEFINITION_BYTES_MAX;
use libc::{c_char, c_int};
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
    pub(super) ptr: Ptr,
    pub(super) f: &'static Functions,
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

pub(super) fn c_string(text: &str) -> VirtResult<CString> {
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

    pub(super) fn fail<T>(&self) -> VirtResult<T> {
        let (code, message) = sys::last_error(self.f);
        // On a connection that broke, libvirt answers with errors of many kinds: all mean the same.
        // SAFETY: a valid pointer.
        let is_alive = unsafe { (self.f.virConnectIsAlive)(self.ptr) } != 0;
        Err(VirtError { code: if is_alive { code } else { sys::ERR_RPC }, message })
    }

    pub(super) fn check(&self, answer: c_int) -> VirtResult<c_int> {
        if answer < 0 { self.fail() } else { Ok(answer) }
    }

    /// Takes over a string that libvirt allocated.
    pub(super) fn string(&self, text: *mut c_char) -> VirtResult<String> {
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
    pub(super) fn list(&self, call: impl FnOnce(*mut *mut Ptr) -> c_int) -> VirtResult<Vec<Ptr>> {
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
pub(super) unsafe fn borrowed(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
