//! The commands on the service, as a user runs them: in their own process, through a running service's socket, and over
//! HTTPS. No libvirt: what needs a machine is made of a store with a machine's points.

#[path = "cli/common.rs"]
#[allow(dead_code)]
mod common;

use common::{Home, MIB, random, same, send};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::{Consistency, ConsistencyLevel, TypedExtent};
use strongroom_store::objects::Location;
use strongroom_store::objects::testing::S3Server;
use strongroom_store::{BlockSource, Disk, DiskRequest, PointDraft, PointKind, Progress, Session};

const CONFIGURATION: &str = "\
hosts = []

[[restore_directories]]
name = \"restores\"
path = \"RESTORES\"
";

/// A data directory without hosts, and a place to restore to.
fn home() -> Home {
    let mut home = Home::new();
    std::fs::create_dir(home.path("restores")).unwrap();
    let configuration = CONFIGURATION.replace("RESTORES", &home.text("restores"));
    std::fs::write(home.path("strongroom.toml"), configuration).unwrap();
    home.environment = vec![
        ("STRONGROOM_DATA".into(), home.text("data")),
        ("STRONGROOM_CONFIG".into(), home.text("strongroom.toml")),
    ];
    home
}

/// A service on that directory, ended when it is dropped.
struct Service(Child);

