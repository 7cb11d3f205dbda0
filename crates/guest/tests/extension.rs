//! The binary as root on this host: scripts good and bad, the warden, freezing of a file system of its own.

mod common;

use common::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Makes something of a sound laboratory that is not to be followed.
type Spoil = dyn Fn(&Lab);

#[test]
fn scripts_run_around_a_snapshot() {
    let lab = Lab::new();
    lab.script("pre.sh", "echo \"pre $# [$1] [$2] $STRONGROOM_PHASE $(pwd)\" >> log; echo said");
    lab.script("post.sh", "echo post >> log");
    lab.configure(r#""preScriptParams":["a b","*"],"pluginName":"ScriptRunner""#);
    let prepared = lab.prepare("s-1");
    assert_eq!(prepared["ready"], true, "{prepared}");
    assert_eq!(prepared["configured"], true);
    assert_eq!(prepared["pre"]["tries"], 1);
    assert_eq!(prepared["pre"]["output_bytes"], 5);
    assert!(
        prepared["problem"].is_null() && prepared["warnings"].as_array().unwrap().is_empty(),
        "{prepared}"
    );
    assert_eq!(lab.log(), format!("pre 2 [a b] [*] pre {}\n", lab.path().display()));
    let finished = lab.finish("s-1");
    assert_eq!(finished["known"], true, "{finished}");
    assert_eq!((&finished["expired"], &finished["post"]["exit_code"]), (&false.into(), &0.into()));
    assert!(lab.log().ends_with("post\n"));
    // The second time there is nothing to be finished, and nothing is run.
    assert_eq!(lab.finish("s-1")["known"], false);
    assert_eq!(lab.log().matches("post").count(), 1);
    assert_eq!(std::fs::read_dir(lab.run()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn without_a_configuration_nothing_is_run() {
    let lab = Lab::new();
    let prepared = lab.prepare("s");
    assert_eq!((&prepared["configured"], &prepared["ready"]), (&false.into(), &false.into()));
    assert!(prepared["problem"].is_null());
    let finished = lab.finish("s");
    assert!(finished["known"] == true && finished["post"].is_null(), "{finished}");
    for name in ["", "../x", "a b"] {
        assert!(!lab.command("prepare", name).output().unwrap().status.success());
    }
}

#[test]
fn configurations_that_are_not_followed() {
    let cases: &[(&str, &Spoil)] = &[
        ("config-unreadable", &|l| l.write("config.json", "{not json", 0o600)),
        ("config-unreadable", &|l| l.write("config.json", &" ".repeat(70_000), 0o600)),
        ("config-unreadable", &|l| l.write("config.json", "\u{0}\u{1}", 0o600)),
        ("location-missing", &|l| {
            l.write("config.json", r#"{"preScriptLocation":"","postScriptLocation":""}"#, 0o600);
        }),
        ("config-permissions", &|l| chmod(&l.config(), 0o644)),
        ("config-permissions", &|l| chmod(&l.config(), 0o660)),
        ("config-permissions", &|l| std::os::unix::fs::chown(l.config(), Some(1234), None).unwrap()),
        ("config-permissions", &|l| {
            std::fs::rename(l.config(), l.path().join("elsewhere")).unwrap();
            symlink(l.path().join("elsewhere"), l.config()).unwrap();
        }),
        ("config-permissions", &|l| {
            std::fs::remove_file(l.config()).unwrap();
            run("mkfifo", &["-m", "600", l.config().to_str().unwrap()]);
        }),
        ("host-config-permissions", &|l| chmod(l.path(), 0o777)),
        ("host-config-permissions", &|l| l.write("host.conf", "[pre_post]\n", 0o666)),
        ("host-config-unreadable", &|l| l.write("host.conf", "gibberish", 0o600)),
    ];
    for (code, spoil) in cases {
        // It would fail the backup; but it is not followed.
        let lab = Lab::logging(r#""continueBackupOnFailure":false"#);
        spoil(&lab);
        let prepared = lab.prepare("s");
        assert_eq!(prepared["problem"]["code"], *code, "{prepared}");
        assert_eq!((&prepared["ready"], &prepared["continue_on_failure"]), (&false.into(), &true.into()));
        lab.finish("s");
        assert_eq!(lab.log(), "", "{code}: no script is run");
    }
}

#[test]
fn the_host_file_is_read() {
    let lab = Lab::new();
    lab.script("pre.sh", "sleep 20");
    lab.script("post.sh", "");
    lab.configure(r#""timeoutInSeconds":30"#);
    std::fs::rename(lab.config(), lab.path().join("other.json")).unwrap();
    let other = lab.path().join("other.json");
    let text =
        format!("[pre_post]\ntimeoutInSeconds=1\nnumberOfPlugins=1\npluginConfigPath0={}\n", other.display());
    lab.write("host.conf", &text, 0o600);
    let prepared = lab.prepare("s");
    assert_eq!(prepared["problem"]["code"], "pre-script-timeout", "{prepared}");
    assert!(prepared["pre"]["elapsed_ms"].as_u64().unwrap() < 8000);
}

#[test]
fn scripts_that_are_not_run() {
    let cases: &[(&str, &Spoil)] = &[
        ("pre-script-not-found", &|l| std::fs::remove_file(l.path().join("pre.sh")).unwrap()),
        ("post-script-not-found", &|l| std::fs::remove_file(l.path().join("post.sh")).unwrap()),
        ("pre-script-permissions", &|l| chmod(&l.path().join("pre.sh"), 0o777)),
        ("pre-script-permissions", &|l| chmod(&l.path().join("pre.sh"), 0o755)),
        ("pre-script-permissions", &|l| chmod(&l.path().join("pre.sh"), 0o600)),
        ("pre-script-permissions", &|l| chmod(&l.path().join("pre.sh"), 0o4700)),
        ("post-script-permissions", &|l| chmod(&l.path().join("post.sh"), 0o702)),
        ("pre-script-permissions", &|l| {
            std::os::unix::fs::chown(l.path().join("pre.sh"), Some(1234), None).unwrap();
        }),
        ("pre-script-permissions", &|l| {
            std::fs::rename(l.path().join("pre.sh"), l.path().join("real.sh")).unwrap();
            symlink("real.sh", l.path().join("pre.sh")).unwrap();
        }),
        ("pre-script-permissions", &|l| {
            std::fs::remove_file(l.path().join("pre.sh")).unwrap();
            std::fs::create_dir(l.path().join("pre.sh")).unwrap();
        }),
    ];
    for (code, spoil) in cases {
        let lab = Lab::logging(r#""continueBackupOnFailure":false"#);
        spoil(&lab);
        let prepared = lab.prepare("s");
        assert_eq!(prepared["problem"]["code"], *code, "{prepared}");
        assert_eq!((&prepared["ready"], &prepared["continue_on_failure"]), (&false.into(), &false.into()));
        lab.finish("s");
        assert_eq!(lab.log(), "", "{code}: the pre-check failed, so that neither is run");
    }
    // A way that others can change, and one through a link.
    for (make, words) in
        [("mkdir -m 777 way", "changed by others"), ("mkdir there; ln -s there way", "symbolic link")]
    {
        let lab = Lab::new();
        lab.sh(make);
        lab.script("way/pre.sh", "echo pre >> log");
        lab.script("post.sh", "echo post >> log");
        lab.configure_with("way/pre.sh", "post.sh", "");
        let prepared = lab.prepare("s");
        assert_eq!(prepared["problem"]["code"], "pre-script-permissions", "{prepared}");
        assert!(prepared["problem"]["message"].as_str().unwrap().contains(words), "{prepared}");
        assert!(!lab.path().join("way/log").exists());
    }
}

#[test]
fn failures_are_tried_again() {
    let lab = Lab::new();
    lab.script("pre.sh", "echo try >> log; echo 'out of luck' >&2; [ $(wc -l < log) -ge 3 ]");
    lab.script("post.sh", "echo post >> log");
    let quickly = r#""ScriptsExecutionPollTimeSeconds":1,"timeoutInSeconds":30"#;
    lab.configure(&format!(r#""preScriptNoOfRetries":4,{quickly}"#));
    let prepared = lab.prepare("a");
    assert_eq!((&prepared["ready"], &prepared["pre"]["tries"]), (&true.into(), &3.into()), "{prepared}");
    lab.finish("a");

    lab.sh("rm log");
    lab.configure(&format!(r#""preScriptNoOfRetries":1,{quickly}"#));
    let prepared = lab.prepare("b");
    assert_eq!((&prepared["ready"], &prepared["pre"]["tries"]), (&false.into(), &2.into()), "{prepared}");
    let problem = &prepared["problem"];
    assert_eq!(
        (&problem["code"], &problem["output"]),
        (&"pre-script-failed".into(), &"out of luck\nout of luck".into())
    );
    assert!(problem["message"].as_str().unwrap().contains("exited with 1 (tried 2 times)"), "{problem}");
    let finished = lab.finish("b");
    assert!(finished["post"]["exit_code"] == 0 && lab.log().ends_with("post\n"), "it runs all the same");

    lab.script("post.sh", "echo bad; exit 7");
    lab.configure("");
    lab.script("pre.sh", "");
    lab.prepare("c");
    let finished = lab.finish("c");
    assert_eq!(finished["problem"]["code"], "post-script-failed", "{finished}");
    assert_eq!((&finished["post"]["exit_code"], &finished["problem"]["output"]), (&7.into(), &"bad".into()));

    // What cannot be run at all.
    lab.write("pre.sh", "#!/no/such/interpreter\n", 0o700);
    let prepared = lab.prepare("d");
    assert_eq!(prepared["problem"]["code"], "pre-script-failed", "{prepared}");
    assert!(prepared["problem"]["message"].as_str().unwrap().contains("interpreter"), "{prepared}");
    lab.finish("d");
}

#[test]
fn one_that_hangs_is_ended_with_all_it_started() {
    let lab = Lab::new();
    // Children that ignore requests to end, in a session of their own, and one whose parent is gone.
    lab.script(
        "pre.sh",
        "trap '' TERM
        setsid sh -c 'trap \"\" TERM; echo $$ >> pids; while :; do sleep 1; done' &
        (sh -c 'trap \"\" TERM; echo $$ >> pids; while :; do sleep 1; done' &)
        echo $$ >> pids; echo hanging; while :; do sleep 1; done",
    );
    lab.script("post.sh", "echo post >> log");
    lab.configure(r#""timeoutInSeconds":1"#);
    let began = Instant::now();
    let prepared = lab.prepare("s");
    assert_eq!(prepared["problem"]["code"], "pre-script-timeout", "{prepared}");
    assert_eq!(prepared["problem"]["output"], "hanging");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let pids = std::fs::read_to_string(lab.path().join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 3);
    for pid in pids.lines() {
        assert!(!is_alive(pid), "{pid} is left");
    }
    lab.finish("s");
    assert_eq!(lab.log(), "post\n");
}

#[test]
fn output_without_end() {
    let lab = Lab::new();
    lab.script("pre.sh", "head -c 10485760 /dev/zero | tr '\\0' 'x'; echo; echo the end");
    lab.script("post.sh", "yes | head -c 10000000; exit 1");
    lab.configure("");
    let prepared = lab.prepare("s");
    assert_eq!(prepared["ready"], true, "{prepared}");
    assert_eq!(prepared["pre"]["output_bytes"], 10_485_760 + 9);
    let finished = lab.finish("s");
    let output = finished["problem"]["output"].as_str().unwrap();
    assert!(output.len() <= 8192 && output.starts_with("y\n"), "{}", output.len());
}

#[test]
fn children_that_stay_are_left_alone() {
    let lab = Lab::new();
    lab.script(
        "pre.sh",
        "(echo $$ > /dev/null; sh -c 'echo $$ > pid; for i in $(seq 40); do sleep 0.5; echo still here; date >> alive; done') &
        sleep 0.2",
    );
    lab.script("post.sh", "");
    lab.configure("");
    let prepared = lab.prepare("s");
    assert_eq!(prepared["ready"], true, "{prepared}");
    let pid = std::fs::read_to_string(lab.path().join("pid")).unwrap();
    assert!(is_alive(pid.trim()), "it is not waited for");
    // It prints to a pipe whose reader has ended, and lives.
    std::thread::sleep(Duration::from_millis(1800));
    assert!(is_alive(pid.trim()));
    assert!(std::fs::read_to_string(lab.path().join("alive")).unwrap().lines().count() >= 2);
    lab.finish("s");
}

/// What was checked is what runs, however often the name changes hands.
#[test]
fn changed_between_check_and_run() {
    let lab = Lab::new();
    lab.script("good.sh", "echo good >> log");
    lab.write("evil.sh", "#!/bin/sh\necho evil >> log\n", 0o777);
    lab.script("pre.sh", "");
    lab.script("post.sh", "");
    lab.configure("");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for kind in ["good.sh", "evil.sh"] {
                    std::fs::hard_link(lab.path().join(kind), lab.path().join("next")).unwrap();
                    std::fs::rename(lab.path().join("next"), lab.path().join("pre.sh")).unwrap();
                    let _ = std::fs::remove_file(lab.path().join("next"));
                }
            }
        });
        let (mut ran, mut refused) = (0, 0);
        for round in 0..60 {
            let prepared = lab.prepare(&format!("s{round}"));
            match prepared["ready"] == true {
                true => ran += 1,
                false => {
                    assert_eq!(prepared["problem"]["code"], "pre-script-permissions", "{prepared}");
                    refused += 1;
                }
            }
            lab.finish(&format!("s{round}"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        eprintln!("{ran} ran, {refused} were refused");
    });
    assert!(!lab.log().contains("evil"), "{}", lab.log());

    // Between two tries as well; and the post-script is checked when its turn has come.
    let lab = Lab::new();
    lab.script("other.sh", "echo other >> log");
    lab.script("pre.sh", "echo first >> log; mv other.sh pre.sh; [ $(wc -l < log) -ge 2 ]");
    lab.script("post.sh", "echo post >> log");
    lab.configure(r#""preScriptNoOfRetries":1,"ScriptsExecutionPollTimeSeconds":1"#);
    assert_eq!(lab.prepare("s")["ready"], true);
    assert_eq!(lab.log(), "first\nfirst\n");
    chmod(&lab.path().join("post.sh"), 0o777);
    let finished = lab.finish("s");
    assert_eq!(finished["problem"]["code"], "post-script-permissions", "{finished}");
    assert!(!lab.log().contains("post"));
}

#[test]
fn the_next_preparation_ends_a_session_that_was_left() {
    let lab = Lab::logging("");
    lab.prepare("a");
    let prepared = lab.prepare("b");
    assert!(prepared["warnings"][0].as_str().unwrap().contains("not finished"), "{prepared}");
    assert_eq!(lab.log(), "pre\npost\npre\n");
    assert_eq!(lab.finish("a")["known"], false);
    assert_eq!(lab.finish("b")["known"], true);
    assert_eq!(lab.log(), "pre\npost\npre\npost\n");
}

/// Killed in the pre-script: the script ends too, the post-script runs, by the warden.
#[test]
fn killed_while_it_prepares() {
    let lab = Lab::new();
    lab.script("pre.sh", "echo $$ > pid; sleep 30; echo late >> log");
    lab.script("post.sh", "echo post >> log");
    lab.configure(r#""timeoutInSeconds":60"#);
    let mut child = lab
        .command("prepare", "s")
        .args(["--limit", "2"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the pre-script runs", || lab.path().join("pid").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let pid = std::fs::read_to_string(lab.path().join("pid")).unwrap();
    wait_until("the post-script has run", || lab.log() == "post\n");
    assert!(!is_alive(pid.trim()));
    wait_until("it is told", || lab.finish("s")["post"]["exit_code"] == 0);
    assert_eq!(lab.finish("s")["expired"], true);
}

/// The host is gone while the agent has frozen: thawed in time, and the post-script runs. The binary is gone too.
#[test]
fn nobody_finishes() {
    let lab = Lab::logging("");
    let disk = Disk::new();
    lab.agent_says_frozen(false);
    let copy = lab.path().join("extension");
    std::fs::copy(BINARY, &copy).unwrap();
    let output = lab
        .with(Command::new(&copy), "prepare", "s")
        .args(["--limit", "3", "--only", disk.mount()])
        .output()
        .unwrap();
    assert!(output.status.success());
    std::fs::remove_file(&copy).unwrap();
    lab.agent_says_frozen(true);
    run("fsfreeze", &["-f", disk.mount()]);
    assert!(disk.is_frozen());
    wait_until("it is thawed", || !disk.is_frozen());
    wait_until("the post-script has run", || lab.log() == "pre\npost\n");
    let finished = lab.finish("s");
    assert_eq!((&finished["known"], &finished["expired"]), (&true.into(), &true.into()), "{finished}");
    assert_eq!(lab.log(), "pre\npost\n", "once");
}

#[test]
fn what_somebody_else_froze_stays_frozen() {
    let lab = Lab::new();
    let disk = Disk::new();
    lab.agent_says_frozen(false);
    run("fsfreeze", &["-f", disk.mount()]);
    let prepared = lab.prepare_with("s", &["--limit", "1", "--only", disk.mount()]);
    assert_eq!(prepared["configured"], false, "{prepared}");
    wait_until("its time is over", || !lab.run().join("session").exists());
    assert_eq!(lab.finish("s")["expired"], true);
    assert!(disk.is_frozen(), "the agent says that it has not frozen");
    run("fsfreeze", &["-u", disk.mount()]);

    // Freezing by itself finds it so and leaves it so.
    run("fsfreeze", &["-f", disk.mount()]);
    let mut hold = Holding::new(disk.mount(), 20);
    assert_eq!((&hold.frozen["count"], &hold.frozen["already"]), (&0.into(), &1.into()));
    assert_eq!(hold.end()["count"], 0);
    assert!(disk.is_frozen());
    run("fsfreeze", &["-u", disk.mount()]);
}

#[test]
fn frozen_and_thawed_without_an_agent() {
    let disk = Disk::new();
    let mut hold = Holding::new(disk.mount(), 20);
    assert_eq!(hold.frozen["count"], 1);
    assert!(disk.is_frozen());
    let thawed = hold.end();
    assert_eq!((&thawed["count"], &thawed["expired"]), (&1.into(), &false.into()));
    assert!(disk.is_thawed());
}

/// Whoever of the two processes is killed, and if neither does anything: it is thawed.
#[test]
fn killed_while_it_is_frozen() {
    let disk = Disk::new();
    let mut hold = Holding::new(disk.mount(), 20);
    assert!(disk.is_frozen());
    hold.child.kill().unwrap();
    hold.child.wait().unwrap();
    wait_until("the guardian thaws", || !disk.is_frozen());

    let mut hold = Holding::new(disk.mount(), 20);
    let guardian = children_of(hold.child.id()).remove(0);
    run("kill", &["-9", &guardian]);
    wait_until("the guardian is gone", || !is_alive(&guardian));
    let thawed = hold.end();
    assert_eq!(thawed["expired"], true, "{thawed}");
    assert!(disk.is_thawed());

    let mut hold = Holding::new(disk.mount(), 1);
    wait_until("the time is over", || !disk.is_frozen());
    assert_eq!(hold.end()["expired"], true);
}

#[test]
fn over_its_own_port() {
    let lab = Lab::logging("");
    let disk = Disk::new();
    let mut port = Port::new();
    let server = Server::start(&lab, &disk, &port);
    // Nobody's requests have no answer.
    port.send("garbage\n\u{1}\n{\"id\":\"x\"}\n{}\n");
    port.send(&format!("{}\n", "y".repeat(100_000)));
    assert!(port.call(r#"{"id":18446744073709551615,"do":"version"}"#)["value"]["version"].is_string());
    assert!(port.call(r#"{"id":2,"do":"prepare","session":"../x"}"#)["error"].is_string());
    assert_eq!(port.call(r#"{"id":3,"do":"prepare","session":"s"}"#)["value"]["ready"], true);
    assert_eq!(port.call(r#"{"id":4,"do":"freeze"}"#)["value"]["count"], 1);
    assert!(disk.is_frozen());
    assert!(port.call(r#"{"id":5,"do":"freeze"}"#)["error"].as_str().unwrap().contains("already"));
    assert_eq!(port.call(r#"{"id":6,"do":"thaw"}"#)["value"]["count"], 1);
    assert!(disk.is_thawed());
    assert_eq!(port.call(r#"{"id":7,"do":"finish","session":"s"}"#)["value"]["known"], true);
    assert_eq!(lab.log(), "pre\npost\n");
    // The host hangs up; the server is killed: thawed both times.
    assert_eq!(port.call(r#"{"id":8,"do":"freeze"}"#)["value"]["count"], 1);
    drop(port);
    wait_until("it is thawed when the host is gone", || !disk.is_frozen());
    drop(server);
    let mut port = Port::new();
    let server = Server::start(&lab, &disk, &port);
    assert_eq!(port.call(r#"{"id":9,"do":"freeze"}"#)["value"]["count"], 1);
    drop(server);
    wait_until("it is thawed when the server is gone", || !disk.is_frozen());
}

#[test]
fn help_and_mistakes() {
    for words in [
        &[][..],
        &["dance"],
        &["prepare", "--session"],
        &["prepare", "--limit", "0"],
        &["prepare", "--limit", "600"],
    ] {
        let output = Command::new(BINARY).args(words).output().unwrap();
        assert!(!output.status.success(), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("strongroom-guest"), "{words:?}");
    }
    assert!(Path::new(BINARY).metadata().unwrap().permissions().mode() & 0o111 != 0);
}
