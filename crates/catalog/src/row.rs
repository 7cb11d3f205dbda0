//! Rows, queries and changes, in a form that any SQL database can serve.

use crate::error::{Result, ServiceError};
use crate::table::Table;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// A column's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: `eq` and `ne` with it ask whether the column has a value.
    Null,
    /// A number, a truth (0 or 1), or a time in microseconds since 1970.
    Integer(i64),
    /// Text; ids are text as well.
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<uuid::Uuid> for Value {
    fn from(id: uuid::Uuid) -> Self {
        Self::Text(id.to_string())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Integer(truth.into())
    }
}

impl From<jiff::Timestamp> for Value {
    fn from(time: jiff::Timestamp) -> Self {
        Self::Integer(time.as_microsecond())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A document of a table.
pub trait Row: Serialize + DeserializeOwned {
    /// Where rows of this type are.
    const TABLE: Table;

    /// One in its table.
    fn id(&self) -> String;

    /// Counted up by the catalog at each write; 0 for one that was never written.
    fn version(&self) -> i64;

    /// Notes which version was read. Only the catalog and what reads from it have a use for this.
    fn set_version(&mut self, version: i64);

    /// In the order of [`Table::columns`].
    fn values(&self) -> Vec<Value>;
}

/// A row as it was read.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where it is.
    pub table: Table,
    /// One in its table.
    pub id: String,
    /// See [`Row::version`].
    pub version: i64,
    /// The row as JSON, without its version.
    pub doc: String,
}

impl Stored {
    /// The row. A document that is none of this type is [`ServiceError::Damaged`], and names its table in place of a file.
    pub fn read<R: Row>(&self) -> Result<R> {
        let mut row: R = serde_json::from_str(&self.doc).map_err(|e| ServiceError::Damaged {
            path: PathBuf::from(self.table.name()),
            detail: format!("row {}: {e}", self.id),
        })?;
        row.set_version(self.version);
        Ok(row)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtLeast,
    /// Written after the row of this id.
    WrittenAfter,
}

/// Which rows, in which order: all conditions hold.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub(crate) conditions: Vec<(&'static str, Comparison, Value)>,
    pub(crate) any_of: Option<(&'static str, Vec<Value>)>,
    pub(crate) order: Vec<(&'static str, bool)>,
    /// In the order in which rows were written first; true: the last one first.
    pub(crate) by_writing: Option<bool>,
    pub(crate) limit: Option<u32>,
    pub(crate) offset: u32,
}

impl Query {
    /// All rows, in no order. What is called on it restricts it. A column that the table does not have ([`Table::columns`]) is
    /// [`ServiceError::Failed`] where the query is made.
    pub fn all() -> Self {
        Self::default()
    }

    fn with(mut self, column: &'static str, comparison: Comparison, value: impl Into<Value>) -> Self {
        self.conditions.push((column, comparison, value.into()));
        self
    }

    /// Rows whose column has this value; [`Value::Null`]: that have none.
    #[must_use]
    pub fn eq(self, column: &'static str, value: impl Into<Value>) -> Self {
        self.with(column, Comparison::Equal, value)
    }

    /// Rows whose column has another value, or none; [`Value::Null`]: that have any.
    #[must_use]
    pub fn ne(self, column: &'static str, value: impl Into<Value>) -> Self {
        self.with(column, Comparison::NotEqual, value)
    }

    /// Rows whose column is less than this; none without a value.
    #[must_use]
    pub fn less(self, column: &'static str, value: impl Into<Value>) -> Self {
        self.with(column, Comparison::Less, value)
    }

    /// Rows whose column is this or more; none without a value.
    #[must_use]
    pub fn at_least(self, column: &'static str, value: impl Into<Value>) -> Self {
        self.with(column, Comparison::AtLeast, value)
    }

    /// One of these; only one such condition in a query.
    #[must_use]
    pub fn any_of<V: Into<Value>>(
        mut self,
        column: &'static str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.any_of = Some((column, values.into_iter().map(Into::into).collect()));
        self
    }

    /// The least first; of several orders the one that was given first counts most.
    #[must_use]
    pub fn ascending(mut self, column: &'static str) -> Self {
        self.order.push((column, false));
        self
    }

    /// The greatest first; of several orders the one that was given first counts most.
    #[must_use]
    pub fn descending(mut self, column: &'static str) -> Self {
        self.order.push((column, true));
        self
    }

    /// Rows written for the first time after the one of this id; none if there is no such row. Times and ids of rows may be out of
    /// order, since they are made before they are written: this is not.
    #[must_use]
    pub fn written_after(self, id: impl Into<Value>) -> Self {
        self.with("id", Comparison::WrittenAfter, id)
    }

    /// In the order in which rows were written first.
    #[must_use]
    pub fn in_order_of_writing(mut self) -> Self {
        self.by_writing = Some(false);
        self
    }

    /// The row that was written last comes first.
    #[must_use]
    pub fn last_written_first(mut self) -> Self {
        self.by_writing = Some(true);
        self
    }

    /// So many at most.
    #[must_use]
    pub fn limit(mut self, rows: u32) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Without the first so many.
    #[must_use]
    pub fn skip(mut self, rows: u32) -> Self {
        self.offset = rows;
        self
    }
}

/// One change of a list that is applied as a whole.
#[derive(Debug, Clone)]
pub enum Change {
    /// Writes a row: a new one (version 0), or the next version of what was read.
    Put {
        /// Where the row is, or comes.
        table: Table,
        /// One in its table.
        id: String,
        /// That which was read; 0: it is a new one.
        version: i64,
        /// The row as JSON.
        doc: String,
        /// In the order of [`Table::columns`].
        values: Vec<Value>,
    },
    /// Removes what was read, with all that belongs to it.
    Delete {
        /// Where the row is.
        table: Table,
        /// One in its table.
        id: String,
        /// That which was read.
        version: i64,
    },
    /// Does nothing, but only if the row is still as it was read.
    Unchanged {
        /// Where the row is.
        table: Table,
        /// One in its table.
        id: String,
        /// That which was read.
        version: i64,
    },
}

impl Change {
    /// To write a row: a new one if its version is 0, else the next version of what was read.
    pub fn put<R: Row>(row: &R) -> Self {
        let doc = serde_json::to_string(row).unwrap_or_else(|e| unreachable!("a row is plain data: {e}"));
        Self::Put { table: R::TABLE, id: row.id(), version: row.version(), doc, values: row.values() }
    }

    /// To remove a row as it was read, with all that belongs to it.
    pub fn delete<R: Row>(row: &R) -> Self {
        Self::Delete { table: R::TABLE, id: row.id(), version: row.version() }
    }

    /// To do nothing, but only if the row is still as it was read.
    pub fn unchanged<R: Row>(row: &R) -> Self {
        Self::Unchanged { table: R::TABLE, id: row.id(), version: row.version() }
    }
}
