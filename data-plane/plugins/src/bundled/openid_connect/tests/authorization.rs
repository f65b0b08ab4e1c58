//! The authorization request in all its forms, and the responses that fit.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::config::default_auth_methods;
use super::super::key::PublicKey;
use super::gateway::{Browser, Gateway, Reply, judged};
use super::provider::{ISSUER, SigningKey};

/// A private key of a client, and its public form.
pub(super) fn client_key() -> (Value, Value) {
    use aws_lc_rs::encoding::AsBigEndian;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = json!({
        "kty": "EC", "crv": "P-256", "kid": "own", "alg": "ES256",
        "x": encode(&point[1..33]), "y": encode(&point[33..]),
    });
    let mut private = public.clone();
    let secret = pair.private_key();
    let secret = secret.as_be_bytes().unwrap();
    private["d"] = encode(secret.as_ref()).into();
    (private, public)
}

fn signed(token: &str, key: &Value) -> (Value, Value) {
    let parsed = super::super::jws::Jws::parse(token, token.len()).unwrap();
    assert!(parsed.signed_by(&PublicKey::read(key).unwrap()));
    let part = |at: usize| {
        let text = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(at).unwrap())
            .unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    (part(0), part(1))
}

/// Signs in, with the way back as a form.
fn sign_in_by_form(gateway: &mut Gateway) -> Reply {
    let mut browser = Browser::default();
    let start = browser.get(gateway, "/api");
    let form = gateway.provider.authorize(start.location());
    browser.post(gateway, "/api", &form)
}

#[test]
fn rule_12_a_request_is_pushed_and_the_browser_carries_its_name_only() {
    let mut gateway = Gateway::new(json!({
        "require_pushed_authorization_requests": true, "client_auth": ["client_secret_post"],
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    assert_eq!(start.status, 302);
    let url = url::Url::parse(start.location()).unwrap();
    let names: Vec<_> = url
        .query_pairs()
        .map(|(name, _)| name.into_owned())
        .collect();
    assert_eq!(names, ["tenant", "client_id", "request_uri"]);
    let form = gateway.provider.forms.borrow()[0].1.clone();
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "client"),
        ("client_secret", "secret"),
        ("code_challenge_method", "S256"),
        ("scope", "openid"),
    ] {
        assert_eq!(form[name], value, "{name}");
    }
    assert_eq!(
        gateway
            .provider
            .last("/par")
            .body()
            .windows(10)
            .filter(|part| part == b"client_id=")
            .count(),
        1
    );
    let query = gateway.provider.authorize(start.location());
    assert_eq!(
        browser.get(&mut gateway, &format!("/api?{query}")).status,
        200
    );
}

#[test]
fn rule_10_no_link_brings_a_request_of_its_own() {
    for pushes in [false, true] {
        let mut gateway = Gateway::new(json!({
            "require_pushed_authorization_requests": pushes,
            "require_proof_key_for_code_exchange": false,
            "authorization_query_args_client":
                ["request", "request_uri", "code_challenge", "login_hint"],
        }));
        let link = "/api?request=e.e.e&request_uri=urn:x&code_challenge=x&login_hint=john";
        let start = Browser::default().get(&mut gateway, link);
        let url = url::Url::parse(start.location()).unwrap();
        let mut said: Vec<_> = url.query_pairs().into_owned().collect();
        if pushes {
            let forms = gateway.provider.forms.borrow();
            said = forms[0].1.clone().into_iter().collect();
        }
        let has = |wanted: &str| said.iter().any(|(name, _)| name == wanted);
        for name in ["state", "nonce", "redirect_uri", "login_hint"] {
            assert!(has(name), "{pushes} {name}");
        }
        for name in ["request", "request_uri", "code_challenge"] {
            assert!(!has(name), "{pushes} {name}");
        }
    }
}

#[test]
fn discovery_says_whether_requests_are_pushed_unless_the_configuration_does() {
    for (announced, configured, pushes) in [
        (true, json!(null), true),
        (false, json!(null), false),
        (true, json!(false), false),
        (false, json!(true), true),
    ] {
        let mut gateway =
            Gateway::new(json!({ "require_pushed_authorization_requests": configured }));
        gateway.provider.script.borrow_mut().discovery =
            vec![("require_pushed_authorization_requests", json!(announced))];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, 200, "{announced} {configured}");
        assert_eq!(gateway.provider.called("/par") == 1, pushes);
    }
}

