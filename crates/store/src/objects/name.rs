//! Object names: relative, slash-separated, of few harmless characters.
//!
//! One rule for all back-ends, strict enough that a name maps to itself as a file path and as an
//! S3 key, that it can't leave the vault's directory, and that it can't collide with temporary files.

use super::limits::{MAX_NAME_BYTES, MAX_SEGMENT_BYTES};

/// Says what is wrong with an object's name, or nothing.
///
/// A name is one or more segments joined by `/`; a segment is 1 to 128 of `A–Z a–z 0–9 . _ = + -`
/// and does not start with a dot.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let fault = |why| Err(NameError { name: name.chars().take(MAX_NAME_BYTES).collect(), why });
    if name.is_empty() {
        return fault("it is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return fault("it is longer than 512 bytes");
    }
    for segment in name.split('/') {
        if segment.is_empty() {
            return fault("it has an empty segment");
        }
        if segment.len() > MAX_SEGMENT_BYTES {
            return fault("a segment is longer than 128 bytes");
        }
        if segment.starts_with('.') {
            return fault("a segment starts with a dot");
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._=+-".contains(&b)) {
            return fault("only letters, digits and . _ = + - are allowed");
        }
    }
    Ok(())
}

/// Like [`check_name`] for a listing prefix: whole segments, a trailing slash is ignored, empty means all.
/// Returns the prefix without its trailing slash.
pub fn check_prefix(prefix: &str) -> Result<&str, NameError> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() {
        check_name(prefix)?;
    }
    Ok(prefix)
}

/// A name that no object may have.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} can't be an object's name: {why}")]
pub struct NameError {
    name: String,
    why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_or_collide_are_refused() {
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", ".tmp/x", "a/.b", "a b",
            "a\\b", "a%2f", "a\0", "é", "a\n", "a:b", "~", "a#1",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?} was allowed");
        }
        assert!(check_name(&"a".repeat(129)).is_err());
        assert!(check_name(&"a/".repeat(400)).is_err());
        for good in ["a", "packs/ab/0f.pack", "A_b=c+d-e.f", "a..b"] {
            assert!(check_name(good).is_ok(), "{good:?} was refused");
        }
        assert_eq!(check_prefix("packs/").unwrap(), "packs");
        assert_eq!(check_prefix("").unwrap(), "");
        assert!(check_prefix("../").is_err());
    }
}
