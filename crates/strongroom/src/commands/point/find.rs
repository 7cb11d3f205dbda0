//! A recovery point, as commands name it.

use crate::client::{Client, segment};
use crate::commands::common::Item;
use crate::failure::Result;
use crate::when;
use jiff::Timestamp;
use serde_json::Value;
use strongroom_engine::Error;

/// A time as filters have it.
pub(super) fn quoted(at: Timestamp) -> String {
    format!("'{at}'")
}

/// The point that is named: `latest`, a name, or a time.
pub fn find_point(client: &Client, item: &Item, named: &str) -> Result<Value> {
    let path = format!("{}/recoveryPoints", item.path);
    if named.len() > 10 && named.bytes().all(|b| b.is_ascii_digit()) {
        return client.get(&format!("{path}/{}", segment(named)));
    }
    let filter = match named {
        "latest" => None,
        time => Some(when::parse(time, when::Sense::Until).map_err(|why| {
            Error::invalid(format!(
                "`{named}` names no recovery point: it is `latest`, a point's name (see `strongroom point list`) or a time; {why}"
            ))
        })?),
    };
    // Shown in whole seconds, a time means that second's end.
    let filter =
        filter.map(|until| until.checked_add(jiff::SignedDuration::from_millis(999)).unwrap_or(until));
    let filter = filter.map(|until| format!("endDate eq {}", quoted(until)));
    let mut first = None;
    client.pages(&path, filter.as_deref(), |page| {
        first = page.into_iter().next();
        false
    })?;
    first.ok_or_else(|| {
        let message = match named {
            "latest" => format!("machine `{}` has no recovery points yet", item.name),
            _ => format!(
                "machine `{}` has no recovery point as old as that; see `strongroom point list`",
                item.name
            ),
        };
        Error::not_found(message).into()
    })
}
