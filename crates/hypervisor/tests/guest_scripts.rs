//! The extension inside a machine: installed, run, upset, replaced; what scripts make of the consistency; agents that lie.

mod common;

use common::tiny::*;
use common::*;
use std::time::{Duration, Instant};
use strongroom_domain::ConsistencyLevel;
use strongroom_hypervisor::*;

const PLACE: &str = "/var/lib/strongroom-guest";

/// Azure's configuration in the guest, with scripts of these bodies.
fn configure(guest: &Guest<'_>, pre: &str, post: &str, keys: &str) {
    let comma = if keys.is_empty() { "" } else { "," };
    guest.sh(&format!(
        "umask 077; mkdir -p /etc/azure; cd /etc/azure
        cat > pre.sh <<'END'\n#!/bin/sh\n{pre}\nEND
        cat > post.sh <<'END'\n#!/bin/sh\n{post}\nEND
        chmod 700 pre.sh post.sh
        cat > VMSnapshotScriptPluginConfig.json <<'END'\n{{\"preScriptLocation\":\"/etc/azure/pre.sh\",\"postScriptLocation\":\"/etc/azure/post.sh\"{comma}{keys}}}\nEND
        chmod 600 VMSnapshotScriptPluginConfig.json"
    ));
}

fn report(snapshot: &MachineSnapshot) -> &GuestReport {
    snapshot.guest.as_ref().expect("the extension took part")
}

#[test]
fn machine_scripts_earn_application_consistency() {
    let storage = Storage::new(Kind::Xfs);
    let mut guest = Guest::start(&storage, &["vda:qcow2:32M", "vdb:raw:32M"], "all");
    // The first time: installed by itself, and nothing is configured.
    let first = guest.snapshot();
    assert_eq!(first.consistency.level, ConsistencyLevel::FileSystem, "{}", first.consistency);
    assert!(first.consistency.reason.contains("no scripts are configured"), "{}", first.consistency);
    assert!(report(&first).installed && !report(&first).configured && first.warnings.is_empty(), "{first:?}");
    drop(first);
    assert_eq!(guest.sh(&format!("stat -c '%a %u' {PLACE} {PLACE}/*")), "700 0\n700 0\n");

    // Not synced: the freeze brings it to the disk.
    configure(&guest, "echo held > /mnt/vda/state; sleep 0.1", "echo free > /mnt/vda/state", "");
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Application, "{}", snapshot.consistency);
    assert!(
        snapshot.consistency.reason.contains("scripts ran") && snapshot.warnings.is_empty(),
        "{snapshot:?}"
    );
    let told = report(&snapshot);
    assert!(!told.installed && told.configured && told.problems.is_empty(), "{told:?}");
    assert!(told.pre.as_ref().unwrap().elapsed_ms >= 100 && told.post.as_ref().unwrap().exit_code == Some(0));
    eprintln!("{:?} {told:?}", snapshot.timings);
    let restored = tempfile::tempdir().unwrap();
    let files = materialize(&snapshot, restored.path());
    let cat = run("debugfs", &["-R", "cat /state", files["vda"].to_str().unwrap()]);
    assert_eq!(cat, "held\n", "the instant lies between the scripts");
    drop(snapshot);
    assert_eq!(guest.sh("cat /mnt/vda/state; pidof strongroom-guest || true"), "free\n", "no warden is left");

    // Somebody changed it: replaced, and told. An older one goes.
    guest.sh(&format!("cp {PLACE}/strongroom-guest-* {PLACE}/strongroom-guest-0123; for f in {PLACE}/strongroom-guest-*; do echo x >> $f; done"));
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Application, "{}", snapshot.consistency);
    assert!(report(&snapshot).was_tampered_with && report(&snapshot).installed);
    assert!(
        snapshot.warnings.len() == 1 && snapshot.warnings[0].contains("was replaced"),
        "{:?}",
        snapshot.warnings
    );
    drop(snapshot);
    assert_eq!(guest.sh(&format!("ls {PLACE} | wc -l")).trim(), "1");
    assert!(guest.snapshot().warnings.is_empty());

    // Not wanted: nothing is run in the guest.
    let request = SnapshotRequest { guest: GuestWork::Never, ..guest.request() };
    let snapshot = guest.hypervisor.snapshot(&guest.name, &request).unwrap();
    assert!(snapshot.guest.is_none() && snapshot.consistency.level == ConsistencyLevel::FileSystem);
}

