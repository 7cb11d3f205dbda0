//! The use cases: making and opening vaults, backing up and restoring images and machines, serving points.
//!
//! - [`vaults`]: making and opening vaults, keys.
//! - [`points`]: finding recovery points and their disks.
//! - [`image`]: backing up disk images and block devices.
//! - [`target`]: files and devices that disks are restored to.
//! - [`restore`]: restoring one disk; `stream`: as a file that is made while it is sent.
//! - [`source`]: reading a point, from the vault or from its snapshot.
//! - [`serve`]: exporting a point over NBD.
//! - [`machine`]: machines under libvirt.
//!
//! Everything here blocks: call it from threads. Cancelling goes through [`Progress`](strongroom_store::Progress).

#![warn(missing_docs)]

mod error;
pub mod image;
pub mod limits;
pub mod machine;
pub mod points;
pub mod present;
mod qemu_nbd;
pub mod restore;
pub mod serve;
pub mod source;
pub mod stream;
pub mod target;
pub mod vaults;
mod vhd;

pub use error::{Error, ErrorKind, Result, kind_of_io};
