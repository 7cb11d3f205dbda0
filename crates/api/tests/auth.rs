//! Signing in, and tokens that somebody would like to be taken for ours.

mod common;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use common::code;
use common::people::*;
use http::{Method, StatusCode};
use ring::signature::RsaPublicKeyComponents;
use serde_json::{Value, json};
use strongroom_api::auth::{CallerKind, Gate, generate_secret, hash_secret};
use strongroom_api::limits;

const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;

#[test]
fn applications_sign_in_as_az_does() {
    let world = World::new();
    let token = world.robot();
    let claims = part(&token, 1);
    assert_eq!(claims["tid"], TENANT.to_string());
    assert_eq!(claims["appid"], APP_ID.to_string());
    assert_eq!(claims["idtyp"], "app");
    assert_eq!(claims["aud"], "https://management.strongroom.local/");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 3600);
    let answer = world.get("/who", Some(&token));
    assert_eq!(answer.json_body().unwrap()["name"], "robot");

    for (form, status, error) in [
        ("", 400, "invalid_request"),
        ("grant_type=client_credentials&client_id=robot", 400, "invalid_request"),
        ("grant_type=client_credentials&client_id=robot&client_secret=", 400, "invalid_request"),
        ("grant_type=client_credentials&client_id=robot&client_secret=wrong", 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=nobody&client_secret=right+horse", 401, "invalid_client"),
        (
            "grant_type=client_credentials&client_id=anna@example.org&client_secret=right+horse",
            401,
            "invalid_client",
        ),
        ("grant_type=client_credentials&client_id=robot&client_assertion=x", 401, "invalid_client"),
        (
            "grant_type=client_credentials&client_id=robot&client_secret=right+horse&scope=https://else/.default",
            400,
            "invalid_scope",
        ),
        (
            "grant_type=client_credentials&client_id=robot&client_id=x&client_secret=right+horse",
            400,
            "invalid_request",
        ),
        ("grant_type=authorization_code&code=x", 400, "unsupported_grant_type"),
        ("grant_type=%zz", 400, "invalid_request"),
    ] {
        let (got, body) = world.token(form);
        assert_eq!((got.as_u16(), body["error"].as_str()), (status, Some(error)), "{form}: {body}");
        assert!(body["error_description"].is_string() && body.get("access_token").is_none());
    }
    let form =
        "grant_type=client_credentials&client_id=ROBOT&client_secret=right+horse&resource=https://box:8443";
    assert_eq!(world.token(form).0, 200, "the name will do, and the server's own address");
    for path in ["/common/oauth2/v2.0/token", &format!("/{TENANT}/oauth2/token")] {
        assert_eq!(world.post_form(path, form, [192, 0, 2, 1]).0, 200, "{path}");
    }
    assert_eq!(
        world.post_form("/33333333-3333-3333-3333-333333333333/oauth2/token", form, [192, 0, 2, 1]).0,
        400
    );
}

