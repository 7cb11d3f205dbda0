//! Resources and lists of them, as ARM shows them.

use super::answer::Answer;
use crate::{ArmError, Request};

/// A resource as ARM shows it. Lists hold thousands: everything moves into place, which `json!` would copy.
pub(crate) fn resource(
    id: String,
    name: String,
    kind: &str,
    properties: serde_json::Map<String, serde_json::Value>,
) -> serde_json::Value {
    serde_json::Map::from_iter([
        ("id".to_owned(), id.into()),
        ("name".to_owned(), name.into()),
        ("type".to_owned(), kind.into()),
        ("properties".to_owned(), properties.into()),
    ])
    .into()
}

/// One page of what is all in memory, after the caller's `$skipToken`, in ascending order of `key`, which is unique. The
/// token holds the last key of the page before: what comes or goes meanwhile shifts nothing else into or out of sight.
pub(crate) fn page<T>(
    request: &Request,
    mut all: Vec<T>,
    max: usize,
    key: impl Fn(&T) -> String,
    show: impl Fn(&T) -> serde_json::Value,
) -> Answer {
    let page = request.page(max)?;
    if request.rows.is_some() {
        // Before it is cut: neither a page's length nor the token of the next tells of rows that are not shown.
        all = retain(all, |row| request.shows_row(show(row)["id"].as_str().unwrap_or("/")))?;
    }
    all.sort_by_cached_key(&key);
    let (shown, cursor) = page.cut(all, &key);
    request.list(shown.iter().map(show), cursor.as_deref())
}

pub(crate) fn retain<T>(
    all: Vec<T>,
    keep: impl Fn(&T) -> Result<bool, ArmError>,
) -> Result<Vec<T>, ArmError> {
    let mut kept = Vec::with_capacity(all.len());
    for row in all {
        if keep(&row)? {
            kept.push(row);
        }
    }
    Ok(kept)
}

/// A key of [`page`]: by name without regard to case, then by what tells those of one name apart.
pub(crate) fn by_name(name: &str, group: &str) -> String {
    format!("{}\u{1}{}", name.to_lowercase(), group.to_lowercase())
}

/// A key of [`page`], of resources in the form that they are shown in.
pub(crate) fn by_shown_name(shown: &serde_json::Value) -> String {
    let field = |name: &str| shown[name].as_str().unwrap_or_default().to_lowercase();
    format!("{}\u{1}{}", field("name"), field("id"))
}
