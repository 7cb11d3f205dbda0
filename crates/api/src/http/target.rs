//! A request's target, taken apart: path segments and query parameters, decoded once and checked.
//!
//! Whatever is ambiguous is refused, so that no two layers can read one path in two ways: dot segments, encoded
//! slashes, bare backslashes, control characters, broken percent-encoding, bytes that are not UTF-8.

use crate::limits;
use thiserror::Error;

/// Why a target is refused. The text completes "The request URI is invalid: …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum TargetError {
    #[error("it is too long")]
    TooLong,
    #[error("it does not begin with a slash")]
    NotAbsolute,
    #[error("its path has too many segments, or one that is too long")]
    PathTooLong,
    #[error("a percent sign is not followed by two hexadecimal digits")]
    BadEscape,
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("it has a control character")]
    ControlCharacter,
    #[error("a path segment is '.' or '..'")]
    DotSegment,
    #[error("a path segment has an encoded slash or a bare backslash")]
    SlashInSegment,
    #[error("it has too many query parameters")]
    TooManyParameters,
    #[error("a query parameter is given twice with different values")]
    AmbiguousParameter,
}

/// A path's segments, case kept, `//` collapsed, each decoded by itself.
pub(crate) fn parse_path(path: &str) -> Result<Vec<String>, TargetError> {
    if path.len() > limits::TARGET_MAX_BYTES {
        return Err(TargetError::TooLong);
    }
    let rest = path.strip_prefix('/').ok_or(TargetError::NotAbsolute)?;
    let mut segments = Vec::new();
    for raw in rest.split('/').filter(|raw| !raw.is_empty()) {
        let segment = decode(raw, false)?;
        // A machine's name may have a backslash. Whoever took it for a slash must not find a way up either.
        if segment.split('\\').any(|part| part == "." || part == "..") {
            return Err(TargetError::DotSegment);
        }
        if segment.contains('/') || raw.contains('\\') {
            return Err(TargetError::SlashInSegment);
        }
        if segments.len() == limits::PATH_SEGMENTS_MAX || segment.len() > limits::PATH_SEGMENT_MAX_BYTES {
            return Err(TargetError::PathTooLong);
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// Query parameters: names without regard to case, `+` and `%20` both a space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Self, TargetError> {
        if query.len() > limits::TARGET_MAX_BYTES {
            return Err(TargetError::TooLong);
        }
        let mut out = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name, true)?, decode(value, true)?);
            match out.get(&name) {
                Some(present) if present == value => continue,
                // Which of two would count is for nobody to guess.
                Some(_) => return Err(TargetError::AmbiguousParameter),
                None if out.parameters.len() == limits::QUERY_PARAMETERS_MAX => {
                    return Err(TargetError::TooManyParameters);
                }
                None => out.parameters.push((name, value)),
            }
        }
        Ok(out)
    }

    /// A parameter's value, empty if it has none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All of them, as given, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Percent-decoding; in forms and queries a plus sign is a space.
fn decode(raw: &str, plus_is_space: bool) -> Result<String, TargetError> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or(TargetError::BadEscape);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| TargetError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(TargetError::ControlCharacter);
    }
    Ok(text)
}

/// Encodes what goes between two slashes of a path. `;` stays bare, as Azure's ids have it.
pub fn encode_segment(segment: &str) -> String {
    encode(segment, b"-._~;:@!$'()*,=")
}

/// Encodes what a path cannot have in it, such as spaces and letters beyond ASCII. What is encoded already stays.
pub fn encode_path(path: &str) -> String {
    let bytes = path.as_bytes();
    let is_code =
        |at: usize| bytes.get(at + 1..at + 3).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit));
    let mut out = String::with_capacity(path.len());
    for (at, byte) in path.bytes().enumerate() {
        let bare = byte.is_ascii_alphanumeric()
            || b"/-._~;:@!$&'()*+,=".contains(&byte)
            || byte == b'%' && is_code(at);
        match bare {
            true => out.push(char::from(byte)),
            false => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Encodes a query parameter's name or value.
pub fn encode_query(text: &str) -> String {
    encode(text, b"-._~")
}

fn encode(text: &str, bare: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || bare.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|n| char::from(b"0123456789ABCDEF"[usize::from(n)])));
        }
    }
    out
}

