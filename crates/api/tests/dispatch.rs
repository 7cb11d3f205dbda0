//! The way of a request through table, gate, handler and audit.

mod common;

use common::*;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use strongroom_api::auth::CallerKind;
use strongroom_api::{Access, Api, ArmError, Client, Request, Response, Route, RouteError};

const V: &str = "api-version=2026-08-01";

fn get(api: &Api<App>, target: &str, token: Option<&str>) -> Response {
    api.dispatch(request(Method::GET, target, token))
}

#[test]
fn paths_match_without_case_and_parameters_keep_theirs() {
    let (api, _) = api();
    let target = format!(
        "//SUBSCRIPTIONS/{SUBSCRIPTION}/resourcegroups/My-RG//PROVIDERS/microsoft.recoveryservices/Vaults/VauLt%3Bx?Api-Version=a.b-1"
    );
    let answer = get(&api, &target, Some("reader"));
    assert_eq!(answer.status, StatusCode::OK);
    let body = answer.json_body().unwrap();
    assert_eq!(body["params"], json!({ "subscription": SUBSCRIPTION, "group": "My-RG", "vault": "VauLt;x" }));
    assert_eq!((body["caller"].as_str(), body["apiVersion"].as_str()), (Some("reader"), Some("a.b-1")));

    let rest = get(&api, "/portal/a/B%20c/d", None);
    assert_eq!(rest.json_body().unwrap()["params"]["rest"], "a/B c/d");
    assert_eq!(get(&api, "/portal", Some("owner")).status, StatusCode::NOT_FOUND);
    // A literal wins over a parameter, also when the parameter's branch is the longer one.
    assert!(
        get(&api, &format!("{}?{V}", vault("SPECIAL")), Some("reader")).json_body().unwrap()["value"]
            .is_array()
    );
    assert_eq!(
        api.dispatch(request(Method::POST, &format!("{}/start?{V}", vault("special")), Some("owner"))).status,
        202
    );
    assert_eq!(
        api.dispatch(request(Method::PUT, &format!("{}?{V}", vault("special")), Some("owner"))).status,
        400
    );
}

#[test]
fn who_is_not_known_learns_nothing_of_what_exists() {
    let (api, gate) = api();
    for target in
        [vault("v1"), format!("{}?{V}", vault("v1")), "/subscriptions/x/nonsense".into(), "/x".into()]
    {
        for token in [None, Some("forged")] {
            let answer = get(&api, &target, token);
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{target}");
            assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "));
        }
    }
    let answer = api.dispatch(request(Method::PATCH, &vault("v1"), None));
    assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::UNAUTHORIZED, "AuthenticationFailed"));
    let events = gate.events.lock().unwrap();
    assert_eq!(events.len(), 9);
    assert!(events.iter().all(|e| e.status == 401 && e.caller_kind == CallerKind::Anonymous));
}

#[test]
fn a_flood_of_bad_tokens_does_not_fill_the_audit() {
    let (api, gate) = api();
    for _ in 0..1000 {
        get(&api, "/subscriptions", Some("forged"));
    }
    let written = gate.events.lock().unwrap().len();
    assert_eq!(written, strongroom_api::limits::REFUSALS_BURST as usize);
}

#[test]
fn what_is_not_there_is_said_as_azure_does() {
    let (api, _) = api();
    let cases = [
        ("/nothing", "MissingSubscription"),
        (
            &format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Foo/bars?{V}"),
            "InvalidResourceNamespace",
        ),
    ];
    // Of a provider that is here Azure may have it: no 404, which would be read as that there is nothing.
    for target in
        [format!("/providers/Microsoft.RecoveryServices/foo?{V}"), format!("{}/what/ever?{V}", vault("v"))]
    {
        let answer = get(&api, &target, Some("reader"));
        let wanted = (StatusCode::BAD_REQUEST, "UserErrorFeatureNotSupportedOnThisServer");
        assert_eq!((answer.status, code(&answer).as_str()), wanted, "{target}");
        assert!(answer.json_body().unwrap().to_string().contains("not available on this server"));
    }
    for (target, wanted) in cases {
        let answer = get(&api, target, Some("reader"));
        assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::NOT_FOUND, wanted), "{target}");
        assert_eq!(answer.headers["x-ms-failure-cause"], "gateway");
    }
    let answer = api.dispatch(request(Method::PATCH, &format!("{}?{V}", vault("v1")), Some("owner")));
    assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"));
    assert_eq!(answer.headers["allow"], "DELETE, GET, HEAD, PUT");
    assert_eq!(api.dispatch(request(Method::POST, "/public", None)).status, StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn an_api_version_is_asked_for_and_any_will_do() {
    let (api, _) = api();
    for (query, wanted) in [
        ("", "MissingApiVersionParameter"),
        ("?api-version=", "MissingApiVersionParameter"),
        ("?api-version=a%20b", "InvalidApiVersionParameter"),
        ("?api-version=%22x", "InvalidApiVersionParameter"),
    ] {
        let answer = get(&api, &format!("{}{query}", vault("v1")), Some("reader"));
        assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::BAD_REQUEST, wanted));
    }
    assert_eq!(get(&api, "/public", None).status, 200);
    assert_eq!(
        get(&api, &format!("{}?api-version=1999-01-01-preview", vault("v1")), Some("reader")).status,
        200
    );
}

