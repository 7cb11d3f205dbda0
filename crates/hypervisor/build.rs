//! Builds the guest extension as a static binary, which the library carries along: so host and extension are of one piece,
//! and there is no file to be found at run time.
//!
//! It is a cargo of its own, because the extension has other flags than this crate, and in a target directory of its own,
//! because the outer cargo holds the lock of the usual one. `STRONGROOM_GUEST_BINARY` names a ready binary instead.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=STRONGROOM_GUEST_BINARY");
    let binary = match std::env::var_os("STRONGROOM_GUEST_BINARY") {
        Some(ready) => {
            let ready = PathBuf::from(ready);
            println!("cargo::rerun-if-changed={}", ready.display());
            ready
        }
        None => build(),
    };
    assert!(binary.is_file(), "there is no guest extension at {}", binary.display());
    println!("cargo::rustc-env=STRONGROOM_GUEST_BINARY_PATH={}", binary.display());
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn build() -> PathBuf {
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..");
    for part in ["crates/guest/src", "crates/guest/Cargo.toml", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(part).display());
    }
    let target = variable("TARGET");
    let directory = Path::new(&variable("OUT_DIR")).join("guest");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(&workspace).args(["rustc", "--quiet", "--locked", "--package", "strongroom-guest"]);
    cargo
        .args(["--bin", "strongroom-guest", "--profile", "guest", "--target", &target, "--target-dir"])
        .arg(&directory);
    cargo.args(["--", "-C", "target-feature=+crt-static"]);
    // What is meant for this crate's own build: its flags, and clippy in the compiler's place.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo could not be started");
    assert!(status.success(), "the guest extension could not be built");
    directory.join(target).join("guest/strongroom-guest")
}
