//! The way of a request through the API: route, caller, api-version, permission, handler, audit.

use crate::auth::{AuditEvent, Caller, Gate, Refusals, Whose};
use crate::http::{Client, Request, Response, Rows};
use crate::odata::Pager;
use crate::openapi;
use crate::route::{Access, Action, Link, Params, Route, RouteError};
use crate::table::{Found, Table};
use crate::{ArmError, limits};
use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use strongroom_catalog::actor;
use uuid::Uuid;

/// Answers requests; what the server calls. Blocks.
pub trait Dispatch: Send + Sync + 'static {
    /// Looks at a request whose body is still to come: whether it is worth reading, and how much of it.
    fn admit(&self, request: &mut Request) -> Admission;

    /// Answers a request that is there as a whole. Asks everything again that `admit` has asked: a body takes its time.
    fn dispatch(&self, request: Request) -> Response;

    /// Called once a minute, and at the end.
    fn tick(&self, _is_last: bool) {}
}

/// What is done about a body.
#[derive(Debug)]
pub enum Admission {
    /// The request is answered already; its body is not wanted.
    Refused(Box<Response>),
    /// Anybody may send one, so it has to be small.
    Small,
    /// This caller may do what it asks for.
    Authorised {
        /// Their object id, by which bodies are counted.
        caller: Uuid,
    },
}

/// Where the present time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// All operations over one state, behind one gate.
pub struct Api<S> {
    state: Arc<S>,
    gate: Arc<dyn Gate>,
    table: Table<S>,
    pager: Arc<Pager>,
    clock: Clock,
    document: Bytes,
    refusals: Refusals,
}

/// Puts an [`Api`] together.
pub struct ApiBuilder<S> {
    state: Arc<S>,
    gate: Arc<dyn Gate>,
    routes: Vec<Route<S>>,
    schemas: Map<String, Value>,
    page_key: Option<[u8; 32]>,
    clock: Clock,
}

impl<S> ApiBuilder<S> {
    /// Adds routes.
    pub fn routes(mut self, routes: impl IntoIterator<Item = Route<S>>) -> Self {
        self.routes.extend(routes);
        self
    }

    /// Adds JSON schemas, by name, for the OpenAPI document.
    pub fn schemas(mut self, schemas: Map<String, Value>) -> Self {
        self.schemas.extend(schemas);
        self
    }

    /// The key for page tokens, so that a `nextLink` outlives a restart. Random if not given.
    pub fn page_key(mut self, key: [u8; 32]) -> Self {
        self.page_key = Some(key);
        self
    }

    /// Another clock than the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the table.
    pub fn build(self) -> Result<Api<S>, RouteError> {
        let mut routes = self.routes;
        let document = Route::with(Method::GET, "/openapi.json", "OpenApi_Get", Action::Document)
            .public()
            .tag("Service");
        routes.push(document.summary("This document: every operation of this server, as OpenAPI."));
        let table = Table::new(routes)?;
        let document = openapi::document(table.routes(), self.schemas)?;
        let key = self.page_key.unwrap_or_else(|| {
            let mut key = [0; 32];
            // Without it, links of an earlier run and of this one could not be told apart from forged ones; with
            // zeros they merely could be forged, which opens no door (a cursor is no permission).
            if SystemRandom::new().fill(&mut key).is_err() {
                tracing::error!("the system has no random numbers");
            }
            key
        });
        Ok(Api {
            state: self.state,
            gate: self.gate,
            table,
            pager: Arc::new(Pager::new(&key)),
            clock: self.clock,
            document: Bytes::from(document.to_string()),
            refusals: Refusals::default(),
        })
    }
}

