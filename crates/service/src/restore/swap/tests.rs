//! Swapping a machine's disks, cut short at every step.

use super::*;
use crate::core::config::ServiceConfig;
use crate::protection::{items, policies};
use crate::restore::request::Target;
use crate::restore::swap_plan::Swap;
use crate::vaults::{groups, settings};
use std::sync::atomic::{AtomicBool, Ordering};
use strongroom_catalog::Change;
use strongroom_domain::job::JobOperation;
use strongroom_engine::target::DiskFormat;
use uuid::Uuid;

/// Where tests find file systems: usually ext4 or XFS, and tmpfs.
fn places() -> Vec<tempfile::TempDir> {
    let shm = Path::new("/dev/shm").is_dir().then(|| tempfile::tempdir_in("/dev/shm").unwrap());
    [Some(tempfile::tempdir().unwrap()), shm].into_iter().flatten().collect()
}

#[test]
fn files_are_exchanged_without_a_moment_between() {
    for place in places() {
        let [one, other] = ["one", "other"].map(|name| place.path().join(name));
        fs::write(&one, "1").unwrap();
        fs::write(&other, "2").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let read = fs::read_to_string(&one).unwrap();
                    assert!(read == "1" || read == "2");
                }
            });
            for _ in 0..501 {
                assert!(exchange(&one, &other).unwrap(), "{} cannot exchange files", place.path().display());
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!([&one, &other].map(|file| fs::read_to_string(file).unwrap()), ["2", "1"]);
        // What cannot be is said, and nothing is done.
        assert!(!exchange(&one, &place.path().join("none")).unwrap());
        assert!(!is_open(&one) && one.exists());
        let open = fs::File::open(&one).unwrap();
        assert!(exchange(&one, &other).unwrap());
        assert!(is_open(&other) && !is_open(&one));
        drop(open);
    }
}

struct Lab {
    directory: tempfile::TempDir,
    service: Service,
    vault: Vault,
    item: Item,
    job: Job,
    disk: ReadyDisk,
}

impl Lab {
    /// A replacement of one disk that is ready, of a machine that is not there any more, and so is off.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let service =
            Service::open(ServiceConfig { data, hosts: Vec::new(), ..ServiceConfig::default() }).unwrap();
        groups::put(&service, "group", "local", None).unwrap();
        let settings = settings::VaultSettings::default();
        let vault = settings::put(&service, "group", "vault", "local", &settings).unwrap().0;
        let mut machine: Machine = serde_json::from_value(serde_json::json!({
            "id": Uuid::new_v4(), "host": "nowhere", "host_uuid": "", "name": "machine", "group": "group",
            "location": "local", "power": "", "disks": [], "os": "Linux", "discovered_at": service.now(),
        }))
        .unwrap();
        service.catalog.apply(&[Change::put(&machine)]).unwrap();
        let policy = policies::get(&service, &vault, "DefaultPolicy").unwrap();
        let item = items::protect(&service, &vault, &machine, &policy, None, "test").unwrap().item;
        machine.version = 1;
        machine.gone_at = Some(service.now());
        service.catalog.apply(&[Change::put(&machine)]).unwrap();
        let job = jobs::draft(&service, &item, "restore", JobOperation::Restore, "test");
        service.catalog.apply(&[Change::put(&job)]).unwrap();
        let file = |name: &str| directory.path().join(name);
        let mut disk = ReadyDisk {
            new: file(".hidden"),
            disk: file("disk"),
            target: "vda".into(),
            format: DiskFormat::Raw,
            way: Way::Ready,
            files: None,
        };
        fs::write(&disk.new, "new").unwrap();
        fs::write(&disk.disk, "old").unwrap();
        disk.files = Some(Files::of(&disk).unwrap());
        Self { directory, service, vault, item, job, disk }
    }

    fn carry_out(&self, change: impl Fn(&mut Swap)) -> Result<Vec<String>> {
        let mut request: RestoreRequest = serde_json::from_value(serde_json::json!({
            "point": Uuid::new_v4(), "target": Target::Replace,
        }))
        .unwrap();
        request.swap.disks = vec![self.disk.clone()];
        change(&mut request.swap);
        let mut warnings = Vec::new();
        let progress = Arc::new(Progress::default());
        carry_out(&self.service, &self.job, &self.vault, &self.item, request, &progress, &mut warnings)
            .map(|_| warnings)
    }

    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(&path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn is_replaced(&self) {
        assert_eq!(self.files(), [("disk".to_owned(), "new".to_owned())]);
    }
}

#[test]
fn a_replacement_killed_anywhere_is_completed() {
    let steps: [fn(&Lab); 3] = [
        |_| (),
        |lab| assert!(exchange(&lab.disk.new, &lab.disk.disk).unwrap()),
        |lab| {
            assert!(exchange(&lab.disk.new, &lab.disk.disk).unwrap());
            fs::remove_file(&lab.disk.new).unwrap();
        },
    ];
    for step in steps {
        let lab = Lab::new();
        step(&lab);
        assert_eq!(lab.carry_out(|_| ()).unwrap(), [""; 0]);
        lab.is_replaced();
    }
    // Without exchange: the gate, which is open, aside, and open again.
    type Step = fn(&Lab);
    let steps: [(bool, Step); 5] = [
        (false, |_| ()),
        (false, |lab| fs::rename(&lab.disk.disk, lab.disk.aside()).unwrap()),
        (true, |lab| fs::rename(&lab.disk.disk, lab.disk.aside()).unwrap()),
        (true, |lab| {
            fs::rename(&lab.disk.disk, lab.disk.aside()).unwrap();
            fs::rename(&lab.disk.new, &lab.disk.disk).unwrap();
        }),
        (true, |lab| fs::rename(&lab.disk.new, &lab.disk.disk).unwrap()),
    ];
    for (is_shut, step) in steps {
        let lab = Lab::new();
        step(&lab);
        lab.carry_out(|swap| (swap.by_gate, swap.is_shut) = (true, is_shut)).unwrap();
        lab.is_replaced();
    }
    // Written down by a version that renamed the one over the other, before it did and after.
    for is_done in [false, true] {
        let lab = Lab::new();
        if is_done {
            fs::rename(&lab.disk.new, &lab.disk.disk).unwrap();
        }
        lab.carry_out(|swap| swap.disks[0].files = None).unwrap();
        lab.is_replaced();
    }
}

#[test]
fn what_has_come_to_have_the_hidden_name_stays() {
    let lab = Lab::new();
    assert!(exchange(&lab.disk.new, &lab.disk.disk).unwrap());
    fs::write(lab.directory.path().join("other"), "other").unwrap();
    fs::rename(lab.directory.path().join("other"), &lab.disk.new).unwrap();
    assert_eq!(lab.carry_out(|_| ()).unwrap(), [""; 0]);
    let expected = [(".hidden", "other"), ("disk", "new")].map(|(n, c)| (n.to_owned(), c.to_owned()));
    assert_eq!(lab.files(), expected);
}

#[test]
fn a_new_disk_that_is_gone_is_not_one_that_is_in_place() {
    let lab = Lab::new();
    // Another has its name.
    fs::write(lab.directory.path().join("other"), "other").unwrap();
    fs::rename(lab.directory.path().join("other"), &lab.disk.new).unwrap();
    let error = lab.carry_out(|_| ()).unwrap_err();
    assert!(error.message.contains("is gone"), "{error}");
    let expected = [(".hidden", "other"), ("disk", "old")].map(|(n, c)| (n.to_owned(), c.to_owned()));
    assert_eq!(lab.files(), expected);
}
