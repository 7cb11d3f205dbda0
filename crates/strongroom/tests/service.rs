//! What the service must stand, by the scripts of tests/service, each against the program that was just built: kills, load,
//! hostile input, who may do what, and snapshots beside a vault that comes and goes. What is random follows from a seed,
//! that of the day: STRONGROOM_TEST_SEED repeats another. `make soak` does more of each (docs/testing.md).

use std::path::Path;
use std::process::Command;

/// Runs a script; what it prints is the test's own word, seeds and figures included.
fn stands(script: &str, arguments: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/service");
    let status = Command::new("python3")
        .arg(directory.join(script))
        .arg(env!("CARGO_BIN_EXE_strongroom"))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&directory)
        .status()
        .expect("python3 is needed: run scripts/install-deps --test");
    assert!(status.success(), "{script}: {status}");
}

/// SIGKILL in random moments.
#[test]
fn libvirt_service_kill() {
    stands("kill.py", &[]);
}

/// SIGKILL and cancelling in random moments of every kind of restore.
#[test]
fn libvirt_service_restores() {
    stands("restores.py", &[]);
}

/// Restores into containers of Azure Blob Storage (Azurite) and S3.
#[test]
fn libvirt_service_containers() {
    stands("containers.py", &[]);
}

#[test]
fn libvirt_service_load() {
    stands("load.py", &[]);
}

#[test]
fn service_hostile() {
    stands("hostile.py", &[]);
}

#[test]
fn libvirt_service_roles() {
    stands("roles.py", &[]);
}

/// What is asked wrongly is refused, and changes nothing.
#[test]
fn libvirt_service_refusals() {
    stands("refusals.py", &[]);
}

#[test]
fn service_access() {
    stands("access.py", &[]);
}

/// Schemathesis by our own OpenAPI document; `scripts/install-schemathesis` prints its program.
#[test]
fn service_schema() {
    let program = std::env::var("STRONGROOM_TEST_SCHEMATHESIS").unwrap_or_else(|_| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/install-schemathesis");
        let done = Command::new(script).output().expect("scripts/install-schemathesis");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    });
    assert!(!program.is_empty(), "scripts/install-schemathesis does not say where Schemathesis is");
    stands("schema.py", &[&program]);
}

/// Interrupted transfers, restores without the vault, space that is needed: on XFS, and the same on btrfs with fewer kills.
#[test]
fn libvirt_service_snapshots_on_xfs() {
    stands("snapshots.py", &["xfs"]);
}

#[test]
fn libvirt_service_snapshots_on_btrfs() {
    stands("snapshots.py", &["btrfs"]);
}
