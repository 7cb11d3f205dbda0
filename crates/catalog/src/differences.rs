//! What of a document is another than before, in words for people. No secrets.

use serde_json::Value;
use std::collections::BTreeSet;

/// What is shown of one value, in characters.
const VALUE_MAX_CHARS: usize = 60;
/// What is said of one document, in bytes; a last one that does not fit is left out.
const TEXT_MAX_BYTES: usize = 700;
const DEEP_MAX: usize = 16;

/// One part that is another than before.
struct Difference {
    /// `rules`, `retention`, `daily`.
    path: Vec<String>,
    old: Value,
    new: Value,
}

/// Each part of two documents that is another: `tls.names [] -> ["a"], limits.jobs 8 -> 4`; empty where there is none.
pub fn differences(old: &Value, new: &Value) -> String {
    joined(&all(old, new), |path| path.join("."), |_, value| shown(value))
}

/// The same of two versions of a row. `words`: fields whose values are one of a few words.
pub(crate) fn of_rows(old: &Value, new: &Value, words: &[&str]) -> String {
    let named = |path: &[String]| {
        let rest = path[1..].iter().map(|name| format!(".{name}"));
        path[0].replace('_', " ") + &rest.collect::<String>()
    };
    let said = |path: &[String], value: &Value| match value.as_str() {
        Some(word) if path.len() == 1 && words.contains(&path[0].as_str()) => in_pascal_case(word),
        _ => shown(value),
    };
    joined(&all(old, new), named, said)
}

/// A value on a line, shortened; of a secret only that there is one.
pub fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "none".into(),
        // Whatever else somebody wrote is quoted, so that it cannot pass for more than a value.
        Value::String(text) if is_plain(text) => text.clone(),
        value => without_secrets(value).to_string(),
    };
    let short: String = text.chars().take(VALUE_MAX_CHARS).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:/+-".contains(c))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["secret", "password", "private_key"].iter().any(|part| name.contains(part))
}

fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let value = if is_secret(name) { "(not shown)".into() } else { without_secrets(value) };
                (name.clone(), value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(values) => values.iter().map(without_secrets).collect(),
        value => value.clone(),
    }
}

fn in_pascal_case(word: &str) -> String {
    let capital = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    match word.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric())) {
        true => word.split('_').map(capital).collect(),
        false => shown(&word.into()),
    }
}

fn all(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(old, new, &mut Vec::new(), &mut found);
    found
}

fn compare(old: &Value, new: &Value, path: &mut Vec<String>, found: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    let is_deep = path.len() >= DEEP_MAX;
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if !is_deep => {
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let of =
                    |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                path.push(if is_plain(name) { name.clone() } else { shown(&name.as_str().into()) });
                compare(&of(old), &of(new), path, found);
                path.pop();
            }
        }
        (Value::Array(old), Value::Array(new))
            if !is_deep && old.len() == new.len() && old.iter().chain(new).all(Value::is_object) =>
        {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                path.push(at.to_string());
                compare(old, new, path, found);
                path.pop();
            }
        }
        _ => found.push(Difference { path: path.clone(), old: old.clone(), new: new.clone() }),
    }
}

fn joined(
    found: &[Difference],
    named: impl Fn(&[String]) -> String,
    said: impl Fn(&[String], &Value) -> String,
) -> String {
    let mut text = String::new();
    for Difference { path, old, new } in found {
        if path.is_empty() {
            continue;
        }
        let between = if text.is_empty() { "" } else { ", " };
        let one = match path.iter().any(|name| is_secret(name)) {
            true => format!("{between}{} (not shown)", named(path)),
            false => format!("{between}{} {} -> {}", named(path), said(path, old), said(path, new)),
        };
        if text.len() + one.len() > TEXT_MAX_BYTES {
            text.push_str(", …");
            break;
        }
        text.push_str(&one);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_part_is_named_with_both_values() {
        let old = json!({"a": 1, "b": {"c": [1], "d": null}, "list": [{"x": 1, "y": 2}], "same": true});
        let new =
            json!({"a": 2, "b": {"c": [1, 2], "d": "two words"}, "list": [{"x": 1, "y": 3}], "same": true});
        assert_eq!(
            differences(&old, &new),
            "a 1 -> 2, b.c [1] -> [1,2], b.d none -> \"two words\", list.0.y 2 -> 3"
        );
        assert_eq!(differences(&old, &old), "");
        let words = ["state"];
        let (old, new) = (json!({"state": "soft_deleted"}), json!({"state": null}));
        assert_eq!(of_rows(&old, &new, &words), "state SoftDeleted -> none");
    }

    #[test]
    fn secrets_are_not_shown_nor_what_passes_for_something_else() {
        let old = json!({"secret_hash": "one", "tags": {}, "more": null});
        let new = json!({"secret_hash": "two", "tags": {"a, b": "x, immutability locked -> off"}, "more": {"password": "three"}});
        let text = differences(&old, &new);
        let expected = r#"more none -> {"password":"(not shown)"}, secret_hash (not shown), tags."a, b" none -> "x, immutability locked -> off""#;
        assert_eq!(text, expected);
    }

    #[test]
    fn it_stays_short() {
        let of = |n: u32| {
            let many: serde_json::Map<_, _> =
                (0..500).map(|at| (format!("field{at}"), "é".repeat(n as usize).into())).collect();
            Value::Object(many)
        };
        let text = differences(&of(100), &of(200));
        assert!(text.len() < TEXT_MAX_BYTES + 8 && text.ends_with(", …"), "{text}");
    }
}
