//! What a service that is opened finds of the one before, which ended in the midst of things; and what a vault says of itself
//! to a service that never knew it.

mod common;

use jiff::SignedDuration;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Job, Lease, Operation, Vault};
use strongroom_domain::job::{JobOperation, JobStatus};
use strongroom_domain::policy::{DailyRetention, Policy as Rules, Retention, Schedule};
use strongroom_service::vaults::VaultSettings;
use strongroom_service::{
    Service, ServiceConfig, backup, groups, import, items, machines, operations, policies, vaults,
};
use uuid::Uuid;

fn open(data: &Path) -> Service {
    let config = ServiceConfig { data: data.to_owned(), hosts: Vec::new(), ..ServiceConfig::default() };
    Service::open(config).unwrap()
}

fn vault(service: &Service) -> Vault {
    groups::put(service, "group", "local", None).unwrap();
    vaults::put(service, "group", "vault", "local", &VaultSettings::default()).unwrap().0
}

/// A backup of a machine that no host has.
fn backup_job(service: &Service, vault: &Vault, name: &str) -> Job {
    let machine = common::machine(service, name);
    service.catalog().apply(&[Change::put(&machine)]).unwrap();
    let policy = policies::get(service, vault, "DefaultPolicy").unwrap();
    let item = items::protect(service, vault, &machine, &policy, None, "test").unwrap().item;
    backup::backup_now(service, &item, None, "test").unwrap()
}

/// As a runner leaves it that is killed.
fn running(service: &Service, job: &Job, change: impl Fn(&mut Job)) {
    let until = service.now() + SignedDuration::from_secs(60);
    service
        .catalog()
        .update::<Job, strongroom_service::Error>(job.id, |row| {
            row.lease = Some(Lease { owner: Uuid::new_v4(), until });
            row.attempts = 1;
            change(row);
            Ok(Vec::new())
        })
        .unwrap();
}

#[test]
fn what_ran_when_it_ended_is_not_told_to_run_on() {
    let directory = tempfile::tempdir().unwrap();
    let service = open(directory.path());
    let vault = vault(&service);
    let (backup, restore, cancelled, waiting) = (
        backup_job(&service, &vault, "one"),
        backup_job(&service, &vault, "two"),
        backup_job(&service, &vault, "three"),
        backup_job(&service, &vault, "four"),
    );
    running(&service, &backup, |_| {});
    running(&service, &restore, |job| {
        job.operation = JobOperation::Restore;
        job.kind = "restore".into();
    });
    running(&service, &cancelled, |job| job.cancel_requested = true);
    let operation = Operation {
        id: Uuid::new_v4(),
        version: 0,
        vault: Some(vault.id),
        started_at: service.now(),
        ended_at: None,
        job: None,
        follows_job: false,
        error: None,
        validates: false,
    };
    service.catalog().apply(&[Change::put(&operation)]).unwrap();
    drop(service);

    // Opened, not started: as a command does that only looks.
    let service = open(directory.path());
    let job = |job: &Job| service.catalog().get::<Job>(job.id).unwrap().unwrap();
    let backup = job(&backup);
    assert_eq!((backup.status, backup.lease, backup.attempts), (JobStatus::InProgress, None, 1));
    assert!(backup.warnings[0].contains("begun anew"), "{:?}", backup.warnings);
    let restore = job(&restore);
    assert_eq!((restore.status, restore.lease), (JobStatus::Failed, None));
    assert!(restore.ended_at.is_some() && !restore.errors.is_empty());
    assert_eq!(job(&cancelled).status, JobStatus::Cancelled);
    let waiting = job(&waiting);
    assert_eq!((waiting.status, waiting.warnings.len()), (JobStatus::InProgress, 0));
    let state = operations::state(&service, operation.id).unwrap();
    assert!(state.ended_at.is_some() && state.error.unwrap().0 == "UserErrorServiceInterrupted");
}

