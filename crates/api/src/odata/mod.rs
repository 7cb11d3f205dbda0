//! What lists are asked with: `$filter`, `$top`, `$skipToken`, and the `nextLink` that follows from them.

mod filter;
mod page;
mod time;

pub use filter::{Equalities, Expression, Filter, FilterError, Operator, Value};
pub use page::{Page, Pager};
pub use time::parse_time;
