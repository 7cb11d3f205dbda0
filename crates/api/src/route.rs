//! The route table: every operation there is, what it takes, what it needs, and who handles it.
//!
//! A table is plain data that can be walked ([`crate::Api::routes`]), so that a test can try every route as every kind of caller
//! and the OpenAPI document cannot leave one out. Literal segments match without regard to case, parameters keep the
//! caller's case, and of several patterns that match, the one with the earliest literal wins (`table.rs`).

use crate::ArmError;
use crate::http::{Request, Response};
use crate::schema::BodyType;
use http::Method;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::TypeId;
use std::ops::Index;
use thiserror::Error;

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: metadata, sign-in, the portal's files.
    Public,
    /// To be somebody. The handler itself shows each caller only what is theirs.
    Authenticated,
    /// This ARM action, over the scope that the path names.
    Action(&'static str),
}

/// A place in a body that names something, and what its caller must be allowed over that. Whatever a route's body can name has
/// to be declared: a handler gets no id that is not ([`crate::arm`] refuses it), and no body at all where the route takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The names on the way to it, with dots between them: `properties.storageAccountId`.
    pub field: &'static str,
    /// What its caller must be allowed.
    pub needs: Needs,
}

/// What is needed over something that a body names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The field holds an ARM id; one of these actions over it. The first is the one that a refusal tells.
    Id(&'static [&'static str]),
    /// The field holds the name of a resource group; one of these actions over it.
    Group(&'static [&'static str]),
    /// The field is an object whose members' names are ARM ids; one of these actions over each whose value is not null.
    Members(&'static [&'static str]),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

impl Needs {
    /// The actions, one of which is needed; none of what needs nothing.
    pub fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Id(actions) | Self::Group(actions) | Self::Members(actions) => actions,
            Self::Nothing(_) => &[],
        }
    }
}

/// What the path names, or its body repeats of it.
pub const OF_THE_PATH: Needs =
    Needs::Nothing("it repeats what the path names, and is refused if it does not");

/// One action of these is needed over this resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// One is enough; the first is the one that a refusal tells.
    pub actions: &'static [&'static str],
    /// An ARM id.
    pub scope: String,
}

/// What a request needs beside the action of its path and what its body names by id: for what follows from several fields, or
/// is named by a part of the path.
pub type Links<S> = fn(&S, &Request, &Params) -> Result<Vec<Link>, ArmError>;

/// A query parameter, for the OpenAPI document. `api-version` is implied wherever a caller must be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryParameter {
    /// As in the query: `$filter`.
    pub name: &'static str,
    /// For people.
    pub description: &'static str,
    /// Whether the operation is refused without it. Handlers see to that.
    pub required: bool,
}

impl QueryParameter {
    /// One that may be left out.
    pub const fn optional(name: &'static str, description: &'static str) -> Self {
        Self { name, description, required: false }
    }
}

/// The usual three of a list.
pub const FILTER: QueryParameter = QueryParameter::optional("$filter", "An OData filter.");
/// See [`FILTER`].
pub const TOP: QueryParameter = QueryParameter::optional("$top", "How many items a page holds at most.");
/// See [`FILTER`].
pub const SKIP_TOKEN: QueryParameter =
    QueryParameter::optional("$skipToken", "Where to go on, from the nextLink of the page before.");
/// See [`FILTER`].
pub const LIST: &[QueryParameter] = &[FILTER, TOP, SKIP_TOKEN];
/// Of a list that takes no filter: it refuses one.
pub const PAGED: &[QueryParameter] = &[TOP, SKIP_TOKEN];

/// Blocking; runs on a thread of its own. The path's parameters are in [`Params`].
pub type Handler<S> = fn(&S, &Request, &Params) -> Result<Response, ArmError>;