#[test]
fn a_refresh_is_followed_to_its_end_and_so_are_those_that_join_it() {
    let directory = tempfile::tempdir().unwrap();
    let service = open(directory.path());
    let vault = vault(&service);
    let asked: Vec<Operation> =
        (0..20).map(|_| machines::refresh(&service, Some(vault.id)).unwrap()).collect();
    let until = Instant::now() + Duration::from_secs(120);
    for one in &asked {
        loop {
            let state = operations::state(&service, one.id).unwrap();
            assert_eq!((state.vault, state.error), (Some(vault.id), None));
            if state.ended_at.is_some() {
                break;
            }
            assert!(Instant::now() < until, "a refresh does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // One that is asked for after the thread had nothing more to do begins another.
    let later = machines::refresh(&service, None).unwrap();
    while operations::state(&service, later.id).unwrap().ended_at.is_none() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    service.stop();
}

#[test]
fn a_vault_brings_its_policies_back() {
    let directory = tempfile::tempdir().unwrap();
    let service = open(directory.path());
    let vault = vault(&service);
    let mine = Rules {
        schedule: Schedule::Daily { time: jiff::civil::time(3, 15, 0, 0) },
        retention: Retention { daily: Some(DailyRetention { days: 400 }), ..Retention::default() },
        zone: "Europe/Berlin".parse().unwrap(),
        ..Rules::default_standard()
    };
    policies::put(&service, &vault, "Größe 1", mine.clone(), Value::Null).unwrap_err();
    policies::put(&service, &vault, "Mine", mine.clone(), serde_json::json!({"run_time": "x"})).unwrap();
    policies::put(&service, &vault, "Gone", mine.clone(), Value::Null).unwrap();
    policies::delete(&service, &vault, "Gone").unwrap();
    let changed = Rules {
        retention: Retention { daily: Some(DailyRetention { days: 33 }), ..Retention::default() },
        ..Rules::default_standard()
    };
    policies::put(&service, &vault, "DefaultPolicy", changed.clone(), Value::Null).unwrap();
    let key = service.data().keys().join(format!("{}.key", vault.id));
    drop(service);

    let other = tempfile::tempdir().unwrap();
    let service = open(other.path());
    let take_in =
        |name: &str| import::import(&service, &vault.store_location, Some(&key), "group", name, "local");
    let done = take_in("back").unwrap();
    assert_eq!((done.policies, done.points, done.passed_over), (3, 0, vec![]));
    let all = policies::list(&service, &done.vault).unwrap();
    assert_eq!(
        all.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["DefaultPolicy", "EnhancedPolicy", "Mine"]
    );
    assert_eq!((&all[0].rules, &all[2].rules), (&changed, &mine));
    assert_eq!(all[2].wire["run_time"], "x");
    drop(service);

    // Harmed, the note is said to be, and costs no more than what it said.
    let note = Path::new(&vault.store_location).join("notes/policies");
    let mut bytes = std::fs::read(&note).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&note, &bytes).unwrap();
    let other = tempfile::tempdir().unwrap();
    let service = open(other.path());
    let import = || import::import(&service, &vault.store_location, Some(&key), "group", "harmed", "local");
    let done = import().unwrap();
    assert_eq!(done.policies, 0);
    assert!(done.passed_over[0].contains("policies"), "{:?}", done.passed_over);
    assert_eq!(policies::list(&service, &done.vault).unwrap().len(), 2);
    // A change writes it anew.
    policies::put(&service, &done.vault, "Mine", mine.clone(), Value::Null).unwrap();
    drop(service);
    let other = tempfile::tempdir().unwrap();
    let service = open(other.path());
    let import = || import::import(&service, &vault.store_location, Some(&key), "group", "healed", "local");
    assert_eq!(import().unwrap().policies, 3);
    drop(service);

    // A vault of before there were notes.
    std::fs::remove_file(&note).unwrap();
    let other = tempfile::tempdir().unwrap();
    let service = open(other.path());
    let import = || import::import(&service, &vault.store_location, Some(&key), "group", "old", "local");
    let done = import().unwrap();
    assert_eq!((done.policies, done.passed_over), (0, vec![]));
    assert_eq!(policies::list(&service, &done.vault).unwrap().len(), 2);
}