#[test]
fn refusals_name_action_and_scope_and_are_remembered() {
    let (api, gate) = api();
    let answer = api.dispatch(request(Method::PUT, &format!("{}?{V}", vault("V1")), Some("reader")));
    assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::FORBIDDEN, "AuthorizationFailed"));
    let message = answer.json_body().unwrap()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("'Microsoft.RecoveryServices/Vaults/write'"), "{message}");
    assert!(message.contains(&format!("over scope '{}'", vault("V1"))), "{message}");
    let events = gate.events.lock().unwrap();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(
        (event.status, event.operation.as_str(), event.caller_name.as_str()),
        (403, "Vaults_Put", "reader")
    );
    assert_eq!((event.scope.as_str(), event.code.as_str()), (vault("V1").as_str(), "AuthorizationFailed"));
    assert_eq!(event.client, "192.0.2.1");
}

/// The walk that the whole service's table gets too.
#[test]
fn a_reader_changes_nothing_through_any_route() {
    let (api, gate) = api();
    let mut walked = 0;
    for route in api.routes().iter().filter(|r| r.is_write()) {
        assert!(matches!(route.access, Access::Action(_)), "{route:?} is open to everybody");
        let target = route.pattern.replace(['{', '}', '*'], "") + "?" + V;
        let answer = api.dispatch(request(route.method.clone(), &target, Some("reader")));
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{route:?}");
        walked += 1;
    }
    assert_eq!((walked, gate.events.lock().unwrap().len()), (3, 3));
}

#[test]
fn scopes_are_whole_resources() {
    let scope = |path: &str| {
        let route = Route::get("/x", "X", show);
        route.scope(&path.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>())
    };
    let group = "/subscriptions/s/resourceGroups/g";
    let vault = "/subscriptions/s/resourceGroups/g/providers/Microsoft.RecoveryServices/vaults/v";
    for (path, wanted) in [
        ("/subscriptions", "/"),
        ("/subscriptions/s", "/subscriptions/s"),
        ("/subscriptions/s/resourceGroups", "/subscriptions/s"),
        (group, group),
        (&format!("{group}/resources"), group),
        (&format!("{group}/providers/Microsoft.RecoveryServices/vaults"), group),
        ("/subscriptions/s/providers/Microsoft.RecoveryServices/vaults", "/subscriptions/s"),
        (vault, vault),
        (&format!("{vault}/backupJobs"), vault),
        (&format!("{vault}/backupJobs/j/cancel"), &format!("{vault}/backupJobs/j")),
        ("/providers/Microsoft.ResourceGraph/resources", "/"),
    ] {
        assert_eq!(scope(path), wanted, "{path}");
    }
}

#[test]
fn a_panic_is_an_answer_and_a_row() {
    let (api, gate) = api();
    let answer = api.dispatch(request(Method::DELETE, &format!("{}?{V}", vault("v1")), Some("owner")));
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError")
    );
    assert!(!answer.json_body().unwrap().to_string().contains("as the test wants"));
    let events = gate.events.lock().unwrap();
    assert_eq!((events.len(), events[0].status, events[0].operation.as_str()), (1, 500, "Vaults_Delete"));
}

