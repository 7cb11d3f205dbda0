//! The local directory: atomic, durable, tidy, and clear about what is wrong.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use strongroom_store::objects::{BlobStore, DurableLocal, Existing, Kind, Location, OpenOptions, TEMP_DIR};

fn open(dir: &Path) -> BlobStore {
    BlobStore::open(&Location::Directory(dir.to_owned()), OpenOptions::default()).unwrap()
}

#[test]
fn temporaries_of_the_dead_go_and_those_of_the_living_stay() {
    let dir = tempfile::tempdir().unwrap();
    let temps = dir.path().join(TEMP_DIR);
    fs::create_dir(&temps).unwrap();
    fs::write(temps.join("dead"), "half").unwrap();
    let living = fs::File::create(temps.join("living")).unwrap();
    // SAFETY: plain flock on an open descriptor.
    assert_eq!(unsafe { libc::flock(living.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    let store = open(dir.path());
    assert!(!temps.join("dead").exists());
    assert!(temps.join("living").exists());
    assert_eq!(store.list("").unwrap(), []);
    drop(living);
    open(dir.path());
    assert!(!temps.join("living").exists());
}

#[test]
fn foreign_files_are_neither_listed_nor_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("read me.txt"), "x").unwrap();
    fs::write(dir.path().join(".hidden"), "x").unwrap();
    fs::create_dir(dir.path().join(".snapshots")).unwrap();
    fs::write(dir.path().join(".snapshots/a"), "x").unwrap();
    let store = open(dir.path());
    store.put("a", "x".into()).unwrap();
    store.delete("a").unwrap();
    assert_eq!(store.list("").unwrap(), []);
    assert!(dir.path().join(".snapshots/a").exists());
}

#[test]
fn a_pipe_under_an_objects_name_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap();
    assert!(status.success());
    assert_eq!(open(dir.path()).get("pipe").unwrap_err().kind, Kind::NotFound);
}

/// Readers beside a writer that replaces the object over and over see whole versions only.
#[test]
fn replacing_is_atomic_for_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put("sessions/lease", vec![0u8; 100_000].into()).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..200u8 {
                store.put("sessions/lease", vec![round; 100_000 - usize::from(round)].into()).unwrap();
            }
        });
        while !writer.is_finished() {
            let bytes = store.get("sessions/lease").unwrap();
            assert!(bytes.iter().all(|b| *b == bytes[0]));
            assert_eq!(bytes.len(), 100_000 - usize::from(bytes[0]));
        }
    });
}

/// Runs this test binary again as a writer that is killed in the middle, many times.
#[test]
fn a_killed_writer_leaves_whole_objects_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    for round in 0..12u64 {
        let mut child = Command::new(&me)
            .args(["--exact", "writer_to_be_killed", "--include-ignored", "--nocapture"])
            .env("OBJECTS_TEST_DIR", dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Once it has written something; then in the middle of what comes.
        let own = dir.path().join(format!("w/{}", child.id()));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !own.read_dir().is_ok_and(|mut objects| objects.next().is_some()) {
            assert!(std::time::Instant::now() < deadline, "the writer gets nowhere");
            assert!(child.try_wait().unwrap().is_none(), "the writer has ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(dir.path());
        assert_eq!(
            fs::read_dir(dir.path().join(TEMP_DIR)).map_or(0, Iterator::count),
            0,
            "temporaries stayed"
        );
        for info in store.list("").unwrap() {
            let bytes = store.get(&info.name).unwrap();
            assert_eq!(bytes.len(), 700_000, "{} is torn", info.name);
            assert!(bytes.iter().all(|b| *b == bytes[0]), "{} is mixed", info.name);
        }
    }
    assert!(open(dir.path()).list("").unwrap().len() >= 12, "a writer's object is gone");
}

#[test]
#[ignore = "run by a_killed_writer_leaves_whole_objects_or_none"]
fn writer_to_be_killed() {
    let Some(dir) = std::env::var_os("OBJECTS_TEST_DIR") else { return };
    let store = open(Path::new(&dir));
    for i in 0u64.. {
        let id = std::process::id();
        store.put_new(&format!("w/{id}/{i}"), vec![i as u8; 700_000].into()).unwrap();
    }
}

/// What the kernel was asked to do, in order: file synced, then placed, then directory and new parents synced.
#[test]
fn a_put_syncs_before_and_after_placing() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let vault = dir.path().join("vault");
    fs::create_dir(&vault).unwrap();
    let traced = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-e",
            "trace=fsync,fdatasync,rename,renameat,renameat2,linkat,unlink,unlinkat",
            "-o",
        ])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "one_put_and_delete", "--include-ignored", "--test-threads", "1"])
        .env("OBJECTS_TEST_DIR", &vault)
        .stdout(std::process::Stdio::null())
        .status();
    let status = traced.expect("strace is needed for this test: apt-get install strace");
    assert!(status.success());
    let trace = fs::read_to_string(&trace).unwrap();
    let vault = fs::canonicalize(&vault).unwrap();
    let at = |what: &str, path: &str| {
        let path = vault.join(path).display().to_string();
        trace
            .lines()
            .position(|line| line.contains(what) && line.contains(&path))
            .unwrap_or_else(|| panic!("no {what} of {path} in\n{trace}"))
    };
    let placed = at("rename", "packs/ab");
    assert!(at("fsync", ".tmp/") < placed, "{trace}");
    assert!(at("fsync(", "packs/ab>") > placed, "{trace}");
    assert!(at("fsync(", "packs>") < placed, "the new directory's entry is made durable first\n{trace}");
    at("unlink", "packs/ab/1");
    // Leases ask for nothing.
    let volatile = vault.join("sessions").display().to_string();
    assert!(!trace.lines().any(|l| l.contains("fsync") && l.contains(&volatile)), "{trace}");
    let lease = trace.lines().position(|l| l.contains("rename") && l.contains(&volatile)).unwrap();
    let synced_temps = trace.lines().filter(|l| l.contains("fsync") && l.contains("/.tmp/")).count();
    assert_eq!(synced_temps, 1, "line {lease}\n{trace}");
    // The delete is synced where the emptied directories were.
    let deleted = at("unlink", "packs/ab/1");
    let root = format!("{}>", vault.display());
    assert!(trace.lines().skip(deleted).any(|l| l.contains("fsync(") && l.contains(&root)), "{trace}");
}

