//! After its commit a job does not fail: a catalog that fails at any of its writes, for once or until the service ends, makes it
//! be recorded late, never undone. Each kind of job is walked through, write by write.

#[path = "common/faults.rs"]
mod faults;
#[path = "common/host.rs"]
mod host;

use faults::Faults;
use host::FakeHost;
use jiff::SignedDuration;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Item, Job, Point, PointSnapshot, Query, Table, Transfer, Vault};
use strongroom_domain::PointId;
use strongroom_domain::job::{JobOperation, JobStatus};
use strongroom_hypervisor::MachineState;
use strongroom_service::instant::NewMachine;
use strongroom_service::restore::Target;
use strongroom_service::vaults::VaultSettings;
use strongroom_service::{
    Service, ServiceConfig, SystemClock, backup, drill, groups, instant, items, jobs, machines, points,
    policies, restore, vaults,
};
use strongroom_store::objects::Location;
use uuid::Uuid;

const DISK_BYTES: usize = 1 << 20;

struct Lab {
    directory: tempfile::TempDir,
    host: FakeHost,
    faults: Faults,
    service: Option<Service>,
    vault: Uuid,
    item: Uuid,
}

/// A vault, a machine that is off, and a point of it, by a service that runs.
impl Lab {
    fn new() -> Self {
        Self::with_disks(1)
    }

    fn with_disks(many: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disks = directory.path().join("disks");
        fs::create_dir(&disks).unwrap();
        fs::create_dir(directory.path().join("sockets")).unwrap();
        let host = FakeHost::new(&directory.path().join("sockets"));
        let mut lab = Self {
            directory,
            host,
            faults: Faults::default(),
            service: None,
            vault: Uuid::nil(),
            item: Uuid::nil(),
        };
        lab.write_disk(1);
        let second = lab.directory.path().join("disks/machine-2.img");
        lab.write(&second, 1);
        lab.host.add("machine", &[("vda", lab.disk().as_path()), ("vdb", second.as_path())][..many]);
        lab.open();
        let service = lab.service();
        groups::put(service, "group", "local", None).unwrap();
        let vault = vaults::put(service, "group", "vault", "local", &VaultSettings::default()).unwrap().0;
        machines::discover(service).unwrap();
        let machine = machines::get(service, "group", "machine").unwrap();
        let policy = policies::get(service, &vault, "DefaultPolicy").unwrap();
        let item = items::protect(service, &vault, &machine, &policy, None, "test").unwrap().item;
        (lab.vault, lab.item) = (vault.id, item.id);
        let job = lab.back_up();
        assert_eq!(lab.over(job.id).status, JobStatus::Completed);
        lab
    }

    fn open(&mut self) {
        self.open_only();
        self.service().start().unwrap();
    }

    fn open_only(&mut self) {
        let config = ServiceConfig {
            data: self.directory.path().join("data"),
            hosts: Vec::new(),
            ..ServiceConfig::default()
        };
        let hosts = vec![self.host.as_host()];
        let faults = self.faults.clone();
        let around = |catalog| faults.around(catalog);
        let service = Service::open_around(config, hosts, Arc::new(SystemClock::new()), around).unwrap();
        self.service = Some(service);
    }