/// A host and port as clients name them: a DNS name, an IPv4 address or a bracketed IPv6 one, and an optional port.
/// Nothing else may get into the URLs that answers carry.
pub fn is_host_and_port(text: &str) -> bool {
    if text.is_empty() || text.len() > limits::HOST_MAX_BYTES {
        return false;
    }
    let (host, rest) = match text.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (true, rest),
            _ => return false,
        },
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            (!name.is_empty() && name.bytes().all(legal), rest)
        }
    };
    let port = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok();
    host && (rest.is_empty() || rest.strip_prefix(':').is_some_and(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_urls() {
        assert_eq!(encode_path("/a b/ü;x%3By%"), "/a%20b/%C3%BC;x%3By%25");
        assert_eq!(encode_path(&encode_path("/a b")), "/a%20b");
    }
    use proptest::prelude::*;

    fn path(text: &str) -> Result<Vec<String>, TargetError> {
        parse_path(text)
    }

    #[test]
    fn paths_as_az_sends_them() {
        assert_eq!(path("//a//b/").unwrap(), ["a", "b"]);
        assert_eq!(path("/VM%3Biaasvm%3Brg;x").unwrap(), ["VM;iaasvm;rg;x"]);
        assert_eq!(path("/100%25%20%C3%A4+").unwrap(), ["100% ä+"]);
        assert_eq!(path("/").unwrap(), Vec::<String>::new());
        assert_eq!(path("/VM;a%5Cb").unwrap(), ["VM;a\\b"]);
    }

    #[test]
    fn path_tricks_are_refused() {
        for (given, why) in [
            ("a", TargetError::NotAbsolute),
            ("/a/../b", TargetError::DotSegment),
            ("/a/%2e%2E/b", TargetError::DotSegment),
            ("/./b", TargetError::DotSegment),
            ("/a%2Fb", TargetError::SlashInSegment),
            ("/a\\b", TargetError::SlashInSegment),
            ("/a%5c..%5cb", TargetError::DotSegment),
            ("/a%00", TargetError::ControlCharacter),
            ("/a%0d%0a", TargetError::ControlCharacter),
            ("/a%c2%85", TargetError::ControlCharacter),
            ("/a%", TargetError::BadEscape),
            ("/a%2", TargetError::BadEscape),
            ("/a%+1", TargetError::BadEscape),
            ("/a%ff", TargetError::NotUtf8),
            ("/%c0%af", TargetError::NotUtf8),
        ] {
            assert_eq!(path(given), Err(why), "{given}");
        }
        // Decoded once, never twice.
        assert_eq!(path("/%252e%252e/%252F").unwrap(), ["%2e%2e", "%2F"]);
        assert_eq!(path(&"/a".repeat(limits::PATH_SEGMENTS_MAX + 1)), Err(TargetError::PathTooLong));
        assert_eq!(path(&format!("/{}", "a".repeat(limits::TARGET_MAX_BYTES))), Err(TargetError::TooLong));
    }

    #[test]
    fn queries_are_read_in_all_their_spellings() {
        for given in ["$filter=a%20eq%20'b;c'", "%24filter=a+eq+'b%3Bc'", "$Filter=a%20eq+%27b;c%27"] {
            assert_eq!(Query::parse(given).unwrap().get("$filter"), Some("a eq 'b;c'"), "{given}");
        }
        let query = Query::parse("API-Version=1&&empty&also=&api-version=1").unwrap();
        assert_eq!(query.get("api-version"), Some("1"));
        assert_eq!((query.get("empty"), query.get("also"), query.get("none")), (Some(""), Some(""), None));
        assert_eq!(Query::parse("a=1&A=2"), Err(TargetError::AmbiguousParameter));
        assert_eq!(Query::parse("a=%zz"), Err(TargetError::BadEscape));
        let many: String = (0..=limits::QUERY_PARAMETERS_MAX).map(|n| format!("p{n}=1&")).collect();
        assert_eq!(Query::parse(&many), Err(TargetError::TooManyParameters));
    }

    #[test]
    fn hosts() {
        for good in
            ["localhost", "localhost:8443", "127.0.0.1:1", "[::1]:8443", "[fe80::1]", "a-b.example:65535"]
        {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "", ":1", "a:", "a:70000", "a:+1", "a b", "a/b", "a@b", "[::1", "[x]:1", "::1", "a\"b", "ä",
            "[::1]x",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in "[^\\x00-\\x1f\\x7f-\\u{9f}/\\\\]{1,40}") {
            prop_assume!(text != "." && text != "..");
            prop_assert_eq!(parse_path(&format!("/{}", encode_segment(&text))).unwrap(), vec![text.clone()]);
            let query = Query::parse(&format!("q={}", encode_query(&text))).unwrap();
            prop_assert_eq!(query.get("q"), Some(text.as_str()));
        }

        #[test]
        fn nothing_panics(text in ".{0,200}") {
            let _ = parse_path(&text);
            let _ = Query::parse(&text);
            let _ = is_host_and_port(&text);
        }
    }
}
