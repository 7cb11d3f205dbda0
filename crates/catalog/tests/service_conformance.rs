//! What every implementation of [`ServiceCatalog`] must do, in one suite; and what SQLite's must on its own: two
//! instances on one file, a process that is killed, a file that is damaged or too new.

use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;
use strongroom_catalog::{
    AuditEntry, Change, Job, Query, ResourceGroup, RoleAssignment, ServiceCatalog, ServiceError, Setting,
    SqliteServiceCatalog, Table, Value,
};
use strongroom_domain::access::Role;
use uuid::Uuid;

type Rows = dyn ServiceCatalog;

/// Sets where the child process of the kill test writes.
const CHILD: &str = "STRONGROOM_CONFORMANCE_CHILD";

fn setting(id: &str, value: i64) -> Setting {
    Setting { id: id.into(), version: 0, value: value.into() }
}

fn number(catalog: &Rows, id: &str) -> Option<i64> {
    catalog.get::<Setting>(id).unwrap().map(|s| s.value.as_i64().unwrap())
}

fn group(name: &str) -> ResourceGroup {
    ResourceGroup {
        id: Uuid::new_v4(),
        version: 0,
        name: name.into(),
        location: "local".into(),
        tags: BTreeMap::new(),
        created_at: at(0),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Rows in their wire form: what the tables take without all of a vault's or item's fields.
fn raw(table: Table, id: &str, values: Vec<Value>) -> Change {
    Change::Put { table, id: id.into(), version: 0, doc: "{}".into(), values }
}

fn raw_vault(id: &str, group: &str, name: &str, deleted: bool) -> Change {
    raw(Table::Vaults, id, vec![group.into(), name.into(), deleted.into()])
}

fn raw_item(id: &str, vault: &str, name: &str) -> Change {
    let values = vec![vault.into(), "machine".into(), Value::Null, "Protected".into(), name.into()];
    raw(Table::Items, id, values)
}

fn raw_point(id: &str, vault: &str, item: &str, name: &str, taken_us: i64) -> Change {
    raw(Table::RecoveryPoints, id, vec![vault.into(), item.into(), name.into(), taken_us.into()])
}

fn raw_job(id: &str, vault: &str, item: Option<&str>, status: &str, started_us: i64) -> Change {
    let open = status == "InProgress";
    let kind = "backup".into();
    let values = vec![
        vault.into(),
        item.into(),
        "Backup".into(),
        kind,
        "machine".into(),
        status.into(),
        open.into(),
        started_us.into(),
    ];
    raw(Table::Jobs, id, values)
}

fn count(catalog: &Rows, table: Table) -> u64 {
    catalog.count(table, &Query::all()).unwrap()
}

fn ids(catalog: &Rows, table: Table, query: &Query) -> Vec<String> {
    catalog.fetch(table, query).unwrap().into_iter().map(|row| row.id).collect()
}

fn is_conflict(result: Result<(), ServiceError>, table: Table, id: &str) {
    match result {
        Err(ServiceError::Conflict { table: t, id: i }) => assert_eq!((t, i.as_str()), (table, id)),
        other => panic!("not a conflict: {other:?}"),
    }
}

fn is_taken(result: Result<(), ServiceError>, table: Table) {
    match result {
        Err(ServiceError::Taken { table: t, .. }) => assert_eq!(t, table),
        other => panic!("not taken: {other:?}"),
    }
}

mod suite {
    use super::*;

    pub fn versions_and_conflicts(catalog: &Rows) {
        catalog.apply(&[Change::put(&setting("a", 1))]).unwrap();
        let first = catalog.get::<Setting>("a").unwrap().unwrap();
        assert_eq!(first.version, 1);

        let mut next = first.clone();
        next.value = 2.into();
        catalog.apply(&[Change::put(&next)]).unwrap();
        assert_eq!(
            (number(catalog, "a"), catalog.get::<Setting>("a").unwrap().unwrap().version),
            (Some(2), 2)
        );

        // From what was read before: a write, a removal, and a decision that relied on it.
        is_conflict(catalog.apply(&[Change::put(&next)]), Table::Settings, "a");
        is_conflict(catalog.apply(&[Change::delete(&first)]), Table::Settings, "a");
        is_conflict(catalog.apply(&[Change::unchanged(&first)]), Table::Settings, "a");
        assert_eq!(number(catalog, "a"), Some(2));

        let current = catalog.get::<Setting>("a").unwrap().unwrap();
        catalog.apply(&[Change::unchanged(&current)]).unwrap();
        assert_eq!(catalog.get::<Setting>("a").unwrap().unwrap().version, 2);
        catalog.apply(&[Change::delete(&current)]).unwrap();
        assert_eq!(number(catalog, "a"), None);
        is_conflict(catalog.apply(&[Change::delete(&current)]), Table::Settings, "a");
        is_conflict(catalog.apply(&[Change::put(&current)]), Table::Settings, "a");
        assert_eq!(number(catalog, "a"), None);

        // Made anew, it begins at 1 again; what has the old version's number by chance is not told apart, so ids are new.
        catalog.apply(&[Change::put(&setting("a", 7))]).unwrap();
        assert_eq!(catalog.get::<Setting>("a").unwrap().unwrap().version, 1);
        is_taken(catalog.apply(&[Change::put(&setting("a", 8))]), Table::Settings);
        assert_eq!(number(catalog, "a"), Some(7));
        catalog.apply(&[]).unwrap();
    }

    pub fn all_or_nothing(catalog: &Rows) {
        catalog.apply(&[Change::put(&setting("old", 1)), Change::put(&setting("gone", 1))]).unwrap();
        let old = catalog.get::<Setting>("old").unwrap().unwrap();
        let gone = catalog.get::<Setting>("gone").unwrap().unwrap();
        let mut changed = old.clone();
        changed.value = 2.into();
        let mut stale = old.clone();
        stale.version = 9;

        // Whatever stands before the one that fails, and after it, has not happened.
        let fine = [Change::put(&setting("new", 1)), Change::put(&changed), Change::delete(&gone)];
        for bad in [Change::put(&stale), Change::delete(&stale), Change::unchanged(&stale)] {
            for place in 0..=fine.len() {
                // After the change of its own row, the version is another one anyway.
                let mut list = fine.to_vec();
                list.insert(place, bad.clone());
                is_conflict(catalog.apply(&list), Table::Settings, "old");
                assert_eq!(number(catalog, "new"), None);
                assert_eq!(number(catalog, "old"), Some(1));
                assert_eq!(number(catalog, "gone"), Some(1));
                assert_eq!(count(catalog, Table::Settings), 2);
            }
        }
        let mut list = fine.to_vec();
        list.push(Change::put(&setting("new", 5)));
        is_taken(catalog.apply(&list), Table::Settings);
        assert_eq!(count(catalog, Table::Settings), 2);

        // A reference to nothing ends the list as well.
        let list = [Change::put(&setting("new", 1)), raw_item("i", "no such vault", "x")];
        assert!(matches!(catalog.apply(&list), Err(ServiceError::Failed { .. })));
        assert_eq!(number(catalog, "new"), None);

        // And all of it happens when nothing is wrong: also two changes of one row, each from the one before.
        let mut twice = changed.clone();
        twice.version += 1;
        twice.value = 3.into();
        let mut list = fine.to_vec();
        list.push(Change::put(&twice));
        catalog.apply(&list).unwrap();
        assert_eq!(number(catalog, "new"), Some(1));
        assert_eq!(number(catalog, "old"), Some(3));
        assert_eq!(number(catalog, "gone"), None);
    }

    pub fn uniqueness(catalog: &Rows) {
        catalog.apply(&[Change::put(&group("One"))]).unwrap();
        // Names are looked up without regard to case, also beyond ASCII.
        is_taken(catalog.apply(&[Change::put(&group("oNE"))]), Table::ResourceGroups);
        catalog.apply(&[Change::put(&group("Ärmel"))]).unwrap();
        is_taken(catalog.apply(&[Change::put(&group("äRMEL"))]), Table::ResourceGroups);
        // Renamed onto another one.
        let mut two = group("two");
        catalog.apply(&[Change::put(&two)]).unwrap();
        two.version = 1;
        two.name = "ONE".into();
        is_taken(catalog.apply(&[Change::put(&two)]), Table::ResourceGroups);
        assert_eq!(count(catalog, Table::ResourceGroups), 3);

        // A vault's name is free once it is deleted, for as many as there were; one that lives has it alone.
        catalog.apply(&[raw_vault("v1", "g", "v", true), raw_vault("v2", "g", "v", true)]).unwrap();
        catalog.apply(&[raw_vault("v3", "g", "v", false), raw_vault("v4", "h", "v", false)]).unwrap();
        is_taken(catalog.apply(&[raw_vault("v5", "g", "v", false)]), Table::Vaults);

        catalog.apply(&[raw_item("i1", "v3", "n"), raw_item("i2", "v4", "n")]).unwrap();
        is_taken(catalog.apply(&[raw_item("i3", "v3", "n")]), Table::Items);
        catalog.apply(&[raw_point("p1", "v3", "i1", "1", 5), raw_point("p2", "v4", "i2", "1", 5)]).unwrap();
        is_taken(catalog.apply(&[raw_point("p3", "v3", "i1", "1", 6)]), Table::RecoveryPoints);
        // One point is in the catalog once, whatever it is called.
        is_taken(catalog.apply(&[raw_point("p1", "v3", "i1", "2", 6)]), Table::RecoveryPoints);
    }

    pub fn cascade(catalog: &Rows) {
        for vault in ["v1", "v2"] {
            let item = format!("{vault}-i");
            catalog
                .apply(&[
                    raw_vault(vault, "g", vault, false),
                    raw(Table::Policies, &format!("{vault}-p"), vec![vault.into(), "p".into()]),
                    raw_item(&item, vault, "n"),
                    raw_point(&format!("{vault}-r"), vault, &item, "1", 1),
                    raw_job(&format!("{vault}-j"), vault, Some(&item), "Completed", 1),
                    raw(Table::Operations, &format!("{vault}-o"), vec![vault.into(), false.into(), 1.into()]),
                ])
                .unwrap();
        }
        let delete =
            |table, id: &str| catalog.apply(&[Change::Delete { table, id: id.into(), version: 1 }]).unwrap();
        // An item goes with its points; jobs tell of it still.
        delete(Table::Items, "v1-i");
        assert_eq!(ids(catalog, Table::RecoveryPoints, &Query::all()), ["v2-r"]);
        assert_eq!(count(catalog, Table::Jobs), 2);
        // A vault goes with everything in it, and nothing of another's.
        delete(Table::Vaults, "v2");
        for table in [Table::Items, Table::RecoveryPoints] {
            assert_eq!(count(catalog, table), 0);
        }
        assert_eq!(ids(catalog, Table::Policies, &Query::all()), ["v1-p"]);
        assert_eq!(ids(catalog, Table::Jobs, &Query::all()), ["v1-j"]);

        let principal = Uuid::new_v4();
        let assignment = RoleAssignment {
            id: Uuid::new_v4(),
            version: 0,
            principal,
            role: Role::BackupReader,
            scope: "/".into(),
            created_at: at(0),
        };
        assert!(matches!(catalog.apply(&[Change::put(&assignment)]), Err(ServiceError::Failed { .. })));
        let values = vec![Uuid::new_v4().into(), "name".into()];
        catalog.apply(&[raw(Table::Principals, &principal.to_string(), values)]).unwrap();
        catalog.apply(&[Change::put(&assignment)]).unwrap();
        delete(Table::Principals, &principal.to_string());
        assert_eq!(count(catalog, Table::RoleAssignments), 0);
    }

    pub fn queries(catalog: &Rows) {
        catalog.apply(&[raw_vault("v", "g", "v", false), raw_vault("w", "g", "w", false)]).unwrap();
        let jobs = [
            ("a", "v", Some("i1"), "Completed", 10),
            ("b", "v", None, "Failed", 20),
            ("c", "v", Some("i2"), "InProgress", 20),
            ("d", "v", Some("i1"), "InProgress", 30),
            ("e", "w", None, "Completed", 40),
            // What would be a wildcard or an end of text elsewhere.
            ("f'%_", "w", Some("i'; DROP TABLE jobs --"), "Completed", -5),
        ];
        for (id, vault, item, status, started) in jobs {
            catalog.apply(&[raw_job(id, vault, item, status, started)]).unwrap();
        }
        let by_id = || Query::all().ascending("id");
        let cases: Vec<(&str, Query, &[&str])> = vec![
            ("equal text", by_id().eq("status", "Completed"), &["a", "e", "f'%_"]),
            ("equal number", by_id().eq("started_us", 20), &["b", "c"]),
            ("equal truth", by_id().eq("open", true), &["c", "d"]),
            ("equal nothing", by_id().eq("item", Value::Null), &["b", "e"]),
            ("an option", by_id().eq("item", Some("i2")), &["c"]),
            ("not equal", by_id().ne("status", "Completed"), &["b", "c", "d"]),
            // What has no value has another one.
            ("not equal, with nothing", by_id().ne("item", "i1"), &["b", "c", "e", "f'%_"]),
            ("not nothing", by_id().ne("item", Value::Null), &["a", "c", "d", "f'%_"]),
            ("less", by_id().less("started_us", 20), &["a", "f'%_"]),
            ("at least", by_id().at_least("started_us", 20), &["b", "c", "d", "e"]),
            ("a window", by_id().at_least("started_us", 10).less("started_us", 30), &["a", "b", "c"]),
            (
                "nothing is neither less nor more",
                by_id().less("item", "zzz").at_least("item", ""),
                &["a", "c", "d", "f'%_"],
            ),
            ("case counts", by_id().eq("status", "completed"), &[]),
            ("several", by_id().any_of("status", ["Failed", "InProgress"]), &["b", "c", "d"]),
            ("none of several", by_id().any_of("status", Vec::<&str>::new()), &[]),
            ("several and more", by_id().any_of("id", ["a", "e", "zz"]).eq("vault", "w"), &["e"]),
            ("the last several counts", by_id().any_of("id", ["a"]).any_of("id", ["b"]), &["b"]),
            ("quotes", by_id().eq("item", "i'; DROP TABLE jobs --"), &["f'%_"]),
            ("wildcards are letters", by_id().eq("id", "f'%%"), &[]),
            (
                "order",
                Query::all().descending("started_us").ascending("id"),
                &["e", "d", "b", "c", "a", "f'%_"],
            ),
            (
                "order, both down",
                Query::all().descending("started_us").descending("id"),
                &["e", "d", "c", "b", "a", "f'%_"],
            ),
            ("limit", by_id().limit(2), &["a", "b"]),
            ("skip", by_id().skip(4), &["e", "f'%_"]),
            ("limit and skip", by_id().limit(2).skip(3), &["d", "e"]),
            ("beyond the end", by_id().limit(5).skip(6), &[]),
            ("limit of nothing", by_id().limit(0), &[]),
            (
                "nothing before others in order",
                Query::all().ascending("item").ascending("id").limit(2),
                &["b", "e"],
            ),
        ];
        for (what, query, expected) in cases {
            assert_eq!(ids(catalog, Table::Jobs, &query), expected, "{what}");
        }
        assert_eq!(catalog.count(Table::Jobs, &Query::all().eq("open", true)).unwrap(), 2);
        assert_eq!(catalog.count(Table::Jobs, &Query::all().any_of("id", ["a", "b"])).unwrap(), 2);
        // A column that isn't there is the program's own mistake, and never reaches the database.
        for query in [
            Query::all().eq("nonsense", 1),
            Query::all().ascending("nonsense"),
            Query::all().any_of("doc", ["{}"]),
        ] {
            assert!(matches!(catalog.fetch(Table::Jobs, &query), Err(ServiceError::Failed { .. })));
        }
        assert_eq!(count(catalog, Table::Jobs), 6);

        // In the order of writing, whatever ids and times say; changes and removals move nothing.
        let written = |query: Query| ids(catalog, Table::Jobs, &query);
        assert_eq!(written(Query::all().in_order_of_writing()), ["a", "b", "c", "d", "e", "f'%_"]);
        catalog.apply(&[raw_job("0", "v", None, "Failed", -100)]).unwrap();
        catalog.apply(&[Change::Delete { table: Table::Jobs, id: "c".into(), version: 1 }]).unwrap();
        let mut again = raw_job("b", "v", None, "Completed", 50);
        if let Change::Put { version, .. } = &mut again {
            *version = 1;
        }
        catalog.apply(&[again]).unwrap();
        let after = |id: &str| Query::all().written_after(id).in_order_of_writing();
        assert_eq!(written(after("a")), ["b", "d", "e", "f'%_", "0"]);
        assert_eq!(written(after("e").limit(1)), ["f'%_"]);
        assert_eq!(written(after("0")), [] as [&str; 0]);
        assert_eq!(written(after("c")), [] as [&str; 0], "one that is not there");
        assert_eq!(written(Query::all().last_written_first().limit(2)), ["0", "f'%_"]);
        assert_eq!(catalog.bytes(Table::Jobs).unwrap(), 6 * 2, "of documents: {{}}");
    }

    pub fn documents(catalog: &Rows) {
        let mut odd = group("name");
        for value in ["", "'\"\\;--", "\u{0}\u{1f}", "ß∂ƒ 🙂", "{\"a\":[1,2]}"] {
            odd.tags.insert(format!("k{value}"), value.into());
        }
        catalog.apply(&[Change::put(&odd)]).unwrap();
        let back = catalog.get::<ResourceGroup>(odd.id).unwrap().unwrap();
        assert_eq!((back.tags, back.created_at, back.name), (odd.tags, odd.created_at, odd.name));

        // Times are kept to the microsecond, and found by it.
        let entry = |us: i64| AuditEntry::new(Timestamp::from_microsecond(us).unwrap(), "p", "a", "/");
        for us in [-1, 0, 1, 1_700_000_000_000_001] {
            catalog.apply(&[Change::put(&entry(us))]).unwrap();
        }
        let since =
            Query::all().at_least("at_us", Timestamp::from_microsecond(0).unwrap()).ascending("at_us");
        let times: Vec<i64> =
            catalog.find::<AuditEntry>(&since).unwrap().iter().map(|e| e.at.as_microsecond()).collect();
        assert_eq!(times, [0, 1, 1_700_000_000_000_001]);

        // A document that is not what the program writes is damage, not a panic, and not skipped in silence.
        catalog.apply(&[raw_vault("v", "g", "v", false), raw_job("j", "v", None, "Failed", 0)]).unwrap();
        assert!(matches!(catalog.find::<Job>(&Query::all()), Err(ServiceError::Damaged { .. })));
        assert!(matches!(catalog.get::<Job>("j"), Err(ServiceError::Damaged { .. })));
    }

    /// Every row that was read, changed and written by several at once counts each change once.
    pub fn writers(catalogs: &[&Rows]) {
        const CHANGES: i64 = 40;
        catalogs[0].apply(&[Change::put(&setting("sum", 0)), Change::put(&setting("log", 0))]).unwrap();
        let barrier = Barrier::new(catalogs.len() + 1);
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = catalogs
                .iter()
                .enumerate()
                .map(|(n, catalog)| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        for i in 0..CHANGES {
                            catalog
                                .update::<Setting, ServiceError>("sum", |row| {
                                    row.value = (row.value.as_i64().unwrap() + 1).into();
                                    let log = catalog.get::<Setting>("log")?.unwrap();
                                    let next =
                                        Setting { value: (log.value.as_i64().unwrap() + 1).into(), ..log };
                                    Ok(vec![
                                        Change::put(&next),
                                        Change::put(&setting(&format!("{n}.{i}"), i)),
                                    ])
                                })
                                .unwrap()
                                .unwrap();
                        }
                    })
                })
                .collect();
            // Who reads meanwhile sees each transaction whole: as many rows as the sum says, from one statement.
            barrier.wait();
            let reader = scope.spawn(|| {
                let mut looks = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let all = catalogs[0].find::<Setting>(&Query::all()).unwrap();
                    let value = |id: &str| all.iter().find(|s| s.id == id).unwrap().value.as_i64().unwrap();
                    assert_eq!(value("sum"), value("log"));
                    assert_eq!(value("sum"), all.len() as i64 - 2);
                    looks += 1;
                }
                looks
            });
            let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            // Also when one has failed: the reader must end.
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            for writer in ended {
                writer.unwrap();
            }
            assert!(reader.join().unwrap() > 0);
        });
        let all = CHANGES * catalogs.len() as i64;
        assert_eq!((number(catalogs[0], "sum"), number(catalogs[0], "log")), (Some(all), Some(all)));
        assert_eq!(catalogs[0].get::<Setting>("sum").unwrap().unwrap().version, all + 1);
        assert_eq!(count(catalogs[0], Table::Settings), all as u64 + 2);
    }

    pub fn updates(catalog: &Rows) {
        let absent = catalog.update::<Setting, ServiceError>("none", |_| Ok(Vec::new())).unwrap();
        assert!(absent.is_none());
        catalog.apply(&[Change::put(&setting("a", 1))]).unwrap();
        // An error of the caller's own ends it, and nothing has happened.
        let refused = catalog.update::<Setting, ServiceError>("a", |row| {
            row.value = 9.into();
            Err(ServiceError::Busy { path: PathBuf::new(), detail: String::new() })
        });
        assert!(matches!(refused, Err(ServiceError::Busy { .. })));
        assert_eq!(number(catalog, "a"), Some(1));
        // Somebody is faster twice: it is read again each time.
        let mut faster = 2;
        let row = catalog
            .update::<Setting, ServiceError>("a", |row| {
                if faster > 0 {
                    faster -= 1;
                    catalog.apply(&[Change::put(&Setting {
                        value: (row.value.as_i64().unwrap() + 10).into(),
                        ..row.clone()
                    })])?;
                }
                row.value = (row.value.as_i64().unwrap() + 1).into();
                Ok(Vec::new())
            })
            .unwrap()
            .unwrap();
        assert_eq!((row.value.as_i64(), row.version, number(catalog, "a")), (Some(22), 4, Some(22)));
        // Nothing is changed: nothing is written. What comes with it is, and the row is touched with it.
        let row = catalog.update::<Setting, ServiceError>("a", |_| Ok(Vec::new())).unwrap().unwrap();
        assert_eq!((row.version, catalog.get::<Setting>("a").unwrap().unwrap().version), (4, 4));
        let with = catalog.update::<Setting, ServiceError>("a", |_| Ok(vec![Change::put(&setting("b", 1))]));
        assert_eq!((with.unwrap().unwrap().version, number(catalog, "b")), (5, Some(1)));
        // Somebody is always faster: an end, and not for ever.
        let result = catalog.update::<Setting, ServiceError>("a", |row| {
            catalog.apply(&[Change::put(&*row)])?;
            row.value = (row.value.as_i64().unwrap() + 1).into();
            Ok(Vec::new())
        });
        assert!(matches!(result, Err(ServiceError::Conflict { table: Table::Settings, .. })));
    }
}