#[test]
fn users_sign_in_and_go_on_with_refresh_tokens() {
    let world = World::new();
    let first = world.anna();
    assert_eq!(first["expires_in"], 3599);
    let id = part(first["id_token"].as_str().unwrap(), 1);
    assert_eq!((id["aud"].as_str(), id["iss"].as_str()), (Some(AZ), Some("https://box:8443/adfs")));
    let document = world.get("/adfs/.well-known/openid-configuration", None).json_body().unwrap();
    assert_eq!(document["issuer"], id["iss"]);
    assert_eq!(document["access_token_issuer"], part(first["access_token"].as_str().unwrap(), 1)["iss"]);
    assert_eq!(
        (id["upn"].as_str(), id["preferred_username"].as_str()),
        (Some("anna@example.org"), Some("anna@example.org"))
    );
    assert_eq!(
        world.get("/who", first["access_token"].as_str()).json_body().unwrap()["name"],
        "anna@example.org"
    );

    let refresh = first["refresh_token"].as_str().unwrap();
    let form = |token: &str, client: &str| {
        format!("grant_type=refresh_token&client_id={client}&refresh_token={token}&scope=openid")
    };
    world.pass(7200);
    assert_eq!(world.get("/who", first["access_token"].as_str()).status, UNAUTHORIZED);
    let (status, second) = world.token(&form(refresh, AZ));
    assert_eq!(status, 200, "{second}");
    assert_eq!(world.get("/who", second["access_token"].as_str()).status, 200);
    assert!(second["id_token"].is_string() && second["refresh_token"].is_string());

    // A token of one kind is none of another.
    let access = second["access_token"].as_str().unwrap();
    for (token, client) in
        [(access, AZ), (second["id_token"].as_str().unwrap(), AZ), (refresh, "other"), ("x", AZ)]
    {
        let (status, body) = world.token(&form(token, client));
        assert_eq!((status.as_u16(), body["error"].as_str()), (400, Some("invalid_grant")), "{body}");
    }
    for other in ["id_token", "refresh_token"] {
        let answer = world.get("/who", second[other].as_str());
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (UNAUTHORIZED, "InvalidAuthenticationToken"),
            "{other}"
        );
    }

    // A new password ends it, at once.
    let hash = hash_secret("new").unwrap();
    world.memory.change("anna@example.org", |a| a.secret_hash.clone_from(&hash));
    let (status, body) = world.token(&form(second["refresh_token"].as_str().unwrap(), AZ));
    assert_eq!((status.as_u16(), body["error"].as_str()), (400, Some("invalid_grant")));
    world.memory.change("anna@example.org", |a| a.secret_hash = common::people::hash());
    assert_eq!(world.token(&form(second["refresh_token"].as_str().unwrap(), AZ)).0, 200);
    // And so does time.
    world.pass(limits::REFRESH_TOKEN_SECONDS + limits::TOKEN_LEEWAY_SECONDS);
    assert_eq!(world.token(&form(second["refresh_token"].as_str().unwrap(), AZ)).0, 400);
}

#[test]
fn a_disabled_or_removed_account_is_out_at_once() {
    let world = World::new();
    let (robot, anna) = (world.robot(), world.anna());
    world.memory.change("robot", |a| a.disabled = true);
    let answer = world.get("/who", Some(&robot));
    assert_eq!((answer.status, code(&answer).as_str()), (UNAUTHORIZED, "InvalidAuthenticationToken"));
    assert_eq!(world.token("grant_type=client_credentials&client_id=robot&client_secret=right+horse").0, 401);
    world.memory.accounts.lock().unwrap().retain(|(a, _)| a.name == "robot");
    assert_eq!(world.get("/who", anna["access_token"].as_str()).status, UNAUTHORIZED);
    let form = format!(
        "grant_type=refresh_token&client_id={AZ}&refresh_token={}",
        anna["refresh_token"].as_str().unwrap()
    );
    assert_eq!(world.token(&form).0, 400);
}

#[test]
fn roles_hold_where_they_were_given() {
    let world = World::new();
    let vault = |group: &str| {
        format!(
            "/subscriptions/s/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/v?api-version=1"
        )
    };
    let (robot, anna) = (world.robot(), world.anna());
    let anna = anna["access_token"].as_str();
    assert_eq!(world.get(&vault("G"), anna).status, 200);
    for (method, target) in [(Method::GET, vault("g2")), (Method::DELETE, vault("g"))] {
        let answer = world.call(method, &target, anna);
        assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::FORBIDDEN, "AuthorizationFailed"));
    }
    assert_eq!(world.call(Method::DELETE, &vault("g2"), Some(&robot)).status, 200);
    let events = world.memory.events.lock().unwrap();
    let seen: Vec<_> =
        events.iter().map(|e| (e.operation.as_str(), e.caller_name.as_str(), e.status)).collect();
    assert_eq!(
        seen,
        [
            ("SignIn", "robot", 200),
            ("SignIn", "anna@example.org", 200),
            ("Vaults_Get", "anna@example.org", 403),
            ("Vaults_Delete", "anna@example.org", 403),
            ("Vaults_Delete", "robot", 200),
        ]
    );
}

