//! The service's state in one SQLite file.

use crate::ServiceCatalog;
use crate::error::{Result, ServiceError};
use crate::limits::{BUSY_TIMEOUT, CONNECTIONS_MAX};
use crate::row::{Change, Comparison, Query, Stored, Value};
use crate::table::Table;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::query::Query as SqlQuery;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, Sqlite, SqliteConnection};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::runtime::Runtime;

static MIGRATIONS: Migrator = sqlx::migrate!("./service-migrations");

/// A file in write-ahead mode. What is applied is on the disk when the call returns.
pub struct SqliteServiceCatalog {
    path: PathBuf,
    runtime: Runtime,
    options: SqliteConnectOptions,
    idle: Mutex<Vec<SqliteConnection>>,
    /// One writer at a time waits here rather than in SQLite, which would have it sleep and try again.
    writing: Mutex<()>,
}

/// Makes an empty file, which counts as an empty database, if there is none: for its owner only.
fn make_private_file(path: &Path) -> io::Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

impl SqliteServiceCatalog {
    /// Opens the catalog, or begins one; its directory must be there. A file that is no catalog is refused; what is
    /// damaged further in is found by what reads it, or by [`check`](Self::check).
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |detail: String| ServiceError::Failed { path: path.to_owned(), detail };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| failed(e.to_string()))?;
        make_private_file(path).map_err(|e| failed(format!("making it: {e}")))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            // Rows come from a thread of their own: fewer meetings, long lists sooner.
            .row_buffer_size(1024)
            .optimize_on_close(true, None);
        let catalog = Self {
            path: path.to_owned(),
            runtime,
            options,
            idle: Mutex::new(Vec::new()),
            writing: Mutex::new(()),
        };
        let connection = catalog.runtime.block_on(catalog.prepare())?;
        lock(&catalog.idle).push(connection);
        Ok(catalog)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first connection: checks and migrates.
    async fn prepare(&self) -> Result<SqliteConnection> {
        let mut connection =
            SqliteConnection::connect_with(&self.options).await.map_err(|e| self.failed(&e))?;
        let newest = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
        match MIGRATIONS.run(&mut connection).await {
            Ok(()) => Ok(connection),
            Err(MigrateError::VersionMissing(version)) if version > newest => {
                Err(ServiceError::Newer { path: self.path.clone() })
            }
            Err(MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _)) => Err(self.failed(&e)),
            Err(e) => Err(ServiceError::Damaged { path: self.path.clone(), detail: e.to_string() }),
        }
    }

    /// Reads all of the file; what is wrong with it, if anything.
    pub fn check(&self) -> Result<()> {
        let found: String = self.with(async |connection| {
            sqlx::query_scalar("PRAGMA integrity_check(1)")
                .fetch_one(connection)
                .await
                .map_err(|e| self.failed(&e))
        })?;
        if found == "ok" {
            return Ok(());
        }
        Err(ServiceError::Damaged { path: self.path.clone(), detail: found })
    }

    fn with<T>(&self, work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T>) -> Result<T> {
        let idle = lock(&self.idle).pop();
        self.runtime.block_on(async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => SqliteConnection::connect_with(&self.options).await.map_err(|e| self.failed(&e))?,
            };
            let done = work(&mut connection).await;
            // SQLite may have undone a transaction by itself, as on a disk that is full: the connection still believes to be in it.
            let is_sound =
                matches!(done, Ok(_) | Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }));
            let surplus = {
                let mut idle = lock(&self.idle);
                match is_sound && idle.len() < CONNECTIONS_MAX {
                    true => {
                        idle.push(connection);
                        None
                    }
                    false => Some(connection),
                }
            };
            if let Some(connection) = surplus {
                let _ = connection.close().await;
            }
            done
        })
    }

    fn failed(&self, cause: &sqlx::Error) -> ServiceError {
        let path = self.path.clone();
        let detail = cause.to_string();
        let code = cause.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<i32>().ok());
        // Primary result codes; extended ones carry them in the low byte.
        match code.map(|c| c & 0xff) {
            Some(5 | 6) => ServiceError::Busy { path, detail },
            Some(13) => ServiceError::NoSpace { path, detail },
            Some(11 | 26) => ServiceError::Damaged { path, detail },
            _ => ServiceError::Failed { path, detail },
        }
    }

    async fn change(&self, connection: &mut SqliteConnection, change: &Change) -> Result<()> {
        let (table, id, found) = match change {
            Change::Put { table, id, version: 0, doc, values } => {
                let mut insert = sqlx::query(AssertSqlSafe(statement(Kind::Insert, *table)))
                    .bind(id.as_str())
                    .bind(doc.as_str());
                for value in values {
                    insert = bind(insert, value);
                }
                match insert.execute(connection).await {
                    Ok(_) => return Ok(()),
                    Err(error) => {
                        let taken = error.as_database_error().is_some_and(|e| e.is_unique_violation());
                        return Err(match taken {
                            true => ServiceError::Taken { table: *table, detail: error.to_string() },
                            false => self.failed(&error),
                        });
                    }
                }
            }
            Change::Put { table, id, version, doc, values } => {
                let mut update =
                    sqlx::query(AssertSqlSafe(statement(Kind::Update, *table))).bind(doc.as_str());
                for value in values {
                    update = bind(update, value);
                }
                let done = update.bind(id.as_str()).bind(*version).execute(connection).await;
                match done {
                    Err(error) if error.as_database_error().is_some_and(|e| e.is_unique_violation()) => {
                        return Err(ServiceError::Taken { table: *table, detail: error.to_string() });
                    }
                    other => (table, id, other.map(|d| d.rows_affected())),
                }
            }
            Change::Delete { table, id, version } => {
                let sql = format!("DELETE FROM {} WHERE id = ? AND version = ?", table.name());
                let done = sqlx::query(AssertSqlSafe(sql))
                    .bind(id.as_str())
                    .bind(*version)
                    .execute(connection)
                    .await;
                (table, id, done.map(|d| d.rows_affected()))
            }
            Change::Unchanged { table, id, version } => {
                let sql = format!("SELECT count(*) FROM {} WHERE id = ? AND version = ?", table.name());
                let count: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .bind(id.as_str())
                    .bind(*version)
                    .fetch_one(connection)
                    .await;
                (table, id, count.map(|n| n as u64))
            }
        };
        match found.map_err(|e| self.failed(&e))? {
            0 => Err(ServiceError::Conflict { table: *table, id: id.clone() }),
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for SqliteServiceCatalog {
    fn drop(&mut self) {
        let connections = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.runtime.block_on(async {
            for connection in connections {
                let _ = connection.close().await;
            }
        });
    }
}

impl ServiceCatalog for SqliteServiceCatalog {
    fn apply(&self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.writing);
        self.with(async |connection| {
            let mut transaction =
                connection.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.failed(&e))?;
            for change in changes {
                // What was done so far is undone when the transaction is dropped.
                self.change(&mut transaction, change).await?;
            }
            // The commit point of every use case that changes state.
            transaction.commit().await.map_err(|e| self.failed(&e))
        })
    }

    fn fetch(&self, table: Table, query: &Query) -> Result<Vec<Stored>> {
        let mut sql = format!("SELECT id, version, doc FROM {}", table.name());
        self.conditions(table, query, &mut sql)?;
        self.with(async |connection| {
            let rows = bind_query(sqlx::query(AssertSqlSafe(sql)), query)
                .fetch_all(connection)
                .await
                .map_err(|e| self.failed(&e))?;
            rows.iter()
                .map(|row| {
                    let read = || -> Result<Stored, sqlx::Error> {
                        Ok(Stored {
                            table,
                            id: row.try_get(0)?,
                            version: row.try_get(1)?,
                            doc: row.try_get(2)?,
                        })
                    };
                    read().map_err(|e| self.failed(&e))
                })
                .collect()
        })
    }

    fn count(&self, table: Table, query: &Query) -> Result<u64> {
        let mut sql = format!("SELECT count(*) FROM {}", table.name());
        self.conditions(table, query, &mut sql)?;
        self.with(async |connection| {
            let row = bind_query(sqlx::query(AssertSqlSafe(sql)), query)
                .fetch_one(connection)
                .await
                .map_err(|e| self.failed(&e))?;
            row.try_get::<i64, _>(0).map(|n| n as u64).map_err(|e| self.failed(&e))
        })
    }

    fn bytes(&self, table: Table) -> Result<u64> {
        let sql = format!("SELECT coalesce(sum(length(CAST(doc AS BLOB))), 0) FROM {}", table.name());
        self.with(async |connection| {
            let bytes: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await;
            bytes.map(|n| n as u64).map_err(|e| self.failed(&e))
        })
    }
}

