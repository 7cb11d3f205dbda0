//! Schemas of bodies for the OpenAPI document, from the types that bodies are read into and answers are written from.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::any::TypeId;

/// What a body is in Rust, and how the document tells it.
#[derive(Debug, Clone, Copy)]
pub struct BodyType {
    pub(crate) id: TypeId,
    schema: fn() -> Value,
}

impl BodyType {
    /// Of a request.
    pub(crate) fn read<T: DeserializeOwned + JsonSchema + 'static>() -> Self {
        Self { id: TypeId::of::<T>(), schema: of_request::<T> }
    }

    /// Of an answer.
    pub(crate) fn written<T: Serialize + JsonSchema + 'static>() -> Self {
        Self { id: TypeId::of::<T>(), schema: of_answer::<T> }
    }

    /// Whole in itself: it refers to no other.
    pub fn schema(&self) -> Value {
        (self.schema)()
    }
}

/// The schema of what is read into a type. Null is taken wherever a field may be left out; the document does not ask for it.
fn of_request<T: JsonSchema>() -> Value {
    let mut schema = told::<T>(SchemaSettings::draft2020_12().for_deserialize());
    each(&mut schema, &mut |schema| {
        if let Some(types) = schema.get_mut("type")
            && let Some([one]) = types.as_array_mut().map(|all| {
                all.retain(|one| one != "null");
                &all[..]
            })
        {
            *types = one.clone();
        }
    });
    schema
}

/// The schema of what a type is written as.
pub(crate) fn of_answer<T: JsonSchema>() -> Value {
    told::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn told<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let settings = settings.with(|s| {
        s.meta_schema = None;
        s.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    each(&mut schema, &mut |schema| {
        // Names of Rust, and what a field is when it is left out: nothing that a client sends.
        for name in ["title", "default"] {
            if let Some(told) = schema.as_object_mut() {
                told.remove(name);
            }
        }
    });
    if let Some(body) = schema.as_object_mut() {
        // What is said of the type as a whole is for who reads the source.
        body.remove("description");
    }
    schema
}

/// Each schema within a schema, and itself.
fn each(schema: &mut Value, change: &mut impl FnMut(&mut Value)) {
    change(schema);
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(name).filter(|inner| inner.is_object()) {
            each(inner, change);
        }
    }
    for inner in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        each(inner.1, change);
    }
    for name in ["anyOf", "oneOf", "allOf"] {
        for inner in schema.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            each(inner, change);
        }
    }
}

/// For a body that changes what is there: nothing has to be in it.
pub(crate) fn nothing_required(schema: &mut Schema) {
    schema.remove("required");
}

/// Some fields less: what is read and passed over.
pub(crate) fn without(names: &'static [&'static str]) -> impl Fn(&mut Schema) {
    move |schema| {
        for name in names {
            if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
                properties.remove(*name);
            }
            if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
                required.retain(|required| required != name);
            }
        }
    }
}

/// What a field may say, of a type whose fields are shared by several places.
pub(crate) fn one_of(name: &'static str, allowed: &'static [&'static str]) -> impl Fn(&mut Schema) {
    move |schema| {
        if let Some(field) = schema.pointer_mut(&format!("/properties/{name}")) {
            field["enum"] = json!(allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Default, Deserialize, Serialize, JsonSchema)]
    #[serde(default, rename_all = "camelCase")]
    #[schemars(extend("required" = ["theName"]))]
    struct Outer {
        the_name: Option<String>,
        /// Told.
        flag: bool,
        #[schemars(extend("enum" = ["A", "B"]))]
        kind: Option<String>,
        #[schemars(range(min = 1, max = 9))]
        count: Option<i64>,
        tags: Option<BTreeMap<String, String>>,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
    }

    #[derive(Default, Deserialize, Serialize, JsonSchema)]
    struct Inner {
        title: Option<String>,
    }

    /// Not told.
    #[derive(Deserialize, JsonSchema)]
    #[serde(transparent)]
    #[schemars(transform = nothing_required)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Patch(Outer);

    #[test]
    fn what_is_read_is_told_without_nulls_and_names_of_rust() {
        let inner = json!({"type": "object", "properties": {"title": {"type": "string"}}});
        let mut wanted = json!({
            "type": "object",
            "properties": {
                "theName": {"type": "string"},
                "flag": {"type": "boolean", "description": "Told."},
                "kind": {"type": "string", "enum": ["A", "B"]},
                "count": {"type": "integer", "format": "int64", "minimum": 1, "maximum": 9},
                "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                "inner": inner,
                "list": {"type": "array", "items": inner},
            },
            "required": ["theName"],
        });
        assert_eq!(BodyType::read::<Outer>().schema(), wanted);
        wanted.as_object_mut().unwrap().remove("required");
        assert_eq!(BodyType::read::<Patch>().schema(), wanted);
    }

    #[test]
    fn what_is_written_is_told_with_its_nulls() {
        let schema = BodyType::written::<Inner>().schema();
        let title = json!({"type": ["string", "null"]});
        assert_eq!(schema, json!({"type": "object", "properties": {"title": title}, "required": ["title"]}));
    }
}
