//! What the requirements of a relying party's security say of a sign-in on its way, by their numbers.

use std::collections::BTreeSet;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, basic, plain};
use crate::bundled::openid_connect::rules::sha256;

#[test]
fn rule_2_no_letter_of_a_state_may_be_another() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let state = start.argument("state").unwrap();
    let back = gateway.provider.authorize(start.location());
    for at in 0..state.len() {
        let mut flipped = state.clone().into_bytes();
        flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(flipped).unwrap();
        let answer = format!("/api?{}", back.replace(&state, &flipped));
        let reply = browser.clone().get(&mut gateway, &answer);
        assert!(reply.upstream.is_none() && !reply.sets_session(), "{at}");
        let told = (reply.status, reason(&gateway));
        assert_eq!(told, (401, "state_unknown".to_owned()), "{at}");
    }
    assert_eq!(gateway.provider.called("/token"), 0);
    let reply = browser.get(&mut gateway, &format!("/api?{back}"));
    assert_eq!((reply.status, reply.sets_session()), (200, true));
}

#[test]
fn rule_4_each_sign_in_has_a_verifier_of_its_own_and_plain_is_never_said() {
    for methods in [json!(["S256", "plain"]), json!(["plain"]), Value::Null] {
        let mut gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().discovery =
            vec![("code_challenge_methods_supported", methods.clone())];
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let mut browser = Browser::default();
            let start = browser.get(&mut gateway, "/api");
            let method = start.argument("code_challenge_method");
            let challenge = start.argument("code_challenge");
            let back = format!("/api?{}", gateway.provider.authorize(start.location()));
            assert_eq!(browser.get(&mut gateway, &back).status, 200, "{methods}");
            let forms = gateway.provider.forms.borrow();
            let verifier = forms.last().unwrap().1.get("code_verifier");
            let Some(verifier) = verifier else {
                // Kong sends none where none is announced; the provider knows of no challenge either.
                assert_eq!((method, challenge), (None, None), "{methods}");
                assert!(methods.is_null());
                continue;
            };
            let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            assert!((43..=128).contains(&verifier.len()), "{verifier}");
            assert!(verifier.bytes().all(unreserved), "{verifier}");
            assert_eq!(method.as_deref(), Some("S256"), "{methods}");
            let expected = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()));
            assert_eq!(challenge, Some(expected), "{methods}");
            assert!(seen.insert(verifier.clone()), "{methods}");
        }
    }
}

