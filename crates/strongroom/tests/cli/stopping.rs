//! Being stopped leaves nothing half, and progress is told where there is no terminal.

use crate::common::{Home, KIB, MIB, hold, send};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Large enough to be stopped in the middle.
fn large(home: &Home, seed: u64) -> String {
    home.image("large.raw", 256 * MIB, &[(0, 192 * MIB)], seed).to_str().unwrap().to_owned()
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
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        // Other data each time: what a stopped backup has written already is not written again.
        let source = large(&home, signal as u64);
        let backup = ["image", "backup", &source, "--vault", &vault, "--item", "a"];
        let child = home.command(backup).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let before = packs(&home);
        let begun = || packs(&home) > before;
        let (code, text) = stop_when(child, signal, begun);
        assert_eq!(code, Some(status), "{text}");
        assert!(text.contains("stopped on request"), "{text}");
        assert_eq!(
            home.json(["rescue", "point", "list", "--vault", &vault])["points"],
            serde_json::json!([])
        );
    }
    home.ok(["rescue", "vault", "check", &vault]);
}

fn packs(home: &Home) -> usize {
    let Ok(below) = home.path("vault/packs").read_dir() else { return 0 };
    below.filter_map(|entry| entry.unwrap().path().read_dir().ok()).map(Iterator::count).sum()
}

#[test]
fn an_image_that_changes_its_size_meanwhile_makes_no_point() {
    let home = Home::with_vault();
    let vault = home.vault();
    for (seed, size_bytes) in [(21, 300 * MIB), (22, 10 * MIB)] {
        let source = large(&home, seed);
        let before = packs(&home);
        let mut child = home
            .command(["image", "backup", &source, "--vault", &vault, "--item", "a"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while packs(&home) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(hold(&child), "it was done too soon");
        std::fs::File::options().write(true).open(&source).unwrap().set_len(size_bytes).unwrap();
        send(&child, libc::SIGCONT);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("changed its size") || text.contains("became shorter"), "{text}");
        assert!(text.contains("large.raw"), "{text}");
        assert_eq!(
            home.json(["rescue", "point", "list", "--vault", &vault])["points"],
            serde_json::json!([])
        );
    }
}

#[test]
fn a_restore_that_is_stopped_leaves_no_file() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = large(&home, 11);
    home.ok(["image", "backup", &source, "--vault", &vault, "--item", "a"]);
    std::fs::create_dir(home.path("to")).unwrap();
    for format in ["raw", "qcow2"] {
        let to = home.text("to/out");
        let restore = ["image", "restore", "a@latest", "--vault", &vault, "--to", &to, "--format", format];
        let child = home.command(restore).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Under way when there is a file with data in it.
        let begun = || {
            std::fs::read_dir(home.path("to"))
                .unwrap()
                .any(|entry| crate::common::allocated(&entry.unwrap().path()) > 512 * KIB)
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
    let source = large(&home, 11);
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
    assert!(
        line.starts_with("backing up a: ") && line.contains("/s") && line.ends_with("elapsed\n"),
        "{line:?}"
    );
    assert!(!line.contains('\r') && !line.contains('\x1b'), "{line:?}");
    // stdout has the document and nothing else.
    serde_json::from_str::<serde_json::Value>(&out).unwrap();
    // Nothing at all when that is wanted.
    let quiet = home.run(["image", "backup", &source, "--vault", &vault, "--item", "a", "-q"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_still_leaves_no_file() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = large(&home, 12);
    home.ok(["image", "backup", &source, "--vault", &vault, "--item", "a"]);
    std::fs::create_dir(home.path("to")).unwrap();
    let to = home.text("to/out");
    let restore = ["image", "restore", "a@latest", "--vault", &vault, "--to", &to];
    let mut child = home.command(restore).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while std::fs::read_dir(home.path("to")).unwrap().count() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&child, libc::SIGINT);
    std::thread::sleep(Duration::from_millis(1));
    send(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(home.path("to")).unwrap().count(), 0);
}