/// One operation.
pub struct Route<S> {
    /// The HTTP method.
    pub method: Method,
    /// `/literal/{parameter}/…`; the last segment may be `{rest*}`, which takes all that remains, at least one segment.
    pub pattern: &'static str,
    /// What a caller needs over what the path names.
    pub access: Access,
    /// Unique, as Azure's specifications name operations: `Vaults_Get`.
    pub operation_id: &'static str,
    /// One sentence for people, in the OpenAPI document.
    pub summary: &'static str,
    /// A group in the OpenAPI document.
    pub tag: &'static str,
    /// Names of schemas among the document's components.
    pub request_schema: Option<&'static str>,
    /// The schema of the first status of success. None: it has no body, or one of no known form.
    pub response_schema: Option<&'static str>,
    /// The type that its body is read into. None: it is read by hand, or there is none.
    pub request_type: Option<BodyType>,
    /// As `request_type`, of the answer.
    pub response_type: Option<BodyType>,
    /// Statuses of success, the first with the response's schema.
    pub success: &'static [u16],
    /// Those that it reads beside `api-version`.
    pub query: &'static [QueryParameter],
    /// Whether a request without `api-version` is refused, as Azure does. True unless the route is public.
    pub needs_api_version: bool,
    /// Whether a call that changes something is written to the audit by dispatch; sign-in writes its own rows.
    pub audited: bool,
    /// See [`by_row`](Self::by_row).
    pub by_row: bool,
    /// See [`names`](Self::names).
    pub names: &'static [Named],
    /// See [`also_needs`](Self::also_needs).
    pub also: Option<(&'static str, Links<S>)>,
    pub(crate) handler: Action<S>,
}

/// Who answers.
pub(crate) enum Action<S> {
    Handler(Handler<S>),
    /// The OpenAPI document, which no handler knows.
    Document,
}

impl<S> Route<S> {
    /// An operation for anybody who is signed in, with Azure's usual rest: 200 is success, `api-version` is needed, changes are
    /// audited.
    pub fn new(
        method: Method,
        pattern: &'static str,
        operation_id: &'static str,
        handler: Handler<S>,
    ) -> Self {
        Self::with(method, pattern, operation_id, Action::Handler(handler))
    }

    pub(crate) fn with(
        method: Method,
        pattern: &'static str,
        operation_id: &'static str,
        handler: Action<S>,
    ) -> Self {
        Self {
            method,
            pattern,
            access: Access::Authenticated,
            operation_id,
            summary: "",
            tag: "",
            request_schema: None,
            response_schema: None,
            request_type: None,
            response_type: None,
            success: &[200],
            query: &[],
            needs_api_version: true,
            audited: true,
            by_row: false,
            names: &[],
            also: None,
            handler,
        }
    }

    /// [`Route::new`] with GET.
    pub fn get(pattern: &'static str, operation_id: &'static str, handler: Handler<S>) -> Self {
        Self::new(Method::GET, pattern, operation_id, handler)
    }

    /// [`Route::new`] with PUT.
    pub fn put(pattern: &'static str, operation_id: &'static str, handler: Handler<S>) -> Self {
        Self::new(Method::PUT, pattern, operation_id, handler)
    }

    /// [`Route::new`] with POST.
    pub fn post(pattern: &'static str, operation_id: &'static str, handler: Handler<S>) -> Self {
        Self::new(Method::POST, pattern, operation_id, handler)
    }

    /// [`Route::new`] with PATCH.
    pub fn patch(pattern: &'static str, operation_id: &'static str, handler: Handler<S>) -> Self {
        Self::new(Method::PATCH, pattern, operation_id, handler)
    }

    /// [`Route::new`] with DELETE.
    pub fn delete(pattern: &'static str, operation_id: &'static str, handler: Handler<S>) -> Self {
        Self::new(Method::DELETE, pattern, operation_id, handler)
    }

    /// For anybody, also without `api-version`.
    pub fn public(mut self) -> Self {
        self.access = Access::Public;
        self.needs_api_version = false;
        self
    }

    /// What is needed over what the path names, such as `Microsoft.RecoveryServices/Vaults/read`.
    pub fn action(mut self, action: &'static str) -> Self {
        self.access = Access::Action(action);
        self
    }