impl SqliteServiceCatalog {
    /// Columns come from the program alone, and are compared with the table's; values are bound.
    fn conditions(&self, table: Table, query: &Query, sql: &mut String) -> Result<()> {
        let known = |column: &str| match table.has(column) {
            true => Ok(()),
            false => Err(ServiceError::Failed {
                path: self.path.clone(),
                detail: format!("{} has no column {column}; this is a bug", table.name()),
            }),
        };
        let mut joint = " WHERE ";
        for (column, comparison, value) in &query.conditions {
            known(column)?;
            let _ = match (comparison, value) {
                (Comparison::Equal, Value::Null) => write!(sql, "{joint}{column} IS NULL AND ?"),
                (Comparison::NotEqual, Value::Null) => write!(sql, "{joint}{column} IS NOT NULL AND ?"),
                (Comparison::Equal, _) => write!(sql, "{joint}{column} = ?"),
                (Comparison::NotEqual, _) => write!(sql, "{joint}{column} IS NOT ?"),
                (Comparison::Less, _) => write!(sql, "{joint}{column} < ?"),
                (Comparison::AtLeast, _) => write!(sql, "{joint}{column} >= ?"),
                // SQLite's own number of a row: the largest there is, and one, for each new row; kept through changes. Nothing
                // here makes tables anew (VACUUM), which could number rows otherwise.
                (Comparison::WrittenAfter, _) => {
                    let name = table.name();
                    write!(sql, "{joint}rowid > (SELECT rowid FROM {name} WHERE {column} = ?)")
                }
            };
            joint = " AND ";
        }
        if let Some((column, values)) = &query.any_of {
            known(column)?;
            let marks = vec!["?"; values.len()].join(", ");
            let _ = write!(sql, "{joint}{column} IN ({marks})");
        }
        let mut joint = " ORDER BY ";
        for (column, descending) in &query.order {
            known(column)?;
            let _ = write!(sql, "{joint}{column}{}", if *descending { " DESC" } else { "" });
            joint = ", ";
        }
        if let Some(descending) = query.by_writing {
            let _ = write!(sql, "{joint}rowid{}", if descending { " DESC" } else { "" });
        }
        if query.limit.is_some() || query.offset > 0 {
            let _ = write!(sql, " LIMIT {} OFFSET {}", query.limit.map_or(-1, i64::from), query.offset);
        }
        Ok(())
    }
}