#[test]
fn machine_scripts_that_fail() {
    let storage = Storage::new(Kind::Ext4);
    let mut guest = Guest::start(&storage, &["vda:qcow2:32M", "vdb:raw:32M"], "all");
    let log = "echo post >> /run/log";
    let posts =
        |guest: &Guest<'_>| guest.sh("cat /run/log 2>/dev/null | wc -l").trim().parse::<u32>().unwrap();

    configure(&guest, "echo no luck; exit 3", log, "");
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::FileSystem, "{}", snapshot.consistency);
    assert!(snapshot.consistency.reason.contains("Pre-ScriptExecutionFailed"), "{}", snapshot.consistency);
    let warning = &snapshot.warnings[0];
    assert!(
        warning.contains("(300)") && warning.contains("exited with 3") && warning.contains("no luck"),
        "{warning}"
    );
    assert_eq!(report(&snapshot).problems, [ScriptCode::PreScriptFailed]);
    drop(snapshot);
    assert_eq!(posts(&guest), 1, "the post-script runs all the same");

    configure(&guest, "echo no luck; exit 3", log, r#""continueBackupOnFailure":false"#);
    let error = {
        let request = guest.request();
        guest.hypervisor.snapshot(&guest.name, &request).unwrap_err()
    };
    let text = error.to_string();
    assert!(matches!(error, Error::Script { code: ScriptCode::PreScriptFailed, .. }), "{text}");
    assert!(
        text.contains("Pre-ScriptExecutionFailed, 300") && text.ends_with(r#"It said: "no luck""#),
        "{text}"
    );
    assert_eq!(posts(&guest), 2);
    assert!(guest.is_thawed());
    // A machine of which one disk alone is taken goes on, without being frozen.
    let mut request = guest.request();
    request.exclude.insert("vdb".into());
    let snapshot = guest.hypervisor.snapshot(&guest.name, &request).unwrap();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Crash, "{}", snapshot.consistency);
    assert!(snapshot.timings.frozen.is_none() && snapshot.warnings[0].contains("(300)"), "{snapshot:?}");
    drop(snapshot);

    let bad = "echo post >> /run/log; echo broken; exit 9";
    configure(&guest, "true", bad, "");
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::FileSystem, "{}", snapshot.consistency);
    assert!(snapshot.warnings[0].starts_with("Post-ScriptExecutionFailed (301)"), "{:?}", snapshot.warnings);
    drop(snapshot);
    configure(&guest, "true", bad, r#""continueBackupOnFailure":false"#);
    let request = guest.request();
    let error = guest.hypervisor.snapshot(&guest.name, &request).unwrap_err();
    assert!(matches!(error, Error::Script { code: ScriptCode::PostScriptFailed, .. }), "{error}");
    assert_eq!(virsh(&["checkpoint-list", &guest.name, "--name"]).trim(), "", "nothing is left of it");

    // Whatever the scripts did: nothing was frozen.
    configure(&guest, "true", "true", r#""fsFreezeEnabled":false"#);
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Crash, "{}", snapshot.consistency);
    let reason = &snapshot.consistency.reason;
    assert!(reason.contains("fsFreezeEnabled") && reason.ends_with("; its scripts ran"), "{reason}");
    assert!(snapshot.timings.frozen.is_none() && snapshot.warnings.is_empty(), "{snapshot:?}");
    drop(snapshot);
    configure(&guest, "exit 1", "true", r#""fsFreezeEnabled":false"#);
    let request = guest.request();
    assert!(matches!(guest.hypervisor.snapshot(&guest.name, &request), Err(Error::Script { .. })));

    // The configuration's own problems change nothing else.
    configure(&guest, "exit 1", "true", r#""continueBackupOnFailure":false"#);
    guest.sh("chmod 644 /etc/azure/VMSnapshotScriptPluginConfig.json");
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::FileSystem, "{}", snapshot.consistency);
    assert!(snapshot.warnings[0].starts_with("IncorrectJSONConfigFile (317)"), "{:?}", snapshot.warnings);
    drop(snapshot);
    assert_eq!(guest.sh("pidof strongroom-guest || true"), "");
}

/// The agent is killed in the moment it has frozen; the extension is; and the whole host is gone.
#[test]
fn machine_killed_inside_while_frozen() {
    let storage = Storage::new(Kind::Xfs);
    let mut guest = Guest::start(&storage, &["vda:qcow2:32M"], "all");
    configure(&guest, "true", "echo post >> /run/log", "");
    let writes =
        |guest: &Guest<'_>| guest.sh("echo alive > /mnt/vda/alive; sync; cat /mnt/vda/alive") == "alive\n";
    drop(guest.snapshot());
    for who in ["qemu-ga", "$(ls /var/lib/strongroom-guest)"] {
        guest.sh(&format!(
            "(while [ ! -e /run/qga.state.isfrozen ]; do usleep 2000; done; killall -9 {who}) >/dev/null 2>&1 </dev/null &"
        ));
        let began = Instant::now();
        let snapshot = guest.snapshot();
        eprintln!("{who} killed: {:?} {} {:?}", began.elapsed(), snapshot.consistency, snapshot.warnings);
        assert!(snapshot.timings.frozen.is_none_or(|t| t < Duration::from_secs(60)));
        drop(snapshot);
        guest.hypervisor.wait_for_agent(&guest.name, Duration::from_secs(20)).unwrap();
        assert!(guest.is_thawed() && writes(&guest), "after {who} was killed");
        assert!(began.elapsed() < Duration::from_secs(60));
        let again = guest.snapshot();
        assert_eq!(again.consistency.level, ConsistencyLevel::Application, "{}", again.consistency);
    }
    // Nobody of the host is there any more: the warden alone. (With a shorter time than it has by itself.)
    guest.sh("f=$(echo /var/lib/strongroom-guest/strongroom-guest-*); rm -f /run/log; $f prepare --session alone --limit 5 > /dev/null");
    virsh(&["domfsfreeze", &guest.name]);
    let frozen = Instant::now();
    assert!(!guest.is_thawed());
    // The agent lets nothing be run until it is told to thaw; a frozen file system would not let the log below be so old.
    std::thread::sleep(Duration::from_secs(8));
    virsh(&["domfsthaw", &guest.name]);
    let since = frozen.elapsed();
    let age = guest.sh("echo $(( $(date +%s) - $(stat -c %Y /run/log) ))");
    assert!(
        age.trim().parse::<u64>().unwrap() >= 2,
        "it was thawed {age} s ago, {since:?} after being frozen"
    );
    assert!(writes(&guest));
}

/// Until the guest has opened, or closed, a port.
fn wait_for_port(machine: &str, port: &str, open: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while virsh(&["dumpxml", machine]).contains(&format!("name='{port}' state='connected'")) != open {
        assert!(Instant::now() < deadline, "{port} is {open} not open");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// With a port for the extension itself: the agent runs no programs, then there is no agent at all.
#[test]
fn machine_port_beside_an_agent() {
    with_port(false);
}

#[test]
fn machine_port_alone() {
    with_port(true);
}

fn with_port(alone: bool) {
    let storage = Storage::new(Kind::Xfs);
    let mut guest = Guest::start(&storage, &["vda:qcow2:32M"], "all");
    drop(guest.snapshot());
    guest.sh("cp /var/lib/strongroom-guest/strongroom-guest-* /mnt/vda/extension; sync");
    guest.hypervisor.shutdown(&guest.name, Duration::from_secs(60)).unwrap();
    let xml = virsh(&["dumpxml", "--inactive", &guest.name]);
    let channel =
        "<channel type='unix'><target type='virtio' name='org.strongroom.guest.0'/></channel></devices>";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml.replace("</devices>", channel)).unwrap();
    virsh(&["define", file.path().to_str().unwrap()]);
    guest.boot();
    configure(&guest, "echo pre >> /mnt/vda/log", "echo post >> /mnt/vda/log", "");
    let agent = |guest: &Guest<'_>, command: &str| {
        guest.sh(&format!("printf '#!/bin/sh\nexport PATH=/bin:/sbin\n{command}\n' > /sbin/agent; (sleep 0.3; killall qemu-ga) >/dev/null 2>&1 </dev/null &"));
        wait_for_port(&guest.name, "org.strongroom.guest.0", true);
    };
    guest.sh("cp /mnt/vda/extension /bin/; chmod 700 /bin/extension; (while :; do extension serve; sleep 1; done) >/dev/null 2>&1 </dev/null &");
    if !alone {
        agent(
            &guest,
            "exec qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -b guest-exec,guest-file-open",
        );
        std::thread::sleep(Duration::from_secs(1));
        guest.hypervisor.wait_for_agent(&guest.name, Duration::from_secs(30)).unwrap();
        let snapshot = guest.snapshot();
        assert_eq!(snapshot.consistency.level, ConsistencyLevel::Application, "{}", snapshot.consistency);
        assert_eq!(report(&snapshot).via, GuestVia::Port);
        drop(snapshot);
        return;
    }
    agent(&guest, "exec sleep 86400");
    wait_for_port(&guest.name, "org.qemu.guest_agent.0", false);
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Application, "{}", snapshot.consistency);
    assert!(snapshot.timings.frozen.is_some() && snapshot.warnings.is_empty(), "{snapshot:?}");
    eprintln!("{} {:?}", snapshot.consistency, snapshot.timings);
    let restored = tempfile::tempdir().unwrap();
    let files = materialize(&snapshot, restored.path());
    run("e2fsck", &["-fn", files["vda"].to_str().unwrap()]);
    assert_eq!(run("debugfs", &["-R", "cat /log", files["vda"].to_str().unwrap()]), "pre\n");
}