struct Sqlite {
    directory: tempfile::TempDir,
}

impl Sqlite {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("catalog.db")
    }

    fn open(&self) -> SqliteServiceCatalog {
        SqliteServiceCatalog::open(&self.path()).unwrap()
    }

    /// Another program's hand in the file.
    fn sql(&self, statement: &str) {
        let path = self.path();
        let statement = statement.to_owned();
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async move {
            use sqlx::Connection as _;
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => { $(
        #[test]
        fn $name() {
            suite::$name(&Sqlite::new().open());
        }
    )* };
}

conformance!(versions_and_conflicts, all_or_nothing, uniqueness, cascade, queries, documents, updates);

#[test]
fn writers_of_one_instance() {
    let sqlite = Sqlite::new();
    let catalog = sqlite.open();
    suite::writers(&[&catalog as &Rows; 6]);
}

#[test]
fn writers_of_two_instances_on_one_file() {
    let sqlite = Sqlite::new();
    let (one, two) = (sqlite.open(), sqlite.open());
    suite::writers(&[&one, &two, &one, &two]);
    // What one wrote the other sees at once, also what it had read before.
    let one: &Rows = &one;
    let two: &Rows = &two;
    let row = one.get::<Setting>("sum").unwrap().unwrap();
    two.apply(&[Change::delete(&row)]).unwrap();
    assert_eq!(number(one, "sum"), None);
    is_conflict(one.apply(&[Change::put(&row)]), Table::Settings, "sum");
}

#[test]
fn what_was_written_is_there_after_reopening_and_only_for_the_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let sqlite = Sqlite::new();
    {
        let catalog: &Rows = &sqlite.open();
        catalog.apply(&[Change::put(&setting("a", 1)), Change::put(&group("g"))]).unwrap();
    }
    let catalog = sqlite.open();
    catalog.check().unwrap();
    assert_eq!(number(&catalog, "a"), Some(1));
    for entry in std::fs::read_dir(sqlite.directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is {mode:o}", entry.file_name());
    }
}

