//! What comes in on standard input, and goes out on standard output.

use crate::common::{Home, KIB, MIB, random, send};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// Gives a command these bytes on its standard input.
fn feed(home: &Home, arguments: &[&str], bytes: &[u8]) -> Output {
    let mut child = home
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may have had enough before the end.
    let _ = input.write_all(bytes);
    drop(input);
    child.wait_with_output().unwrap()
}

fn backup(home: &Home, name: &str, bytes: &[u8]) -> Value {
    let vault = home.vault();
    let output = feed(home, &["image", "backup", "-", "--vault", &vault, "--name", name, "--json"], bytes);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn restored(home: &Home, point: &str, format: &str) -> Vec<u8> {
    let vault = home.vault();
    let output =
        home.run(["image", "restore", point, "--vault", &vault, "--to", "-", "--format", format, "-q"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

#[test]
fn streams_of_any_length_come_back_and_share_what_is_there() {
    let home = Home::with_vault();
    for length in [1, 64 * KIB, 8 * MIB - 1, 8 * MIB, 16 * MIB + 5] {
        let bytes = random(length, 3);
        let told = backup(&home, "a", &bytes);
        assert_eq!((&told["size_bytes"], &told["source_format"]), (&json!(length), &json!("raw")));
        assert!(restored(&home, "a@latest", "raw") == bytes, "{length} bytes differ");
    }
    // Against the point before: what is the same counts as that, also where the stream grows or shrinks.
    let mut bytes = random(16 * MIB + 5, 3);
    let told = backup(&home, "a", &bytes);
    assert_eq!((&told["changed_bytes"], &told["new_bytes"]), (&json!(0), &json!(0)), "{told}");
    assert!(told["parent"].is_string());
    bytes[MIB as usize..][..10].fill(7);
    bytes.extend(random(MIB, 4));
    let told = backup(&home, "a", &bytes);
    let new = told["new_bytes"].as_u64().unwrap();
    assert!(new <= MIB + 3 * 64 * KIB && told["changed_bytes"] == new, "{told}");
    bytes.truncate(3 * MIB as usize + 1);
    let told = backup(&home, "a", &bytes);
    assert!(told["new_bytes"].as_u64().unwrap() <= 64 * KIB, "{told}");
    assert!(restored(&home, "a@latest", "raw") == bytes);
    // Another name shares it too, and so does the same in a file.
    assert_eq!(backup(&home, "b", &bytes)["new_bytes"], 0);
    std::fs::write(home.path("file"), &bytes).unwrap();
    let told = home.json(["image", "backup", &home.text("file"), "--vault", &home.vault(), "--item", "b"]);
    assert_eq!((&told["changed_bytes"], &told["new_bytes"]), (&json!(0), &json!(0)), "{told}");

    // Zeroes are holes.
    let mut sparse = vec![0; 24 * MIB as usize];
    sparse[12 * MIB as usize] = 1;
    let told = backup(&home, "c", &sparse);
    assert_eq!((&told["read_bytes"], &told["new_bytes"]), (&json!(24 * MIB), &json!(64 * KIB)), "{told}");
    assert!(restored(&home, "c@latest", "raw") == sparse);
    std::fs::write(home.path("c.qcow2"), restored(&home, "c@latest", "qcow2")).unwrap();
    crate::common::tool("qemu-img", ["convert", "-O", "raw", &home.text("c.qcow2"), &home.text("c.raw")]);
    assert!(std::fs::read(home.path("c.raw")).unwrap() == sparse);
    home.ok(["rescue", "vault", "check", &home.vault(), "--read-data"]);
}

#[test]
fn streams_that_do_not_come_to_their_end_make_no_point() {
    let home = Home::with_vault();
    let vault = home.vault();
    let before = home.contents("vault/points");
    let arguments = ["image", "backup", "-", "--vault", &vault, "--item", "a"];
    let refused = |more: &[&str], bytes: &[u8], words: &[&str]| {
        let output = feed(&home, &[&arguments[..], more].concat(), bytes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    };
    refused(&[], b"", &["before its first byte", "nothing was backed up"]);
    refused(&["--size", "1000"], &random(999, 1), &["999 of the 1000 bytes"]);
    refused(&["--size", "100"], &random(10 * MIB, 1), &["longer than the 100 bytes"]);
    refused(&["--source-format", "qcow2"], b"x", &["stored as it comes"]);
    refused(&["--changed-extents", "x"], b"x", &["--changed-extents"]);
    home.fails(
        1,
        &["--size", "standard input"],
        ["image", "backup", "x", "--vault", &vault, "--item", "a", "--size", "1"],
    );
    assert_eq!(home.contents("vault/points"), before);

    // Stopped while whoever writes to it takes its time.
    let mut child = home
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&random(20 * MIB, 1)).unwrap();
    let asked = Instant::now();
    send(&child, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(20), "it waits for the stream");
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    drop(input);
    assert_eq!(home.contents("vault/points"), before);

    feed(&home, &[&arguments[..], &["--size", "999"]].concat(), &random(999, 1));
    assert!(restored(&home, "a@latest", "raw") == random(999, 1));
    home.fails(1, &["--json"], ["image", "restore", "a@latest", "--vault", &vault, "--to", "-", "--json"]);
}

#[test]
fn whoever_reads_a_restored_disk_may_go_away() {
    let home = Home::with_vault();
    let vault = home.vault();
    backup(&home, "a", &random(4 * MIB, 1));
    let mut child = home
        .command(["image", "restore", "a@latest", "--vault", &vault, "--to", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("went away"), "{output:?}");
}