#[test]
fn every_answer_carries_azures_headers() {
    let (api, _) = api();
    let correlation = "2f7a2b3c-0000-4000-8000-00000000abcd";
    for (method, target) in [
        (Method::GET, String::from("/public")),
        (Method::GET, String::from("/nothing")),
        (Method::DELETE, format!("{}?{V}", vault("v"))),
        (Method::PUT, format!("{}?{V}", vault("v"))),
    ] {
        let mut request = request(method.clone(), &target, Some("owner"));
        let mut headers = request.headers.clone();
        headers.insert("x-ms-correlation-request-id", correlation.parse().unwrap());
        headers.insert("x-ms-client-request-id", "mine".parse().unwrap());
        headers.insert("x-ms-return-client-request-id", "true".parse().unwrap());
        request.set_headers(headers);
        let answer = api.dispatch(request);
        let header = |name: &str| answer.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("cache-control").as_deref(), Some("no-cache"));
        assert_eq!(header("pragma").as_deref(), Some("no-cache"));
        assert_eq!(header("expires").as_deref(), Some("-1"));
        assert_eq!(
            header("strict-transport-security").as_deref(),
            Some("max-age=31536000; includeSubDomains")
        );
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(header("x-ms-correlation-request-id").as_deref(), Some(correlation));
        assert_eq!(header("x-ms-client-request-id").as_deref(), Some("mine"));
        assert_ne!(header("x-ms-request-id").unwrap(), correlation);
        // Nobody counts requests: no header says that somebody does.
        assert!(!answer.headers.keys().any(|k| k.as_str().starts_with("x-ms-ratelimit-")), "{method}");
    }
}

#[test]
fn operations_are_followed_with_the_callers_version() {
    let (api, _) = api();
    let answer = api.dispatch(request(
        Method::POST,
        &format!("{}/start?api-version=2030-01-01", vault("v")),
        Some("owner"),
    ));
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.headers["azure-asyncoperation"], "https://box:8443/op/a;b?api-version=2030-01-01");
    assert_eq!(answer.headers["location"], "https://box:8443/result/1?api-version=2030-01-01");
    assert_eq!((answer.headers["retry-after"].to_str().unwrap(), answer.wire_body().1.len()), ("5", 0));
}

#[test]
fn bodies_are_read_strictly_and_contents_tolerantly() {
    let (api, _) = api();
    let put = |body: &[u8], kind: Option<&str>| {
        let mut request = request(Method::PUT, &format!("{}?{V}", vault("v")), Some("owner"));
        request.body = body.to_vec().into();
        if let Some(kind) = kind {
            request.headers.insert("content-type", kind.parse().unwrap());
        }
        api.dispatch(request)
    };
    assert_eq!(
        put(b"\xef\xbb\xbf{\"a\":null}", Some("application/json; charset=utf-8")).json_body(),
        Some(json!({"a": null}))
    );
    assert_eq!(put(b"{}", None).status, StatusCode::CREATED);
    assert_eq!(put(b"{}", Some("text/xml")).status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let deep = "[".repeat(100_000);
    for bad in [&b""[..], b"  ", b"{", b"{\"a\":1}x", b"\xff\xfe", deep.as_bytes()] {
        let answer = put(bad, Some("application/json"));
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (StatusCode::BAD_REQUEST, "InvalidRequestContent")
        );
    }
}

/// What a body can name is declared beside the route: what declares none, gets none.
#[test]
fn a_route_that_declares_no_body_gets_none() {
    let echoes = |route: Route<App>| route.action("Microsoft.RecoveryServices/Vaults/write");
    let api = Api::builder(Arc::new(App { names: vec![] }), Arc::new(TestGate::default()))
        .schemas(json!({ "Vault": { "type": "object" } }).as_object().unwrap().clone())
        .routes([
            echoes(Route::post("/a/b", "None_Post", echo)),
            echoes(Route::post("/a/c", "Some_Post", echo)).takes("Vault"),
        ])
        .build()
        .unwrap();
    for (path, status) in [("/a/b", StatusCode::BAD_REQUEST), ("/a/c", StatusCode::CREATED)] {
        let mut request = request(Method::POST, &format!("{path}?{V}"), Some("owner"));
        request.body = b"{\"x\":1}".to_vec().into();
        assert_eq!(api.dispatch(request).status, status, "{path}");
    }
}

