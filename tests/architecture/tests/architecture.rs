//! The workspace keeps its own rules.

use std::path::Path;
use strongroom_architecture::checks::broken;

#[test]
fn the_architecture_is_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let broken = broken(&root).unwrap();
    assert!(
        broken.is_empty(),
        "{} rules of the architecture are broken (tests/architecture/src/rules.rs):\n\n{}\n",
        broken.len(),
        broken.join("\n\n")
    );
}