fn refused(world: &World, token: &str, wanted: &str) {
    let answer = world.get("/who", Some(token));
    assert_eq!((answer.status, code(&answer).as_str()), (UNAUTHORIZED, wanted), "{token}");
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Bearer error=\"invalid_token\""), "{challenge}");
}

#[test]
fn tokens_for_other_times_tenants_and_ends() {
    let world = World::new();
    let token = world.robot();
    let (header, claims) = (part(&token, 0), part(&token, 1));
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        world.sign(&header, &claims)
    };
    assert_eq!(
        world.get("/who", Some(&world.sign(&header, &claims))).status,
        200,
        "the test signs as the server does"
    );
    let now = world.now();
    let leeway = limits::TOKEN_LEEWAY_SECONDS;
    refused(&world, &with("exp", json!(now - leeway)), "ExpiredAuthenticationToken");
    refused(&world, &with("exp", json!(i64::MIN)), "ExpiredAuthenticationToken");
    refused(&world, &with("nbf", json!(now + leeway + 1)), "InvalidAuthenticationToken");
    refused(&world, &with("nbf", json!(i64::MAX)), "InvalidAuthenticationToken");
    assert_eq!(
        world.get("/who", Some(&with("exp", json!(now - leeway + 1)))).status,
        200,
        "clocks differ a little"
    );
    assert_eq!(world.get("/who", Some(&with("exp", json!(i64::MAX)))).status, 200);
    refused(
        &world,
        &with("tid", json!("33333333-3333-3333-3333-333333333333")),
        "InvalidAuthenticationTokenTenant",
    );
    refused(&world, &with("iss", json!("https://sts.windows.net/x/")), "InvalidAuthenticationTokenTenant");
    refused(&world, &with("aud", json!("https://graph.example/")), "InvalidAuthenticationTokenAudience");
    refused(
        &world,
        &with("aud", json!(["https://management.strongroom.local/"])),
        "InvalidAuthenticationToken",
    );
    refused(&world, &with("strongroom_use", json!("refresh")), "InvalidAuthenticationToken");
    refused(
        &world,
        &with("oid", json!("00000000-0000-0000-0000-00000000ffff")),
        "InvalidAuthenticationToken",
    );
    refused(&world, &with("oid", json!("robot")), "InvalidAuthenticationToken");
    refused(&world, &with("exp", json!("soon")), "InvalidAuthenticationToken");
    refused(&world, &with("exp", Value::Null), "InvalidAuthenticationToken");
    for name in ["iss", "aud", "exp", "nbf", "tid", "oid", "strongroom_use"] {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        refused(&world, &world.sign(&header, &claims), "InvalidAuthenticationToken");
    }
}

