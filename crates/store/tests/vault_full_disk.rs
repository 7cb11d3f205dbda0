//! A vault on a disk that is full to its last block: its space can be given back, and it goes on.

mod common;

use common::*;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use strongroom_store::objects::{Kind, RESERVE_NAME};
use strongroom_store::*;

const MIB: usize = 1 << 20;

/// A small file system in memory that is unmounted on drop. Needs root, as the whole suite does.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status().unwrap();
        assert!(status.success(), "mounting needs root");
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes all that is free, to the last block.
    fn fill(&self) {
        let file = File::options().append(true).create(true).open(self.path("fill")).unwrap();
        let mut piece = 64 << 20;
        while piece >= 4096 {
            let end = file.metadata().unwrap().len();
            // SAFETY: a plain call on an open descriptor.
            let taken =
                unsafe { libc::posix_fallocate(std::os::fd::AsRawFd::as_raw_fd(&file), end as i64, piece) };
            if taken != 0 {
                piece /= 2;
            }
        }
        assert_eq!(fs::write(self.path("x"), "x").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        fs::remove_file(self.path("x")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Bytes that the reserve occupies.
fn reserve(vault: &Path) -> u64 {
    fs::metadata(vault.join(RESERVE_NAME)).map_or(0, |found| found.blocks() * 512)
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Object(e) if e.kind == Kind::NoSpace)
}

#[test]
fn a_disk_that_is_full_to_its_last_block_is_emptied() {
    let mount = Mount::new("160m");
    let (place, cache) = (mount.path("vault"), mount.path("cache"));
    fs::create_dir(&place).unwrap();
    let (vault, key) = init(objects_at(&place));
    let old = Image::new(noise(1, 24 * MIB));
    let first = backup(&vault, "a", &old, None).unwrap();
    assert_eq!(reserve(&place), 20 << 20, "an eighth of the file system, and no hole");
    // Half of the first point stays in use, in the same pack: that is to be moved.
    let half = Image::new([noise(1, 12 * MIB), noise(2, MIB)].concat());
    let second = backup(&vault, "a", &half, None).unwrap();
    // What counted references before is there, on the same disk.
    reclaim_all(&vault, Some(&cache));
    mount.fill();
    let more = Image::new(noise(3, 2 * MIB));
    assert!(is_full(&backup(&vault, "a", &more, None).unwrap_err()), "backups do not get the reserve");
    assert_eq!(reserve(&place), 20 << 20);

    let vault = Vault::open(objects_at(&place), &key).unwrap();
    vault.forget(&first.point, "test").unwrap();
    let report = reclaim_all(&vault, Some(&cache));
    assert!(report.packs_rewritten == 1 && report.freed_bytes > 11 << 20, "{report:?}");
    let left = reserve(&place);
    assert!(left >= 15 << 20, "it grows again: {left}");
    assert_eq!(vault.points(None).unwrap().points.len(), 1);
    assert!(restore(&vault, &second).unwrap() == half.bytes());
    let third = backup(&vault, "a", &more, None).unwrap();
    assert!(restore(&vault, &third).unwrap() == more.bytes());
    assert!(check(&vault, true).is_sound());
    fs::remove_file(mount.path("fill")).unwrap();
    backup(&vault, "a", &more, None).unwrap();
    assert_eq!(reserve(&place), 20 << 20);
    assert!(vault.objects().list("").unwrap().iter().all(|object| !object.name.contains("reserve")));
}

/// Again and again: no round may take more of the reserve than it gives back.
#[test]
fn a_full_disk_is_lived_with() {
    let mount = Mount::new("48m");
    let place = mount.path("vault");
    fs::create_dir(&place).unwrap();
    let (vault, _) = init(objects_at(&place));
    backup(&vault, "a", &Image::new(noise(0, 3 * MIB)), None).unwrap();
    for round in 1..6 {
        mount.fill();
        for _ in 0..4 {
            // Nothing is free, and nothing to free.
            reclaim_all(&vault, Some(&mount.path("cache")));
            backup(&vault, "a", &Image::new(noise(99, MIB)), None).unwrap_err();
        }
        let points = vault.points(None).unwrap().points;
        vault.forget(&points[0].point, "test").unwrap();
        let report = reclaim_all(&vault, Some(&mount.path("cache")));
        assert!(report.freed_bytes > 2 << 20, "round {round}: {report:?}");
        let image = Image::new(noise(round, 2 * MIB + MIB / 2));
        fs::remove_file(mount.path("fill")).unwrap();
        let point = backup(&vault, "a", &image, None).unwrap();
        assert!(restore(&vault, &point).unwrap() == image.bytes());
        assert_eq!(reserve(&place), 6 << 20);
    }
}

#[test]
fn a_vault_without_a_reserve_gets_one_as_far_as_there_is_room() {
    let mount = Mount::new("48m");
    let place = mount.path("vault");
    fs::create_dir(&place).unwrap();
    let (vault, _) = init(objects_at(&place));
    let image = Image::new(noise(1, MIB));
    backup(&vault, "a", &image, None).unwrap();
    assert_eq!(reserve(&place), 6 << 20);
    fs::remove_file(place.join(RESERVE_NAME)).unwrap();
    mount.fill();
    // Five MiB, less what a lease takes.
    let filled = File::options().write(true).open(mount.path("fill")).unwrap();
    filled.set_len(filled.metadata().unwrap().len() - (5 << 20)).unwrap();
    backup(&vault, "a", &image, None).unwrap();
    assert_eq!(reserve(&place), 2 << 20, "half of what is free");
    filled.set_len(0).unwrap();
    reclaim_all(&vault, None);
    assert_eq!(reserve(&place), 6 << 20);
    // One that a copy of the vault made a hole of.
    File::create(place.join(RESERVE_NAME)).unwrap().set_len(6 << 20).unwrap();
    assert_eq!(reserve(&place), 0);
    backup(&vault, "a", &image, None).unwrap();
    assert_eq!(reserve(&place), 6 << 20);
}
