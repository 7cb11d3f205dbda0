//! Every route that changes something, of the service itself: each call has its row, with whose it was and how it ended; and
//! the audit over the API.

use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use strongroom_api::arm::App;
use strongroom_api::{Access, Api, Request};
use strongroom_catalog::{AuditEntry, Query};
use strongroom_service::{Service, ServiceConfig, SystemClock};

fn api() -> (tempfile::TempDir, Api<App>) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let config = ServiceConfig { data, hosts: Vec::new(), ..ServiceConfig::default() };
    let service = Service::open_with(config, Vec::new(), Arc::new(SystemClock::new())).unwrap();
    (directory, App::api(service).unwrap())
}

fn rows(api: &Api<App>) -> Vec<AuditEntry> {
    api.state().service.catalog().find(&Query::all().in_order_of_writing()).unwrap()
}

fn call(api: &Api<App>, method: Method, target: &str, body: &Value) -> (u16, Value) {
    let mut request = Request::in_process(method, target, Some(body)).unwrap();
    request.set_headers(http::HeaderMap::from_iter([(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    )]));
    let answer = api.dispatch(request);
    (answer.status.as_u16(), answer.json_body().unwrap_or_default())
}

#[test]
fn every_route_that_changes_something_leaves_a_row() {
    let (_directory, api) = api();
    let subscription = api.state().service.subscription().to_string();
    let group = format!("/subscriptions/{subscription}/resourceGroups/g");
    let version = "api-version=2026-01-01";
    assert_eq!(call(&api, Method::PUT, &format!("{group}?{version}"), &json!({"location": "local"})).0, 201);
    let vault = format!("{group}/providers/Microsoft.RecoveryServices/vaults/main");
    let made = call(
        &api,
        Method::PUT,
        &format!("{vault}?{version}"),
        &json!({"location": "local", "sku": {"name": "Standard"}, "properties": {}}),
    );
    assert!(made.0 < 300, "{made:?}");
    let before = rows(&api);
    let who = format!("local administrator (user {}, this process)", rustix::process::getuid().as_raw());
    assert!(before.iter().all(|r| r.principal == who), "{before:?}");
    let detail = &before.last().unwrap().detail;
    assert!(detail.contains("made vault main") && detail.contains("made policy DefaultPolicy"), "{detail}");

    // What is refused is counted beyond the first so many: a new one for each few routes begins to count anew.
    let asked: Vec<Api<App>> = (0..8).map(|_| App::api(api.state().service.clone()).unwrap()).collect();
    let mut walked = 0;
    for route in api.routes() {
        let Access::Action(action) = route.access else {
            assert!(
                !route.is_write()
                    || route.access == Access::Public
                    || !route.audited
                    || is_asking(route.pattern),
                "{route:?} changes something and needs no right"
            );
            continue;
        };
        if !route.is_write() {
            continue;
        }
        assert!(route.audited, "{route:?} leaves no row");
        let target = [("{subscription}", &*subscription), ("{group}", "g"), ("{vault}", "main")]
            .iter()
            .fold(route.pattern.to_owned(), |target, (name, value)| target.replace(name, value))
            .replace(['{', '}', '*'], "");
        let count = rows(&api).len();
        let (status, _) =
            call(&asked[walked / 20], route.method.clone(), &format!("{target}?{version}"), &json!({}));
        let now = rows(&api);
        assert_eq!(now.len(), count + 1, "{route:?} answered {status}");
        let row = now.last().unwrap();
        assert_eq!((row.action.as_str(), row.status, row.principal.as_str()), (action, status, &*who));
        walked += 1;
    }
    assert!(walked > 25, "{walked}");
}

/// A query by POST, which changes nothing.
fn is_asking(pattern: &str) -> bool {
    pattern == "/providers/Microsoft.ResourceGraph/resources"
}

#[test]
fn the_audit_is_read_page_by_page() {
    let (_directory, api) = api();
    let subscription = api.state().service.subscription();
    let base = format!("/subscriptions/{subscription}/providers/Strongroom.Backup/auditEvents?api-version=1");
    let get = |more: &str| call(&api, Method::GET, &format!("{base}{more}"), &Value::Null);
    assert_eq!(get("&after=oldest").1, json!({"value": [], "cursor": null}));
    let make = |name: &str| {
        let group = format!("/subscriptions/{subscription}/resourceGroups/{name}?api-version=1");
        assert_eq!(call(&api, Method::PUT, &group, &json!({"location": "local"})).0, 201);
    };
    let names = |answer: &Value| -> Vec<String> {
        let rows = answer["value"].as_array().unwrap();
        rows.iter().map(|r| r["scope"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    ["a", "b", "c"].iter().copied().for_each(make);
    let (_, newest) = get("&$top=2");
    assert_eq!(names(&newest), ["b", "c"]);
    let cursor = newest["cursor"].as_str().unwrap().to_owned();
    assert_eq!(names(&get("&after=oldest&$top=2").1), ["a", "b"]);
    let (_, nothing) = get(&format!("&after={cursor}"));
    assert_eq!((names(&nothing).len(), nothing["cursor"].as_str()), (0, Some(&*cursor)));
    // Only where one is, from now on.
    let (_, here) = get("&$top=0");
    assert_eq!((names(&here).len(), here["cursor"].as_str()), (0, Some(&*cursor)));
    ["d", "e"].iter().copied().for_each(make);
    assert_eq!(names(&get(&format!("&after={cursor}")).1), ["d", "e"]);
    assert_eq!(get("&after=nonsense").0, 400);
    assert_eq!(get("&$top=1001").0, 400);
    let (status, body) = get("&after=00000000-0000-0000-0000-000000000001");
    assert_eq!((status, body["error"]["code"].as_str()), (404, Some("AuditCursorExpired")));
}
