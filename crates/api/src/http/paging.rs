//! Which page of a list a request asks for, and the link to the next.

use super::request::Request;
use super::response::Response;
use super::target::encode_query;
use crate::odata::Page;
use crate::{ArmError, limits};
use serde_json::Value;

impl Request {
    /// Which page is asked for: `$top` (at most `max`, which is also the default) and `$skipToken`.
    pub fn page(&self, max: usize) -> Result<Page, ArmError> {
        let max = max.clamp(1, limits::PAGE_MAX_ITEMS);
        let limit = match self.query.get("$top").map(str::trim).filter(|t| !t.is_empty()) {
            None => max,
            Some(text) => match text.parse::<u64>() {
                Ok(top) if top > 0 => usize::try_from(top).unwrap_or(max).min(max),
                _ => {
                    return Err(ArmError::invalid_parameter("$top", "it must be a whole number above zero."));
                }
            },
        };
        let invalid = || {
            ArmError::invalid_parameter("$skipToken", "it is not one that this server gave for this list.")
        };
        let after = match self.query.get("$skipToken").filter(|t| !t.is_empty()) {
            None => None,
            Some(token) => {
                let pager = self.pager.as_ref().ok_or_else(invalid)?;
                Some(pager.open(&list_of(self), token).ok_or_else(invalid)?)
            }
        };
        Ok(Page { limit, after })
    }

    /// A list's answer: `{"value":[…]}`, with `nextLink` if there is more after `next`, the last item's cursor (any text that the
    /// handler gets back in [`Page::after`]).
    pub fn list(
        &self,
        values: impl IntoIterator<Item = Value>,
        next: Option<&str>,
    ) -> Result<Response, ArmError> {
        let next_link = next.map(|cursor| self.next_link(cursor)).transpose()?;
        Ok(Response::list(values, next_link.as_deref()))
    }

    /// The URL of the page after `cursor`: this request's own, with `$skipToken`.
    pub fn next_link(&self, cursor: &str) -> Result<String, ArmError> {
        let internal = |why: &str| {
            tracing::error!(why, "no nextLink could be made");
            ArmError::internal(self.request_id)
        };
        let pager = self.pager.as_ref().ok_or_else(|| internal("the request was not dispatched"))?;
        if cursor.len() > limits::CURSOR_MAX_BYTES {
            return Err(internal("the cursor is too long"));
        }
        let mut out = format!("{}{}?", self.base_url, self.path_text());
        for (name, value) in self.query.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("$skipToken")) {
            // `$` needs no encoding in a query, and clients look for `$filter` by that spelling.
            let name = encode_query(name).replace("%24", "$");
            out.push_str(&format!("{name}={}&", encode_query(value)));
        }
        out.push_str("$skipToken=");
        out.push_str(&pager.seal(&list_of(self), cursor));
        Ok(out)
    }
}

/// What a token is bound to.
fn list_of(request: &Request) -> String {
    let path = request.path_text().to_lowercase();
    format!("{path}?{}", request.query.get("$filter").unwrap_or_default().trim())
}