#[test]
fn tokens_that_nobody_signed() {
    let world = World::new();
    let token = world.robot();
    let (header, claims) = (part(&token, 0), part(&token, 1));
    let signature = token.rsplit('.').next().unwrap();

    for alg in ["none", "None", "NONE", "nOnE", "", "RS512", "PS256", "ES256", "HS256", "rs256", "RS256 "] {
        let forged = unsigned(&json!({ "alg": alg, "kid": header["kid"] }), &claims);
        refused(&world, &format!("{forged}."), "InvalidAuthenticationToken");
        refused(&world, &format!("{forged}.{signature}"), "InvalidAuthenticationToken");
    }
    // HS256 with what everybody knows as the secret: the public key, in each form that it is seen in.
    let jwks = world.get("/adfs/discovery/keys", None).json_body().unwrap();
    let jwk = &jwks["keys"][0];
    assert_eq!(jwk["kid"], header["kid"]);
    let (n, e) = (
        BASE64.decode(jwk["n"].as_str().unwrap()).unwrap(),
        BASE64.decode(jwk["e"].as_str().unwrap()).unwrap(),
    );
    for secret in [n.clone(), jwk["n"].as_str().unwrap().into(), jwk.to_string().into_bytes()] {
        let signed = unsigned(&json!({ "alg": "HS256", "kid": header["kid"] }), &claims);
        let mac =
            ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret), signed.as_bytes());
        refused(&world, &format!("{signed}.{}", BASE64.encode(mac)), "InvalidAuthenticationToken");
    }
    // The published key does verify what we sign: others can check our tokens.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    RsaPublicKeyComponents { n, e }
        .verify(
            &ring::signature::RSA_PKCS1_2048_8192_SHA256,
            signed.as_bytes(),
            &BASE64.decode(signature).unwrap(),
        )
        .unwrap();

    // Another's key, under its own name and under ours.
    let foreign = World::new();
    foreign.robot();
    let foreign_header = json!({ "alg": "RS256", "kid": foreign.memory.keys.lock().unwrap()[0].id });
    refused(&world, &foreign.sign(&foreign_header, &claims), "InvalidSigningKey");
    refused(&world, &foreign.sign(&header, &claims), "InvalidAuthenticationToken");
    // A key that the token brings along.
    let bring = |extra: Value| {
        let mut header = header.clone();
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        foreign.sign(&header, &claims)
    };
    refused(
        &world,
        &bring(json!({ "jwk": jwk, "jku": "https://evil/", "x5u": "https://evil/" })),
        "InvalidAuthenticationToken",
    );
    for kid in
        [json!(null), json!(""), json!("../../etc/passwd"), json!("' or 1=1 --"), json!("x".repeat(4000))]
    {
        refused(&world, &world.sign(&json!({ "alg": "RS256", "kid": kid }), &claims), "InvalidSigningKey");
    }
    refused(&world, &world.sign(&json!({ "alg": "RS256", "kid": 1 }), &claims), "InvalidAuthenticationToken");
    let critical = json!({ "alg": "RS256", "kid": header["kid"], "crit": ["exp"] });
    refused(&world, &world.sign(&critical, &claims), "InvalidAuthenticationToken");

    // Changed after it was signed; cut; of other characters; nothing; huge.
    let mut more = claims.clone();
    more["oid"] = json!("00000000-0000-0000-0000-000000000002");
    refused(&world, &format!("{}.{signature}", unsigned(&header, &more)), "InvalidAuthenticationToken");
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        signed,
        &token[..token.len() - 2],
        &format!("{token}="),
        &format!("{token}.x"),
        &format!(" . {token}"),
    ] {
        refused(&world, bad, "InvalidAuthenticationToken");
    }
    refused(&world, &"a".repeat(limits::TOKEN_MAX_BYTES + 1), "InvalidAuthenticationToken");
    refused(
        &world,
        &format!("{}.{}.{}", "a".repeat(2000), "b".repeat(2000), "c".repeat(2000)),
        "InvalidAuthenticationToken",
    );
    let bits: Vec<String> =
        (0..token.len()).step_by(37).map(|at| flip(&token, at)).filter(|t| *t != token).collect();
    for flipped in bits {
        assert_eq!(world.get("/who", Some(&flipped)).status, UNAUTHORIZED, "{flipped}");
    }
}

