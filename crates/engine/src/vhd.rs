//! The footer of a fixed VHD: the disk's bytes, and 512 more behind them that say what they are.
//!
//! Sizes are multiples of 1 MiB, as Azure wants them; the disk is padded with zeroes. All numbers are big-endian. The format is
//! Microsoft's "Virtual Hard Disk Image Format Specification".

use crate::error::{Error, Result};
use uuid::Uuid;

pub const FOOTER_BYTES: usize = 512;
/// Sizes are multiples of this.
pub const SIZE_STEP_BYTES: u64 = 1 << 20;
/// Seconds from 1970 to 2000, when VHD's time begins.
const EPOCH_SECONDS: i64 = 946_684_800;
const FIXED: u32 = 2;
const NO_NEXT_HEADER: u64 = u64::MAX;

/// No VHD is larger: its readers refuse it.
pub const SIZE_MAX_BYTES: u64 = 2040 << 30;

/// Whether a disk fits into one.
pub fn check_size(size_bytes: u64) -> Result<()> {
    match padded(size_bytes) <= SIZE_MAX_BYTES {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "a VHD holds 2040 GiB at most, and the disk has {size_bytes} bytes: restore it as qcow2 or raw"
        ))),
    }
}

/// How large the disk in a VHD is.
pub fn padded(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(SIZE_STEP_BYTES)
}

/// The footer of a disk of `size_bytes`, a multiple of [`SIZE_STEP_BYTES`]. `made_at` in seconds of Unix.
pub fn footer(size_bytes: u64, id: Uuid, made_at: i64) -> [u8; FOOTER_BYTES] {
    let mut footer = [0; FOOTER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    // The bit that is always set; the format's version.
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    put(16, &NO_NEXT_HEADER.to_be_bytes());
    put(24, &u32::try_from(made_at.saturating_sub(EPOCH_SECONDS).max(0)).unwrap_or(u32::MAX).to_be_bytes());
    // Readers believe the size, not the geometry, of what Windows made.
    put(28, b"win ");
    put(32, &0x000a_0000u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size_bytes.to_be_bytes());
    put(48, &size_bytes.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size_bytes / 512);
    put(56, &cylinders.to_be_bytes());
    put(58, &[heads, sectors]);
    put(60, &FIXED.to_be_bytes());
    put(68, id.as_bytes());
    let sum = footer.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

/// Cylinders, heads, and sectors of a track, by the specification's appendix.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65535 * 16 * 255);
    let (heads, per_track);
    let mut cylinder_times_heads;
    if total >= 65535 * 16 * 63 {
        per_track = 255;
        heads = 16;
        cylinder_times_heads = total / per_track;
    } else {
        let mut track = 17;
        cylinder_times_heads = total / track;
        let mut count = cylinder_times_heads.div_ceil(1024).max(4);
        if cylinder_times_heads >= count * 1024 || count > 16 {
            track = 31;
            count = 16;
            cylinder_times_heads = total / track;
        }
        if cylinder_times_heads >= count * 1024 {
            track = 63;
            count = 16;
            cylinder_times_heads = total / track;
        }
        per_track = track;
        heads = count;
    }
    ((cylinder_times_heads / heads) as u16, heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footer_is_what_the_specification_says() {
        let id = Uuid::from_u128(7);
        let footer = footer(10 << 20, id, EPOCH_SECONDS + 5);
        assert_eq!(&footer[..8], b"conectix");
        assert_eq!(footer[24..28], [0, 0, 0, 5]);
        assert_eq!(footer[40..48], (10u64 << 20).to_be_bytes());
        assert_eq!(footer[60..64], [0, 0, 0, 2]);
        assert_eq!(&footer[68..84], id.as_bytes());
        assert!(footer[84..].iter().all(|b| *b == 0));
        let sum: u32 = footer
            .iter()
            .enumerate()
            .filter(|(at, _)| !(64..68).contains(at))
            .map(|(_, b)| u32::from(*b))
            .sum();
        assert_eq!(footer[64..68], (!sum).to_be_bytes());
    }

    #[test]
    fn geometries_cover_no_more_than_the_disk() {
        for mib in [1u64, 3, 10, 100, 504, 1024, 8 << 10, 127 << 10, 2 << 20, 64 << 20] {
            let sectors = mib << 11;
            let (cylinders, heads, track) = geometry(sectors);
            assert!(cylinders > 0 && heads > 0 && track > 0, "{mib} MiB");
            assert!(u64::from(cylinders) * u64::from(heads) * u64::from(track) <= sectors, "{mib} MiB");
        }
        assert_eq!(geometry(40 << 11), (963, 5, 17));
    }

    #[test]
    fn sizes_are_whole_mebibytes() {
        assert_eq!((padded(1), padded(1 << 20), padded((1 << 20) + 512)), (1 << 20, 1 << 20, 2 << 20));
    }
}
