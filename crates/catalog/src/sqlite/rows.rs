//! Rows as they are in the database. What is not as this program writes it counts as damage.

use crate::model::{DiskRow, ItemKind, PointRow, StoredPoint, VaultRow};
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::str::FromStr;
use strongroom_domain::{Consistency, ConsistencyLevel};

const LEVELS: [(ConsistencyLevel, &str); 3] = [
    (ConsistencyLevel::Crash, "crash"),
    (ConsistencyLevel::FileSystem, "file-system"),
    (ConsistencyLevel::Application, "application"),
];

pub fn level_code(level: ConsistencyLevel) -> &'static str {
    LEVELS.iter().find(|(l, _)| *l == level).map_or("crash", |(_, code)| code)
}

fn wrong(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds something else than it should").into())
}

fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|_| wrong(column))
}

fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_microsecond(row.try_get(column)?).map_err(|_| wrong(column))
}

fn count(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| wrong(column))
}

pub fn read_vault(row: &SqliteRow) -> Result<VaultRow, sqlx::Error> {
    Ok(VaultRow {
        id: parsed(row, "id")?,
        location: row.try_get("location")?,
        first_seen_at: time(row, "first_seen_us")?,
        last_seen_at: time(row, "last_seen_us")?,
    })
}

pub fn read_point(row: &SqliteRow) -> Result<StoredPoint, sqlx::Error> {
    let level = row.try_get::<&str, _>("consistency")?;
    let level = LEVELS.iter().find(|(_, code)| *code == level).ok_or_else(|| wrong("consistency"))?.0;
    let disks: Vec<DiskRow> = serde_json::from_str(row.try_get("disks")?).map_err(|_| wrong("disks"))?;
    let parent = row.try_get::<Option<&str>, _>("parent_id")?;
    Ok(StoredPoint {
        vault: parsed(row, "vault_id")?,
        location: row.try_get("location")?,
        point: PointRow {
            id: parsed(row, "id")?,
            item: parsed(row, "item")?,
            kind: ItemKind::from_code(row.try_get("kind")?).ok_or_else(|| wrong("kind"))?,
            source_id: row.try_get("source_id")?,
            parent: parent.map(|p| p.parse().map_err(|_| wrong("parent_id"))).transpose()?,
            taken_at: time(row, "taken_at_us")?,
            committed_at: time(row, "committed_at_us")?,
            consistency: Consistency::new(level, row.try_get::<String, _>("consistency_reason")?),
            disks,
            read_bytes: count(row, "read_bytes")?,
            new_bytes: count(row, "new_bytes")?,
            stored_bytes: count(row, "stored_bytes")?,
            warnings: count(row, "warnings")?,
        },
    })
}
