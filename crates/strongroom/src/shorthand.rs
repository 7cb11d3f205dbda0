//! A location where a vault's name is expected means `rescue`: `vm backup web01 --vault /srv/vault` is
//! `rescue vm backup web01 --vault /srv/vault`. So is what only locations have: `vault init /srv/vault`.

use std::ffi::{OsStr, OsString};

/// What works on a location alone.
const ON_LOCATIONS: [(&str, &[&str]); 2] =
    [("vault", &["init", "check", "reclaim", "stats", "log"]), ("point", &["serve"])];
/// What `rescue` has as well, by its first word.
const ON_BOTH: [(&str, &[&str]); 2] =
    [("vm", &["list", "backup", "restore"]), ("point", &["list", "show", "forget"])];
/// What is done to keys at a location; deleting one is not.
const ON_KEYS: [&str; 2] = ["export", "import"];

/// The command line as it is to be read. `vault`: what the environment says of the vault.
pub fn expand(arguments: impl IntoIterator<Item = OsString>, vault: Option<&OsStr>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // Options before the command are all flags.
    let is_word = |argument: &OsString| !argument.to_string_lossy().starts_with('-');
    let Some(first) = arguments.iter().skip(1).position(is_word).map(|at| at + 1) else { return arguments };
    let mut words =
        arguments.iter().skip(first + 1).filter(|a| is_word(a)).map(|a| a.to_string_lossy().into_owned());
    let (second, third) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    drop(words);
    let command = arguments[first].to_string_lossy().into_owned();
    let listed = |list: &[(&str, &[&str])]| {
        list.iter().any(|(name, seconds)| *name == command && seconds.contains(&&*second))
    };
    let rescues = listed(&ON_LOCATIONS)
        || command == "vault" && second == "key" && ON_KEYS.contains(&&*third)
        || listed(&ON_BOTH) && given_vault(&arguments[first..]).as_deref().or(vault).is_some_and(is_location);
    if rescues {
        arguments.insert(first, "rescue".into());
    }
    arguments
}

/// What `--vault` says.
fn given_vault(arguments: &[OsString]) -> Option<OsString> {
    let mut rest = arguments.iter().take_while(|a| *a != "--");
    while let Some(argument) = rest.next() {
        if argument == "--vault" {
            return rest.next().cloned();
        }
        if let Some(value) = argument.to_string_lossy().strip_prefix("--vault=") {
            return Some(value.into());
        }
    }
    None
}

/// Names of vaults have neither slashes, dots nor colons.
fn is_location(text: &OsStr) -> bool {
    let text = text.to_string_lossy();
    text.contains(['/', ':']) || text == "." || text == ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(line: &str, vault: Option<&str>) -> String {
        let words = line.split_whitespace().map(OsString::from);
        let out: Vec<_> =
            expand(words, vault.map(OsStr::new)).into_iter().map(|w| w.into_string().unwrap()).collect();
        out.join(" ")
    }

    #[test]
    fn locations_mean_rescue() {
        for (line, vault) in [
            ("s vault init /srv/v", None),
            ("s --json vault check s3://b/v --read-data", None),
            ("s vault key export /v", None),
            ("s vm backup web01 --vault /srv/v", None),
            ("s -q vm restore web01@latest --vault=s3://b/v --as x", None),
            ("s point list --vault ./v --json", None),
            ("s point list", Some("/srv/v")),
            ("s point list", Some("b2:bucket")),
            ("s point forget ID --vault /v", None),
            ("s point serve --help", None),
        ] {
            let command = if line.contains(" vault ") {
                " vault "
            } else if line.contains(" vm ") {
                " vm "
            } else {
                " point "
            };
            let wanted = line.replacen(command, &format!(" rescue{command}"), 1);
            assert_eq!(expanded(line, vault), wanted);
        }
    }

    #[test]
    fn names_do_not() {
        for (line, vault) in [
            ("s", None),
            ("s --help", None),
            ("s vault create main", Some("/srv/v")),
            ("s vault key delete main --id ID", Some("/srv/v")),
            ("s point forget ID --unmanaged --vault main", Some("/srv/v")),
            ("s vm backup web01 --vault main", Some("/srv/v")),
            ("s vm backup web01", Some("main")),
            ("s vm protect web01 --vault /srv/v", None),
            ("s vm list", None),
            ("s rescue vm backup web01 --vault /srv/v", None),
            ("s image backup /dev/x --vault /srv/v", None),
            ("s vm backup -- --vault /srv/v", None),
        ] {
            assert_eq!(expanded(line, vault), line);
        }
    }
}
