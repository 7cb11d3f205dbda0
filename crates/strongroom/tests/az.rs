//! The real `az` and Azure's Python SDKs against the program and real machines: runs the scripts of `tests/az`, whose
//! last line says what happened. Needs root, libvirt and azure-cli (`scripts/install-az`).

use std::path::Path;
use std::process::Command;

fn script(name: &str) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let output = Command::new("python3")
        .arg(tree.join("tests/az").join(name))
        .args(["--strongroom", env!("CARGO_BIN_EXE_strongroom")])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name}:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn libvirt_az_flow() {
    script("flow.py");
}

#[test]
fn libvirt_az_commands() {
    script("commands.py");
}

#[test]
fn libvirt_az_sdk() {
    script("sdk.py");
}

#[test]
fn libvirt_az_refusals() {
    script("refusals.py");
}

#[test]
fn libvirt_az_disks() {
    script("disks.py");
}
