//! What the scripts of `scripts/` promise that no run of theirs would show.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn said(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap().trim_end().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn json_value(document: &str, steps: &[&str]) -> (bool, String, String) {
    let mut child = Command::new(tree().join("scripts/json-value"))
        .arg("-")
        .args(steps)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap())
}

/// A point's list holds its disks: their names are nearer to the top than the point's own.
#[test]
fn a_value_is_taken_from_its_place_and_nowhere_else() {
    let answer = r#"{"disks": [{"name": "vda"}], "backups": [{"job": {"job": "7", "percent": 99.5, "is over": true},
        "point": {"disks": [{"name": "vda"}], "point": "4711", "reason": null}}]}"#;
    let taken = |steps: &[&str]| json_value(answer, steps);
    assert_eq!(taken(&["backups", "0", "point", "point"]), (true, "4711".into(), String::new()));
    assert_eq!(taken(&["backups", "0", "job", "percent"]).1, "99.5");
    assert_eq!(taken(&["backups", "0", "job", "is over"]).1, "true");
    assert_eq!(taken(&["backups", "0", "point", "reason"]).1, "null");
    assert_eq!(taken(&["disks"]).1, r#"[{"name": "vda"}]"#);
    for (steps, why) in [
        (&["name"][..], "the document has no member 'name'; it has: disks, backups"),
        (&["backups", "0", "name"], "backups 0 has no member 'name'; it has: job, point"),
        (&["backups", "1", "point"], "backups has no element 1: it is an array of 1"),
        (&["backups", "-1"], "backups has no element -1: it is an array of 1"),
        (&["backups", "point"], "backups has no element point: it is an array of 1"),
        (&["backups", "0", "point", "point", "0"], "backups 0 point point is \"4711\", which has no members"),
    ] {
        let (passed, out, error) = taken(steps);
        assert!(!passed && out.is_empty(), "{steps:?}: {out}");
        assert_eq!(error, format!("json-value: -: {why}"));
    }
    assert!(!json_value("", &[]).0 && !json_value("[1", &["0"]).0);
}

#[test]
fn the_demo_names_its_parts() {
    let demo = |arguments: &[&str]| {
        said(&Command::new(tree().join("scripts/demo")).args(arguments).output().unwrap())
    };
    let (passed, parts, _) = demo(&["--list"]);
    assert!(passed);
    for part in ["core", "az", "az-restore", "all"] {
        assert!(
            parts.lines().any(|line| line.contains(&format!("make demo PART={part} "))),
            "{part}: {parts}"
        );
    }
    let (passed, _, error) = demo(&["core", "no-such-part"]);
    assert!(!passed && error.contains("there is no part no-such-part; there are: core az"), "{error}");
    let (passed, recipe, _) = said(
        &Command::new("make").args(["-n", "-C"]).arg(tree()).args(["demo", "PART=all"]).output().unwrap(),
    );
    assert!(passed && recipe.contains("scripts/demo all"), "{recipe}");
}