#[test]
fn pages_go_on_where_they_ended() {
    let (api, _) = api();
    let list = vault("").trim_end_matches('/').to_owned();
    let mut target = format!("{list}?{V}&$filter=a%20eq%20'%26'&%24top=60");
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let answer = get(&api, &target, Some("reader"));
        assert_eq!(answer.status, StatusCode::OK, "{target}");
        let body = answer.json_body().unwrap();
        seen.extend(body["value"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()));
        pages += 1;
        let Some(next) = body.get("nextLink").and_then(Value::as_str) else { break };
        assert!(
            next.starts_with(&format!(
                "https://box:8443{list}?{V}&$filter=a%20eq%20%27%26%27&$top=60&$skipToken="
            )),
            "{next}"
        );
        target = next.strip_prefix("https://box:8443").unwrap().to_owned();
    }
    assert_eq!(pages, 5);
    assert_eq!(seen, (0..250).map(|n| format!("v{n:03}")).collect::<Vec<_>>());

    // A token is for its own list and filter, and is nobody's to write.
    let token = target.rsplit('=').next().unwrap();
    let other = |target: String| get(&api, &target, Some("reader"));
    assert_eq!(other(format!("{list}?{V}&$filter=a%20eq%20'%26'&$skiptoken={token}")).status, 200);
    for bad in [
        format!("{list}?{V}&$skipToken={token}"),
        format!("{}?{V}&$filter=a%20eq%20'%26'&$skipToken={token}", list.replace("/RG/", "/RG2/")),
        format!("{list}?{V}&$filter=a%20eq%20'%26'&$skipToken=x{token}"),
        format!("{list}?{V}&$skipToken=AAAA"),
        format!("{list}?{V}&$top=0"),
        format!("{list}?{V}&$top=-1"),
        format!("{list}?{V}&$top=many"),
    ] {
        let answer = get(&api, &bad, Some("reader"));
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (StatusCode::BAD_REQUEST, "InvalidParameter"),
            "{bad}"
        );
    }
    let large = get(&api, &format!("{list}?{V}&$top=99999999999"), Some("reader"));
    assert_eq!(large.json_body().unwrap()["value"].as_array().unwrap().len(), 100);
}

#[test]
fn in_process_calls_are_the_administrators() {
    let (api, gate) = api();
    let body = json!({ "location": "here" });
    let request = Request::in_process(Method::PUT, &format!("{}?{V}", vault("v")), Some(&body)).unwrap();
    let answer = api.dispatch(request);
    assert_eq!((answer.status, answer.json_body()), (StatusCode::CREATED, Some(body)));
    let events = gate.events.lock().unwrap();
    assert_eq!(
        (events.len(), events[0].caller_kind, events[0].status),
        (1, CallerKind::LocalAdministrator, 201)
    );
    drop(events);

    let mut stranger =
        Request::new(Method::GET, "/subscriptions?api-version=1", Client::LocalUser { uid: 1000 }).unwrap();
    assert_eq!(api.dispatch(stranger.clone()).status, StatusCode::FORBIDDEN);
    // A token counts for more than the socket's peer.
    stranger.set_headers(http::HeaderMap::from_iter([(
        http::header::AUTHORIZATION,
        "bearer reader".parse().unwrap(),
    )]));
    assert_eq!(api.dispatch(stranger).json_body().unwrap()["caller"], "reader");
}

#[test]
fn a_bad_table_is_found_at_the_start() {
    let build = |routes: Vec<Route<App>>| {
        Api::builder(Arc::new(App { names: vec![] }), Arc::new(TestGate::default()))
            .routes(routes)
            .build()
            .map(|_| ())
    };
    assert_eq!(
        build(vec![Route::get("/a/{x}", "A", show), Route::get("/b", "A", show)]),
        Err(RouteError::OperationTwice("A"))
    );
    let twice = build(vec![Route::get("/a/{x}", "A", show), Route::get("/A/{y}", "B", show)]);
    assert!(matches!(twice, Err(RouteError::Duplicate(..))), "{twice:?}");
    for pattern in ["a", "/a/{}", "/a/{x}/{x}", "/{x*}/b", "/a{x}", "/a/{x y}"] {
        assert_eq!(build(vec![Route::get(pattern, "A", show)]), Err(RouteError::Pattern(pattern)));
    }
    let unknown = build(vec![Route::get("/a", "A", show).answers("Nothing")]);
    assert!(matches!(unknown, Err(RouteError::UnknownSchema { schema: "Nothing", .. })), "{unknown:?}");
}

#[test]
fn the_document_has_every_route() {
    let (api, _) = api();
    let answer = get(&api, "/openapi.json", None);
    let document: Value = serde_json::from_slice(&answer.wire_body().1).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = 0;
    for route in api.routes() {
        let path = &document["paths"][route.pattern.replace("*}", "}")];
        let operation = &path[route.method.as_str().to_lowercase()];
        assert_eq!(operation["operationId"], route.operation_id, "{route:?}");
        let declared =
            operation["parameters"].as_array().unwrap().iter().filter(|p| p["in"] == "path").count();
        assert_eq!(declared, route.pattern.matches('{').count(), "{route:?}");
        assert_eq!(operation["security"].is_array(), route.access == Access::Public);
        assert!(operation["responses"]["default"].is_object());
        operations += 1;
    }
    assert_eq!(operations, routes().len() + 1);
    for reference in document.to_string().split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[test]
fn errors_can_be_answers_of_any_kind() {
    let response = Response::from(ArmError::busy());
    assert_eq!((response.status, code(&response).as_str()), (StatusCode::SERVICE_UNAVAILABLE, "ServerBusy"));
    assert!(response.headers.contains_key("retry-after"));
}