    fn reopen(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop();
        }
        self.faults.heal();
        self.open();
    }

    fn service(&self) -> &Service {
        self.service.as_ref().unwrap()
    }

    fn disk(&self) -> PathBuf {
        self.directory.path().join("disks/machine.img")
    }

    fn content(seed: u8) -> Vec<u8> {
        (0..DISK_BYTES).map(|at| ((at / 512) as u8).wrapping_mul(31) ^ seed).collect()
    }

    /// What the machine writes to its disk, in place.
    fn write_disk(&self, seed: u8) {
        self.write(&self.disk(), seed);
    }

    fn write(&self, disk: &Path, seed: u8) {
        fs::write(disk, Self::content(seed)).unwrap();
    }

    fn vault(&self) -> Vault {
        self.service().catalog().get(self.vault).unwrap().unwrap()
    }

    fn item(&self) -> Item {
        self.service().catalog().get(self.item).unwrap().unwrap()
    }

    /// The oldest.
    fn point(&self) -> Point {
        points::list(self.service(), &self.item(), None, None).unwrap().pop().unwrap()
    }

    fn job(&self, id: Uuid) -> Job {
        self.service().catalog().get(id).unwrap().unwrap()
    }

    fn over(&self, id: Uuid) -> Job {
        self.until(id, |job| job.status.is_over())
    }

    fn until(&self, id: Uuid, is_so: impl Fn(&Job) -> bool) -> Job {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let job = self.job(id);
            if is_so(&job) {
                return job;
            }
            assert!(Instant::now() < until, "{job:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn back_up(&self) -> Job {
        backup::backup_now(self.service(), &self.item(), None, "test").unwrap()
    }

    fn restore(&self, target: Target) -> Job {
        let service = self.service();
        restore::restore(
            service,
            &self.vault(),
            &self.item(),
            &self.point(),
            restore::Asked::of(target, "group", "test"),
        )
        .unwrap()
    }

    /// Files beside the machine's disks that somebody hid.
    fn hidden(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path().join("disks")).unwrap();
        names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect()
    }

    /// From the `first` write of a job that is taken up on, `many` fail. Counts all of them.
    fn fail_at(&self, first: usize, many: usize) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        self.faults.set(move |changes| {
            let is_later =
                |c: &Change| matches!(c, Change::Put { table: Table::Jobs, version, .. } if *version > 0);
            if !changes.iter().any(is_later) {
                return None;
            }
            let number = seen.fetch_add(1, Ordering::SeqCst);
            // The first takes the job up, before anything of it runs.
            (number > 0 && number > first && number <= first.saturating_add(many))
                .then(|| faults::error(number))
        });
        count
    }
}

/// Lets a job's writes fail: each alone, and each with all that follow until the service ends. In the
/// end it has succeeded, and what it makes is there, or it has failed, and nothing is. `is_there` cleans up for the next.
fn walk(
    lab: &mut Lab,
    begin: impl Fn(&Lab, usize) -> Job,
    mut is_there: impl FnMut(&Lab, &Job, usize) -> bool,
) {
    let mut run = 0;
    for many in [1, usize::MAX] {
        for first in 0.. {
            run += 1;
            let count = lab.fail_at(first, many);
            let job = begin(lab, run);
            if many == usize::MAX {
                lab.until(job.id, |job| job.status.is_over() || count.load(Ordering::SeqCst) > first + 1);
                lab.reopen();
            }
            let job = lab.over(job.id);
            lab.faults.heal();
            let there = is_there(lab, &job, run);
            match job.status {
                JobStatus::Completed | JobStatus::CompletedWithWarnings => {
                    assert!(there, "write {first}, {many}: {job:#?}")
                }
                JobStatus::Failed => assert!(!there, "write {first}, {many}: {job:#?}"),
                _ => panic!("{job:#?}"),
            }
            if count.load(Ordering::SeqCst) <= first + 1 {
                assert_eq!(job.status, JobStatus::Completed, "{job:#?}");
                break;
            }
        }
    }
}

#[test]
fn a_backup_is_recorded_whatever_write_fails() {
    let mut lab = Lab::new();
    walk(
        &mut lab,
        |lab, _| lab.back_up(),
        |lab, job, _| {
            let vault = lab.vault();
            let key = lab.service().data().keys().join(format!("{}.key", vault.id));
            let store =
                strongroom_engine::vaults::open(&Location::parse(&vault.store_location).unwrap(), Some(&key));
            let stored: Vec<String> =
                store.unwrap().points(None).unwrap().points.iter().map(|p| p.point.to_string()).collect();
            let known: Vec<Point> = points::list(lab.service(), &lab.item(), None, None).unwrap();
            assert_eq!(stored.len(), known.len(), "{job:#?}");
            assert!(known.iter().all(|p| stored.contains(&p.id.to_string())));
            known.iter().any(|p| p.job == Some(job.id))
        },
    );
}

