//! Help, versions, errors as JSON, and readers that go away.

use crate::common::{Home, MIB};
use serde_json::Value;
use std::process::Stdio;

#[test]
fn every_command_has_help_with_an_example() {
    let home = Home::new();
    for command in [
        "",
        "vault create",
        "vault list",
        "vault show",
        "vault delete",
        "vault undelete",
        "vault import",
        "vm list",
        "vm protect",
        "vm backup",
        "vm restore",
        "vm stop",
        "vm resume",
        "vm delete",
        "vm undelete",
        "policy list",
        "policy show",
        "policy create",
        "policy set",
        "policy delete",
        "job list",
        "job show",
        "job watch",
        "job cancel",
        "point list",
        "point show",
        "host list",
        "host places",
        "host networks",
        "image backup",
        "image restore",
        "rescue vault init",
        "rescue vault check",
        "rescue vault reclaim",
        "rescue vault stats",
        "rescue vault key export",
        "rescue vault key import",
        "rescue vm list",
        "rescue vm backup",
        "rescue vm restore",
        "rescue point list",
        "rescue point show",
        "rescue point forget",
        "rescue point serve",
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
    let found = error(&["rescue", "point", "list", "--vault", &home.text("none"), "--json"], 1);
    assert_eq!(found["error"]["code"], "not-found");
    assert!(found["error"]["message"].as_str().unwrap().contains("none"));
    let found = error(&["rescue", "point", "list", "--json"], 2);
    assert_eq!(found["error"]["code"], "usage");
    home.ok(["rescue", "vault", "init", &home.vault()]);
    assert_eq!(
        error(&["rescue", "vault", "init", &home.vault(), "--json"], 1)["error"]["code"],
        "already-exists"
    );
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
    let list = home.json(["rescue", "point", "list", "--vault", &vault]);
    assert_eq!(fields(&list), sorted("points damaged"));
    let taken = list["points"][0]["taken_at"].as_str().unwrap();
    assert!(taken.ends_with('Z') && taken.contains('T'), "{taken}");
    for name in sorted("point item kind taken_at committed_at consistency disks stored_bytes") {
        assert!(list["points"][0].get(&name).is_some(), "{name}: {list}");
    }
    let stats = home.json(["rescue", "vault", "stats", &vault]);
    for name in
        sorted("vault location points items logical_bytes deduplicated_bytes compressed_bytes stored_bytes")
    {
        assert!(stats.get(&name).is_some(), "{name}: {stats}");
    }
    // Local time for people.
    let table = home.ok(["rescue", "point", "list", "--vault", &vault]);
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
