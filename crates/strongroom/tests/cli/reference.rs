//! `docs/cli.md` says what the program says. After a change of its words, write it anew:
//! `STRONGROOM_WRITE_DOCS=1 cargo test -p strongroom --test cli reference`.

use crate::common::Home;
use std::path::Path;

const INTRODUCTION: &str = "\
# Command reference

What `strongroom help` says, command by command. This page is written by a test from the program itself.

A point is named by its id, by `ITEM@latest`, or by `ITEM@TIME`: the item's last point taken at or before that time,
which is local unless it has a zone (`web01@2026-11-21`, `web01@2026-11-21T20:30`, `web01@2026-11-21T20:30:15Z`).

`--vault` and `--key-file` can also be given as `STRONGROOM_VAULT` and `STRONGROOM_KEY_FILE`. S3 takes its credentials and
endpoint from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`.

With `--json` stdout has one JSON document with exact bytes and UTC times; errors are on stderr as
`{\"error\":{\"code\":…,\"message\":…}}`. The codes: `not-found`, `already-exists`, `busy`, `unsupported`, `needs-full`,
`corrupt`, `denied`, `invalid`, `no-space`, `unavailable`, `cancelled`, `failed`, `usage`.
";

fn reference(home: &Home) -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let help = home.ok(command.iter().map(String::as_str).chain(["--help"]));
        let title =
            ["strongroom".to_owned()].into_iter().chain(command.clone()).collect::<Vec<_>>().join(" ");
        text.push_str(&format!("\n## {title}\n\n```\n{}\n```\n", help.trim_end()));
        let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
        let names: Vec<&str> = listed
            .lines()
            .take_while(|line| line.starts_with("  "))
            .filter(|line| !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .collect();
        open.extend(names.iter().rev().map(|name| {
            let mut below = command.clone();
            below.push((*name).to_owned());
            below
        }));
    }
    text
}

#[test]
fn the_reference_is_what_the_program_says() {
    let text = reference(&Home::new());
    assert!(text.contains("## strongroom vault key export") && text.contains("## strongroom point serve"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    if std::env::var_os("STRONGROOM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == text,
        "docs/cli.md is not up to date; write it anew: STRONGROOM_WRITE_DOCS=1 cargo test -p strongroom --test cli reference"
    );
}