/// Where its snapshot is a point already, a backup is tried again, whatever fails.
#[test]
fn a_kept_snapshot_comes_into_the_vault_whatever_write_fails() {
    let mut lab = Lab::new();
    let machine = lab.host.get("machine").unwrap();
    let record = lab.directory.path().join("record");
    fs::write(&record, "").unwrap();
    let before = lab.point();
    let mut run = 0;
    for many in [1, usize::MAX] {
        for (first, answers) in (0..3).flat_map(|first| [(first, false), (first, true)]) {
            run += 1;
            // As the service leaves it that is killed when it had kept the snapshot.
            lab.service.take().unwrap().stop();
            lab.open_only();
            let job = lab.back_up();
            let mut point = before.clone();
            (point.version, point.id) = (0, PointId::from_uuid(Uuid::now_v7()));
            (point.name, point.job, point.taken_at) =
                (format!("{run}"), Some(job.id), before.taken_at + SignedDuration::from_secs(run));
            point.transfer = Transfer::Pending;
            let expires_at = lab.service().now() + SignedDuration::from_hours(24);
            point.snapshot = Some(PointSnapshot { host: "host".into(), record: record.clone(), expires_at });
            lab.service().catalog().apply(&[Change::put(&point)]).unwrap();
            let facts = serde_json::json!({
                "point": point.id, "item": lab.item().store_item, "job": job.id.to_string(), "disks": [],
            });
            match answers {
                true => lab.host.keep(&machine, facts.clone()),
                false => lab.host.forget_kept(),
            }
            let count = lab.fail_at(first, many);
            lab.service().start().unwrap();
            let is_waiting = |job: &Job| job.lease.is_none() && job.not_before.is_some();
            lab.until(job.id, |job| {
                job.status.is_over()
                    || is_waiting(job)
                    || many > 1 && count.load(Ordering::SeqCst) > first + 1
            });
            lab.host.keep(&machine, facts);
            lab.service.take().unwrap().stop();
            lab.faults.heal();
            lab.open_only();
            // It waits for its time: sooner now.
            lab.service()
                .catalog()
                .update::<Job, strongroom_service::Error>(job.id, |job| {
                    job.not_before = None;
                    Ok(Vec::new())
                })
                .unwrap();
            lab.service().start().unwrap();
            let job = lab.over(job.id);
            let of_it = |p: &Point| p.job == Some(job.id);
            let point = points::list(lab.service(), &lab.item(), None, None).unwrap().into_iter().find(of_it);
            assert_eq!(
                point.map(|p| p.transfer),
                Some(Transfer::Done),
                "{first}, {many}, {answers}: {job:#?}"
            );
            assert!(job.status != JobStatus::Failed, "{first}, {many}, {answers}: {job:#?}");
        }
    }
}

#[test]
fn restored_disks_are_recorded_whatever_write_fails() {
    let mut lab = Lab::new();
    let place = lab.directory.path().join("place");
    fs::create_dir(&place).unwrap();
    let target = Target::Disks { place: "place".into(), directory: place.clone(), pool: None, format: None };
    walk(
        &mut lab,
        |lab, _| lab.restore(target.clone()),
        |_, job, _| {
            let found: Vec<PathBuf> = fs::read_dir(&place).unwrap().map(|e| e.unwrap().path()).collect();
            let is_whole = match found.as_slice() {
                [] => false,
                [one] => {
                    assert!(one.ends_with(format!("machine-{}", job.id.simple())), "{one:?}");
                    assert_eq!(fs::read(one.join("machine-vda.raw")).unwrap(), Lab::content(1));
                    true
                }
                more => panic!("{more:?}"),
            };
            for directory in found {
                fs::remove_dir_all(directory).unwrap();
            }
            is_whole
        },
    );
}

fn new_machine(lab: &Lab, name: &str) -> Target {
    Target::Machine {
        name: name.into(),
        group: "group".into(),
        host: "host".into(),
        directory: Some(lab.directory.path().join("disks")),
        network: None,
    }
}

#[test]
fn a_new_machine_is_recorded_whatever_write_fails() {
    let mut lab = Lab::new();
    let begin = |lab: &Lab, run: usize| lab.restore(new_machine(lab, &format!("new{run}")));
    walk(&mut lab, begin, |lab, _, run| {
        let name = format!("new{run}");
        let file = lab.directory.path().join(format!("disks/{name}-vda.raw"));
        assert_eq!(lab.hidden(), [""; 0]);
        let is_there = lab.host.get(&name).is_some();
        assert_eq!(is_there, fs::read(&file).is_ok_and(|bytes| bytes == Lab::content(1)));
        is_there
    });
}