impl Service {
    fn start(home: &Home) -> Self {
        let mut child = home
            .command(["serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.path("serve.log")).unwrap())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(home.path("data/strongroom.sock")).is_err() {
            let ended = child.try_wait().unwrap();
            let log = || std::fs::read_to_string(home.path("serve.log")).unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }

    fn stop(mut self) {
        send(&self.0, libc::SIGTERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Memory(Vec<u8>);

impl BlockSource for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let from = offset as usize;
        buffer.copy_from_slice(&self.0[from..from + buffer.len()]);
        Ok(())
    }
}

/// Puts a point of a machine of two disks into the vault at `home.vault()`.
fn machine_point(home: &Home, name: &str, seed: u64, taken_at: jiff::Timestamp) {
    let location = Location::parse(&home.vault()).unwrap();
    let key = std::fs::read_dir(home.keys()).unwrap().next().unwrap().unwrap().path();
    let vault = strongroom_engine::vaults::open(&location, Some(&key)).unwrap();
    let session = Session::begin(&vault, "test").unwrap();
    let disks = ["vda", "vdb"].into_iter().zip(seed..).map(|(target, seed)| {
        let written = session
            .write_disk(DiskRequest {
                source: Arc::new(Memory(random(MIB, seed))),
                name: target.into(),
                size_bytes: MIB,
                extents: vec![TypedExtent::data(0, MIB)],
                parent: None,
                progress: Arc::new(Progress::default()),
            })
            .unwrap();
        let mut disk = Disk::new(target, &written);
        disk.attributes.insert("format".into(), "raw".into());
        disk
    });
    let disks = disks.collect();
    let draft = PointDraft {
        item: name.parse().unwrap(),
        kind: PointKind::Machine,
        taken_at,
        parent: None,
        consistency: Consistency::new(ConsistencyLevel::FileSystem, "3 file systems frozen"),
        disks,
        definition: None,
        kept: None,
        warnings: Vec::new(),
        attributes: serde_json::Map::new(),
    };
    session.commit(draft).unwrap();
}

/// A home whose vault `main` protects `web01`, with a point of two hours and one of two months ago.
fn home_with_machine() -> Home {
    let home = home();
    home.ok(["rescue", "vault", "init", &home.vault()]);
    let hours_ago = |hours| jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    machine_point(&home, "web01", 1, hours_ago(24 * 60));
    machine_point(&home, "web01", 11, hours_ago(2));
    let imported = home.json(["vault", "import", &home.vault(), "--name", "main"]);
    assert_eq!((&imported["machines"], &imported["recovery_points"]), (&1.into(), &2.into()), "{imported}");
    home
}

fn names(list: &Value, of: &str) -> Vec<String> {
    list[of].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect()
}

fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.sort_unstable();
    words
}

/// Vaults and policies from the first to the last, whichever way leads to the service.
fn vaults_and_policies(home: &Home) {
    home.fails(1, &["no vault", "vault create"], ["vault", "show"]);
    let made = home.json(["vault", "create", "main", "--redundancy", "local"]);
    let all = "id immutability location name redundancy resource_group soft_delete soft_delete_days";
    assert_eq!(fields(&made), words(all));
    assert_eq!((&made["location"], &made["resource_group"]), (&"local".into(), &"strongroom".into()));
    home.fails(1, &["main", "already"], ["vault", "create", "main"]);
    home.fails(1, &["InvalidResourceName"], ["vault", "create", "1-vault"]);
    home.fails(1, &["InvalidResourceGroupName"], ["vault", "create", "v2", "-g", "a%b"]);

    // The only one need not be named; of two, one must be.
    assert_eq!(home.json(["policy", "list"])["policies"].as_array().unwrap().len(), 2);
    home.ok(["vault", "create", "main", "-g", "office"]);
    assert_eq!(names(&home.json(["vault", "list"]), "vaults"), ["main", "main"]);
    assert_eq!(names(&home.json(["vault", "list", "-g", "OFFICE"]), "vaults"), ["main"]);
    home.fails(1, &["several vaults", "--vault"], ["policy", "list"]);
    home.fails(1, &["several vaults", "-g", "office", "strongroom"], ["policy", "list", "--vault", "MAIN"]);
    let shown = home.json(["vault", "show", "main", "-g", "office"]);
    assert_eq!((&shown["items"], &shown["store"]["recovery_points"]), (&0.into(), &0.into()), "{shown}");
    let table = home.ok(["vault", "list"]);
    assert!(table.starts_with("NAME  GROUP") && table.lines().count() == 3, "{table}");
    let gone = home.ok(["vault", "delete", "main", "-g", "office"]);
    assert!(gone.contains("brings it back until"), "{gone}");
    home.fails(1, &["no vault `gone`"], ["vault", "delete", "gone"]);
    // Another of the name comes and goes: the one that is meant is named in full.
    home.ok(["vault", "create", "main", "-g", "office"]);
    assert!(home.json(["vault", "delete", "main", "-g", "office"])["kept_until"].is_string());
    let told = home.fails(1, &["several deleted vaults", "office_"], ["vault", "undelete", "main"]);
    let first = told.split("office_").nth(1).unwrap().split(' ').next().unwrap();
    home.ok(["vault", "undelete", &format!("office_{first}")]);
    home.ok(["vault", "delete", "main", "-g", "office"]);

    let create =
        ["policy", "create", "Long", "--daily", "20:30", "--zone", "Europe/Berlin", "--weekly", "sun:12"];
    let policy = home.json(create);
    assert_eq!(policy["properties"]["timeZone"], "Europe/Berlin");
    home.fails(1, &["Long", "policy set"], create);
    let text = home.ok(["policy", "set", "Long", "--keep-days", "90", "--monthly", "first-sunday:24"]);
    for word in ["daily at 20:30", "90 days", "12 weeks (Sun)", "24 months (first Sun)", "Europe/Berlin"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    home.fails(1, &["nothing is to be changed"], ["policy", "set", "Long"]);
    home.fails(1, &["BMSUserError"], ["policy", "set", "Long", "--keep-days", "10000"]);
    home.fails(
        1,
        &["BMSUserErrorInvalidPolicyInput", "Mordor"],
        ["policy", "set", "Long", "--zone", "Mordor"],
    );
    home.fails(1, &["Nothing"], ["policy", "show", "Nothing"]);
    // What is shown can be given back.
    let shown = home.ok(["policy", "show", "Long", "--json"]);
    std::fs::write(home.path("policy.json"), &shown).unwrap();
    let copy = home.json(["policy", "create", "Copy", "--file", &home.text("policy.json")]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(copy["properties"], shown["properties"]);
    std::fs::write(home.path("other.json"), "{\"a\": 1}").unwrap();
    home.fails(
        1,
        &["other.json", "schedulePolicy"],
        ["policy", "create", "X-1", "--file", &home.text("other.json")],
    );
    home.ok(["policy", "delete", "Copy"]);
    home.fails(1, &["Copy"], ["policy", "delete", "Copy"]);
    let table = home.ok(["policy", "list"]);
    assert!(table.contains("DefaultPolicy") && table.contains("every 4 h from 08:00 for 12 h"), "{table}");
}

#[test]
fn vaults_and_policies_without_a_service() {
    let home = home();
    // What only looks makes nothing, wherever it was told to look.
    for looks in [vec!["vault", "list"], vec!["vm", "list"], vec!["job", "list"], vec!["host", "list"]] {
        home.fails(1, &["no data directory", "--data", "strongroom serve"], looks);
    }
    assert!(!home.path("data").exists());
    std::fs::create_dir(home.path("empty")).unwrap();
    home.fails(1, &["no data directory"], ["vault", "list", "--data", &home.text("empty")]);
    assert_eq!(std::fs::read_dir(home.path("empty")).unwrap().count(), 0);
    home.ok(["vault", "create", "first"]);
    home.ok(["vault", "delete", "first"]);
    vaults_and_policies(&home);
    let mode = |path: &str| home.path(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("data/catalog.db")), (0o700, 0o600));
}

#[test]
fn vaults_and_policies_through_the_socket() {
    let home = home();
    let service = Service::start(&home);
    vaults_and_policies(&home);
    service.stop();
    // What was done is there without it.
    assert_eq!(names(&home.json(["vault", "list"]), "vaults"), ["main"]);
}

#[test]
fn a_machine_that_is_not_there() {
    let home = home();
    home.ok(["vault", "create", "main"]);
    let output = home.run(["vm", "list"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no machines"));
    assert_eq!(home.json(["vm", "list"])["machines"].as_array().unwrap().len(), 0);
    home.fails(1, &["no machine `web01`", "vm list"], ["vm", "protect", "web01"]);
    home.fails(1, &["web01", "not protected", "vm protect"], ["vm", "backup", "web01"]);
    home.fails(1, &["not protected"], ["point", "list", "web01"]);
    home.fails(1, &["no vault `other`"], ["vm", "list", "--vault", "other"]);
    home.fails(2, &["--yes"], ["vm", "delete", "web01"]);
    home.fails(2, &["--as"], ["vm", "restore", "web01"]);
    home.fails(2, &["MACHINE"], ["vm", "backup"]);
    home.fails(1, &["no job"], ["job", "show", "6f2b8c54-6e0e-4d28-a2d7-8f6f9f3a5a10"]);
    // Of several each is told, and the others are done.
    let told = home.run(["vm", "backup", "web01", "web02", "--json"]);
    assert_eq!(told.status.code(), Some(1));
    let lines = String::from_utf8(told.stderr).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let error: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "not-found");
}

/// Disks of a point are restored, and are what they were.
fn restores(home: &Home) {
    let restored = home.json(["vm", "restore", "web01", "--disks-to", "restores"]);
    let job = &restored["job"];
    assert_eq!((&job["status"], &job["operation"]), (&"Completed".into(), &"Restore".into()), "{restored}");
    let config = job["details"]["Config Blob Uri"].as_str().unwrap().strip_prefix("file://").unwrap();
    let directory: PathBuf = PathBuf::from(config).parent().unwrap().to_owned();
    for (disk, seed) in [("vda", 11), ("vdb", 12)] {
        std::fs::write(home.path("expected"), random(MIB, seed)).unwrap();
        same(&home.path("expected"), &directory.join(format!("web01-{disk}.raw")));
    }
    // By its id, whichever vault it is of.
    let id = job["job"].as_str().unwrap();
    let shown = home.json(["job", "show", id]);
    assert_eq!((&shown["status"], &shown["machine"]), (&"Completed".into(), &"web01".into()), "{shown}");
    assert!(!shown["tasks"].as_array().unwrap().is_empty());
    let watched = home.ok(["job", "watch", id]);
    assert!(watched.contains("Completed") && watched.contains("TASK"), "{watched}");
    home.fails(1, &["UserErrorJobAlreadyCompleted"], ["job", "cancel", id]);
    // An old point, one disk.
    let one = home.json(["vm", "restore", "web01", "--point", "30d", "--disks-to", "restores", "--disk=-1"]);
    let config = one["job"]["details"]["Config Blob Uri"].as_str().unwrap().strip_prefix("file://").unwrap();
    let directory = PathBuf::from(config).parent().unwrap().to_owned();
    std::fs::write(home.path("expected"), random(MIB, 1)).unwrap();
    same(&home.path("expected"), &directory.join("web01-vda.raw"));
    assert!(!directory.join("web01-vdb.raw").exists());

    let jobs = home.json(["job", "list", "--operation", "restore", "--status", "completed"]);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2, "{jobs}");
    let all = "asked_for ended_at errors job machine operation resource_group seconds started_at status vault warnings";
    assert_eq!(fields(&jobs["jobs"][0]), words(all));
    assert_eq!(home.json(["job", "list", "--last", "1"])["jobs"].as_array().unwrap().len(), 1);
    assert!(home.json(["job", "list", "--machine", "other"])["jobs"].as_array().unwrap().is_empty());
    assert!(home.json(["job", "list", "--status", "failed"])["jobs"].as_array().unwrap().is_empty());
    let table = home.ok(["job", "list"]);
    assert!(table.starts_with("JOB ") && table.contains("Restore") && table.contains(id), "{table}");

    home.fails(
        1,
        &["no place `nowhere`", "host places"],
        ["vm", "restore", "web01", "--disks-to", "nowhere"],
    );
    for disk in ["vdz", "7"] {
        let named = format!("no disk `{disk}`; it has: vda, vdb");
        home.fails(1, &[&named], ["vm", "restore", "web01", "--disks-to", "restores", "--disk", disk]);
    }
    for name in ["", "a/b", "../../etc/x", ".x"] {
        home.fails(1, &[name, "cannot be a machine's name"], ["vm", "restore", "web01", "--as", name]);
    }
    for useless in [
        &["--format", "raw", "--as", "web02"][..],
        &["--format", "raw", "--replace"],
        &["--format", "raw", "--instant", "--as", "web02"],
        &["--instant", "--replace"],
    ] {
        let words = ["vm", "restore", "web01"].iter().chain(useless).copied();
        home.fails(2, &["cannot be used with"], words);
    }
    home.fails(1, &["UserErrorNoHost"], ["vm", "restore", "web01", "--as", "web02"]);
    home.fails(1, &["no network `lan`"], ["vm", "restore", "web01", "--as", "web02", "--network", "lan"]);
}

#[test]
fn points_are_listed_and_restored_without_a_service() {
    let home = home_with_machine();
    let all = home.json(["point", "list", "web01", "--from", "52w"]);
    let all = all["points"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    let recent = home.json(["point", "list", "web01"]);
    assert_eq!(recent["points"].as_array().unwrap(), &all[..1], "the newest first, of 30 days");
    let output = home.run(["point", "list", "web01"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("last 30 days"));
    let old = home.json(["point", "list", "web01", "--to", "7d"]);
    assert_eq!(old["points"].as_array().unwrap(), &all[1..]);
    let crash = ["point", "list", "web01", "--from", "52w", "--consistency"];
    assert!(home.json(crash.into_iter().chain(["crash"]))["points"].as_array().unwrap().is_empty());
    assert_eq!(home.json(crash.into_iter().chain(["file-system"]))["points"].as_array().unwrap().len(), 2);

    let name = |p: &Value| p["point"].as_str().unwrap().to_owned();
    let latest = home.json(["point", "show", "web01", "latest"]);
    assert_eq!(latest["point"], all[0]["point"]);
    let disk = |lun: i64, name: &str| serde_json::json!({"lun": lun, "name": name, "size_bytes": MIB, "encrypted": false});
    assert_eq!(latest["disks"], serde_json::json!([disk(-1, "vda"), disk(0, "vdb")]), "{latest}");
    let text = home.ok(["point", "show", "web01", "latest"]);
    assert!(text.contains("vda (1.00 MiB, LUN -1), vdb (1.00 MiB, LUN 0)"), "{text}");
    assert_eq!(home.json(["point", "show", "web01", "30d"])["point"], all[1]["point"]);
    assert_eq!(home.json(["point", "show", "web01", &name(&all[1])])["point"], all[1]["point"]);
    // A time as it is shown names the point.
    let table = home.ok(["point", "list", "web01"]);
    let shown = table.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(home.json(["point", "show", "web01", &shown])["point"], all[0]["point"], "{shown}");
    home.fails(1, &["12345678901234", "RecoveryPointNotFound"], ["point", "show", "web01", "12345678901234"]);
    home.fails(1, &["no recovery point as old"], ["point", "show", "web01", "2001-01-01"]);
    home.fails(1, &["yesterday", "latest"], ["point", "show", "web01", "yesterday"]);

    restores(&home);
    home.fails(1, &["--no-wait", "serve"], ["vm", "restore", "web01", "--disks-to", "restores", "--no-wait"]);
    home.fails(1, &["--no-wait", "serve"], ["vm", "backup", "web01", "--no-wait"]);
}

#[test]
fn points_are_restored_by_a_service() {
    let home = home_with_machine();
    let service = Service::start(&home);
    restores(&home);
    let begun = home.json(["vm", "restore", "web01", "--disks-to", "restores", "--no-wait"]);
    let done = home.json(["job", "watch", begun["job"]["job"].as_str().unwrap()]);
    assert_eq!(done["status"], "Completed", "{done}");
    service.stop();
}

#[test]
fn an_item_is_deleted_and_comes_back() {
    let home = home_with_machine();
    let state = |home: &Home| home.json(["vm", "list"])["machines"][0].clone();
    assert_eq!((&state(&home)["state"], &state(&home)["power"]), (&"ProtectionStopped".into(), &Value::Null));
    assert!(home.ok(["vm", "list"]).contains("gone"));
    assert!(home.json(["vm", "list", "--unprotected"])["machines"].as_array().unwrap().is_empty());
    assert!(home.json(["vm", "list", "--name", "db"])["machines"].as_array().unwrap().is_empty());
    home.fails(1, &["UserErrorItemProtectionStopped"], ["vm", "backup", "web01"]);
    // Its machine is not there.
    home.fails(1, &["ResourceNotFound"], ["vm", "resume", "web01"]);
    home.fails(1, &["not deleted"], ["vm", "undelete", "web01"]);
    home.fails(1, &["main"], ["vault", "delete", "main"]);

    let deleted = home.json(["vm", "delete", "strongroom/web01", "--yes"]);
    assert_eq!(deleted["machines"][0]["state"], "Deleted", "{deleted}");
    assert_eq!(home.json(["vault", "show"])["deleted_items"], 1);
    home.fails(1, &["web01"], ["vm", "restore", "web01", "--disks-to", "restores"]);
    // A vault that holds nothing else goes, and comes back with what it holds.
    home.ok(["vault", "delete", "main"]);
    assert!(names(&home.json(["vault", "list"]), "vaults").is_empty());
    home.fails(1, &["no deleted vault `other`"], ["vault", "undelete", "other"]);
    assert_eq!(home.json(["vault", "undelete", "main"])["name"], "main");
    let back = home.json(["vm", "undelete", "web01"]);
    let back = &back["machines"][0];
    assert_eq!(back["state"], "ProtectionStopped");
    assert_eq!(
        fields(back),
        words("last_backup_at last_backup_status last_point machine policy resource_group state vault")
    );
    assert_eq!(home.json(["point", "list", "web01", "--from", "52w"])["points"].as_array().unwrap().len(), 2);
}

/// `access principal create` and `assign`; the principal's id and secret.
fn principal(home: &Home, name: &str, role: &str) -> (String, String) {
    let made = home.json(["access", "principal", "create", name]);
    home.ok(["access", "assign", name, role]);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("app_id"), text("secret"))
}

#[test]
fn over_https_a_principal_may_do_what_its_role_says() {
    let home = home_with_machine();
    let service = Service::start(&home);
    let server = std::fs::read_to_string(home.path("data/url")).unwrap().trim().to_owned();
    let ca = home.text("data/tls/authority.pem");
    let (reader, reader_secret) = principal(&home, "reader", "Backup Reader");
    let (operator, operator_secret) = principal(&home, "operator", "Backup Operator");
    let as_one = |id: &str, secret: &str, arguments: &[&str]| {
        let all = arguments.iter().copied().chain(["--server", &server, "--ca", &ca]);
        home.command(all)
            .env_remove("STRONGROOM_DATA")
            .env("STRONGROOM_CLIENT_ID", id)
            .env("STRONGROOM_CLIENT_SECRET", secret)
            .output()
            .unwrap()
    };
    let refused = |output: std::process::Output, words: &[&str]| {
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        for word in words {
            assert!(told.contains(word), "`{word}` is not in: {told}");
        }
    };
    let listed = as_one(&reader, &reader_secret, &["vault", "list", "--json"]);
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(names(&serde_json::from_slice(&listed.stdout).unwrap(), "vaults"), ["main"]);
    refused(
        as_one(&reader, &reader_secret, &["policy", "delete", "DefaultPolicy"]),
        &["AuthorizationFailed"],
    );
    let stopped = as_one(&reader, &reader_secret, &["vm", "stop", "web01"]);
    refused(stopped, &["AuthorizationFailed", "protectedItems/write"]);
    let restore = ["vm", "restore", "web01", "--disks-to", "restores", "--json"];
    refused(as_one(&reader, &reader_secret, &restore), &["AuthorizationFailed"]);
    let restored = as_one(&operator, &operator_secret, &restore);
    assert!(restored.status.success(), "{restored:?}");
    refused(
        as_one(&operator, &operator_secret, &["vm", "delete", "web01", "--yes"]),
        &["AuthorizationFailed"],
    );
    refused(as_one(&operator, "wrong", &["vault", "list"]), &["invalid_client", "signing in"]);
    // Root over the socket may.
    home.ok(["vm", "delete", "web01", "--yes"]);

    let without = |arguments: &[&str]| home.command(arguments).output().unwrap();
    refused(without(&["vault", "list", "--server", &server, "--ca", &ca]), &["STRONGROOM_CLIENT_ID"]);
    let untrusted = home
        .command(["vault", "list", "--server", &server])
        .env("STRONGROOM_CLIENT_ID", &reader)
        .env("STRONGROOM_CLIENT_SECRET", &reader_secret)
        .output()
        .unwrap();
    refused(untrusted, &["--ca"]);
    service.stop();
    refused(as_one(&reader, &reader_secret, &["vault", "list"]), &["cannot be reached"]);
}

#[test]
fn errors_of_the_api_keep_their_codes() {
    let home = home();
    home.ok(["vault", "create", "main"]);
    let output = home.run(["policy", "show", "Nothing", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    let code = error["error"]["code"].as_str().unwrap();
    assert!(code.starts_with("BMSUserError") || code.starts_with("UserError"), "{error}");
    assert!(!error["error"]["message"].as_str().unwrap().contains(code), "{error}");
}

#[test]
fn a_command_waits_for_another_and_says_so() {
    let home = home();
    home.ok(["vault", "create", "main"]);
    let lock = std::fs::File::options().write(true).open(home.path("data/lock")).unwrap();
    lock.lock().unwrap();
    let waiting =
        home.command(["vault", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    lock.unlock().unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("waiting for another command"), "{output:?}");
    lock.lock().unwrap();
    home.fails(1, &["another strongroom", "strongroom serve"], ["vault", "list"]);
}

#[test]
fn what_cannot_be_a_server_or_a_configuration_is_refused() {
    let home = home();
    let with = |server: &str| {
        let output = home
            .command(["vault", "list", "--server", server])
            .env("STRONGROOM_CLIENT_ID", "a")
            .env("STRONGROOM_CLIENT_SECRET", "b")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(with("http://localhost:1").contains("https://"));
    std::fs::write(home.path("empty.pem"), "nothing").unwrap();
    let output = home
        .command(["vault", "list", "--server", "https://localhost:1", "--ca", &home.text("empty.pem")])
        .env("STRONGROOM_CLIENT_ID", "a")
        .env("STRONGROOM_CLIENT_SECRET", "b")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no certificate in PEM"), "{output:?}");
    std::fs::write(home.path("strongroom.toml"), "host = 1").unwrap();
    home.fails(1, &["strongroom.toml", "host"], ["vault", "create", "main"]);
    home.fails(1, &["missing.toml"], ["vault", "create", "main", "--config", &home.text("missing.toml")]);
}

/// Lines of a child's output, as they come.
fn lines_of(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    use std::io::BufRead as _;
    let (send, lines) = std::sync::mpsc::channel();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
    lines
}

/// What the command line changes has a row, with and without a service; and who follows is told.
#[test]
fn access_by_the_command_line_is_in_the_audit_and_can_be_followed() {
    let home = home();
    let service = Service::start(&home);
    let mut follower = home
        .command(["access", "audit", "--follow", "--last", "0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(&mut follower);
    // It follows from its first look on: what comes after its first line is all there is.
    let uid = unsafe { libc::getuid() };
    let who = format!("local administrator (user {uid})");
    let told = |wanted: &str| -> Value {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).unwrap_or_else(|e| panic!("{wanted}: {e}"));
            let row: Value = serde_json::from_str(&line).unwrap();
            if row["detail"].as_str().unwrap_or_default().contains(wanted) {
                return row;
            }
        }
    };
    let mut began = 0;
    loop {
        home.ok(["access", "principal", "create", &format!("p{began}")]);
        if lines.recv_timeout(Duration::from_secs(2)).is_ok() {
            break;
        }
        began += 1;
        assert!(began < 15, "nothing is told");
    }
    home.ok(["access", "principal", "create", "nightly"]);
    let row = told("made principal nightly");
    assert_eq!(
        (&row["principal"], &row["action"]),
        (&who.as_str().into(), &"Strongroom.Backup/principals/write".into())
    );
    home.fails(1, &["the scope is empty"], ["access", "assign", "nightly", "Owner", "--scope", ""]);
    home.ok(["access", "assign", "nightly", "Backup Reader"]);
    assert_eq!(told("made role Backup Reader of nightly")["scope"], "/");
    home.ok(["access", "unassign", "nightly", "Backup Reader"]);
    assert_eq!(
        told("removed role Backup Reader of nightly")["action"],
        "Microsoft.Authorization/roleAssignments/delete"
    );
    home.ok(["access", "principal", "delete", "nightly"]);
    told("removed principal nightly");
    home.ok(["vault", "create", "main"]);
    let row = told("made vault main");
    assert_eq!(row["action"], "Microsoft.RecoveryServices/Vaults/write");
    send(&follower, libc::SIGINT);
    assert_eq!(follower.wait().unwrap().code(), Some(130));
    service.stop();

    // Without a service: the same rows, those of the start and of its configuration too.
    home.ok(["access", "principal", "create", "alone"]);
    home.ok(["vault", "create", "second"]);
    let all = home.json(["access", "audit", "--last", "1000"]);
    let has = |principal: &str, detail: &str| {
        all.as_array().unwrap().iter().any(|row| {
            row["principal"].as_str().unwrap().contains(principal)
                && row["detail"].as_str().unwrap_or_default().contains(detail)
        })
    };
    for (principal, detail) in [
        (who.as_str(), "made principal alone"),
        ("this process)", "made vault second"),
        ("service: start", "made principal administrator"),
        ("service: start", "made role Owner of administrator"),
        ("service: start", r#"listen = ["127.0.0.1:0"]"#),
    ] {
        assert!(has(principal, detail), "{principal}, {detail}: {all}");
    }
    // The configuration is the service's: another command has none to tell.
    std::fs::write(home.path("none.toml"), "").unwrap();
    home.ok(["vault", "list", "--config", &home.text("none.toml")]);
    let configuration = std::fs::read_to_string(home.path("strongroom.toml")).unwrap();
    std::fs::write(home.path("strongroom.toml"), format!("{configuration}\n[limits]\njobs = 3\n")).unwrap();
    // A change of it is told, once.
    (0..2).for_each(|_| Service::start(&home).stop());
    let all = home.json(["access", "audit", "--last", "1000"]);
    let told: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["action"] == "Strongroom.Backup/configuration/write")
        .map(|row| row["detail"].as_str().unwrap())
        .collect();
    assert_eq!(told.len(), 2, "{all}");
    assert!(told[0].starts_with("first seen: ") || told[1].starts_with("first seen: "), "{told:?}");
    assert!(told.contains(&"changed: limits.jobs 8 -> 3"), "{told:?}");
    // There is nothing to follow without a service.
    home.fails(1, &["no service runs"], ["access", "audit", "--follow"]);
}

#[test]
fn access_names_what_is_there_and_what_is_refused_is_in_the_audit() {
    let home = home();
    home.ok(["vault", "create", "main"]);
    home.ok(["access", "principal", "create", "nightly"]);
    let assign = |more: &[&str]| -> Vec<String> {
        ["access", "assign", "nightly", "Backup Reader"].iter().chain(more).map(|s| (*s).to_owned()).collect()
    };
    let subscription = home.json(["access", "audit", "--last", "1000"]);
    let scopes = subscription.as_array().unwrap().iter().map(|row| row["scope"].as_str().unwrap());
    let subscription = scopes.filter_map(|s| s.strip_prefix("/subscriptions/")).next().unwrap();
    let subscription = format!("/subscriptions/{}", subscription.split('/').next().unwrap());
    let group = format!("{subscription}/resourceGroups/strongroom");
    for (word, more) in [
        ("is no scope", vec!["--scope", "garbage"]),
        ("no scope of this service", vec!["--scope", "/garbage"]),
        ("no scope of this service", vec!["--scope", "/subscriptions/another"]),
        ("is no scope", vec!["--scope", &format!("{subscription}/groups/strongroom")]),
        ("is no scope", vec!["--scope", &format!("{group}/providers/Microsoft.Compute")]),
        ("no kind of resource", vec!["--scope", &format!("{group}/providers/Microsoft.Compute/disks/a")]),
        ("no resource group `nogroup`", vec!["--group", "nogroup"]),
        ("there is no `none`", vec!["--group", "strongroom", "--vault", "none"]),
    ] {
        home.fails(1, &[word], assign(&more));
    }
    assert_eq!(home.json(["access", "list"]).as_array().unwrap().len(), 1);
    home.ok(assign(&["--group", "strongroom", "--vault", "main"]));
    home.ok(assign(&["--scope", &subscription]));
    // The last Owner of everything stays, unless somebody means it.
    let last = ["nobody would be Owner", "--allow-no-owner"];
    home.fails(1, &last, ["access", "principal", "delete", "administrator"]);
    home.fails(1, &last, ["access", "unassign", "administrator", "Owner"]);
    home.fails(1, &["there is no principal"], ["access", "principal", "delete", "nobody"]);
    home.fails(1, &["already"], ["access", "principal", "create", "nightly"]);
    home.fails(1, &["does not have the role"], ["access", "unassign", "nightly", "Owner"]);
    // Deleted with its roles: a row each.
    home.ok(["access", "principal", "delete", "nightly"]);
    home.ok(["access", "unassign", "administrator", "Owner", "--allow-no-owner"]);
    let all = home.json(["access", "audit", "--last", "1000"]);
    let all = all.as_array().unwrap();
    let has = |detail: &str| all.iter().filter(|row| row["detail"].as_str() == Some(detail)).count();
    assert_eq!(has("removed role Backup Reader of nightly"), 2, "{all:#?}");
    assert_eq!(has("removed principal nightly"), 1, "{all:#?}");
    let refused: Vec<&Value> = all.iter().filter(|row| row["status"].as_u64() >= Some(400)).collect();
    assert_eq!(refused.len(), 13, "{refused:#?}");
    let about =
        |word: &str| refused.iter().find(|row| row["detail"].as_str().unwrap().contains(word)).unwrap();
    let row = about("nobody would be Owner");
    assert_eq!((&row["status"], &row["code"]), (&409.into(), &"LastOwner".into()), "{row}");
    assert!(row["principal"].as_str().unwrap().starts_with("local administrator"), "{row}");
    let row = about("nogroup");
    assert_eq!(
        (&row["status"], &row["scope"]),
        (&404.into(), &format!("{subscription}/resourceGroups/nogroup").into())
    );
}

/// The key of a vault that was made here lies in the data directory, also when the catalog is gone.
#[test]
fn a_vault_whose_catalog_was_lost_is_imported_with_the_key_that_lies_there() {
    let home = home();
    home.ok(["vault", "create", "main", "--soft-delete-days", "60"]);
    let location = home.json(["vault", "show", "main"])["store"]["location"].as_str().unwrap().to_owned();
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(home.path("data").join(file));
    }
    home.ok(["vault", "import", &location, "--name", "main"]);
    home.ok(["vault", "reconcile", "main"]);
}

/// What is changed in a vault without a service is noted in the vault.
#[test]
fn rescue_leaves_a_note_in_the_vault() {
    let home = Home::with_vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    let image = image.to_str().unwrap();
    let made = home.json(["image", "backup", image, "--vault", &home.vault(), "--item", "data"]);
    let point = made["point"].as_str().unwrap();
    home.ok(["rescue", "vault", "key", "export", &home.vault()]);
    home.ok(["rescue", "point", "forget", point, "--vault", &home.vault()]);
    home.ok(["rescue", "vault", "reclaim", &home.vault()]);
    let log = home.json(["rescue", "vault", "log", &home.vault()]);
    // No variable says who it is.
    let user = log["entries"][0]["user"].as_str().unwrap();
    assert!(user.ends_with(&format!(" ({})", unsafe { libc::getuid() })), "{user}");
    let entries = log["entries"].as_array().unwrap();
    let commands: Vec<&str> = entries.iter().map(|e| e["command"].as_str().unwrap()).collect();
    assert_eq!(
        commands,
        ["vault init", "image backup", "vault key export", "point forget", "vault reclaim", "vault reclaim"]
    );
    assert!(entries[1]["what"].as_str().unwrap().contains(point), "{log}");
    assert!(entries[3]["what"].as_str().unwrap().contains(point), "{log}");
    let uid = unsafe { libc::getuid() };
    for entry in entries {
        assert!(entry["user"].as_str().unwrap().contains(&format!("({uid})")), "{entry}");
        assert!(entry["at"].is_string() && entry["host"].as_str().is_some_and(|h| !h.is_empty()), "{entry}");
    }
    // It is of no harm: the vault is sound, and a log that is damaged is begun anew.
    home.ok(["rescue", "vault", "check", &home.vault(), "--read-data"]);
    std::fs::write(home.path("vault/notes/rescue-log"), "nonsense").unwrap();
    home.ok(["rescue", "vault", "reclaim", &home.vault()]);
    let log = home.json(["rescue", "vault", "log", &home.vault()]);
    assert_eq!(log["entries"].as_array().unwrap().len(), 2, "{log}");
}

#[test]
fn what_the_catalog_does_not_know_is_seen_adopted_and_forgotten() {
    let home = home_with_machine();
    let shown = home.json(["vault", "show"]);
    assert_eq!(shown["unmanaged_points"], 0, "{shown}");
    // Beside the service: a machine's point, and an image's.
    machine_point(&home, "db01", 21, jiff::Timestamp::now());
    let image = home.image("photos.raw", MIB, &[(0, MIB)], 5);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &home.vault(), "--item", "photos"]);
    let shown = home.json(["vault", "show"]);
    assert_eq!((&shown["unmanaged_points"], &shown["store"]["recovery_points"]), (&2.into(), &4.into()));
    assert!(home.ok(["vault", "show"]).contains("point list --unmanaged"));
    let found = home.json(["point", "list", "--unmanaged"]);
    let found = found["unmanaged"].as_array().unwrap();
    let one = |item: &str| found.iter().find(|p| p["item"] == item).unwrap();
    let id = |item: &str| one(item)["point"].as_str().unwrap().to_owned();
    assert_eq!((&one("photos")["kind"], &one("db01")["kind"]), (&"image".into(), &"machine".into()));
    let table = home.ok(["point", "list", "--unmanaged", "--vault", "main"]);
    assert!(table.starts_with("POINT ") && table.lines().count() == 3, "{table}");
    home.fails(2, &["MACHINE"], ["point", "list"]);
    home.fails(2, &["--unmanaged"], ["point", "forget", &id("photos")]);

    // They keep the vault, whatever the catalog says.
    home.ok(["vm", "delete", "web01", "--yes"]);
    let refused =
        home.fails(1, &["ServiceResourceNotEmpty", "2 recovery points"], ["vault", "delete", "main"]);
    assert!(refused.contains("1 of an image, 1 of a machine"), "{refused}");
    home.ok(["vm", "undelete", "web01"]);

    home.fails(1, &["image 'photos'"], ["point", "adopt", &id("photos")]);
    let adopted = home.json(["point", "adopt", &id("db01")]);
    assert_eq!(adopted["machine"], "db01");
    assert_eq!(home.json(["point", "list", "db01"])["points"].as_array().unwrap().len(), 1);
    home.fails(1, &["no unmanaged"], ["point", "forget", &id("db01"), "--unmanaged"]);
    home.ok(["point", "forget", &id("photos"), "--unmanaged"]);
    let agreed = home.json(["vault", "reconcile"]);
    assert_eq!((&agreed["state"], &agreed["recovery_points"]), (&"Agreed".into(), &3.into()), "{agreed}");
    assert!(home.ok(["vault", "show"]).contains("it agrees"));

    // A point that is lost is shown as that, until somebody accepts it.
    let away = |from: &str, to: &str| std::fs::rename(home.path(from), home.path(to)).unwrap();
    away("vault/points", "points");
    let output = home.run(["vault", "reconcile", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let differs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&differs["state"], differs["missing_points"].as_array().unwrap().len()),
        (&"Differs".into(), 3)
    );
    let point = &home.json(["point", "list", "db01"])["points"][0];
    assert!(point["tier"] == "missing" && point["missing_since"].is_string(), "{point}");
    assert!(home.ok(["point", "show", "db01", "latest"]).contains("not found in the vault since"));
    assert!(!home.ok(["point", "list", "db01"]).contains("its snapshot"));
    away("points", "vault/points");
    home.fails(1, &["is in vault 'main' again"], ["point", "forget", &id("db01"), "--missing"]);
    assert_eq!(home.json(["vault", "reconcile"])["state"], "Agreed");
    assert_eq!(home.json(["point", "list", "db01"])["points"][0]["tier"], "vault");
}

#[test]
fn a_key_outlives_its_vault_until_the_vaults_id_is_typed() {
    let home = home();
    home.ok(["vault", "create", "main", "--soft-delete", "off"]);
    let id = home.json(["vault", "show"])["store"]["id"].as_str().unwrap().to_owned();
    home.fails(1, &["is kept", "vault 'main' has it"], ["vault", "key", "delete", "main", "--id", &id]);
    let service = Service::start(&home);
    home.ok(["vault", "delete", "main"]);
    let until = Instant::now() + Duration::from_secs(30);
    let strays = loop {
        let strays = home.json(["vault", "list", "--strays"]);
        if strays["keys"][0]["vault_name"] == "main" {
            break strays;
        }
        assert!(Instant::now() < until, "{strays}");
        std::thread::sleep(Duration::from_millis(50));
    };
    service.stop();
    let key = PathBuf::from(strays["keys"][0]["path"].as_str().unwrap());
    assert!(key.is_file() && strays["keys"][0]["vault_id"] == id.as_str(), "{strays}");
    home.fails(1, &["needs the vault's id", "nothing was deleted"], ["vault", "key", "delete", "main"]);
    home.fails(1, &["nothing was deleted"], ["vault", "key", "delete", "main", "--id", &id[..8]]);
    home.fails(1, &["no key of a vault `other`"], ["vault", "key", "delete", "other", "--id", &id]);
    // The file is called otherwise: it can be named, but the vault's id is another one.
    let file = key.file_stem().unwrap().to_str().unwrap();
    let wrong = ["vault", "key", "delete", file, "--id", file];
    home.fails(1, &["is not the id of vault", "nothing was deleted"], wrong);
    let path = key.to_str().unwrap();
    home.fails(1, &["is not the id of vault"], ["vault", "key", "delete", path, "--id", file]);
    assert!(key.is_file());
    home.ok(["vault", "key", "delete", file, "--id", &id]);
    assert!(!key.exists());
    assert!(home.json(["vault", "list", "--strays"])["keys"].as_array().unwrap().is_empty());
    // Where the catalog is lost, nothing says where a vault was.
    home.ok(["vault", "create", "lost"]);
    let id = home.json(["vault", "show", "lost"])["store"]["id"].as_str().unwrap().to_owned();
    for entry in std::fs::read_dir(home.path("data/vaults")).unwrap() {
        let path = entry.unwrap().path();
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { Ok(()) };
    }
    for name in ["data/catalog.db", "data/catalog.db-wal", "data/catalog.db-shm"] {
        let _ = std::fs::remove_file(home.path(name));
    }
    home.ok(["vault", "create", "another"]);
    let delete = ["vault", "key", "delete", &id, "--id", &id];
    home.fails(1, &["is kept", "vault_storage", "--vault-is-gone"], delete);
    home.ok(delete.iter().chain(&["--vault-is-gone"]));
}

#[test]
fn no_vault_is_made_where_its_place_is_not_mounted() {
    let home = home();
    home.ok(["vault", "create", "main"]);
    std::fs::rename(home.path("data/vaults"), home.path("away")).unwrap();
    let told = home.fails(1, &["Mount it", "--init-storage"], ["vault", "create", "second"]);
    assert_eq!(told.matches("has no marker (").count(), 1, "{told}");
    assert_eq!(std::fs::read_dir(home.path("data/vaults")).unwrap().count(), 0);
    // What is not there cannot be asked, and is not taken for empty.
    home.fails(1, &["not known", "Mount"], ["vault", "delete", "main"]);
    home.ok(["vault", "create", "second", "--init-storage"]);
}

#[test]
fn a_backup_without_the_service_can_be_promised_a_date() {
    let home = home();
    home.ok(["rescue", "vault", "init", &home.vault()]);
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    let vault = home.vault();
    let backup =
        ["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a", "--keep-until"];
    home.fails(1, &["has passed already"], backup.iter().chain(&["2020-01-01"]));
    home.ok(backup.iter().chain(&["90d"]));
    let key = std::fs::read_dir(home.keys()).unwrap().next().unwrap().unwrap().path();
    let store = strongroom_engine::vaults::open(&Location::parse(&vault).unwrap(), Some(&key)).unwrap();
    let manifest = store.points(None).unwrap().points.remove(0);
    let Some(strongroom_store::Promise::Known(kept)) = manifest.kept else { panic!("{manifest:?}") };
    let days = kept.keep_until.unwrap().duration_since(manifest.taken_at).as_hours() / 24;
    assert!((89..=90).contains(&days), "{kept:?}");
}

/// The configuration says how vaults in S3 are reached, and a store that hangs does not hold up the service's end.
#[test]
fn a_store_that_hangs_does_not_hold_up_the_services_end() {
    let server = S3Server::start_encrypted();
    let mut home = home();
    let authority = server.authority_file().display();
    let path = home.path("strongroom.toml");
    let configuration = format!(
        "vault_storage = \"{}\"\n{}\n[s3]\nca_file = \"{authority}\"\nrequests_per_second = 1000\n",
        server.location("vaults"),
        std::fs::read_to_string(&path).unwrap()
    );
    std::fs::write(&path, configuration).unwrap();
    home.environment.extend(server.environment().into_iter().map(|(name, value)| (name.to_owned(), value)));
    home.ok(["vault", "create", "main"]);
    assert!(!server.names("vaults").is_empty());
    server.hang_on(|_| true);
    server.take_asked();
    let service = Service::start(&home);
    let until = Instant::now() + Duration::from_secs(60);
    while server.take_asked().is_empty() {
        assert!(Instant::now() < until, "it asked its store for nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = Instant::now();
    service.stop();
    // Far less than the minute after which a request is given up by itself.
    assert!(told.elapsed() < Duration::from_secs(25), "{:?}", told.elapsed());
}