type Sql<'q> = SqlQuery<'q, Sqlite, SqliteArguments>;

fn bind<'q>(sql: Sql<'q>, value: &'q Value) -> Sql<'q> {
    match value {
        Value::Null => sql.bind(None::<&str>),
        Value::Integer(number) => sql.bind(*number),
        Value::Text(text) => sql.bind(text.as_str()),
    }
}

fn bind_query<'q>(mut sql: Sql<'q>, query: &'q Query) -> Sql<'q> {
    for (_, _, value) in &query.conditions {
        sql = match value {
            // For the mark after IS NULL, which every condition has one of.
            Value::Null => sql.bind(1),
            value => bind(sql, value),
        };
    }
    for value in query.any_of.iter().flat_map(|(_, values)| values) {
        sql = bind(sql, value);
    }
    sql
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Insert,
    Update,
}

/// The statement that writes a row of a table, made once.
fn statement(kind: Kind, table: Table) -> &'static str {
    static MADE: Mutex<Option<HashMap<(Kind, Table), &'static str>>> = Mutex::new(None);
    let mut made = lock(&MADE);
    made.get_or_insert_default().entry((kind, table)).or_insert_with(|| {
        let columns = table.columns();
        let sql = match kind {
            Kind::Insert => {
                let names: String = columns.iter().map(|c| format!(", {c}")).collect();
                let marks = ", ?".repeat(columns.len());
                format!("INSERT INTO {} (id, version, doc{names}) VALUES (?, 1, ?{marks})", table.name())
            }
            Kind::Update => {
                let sets: String = columns.iter().map(|c| format!(", {c} = ?")).collect();
                format!(
                    "UPDATE {} SET version = version + 1, doc = ?{sets} WHERE id = ? AND version = ?",
                    table.name()
                )
            }
        };
        // One of each kind and table for the life of the process.
        sql.leak()
    })
}