/// In the agent's place a script whose answers are files: `/run/replies/COMMAND` is run for each.
fn scripted_agent(guest: &Guest<'_>) {
    const AGENT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin
while :; do
exec 3<>/dev/virtio-ports/org.qemu.guest_agent.0
usleep 700000
# libvirt gives an agent up that has said nonsense, until the port is opened anew.
while read -r -t 10 line <&3; do
    id=$(echo "$line" | sed -n 's/.*"id": *\([0-9]*\).*/\1/p')
    name=$(echo "$line" | sed -n 's/.*"execute": *"\([a-z-]*\)".*/\1/p')
    case $name in
        guest-sync-delimited) printf '\377{"return": %s}\n' "$id" >&3 ;;
        guest-sync) printf '{"return": %s}\n' "$id" >&3 ;;
        *) if [ -e "/run/replies/$name" ]; then sh "/run/replies/$name" >&3; else echo '{"return": {}}' >&3; fi ;;
    esac
done
exec 3>&-
usleep 300000
done
"#;
    guest.sh("mkdir -p /run/replies");
    for (name, reply) in [
        ("guest-fsfreeze-status", r#"echo '{"return": "thawed"}'"#),
        ("guest-fsfreeze-freeze", r#"echo '{"return": 2}'"#),
        ("guest-fsfreeze-thaw", r#"sh /run/thaw"#),
        ("guest-get-time", r#"echo '{"return": 1700000000000000000}'"#),
        ("guest-get-osinfo", r#"cat /run/os"#),
        ("guest-exec", r#"sh /run/exec"#),
    ] {
        guest.sh(&format!("cat > /run/replies/{name} <<'END'\n{reply}\nEND"));
    }
    guest.sh(&format!("cat > /sbin/agent <<'END'\n{AGENT}\nEND"));
}

/// How an agent answers.
struct Agent<'a> {
    /// When asked for its system.
    os: &'a str,
    /// When told to run a program: a script whose output it is.
    exec: &'a str,
    /// When told to thaw: a script whose output it is.
    thaw: &'a str,
    /// What a snapshot may claim at most.
    level: ConsistencyLevel,
}

/// Of an agent that thaws what it has frozen.
const THAWS: &str = r#"echo '{"return": 2}'"#;

fn scripted(kinds: &[Agent<'_>]) {
    // Whatever is to be answered has to be there before the real agent goes.
    let storage = Storage::new(Kind::Xfs);
    let mut guest = Guest::start(&storage, &["vda:qcow2:32M"], "all");
    scripted_agent(&guest);
    for (number, Agent { os, exec, thaw, .. }) in kinds.iter().enumerate() {
        guest.sh(&format!(
            "cat > /run/exec-{number} <<'END'
{exec}
END
echo '{{\"return\": {{\"id\": \"{os}\"}}}}' > /run/os-{number}
cat > /run/thaw-{number} <<'END'
{thaw}
END"
        ));
    }
    // The next kind each time it is asked for its system.
    guest.sh("cat > /run/replies/guest-get-osinfo <<'END'
n=$(cat /run/number); cp /run/exec-$n /run/exec; cp /run/thaw-$n /run/thaw; cat /run/os-$n; echo $((n + 1)) > /run/number
END
echo 0 > /run/number
(sleep 0.5; killall qemu-ga) >/dev/null 2>&1 </dev/null &");
    wait_for_port(&guest.name, "org.qemu.guest_agent.0", false);
    wait_for_port(&guest.name, "org.qemu.guest_agent.0", true);
    std::thread::sleep(Duration::from_secs(1));
    for (index, &Agent { os, exec, thaw, level }) in kinds.iter().enumerate() {
        if index > 0 {
            // libvirt asks anew once it has synchronised.
            guest.hypervisor.wait_for_agent(&guest.name, Duration::from_secs(60)).unwrap();
        }
        let began = Instant::now();
        let snapshot = guest.snapshot();
        eprintln!("{os}, {exec:.30}: {:?} {} {:?}", began.elapsed(), snapshot.consistency, snapshot.warnings);
        // libvirt gives up an agent that has not answered: then it cannot freeze either.
        assert!(snapshot.consistency.level <= level, "{exec}: {}", snapshot.consistency);
        assert!(began.elapsed() < Duration::from_secs(60));
        assert!(snapshot.guest.is_none() && (os != "mswindows" || snapshot.consistency.level == level));
        if thaw != THAWS {
            assert!(snapshot.consistency.reason.contains("thawed by somebody"), "{}", snapshot.consistency);
            assert!(snapshot.warnings.iter().any(|w| w.contains("thawed by somebody")), "{snapshot:?}");
        } else {
            assert!(os != "mswindows" || snapshot.consistency.reason.contains("VSS"));
        }
        drop(snapshot);
        assert_eq!(guest.hypervisor.inspect(&guest.name).unwrap().summary.state, MachineState::Running);
    }
}

/// As on Windows: its VSS takes part in the freeze. Then somebody has thawed it before us; then its ten seconds were over, so that it
/// refuses to thaw, and has nothing frozen when it is asked again.
#[test]
fn machine_agent_as_on_windows() {
    const OVER: &str = r#"if [ -e /run/refused ]; then echo '{"return": 0}'; else touch /run/refused
echo '{"error": {"class": "GenericError", "desc": "fsfreeze is limited up to 10 seconds"}}'; fi"#;
    let windows = |thaw, level| Agent { os: "mswindows", exec: "echo '{\"return\": {}}'", thaw, level };
    scripted(&[
        windows(THAWS, ConsistencyLevel::Application),
        windows(r#"echo '{"return": 0}'"#, ConsistencyLevel::Crash),
        windows(OVER, ConsistencyLevel::Crash),
    ]);
}

// Garbage, nothing, twice, for somebody else, without end: the snapshot is taken in time, and claims no more than was seen. A
// machine each: libvirt may give an agent up for good.
fn lies(reply: &str) {
    scripted(&[Agent { os: "debian", exec: reply, thaw: THAWS, level: ConsistencyLevel::FileSystem }]);
}

#[test]
fn machine_agent_answers_garbage() {
    lies("head -c 3000 /dev/urandom; echo");
}

#[test]
fn machine_agent_never_answers() {
    lies("sleep 1");
}

#[test]
fn machine_agent_answers_twice() {
    lies("echo '{\"return\": {\"pid\": 7}}'; echo '{\"return\": {\"pid\": 8}}'");
}

#[test]
fn machine_agent_answers_somebody_else() {
    lies("echo '{\"return\": {\"pid\": 7}, \"id\": 99}'");
}

#[test]
fn machine_agent_answers_without_end() {
    lies(
        "printf '{\"return\": {\"pid\": 7, \"x\": \"'; head -c 20000000 /dev/zero | tr '\\0' x; echo '\"}}'",
    );
}
