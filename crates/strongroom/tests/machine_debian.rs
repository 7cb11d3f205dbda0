//! PostgreSQL in a Debian guest that boots from its own disk, under load: what each point claims is what is found in it.
//!
//! One machine goes through it all, because under emulation each boot takes the better part of a minute: without scripts,
//! with the ready scripts, with the extension's package where the agent runs no programs, and with nobody inside that answers. Of
//! its points one is restored at once and one is drilled; at last its boot disk is ruined, and a drill has to say so.

mod machines;

use machines::guest::Guest;
use machines::office::{Made, Office, Service};
use machines::*;
use serde_json::Value;
use std::time::Duration;
use strongroom_hypervisor::{Hypervisor as _, Libvirt};

const PRE: &str = include_str!("../../../packaging/guest/postgresql/pre.sh");
const POST: &str = include_str!("../../../packaging/guest/postgresql/post.sh");
const CONFIG: &str = include_str!("../../../packaging/guest/postgresql/VMSnapshotScriptPluginConfig.json");
const LONG: Duration = Duration::from_secs(900);

/// In the guest: `ask QUERY`.
const ASK: &str = "ask() { runuser -u postgres -- /usr/lib/postgresql/*/bin/psql -X -q -A -t -v ON_ERROR_STOP=1 -d postgres -c \"$1\"; }; cd /;";
/// The benchmark's own promise: what was booked on accounts, branches and tellers, and in the history, is the same.
const SUMS: &str =
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
    AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(tbalance) FROM pgbench_tellers)";

