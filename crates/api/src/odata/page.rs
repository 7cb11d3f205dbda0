//! Pages of a list: `$top`, `$skipToken` and `nextLink`.
//!
//! A token holds the cursor that the handler named, bound by a MAC to the path and the filter that it was made for:
//! what comes back is either what we gave out, for this list, or refused. It does not expire and names no secret.

use crate::limits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;

const MAC_BYTES: usize = 16;

/// Makes and reads tokens.
#[derive(Debug)]
pub struct Pager {
    key: hmac::Key,
}

impl Pager {
    /// With the installation's own key, so that links outlive a restart.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    fn mac(&self, list: &str, cursor: &[u8]) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        // Lengths keep one field from running into the next.
        context.update(&(list.len() as u64).to_be_bytes());
        context.update(list.as_bytes());
        context.update(cursor);
        let mut out = [0; MAC_BYTES];
        out.copy_from_slice(&context.sign().as_ref()[..MAC_BYTES]);
        out
    }

    pub(crate) fn seal(&self, list: &str, cursor: &str) -> String {
        let mut bytes = self.mac(list, cursor.as_bytes()).to_vec();
        bytes.extend_from_slice(cursor.as_bytes());
        BASE64.encode(bytes)
    }

    pub(crate) fn open(&self, list: &str, token: &str) -> Option<String> {
        let bytes = BASE64.decode(token.trim_end_matches('=')).ok()?;
        let (mac, cursor) = bytes.split_at_checked(MAC_BYTES)?;
        // Not secret, so an early exit of this comparison tells nothing worth knowing; still, none is taken.
        let differs = self.mac(list, cursor).iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        if differs != 0 || cursor.len() > limits::CURSOR_MAX_BYTES {
            return None;
        }
        String::from_utf8(cursor.to_vec()).ok()
    }
}

/// The page that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many items to answer with at most.
    pub limit: usize,
    /// The cursor that the handler gave for the page before; `None` on the first.
    pub after: Option<String>,
}

impl Page {
    /// Cuts a whole list that is in order down to this page: the items, and the cursor of the next page if there is
    /// one. `key` names an item uniquely; items come in ascending order of it.
    pub fn cut<T, K: Ord + AsRef<str>>(
        &self,
        items: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> (Vec<T>, Option<String>) {
        let after = self.after.as_deref();
        let mut rest = items.into_iter().filter(|item| after.is_none_or(|after| key(item).as_ref() > after));
        let page: Vec<T> = rest.by_ref().take(self.limit).collect();
        let more = rest.next().is_some();
        let next = page.last().filter(|_| more).map(|last| key(last).as_ref().to_owned());
        (page, next)
    }
}