    /// One sentence for people, in the OpenAPI document.
    pub fn summary(mut self, text: &'static str) -> Self {
        self.summary = text;
        self
    }

    /// The group in the OpenAPI document.
    pub fn tag(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    /// A body of this type. The handler can read it into no other.
    pub fn reads<T: DeserializeOwned + JsonSchema + 'static>(mut self, schema: &'static str) -> Self {
        self.request_type = Some(BodyType::read::<T>());
        self.takes(schema)
    }

    /// An answer of this type.
    pub fn shows<T: Serialize + JsonSchema + 'static>(mut self, schema: &'static str) -> Self {
        self.response_type = Some(BodyType::written::<T>());
        self.answers(schema)
    }

    /// A body that is read by hand, out of JSON: its schema is among the document's components.
    pub fn takes(mut self, schema: &'static str) -> Self {
        self.request_schema = Some(schema);
        self
    }

    /// An answer that is put together by hand.
    pub fn answers(mut self, schema: &'static str) -> Self {
        self.response_schema = Some(schema);
        self
    }

    /// The statuses of success, the first with the answer's schema.
    pub fn success(mut self, statuses: &'static [u16]) -> Self {
        self.success = statuses;
        self
    }

    /// The query parameters that it reads beside `api-version`.
    pub fn query(mut self, parameters: &'static [QueryParameter]) -> Self {
        self.query = parameters;
        self
    }

    /// Also without `api-version`, for clients that send none there.
    pub fn any_api_version_or_none(mut self) -> Self {
        self.needs_api_version = false;
        self
    }

    /// A list over a subscription or group: a caller without the action over all of it gets the rows that it has the
    /// action over, and is refused where there are none.
    pub fn by_row(mut self) -> Self {
        self.by_row = true;
        self
    }

    /// What the body can name, and what is needed over it.
    pub fn names(mut self, names: &'static [Named]) -> Self {
        self.names = names;
        self
    }

    /// What is needed beside: in words, and how it is found out.
    pub fn also_needs(mut self, words: &'static str, links: Links<S>) -> Self {
        self.also = Some((words, links));
        self
    }

    /// Its calls are not written to the audit by dispatch: it does so itself, or changes nothing although its method says so.
    pub(crate) fn unaudited(mut self) -> Self {
        self.audited = false;
        self
    }

    /// Whether a call may change something.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }

    /// What handlers read the body into.
    pub(crate) fn body_type(&self) -> Option<TypeId> {
        let by_hand = self.request_schema.map(|_| TypeId::of::<Value>());
        self.request_type.map(|body| body.id).or(by_hand)
    }

    /// Schemas that come from types, by name.
    pub(crate) fn schemas(&self) -> impl Iterator<Item = (&'static str, BodyType)> + use<S> {
        [self.request_schema.zip(self.request_type), self.response_schema.zip(self.response_type)]
            .into_iter()
            .flatten()
    }