fn flip(token: &str, at: usize) -> String {
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn keys_are_replaced_and_their_tokens_outlive_them() {
    let world = World::new();
    let first = world.robot();
    world.pass(limits::SIGNING_KEY_ROTATION_SECONDS - 10);
    let last = world.robot();
    assert_eq!(part(&first, 0)["kid"], part(&last, 0)["kid"]);
    world.pass(11);
    let next = world.robot();
    assert_ne!(part(&last, 0)["kid"], part(&next, 0)["kid"]);
    for token in [&last, &next] {
        assert_eq!(world.get("/who", Some(token)).status, 200);
    }
    assert_eq!(
        world.get("/adfs/discovery/keys", None).json_body().unwrap()["keys"].as_array().unwrap().len(),
        2
    );
    // When nothing that the old one signed can be valid any more, it is gone, and a token of its with it, whatever that says.
    let mut claims = part(&last, 1);
    claims["exp"] = json!(i64::MAX);
    let eternal = world.sign(&part(&last, 0), &claims);
    assert_eq!(world.get("/who", Some(&eternal)).status, 200);
    world.pass(limits::REFRESH_TOKEN_SECONDS + limits::TOKEN_LEEWAY_SECONDS);
    refused(&world, &eternal, "InvalidSigningKey");
    assert_eq!(
        world.get("/adfs/discovery/keys", None).json_body().unwrap()["keys"].as_array().unwrap().len(),
        1
    );
    world.pass(limits::SIGNING_KEY_ROTATION_SECONDS);
    world.robot();
    assert_eq!(world.memory.keys.lock().unwrap().len(), 1, "dead keys are removed when a new one is made");
    // The clock goes back: what was signed later is not valid yet, and signing goes on.
    world.pass(-3600);
    let back = world.robot();
    assert_eq!(world.get("/who", Some(&back)).status, 200);
}

#[test]
fn a_second_process_shares_the_keys() {
    let (a, b) = (World::new(), World::new());
    b.get("/adfs/discovery/keys", None);
    let token = a.robot();
    refused(&b, &token, "InvalidSigningKey");
    let shared = a.memory.keys.lock().unwrap()[0].clone();
    b.memory.keys.lock().unwrap().push(shared);
    // Read again, but not for each unknown id.
    refused(&b, &token, "InvalidSigningKey");
    b.pass(limits::SIGNING_KEYS_REREAD_SECONDS);
    assert_eq!(b.get("/who", Some(&token)).status, 200);
    // A damaged key in the store keeps nobody out.
    b.memory.keys.lock().unwrap()[0].private_key_pem.replace_range(40..60, "AAAAAAAAAAAAAAAAAAAA");
    let c = World::new();
    c.memory.keys.lock().unwrap().extend(b.memory.keys.lock().unwrap().clone());
    assert_eq!(c.get("/who", Some(&token)).status, 200);
}

#[test]
fn guessing_is_slowed_down_for_who_guesses() {
    let world = World::new();
    let guess = |n: u32, from| {
        world.post_form(
            "/adfs/oauth2/token",
            &format!("grant_type=client_credentials&client_id=robot&client_secret=guess{n}"),
            from,
        )
    };
    let right = |from| {
        world
            .post_form(
                "/adfs/oauth2/token",
                "grant_type=client_credentials&client_id=robot&client_secret=right+horse",
                from,
            )
            .0
    };
    let (burst, seconds) = limits::FAILURES_NAME_AND_CLIENT;
    for n in 0..burst {
        assert_eq!(guess(n, [10, 0, 0, 1]).0, 401);
    }
    let (status, body) = guess(99, [10, 0, 0, 1]);
    assert_eq!((status.as_u16(), body["error"].as_str()), (429, Some("temporarily_unavailable")));
    assert_eq!(right([10, 0, 0, 1]), 429, "guessing right now would not help");
    assert_eq!(right([10, 0, 0, 2]), 200, "others are not kept out");
    world.pass(seconds as i64);
    assert_eq!(right([10, 0, 0, 1]), 200);
    let failures = world
        .memory
        .events
        .lock()
        .unwrap()
        .iter()
        .filter(|e| e.status == 401 && e.caller_name == "robot")
        .count();
    assert_eq!(failures, burst as usize);
}

#[test]
fn what_was_not_even_tried_does_not_fill_the_audit() {
    let world = World::new();
    for n in 0..500 {
        world.token(&format!("grant_type=refresh_token&client_id=x&refresh_token=a.b.{n}"));
    }
    let written = world.memory.events.lock().unwrap().len();
    assert_eq!(written, limits::REFUSALS_BURST as usize);
}

#[test]
fn names_and_secrets_of_any_length() {
    let world = World::new();
    let long = "x".repeat(5000);
    assert_eq!(
        world.token(&format!("grant_type=client_credentials&client_id={long}&client_secret=x")).0,
        401
    );
    assert_eq!(
        world.token(&format!("grant_type=client_credentials&client_id=robot&client_secret={long}")).0,
        401
    );
    assert_eq!(
        world.token(&format!("grant_type=client_credentials&client_id=robot&client_secret={long}{long}")).0,
        400
    );
    assert!(world.memory.events.lock().unwrap().iter().all(|e| e.caller_name.len() < 300));
}

#[test]
fn when_accounts_cannot_be_read_nobody_gets_in() {
    let world = World::new();
    let token = world.robot();
    *world.memory.broken.lock().unwrap() = true;
    let answer = world.get("/who", Some(&token));
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
    );
    assert!(answer.headers.contains_key("retry-after"));
    let (status, body) =
        world.token("grant_type=client_credentials&client_id=robot&client_secret=right+horse");
    assert_eq!((status.as_u16(), body["error"].as_str()), (503, Some("temporarily_unavailable")));
}

