//! Paths and queries: encoding what goes into them, and taking apart what answers refer to.

pub use strongroom_api::http::target::{encode_query as query, encode_segment as segment};

/// The path of a resource's id, which is not encoded.
pub fn of_id(id: &str) -> String {
    id.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Text in an OData filter.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Path and query of a URL that an answer carries. Only these count: the connection stays the one that it came over, so
/// that no answer can send a token elsewhere. What no request may carry as it is gets encoded.
pub fn target_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let path = &rest[rest.find('/')?..];
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~'
                if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#') =>
            {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(out)
}

/// The segment after the one called `name` in a resource's id, whatever its case: the group after `resourceGroups`.
pub fn part_of_id<'a>(id: &'a str, name: &str) -> Option<&'a str> {
    let mut segments = id.split('/');
    segments.find(|s| s.eq_ignore_ascii_case(name))?;
    segments.next().filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_path_comes_out_whole() {
        assert_eq!(segment("VM;iaasvmcontainerv2;rg;ä b/%"), "VM;iaasvmcontainerv2;rg;%C3%A4%20b%2F%25");
        assert_eq!(of_id("/subscriptions/a b"), "/subscriptions/a%20b");
        assert_eq!(query("a eq 'b'"), "a%20eq%20%27b%27");
        assert_eq!(literal("o'clock"), "'o''clock'");
    }

    #[test]
    fn of_a_url_only_path_and_query_count() {
        assert_eq!(target_of("https://evil.example/a/b?x=%20").as_deref(), Some("/a/b?x=%20"));
        assert_eq!(target_of("https://h/web 01?x=1").as_deref(), Some("/web%2001?x=1"));
        assert_eq!(target_of("https://h"), None);
        assert_eq!(target_of("/a/b"), None);
    }

    #[test]
    fn parts_of_ids() {
        let id = "/subscriptions/S/resourcegroups/G/providers/Microsoft.Compute/virtualMachines/v";
        assert_eq!(part_of_id(id, "resourceGroups"), Some("G"));
        assert_eq!(part_of_id(id, "vaults"), None);
    }
}
