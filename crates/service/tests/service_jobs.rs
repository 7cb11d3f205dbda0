//! When jobs begin, what they wait for, and what they say of what they did not find.

#[path = "common/faults.rs"]
mod faults;
#[path = "common/host.rs"]
mod host;

use faults::Faults;
use host::FakeHost;
use jiff::Timestamp;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Item, Job, Machine, Point, Query, Table, Vault};
use strongroom_domain::Datasource;
use strongroom_domain::job::JobStatus;
use strongroom_domain::policy::{Policy as Rules, SnapshotConsistency};
use strongroom_hypervisor::Quiesce;
use strongroom_service::config::StorageAccount;
use strongroom_service::jobs::{self, JobFilter};
use strongroom_service::restore::{self, Target};
use strongroom_service::vaults::VaultSettings;
use strongroom_service::{
    Clock, Service, ServiceConfig, SystemClock, backup, groups, items, machines, points, policies, reconcile,
    vaults,
};
use strongroom_store::Session;
use strongroom_store::objects::Location;
use strongroom_store::objects::testing::{ErrorAnswer, S3Server};
use uuid::Uuid;

/// The system's clock, which can be put forward.
struct Ahead(SystemClock, Arc<Mutex<Duration>>);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.0.now() + *self.1.lock().unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed() + *self.1.lock().unwrap()
    }
}

/// A service that runs, with a vault; each machine is off and has a disk.
struct Lab {
    directory: tempfile::TempDir,
    host: FakeHost,
    ahead: Arc<Mutex<Duration>>,
    faults: Faults,
    service: Service,
    vault: Uuid,
}

impl Lab {
    fn new(settings: &VaultSettings) -> Self {
        Self::with_accounts(settings, Vec::new())
    }

    fn with_accounts(settings: &VaultSettings, storage_accounts: Vec<StorageAccount>) -> Self {
        Self::with(settings, storage_accounts, None)
    }

    fn with(
        settings: &VaultSettings,
        storage_accounts: Vec<StorageAccount>,
        vault_storage: Option<String>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("disks")).unwrap();
        fs::create_dir(directory.path().join("sockets")).unwrap();
        let host = FakeHost::new(&directory.path().join("sockets"));
        let config = ServiceConfig {
            data: directory.path().join("data"),
            hosts: Vec::new(),
            storage_accounts,
            vault_storage,
            ..ServiceConfig::default()
        };
        let hosts = vec![host.as_host()];
        let ahead = Arc::new(Mutex::new(Duration::ZERO));
        let clock = Arc::new(Ahead(SystemClock::new(), ahead.clone()));
        let faults = Faults::default();
        let around = |catalog| faults.around(catalog);
        let service = Service::open_around(config, hosts, clock, around).unwrap();
        groups::put(&service, "group", "local", None).unwrap();
        let vault = vaults::put(&service, "group", "vault", "local", settings).unwrap().0.id;
        service.start().unwrap();
        Self { directory, host, ahead, faults, service, vault }
    }

    fn vault(&self) -> Vault {
        self.service.catalog().get(self.vault).unwrap().unwrap()
    }

    fn define(&self, name: &str) {
        let disk = self.directory.path().join("disks").join(name);
        fs::write(&disk, vec![7; 1 << 20]).unwrap();
        self.host.add(name, &[("vda", disk.as_path())]);
    }

    fn machine(&self, name: &str) -> Machine {
        self.define(name);
        machines::discover(&self.service).unwrap();
        machines::get(&self.service, "group", name).unwrap()
    }

    fn protect(&self, name: &str) -> Item {
        let policy = policies::get(&self.service, &self.vault(), "DefaultPolicy").unwrap();
        items::protect(&self.service, &self.vault(), &self.machine(name), &policy, None, "test").unwrap().item
    }

    fn back_up(&self, item: &Item) -> Job {
        let item: Item = self.service.catalog().get(item.id).unwrap().unwrap();
        backup::backup_now(&self.service, &item, None, "test").unwrap()
    }

    fn until(&self, id: Uuid, is_so: impl Fn(&Job) -> bool) -> Job {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let job: Job = self.service.catalog().get(id).unwrap().unwrap();
            if is_so(&job) {
                return job;
            }
            assert!(Instant::now() < until, "{job:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn over(&self, id: Uuid) -> Job {
        self.until(id, |job| job.status.is_over())
    }

    fn points(&self, item: &Item) -> Vec<Point> {
        points::list(&self.service, item, None, None).unwrap()
    }

    fn key(&self) -> PathBuf {
        self.service.data().keys().join(format!("{}.key", self.vault))
    }

    /// The vault's store, opened beside the service.
    fn store(&self) -> strongroom_store::Vault {
        let location = Location::parse(&self.vault().store_location).unwrap();
        strongroom_engine::vaults::open(&location, Some(&self.key())).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.service.stop();
    }
}