#[test]
fn rule_12_a_request_that_is_not_taken_is_not_sent_by_the_browser_instead() {
    for answer in [
        (400, json!({ "error": "invalid_request" })),
        (500, json!({})),
        (201, json!({ "request_uri": "" })),
        (201, json!({ "request_uri": "u".repeat(2049) })),
        (201, json!([])),
    ] {
        let mut gateway = Gateway::new(json!({ "require_pushed_authorization_requests": true }));
        gateway.provider.script.borrow_mut().push_answer = Some(answer.clone());
        let reply = Browser::default().get(&mut gateway, "/api");
        assert_eq!(
            (reply.status, reply.set_cookies().len()),
            (502, 0),
            "{answer:?}"
        );
    }
    let mut gateway = Gateway::new(json!({ "require_pushed_authorization_requests": true }));
    gateway.provider.script.borrow_mut().discovery =
        vec![("pushed_authorization_request_endpoint", json!(null))];
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 502);
}

#[test]
fn rule_11_a_request_too_long_for_a_url_is_pushed_or_posted() {
    let mut gateway = Gateway::new(json!({ "authorization_query_args_client": ["claims"] }));
    let long = format!("/api?claims={}", "x".repeat(8000));
    let reply = Browser::default().get(&mut gateway, &long);
    assert!(reply.location().contains("request_uri="));
    let reply = Browser::default().get(&mut gateway, "/api?claims=x");
    assert!(reply.location().contains("&claims=x"));
    gateway.provider.script.borrow_mut().discovery = vec![
        ("pushed_authorization_request_endpoint", json!(null)),
        (
            "authorization_endpoint",
            json!(format!("{ISSUER}/authorize?own=1")),
        ),
    ];
    gateway.advance(4000);
    Browser::default().get(&mut gateway, "/api");
    gateway.advance(2);
    let mut browser = Browser::default();
    let reply = browser.get_with(&mut gateway, &long, "accept", "text/html, */*;q=0.8");
    let page = String::from_utf8_lossy(&reply.body);
    assert_eq!((reply.status, reply.location()), (200, ""), "{page}");
    assert!(page.contains(&format!(
        "method=\"post\" action=\"{ISSUER}/authorize?own=1\""
    )));
    for name in ["client_id", "state", "nonce", "code_challenge", "claims"] {
        assert!(
            page.contains(&format!("name=\"{name}\" value=\"")),
            "{name}"
        );
    }
    // Who shows no pages is sent there as ever, and either way the sign-in is under way.
    let sent = Browser::default().get(&mut gateway, &long);
    assert!(sent.location().len() > 8000 && sent.status == 302);
    let back = gateway.provider.authorize(sent.location());
    let held = browser.cookies.len();
    assert!(held == 2 && !back.is_empty(), "{:?}", browser.cookies);
}

