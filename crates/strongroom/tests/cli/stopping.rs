//! Being stopped leaves nothing half, and progress is told where there is no terminal.

use crate::common::{Home, KIB, MIB, hold, send};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Large enough to be stopped in the middle. Other data for each even seed.
fn large(home: &Home, seed: u64) -> String {
    home.image("large.raw", 256 * MIB, &[(0, 192 * MIB)], seed).to_str().unwrap().to_owned()
}

/// Tries until a command was caught in the middle: on a busy host one may be done before anybody looks.
fn until_caught(mut attempt: impl FnMut(u64) -> bool) {
    assert!((0..30).any(&mut attempt), "it was always done too soon");
}

/// Holds a command still once `begun` says that it is under way; false if it has ended.
fn hold_when(child: &mut Child, begun: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "it did not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    hold(child)
}

/// Stops a command once `begun` says that it is under way; what it ended with, and what it said.
fn stop_when(mut child: Child, signal: i32, begun: impl Fn() -> bool) -> (Option<i32>, String) {
    hold_when(&mut child, begun);
    send(&child, signal);
    send(&child, libc::SIGCONT);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

fn points(home: &Home) -> Vec<String> {
    let listed = home.json(["rescue", "point", "list", "--vault", &home.vault()]);
    let listed = listed["points"].as_array().unwrap().iter();
    listed.map(|point| point["point"].as_str().unwrap().to_owned()).collect()
}

/// Whether a command was done before it could be stopped: then it has made its point, which goes again.
fn was_done(home: &Home, code: Option<i32>, text: &str) -> bool {
    let made = points(home);
    assert_eq!(made.len(), usize::from(code == Some(0)), "{text}");
    for point in &made {
        home.ok(["rescue", "point", "forget", point, "--vault", &home.vault()]);
    }
    code == Some(0)
}

#[test]
fn a_backup_that_is_stopped_makes_no_point() {
    let home = Home::with_vault();
    let vault = home.vault();
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        until_caught(|attempt| {
            // Other data each time: what a stopped backup has written already is not written again.
            let source = large(&home, 100 * signal as u64 + 2 * attempt);
            let backup = ["image", "backup", &source, "--vault", &vault, "--item", "a"];
            let child = home.command(backup).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let before = packs(&home);
            let (code, text) = stop_when(child, signal, || packs(&home) > before);
            if was_done(&home, code, &text) {
                return false;
            }
            assert_eq!(code, Some(status), "{text}");
            assert!(text.contains("stopped on request"), "{text}");
            true
        });
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
    for size_bytes in [300 * MIB, 10 * MIB] {
        until_caught(|attempt| {
            let source = large(&home, 1000 * (size_bytes / MIB) + 2 * attempt);
            let before = packs(&home);
            let mut child = home
                .command(["image", "backup", &source, "--vault", &vault, "--item", "a"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            hold_when(&mut child, || packs(&home) > before);
            std::fs::File::options().write(true).open(&source).unwrap().set_len(size_bytes).unwrap();
            send(&child, libc::SIGCONT);
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            if was_done(&home, output.status.code(), &text) {
                return false;
            }
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("changed its size") || text.contains("became shorter"), "{text}");
            assert!(text.contains("large.raw"), "{text}");
            true
        });
    }
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_restore_that_is_stopped_leaves_no_file() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = large(&home, 11);
    home.ok(["image", "backup", &source, "--vault", &vault, "--item", "a"]);
    let directory = home.path("to");
    std::fs::create_dir(&directory).unwrap();
    for format in ["raw", "qcow2"] {
        until_caught(|_| {
            let to = home.text("to/out");
            let restore =
                ["image", "restore", "a@latest", "--vault", &vault, "--to", &to, "--format", format];
            let child = home.command(restore).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            // Under way when there is a file with data in it, which may go while it is looked at.
            let has_data = |path: &Path| path.metadata().is_ok_and(|file| file.blocks() * 512 > 512 * KIB);
            let begun =
                || std::fs::read_dir(&directory).unwrap().any(|entry| has_data(&entry.unwrap().path()));
            let (code, text) = stop_when(child, libc::SIGTERM, begun);
            assert_eq!(files(&directory), usize::from(code == Some(0)), "{text}");
            if code == Some(0) {
                std::fs::remove_file(&to).unwrap();
                return false;
            }
            assert_eq!(code, Some(143), "{text}");
            true
        });
    }
    assert!(home.open_leases().is_empty(), "the leases are gone");
}

#[test]
fn without_a_terminal_progress_comes_in_lines() {
    let home = Home::with_vault();
    let vault = home.vault();
    let source = home.text("large.raw");
    until_caught(|attempt| {
        large(&home, 500 + 2 * attempt);
        let backup = ["image", "backup", &source, "--vault", &vault, "--item", "a", "--json"];
        let mut child = home.command(backup).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let before = packs(&home);
        // Held up for longer than the first line takes, when some of it is written.
        if hold_when(&mut child, || packs(&home) > before) {
            std::thread::sleep(Duration::from_millis(2200));
            send(&child, libc::SIGCONT);
        }
        let mut line = String::new();
        let mut messages = BufReader::new(child.stderr.take().unwrap());
        messages.read_line(&mut line).unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert!(child.wait().unwrap().success());
        // stdout has the document and nothing else.
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
        if line.is_empty() {
            return false;
        }
        assert!(
            line.starts_with("backing up a: ") && line.contains("/s") && line.ends_with("elapsed\n"),
            "{line:?}"
        );
        assert!(!line.contains('\r') && !line.contains('\x1b'), "{line:?}");
        true
    });
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
    let directory = home.path("to");
    std::fs::create_dir(&directory).unwrap();
    let to = home.text("to/out");
    let restore = ["image", "restore", "a@latest", "--vault", &vault, "--to", &to];
    until_caught(|_| {
        let mut child = home.command(restore).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if hold_when(&mut child, || files(&directory) > 0) {
            send(&child, libc::SIGINT);
            send(&child, libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(1));
            send(&child, libc::SIGINT);
        }
        let code = child.wait().unwrap().code();
        assert_eq!(files(&directory), usize::from(code == Some(0)));
        if code == Some(0) {
            std::fs::remove_file(&to).unwrap();
            return false;
        }
        assert_eq!(code, Some(130));
        true
    });
}