/// Not a test of its own: what the next one kills. Writes pairs that belong together, and says which are durable.
#[test]
#[ignore = "a part of killed_between"]
fn child_that_writes_until_it_is_killed() {
    use std::io::Write as _;
    let path = std::env::var_os(CHILD).expect("the file's name");
    let catalog = SqliteServiceCatalog::open(Path::new(&path)).unwrap();
    let catalog: &Rows = &catalog;
    let begin = count(catalog, Table::Settings) as i64 / 2;
    for i in begin.. {
        catalog
            .apply(&[Change::put(&setting(&format!("a{i}"), i)), Change::put(&setting(&format!("b{i}"), i))])
            .unwrap();
        println!("durable {i}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn killed_between() {
    use std::io::BufRead as _;
    let sqlite = Sqlite::new();
    drop(sqlite.open());
    let mut known = -1;
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, sqlite.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut durable = lines
            .map_while(Result::ok)
            .filter_map(|line| line.split("durable ").nth(1)?.trim().parse::<i64>().ok());
        // Once it is at it, however long that takes; then in the midst of what comes.
        let first = durable.next().expect("it writes");
        assert!(first > known, "{first} after {known}");
        let reader = std::thread::spawn(move || durable.last());
        std::thread::sleep(Duration::from_millis(round * 37));
        child.kill().unwrap();
        child.wait().unwrap();
        known = reader.join().unwrap().unwrap_or(first);

        let catalog = sqlite.open();
        catalog.check().unwrap();
        let rows = catalog.fetch(Table::Settings, &Query::all()).unwrap();
        let has = |id: String| rows.iter().any(|row| row.id == id);
        let pairs = rows.len() as i64 / 2;
        assert_eq!(rows.len() % 2, 0, "half of a list was applied");
        assert!((0..pairs).all(|i| has(format!("a{i}")) && has(format!("b{i}"))));
        assert!(pairs > known, "{known} was durable, but there are {pairs}");
        // It may have been killed between the commit and its word of it, once.
        assert!(pairs <= known + 2, "{pairs} there, {known} known");
    }
    assert!(known >= 7, "each round has written something");
}

#[test]
fn a_damaged_file_is_refused_and_not_replaced() {
    let sqlite = Sqlite::new();
    {
        let catalog = sqlite.open();
        let catalog: &Rows = &catalog;
        for i in 0..300 {
            catalog.apply(&[Change::put(&setting(&format!("row {i}"), i))]).unwrap();
        }
    }
    let whole = std::fs::read(sqlite.path()).unwrap();
    assert!(whole.len() > 40_000);
    let spoil = |what: &str, spoiled: Vec<u8>| {
        for beside in ["catalog.db-wal", "catalog.db-shm"] {
            let _ = std::fs::remove_file(sqlite.directory.path().join(beside));
        }
        std::fs::write(sqlite.path(), &spoiled).unwrap();
        let found = SqliteServiceCatalog::open(&sqlite.path())
            .and_then(|catalog| catalog.check().map(|()| catalog))
            .err()
            .unwrap_or_else(|| panic!("{what}: taken for whole"));
        assert!(matches!(found, ServiceError::Damaged { .. }), "{what}: {found:?}");
        assert!(found.to_string().contains("strongroom vault import"), "{found}");
        let now = std::fs::read(sqlite.path()).unwrap();
        assert_eq!(now.len(), spoiled.len(), "{what}: the file was changed");
        // The header's counters aside, nothing was written.
        assert!(now[100..] == spoiled[100..], "{what}: the file was changed");
    };
    spoil("another file", b"this is not a database, but somebody's letter".repeat(100));
    let mut head = whole.clone();
    head[..16].fill(0);
    spoil("no head", head);
    let page = 4096;
    let mut pages = whole.clone();
    for start in (page..whole.len()).step_by(page) {
        pages[start..start + 64].fill(0xA5);
    }
    spoil("every page's beginning", pages);
    spoil("cut off", whole[..whole.len() / 2 / page * page].to_vec());
    std::fs::write(sqlite.path(), &whole).unwrap();
    assert_eq!(number(&sqlite.open(), "row 299"), Some(299));
}

#[test]
fn a_newer_schema_is_refused() {
    let sqlite = Sqlite::new();
    {
        let catalog = sqlite.open();
        catalog.apply(&[Change::put(&setting("a", 1))]).unwrap();
    }
    sqlite.sql(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         VALUES (9999, 'the future', CURRENT_TIMESTAMP, TRUE, x'00', 1)",
    );
    match SqliteServiceCatalog::open(&sqlite.path()).err() {
        Some(ServiceError::Newer { path }) => assert_eq!(path, sqlite.path()),
        other => panic!("{other:?}"),
    }
    sqlite.sql("DELETE FROM _sqlx_migrations WHERE version = 9999");
    assert_eq!(number(&sqlite.open(), "a"), Some(1));

    // A migration that says something else than it did is damage: two programs disagree about the tables.
    sqlite.sql("UPDATE _sqlx_migrations SET checksum = x'00'");
    assert!(matches!(SqliteServiceCatalog::open(&sqlite.path()).err(), Some(ServiceError::Damaged { .. })));
}

#[test]
fn a_writer_elsewhere_is_waited_for_and_then_named() {
    let sqlite = Sqlite::new();
    let catalog = sqlite.open();
    let path = sqlite.path();
    // Until it is told to let go, or for a time.
    let hold = |time: Duration| {
        let path = path.clone();
        let (ready, began) = std::sync::mpsc::channel();
        let (let_go, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
                use sqlx::Connection as _;
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                let transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
                ready.send(()).unwrap();
                let _ = told.recv_timeout(time);
                transaction.rollback().await.unwrap();
            });
        });
        began.recv().unwrap();
        (thread, let_go)
    };
    let (held, _let_go) = hold(Duration::from_millis(700));
    catalog.apply(&[Change::put(&setting("a", 1))]).unwrap();
    held.join().unwrap();

    let (held, let_go) = hold(Duration::from_secs(600));
    // Reading goes on meanwhile.
    assert_eq!(number(&catalog, "a"), Some(1));
    let busy = catalog.apply(&[Change::put(&setting("b", 1))]);
    assert!(matches!(busy, Err(ServiceError::Busy { .. })), "{busy:?}");
    let_go.send(()).unwrap();
    held.join().unwrap();
    // What was refused did not happen, and the connection is good again.
    assert_eq!(number(&catalog, "b"), None);
    catalog.apply(&[Change::put(&setting("b", 2))]).unwrap();
    assert_eq!(number(&catalog, "b"), Some(2));
}

