//! Finding the route of a request, and whether a table of routes is right.

use crate::limits;
use crate::route::{Access, Params, Route, RouteError, Segment};
use http::Method;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// All routes, findable.
pub(crate) struct Table<S> {
    routes: Vec<Route<S>>,
    root: Node,
    /// Provider namespaces that some pattern names, in lower case.
    namespaces: BTreeSet<String>,
}

#[derive(Default)]
struct Node {
    literals: HashMap<String, Node>,
    parameter: Option<Box<Node>>,
    /// By method; indices into the table.
    here: BTreeMap<String, usize>,
    rest: BTreeMap<String, usize>,
}

/// What a path leads to.
pub(crate) enum Found<'a, S> {
    Route(&'a Route<S>, Params),
    /// The path exists; these methods do. Public if all its routes are.
    OtherMethods {
        allow: String,
        public: bool,
    },
    Nothing,
}

impl<S> Table<S> {
    pub(crate) fn new(routes: Vec<Route<S>>) -> Result<Self, RouteError> {
        let mut table = Self { routes: Vec::new(), root: Node::default(), namespaces: BTreeSet::new() };
        let mut operations = HashSet::new();
        for (index, route) in routes.iter().enumerate() {
            if !operations.insert(route.operation_id) {
                return Err(RouteError::OperationTwice(route.operation_id));
            }
            table.insert(route, index, &routes)?;
        }
        table.routes = routes;
        Ok(table)
    }

    fn insert(&mut self, route: &Route<S>, index: usize, routes: &[Route<S>]) -> Result<(), RouteError> {
        let malformed = || RouteError::Pattern(route.pattern);
        if !route.pattern.starts_with('/') || route.segments().count() > limits::PATH_SEGMENTS_MAX {
            return Err(malformed());
        }
        let mut names = HashSet::new();
        let mut node = &mut self.root;
        let mut rest = false;
        let mut after_providers = false;
        for segment in route.segments() {
            if rest {
                return Err(malformed());
            }
            match segment {
                Segment::Literal(text) => {
                    if text.is_empty() || text.contains(['{', '}', '*', '%']) {
                        return Err(malformed());
                    }
                    let lower = text.to_lowercase();
                    if after_providers {
                        self.namespaces.insert(lower.clone());
                    }
                    after_providers = lower == "providers";
                    node = node.literals.entry(lower).or_default();
                }
                Segment::Parameter(name) | Segment::Rest(name) => {
                    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                    if name.is_empty() || !name.bytes().all(legal) || !names.insert(name) {
                        return Err(malformed());
                    }
                    after_providers = false;
                    match segment {
                        Segment::Rest(_) => rest = true,
                        _ => node = node.parameter.get_or_insert_default(),
                    }
                }
            }
        }
        let leaf = if rest { &mut node.rest } else { &mut node.here };
        match leaf.insert(route.method.to_string(), index) {
            None => Ok(()),
            Some(other) => Err(RouteError::Duplicate(format!("{:?}", routes[other]), format!("{route:?}"))),
        }
    }

    pub(crate) fn routes(&self) -> &[Route<S>] {
        &self.routes
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(&namespace.to_lowercase())
    }

    pub(crate) fn find(&self, method: &Method, path: &[String]) -> Found<'_, S> {
        let lower: Vec<String> = path.iter().map(|s| s.to_lowercase()).collect();
        let mut allow = BTreeSet::new();
        let mut public = true;
        // HEAD is answered by GET's handler where it has none of its own; the body is left out when it is sent.
        let found = self.root.find(&lower, method.as_str(), &mut |here| {
            for (name, index) in here {
                allow.insert(name.clone());
                public &= self.routes[*index].access == Access::Public;
            }
        });
        match found {
            Some(index) => {
                let route = &self.routes[index];
                Found::Route(route, capture(route, path))
            }
            None if allow.is_empty() => Found::Nothing,
            None => {
                if allow.contains("GET") {
                    allow.insert(String::from("HEAD"));
                }
                Found::OtherMethods { allow: Vec::from_iter(allow).join(", "), public }
            }
        }
    }
}

impl Node {
    /// The route for a path and a method; `miss` is told of each place that matches the path without the method.
    fn find(
        &self,
        path: &[String],
        method: &str,
        miss: &mut impl FnMut(&BTreeMap<String, usize>),
    ) -> Option<usize> {
        let pick = |here: &BTreeMap<String, usize>| {
            here.get(method).or_else(|| if method == "HEAD" { here.get("GET") } else { None }).copied()
        };
        let at = |here: &BTreeMap<String, usize>, miss: &mut dyn FnMut(&BTreeMap<String, usize>)| {
            let found = pick(here);
            if found.is_none() && !here.is_empty() {
                miss(here);
            }
            found
        };
        let Some((first, rest)) = path.split_first() else { return at(&self.here, miss) };
        // Patterns share prefixes, so this comes back to a place only where a literal stands beside a parameter.
        if let Some(found) = self.literals.get(first).and_then(|node| node.find(rest, method, miss)) {
            return Some(found);
        }
        if let Some(found) = self.parameter.as_ref().and_then(|node| node.find(rest, method, miss)) {
            return Some(found);
        }
        at(&self.rest, miss)
    }
}

fn capture<S>(route: &Route<S>, path: &[String]) -> Params {
    let mut out = Vec::new();
    for (at, segment) in route.segments().enumerate() {
        match segment {
            Segment::Literal(_) => {}
            Segment::Parameter(name) => out.push((name, path[at].clone())),
            Segment::Rest(name) => out.push((name, path[at..].join("/"))),
        }
    }
    Params::of(out)
}