impl<S: Send + Sync + 'static> Api<S> {
    /// `gate` is asked who a caller is and what they may. Routes, schemas and the rest are given to the builder.
    pub fn builder(state: Arc<S>, gate: Arc<dyn Gate>) -> ApiBuilder<S> {
        let clock: Clock = Arc::new(Timestamp::now);
        ApiBuilder { state, gate, routes: Vec::new(), schemas: Map::new(), page_key: None, clock }
    }

    /// Every route there is.
    pub fn routes(&self) -> &[Route<S>] {
        self.table.routes()
    }

    /// What handlers are given.
    pub fn state(&self) -> &Arc<S> {
        &self.state
    }

    /// Answers a request. Blocks as long as its handler does. Never panics: a handler that does is answered for with
    /// 500.
    pub fn dispatch(&self, mut request: Request) -> Response {
        request.now = (self.clock)();
        request.pager = Some(self.pager.clone());
        let found = self.table.find(&request.method, &request.path);
        let (outcome, changed) =
            actor::of_request(|| self.guarded(&mut request, |request| self.answer(&found, request)));
        self.finish(&found, request, outcome, changed)
    }

    /// What of a request can be said before its body is there: who asks, and whether they may do this at all. What the body
    /// names besides is for the handler to ask about.
    fn admit(&self, request: &mut Request) -> Admission {
        request.now = (self.clock)();
        let found = self.table.find(&request.method, &request.path);
        match self.guarded(request, |request| self.before_body(&found, request)) {
            Ok(admission) => admission,
            refusal @ Err(_) => {
                let refusal = refusal.map(|_| Response::empty(StatusCode::OK));
                Admission::Refused(Box::new(self.finish(&found, request.clone(), refusal, Vec::new())))
            }
        }
    }

    fn before_body(&self, found: &Found<'_, S>, request: &mut Request) -> Result<Admission, ArmError> {
        let route = match found {
            Found::Route(route, _) => route,
            Found::OtherMethods { .. } | Found::Nothing => {
                return self.answer(found, request).map(|answer| Admission::Refused(Box::new(answer)));
            }
        };
        if route.access == Access::Public {
            return Ok(Admission::Small);
        }
        self.known(request)?;
        if route.needs_api_version {
            check_api_version(request)?;
        }
        match route.access {
            Access::Action(action) if route.is_write() => {
                let scope = route.scope(&request.path);
                if !self.gate.allowed(&request.caller, action, &scope)? {
                    return Err(request.caller.refused(action, &scope));
                }
                Ok(Admission::Authorised { caller: request.caller.object_id })
            }
            _ => Ok(Admission::Small),
        }
    }

    fn guarded<T>(
        &self,
        request: &mut Request,
        work: impl FnOnce(&mut Request) -> Result<T, ArmError>,
    ) -> Result<T, ArmError> {
        catch_unwind(AssertUnwindSafe(|| work(request))).unwrap_or_else(|panic| {
            let panic = panic_text(panic.as_ref());
            tracing::error!(request_id = %request.request_id, path = request.path_text(), panic, "a handler panicked");
            Err(ArmError::internal(request.request_id))
        })
    }

    fn finish(
        &self,
        found: &Found<'_, S>,
        request: Request,
        outcome: Result<Response, ArmError>,
        changed: Vec<String>,
    ) -> Response {
        let route = match found {
            Found::Route(route, _) => Some(*route),
            Found::OtherMethods { .. } | Found::Nothing => None,
        };
        let mut response = outcome.unwrap_or_else(Response::from);
        if response.status.is_server_error() {
            let code = response.error_code.as_deref().unwrap_or_default();
            tracing::warn!(target: crate::ANSWERS, request_id = %request.request_id, path = request.path_text(), code, "a request failed");
        }
        response.complete(Some(&request));
        // The audit writes to a database: what goes wrong there must not cost the answer either.
        if catch_unwind(AssertUnwindSafe(|| self.audit(&request, route, &response, changed))).is_err() {
            tracing::error!(request_id = %request.request_id, "the audit panicked");
        }
        response
    }

    fn answer(&self, found: &Found<'_, S>, request: &mut Request) -> Result<Response, ArmError> {
        match found {
            Found::Route(route, params) => self.run(route, params, request),
            Found::OtherMethods { allow, public } => {
                if !public {
                    self.known(request)?;
                }
                Err(ArmError::method_not_allowed(&request.method, allow))
            }
            // What there is and what not is for those who signed in.
            Found::Nothing => {
                self.known(request)?;
                Err(self.nothing_there(request))
            }
        }
    }

    fn run(&self, route: &Route<S>, params: &Params, request: &mut Request) -> Result<Response, ArmError> {
        if route.access != Access::Public {
            self.known(request)?;
        }
        if route.needs_api_version {
            check_api_version(request)?;
        }
        if route.access != Access::Public && route.request_schema.is_none() {
            // What a body may name is declared beside the route; a route that declares no body gets none.
            request.body = Bytes::new();
        }
        request.body_type = route.body_type();
        check_filter(route, request)?;
        if let Access::Action(action) = route.access {
            let scope = route.scope(&request.path);
            if !self.gate.allowed(&request.caller, action, &scope)? {
                let refused = request.caller.refused(action, &scope);
                return match (route.by_row, &route.handler) {
                    (true, Action::Handler(list)) => {
                        request.rows = Some(Rows { gate: self.gate.clone(), action });
                        let listed = list(&self.state, request, params)?;
                        self.readable_rows(listed, request, action)?.ok_or(refused)
                    }
                    _ => Err(refused),
                };
            }
        }
        self.check_linked(route, params, request)?;
        match route.handler {
            Action::Handler(handler) => handler(&self.state, request, params),
            Action::Document => Ok(Response::bytes("application/json; charset=utf-8", self.document.clone())),
        }
    }

    /// Whether the caller has what is needed over all that the request names beside its path.
    fn check_linked(&self, route: &Route<S>, params: &Params, request: &mut Request) -> Result<(), ArmError> {
        let (named, ids) = route.named(request, params)?;
        request.named = ids;
        self.check_links(route, request, named)?;
        match route.also {
            Some((_, also)) => {
                let links = also(&self.state, request, params)?;
                self.check_links(route, request, links)
            }
            None => Ok(()),
        }
    }

    fn check_links(&self, route: &Route<S>, request: &mut Request, links: Vec<Link>) -> Result<(), ArmError> {
        for Link { actions, scope } in links {
            let mut allowed = false;
            for action in actions {
                allowed = allowed || self.gate.allowed(&request.caller, action, &scope)?;
            }
            let Some(wanted) = actions.first().filter(|_| !allowed) else { continue };
            let own = match route.access {
                Access::Action(action) => action,
                Access::Authenticated | Access::Public => "",
            };
            let refused = request.caller.refused_linked((own, &route.scope(&request.path)), (wanted, &scope));
            request.lacks = Some(((*wanted).to_owned(), scope));
            return Err(refused);
        }
        Ok(())
    }

    /// What of a list the caller has `action` over. None if that is nothing, and there is no other page.
    fn readable_rows(
        &self,
        listed: Response,
        request: &Request,
        action: &str,
    ) -> Result<Option<Response>, ArmError> {
        let mut body = listed.json_body().unwrap_or_default();
        let next_link = body.get("nextLink").and_then(Value::as_str).map(str::to_owned);
        let Some(Value::Array(rows)) = body.get_mut("value").map(Value::take) else { return Ok(None) };
        let mut readable = Vec::new();
        for row in rows {
            let Some(id) = row.get("id").and_then(Value::as_str) else { continue };
            if self.gate.allowed(&request.caller, action, id)? {
                readable.push(row);
            }
        }
        if readable.is_empty() && next_link.is_none() {
            return Ok(None);
        }
        Ok(Some(Response::list(readable, next_link.as_deref())))
    }

    /// Finds out who asks.
    fn known(&self, request: &mut Request) -> Result<(), ArmError> {
        request.caller = self.gate.authenticate(&request.credentials, request.now)?;
        Ok(())
    }

    /// What Azure's front door says of a path that it knows nothing under.
    fn nothing_there(&self, request: &Request) -> ArmError {
        let path = &request.path;
        let begins = path
            .first()
            .is_some_and(|s| s.eq_ignore_ascii_case("subscriptions") || s.eq_ignore_ascii_case("providers"));
        let providers = path.iter().position(|s| s.eq_ignore_ascii_case("providers")).filter(|_| begins);
        let Some(namespace) = providers.and_then(|at| path.get(at + 1)) else {
            return ArmError::missing_subscription();
        };
        if !self.table.has_namespace(namespace) {
            return ArmError::invalid_resource_namespace(namespace);
        }
        // Not 404: whoever reads what is not there takes that for nothing.
        ArmError::not_available_here(&path[providers.unwrap_or(0) + 2..].join("/"), namespace)
    }

    fn audit(&self, request: &Request, route: Option<&Route<S>>, response: &Response, changed: Vec<String>) {
        self.tell_what_was_left_out(request.now, false);
        let refused = matches!(response.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        // What needs no action changes nothing, whatever its method.
        let changes =
            route.is_some_and(|r| r.is_write() && r.audited && matches!(r.access, Access::Action(_)));
        let refused_here = refused && route.is_none_or(|r| r.audited);
        if !changes && !refused_here && changed.is_empty() {
            return;
        }
        let action = match route.map(|r| r.access) {
            Some(Access::Action(action)) => action,
            _ => "",
        };
        let scope = route.map_or_else(|| request.path_text(), |r| r.scope(&request.path));
        let event = audit_event(request, &request.caller, response.status, response.error_code.as_deref());
        // Of a refusal for what the request names beside its path: that.
        let (action, scope) = request.lacks.clone().unwrap_or((action.to_owned(), scope));
        let event = AuditEvent {
            operation: route.map_or("", |r| r.operation_id).to_owned(),
            action,
            scope,
            detail: changed.join("; "),
            ..event
        };
        let event = event.bounded();
        // What was refused, for whatever reason, changed nothing, and who has no rights can ask for it without end.
        let is_told = match response.status.is_client_error() && event.detail.is_empty() {
            true => self.refusals.admit(Whose::of(request), event),
            false => Some(event),
        };
        if let Some(event) = is_told {
            self.gate.audit(&event);
        }
    }

    fn tell_what_was_left_out(&self, now: Timestamp, all: bool) {
        for event in self.refusals.due(now, all) {
            self.gate.audit(&event);
        }
    }
}