#[test]
fn rule_20_a_form_that_is_no_answer_leaves_the_sign_in_as_it_was() {
    let mut gateway = Gateway::new(json!({ "response_mode": "form_post" }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let answer = gateway.provider.authorize(start.location());
    let huge = format!("{answer}&padding={}", "x".repeat(64 * 1024));
    let reply = browser.clone().post(&mut gateway, "/api", &huge);
    assert!(reply.upstream.is_none() && !reply.sets_session());
    let mut as_json = crate::testing::Request::get("/api");
    as_json.method = http::Method::POST;
    let arguments: serde_json::Map<String, Value> = form_urlencoded::parse(answer.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into()))
        .collect();
    as_json.body = Value::Object(arguments).to_string().into();
    let kind = http::HeaderValue::from_static("application/json");
    as_json.headers.push((http::header::CONTENT_TYPE, kind));
    let reply = browser.clone().send(&mut gateway, as_json);
    assert!(reply.upstream.is_none() && !reply.sets_session());
    assert_eq!(gateway.provider.called("/token"), 0);
    let reply = browser.post(&mut gateway, "/api", &answer);
    assert_eq!((reply.status, reply.sets_session()), (200, true));
}

#[test]
fn rule_26_a_jwt_that_says_that_it_is_something_else_is_no_authorization_response() {
    for (kind, is_one) in [
        (None, true),
        (Some("JWT"), true),
        (Some("application/logout+jwt"), false),
        (Some("at+JWT"), false),
        (Some("oauth-authz-req+jwt"), false),
    ] {
        let mut gateway = Gateway::new(json!({ "response_mode": "jwt" }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let query = gateway.provider.authorize(start.location());
        let token = query.strip_prefix("response=").unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
        let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
        let response = gateway.provider.signing_key().sign_as(kind, &claims);
        let reply = browser.get(&mut gateway, &format!("/api?response={response}"));
        assert_eq!(
            (reply.status == 200, reply.sets_session()),
            (is_one, is_one),
            "{kind:?}"
        );
        assert_eq!(
            gateway.provider.called("/token"),
            usize::from(is_one),
            "{kind:?}"
        );
    }
}

#[test]
fn rule_108_where_a_sign_in_ends_is_on_this_host_however_its_path_is_written() {
    for path in [
        "///evil.example",
        "/.//evil.example",
        "/..//evil.example",
        "/;@evil.example",
        "/%5C%5Cevil.example",
        "/%09/evil.example",
        "/%0d%0aLocation:%20https://evil.example",
        "/https:evil.example",
        "/https%3A%2F%2Fevil.example",
        "/.evil.example",
        "/%2e%2e/%2fevil.example",
    ] {
        for action in ["redirect", "upstream"] {
            let mut gateway = Gateway::new(json!({
                "login_action": action, "login_tokens": null,
                "redirect_uri": ["http://gateway.example/back"],
            }));
            let mut browser = Browser::default();
            let start = browser.get(&mut gateway, path);
            assert_eq!(start.status, 302, "{path}");
            assert!(start.location().starts_with(ISSUER), "{path}");
            let back = gateway.provider.authorize(start.location());
            let reply = browser.get(&mut gateway, &format!("/back?{back}"));
            // A reload leads away from the code.
            let again = browser.get(&mut gateway, &format!("/back?{back}"));
            for reply in [reply, again] {
                if reply.status == 200 {
                    continue;
                }
                assert_eq!(reply.status, 302, "{action} {path}");
                let target = url::Url::parse(reply.location()).unwrap();
                let place = (target.scheme(), target.host_str(), target.username());
                assert_eq!(place, ("http", Some("gateway.example"), ""), "{path}");
                assert!(
                    !reply.location().contains(['\r', '\n', '\t', '\\']),
                    "{path}"
                );
            }
        }
    }
}

#[test]
fn rule_73_three_redirects_of_discovery_are_followed_and_none_to_where_anybody_reads_along() {
    for (hops, first, found) in [
        (1, "/hop/1", true),
        (3, "/hop/1", true),
        (4, "/hop/1", false),
        (1, "http://idp.example/hop/1", false),
        (1, "https://user@idp.example/hop/1", false),
    ] {
        let mut gateway = Gateway::new(json!({}));
        let provider = Rc::clone(&gateway.provider);
        gateway.host.connect(Rc::new(move |request| {
            let path = request.uri().path();
            let hop = match path.strip_prefix("/hop/") {
                Some(hop) => hop.parse().unwrap(),
                None if path.contains("/.well-known/") => 0,
                None => return provider.handle(request),
            };
            if hop == hops {
                let document = provider.discovery().to_string();
                return Ok(plain(200, "application/json", document));
            }
            let next = format!("/hop/{}", hop + 1);
            let next = if hop == 0 { first } else { &next };
            let mut redirect = plain(302, "text/html", String::new());
            let headers = redirect.headers_mut();
            headers.insert("location", next.parse().unwrap());
            Ok(redirect)
        }));
        let reply = Browser::default().get(&mut gateway, "/api");
        let expected = if found { 302 } else { 503 };
        assert_eq!(reply.status, expected, "{hops} {first}");
    }
}

#[test]
fn rule_73_whatever_is_asked_with_a_secret_is_asked_nowhere_else() {
    for (path, method) in [
        ("/token", "client_credentials"),
        ("/introspect", "introspection"),
        ("/userinfo", "userinfo"),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let mut gateway = Gateway::new(json!({ "auth_methods": [method] }));
            let provider = Rc::clone(&gateway.provider);
            gateway.host.connect(Rc::new(move |request| {
                let answered = provider.handle(request)?;
                if request.uri().path() != path {
                    return Ok(answered);
                }
                let mut redirect = plain(status, "text/html", String::new());
                let there = format!("{ISSUER}/elsewhere").parse().unwrap();
                redirect.headers_mut().insert("location", there);
                Ok(redirect)
            }));
            let reply = if method == "client_credentials" {
                let credentials = basic("robot:robot-secret");
                Browser::default().get_with(&mut gateway, "/api", "authorization", &credentials)
            } else {
                gateway.call("opaque")
            };
            assert!(reply.status >= 400, "{path} {status}: {}", reply.status);
            let asked = (
                gateway.provider.called(path),
                gateway.provider.called("/elsewhere"),
            );
            assert_eq!(asked, (1, 0), "{path} {status}");
        }
    }
}