#[test]
fn what_clients_read_first() {
    let world = World::new();
    let document = world.get("/metadata/endpoints?api-version=2022-09-01", None).json_body().unwrap();
    for name in
        ["name", "resourceManager", "portal", "gallery", "graphAudience", "graph", "microsoftGraphResourceId"]
    {
        assert!(document[name].is_string(), "{name}");
    }
    assert_eq!(document["resourceManager"], "https://box:8443");
    assert_eq!(document["authentication"]["loginEndpoint"], "https://box:8443/adfs");
    assert_eq!(document["authentication"]["identityProvider"], "ADFS");
    assert!(document["authentication"]["audiences"][0].as_str().unwrap().starts_with("https://"));
    assert!(document["suffixes"]["keyVaultDns"].is_string() && document["suffixes"]["storage"].is_string());
    for path in ["/adfs", &format!("/{TENANT}"), &format!("/{TENANT}/v2.0"), "/common/v2.0"] {
        let answer = world.get(&format!("{path}/.well-known/openid-configuration"), None);
        let document = answer.json_body().unwrap();
        assert_eq!(document["token_endpoint"], "https://box:8443/adfs/oauth2/token", "{path}");
        assert_eq!(document["jwks_uri"], "https://box:8443/adfs/discovery/keys");
    }
    let stranger = world.get("/33333333-3333-3333-3333-333333333333/.well-known/openid-configuration", None);
    assert_eq!(stranger.status, StatusCode::NOT_FOUND);
}

#[test]
fn the_socket_is_for_administrators() {
    use strongroom_api::auth::Credentials;
    let world = World::new();
    let gate: &dyn Gate = &**{ &world.api.state().sign_in };
    let now = jiff::Timestamp::UNIX_EPOCH;
    for uid in [0, 4242] {
        let caller = gate.authenticate(&Credentials::LocalUser { uid }, now).unwrap();
        assert_eq!(caller.kind, CallerKind::LocalAdministrator);
        assert!(gate.allowed(&caller, "Microsoft.RecoveryServices/vaults/delete", "/x").unwrap());
    }
    let refusal = gate.authenticate(&Credentials::LocalUser { uid: 1000 }, now).unwrap_err();
    assert_eq!((refusal.status, refusal.code.as_ref()), (StatusCode::FORBIDDEN, "AuthorizationFailed"));
    assert!(gate.authenticate(&Credentials::None, now).is_err());
    assert_eq!(generate_secret().unwrap().len(), 40);
}
