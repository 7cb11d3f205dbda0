//! Anything at all as a target, a body, a token or a form: an answer of the right kind, never a 500.

mod common;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use common::people::World;
use common::vault;
use http::{HeaderMap, HeaderValue, Method, header};
use proptest::prelude::*;
use soak::number;
use strongroom_api::{Client, Request};

/// Pieces that mean something to some parser.
fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2F",
        "%5c",
        "%00",
        "%",
        "%zz",
        ";",
        "%3B",
        "?",
        "&",
        "=",
        "+",
        "$filter=",
        "$top=-1",
        "$skipToken=",
        "api-version=1",
        "subscriptions",
        "resourceGroups",
        "providers",
        "Microsoft.RecoveryServices",
        "vaults",
        "special",
        "start",
        "public",
        "portal",
        "ä",
        "%C3%A4",
        "%ff",
        "\u{202e}",
        "'",
        "\"",
        "<script>",
        "'%20or%201%20eq%201",
    ];
    prop_oneof![3 => prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(number(3000, 30_000)))]

    #[test]
    fn targets(
        start in prop_oneof![Just(String::from("/")), Just(vault("v")), Just(vault(""))],
        pieces in prop::collection::vec(piece(), 0..20),
        method in prop::sample::select(&[Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::HEAD, Method::OPTIONS][..]),
        body in prop_oneof![Just(String::new()), Just(String::from("{}")), "\\PC{0,40}"],
        token in prop::option::of(Just("owner")),
    ) {
        // Made once: what it holds does not change.
        thread_local!(static API: strongroom_api::Api<common::App> = common::api().0);
        let target = format!("{start}{}", pieces.concat());
        let Ok(mut request) = Request::new(method.clone(), &target, Client::Address([192, 0, 2, 1].into())) else { return Ok(()) };
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            request.set_headers(HeaderMap::from_iter([(header::AUTHORIZATION, value)]));
        }
        request.body = body.into();
        let answer = API.with(|api| api.dispatch(request));
        prop_assert!(!answer.status.is_server_error(), "{} {}: {:?}", method, target, answer);
        if answer.status.is_client_error() {
            let error = &answer.json_body().expect("errors are JSON")["error"];
            prop_assert!(error["code"].is_string() && error["message"].is_string());
            prop_assert!(answer.wire_body().1.len() < 20_000);
        }
    }
}

#[test]
fn tokens_and_forms() {
    let world = World::new();
    let good = world.robot();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(number(1500, 15_000)));
    let token = prop_oneof![
        "[ -~]{0,200}",
        "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}",
        // The good one, damaged at some place.
        (0..good.len(), "[A-Za-z0-9._-]{0,3}").prop_map({
            let good = good.clone();
            move |(at, with)| format!("{}{with}{}", &good[..at], &good[(at + 1).min(good.len())..])
        }),
    ];
    runner
        .run(&token, |token| {
            let answer = world.get("/who", Some(&token));
            prop_assert!(token == good || answer.status == 401, "{}: {:?}", token, answer);
            Ok(())
        })
        .unwrap();
    // Forms that try no secret: those that do are slowed down elsewhere.
    let form = prop::collection::vec(
        (
            prop::sample::select(&["grant_type", "client_id", "refresh_token", "scope", "x", "%zz"][..]),
            "[ -~]{0,30}",
        ),
        0..8,
    );
    runner
        .run(&form, |pairs| {
            let form: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let (status, body) = world.token(&form.join("&"));
            prop_assert!(status.is_client_error(), "{}", body);
            prop_assert!(body["error"].is_string() && body["error_description"].is_string());
            Ok(())
        })
        .unwrap();
}