#[test]
fn a_machine_whose_definitions_answer_got_lost_is_there() {
    let lab = Lab::new();
    lab.host.lose_answers();
    let job = lab.over(lab.restore(new_machine(&lab, "new")).id);
    assert!(lab.host.get("new").is_some(), "{job:#?}");
    assert_eq!(job.status, JobStatus::Completed, "{job:#?}");
    assert_eq!(fs::read(lab.directory.path().join("disks/new-vda.raw")).unwrap(), Lab::content(1));
}

fn at_once(lab: &Lab, name: &str) -> Job {
    let target = NewMachine {
        name: name.into(),
        group: "group".into(),
        host: "host".into(),
        directory: Some(lab.directory.path().join("disks")),
        network: None,
        unencrypted: false,
    };
    instant::begin(lab.service(), &lab.vault(), &lab.item(), &lab.point(), target, None, "test").unwrap()
}

/// Every look of the service at a machine's disks finds the exports that it runs from.
fn watch_exports(lab: &Lab) -> Arc<Mutex<Vec<String>>> {
    let missing: Arc<Mutex<Vec<String>>> = Arc::default();
    let (told, sockets) = (missing.clone(), lab.directory.path().join("sockets"));
    lab.host.on_pull(move |_| {
        for socket in fs::read_dir(&sockets).unwrap() {
            let socket = socket.unwrap().path();
            if let Err(error) = UnixStream::connect(&socket) {
                told.lock().unwrap().push(format!("{}: {error}", socket.display()));
            }
        }
    });
    missing
}

#[test]
fn a_machine_that_runs_from_the_vault_goes_on_whatever_write_fails() {
    let mut lab = Lab::new();
    let missing = watch_exports(&lab);
    let begin = |lab: &Lab, run: usize| at_once(lab, &format!("new{run}"));
    walk(&mut lab, begin, |lab, _, run| {
        let name = format!("new{run}");
        let found = lab.host.get(&name);
        assert!(found.as_ref().is_none_or(|m| m.summary.state == MachineState::Running));
        found.is_some()
    });
    assert_eq!(*missing.lock().unwrap(), [""; 0]);
}

#[test]
fn a_running_machine_keeps_its_exports_while_the_catalog_fails() {
    let lab = Lab::new();
    let host = lab.host.clone();
    // From the machine's start on nothing can be written.
    lab.faults.set(move |changes| {
        let writes_job = |c: &Change| matches!(c, Change::Put { table: Table::Jobs, .. });
        (host.get("new").is_some() && changes.iter().any(writes_job)).then(|| faults::error(1))
    });
    let job = at_once(&lab, "new");
    let until = Instant::now() + Duration::from_secs(20);
    while lab.host.get("new").is_none() {
        assert!(Instant::now() < until, "{:#?}", lab.job(job.id));
        std::thread::sleep(Duration::from_millis(5));
    }
    let sockets = lab.directory.path().join("sockets");
    let socket: PathBuf = fs::read_dir(&sockets).unwrap().next().unwrap().unwrap().path();
    for _ in 0..100 {
        UnixStream::connect(&socket).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!lab.job(job.id).status.is_over());
    lab.faults.heal();
    let job = lab.over(job.id);
    assert_eq!(job.status, JobStatus::Completed, "{job:#?}");
    assert!(
        job.properties.iter().any(|(name, _)| name == strongroom_domain::fact::STARTED_MACHINE),
        "{job:#?}"
    );
}

#[test]
fn a_machine_whose_starts_answer_got_lost_runs_on() {
    let lab = Lab::new();
    lab.host.lose_answers();
    let job = lab.over(at_once(&lab, "new").id);
    assert_eq!(job.status, JobStatus::Completed, "{job:#?}");
    assert_eq!(lab.host.get("new").unwrap().summary.state, MachineState::Running);
}