fn for_one_writer() -> VaultSettings {
    VaultSettings { single_writer: Some(true), ..VaultSettings::default() }
}

#[test]
fn a_backup_waits_while_something_else_writes_to_a_vault_for_one_writer() {
    let lab = Lab::new(&for_one_writer());
    assert!(vaults::is_single_writer(&lab.service, &lab.vault()).unwrap());
    let item = lab.protect("machine");
    let other = Session::begin(&lab.store(), "another program's run").unwrap();
    let job = lab.back_up(&item);
    let waiting = lab.until(job.id, |job| job.status.is_over() || job.not_before.is_some());
    assert_eq!(waiting.status, JobStatus::InProgress, "{waiting:#?}");
    assert!(waiting.warnings.iter().any(|w| w.contains("another program's run")), "{waiting:#?}");
    drop(other);
    *lab.ahead.lock().unwrap() += Duration::from_secs(3600);
    let done = lab.over(job.id);
    // It made no difference to the point, and none is told.
    assert_eq!(done.status, JobStatus::Completed, "{done:#?}");
    assert_eq!((done.attempts, lab.points(&item).len()), (1, 1));
}

#[test]
fn a_backup_that_waits_for_its_vault_can_be_cancelled_and_does_not_wait_for_ever() {
    let lab = Lab::new(&for_one_writer());
    let item = lab.protect("machine");
    let _other = Session::begin(&lab.store(), "another program's run").unwrap();
    let job = lab.back_up(&item);
    lab.until(job.id, |job| job.not_before.is_some());
    strongroom_service::jobs::cancel(&lab.service, &lab.vault(), job.id).unwrap();
    assert_eq!(lab.over(job.id).status, JobStatus::Cancelled);
    let job = lab.back_up(&item);
    lab.until(job.id, |job| job.not_before.is_some());
    *lab.ahead.lock().unwrap() += Duration::from_secs(25 * 3600);
    let failed = lab.over(job.id);
    assert_eq!(failed.status, JobStatus::Failed, "{failed:#?}");
    assert!(failed.errors[0].message.contains("another program's run"), "{failed:#?}");
}

