//! What is read of the workspace: its crates' manifests and sources.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// A crate, by the name of its directory.
#[derive(Debug, Default)]
pub struct Member {
    /// `crates/store`.
    pub place: String,
    /// The crates of this workspace that it uses, without `strongroom-`, and the line of its manifest. Not those of its tests alone.
    pub uses: Vec<(String, u32)>,
    /// Source by path below `src`.
    pub sources: BTreeMap<String, String>,
}

/// All crates below `crates`.
pub fn read(root: &Path) -> io::Result<BTreeMap<String, Member>> {
    let mut members = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let entry = entry?;
        let manifest = match fs::read_to_string(entry.path().join("Cargo.toml")) {
            Ok(manifest) => manifest,
            // What another commit had, of which the build left something.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut sources = BTreeMap::new();
        read_sources(&entry.path().join("src"), "", &mut sources)?;
        let member = Member { place: format!("crates/{name}"), uses: uses(&manifest), sources };
        members.insert(name, member);
    }
    Ok(members)
}

fn read_sources(directory: &Path, below: &str, sources: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read_sources(&entry.path(), &format!("{name}/"), sources)?;
        } else if name.ends_with(".rs") {
            sources.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(())
}

/// Of a manifest: `strongroom-x.workspace = true` and its like, in `[dependencies]` or `[build-dependencies]`, of any target.
fn uses(manifest: &str) -> Vec<(String, u32)> {
    let mut is_in = false;
    let mut found = Vec::new();
    for (line, text) in (1..).zip(manifest.lines()) {
        let text = text.trim();
        if let Some(section) = text.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            is_in = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
        } else if is_in
            && let Some(rest) = text.split("strongroom-").nth(1).filter(|_| !text.starts_with('#'))
        {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
            found.push((name, line));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_and_those_of_tests_are_not() {
        let manifest = "[package]\nname = \"strongroom-x\"\n[dependencies]\nserde.workspace = true\nstrongroom-a.workspace = true\n\
            strongroom-b = { workspace = true }\nc = { package = \"strongroom-c\", path = \"../c\" }\n# strongroom-no\n\
            [target.'cfg(unix)'.dependencies]\nstrongroom-d.workspace = true\n[dev-dependencies]\nstrongroom-e.workspace = true\n";
        let names: Vec<_> = uses(manifest).into_iter().map(|(name, line)| format!("{name}:{line}")).collect();
        assert_eq!(names, ["a:5", "b:6", "c:7", "d:10"]);
    }
}