#[test]
fn a_drills_result_is_recorded_whatever_write_fails() {
    let mut lab = Lab::new();
    let begin = |lab: &Lab, _: usize| {
        let options = drill::DrillOptions::default();
        drill::begin(lab.service(), &lab.vault(), &lab.item(), &lab.point(), &options, "test").unwrap()
    };
    walk(&mut lab, begin, |lab, job, _| {
        assert_eq!(lab.hidden(), [""; 0]);
        lab.point().drill.is_some_and(|drill| drill.job == job.id && drill.passed)
    });
}

fn replace_walk(change: impl Fn(&Lab, &[u8])) {
    let mut lab = Lab::new();
    let other = |seed: u8| Lab::content(seed);
    change(&lab, &other(1));
    let before = fs::read(lab.disk()).unwrap();
    walk(
        &mut lab,
        |lab, _| lab.restore(Target::Replace),
        |lab, job, _| {
            let now = fs::read(lab.disk()).unwrap();
            assert_eq!(lab.hidden(), [""; 0], "{job:#?}");
            let is_replaced = now == other(1);
            assert!(is_replaced || now == before, "neither the point's nor the one before: {job:#?}");
            fs::write(lab.disk(), &before).unwrap();
            is_replaced
        },
    );
}

#[test]
fn replaced_disks_are_recorded_whatever_write_fails() {
    replace_walk(|lab, _| lab.write_disk(7));
}

#[test]
fn a_disk_rewritten_in_place_is_recorded_whatever_write_fails() {
    replace_walk(|lab, bytes| {
        let mut bytes = bytes.to_vec();
        bytes[70_000] ^= 1;
        fs::write(lab.disk(), bytes).unwrap();
    });
}

/// The machine is started by somebody right after the `at`th look of the replacement, which found it off. It opens its disk, as
/// QEMU does. The file that it has, if it came to that.
fn start_in_between(lab: &Lab, at: usize) -> (Job, Option<fs::File>) {
    let opened: Arc<Mutex<Option<fs::File>>> = Arc::default();
    let (disk, looks, keeps) = (lab.disk(), AtomicUsize::new(0), opened.clone());
    lab.host.after_inspect(move |host| {
        if looks.fetch_add(1, Ordering::SeqCst) == at {
            *keeps.lock().unwrap() = Some(fs::File::open(&disk).unwrap());
            host.set_state("machine", MachineState::Running);
        }
    });
    let job = lab.over(lab.restore(Target::Replace).id);
    lab.host.after_inspect(|_| ());
    lab.host.set_state("machine", MachineState::ShutOff);
    let opened = opened.lock().unwrap().take();
    (job, opened)
}