/// The catalog of the release before kinds of jobs had names.
async fn write_first_version(path: &Path, rows: &[(&str, &str)]) {
    use sqlx::Connection as _;
    let mut migrations = sqlx::migrate!("./service-migrations");
    migrations.migrations = vec![migrations.migrations[0].clone()].into();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    migrations.run(&mut connection).await.unwrap();
    let vault = "INSERT INTO vaults (id, version, doc, group_key, name_key, deleted) VALUES ('v', 1, '{}', 'g', 'v', 0)";
    sqlx::query(vault).execute(&mut connection).await.unwrap();
    for (id, doc) in rows {
        let job = "INSERT INTO jobs (id, version, doc, vault, item, operation, status, open, started_us)
            VALUES (?1, 1, ?2, 'v', NULL, json_extract(?2, '$.operation'), 'InProgress', 1, 0)";
        sqlx::query(job).bind(id).bind(doc).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[test]
fn jobs_of_the_first_release_are_given_their_kinds_and_are_about_machines() {
    let place = Sqlite::new();
    let rows = [
        ("a", r#"{"operation":"Backup","request":{"scheduled_for":null}}"#),
        ("b", r#"{"operation":"Restore","request":{"instant":true,"point":"p"}}"#),
        ("c", r#"{"operation":"Restore","request":{"point":"p","target":{"kind":"replace"}}}"#),
        ("d", r#"{"operation":"Drill","request":{"point":"p"}}"#),
        ("e", r#"{"operation":"ConfigureBackup","request":null}"#),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(write_first_version(&place.path(), &rows));
    let catalog = place.open();
    let found = catalog.fetch(Table::Jobs, &Query::all().ascending("id")).unwrap();
    let kinds: Vec<(String, String, serde_json::Value)> = found
        .iter()
        .map(|row| {
            let doc: serde_json::Value = serde_json::from_str(&row.doc).unwrap();
            (row.id.clone(), doc["kind"].as_str().unwrap().to_owned(), doc["request"].clone())
        })
        .collect();
    let request =
        |row: usize| serde_json::from_str::<serde_json::Value>(rows[row].1).unwrap()["request"].clone();
    let expected = ["backup", "instant_restore", "restore", "drill", ""];
    for (row, (kind, (id, _))) in expected.iter().zip(rows).enumerate() {
        assert_eq!(kinds[row], (id.to_owned(), (*kind).to_owned(), request(row)));
        let by_kind = Query::all().eq("kind", *kind).eq("id", id);
        assert_eq!(catalog.count(Table::Jobs, &by_kind).unwrap(), 1, "{id} is found by its kind");
        let doc: serde_json::Value = serde_json::from_str(&found[row].doc).unwrap();
        assert_eq!(doc["datasource"], "machine");
        let about = |datasource: &str| Query::all().any_of("datasource", [datasource]).eq("id", id);
        assert_eq!(catalog.count(Table::Jobs, &about("machine")).unwrap(), 1);
        assert_eq!(catalog.count(Table::Jobs, &about("files")).unwrap(), 0);
    }
}
