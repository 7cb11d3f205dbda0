//! What the documents tell a reader to type works as it stands there: `tests/docs/blocks.py`.

use std::path::Path;
use std::process::Command;

/// Every command block of README and documents is run against the program that was just built, or says why it is not.
#[test]
fn libvirt_docs_command_blocks_work() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let status = Command::new("python3")
        .arg(tree.join("tests/docs/blocks.py"))
        .arg(env!("CARGO_BIN_EXE_strongroom"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status()
        .expect("python3 is needed: run scripts/install-deps --test");
    assert!(status.success(), "tests/docs/blocks.py: {status}");
}
