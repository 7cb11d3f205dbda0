//! The service's state in one SQLite file.

use crate::ServiceCatalog;
use crate::error::{Result, ServiceError};
use crate::limits::{BUSY_TIMEOUT, CONNECTIONS_MAX};
use crate::row::{Change, Comparison, Query, Stored, Value};
use crate::table::Table;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection};
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

    /// The file. SQLite keeps others beside it while it is open.
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
        let (table, id) = match change {
            Change::Put { table, id, .. }
            | Change::Delete { table, id, .. }
            | Change::Unchanged { table, id, .. } => (*table, id),
        };
        let found = match change {
            Change::Unchanged { version, .. } => {
                let mut sql = Builder::new("SELECT count(*) FROM ");
                sql.push(table.name());
                push_as_read(&mut sql, id, *version);
                sql.build_query_scalar::<i64>().fetch_one(connection).await.map(|n| n as u64)
            }
            Change::Put { version: 0, doc, values, .. } => {
                insertion(table, id, doc, values).build().execute(connection).await.map(|d| d.rows_affected())
            }
            Change::Put { version, doc, values, .. } => {
                let mut sql = Builder::new("UPDATE ");
                sql.push(table.name()).push(" SET version = version + 1, doc = ").push_bind(doc.as_str());
                for (column, value) in table.columns().iter().zip(values) {
                    sql.push(", ").push(column).push(" = ");
                    push_value(&mut sql, value);
                }
                push_as_read(&mut sql, id, *version);
                sql.build().execute(connection).await.map(|d| d.rows_affected())
            }
            Change::Delete { version, .. } => {
                let mut sql = Builder::new("DELETE FROM ");
                sql.push(table.name());
                push_as_read(&mut sql, id, *version);
                sql.build().execute(connection).await.map(|d| d.rows_affected())
            }
        };
        match found {
            Ok(0) => Err(ServiceError::Conflict { table, id: id.clone() }),
            Ok(_) => Ok(()),
            Err(error) if error.as_database_error().is_some_and(|e| e.is_unique_violation()) => {
                Err(ServiceError::Taken { table, detail: error.to_string() })
            }
            Err(error) => Err(self.failed(&error)),
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
        let mut sql = self.selection("id, version, doc", table, query)?;
        self.with(async |connection| {
            let rows = sql.build().fetch_all(connection).await.map_err(|e| self.failed(&e))?;
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
        let mut sql = self.selection("count(*)", table, query)?;
        self.with(async |connection| {
            let count = sql.build_query_scalar::<i64>().fetch_one(connection).await;
            count.map(|n| n as u64).map_err(|e| self.failed(&e))
        })
    }

    fn bytes(&self, table: Table) -> Result<u64> {
        let mut sql = self.selection("coalesce(sum(length(CAST(doc AS BLOB))), 0)", table, &Query::all())?;
        self.with(async |connection| {
            let bytes = sql.build_query_scalar::<i64>().fetch_one(connection).await;
            bytes.map(|n| n as u64).map_err(|e| self.failed(&e))
        })
    }
}

impl SqliteServiceCatalog {
    /// Columns come from the program alone, and are compared with the table's; values are bound.
    fn selection(&self, what: &str, table: Table, query: &Query) -> Result<Builder> {
        let known = |column: &'static str| match table.has(column) {
            true => Ok(column),
            false => Err(ServiceError::Failed {
                path: self.path.clone(),
                detail: format!("{} has no column {column}; this is a bug", table.name()),
            }),
        };
        let name = table.name();
        let mut sql = Builder::new("SELECT ");
        sql.push(what).push(" FROM ").push(name);
        let mut joint = " WHERE ";
        for (column, comparison, value) in &query.conditions {
            let column = known(column)?;
            sql.push(joint);
            joint = " AND ";
            match (comparison, value) {
                (Comparison::Equal, Value::Null) => {
                    sql.push(column).push(" IS NULL");
                    continue;
                }
                (Comparison::NotEqual, Value::Null) => {
                    sql.push(column).push(" IS NOT NULL");
                    continue;
                }
                // SQLite's own number of a row: the largest there is, and one, for each new row; kept through changes. Nothing
                // here makes tables anew (VACUUM), which could number rows otherwise.
                (Comparison::WrittenAfter, _) => {
                    sql.push("rowid > (SELECT rowid FROM ")
                        .push(name)
                        .push(" WHERE ")
                        .push(column)
                        .push(" = ");
                    push_value(&mut sql, value);
                    sql.push(")");
                    continue;
                }
                (Comparison::Equal, _) => sql.push(column).push(" = "),
                (Comparison::NotEqual, _) => sql.push(column).push(" IS NOT "),
                (Comparison::Less, _) => sql.push(column).push(" < "),
                (Comparison::AtLeast, _) => sql.push(column).push(" >= "),
            };
            push_value(&mut sql, value);
        }
        if let Some((column, values)) = &query.any_of {
            sql.push(joint).push(known(column)?).push(" IN (");
            for (at, value) in values.iter().enumerate() {
                sql.push(if at == 0 { "" } else { ", " });
                push_value(&mut sql, value);
            }
            sql.push(")");
        }
        let mut joint = " ORDER BY ";
        for (column, descending) in &query.order {
            sql.push(joint).push(known(column)?).push(if *descending { " DESC" } else { "" });
            joint = ", ";
        }
        if let Some(descending) = query.by_writing {
            sql.push(joint).push("rowid").push(if descending { " DESC" } else { "" });
        }
        if query.limit.is_some() || query.offset > 0 {
            let limit = query.limit.map_or(-1, i64::from);
            sql.push(" LIMIT ").push(limit).push(" OFFSET ").push(query.offset);
        }
        Ok(sql)
    }
}

type Builder = QueryBuilder<Sqlite>;

fn push_value(sql: &mut Builder, value: &Value) {
    match value {
        // Bound too, so that the statement is the same and its preparation kept.
        Value::Null => sql.push_bind(None::<&str>),
        Value::Integer(number) => sql.push_bind(*number),
        Value::Text(text) => sql.push_bind(text.as_str()),
    };
}

/// The row, if it still is as it was read.
fn push_as_read(sql: &mut Builder, id: &str, version: i64) {
    sql.push(" WHERE id = ").push_bind(id).push(" AND version = ").push_bind(version);
}

fn insertion(table: Table, id: &str, doc: &str, values: &[Value]) -> Builder {
    let mut sql = Builder::new("INSERT INTO ");
    sql.push(table.name()).push(" (id, version, doc");
    for column in table.columns() {
        sql.push(", ").push(column);
    }
    sql.push(") VALUES (").push_bind(id).push(", 1, ").push_bind(doc);
    for value in values {
        sql.push(", ");
        push_value(&mut sql, value);
    }
    sql.push(")");
    sql
}
