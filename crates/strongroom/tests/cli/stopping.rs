//! Being stopped leaves nothing half, and progress is told where there is no terminal.

use crate::common::{Home, KIB, MIB, send};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Large enough to be stopped in the middle.
fn large(home: &Home) -> String {
    home.image("large.raw", 256 * MIB, &[(0, 192 * MIB)], 11).to_str().unwrap().to_owned()
}

/// Stops a command once `begun` says that it is under way.
fn stop_when(mut child: Child, signal: i32, begun: impl Fn() -> bool) -> (Option<i32>, String) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it did not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    send(&child, signal);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

#[test]
fn a_backup_that_is_stopped_makes_no_point() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = large(&home);
    let backup = ["image", "backup", &source, "--vault", &vault, "--item", "a"];
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let child = home.command(backup).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = || home.path("vault/packs").exists();
        let (code, text) = stop_when(child, signal, begun);
        assert_eq!(code, Some(status), "{text}");
        assert!(text.contains("stopped on request"), "{text}");
        assert_eq!(home.json(["point", "list", "--vault", &vault])["points"], serde_json::json!([]));
    }
    home.ok(["vault", "check", &vault]);
}

#[test]
fn a_restore_that_is_stopped_leaves_no_file() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = large(&home);
    home.ok(["image", "backup", &source, "--vault", &vault, "--item", "a"]);
    std::fs::create_dir(home.path("to")).unwrap();
    for format in ["raw", "qcow2"] {
        let to = home.text("to/out");
        let restore = ["image", "restore", "a@latest", "--vault", &vault, "--to", &to, "--format", format];
        let child = home.command(restore).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Under way when there is a file with data in it.
        let begun = || {
            std::fs::read_dir(home.path("to")).unwrap().any(|entry| {
                crate::common::allocated(&entry.unwrap().path()) > 512 * KIB
            })
        };
        let (code, text) = stop_when(child, libc::SIGTERM, begun);
        assert_eq!(code, Some(143), "{text}");
        assert_eq!(std::fs::read_dir(home.path("to")).unwrap().count(), 0, "{text}");
    }
    assert!(home.contents("vault/sessions").is_empty(), "the leases are gone");
}

#[test]
fn without_a_terminal_progress_comes_in_lines() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = large(&home);
    let backup = ["image", "backup", &source, "--vault", &vault, "--item", "a", "--json"];
    let started = Instant::now();
    let mut child = home.command(backup).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Held up for longer than the first line takes.
    std::thread::sleep(Duration::from_millis(50));
    send(&child, libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(2200));
    send(&child, libc::SIGCONT);
    let mut line = String::new();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    messages.read_line(&mut line).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(started.elapsed() > Duration::from_secs(2));
    assert!(line.starts_with("backing up a: ") && line.contains("/s") && line.ends_with("elapsed\n"), "{line:?}");
    assert!(!line.contains('\r') && !line.contains('\x1b'), "{line:?}");
    // stdout has the document and nothing else.
    serde_json::from_str::<serde_json::Value>(&out).unwrap();
    // Nothing at all when that is wanted.
    let quiet = home.run(["image", "backup", &source, "--vault", &vault, "--item", "a", "-q"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
}