#[test]
#[ignore = "run by a_put_syncs_before_and_after_placing"]
fn one_put_and_delete() {
    let Some(dir) = std::env::var_os("OBJECTS_TEST_DIR") else { return };
    let store = open(Path::new(&dir));
    store.put_new("packs/ab/1", "x".into()).unwrap();
    store.put("sessions/1", "x".into()).unwrap();
    store.delete("packs/ab/1").unwrap();
}

/// A small file system in memory that is unmounted on drop. Needs root, as the whole suite does.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting needs root");
        Mount(dir)
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", options]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let mount = Mount::new("size=2m");
    let store = open(mount.0.path());
    store.put_new("packs/1", vec![1u8; 1 << 20].into()).unwrap();
    let error = store.put_new("packs/2", vec![2u8; 4 << 20].into()).unwrap_err();
    assert_eq!(error.kind, Kind::NoSpace);
    let text = error.to_string();
    assert!(text.contains("packs/2") && text.contains(mount.0.path().to_str().unwrap()), "{text}");
    assert!(text.contains("No space left on device") && text.contains("free space"), "{text}");
    assert_eq!(store.list("").unwrap().len(), 1);
    assert_eq!(fs::read_dir(mount.0.path().join(TEMP_DIR)).unwrap().count(), 0, "the half file takes room");
    store.put_new("packs/3", vec![3u8; 500_000].into()).expect("the room is free again");
}

#[test]
fn a_read_only_file_system_is_named() {
    let mount = Mount::new("size=2m");
    let store = open(mount.0.path());
    store.put("a", "x".into()).unwrap();
    mount.remount("remount,ro");
    assert_eq!(store.get("a").unwrap(), "x");
    for error in [
        store.put("a", "y".into()).unwrap_err(),
        store.put_new("b", "y".into()).unwrap_err(),
        store.delete("a").unwrap_err(),
    ] {
        assert_eq!(error.kind, Kind::ReadOnly, "{error}");
        assert!(error.to_string().contains("remount it for writing"), "{error}");
    }
    open(mount.0.path()).get("a").expect("a read-only vault can be opened");
}

/// Root may do anything, so a child does this as nobody.
#[test]
fn missing_permission_is_named() {
    let dir = tempfile::Builder::new().prefix("objects").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(dir.path());
    store.put("a", "x".into()).unwrap();
    let copy = dir.path().join(".me");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["--exact", "put_without_permission", "--include-ignored", "--nocapture"])
        .env("OBJECTS_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("checked: Denied"), "{text}");
}

#[test]
#[ignore = "run by missing_permission_is_named"]
fn put_without_permission() {
    let Some(dir) = std::env::var_os("OBJECTS_TEST_DIR") else { return };
    let store = open(Path::new(&dir));
    assert_eq!(store.get("a").unwrap(), "x");
    let error = store.put_new("b", "x".into()).unwrap_err();
    assert!(error.to_string().contains("check the owner and permissions"), "{error}");
    println!("checked: {:?}", error.kind);
}

#[test]
fn a_location_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let location = Location::Directory(file.path().to_owned());
    let error =
        BlobStore::open(&location, OpenOptions { create: true, ..OpenOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
}

#[test]
fn a_source_error_stays_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path()).get("absent").unwrap_err();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    let mut found = None;
    while let Some(e) = source {
        found = found.or(e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error));
        source = e.source();
    }
    assert_eq!(found, Some(libc::ENOENT));
}

#[test]
fn objects_can_be_read_as_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_new("index/1", "contents".into()).unwrap();
    assert_eq!(fs::read(store.local_path("index/1").unwrap()).unwrap(), b"contents");
    assert_eq!(store.local_path("../x"), None);
}

/// Two stores on one directory, as two processes would have, one emptying what the other fills.
#[test]
fn separate_stores_on_one_directory_get_along() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [(); 2].map(|()| DurableLocal::open(dir.path(), &[], false).unwrap());
    std::thread::scope(|scope| {
        for (s, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for i in 0..60 {
                    let name = format!("a/b/c/{s}-{i}");
                    store
                        .put(&name, &[Bytes::from_static(b"x"), Bytes::from_static(b"y")], Existing::Keep)
                        .unwrap();
                    assert_eq!(store.get(&name, 10).unwrap(), "xy");
                    store.delete(&name).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the temporary directory is left");
}
