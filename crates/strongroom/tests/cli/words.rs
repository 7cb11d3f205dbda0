//! Help, versions, errors as JSON, and readers that go away.

use crate::common::{Home, MIB};
use serde_json::Value;
use std::process::Stdio;

#[test]
fn every_command_has_help_with_an_example() {
    let home = Home::new();
    for command in [
        "",
        "vault init",
        "vault check",
        "vault reclaim",
        "vault stats",
        "vault key export",
        "vault key import",
        "vm list",
        "vm backup",
        "vm restore",
        "image backup",
        "image restore",
        "point list",
        "point show",
        "point forget",
        "point serve",
        "completions",
    ] {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let text = home.ok(&arguments);
        let example = format!("  strongroom {}", command.trim_end());
        assert!(text.contains("Example") && text.contains(example.trim_end()), "{command}: {text}");
        if !command.is_empty() {
            assert!(text.contains("--json") && text.contains("--quiet"), "{command}: {text}");
        }
    }
    assert!(home.ok(["help"]).contains("Usage: strongroom"));
    assert_eq!(home.ok(["--version"]).trim(), format!("strongroom {}", env!("CARGO_PKG_VERSION")));
    assert!(home.ok(["completions", "bash"]).contains("_strongroom"));
    assert_eq!(home.run(Vec::<&str>::new()).status.code(), Some(2));
    assert_eq!(home.run(["nonsense"]).status.code(), Some(2));
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    let home = Home::new();
    let error = |arguments: &[&str], status: i32| -> Value {
        let output = home.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(output.stdout.is_empty());
        serde_json::from_slice(&output.stderr).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    let found = error(&["point", "list", "--vault", &home.text("none"), "--json"], 1);
    assert_eq!(found["error"]["code"], "not-found");
    assert!(found["error"]["message"].as_str().unwrap().contains("none"));
    let found = error(&["point", "list", "--json"], 2);
    assert_eq!(found["error"]["code"], "usage");
    home.ok(["vault", "init", &home.vault()]);
    assert_eq!(error(&["vault", "init", &home.vault(), "--json"], 1)["error"]["code"], "already-exists");
}

#[test]
fn documents_have_the_fields_that_scripts_rely_on() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, 65536)], 1);
    let source = image.to_str().unwrap();
    let fields = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let sorted = |text: &str| -> Vec<String> {
        let mut names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        names.sort();
        names
    };
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "a"];
    home.ok(backup);
    assert_eq!(
        fields(&home.json(backup)),
        sorted(
            "point item taken_at parent consistency source_format size_bytes read_bytes changed_bytes new_bytes \
             stored_bytes seconds read_bytes_per_second warnings"
        )
    );
    let restored = home.json(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out")]);
    assert_eq!(
        fields(&restored),
        sorted("point item disk to format size_bytes data_bytes seconds bytes_per_second")
    );
    let list = home.json(["point", "list", "--vault", &vault]);
    assert_eq!(fields(&list), sorted("points damaged"));
    let taken = list["points"][0]["taken_at"].as_str().unwrap();
    assert!(taken.ends_with('Z') && taken.contains('T'), "{taken}");
    for name in sorted("point item kind taken_at committed_at consistency disks stored_bytes") {
        assert!(list["points"][0].get(&name).is_some(), "{name}: {list}");
    }
    let stats = home.json(["vault", "stats", &vault]);
    for name in
        sorted("vault location points items logical_bytes deduplicated_bytes compressed_bytes stored_bytes")
    {
        assert!(stats.get(&name).is_some(), "{name}: {stats}");
    }
    // Local time for people.
    let table = home.ok(["point", "list", "--vault", &vault]);
    assert!(table.contains("+01:00") || table.contains("+02:00"), "{table}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::with_vault();
    let mut child =
        home.command(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