#[test]
fn rule_13_a_request_is_signed_by_the_client() {
    let (private, public) = client_key();
    let mut gateway = Gateway::new(json!({
        "require_signed_request_object": true, "client_jwk": [private], "client_alg": ["ES256"],
        "max_age": 600,
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let (header, claims) = signed(&start.argument("request").unwrap(), &public);
    assert_eq!(header["typ"], "oauth-authz-req+jwt");
    assert_eq!(
        (&header["alg"], &header["kid"]),
        (&json!("ES256"), &json!("own"))
    );
    let now = crate::testing::START.as_secs();
    for (name, value) in [
        ("iss", json!("client")),
        ("aud", json!(ISSUER)),
        ("iat", json!(now)),
        ("nbf", json!(now)),
        ("exp", json!(now + 300)),
        ("response_type", json!("code")),
        ("max_age", json!(600)),
        ("redirect_uri", json!("http://gateway.example/api")),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    assert!(claims["jti"].as_str().unwrap().len() >= 20 && claims["state"].is_string());
    assert_eq!(start.argument("state"), None);
    assert_eq!(start.argument("client_id").as_deref(), Some("client"));
    let query = gateway.provider.authorize(start.location());
    let reply = browser.get(&mut gateway, &format!("/api?{query}"));
    // The provider of these tests authenticates nobody long ago.
    assert_eq!(reply.status, 200);
}

#[test]
fn a_signed_request_is_pushed_whole_and_needs_a_key() {
    let (private, public) = client_key();
    let mut gateway = Gateway::new(json!({
        "require_signed_request_object": true, "require_pushed_authorization_requests": true,
        "client_jwk": [private],
    }));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 200);
    let form = gateway.provider.forms.borrow()[0].1.clone();
    signed(&form["request"], &public);
    assert_eq!(form.len(), 1, "nothing stands beside it: {:?}", form.keys());
    let mut gateway = Gateway::new(json!({ "require_signed_request_object": true }));
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 503);
    // A secret signs as well, if the algorithm says so.
    let mut gateway =
        Gateway::new(json!({ "require_signed_request_object": true, "client_alg": ["HS256"] }));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_26_a_signed_response_is_verified() {
    let check = |mode: &str, changes: &[(&'static str, Value)], forged: bool, status: u16| {
        let mut gateway = Gateway::new(json!({ "response_mode": mode }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        assert_eq!(start.argument("response_mode").as_deref(), Some(mode));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.response_claims = changes.to_vec();
            script.signs_with = forged.then(|| SigningKey::es256("one"));
        }
        let query = gateway.provider.authorize(start.location());
        gateway.provider.script.borrow_mut().signs_with = None;
        let reply = if mode.starts_with("form_post") {
            browser.post(&mut gateway, "/api", &query)
        } else {
            browser.get(&mut gateway, &format!("/api?{query}"))
        };
        assert_eq!(reply.status, status, "{mode} {changes:?} {forged}");
        if status != 200 {
            assert_eq!(gateway.provider.called("/token"), 0);
        }
    };
    for mode in ["query.jwt", "jwt", "form_post.jwt", "fragment.jwt"] {
        check(mode, &[], false, 200);
        check(mode, &[], true, 401);
    }
    let now = crate::testing::START.as_secs();
    let mode = "query.jwt";
    check(mode, &[("iss", json!("https://evil.example"))], false, 401);
    check(mode, &[("iss", json!(null))], false, 401);
    check(mode, &[("aud", json!("other"))], false, 401);
    check(mode, &[("aud", json!(null))], false, 401);
    check(mode, &[("exp", json!(now - 1))], false, 401);
    check(mode, &[("exp", json!(null))], false, 401);
    for (begins, status) in [
        (json!(now), 200),
        (json!(now + 500), 401),
        (json!("x"), 401),
    ] {
        check(mode, &[("nbf", begins)], false, status);
    }
    check(
        mode,
        &[("error", json!("access_denied")), ("code", json!(null))],
        false,
        401,
    );
}

#[test]
fn rule_26_where_responses_are_signed_a_plain_one_counts_for_nothing() {
    let mut gateway = Gateway::new(json!({ "response_mode": "query.jwt" }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let state = start.argument("state").unwrap();
    let reply = browser.get(&mut gateway, &format!("/api?code=x&state={state}"));
    assert_eq!((reply.status, gateway.provider.called("/token")), (302, 0));
    // {"alg":"none"}
    let none = URL_SAFE_NO_PAD.encode(json!({ "code": "x", "state": state }).to_string());
    let reply = browser.get(
        &mut gateway,
        &format!("/api?response=eyJhbGciOiJub25lIn0.{none}."),
    );
    assert_eq!((reply.status, gateway.provider.called("/token")), (401, 0));
}

#[test]
fn a_rotated_key_of_a_signed_response_is_found() {
    let mut gateway = Gateway::new(json!({ "response_mode": "jwt" }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    let query = gateway.provider.authorize(start.location());
    assert_eq!(
        browser.get(&mut gateway, &format!("/api?{query}")).status,
        200
    );
}

#[test]
fn rule_34_an_id_token_that_comes_by_way_of_the_browser_vouches_for_the_code() {
    let check = |changes: &[(&'static str, Value)], status: u16| {
        let mut gateway = Gateway::new(json!({
            "response_type": ["code", "id_token"], "response_mode": "form_post",
        }));
        gateway.provider.script.borrow_mut().front_claims = changes.to_vec();
        let reply = sign_in_by_form(&mut gateway);
        assert_eq!(reply.status, status, "{changes:?}");
    };
    check(&[], 200);
    check(&[("c_hash", json!(null))], 401);
    check(&[("c_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"))], 401);
    check(&[("nonce", json!("other"))], 401);
    check(&[("aud", json!("other"))], 401);
    // The two ID tokens must be of one user.
    check(&[("sub", json!("user-2"))], 401);
    let mut gateway = Gateway::new(json!({
        "response_type": ["code id_token"], "response_mode": "form_post",
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let form = gateway.provider.authorize(start.location());
    let without = form.split("&id_token").next().unwrap();
    assert_eq!(browser.post(&mut gateway, "/api", without).status, 401);
}

#[test]
fn rule_22_an_id_token_in_the_response_names_its_issuer() {
    let announced = "authorization_response_iss_parameter_supported";
    let check = |config: Value, claims: &[(&'static str, Value)], answer: fn(String) -> String| {
        let mut all = json!({ "response_type": ["code id_token"], "response_mode": "form_post" });
        all.as_object_mut()
            .unwrap()
            .extend(config.as_object().unwrap().clone());
        let mut gateway = Gateway::new(all);
        gateway.provider.script.borrow_mut().discovery = vec![(announced, json!(true))];
        gateway.provider.script.borrow_mut().front_claims = claims.to_vec();
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let form = answer(gateway.provider.authorize(start.location()));
        let status = browser.post(&mut gateway, "/api", &form).status;
        (status, gateway.provider.called("/token"))
    };
    let without = |form: String| form;
    let other = |form: String| form + "&iss=https%3A%2F%2Fevil.example";
    let error = |form: String| {
        let (_, state) = form.split_once("&state=").unwrap();
        let state = state.split('&').next().unwrap();
        format!("error=access_denied&id_token=a.b.c&state={state}")
    };
    assert_eq!(check(json!({}), &[], without), (200, 1));
    assert_eq!(check(json!({}), &[], other), (401, 0));
    assert_eq!(check(json!({}), &[], error), (401, 0));
    let evil = [("iss", json!("https://evil.example"))];
    assert_eq!(check(json!({}), &evil, without), (401, 0));
    let unchecked = json!({ "verify_claims": false });
    assert_eq!(check(unchecked, &[], without), (401, 0));
}

#[test]
fn rule_6_tokens_do_not_travel_through_browsers_only() {
    let check = |config: Value, accepted: bool| {
        let result = judged(&config);
        assert_eq!(result.is_ok(), accepted, "{config} {result:?}");
    };
    check(json!({ "response_type": ["token"] }), false);
    check(json!({ "response_type": ["id_token token"] }), false);
    check(json!({ "response_type": ["code", "id_token"] }), false);
    check(
        json!({ "response_type": ["code", "id_token"], "response_mode": "form_post" }),
        true,
    );
    check(
        json!({ "response_type": ["code", "magic"], "response_mode": "form_post" }),
        false,
    );
    for mode in [
        "query",
        "form_post",
        "fragment",
        "query.jwt",
        "form_post.jwt",
        "fragment.jwt",
        "jwt",
    ] {
        check(json!({ "response_mode": mode }), true);
    }
}

#[test]
fn a_page_may_hand_on_what_came_in_a_fragment() {
    let mut gateway = Gateway::new(json!({ "response_mode": "fragment" }));
    assert_eq!(sign_in_by_form(&mut gateway).status, 200);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
}

#[test]
fn the_configuration_is_held_against_discovery_if_that_is_configured() {
    let check = |config: Value, discovery: (&'static str, Value), parameter: Option<&str>| {
        let mut all = json!({
            "verify_parameters": true, "display_errors": true,
            "auth_methods": ["session", "authorization_code"],
        });
        all.as_object_mut()
            .unwrap()
            .extend(config.as_object().unwrap().clone());
        let mut gateway = Gateway::new(all);
        gateway.provider.script.borrow_mut().discovery = vec![discovery];
        let reply = Browser::default().get(&mut gateway, "/api");
        match parameter {
            None => assert_eq!(reply.status, 302, "{config}"),
            Some(parameter) => {
                let message = reply.json()["message"].to_string();
                assert!(
                    reply.status == 500 && message.contains(parameter),
                    "{message}"
                );
            }
        }
    };
    let scopes = json!({ "scopes": ["openid", "groups"] });
    let known = |scopes: Value| ("scopes_supported", scopes);
    check(scopes.clone(), known(json!(["openid"])), Some("scopes"));
    check(scopes.clone(), known(json!(["openid", "groups"])), None);
    check(scopes.clone(), known(json!(null)), None);
    let lenient = json!({ "scopes": ["openid", "groups"], "verify_parameters": false });
    check(lenient, known(json!(["openid"])), None);
    let types = ("response_types_supported", json!(["id_token"]));
    check(json!({}), types, Some("response_type"));
    let modes = ("response_modes_supported", json!(["query"]));
    check(
        json!({ "response_mode": "jwt" }),
        modes,
        Some("response_mode"),
    );
    let grants = ("grant_types_supported", json!(["implicit"]));
    check(json!({}), grants, Some("auth_methods"));
    // By Kong's default nobody has chosen what a provider lacks.
    let all = json!({ "auth_methods": default_auth_methods() });
    let one = ("grant_types_supported", json!(["authorization_code"]));
    check(all, one, None);
    let auths = (
        "token_endpoint_auth_methods_supported",
        json!(["private_key_jwt"]),
    );
    check(
        json!({ "client_auth": ["client_secret_post"] }),
        auths,
        Some("client_auth"),
    );
}

#[test]
fn rule_10_what_an_endpoint_says_of_its_own_gives_way_to_the_request() {
    let mut gateway = Gateway::new(json!({
        "authorization_endpoint": format!("{ISSUER}/authorize?client_id=own&p=1&sc%6Fpe=x&flag&p=%32"),
        "end_session_endpoint": format!("{ISSUER}/logout?client_id=own&x=1"),
        "logout_uri_suffix": "/logout",
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let own = format!("{ISSUER}/authorize?p=1&flag&p=%32&response_type=code&client_id=client&");
    assert!(start.location().starts_with(&own), "{}", start.location());
    assert_eq!(start.location().matches("scope=").count(), 1);
    browser.sign_in(&mut gateway, "/api");
    let end = browser.post(&mut gateway, "/logout", "");
    let own = format!("{ISSUER}/logout?x=1&id_token_hint=");
    assert!(end.location().starts_with(&own), "{}", end.location());
    assert_eq!(end.location().matches("client_id=").count(), 1);
}