impl<S: Send + Sync + 'static> Dispatch for Api<S> {
    fn admit(&self, request: &mut Request) -> Admission {
        Self::admit(self, request)
    }

    fn dispatch(&self, request: Request) -> Response {
        Self::dispatch(self, request)
    }

    fn tick(&self, is_last: bool) {
        let now = (self.clock)();
        self.tell_what_was_left_out(now, is_last);
        self.gate.tick(now, is_last);
    }
}

/// A row of the audit for a request, without operation, action and scope.
pub(crate) fn audit_event(
    request: &Request,
    caller: &Caller,
    status: StatusCode,
    code: Option<&str>,
) -> AuditEvent {
    AuditEvent {
        at: request.now,
        request_id: request.request_id,
        correlation_id: request.correlation_id,
        caller_kind: caller.kind,
        caller_object_id: caller.object_id,
        caller_name: caller.name.clone(),
        client: match request.client {
            Client::Address(address) => address.to_string(),
            other => other.to_string(),
        },
        operation: String::new(),
        action: String::new(),
        scope: String::new(),
        method: request.method.to_string(),
        status: status.as_u16(),
        code: code.unwrap_or_default().to_owned(),
        left_out: 0,
        detail: String::new(),
    }
}

/// A filter where none is taken would be passed over, and what comes taken for what it lets through.
fn check_filter<S>(route: &Route<S>, request: &Request) -> Result<(), ArmError> {
    match request.query.get("$filter").map(str::trim) {
        Some(text) if !text.is_empty() && !route.query.contains(&crate::route::FILTER) => {
            Err(ArmError::invalid_filter(text, "what this path answers cannot be filtered"))
        }
        _ => Ok(()),
    }
}

fn check_api_version(request: &Request) -> Result<(), ArmError> {
    let version = request.api_version();
    if version.is_empty() {
        return Err(ArmError::missing_api_version());
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if version.len() > limits::API_VERSION_MAX_BYTES || !version.bytes().all(legal) {
        return Err(ArmError::invalid_api_version(version));
    }
    Ok(())
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of an unknown kind")
}