/// pgbench, and a session that notes in memory what it was told to be committed. What is in memory is in no point.
fn load(guest: &Guest) {
    guest.sh(&format!(
        "{ASK} for n in $(seq 120); do ask 'SELECT 1' >/dev/null 2>&1 && break; sleep 1; done
        mkdir -m 1777 /run/load
        runuser -u postgres -- pgbench -i -q postgres >/dev/null 2>&1
        ask 'CREATE TABLE seen (n serial PRIMARY KEY)'
        systemd-run -q --uid=postgres pgbench -n -c 2 -R 10 -T 100000 postgres
        cat > /run/load/note <<'END'
yes 'INSERT INTO seen SELECT nextval($$seen_n_seq$$) FROM pg_sleep(0.1) RETURNING n;' |
    /usr/lib/postgresql/*/bin/psql -X -q -A -t -d postgres > /run/load/told
END
        systemd-run -q --uid=postgres sh /run/load/note
        for n in $(seq 60); do [ $(wc -l < /run/load/told) -gt 20 ] && exit; sleep 1; done; exit 1"
    ));
}

/// The last that was told before the next freeze of the agent's: the size of what was noted is read before it is seen to have
/// begun.
fn watch_freeze(guest: &Guest) {
    guest.sh("rm -f /run/load/size; cat > /run/load/watch <<'END'
my $size;
do { $size = -s '/run/load/told'; select(undef, undef, undef, 0.01) } until -e '/run/qga.state.isfrozen';
open(my $file, '>', '/run/load/size') or die; print $file $size;
END
        systemd-run -q -p Nice=-20 perl /run/load/watch");
}

fn told_before_freeze(guest: &Guest) -> u64 {
    let number = guest.sh("for n in $(seq 60); do [ -s /run/load/size ] && break; sleep 0.5; done
        head -c $(cat /run/load/size) /run/load/told | tail -n 1");
    number.trim().parse().unwrap()
}

fn newest(office: &Office, name: &str) -> Value {
    office.ok(&["point", "show", name, "latest"])
}

fn backed_up(office: &Office, name: &str, level: &str, words: &str) -> Value {
    office.ok(&["vm", "backup", name]);
    let point = newest(office, name);
    assert_eq!(point["consistency"], level, "{point}");
    assert!(point["reason"].as_str().unwrap().contains(words), "{point}");
    let listed = office.ok(&["point", "list", name, "--consistency", level]);
    assert_eq!(listed["points"][0]["point"], point["point"], "{listed}");
    point
}

/// Whether the file system of a point's data disk was at rest: one that was not has to play its journal first.
fn was_at_rest(office: &Office, storage: &Storage, name: &str, point: &Value) -> bool {
    let place = ["--disks-to", "place", "--disk", "vdb", "--format", "raw"];
    let before = entries(storage);
    office.ok(&[&["vm", "restore", name, "--point", point["point"].as_str().unwrap()], &place[..]].concat());
    let made = entries(storage).into_iter().find(|p| !before.contains(p)).unwrap();
    let files = std::fs::read_dir(&made).unwrap().flatten().map(|e| e.path());
    let image = files.into_iter().find(|p| p.extension().is_some_and(|e| e == "raw")).unwrap();
    let shown = run("dumpe2fs", &["-h", text(&image)]);
    std::fs::remove_dir_all(&made).unwrap();
    !shown.contains("needs_recovery")
}

fn entries(storage: &Storage) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(storage.path()).unwrap().flatten().map(|e| e.path()).collect()
}

/// As its documentation says.
fn set_scripts_up(guest: &Guest) {
    guest.sh(&format!(
        "mkdir -p /etc/azure; cd /etc/azure
        cat > pre.sh <<'THE_END'\n{PRE}\nTHE_END
        cat > post.sh <<'THE_END'\n{POST}\nTHE_END
        cat > VMSnapshotScriptPluginConfig.json <<'THE_END'\n{CONFIG}\nTHE_END
        chown root:root *; chmod 700 pre.sh post.sh; chmod 600 VMSnapshotScriptPluginConfig.json"
    ));
}

/// Builds the package of the extension that the backups have put into the guest, and installs it there.
fn install_package(office: &Office, guest: &Guest) {
    use base64::Engine as _;
    let binary = guest.sh("base64 -w 0 /var/lib/strongroom-guest/strongroom-guest-*");
    let engine = base64::engine::general_purpose::STANDARD;
    let file = office.path("strongroom-guest");
    std::fs::write(&file, engine.decode(binary.trim()).unwrap()).unwrap();
    run("chmod", &["755", text(&file)]);
    let make = repository().join("packaging/guest/make-deb");
    let package = run(text(&make), &["--binary", text(&file), text(&office.path("package"))]);
    for piece in std::fs::read(package.trim()).unwrap().chunks(60 << 10) {
        guest.sh(&format!("echo {} | base64 -d >> /run/package.deb", engine.encode(piece)));
    }
    guest.sh("dpkg -i /run/package.deb && rm -r /run/package.deb /var/lib/strongroom-guest");
    assert_eq!(
        guest.sh("systemctl is-active strongroom-guest; systemctl is-enabled strongroom-guest"),
        "active\nenabled\n"
    );
    wait_for_port(&guest.name, "org.strongroom.guest.0", true);
}

fn wait_for_port(machine: &str, port: &str, open: bool) {
    wait_until(&format!("{port} is open: {open}"), LONG, || {
        virsh(&["dumpxml", machine]).contains(&format!("name='{port}' state='connected'")) == open
    });
}

/// The agent goes on without running programs, until the next boot. What has to be run afterwards waits in a unit of its own.
fn forbid_programs(guest: &Guest) {
    guest.sh("cat > /run/load/go <<'END'
until [ -e /run/load/stop ]; do sleep 0.5; done
tail -n 1 /run/load/told > /root/told; sync
exec systemctl stop strongroom-guest qemu-guest-agent
END
        systemd-run -q sh /run/load/go
        mkdir -p /run/systemd/system/qemu-guest-agent.service.d
        printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/qemu-ga -b guest-exec\\n' \
            > /run/systemd/system/qemu-guest-agent.service.d/no-programs.conf
        systemctl daemon-reload
        systemd-run -q --on-active=1 systemctl restart qemu-guest-agent");
    let libvirt = Libvirt::default();
    wait_until("the agent runs no programs", LONG, || {
        let refused = libvirt.guest_exec(&guest.name, "/bin/true", &[], Duration::from_secs(10));
        refused.is_err_and(|e| e.to_string().contains("switched off"))
    });
}

#[test]
fn machine_debian_with_postgresql_is_what_its_points_claim() {
    let storage = Storage::new(Kind::Xfs, 5000);
    let office = Office::new(&storage.path());
    let _service = Service::start(&office);
    let guest = Guest::debian("database", &storage.path());
    let name = guest.name.as_str();
    load(&guest);
    office.ok(&["vm", "list", "--refresh"]);
    office.ok(&["vm", "protect", name]);

    let point = backed_up(&office, name, "file-system", "no scripts are configured");
    assert!(was_at_rest(&office, &storage, name, &point));

    set_scripts_up(&guest);
    watch_freeze(&guest);
    let application = backed_up(&office, name, "application", "scripts ran");
    let told = told_before_freeze(&guest);
    assert!(told > 20, "{told}");
    let files = "cd / && find etc usr/lib/postgresql/*/bin -xdev -type f | LC_ALL=C sort | xargs sha256sum | sha256sum";
    let sum = guest.sh(files);

    install_package(&office, &guest);
    forbid_programs(&guest);
    backed_up(&office, name, "application", "scripts ran");

    // Nobody inside answers any more.
    let touch = r#"{"execute":"guest-file-open","arguments":{"path":"/run/load/stop","mode":"w"}}"#;
    virsh(&["qemu-agent-command", name, touch]);
    for port in ["org.strongroom.guest.0", "org.qemu.guest_agent.0"] {
        wait_for_port(name, port, false);
    }
    let crash = backed_up(&office, name, "crash", "guest agent");
    assert!(!was_at_rest(&office, &storage, name, &crash));
    guest.power_off();

    // It boots all the same, and its database brings itself to what it had committed.
    let check = format!(
        "{ASK} for n in $(seq 200); do ask 'SELECT 1' >/dev/null 2>&1 && break; sleep 1; done
        [ $(ask 'SELECT max(n) FROM seen') -ge $(cat /root/told) ] && [ \"$(ask '{}')\" = t ] && echo all there",
        SUMS.replace('\n', " ")
    );
    let point = crash["point"].as_str().unwrap();
    let drill = office.ok(&[
        "vm",
        "drill",
        name,
        "--point",
        point,
        "--check",
        &check,
        "--timeout",
        "1800",
        "--no-wait",
    ]);

    // Meanwhile the other one runs from the vault.
    let made = Made(unique("database-again"));
    let point = application["point"].as_str().unwrap();
    let begun = office.ok(&[
        "vm",
        "restore",
        name,
        "--point",
        point,
        "--instant",
        "--as",
        &made.0,
        "--place",
        "place",
        "--no-wait",
    ]);
    let id = begun["job"]["job"].as_str().unwrap();
    let began = std::time::Instant::now();
    wait_until("it runs", LONG, || {
        Libvirt::default().inspect(&made.0).is_ok_and(|m| m.summary.state.is_active())
    });
    Libvirt::default().wait_for_agent(&made.0, LONG).unwrap();
    let boot = began.elapsed();
    let new = Guest::called(&made.0);
    new.sh(&format!(
        "{ASK} for n in $(seq 200); do ask 'SELECT 1' >/dev/null 2>&1 && exit; sleep 1; done; exit 1"
    ));
    let ask = |query: &str| new.sh(&format!("{ASK} ask \"{query}\"")).trim().to_owned();
    let there: u64 = ask("SELECT max(n) FROM seen").parse().unwrap();
    assert!(there >= told, "{there} of {told}");
    // None is missing in between: one session, one number a transaction.
    assert_eq!(ask("SELECT count(*) = max(n) FROM seen"), "t");
    assert_eq!(ask(SUMS), "t");
    let log = new.sh("cat /var/log/postgresql/*.log");
    let begins = position(&log, "redo starts at ");
    let mark = position(&log, "restore point \"strongroom\" created at ");
    let ends = position(&log, "redo done at ");
    assert!(begins <= mark && mark <= ends, "it begins with the script's own checkpoint: {log}");
    ask("CREATE TABLE written AS SELECT 7 AS n");
    let job = office.ok(&["job", "watch", id]);
    assert_eq!(job["status"], "Completed", "{job}");
    let job = office.ok(&["job", "show", id]);
    // Nothing is moved before a guest's agent answers, unless it takes longer than anybody waits for (90 s).
    let answered = job["details"]["Guest agent answered after"].as_str();
    assert!(answered.map_or(boot > Duration::from_secs(60), |a| a.contains("nothing moved")), "{job}");
    eprintln!(
        "instant: {boot:?} until the agent answered ({answered:?}), moved in: {}",
        job["details"]["Moved in"]
    );
    new.sh("sync; echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!((new.sh(files), ask("SELECT n FROM written")), (sum, "7".into()));
    new.power_off();

    let id = drill["job"]["job"].as_str().unwrap();
    office.run(&["job", "watch", id]);
    let shown = office.ok(&["vm", "drill", name, "--point", crash["point"].as_str().unwrap(), "--show"]);
    assert_eq!(
        (&shown["drill"]["passed"], &shown["drill"]["answered_by"]),
        (&true.into(), &"agent".into()),
        "{shown}"
    );
    assert_eq!(shown["drill"]["check"]["stdout"], "all there\n", "{shown}");

    // Its boot disk is ruined.
    let disk = storage.path().join(format!("{name}-vda.qcow2"));
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0 0 64M", text(&disk)]);
    office.ok(&["vm", "backup", name]);
    let picture = office.path("ruined.png");
    office.fails(
        &["vm", "drill", name, "--timeout", "20", "--screenshot", text(&picture)],
        &["UserErrorDrillFailed", "guest agent"],
    );
    let point = newest(&office, name);
    assert_eq!(
        (&point["drill"]["passed"], &point["drill"]["has_screenshot"]),
        (&false.into(), &true.into()),
        "{point}"
    );
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    // Kept snapshots, and nothing else: where storage clones files, each backup leaves one.
    let is_kept = |file: &String| file.ends_with(".kept") || file.ends_with(".kept.json");
    let others: Vec<String> = storage.hidden_files().into_iter().filter(|f| !is_kept(f)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// The last log position after these words.
fn position(log: &str, words: &str) -> u64 {
    let at = log.rfind(words).unwrap_or_else(|| panic!("`{words}` is not in: {log}")) + words.len();
    let shown = log[at..].split_whitespace().next().unwrap();
    let (high, low) = shown.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) + u64::from_str_radix(low, 16).unwrap()
}
