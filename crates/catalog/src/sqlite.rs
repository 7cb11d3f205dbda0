//! A catalog in one SQLite file, shared by all processes of a user.

mod file;
mod rows;

pub(crate) use file::make as make_private_file;

use crate::Catalog;
use crate::error::{CatalogError, Result};
use crate::limits::{ANSWER_ROWS_MAX, BUSY_TIMEOUT};
use crate::model::{ItemKind, PointRow, StoredPoint, Synced, VaultRow, VaultSeen};
use file::{Lock, move_aside};
use jiff::Timestamp;
use rows::{read_point, read_vault};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use strongroom_domain::{ItemName, PointId, VaultId};
use tokio::runtime::Runtime;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The catalog in a file, in write-ahead mode. What is lost at a power cut is at most the last rows, which the next
/// [`sync`](Catalog::sync) brings back.
pub struct SqliteCatalog {
    path: PathBuf,
    runtime: Runtime,
    /// None after a damage, until the next use.
    connection: Mutex<Option<SqliteConnection>>,
    warnings: Mutex<Vec<String>>,
}

impl SqliteCatalog {
    /// Opens a catalog, or begins one: its directory is made too.
    pub fn open(path: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| CatalogError::io(path, "starting", &e))?;
        let catalog = Self {
            path: path.to_owned(),
            runtime,
            connection: Mutex::new(None),
            warnings: Mutex::new(Vec::new()),
        };
        let connection = catalog.connect(None)?;
        *catalog.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(catalog)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to a database that is up to date, whatever was there before. `useless`: why that one is no good
    /// although it opens.
    fn connect(&self, useless: Option<String>) -> Result<SqliteConnection> {
        file::make_directory(&self.path)?;
        // One at a time: making, migrating and replacing a database are not for two.
        let _lock = Lock::take(&self.path)?;
        file::make(&self.path)?;
        let opened = match useless {
            Some(detail) => Err(CatalogError::Damaged { path: self.path.clone(), detail }),
            None => self.runtime.block_on(open_database(&self.path)),
        };
        match opened {
            Err(CatalogError::Damaged { detail, .. }) => {
                let aside = move_aside(&self.path)?;
                let told = format!(
                    "the catalog {} was damaged ({detail}); it was moved to {} and begun anew, and fills again as vaults are used",
                    self.path.display(),
                    aside.display()
                );
                self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                file::make(&self.path)?;
                self.runtime.block_on(open_database(&self.path))
            }
            other => other,
        }
    }

    /// Runs `operation`; once more on a new database if this one turns out to be damaged.
    fn with<T>(&self, operation: impl AsyncFn(&mut SqliteConnection) -> Result<T, sqlx::Error>) -> Result<T> {
        let mut held = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut useless = None;
        for attempt in 0.. {
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => self.connect(useless.take())?,
            };
            let cause = match self.runtime.block_on(operation(&mut connection)) {
                Ok(answer) => {
                    *held = Some(connection);
                    return Ok(answer);
                }
                Err(cause) => cause,
            };
            match (CatalogError::sqlite(&self.path, &cause), attempt) {
                // Looked over when opened again: another process may have begun it anew already.
                (CatalogError::Damaged { .. }, 0) => {}
                // It opens, and is not what it should be all the same.
                (CatalogError::Damaged { detail, .. }, 1) => useless = Some(detail),
                (error, _) => {
                    *held = Some(connection);
                    return Err(error);
                }
            }
            let _ = self.runtime.block_on(connection.close_hard());
        }
        unreachable!("the last attempt returns")
    }
}

impl Drop for SqliteCatalog {
    /// Left to itself the connection would be closed some time later, by another thread.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = self.runtime.block_on(connection.close());
        }
    }
}

/// Opens, checks and migrates.
async fn open_database(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    let failed = |e: sqlx::Error| CatalogError::sqlite(path, &e);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(failed)?;
    // Small as it is, looking at all of it costs a millisecond or two.
    let found: String =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut connection).await.map_err(failed)?;
    if found != "ok" {
        return Err(CatalogError::Damaged { path: path.to_owned(), detail: found });
    }
    let damaged = |detail: String| CatalogError::Damaged { path: path.to_owned(), detail };
    match MIGRATIONS.run(&mut connection).await {
        Ok(()) => {}
        Err(MigrateError::VersionMissing(version)) if version > newest_migration() => {
            return Err(CatalogError::Newer { path: path.to_owned() });
        }
        Err(MigrateError::Execute(e)) => return Err(failed(e)),
        Err(MigrateError::ExecuteMigration(e, version)) => match failed(e) {
            CatalogError::Damaged { detail, .. } | CatalogError::Failed { detail, .. } => {
                return Err(damaged(format!("migration {version} failed: {detail}")));
            }
            other => return Err(other),
        },
        // A history other than this program's: it cannot be brought up to date.
        Err(e) => return Err(damaged(e.to_string())),
    }
    Ok(connection)
}

fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Notes where and when a vault was seen. Another vault that was at this location is there no longer.
async fn see_vault(connection: &mut SqliteConnection, vault: &VaultSeen) -> Result<(), sqlx::Error> {
    let id = vault.id.to_string();
    sqlx::query("DELETE FROM vaults WHERE location = ? AND id <> ?")
        .bind(&vault.location)
        .bind(&id)
        .execute(&mut *connection)
        .await?;
    let now = Timestamp::now().as_microsecond();
    sqlx::query(
        "INSERT INTO vaults (id, location, first_seen_us, last_seen_us) VALUES (?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET location = excluded.location, last_seen_us = excluded.last_seen_us",
    )
    .bind(&id)
    .bind(&vault.location)
    .bind(now)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

async fn put_point(
    connection: &mut SqliteConnection,
    vault: VaultId,
    point: &PointRow,
) -> Result<(), sqlx::Error> {
    let disks = serde_json::to_string(&point.disks).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
    // SQLite's integers are signed.
    let integer = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT OR REPLACE INTO recovery_points (vault_id, id, item, kind, source_id, parent_id, taken_at_us,
            committed_at_us, consistency, consistency_reason, disks, read_bytes, new_bytes, stored_bytes, warnings)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(vault.to_string())
    .bind(point.id.to_string())
    .bind(point.item.as_str())
    .bind(point.kind.code())
    .bind(point.source_id.as_deref())
    .bind(point.parent.map(|p| p.to_string()))
    .bind(point.taken_at.as_microsecond())
    .bind(point.committed_at.as_microsecond())
    .bind(rows::level_code(point.consistency.level))
    .bind(&point.consistency.reason)
    .bind(disks)
    .bind(integer(point.read_bytes))
    .bind(integer(point.new_bytes))
    .bind(integer(point.stored_bytes))
    .bind(integer(point.warnings))
    .execute(connection)
    .await?;
    Ok(())
}

async fn delete_point(
    connection: &mut SqliteConnection,
    vault: VaultId,
    point: &str,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query("DELETE FROM recovery_points WHERE vault_id = ? AND id = ?")
        .bind(vault.to_string())
        .bind(point)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

impl Catalog for SqliteCatalog {
    fn record(&self, vault: &VaultSeen, point: &PointRow) -> Result<()> {
        self.with(async |connection| {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            see_vault(&mut transaction, vault).await?;
            put_point(&mut transaction, vault.id, point).await?;
            transaction.commit().await
        })
    }

    fn remove(&self, vault: VaultId, points: &[PointId]) -> Result<u64> {
        self.with(async |connection| {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            let mut removed = 0;
            for point in points {
                removed += delete_point(&mut transaction, vault, &point.to_string()).await?;
            }
            transaction.commit().await?;
            Ok(removed)
        })
    }

    fn sync(&self, vault: &VaultSeen, item: Option<&ItemName>, points: &[PointRow]) -> Result<Synced> {
        self.with(async |connection| {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            see_vault(&mut transaction, vault).await?;
            let known: Vec<String> = match item {
                None => sqlx::query_scalar("SELECT id FROM recovery_points WHERE vault_id = ?")
                    .bind(vault.id.to_string()),
                Some(item) => {
                    sqlx::query_scalar("SELECT id FROM recovery_points WHERE vault_id = ? AND item = ?")
                        .bind(vault.id.to_string())
                        .bind(item.as_str())
                }
            }
            .fetch_all(&mut *transaction)
            .await?;
            let mut gone: HashSet<String> = known.into_iter().collect();
            let mut synced = Synced::default();
            for point in points.iter().filter(|p| item.is_none_or(|item| p.item == *item)) {
                // A point never changes: what is known of it is right.
                if !gone.remove(&point.id.to_string()) {
                    put_point(&mut transaction, vault.id, point).await?;
                    synced.added += 1;
                }
            }
            for id in &gone {
                synced.removed += delete_point(&mut transaction, vault.id, id).await?;
            }
            transaction.commit().await?;
            Ok(synced)
        })
    }

    fn last_points(&self, kind: ItemKind) -> Result<Vec<StoredPoint>> {
        self.with(async |connection| {
            let rows = sqlx::query(
                "SELECT * FROM (
                    SELECT p.*, v.location, row_number() OVER (
                        PARTITION BY p.item, p.source_id ORDER BY p.taken_at_us DESC, p.id DESC) AS age
                    FROM recovery_points p JOIN vaults v ON v.id = p.vault_id WHERE p.kind = ?)
                 WHERE age = 1 ORDER BY item, taken_at_us LIMIT ?",
            )
            .bind(kind.code())
            .bind(ANSWER_ROWS_MAX)
            .fetch_all(connection)
            .await?;
            rows.iter().map(read_point).collect()
        })
    }

    fn points(&self, item: &ItemName) -> Result<Vec<StoredPoint>> {
        self.with(async |connection| {
            let rows = sqlx::query(
                "SELECT p.*, v.location FROM recovery_points p JOIN vaults v ON v.id = p.vault_id
                 WHERE p.item = ? ORDER BY p.taken_at_us, p.id LIMIT ?",
            )
            .bind(item.as_str())
            .bind(ANSWER_ROWS_MAX)
            .fetch_all(connection)
            .await?;
            rows.iter().map(read_point).collect()
        })
    }

    fn vaults(&self) -> Result<Vec<VaultRow>> {
        self.with(async |connection| {
            let rows = sqlx::query("SELECT * FROM vaults ORDER BY location, id LIMIT ?")
                .bind(ANSWER_ROWS_MAX)
                .fetch_all(connection)
                .await?;
            rows.iter().map(read_vault).collect()
        })
    }

    fn forget_vault(&self, vault: VaultId) -> Result<bool> {
        self.with(async |connection| {
            let done = sqlx::query("DELETE FROM vaults WHERE id = ?")
                .bind(vault.to_string())
                .execute(connection)
                .await?;
            Ok(done.rows_affected() > 0)
        })
    }

    fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