/// Whether two backups that are asked for together go on at once.
fn go_on_at_once(settings: &VaultSettings) -> bool {
    let lab = Lab::new(settings);
    let items = [lab.protect("one"), lab.protect("two")];
    // The store was opened: what it is is known.
    lab.over(lab.back_up(&items[0]).id);
    let service = lab.service.clone();
    // One of them takes its time; the other is over long before, or begins after it.
    lab.host.after_inspect(move |_| {
        let open: Vec<Job> = service.catalog().find(&Query::all().eq("open", true)).unwrap();
        if open.iter().any(|j| j.lease.is_some()) {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let jobs = [lab.back_up(&items[0]), lab.back_up(&items[1])];
    let times = jobs.map(|job| {
        let job = lab.over(job.id);
        assert_eq!((job.status, job.attempts), (JobStatus::Completed, 1), "{job:#?}");
        (job.tasks[0].started_at.unwrap(), job.ended_at.unwrap())
    });
    times[0].0 < times[1].1 && times[1].0 < times[0].1
}

#[test]
fn a_vault_for_one_writer_has_one_backup_at_a_time() {
    assert!(go_on_at_once(&VaultSettings::default()));
    assert!(!go_on_at_once(&for_one_writer()));
}

#[test]
fn a_vault_stays_what_it_was_made_as() {
    let lab = Lab::new(&VaultSettings::default());
    let error = vaults::put(&lab.service, "group", "vault", "local", &for_one_writer()).unwrap_err();
    assert!(error.message.contains("for several writers"), "{error}");
    assert!(!vaults::is_single_writer(&lab.service, &lab.vault()).unwrap());
}

/// Somebody asked for another one a moment before.
#[test]
fn a_machine_that_was_defined_after_another_was_missed_is_found() {
    let lab = Lab::new(&VaultSettings::default());
    for round in 0..3 {
        let name = format!("new{round}");
        machines::get(&lab.service, "group", "nothing").unwrap_err();
        lab.define(&name);
        assert_eq!(machines::get(&lab.service, "group", &name).unwrap().name, name);
    }
}

#[test]
fn who_asks_for_what_is_not_there_does_not_keep_the_hosts_busy() {
    let lab = Lab::new(&VaultSettings::default());
    machines::discover(&lab.service).unwrap();
    let takes = Duration::from_millis(20);
    lab.host.take_long_to_list(takes);
    let (before, began) = (lab.host.times_listed(), Instant::now());
    std::thread::scope(|scope| {
        for n in 0..20 {
            let service = &lab.service;
            scope.spawn(move || {
                for m in 0..5 {
                    machines::get(service, "group", &format!("nothing{n}-{m}")).unwrap_err();
                }
            });
        }
    });
    // A hundred questions; each look takes a fifth of the time at most. The service itself may have looked, too.
    let most = began.elapsed().as_millis() / (takes.as_millis() * 5) + 3;
    let looks = lab.host.times_listed() - before;
    assert!(looks >= 5 && looks as u128 <= most, "{looks} looks, {most} at most");
}

#[test]
fn a_policy_can_want_snapshots_without_freezing() {
    let lab = Lab::new(&VaultSettings::default());
    let item = lab.protect("machine");
    lab.over(lab.back_up(&item).id);
    assert_eq!(lab.host.asked_to_freeze(), [Quiesce::Auto]);
    assert_eq!(lab.points(&item)[0].machine_size, "1vcpu_32MiB");
    let default = policies::get(&lab.service, &lab.vault(), "DefaultPolicy").unwrap();
    let rules = Rules { snapshot_consistency: SnapshotConsistency::OnlyCrash, ..default.rules };
    policies::put(&lab.service, &lab.vault(), "DefaultPolicy", rules, serde_json::Value::Null).unwrap();
    lab.over(lab.back_up(&item).id);
    assert_eq!(lab.host.asked_to_freeze(), [Quiesce::Auto, Quiesce::Never]);
}

#[test]
fn a_machine_that_was_defined_just_now_is_found() {
    let lab = Lab::new(&VaultSettings::default());
    machines::discover(&lab.service).unwrap();
    lab.define("new");
    // A moment after the last look.
    let found = machines::get_or_look(&lab.service, "group", "new").unwrap();
    assert_eq!(found.name, "new");
    let error = machines::get_or_look(&lab.service, "group", "none").unwrap_err();
    assert_eq!(error.code, Some("ResourceNotFound"), "{error}");
}

/// As after the import of its vault, before anybody looked at the hosts.
#[test]
fn a_machine_that_nobody_has_seen_is_looked_for_before_its_backup() {
    let lab = Lab::new(&VaultSettings::default());
    let item = lab.protect("machine");
    let catalog = lab.service.catalog();
    let machine: Machine = catalog.get(item.machine).unwrap().unwrap();
    let mut unknown: Item = catalog.get(item.id).unwrap().unwrap();
    unknown.machine = Uuid::new_v4();
    catalog.apply(&[Change::put(&unknown), Change::delete(&machine)]).unwrap();
    let done = lab.over(lab.back_up(&item).id);
    assert_eq!(done.status, JobStatus::Completed, "{done:#?}");
    let machine = machines::get(&lab.service, "group", "machine").unwrap();
    assert_eq!(catalog.get::<Item>(item.id).unwrap().unwrap().machine, machine.id);
    // One that is on no host is none.
    let mut unknown: Item = catalog.get(item.id).unwrap().unwrap();
    unknown.machine = Uuid::new_v4();
    unknown.machine_name = "nowhere".into();
    catalog.apply(&[Change::put(&unknown)]).unwrap();
    let failed = lab.over(lab.back_up(&item).id);
    assert_eq!(failed.status, JobStatus::Failed, "{failed:#?}");
    assert!(failed.errors[0].message.contains("no longer known"), "{failed:#?}");
}

/// Points of databases and of files are no machines: nothing tries to start them.
#[test]
fn what_is_no_machine_is_not_started_as_one() {
    let lab = Lab::new(&VaultSettings::default());
    let item = lab.protect("web");
    let job = lab.back_up(&item);
    lab.over(job.id);
    let point = &lab.points(&item)[0];
    let begin = |item: &Item| {
        let options = strongroom_service::drills::DrillOptions::default();
        strongroom_service::drill::begin(&lab.service, &lab.vault(), item, point, &options, "test")
    };
    for datasource in [Datasource::Database, Datasource::Files] {
        let refused = begin(&Item { datasource, ..item.clone() }).err().unwrap();
        assert_eq!(refused.code, Some("UserErrorNotAMachine"), "{refused}");
        let filter = JobFilter { datasources: Some(vec![datasource]), ..JobFilter::default() };
        assert!(jobs::list(&lab.service, &lab.vault(), &filter, 0, 10).unwrap().is_empty());
    }
    begin(&item).unwrap();
    let filter = JobFilter { datasources: Some(vec![Datasource::Machine]), ..JobFilter::default() };
    assert_eq!(jobs::list(&lab.service, &lab.vault(), &filter, 0, 10).unwrap().len(), 3);
}

#[test]
fn what_was_not_found_is_named_with_what_to_do() {
    let lab = Lab::new(&VaultSettings::default());
    let item = lab.protect("machine");
    lab.over(lab.back_up(&item).id);
    let point = lab.points(&item).remove(0);
    let restore = |to: &str| {
        let directory = lab.directory.path().join(to);
        fs::create_dir(&directory).unwrap();
        let target = Target::Disks { place: "place".into(), directory, pool: None, format: None };
        let (service, vault) = (&lab.service, lab.vault());
        let job =
            restore::restore(service, &vault, &item, &point, restore::Asked::of(target, "group", "test"));
        let mut job = lab.over(job.unwrap().id);
        assert_eq!(job.status, JobStatus::Failed, "{job:#?}");
        job.errors.remove(0)
    };
    // The point is not in the vault any more.
    let points = PathBuf::from(lab.vault().store_location).join("points");
    fs::rename(&points, points.with_extension("aside")).unwrap();
    let error = restore("first");
    assert_eq!(error.name, "UserErrorRecoveryPointNotFound", "{error:?}");
    assert!(error.recommendation.contains("vault reconcile"), "{error:?}");
    fs::rename(points.with_extension("aside"), &points).unwrap();
    // Its file system is not mounted.
    let place = PathBuf::from(lab.vault().store_location);
    fs::rename(&place, place.with_extension("aside")).unwrap();
    fs::create_dir(&place).unwrap();
    let error = restore("second");
    assert_ne!(error.name, "UserErrorVmNotFound", "{error:?}");
    assert!(!error.recommendation.contains("machine"), "{error:?}");
    // It is the machine.
    fs::remove_dir_all(&place).unwrap();
    fs::rename(place.with_extension("aside"), &place).unwrap();
    strongroom_hypervisor::Hypervisor::undefine(&lab.host, "machine").unwrap();
    let failed = lab.over(lab.back_up(&item).id);
    assert_eq!(failed.errors[0].name, "UserErrorVmNotFound", "{failed:#?}");
}

/// A restore into a container that ends while its disks are being sent: the container refuses or vanishes, for once or for good.
#[test]
fn a_container_that_gives_up_midway_gets_no_half_restore() {
    let server = Arc::new(S3Server::start());
    let account: StorageAccount = serde_json::from_value(serde_json::json!({
        "name": "account",
        "url": server.location("restores"),
        "endpoint": server.endpoint(),
        "account": S3Server::ACCESS_KEY_ID,
        "key_file": "KEY",
        "allow_http": true,
        "group": "group",
        "location": "local",
    }))
    .unwrap();
    let keys = tempfile::tempdir().unwrap();
    let key_file = keys.path().join("key");
    fs::write(&key_file, S3Server::SECRET_ACCESS_KEY).unwrap();
    let account = StorageAccount { key_file: Some(key_file), ..account };
    let lab = Lab::with_accounts(&VaultSettings::default(), vec![account]);
    let item = lab.protect("machine");
    lab.over(lab.back_up(&item).id);
    let point = lab.points(&item).remove(0);
    // From when the job says which uploads it has begun on.
    let restore = |status: u16, code: &'static str, times: usize| -> Job {
        let (server, mut left) = (server.clone(), times);
        lab.faults.set(move |changes| {
            let has_begun = |c: &Change| matches!(c, Change::Put { table: Table::Jobs, doc, .. } if doc.contains(r#""uploads":[["#));
            if left > 0 && changes.iter().any(has_begun) {
                let answer = ErrorAnswer { status, code, after_effect: false };
                server.answer_next(std::iter::repeat_n(answer, std::mem::take(&mut left)));
            }
            None
        });
        let target = Target::Container { place: "account".into(), place_group: "group".into(), format: None };
        let (service, vault) = (&lab.service, lab.vault());
        let job =
            restore::restore(service, &vault, &item, &point, restore::Asked::of(target, "group", "test"));
        let job = lab.over(job.unwrap().id);
        lab.faults.heal();
        job
    };
    for (status, code, name) in [
        (403, "AccessDenied", "UserErrorStorageAccountAccessDenied"),
        (404, "NoSuchBucket", "UserErrorStorageContainerNotFound"),
    ] {
        let job = restore(status, code, 1);
        assert_eq!((job.status, job.errors[0].name.as_str()), (JobStatus::Failed, name), "{job:#?}");
        assert!(job.warnings.is_empty(), "{job:#?}");
        assert_eq!(server.names("restores"), Vec::<String>::new(), "{job:#?}");
        assert_eq!(server.open_uploads(), 0, "{job:#?}");
    }
    let job = restore(0, "", 0);
    assert_eq!(job.status, JobStatus::Completed, "{job:#?}");
    let whole = server.names("restores");
    assert!(whole.iter().any(|name| name.ends_with(".qcow2")), "{whole:?}");
    // For good: what was sent cannot be taken away either, and that is said, with where it is.
    let job = restore(403, "AccessDenied", 1000);
    assert_eq!(job.status, JobStatus::Failed, "{job:#?}");
    assert!(server.open_uploads() > 0);
    // In a warning; or, where it was refused so late that it was looked at once more, as what it failed of.
    let mut told = job.warnings.iter().chain(job.errors.iter().map(|e| &e.message));
    let is_told = |text: &String| {
        text.contains(&server.location("restores"))
            && (text.contains("remove machine-") || text.contains("still there"))
    };
    assert!(told.any(is_told), "{job:#?}");
}

/// Credentials for vaults come from the environment: the rest is a process of its own, [`with_a_vault_in_a_bucket`].
#[test]
fn a_store_that_ceases_to_honour_create_if_absent_gets_no_backups() {
    // Its number is known before there is a server.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let root = tempfile::tempdir().unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "with_a_vault_in_a_bucket", "--ignored", "--nocapture"])
        .env("S3_ROOT", root.path())
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", S3Server::ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", S3Server::SECRET_ACCESS_KEY)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
#[ignore = "run by the test above"]
fn with_a_vault_in_a_bucket() {
    let Some(root) = std::env::var_os("S3_ROOT").map(PathBuf::from) else { return };
    let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap();
    fs::create_dir(root.join(S3Server::BUCKET)).unwrap();
    let server = S3Server::start_at(&root, endpoint.rsplit_once(':').unwrap().1.parse().unwrap());
    let lab = Lab::with(&VaultSettings::default(), Vec::new(), Some(server.location("service")));
    let item = lab.protect("machine");
    let a_day_passes = || *lab.ahead.lock().unwrap() += Duration::from_secs(25 * 3600);
    let shown = || reconcile::report(&lab.service, &lab.vault()).unwrap().and_then(|r| r.store_problem);
    let completes = |about: &str| {
        let job = lab.over(lab.back_up(&item).id);
        assert_eq!(job.status, JobStatus::Completed, "{about}: {job:#?}");
        assert_eq!(shown(), None, "{about}");
    };
    let is_refused = |about: &str| {
        let before = lab.points(&item).len();
        let job = lab.over(lab.back_up(&item).id);
        assert_eq!(job.status, JobStatus::Failed, "{about}: {job:#?}");
        let error = &job.errors[0];
        assert_eq!(error.name, "UserErrorVaultStoreNotExclusive", "{about}: {job:#?}");
        let problem = shown().expect(about);
        for told in [&error.message, &problem] {
            for word in ["'vault'", endpoint.as_str(), "If-None-Match", "use a server", "--single-writer"] {
                assert!(told.contains(word), "{about}: {word}: {told}");
            }
        }
        assert_eq!(lab.points(&item).len(), before, "{about}");
    };
    completes("as it was made");
    // A look that cannot be made refuses nothing.
    server.deny_puts(Some("/probes/"));
    a_day_passes();
    vaults::check_exclusive(&lab.service).unwrap();
    completes("not to be looked at");
    // The server is exchanged for one that does not know of conditional writes.
    server.ignore_conditions();
    completes("still not to be looked at");
    server.deny_puts(None);
    a_day_passes();
    vaults::check_exclusive(&lab.service).unwrap();
    assert!(shown().is_some_and(|problem| problem.contains("If-None-Match")), "{:?}", shown());
    is_refused("exchanged");
    // Comparing vault and catalog leaves it shown.
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert!(shown().is_some());
    // What is there can be read, and it is the server's fault no longer than it lasts.
    assert!(!lab.store().points(None).unwrap().points.is_empty());
    server.honour_conditions();
    completes("put right");
    // Without anybody's look, too: the next backup finds out.
    server.ignore_conditions();
    a_day_passes();
    is_refused("exchanged once more");
}
