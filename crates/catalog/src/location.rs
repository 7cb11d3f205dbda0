//! Where the catalog of a user is.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// `STRONGROOM_CATALOG`, else `$XDG_DATA_HOME/strongroom/catalog.db`, else `/var/lib/strongroom/catalog.db` for root and
/// `~/.local/share/strongroom/catalog.db` for others. `None`: the user has no home.
pub fn default_path() -> Option<PathBuf> {
    choose(|name| env::var_os(name).filter(|value| !value.is_empty()), rustix::process::geteuid().is_root())
}

fn choose(variable: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Option<PathBuf> {
    if let Some(path) = variable("STRONGROOM_CATALOG") {
        return Some(path.into());
    }
    // Relative paths are to be ignored, says the XDG specification.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME")
        .or_else(|| is_root.then(|| "/var/lib".into()))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))?;
    Some(base.join("strongroom/catalog.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_choice_wins() {
        let with = |set: &[(&str, &str)], is_root| {
            let set: Vec<(String, OsString)> = set.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            choose(|name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()), is_root)
        };
        let named = [("STRONGROOM_CATALOG", "/x/c.db"), ("XDG_DATA_HOME", "/data"), ("HOME", "/home/u")];
        assert_eq!(with(&named, true), Some("/x/c.db".into()));
        assert_eq!(with(&named[1..], true), Some("/data/strongroom/catalog.db".into()));
        assert_eq!(with(&named[2..], true), Some("/var/lib/strongroom/catalog.db".into()));
        assert_eq!(with(&named[2..], false), Some("/home/u/.local/share/strongroom/catalog.db".into()));
        assert_eq!(with(&[("XDG_DATA_HOME", "data")], false), None);
    }
}
