//! `docs/cli.md` says what the program says. After a change of its words, write it anew:
//! `STRONGROOM_WRITE_DOCS=1 cargo test -p strongroom --test cli reference`.

use crate::common::Home;
use std::path::Path;

const INTRODUCTION: &str = "\
# Command reference

What `strongroom help` says, command by command. This page is written by a test from the program itself.

<!-- none of this page is run: the program prints it; a test in crates/strongroom/src/cli.rs has the parser read every example -->

## Two ways

Most commands are about the service: `vault`, `vm`, `policy`, `job`, `point`, `host`. They are clients of its API, and find it
by themselves: the service that runs on the data directory (`--data`, `STRONGROOM_DATA`; over its Unix socket root and the
service's user are administrators), or the one at `--server` (`STRONGROOM_SERVER`), where `STRONGROOM_CLIENT_ID` and
`STRONGROOM_CLIENT_SECRET` say who asks and `--ca` (`STRONGROOM_CA`) whom to trust. Where no service runs on the data directory,
the command does the work in its own process: one host needs no daemon to back up once. Ctrl-C then cancels what was begun;
of a service's job it only ends the waiting.

`--vault` names a vault and may be left out where there is one; a machine is `NAME`, or `GROUP/NAME` where two groups have one of
that name. Times are local unless they have a zone: `2026-11-21`, `2026-11-21T20:30`, `2026-11-21T20:30:15Z`, or so long ago or
from now: `90m`, `12h`, `30d`, `2w`.

`rescue` and `image` need neither the service nor its catalog: `--vault` is a location there, a directory or
`s3://bucket/prefix`, and with `--key-file` that is all. What reads as a place elsewhere in another spelling, such as `sftp:host:dir`, is
refused; a directory with a colon in its name is given as `./a:b`, or from `/` on. A point is named by its id, by `ITEM@latest`, or by
`ITEM@TIME`: the item's last point taken at or before that time. `--vault` and `--key-file` can also be given as `STRONGROOM_VAULT` and
`STRONGROOM_KEY_FILE`. S3 takes its credentials and endpoint from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
`AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`; [object-stores.md](object-stores.md) has the rest.

## Output

With `--json` stdout has one JSON document with exact bytes and UTC times; errors are on stderr, a line each, as
`{\"error\":{\"code\":…,\"message\":…}}`. The codes are those of the API, such as `ResourceNotFound`, and our own:
`not-found`, `already-exists`, `busy`, `unsupported`, `needs-full`, `corrupt`, `denied`, `invalid`, `no-space`,
`unavailable`, `cancelled`, `failed`, `usage`.
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
    assert!(
        text.contains("## strongroom rescue vault key export") && text.contains("## strongroom policy set")
    );
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