/// A clone of its own, so that this one's notes stay.
#[test]
fn a_green_run_is_noted_of_an_unchanged_commit_alone() {
    let home = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let (passed, out, error) = said(
            &Command::new("git")
                .args([
                    "-c",
                    "user.name=test",
                    "-c",
                    "user.email=test@localhost",
                    "-c",
                    "commit.gpgsign=false",
                ])
                .args(arguments)
                .current_dir(home.path())
                .output()
                .unwrap(),
        );
        assert!(passed, "git {arguments:?}: {error}");
        out
    };
    let script = home.path().join("scripts/last-green");
    std::fs::create_dir(home.path().join("scripts")).unwrap();
    std::fs::copy(tree().join("scripts/last-green"), &script).unwrap();
    let noted = |arguments: &[&str]| {
        let (passed, out, error) = said(&Command::new(&script).args(arguments).output().unwrap());
        assert!(passed && error.is_empty(), "{arguments:?}: {error}");
        out
    };
    // No clone: nothing to note, nothing to complain of.
    assert_eq!(noted(&["begin"]), "");
    noted(&["end", "test", ""]);
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    let first = git(&["rev-parse", "HEAD"]);
    let note = home.path().join(".git/last-green-test");
    assert_eq!(noted(&["begin"]), first);
    // A change on the way.
    std::fs::write(home.path().join("new"), "").unwrap();
    assert_eq!(noted(&["begin"]), "");
    noted(&["end", "test", &first]);
    assert!(!note.exists());
    // Another commit on the way.
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "two"]);
    noted(&["end", "test", &first]);
    assert!(!note.exists());
    let second = noted(&["begin"]);
    noted(&["end", "test", &second]);
    let text = std::fs::read_to_string(&note).unwrap();
    let (commit, at) = text.trim_end().split_once(' ').unwrap();
    assert_eq!(commit, second);
    assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");
    assert_eq!(noted(&["show"]), format!("test: {}", text.trim_end()));
    let status = noted(&["status"]);
    let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert!(line("test ").contains(&second[..12]) && line("test ").ends_with("unchanged since"), "{status}");
    assert!(line("soak ").ends_with("never passed whole here"), "{status}");

    // What a run itself writes is no change; and a whole that has parts has passed when all of them have, on one commit.
    std::fs::write(home.path().join("figures"), "").unwrap();
    noted(&["end", "soak-one", &second]);
    noted(&["end", "soak-one", &second, "figures"]);
    assert!(home.path().join(".git/last-green-soak-one").exists());
    noted(&["all", "soak", "soak-one", "soak-two"]);
    assert!(!home.path().join(".git/last-green-soak").exists());
    noted(&["end", "soak-two", &second, "figures"]);
    noted(&["all", "soak", "soak-one", "soak-two"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "three"]);
    let status = noted(&["status"]);
    let line = status.lines().find(|l| l.starts_with("soak ")).unwrap();
    assert!(
        line.contains(&second[..12]) && line.ends_with("since then 1 commits, 1 files that differ"),
        "{status}"
    );
    noted(&["end", "soak-two", &git(&["rev-parse", "HEAD"])]);
    std::fs::remove_file(home.path().join(".git/last-green-soak")).unwrap();
    noted(&["all", "soak", "soak-one", "soak-two"]);
    assert!(!home.path().join(".git/last-green-soak").exists(), "of two commits");
}

#[test]
fn the_soak_names_its_parts() {
    let soak = |arguments: &[&str]| {
        said(&Command::new(tree().join("scripts/soak")).args(arguments).output().unwrap())
    };
    let (passed, parts, _) = soak(&["list"]);
    assert!(passed);
    for part in ["kills", "restores", "load", "az", "rules"] {
        assert!(
            parts.lines().any(|line| line.contains(&format!("make soak PART={part} "))),
            "{part}: {parts}"
        );
    }
    let (passed, _, error) = soak(&["no-such-part"]);
    assert!(!passed && error.contains("there is no part no-such-part; there are: kills"), "{error}");
}

/// As cargo-nextest writes it.
#[test]
fn a_run_tells_its_slow_tests_and_its_second_tries() {
    let home = tempfile::tempdir().unwrap();
    let report = home.path().join("junit.xml");
    let cases: String = (0..12)
        .map(|n| format!(r#"<testcase name="n{n}" classname="crate::binary" time="{n}.25"></testcase>"#))
        .collect();
    std::fs::write(
        &report,
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <testsuites name="nextest-run" tests="13"><testsuite name="crate::binary" tests="13">{cases}
            <testcase name="shaky" classname="crate::binary" time="0.75"><flakyFailure timestamp="x" time="9.0"
                message="thread panicked" type="test failure with exit code 101">more</flakyFailure></testcase>
            </testsuite></testsuites>"#
        ),
    )
    .unwrap();
    let (passed, out, error) =
        said(&Command::new(tree().join("scripts/slow-and-flaky")).arg(&report).output().unwrap());
    assert!(passed, "{error}");
    assert!(out.contains("The longest of 13 tests, which took 70 s one after the other"), "{out}");
    let of_binary =
        |name: &str| out.lines().filter(|l| l.ends_with(&format!("crate::binary {name}"))).count();
    assert_eq!((of_binary("n11"), of_binary("n2"), of_binary("n1")), (1, 1, 0), "{out}");
    assert!(out.contains("second try only") && out.contains("crate::binary shaky: thread panicked"), "{out}");
}