    /// The pattern's segments: literals, and parameters in braces.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + use<S> {
        self.pattern.split('/').filter(|s| !s.is_empty()).map(Segment::of)
    }

    /// What the body names: what is needed over it, and all ids as they are written.
    pub(crate) fn named(
        &self,
        request: &Request,
        params: &Params,
    ) -> Result<(Vec<Link>, Vec<String>), ArmError> {
        let (mut links, mut ids) = (Vec::new(), Vec::new());
        if self.names.is_empty() || request.body.iter().all(u8::is_ascii_whitespace) {
            return Ok((links, ids));
        }
        let body: Value = request.parse()?;
        for Named { field, needs } in self.names {
            let Some(value) = at(&body, field)? else { continue };
            let texts: Vec<&str> = match (needs, value) {
                (Needs::Members(_), Value::Object(members)) => {
                    members.iter().filter(|(_, value)| !value.is_null()).map(|(id, _)| id.as_str()).collect()
                }
                (_, Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
                (_, value) => value.as_str().into_iter().collect(),
            };
            for text in texts {
                ids.push(text.to_owned());
                if text.is_empty() {
                    continue;
                }
                let scope = match needs {
                    Needs::Nothing(_) => continue,
                    Needs::Group(_) => {
                        let subscription = params.get("subscription").unwrap_or_default();
                        format!("/subscriptions/{subscription}/resourceGroups/{text}")
                    }
                    // What cannot be an id names nothing: the handler says so.
                    Needs::Id(_) | Needs::Members(_) if !text.starts_with('/') => continue,
                    Needs::Id(_) | Needs::Members(_) => text.to_owned(),
                };
                links.push(Link { actions: needs.actions(), scope });
            }
        }
        Ok((links, ids))
    }

    /// The ARM id that authorisation is asked for: the path up to its last whole type and name, so without the collection
    /// or the verb that a path may end in.
    pub fn scope(&self, path: &[String]) -> String {
        let mut end = 0;
        let mut in_provider = false;
        let mut at = 0;
        while at + 1 < path.len() {
            if !in_provider && path[at].eq_ignore_ascii_case("providers") {
                in_provider = true;
                // The namespace by itself is no resource: what counts are the pairs after it.
                at += 2;
                continue;
            }
            at += 2;
            end = at;
        }
        let kept = &path[..end.min(path.len())];
        if kept.is_empty() {
            return String::from("/");
        }
        kept.iter().fold(String::new(), |out, segment| out + "/" + segment)
    }
}

impl<S> std::fmt::Debug for Route<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.pattern, self.operation_id)
    }
}

/// What a body has at a place; none for null.
fn at<'a>(body: &'a Value, field: &str) -> Result<Option<&'a Value>, ArmError> {
    let mut here = body;
    for name in field.split('.') {
        // Into a struct serde takes an array as well, field by field: then the names would say nothing.
        let Value::Object(members) = here else {
            return Err(ArmError::invalid_content(format!("what holds '{name}' is not an object")));
        };
        match members.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => here = value,
        }
    }
    Ok(Some(here))
}

/// A segment of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(&'static str),
    Parameter(&'static str),
    Rest(&'static str),
}

impl Segment {
    fn of(text: &'static str) -> Self {
        match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            None => Self::Literal(text),
            Some(name) => match name.strip_suffix('*') {
                None => Self::Parameter(name),
                Some(name) => Self::Rest(name),
            },
        }
    }
}

/// What a path's parameters are, by name.
///
/// ```
/// # use strongroom_api::Params;
/// let params = Params::from([("vault", "V1")]);
/// assert_eq!(&params["vault"], "V1");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    pub(crate) fn of(pairs: Vec<(&'static str, String)>) -> Self {
        Self(pairs)
    }

    /// What the path has in its place, decoded. None: the route's pattern has no such parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// All of them, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

impl<const N: usize> From<[(&'static str, &str); N]> for Params {
    fn from(pairs: [(&'static str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
    }
}

/// Panics if the route's pattern has no such parameter: a mistake in the table, never in a request.
impl Index<&str> for Params {
    type Output = str;

    fn index(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("the route's pattern has no parameter {{{name}}}"))
    }
}

/// What is wrong with a table. Found when the service starts, whatever requests come.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    /// The pattern.
    #[error("the pattern {0} is malformed")]
    Pattern(&'static str),
    /// The two, each with method, pattern and operation.
    #[error("{0} and {1} match the same requests")]
    Duplicate(String, String),
    /// The operation's id.
    #[error("the operation {0} is there twice")]
    OperationTwice(&'static str),
    /// It would dangle in the OpenAPI document.
    #[error("{route} names the schema {schema}, which is not among the components")]
    UnknownSchema {
        /// With method, pattern and operation.
        route: String,
        /// Its name.
        schema: &'static str,
    },
    /// Two types under one name.
    #[error("{route} has another schema {schema} than there is already")]
    SchemaTwice {
        /// The later one, with method, pattern and operation.
        route: String,
        /// Its name.
        schema: &'static str,
    },
}