/// It was found off for the last time before all was written down as ready.
#[test]
fn the_disks_of_a_machine_that_was_started_while_others_were_made_are_left_alone() {
    use std::os::unix::fs::MetadataExt as _;
    for disks in [1, 2] {
        let lab = Lab::with_disks(disks);
        lab.write_disk(9);
        let seen: Arc<Mutex<Option<(u64, i64, i64)>>> = Arc::default();
        let look = |disk: &Path| {
            let metadata = fs::metadata(disk).unwrap();
            // Naming a file anew changes this time of it.
            (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        let (host, disk, keeps) = (lab.host.clone(), lab.disk(), seen.clone());
        lab.faults.set(move |changes| {
            let is_ready = |c: &Change| matches!(c, Change::Put { table: Table::Jobs, doc, .. } if doc.contains(r#""way":"ready""#));
            let mut seen = keeps.lock().unwrap();
            if seen.is_none() && changes.iter().any(is_ready) {
                *seen = Some(look(&disk));
                host.set_state("machine", MachineState::Running);
            }
            None
        });
        let job = lab.over(lab.restore(Target::Replace).id);
        let before = seen.lock().unwrap().expect("it was never ready");
        assert_eq!(job.status, JobStatus::Failed, "{job:#?}");
        assert_eq!(job.errors[0].name, "UserErrorVmNotInDesirableState", "{job:#?}");
        assert_eq!(look(&lab.disk()), before, "its disk was renamed: {job:#?}");
        assert_eq!((lab.hidden(), fs::read(lab.disk()).unwrap()), (vec![], Lab::content(9)));
    }
}

/// One of two disks is put aside while the others take their places: who has started it just before has that one open.
#[test]
fn a_machine_of_two_disks_that_is_started_meanwhile_keeps_those_that_it_has() {
    use std::os::unix::fs::MetadataExt as _;
    let lab = Lab::with_disks(2);
    let disks = [lab.disk(), lab.directory.path().join("disks/machine-2.img")];
    let mut refused = 0;
    for at in 1.. {
        disks.iter().for_each(|disk| lab.write(disk, 9));
        let before = disks.each_ref().map(|disk| fs::metadata(disk).unwrap().ino());
        let (job, opened) = start_in_between(&lab, at);
        assert_eq!(lab.hidden(), [""; 0], "look {at}: {job:#?}");
        if opened.is_none() {
            assert!(job.status == JobStatus::Completed && refused > 3, "{job:#?}");
            break;
        }
        let now = disks.each_ref().map(|disk| fs::metadata(disk).unwrap().ino());
        if job.status == JobStatus::Failed {
            refused += 1;
            assert_eq!(now, before, "look {at}: {job:#?}");
        } else {
            assert_eq!(opened.unwrap().metadata().unwrap().ino(), now[0], "look {at}: {job:#?}");
        }
    }
}

#[test]
fn a_machine_that_is_started_meanwhile_keeps_the_disk_that_it_has() {
    use std::os::unix::fs::MetadataExt as _;
    let lab = Lab::new();
    lab.write_disk(9);
    let mut refused = 0;
    for at in 1.. {
        let before = fs::metadata(lab.disk()).unwrap().ino();
        let (job, opened) = start_in_between(&lab, at);
        assert_eq!(lab.hidden(), [""; 0], "look {at}: {job:#?}");
        let now = fs::metadata(lab.disk()).unwrap().ino();
        if let Some(opened) = &opened {
            assert_eq!(
                opened.metadata().unwrap().ino(),
                now,
                "it runs with a disk that is not its own: {job:#?}"
            );
        }
        if job.status == JobStatus::Completed {
            assert_eq!(fs::read(lab.disk()).unwrap(), Lab::content(1));
            lab.write_disk(9);
        } else {
            refused += 1;
            assert_eq!(job.errors[0].name, "UserErrorVmNotInDesirableState", "look {at}: {job:#?}");
            assert_eq!((now, fs::read(lab.disk()).unwrap()), (before, Lab::content(9)), "look {at}");
        }
        if opened.is_none() {
            assert!(job.status == JobStatus::Completed && refused > 3, "{job:#?}");
            break;
        }
    }
}

/// With two disks it takes the gate's way.
#[test]
fn two_replaced_disks_are_recorded_whatever_write_fails() {
    let mut lab = Lab::with_disks(2);
    let disks = [lab.disk(), lab.directory.path().join("disks/machine-2.img")];
    let write = |lab: &Lab, seed: u8| disks.iter().for_each(|d| lab.write(d, seed));
    write(&lab, 7);
    walk(
        &mut lab,
        |lab, _| lab.restore(Target::Replace),
        |lab, job, _| {
            let now: Vec<Vec<u8>> = disks.iter().map(|disk| fs::read(disk).unwrap()).collect();
            assert_eq!(lab.hidden(), [""; 0], "{job:#?}");
            assert_eq!(now[0], now[1], "one of each");
            write(lab, 7);
            now[0] == Lab::content(1)
        },
    );
}

#[test]
fn a_job_that_is_over_is_not_open() {
    let lab = Lab::new();
    let filter = jobs::JobFilter { operation: Some(JobOperation::Backup), ..jobs::JobFilter::default() };
    let all = jobs::list(lab.service(), &lab.vault(), &filter, 0, 10).unwrap();
    assert_eq!(all.len(), 1);
    let open: Vec<Job> = lab.service().catalog().find(&Query::all().eq("open", true)).unwrap();
    assert!(open.is_empty(), "{open:?}");
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.faults.heal();
        if let Some(service) = self.service.take() {
            service.stop();
        }
    }
}
