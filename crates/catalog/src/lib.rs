//! The service's state: resource groups, vaults, policies, machines, protected items, recovery points, jobs, operations,
//! principals and what they may do.
//!
//! Rows are documents ([`Row`]) with a version. Reads are queries over a table's columns; changes are lists applied in one
//! transaction, each with the version that it was made from: if anybody changed a row meanwhile, the whole list is refused
//! with [`ServiceError::Conflict`] and nothing has happened. So whoever decides from what it read decides rightly, or
//! again.
//!
//! What is applied is durable when the call returns. A database that is damaged is never begun anew by itself.
//!
//! Calls block: make them from threads, never from within an async runtime's workers.
//!
//! Vaults explain themselves without it: a catalog that was lost is rebuilt by importing each of them.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod actor;
mod differences;
mod error;
pub mod limits;
mod model;
mod recorded;
mod row;
mod sqlite;
mod table;

pub use differences::{differences, shown};
pub use error::{Result, ServiceError};
pub use model::*;
pub use recorded::Recorded;
pub use row::{Change, Query, Row, Stored, Value};
pub use sqlite::SqliteServiceCatalog;
pub use table::Table;

/// Where the service's state is kept. All implementations pass one suite of tests.
pub trait ServiceCatalog: Send + Sync {
    /// All of it, or nothing. It is durable when this returns.
    ///
    /// # Errors
    /// [`ServiceError::Conflict`] where a row is not as it was read, [`ServiceError::Taken`] where another one has its name, or
    /// what the database answers.
    fn apply(&self, changes: &[Change]) -> Result<()>;

    /// The rows that match, in the query's order. Memory grows with them: a query of what can be many has a limit.
    fn fetch(&self, table: Table, query: &Query) -> Result<Vec<Stored>>;

    /// How many rows match. The query is one without limit and skip, which would count rows of the answer.
    fn count(&self, table: Table, query: &Query) -> Result<u64>;

    /// How many bytes a table's documents have.
    fn bytes(&self, table: Table) -> Result<u64> {
        let (mut bytes, mut seen) = (0, 0);
        loop {
            let page = self.fetch(table, &Query::all().ascending("id").skip(seen).limit(1000))?;
            if page.is_empty() {
                return Ok(bytes);
            }
            bytes += page.iter().map(|row| row.doc.len() as u64).sum::<u64>();
            seen += page.len() as u32;
        }
    }
}

impl dyn ServiceCatalog + '_ {
    /// The rows that match.
    pub fn find<R: Row>(&self, query: &Query) -> Result<Vec<R>> {
        self.fetch(R::TABLE, query)?.iter().map(|stored| stored.read()).collect()
    }

    /// The first row that matches.
    pub fn first<R: Row>(&self, query: Query) -> Result<Option<R>> {
        Ok(self.find::<R>(&query.limit(1))?.pop())
    }

    /// The row of this id. None: there is none.
    pub fn get<R: Row>(&self, id: impl std::fmt::Display) -> Result<Option<R>> {
        self.first(Query::all().eq("id", id.to_string()))
    }

    /// Reads a row, changes it and writes it, again when somebody else was faster. `change` answers what else is to be
    /// applied together with it; an error of its own ends it. Where nothing is changed nothing is written, and the row keeps its
    /// version.
    pub fn update<R: Row, E: From<ServiceError>>(
        &self,
        id: impl std::fmt::Display,
        mut change: impl FnMut(&mut R) -> Result<Vec<Change>, E>,
    ) -> Result<Option<R>, E> {
        for attempt in 0..limits::UPDATE_ATTEMPTS {
            if attempt > 2 {
                // Many want this row: those that came late wait a little longer each time, and by different times.
                let spread = std::process::id().wrapping_mul(31).wrapping_add(thread_number()) % 7 + 1;
                std::thread::sleep(std::time::Duration::from_micros(
                    100 * u64::from(spread) * attempt.min(20) as u64,
                ));
            }
            let Some(stored) = self.fetch(R::TABLE, &Query::all().eq("id", id.to_string()).limit(1))?.pop()
            else {
                return Ok(None);
            };
            let mut row = stored.read::<R>()?;
            let mut changes = change(&mut row)?;
            let put = Change::put(&row);
            if changes.is_empty() && matches!(&put, Change::Put { doc, .. } if *doc == stored.doc) {
                return Ok(Some(row));
            }
            changes.insert(0, put);
            match self.apply(&changes) {
                Ok(()) => {
                    row.set_version(row.version() + 1);
                    return Ok(Some(row));
                }
                Err(ServiceError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::Conflict { table: R::TABLE, id: id.to_string() }.into())
    }
}

/// Tells threads apart.
fn thread_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static NUMBER: u32 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|n| *n)
}
