//! Identifiers and names, checked where they come in.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use uuid::Uuid;

/// A name or identifier that was refused, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{given}` is not a valid {kind}: {reason}")]
pub struct InvalidName {
    /// Of what.
    pub kind: &'static str,
    /// What was given.
    pub given: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// From a UUID.
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// From its bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Its bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidName {
                    kind: $kind,
                    given: text.chars().take(80).collect(),
                    reason: "expected 32 hexadecimal digits with hyphens, as in 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
                })
            }
        }
    };
}

uuid_id!(
    /// A vault's identity, made once with the vault.
    VaultId,
    "vault id"
);
uuid_id!(
    /// A recovery point's identity. UUID version 7: sorts by the time it was made.
    PointId,
    "recovery point id"
);
uuid_id!(
    /// One run that reads from or writes to a vault.
    SessionId,
    "session id"
);

/// The name of a protected item in a vault: what `ITEM@latest` refers to.
///
/// Up to 255 bytes of UTF-8 without control characters, `@` or a space at either end, so that it
/// can be typed, printed, and told apart from the time that may follow it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ItemName(String);

/// The longest item name, in bytes.
pub const ITEM_NAME_MAX_BYTES: usize = 255;

impl ItemName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ItemName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refuse =
            |reason| Err(InvalidName { kind: "item name", given: text.chars().take(80).collect(), reason });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > ITEM_NAME_MAX_BYTES {
            return refuse("it is longer than 255 bytes");
        }
        if text.chars().any(char::is_control) {
            return refuse("it has a control character");
        }
        if text.contains('@') {
            return refuse("it has an `@`, which separates an item from a time (ITEM@latest)");
        }
        if text.trim() != text {
            return refuse("it begins or ends with a space");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ItemName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ItemName> for String {
    fn from(name: ItemName) -> String {
        name.0
    }
}

impl fmt::Display for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_names_are_checked() {
        for good in ["web01", "Büro PC", "a;b%c", "x"] {
            assert_eq!(good.parse::<ItemName>().unwrap().as_str(), good);
        }
        for bad in ["", " web", "a@b", "a\nb", &"x".repeat(256)] {
            assert!(bad.parse::<ItemName>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<ItemName>("\"a@b\"").is_err());
    }
}
