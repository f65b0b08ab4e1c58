//! What the requirements of a relying party's security say of a sign-in on its way, by their numbers.

use std::collections::BTreeSet;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shared::digest::sha256;

use super::conformance::{outcome, reason};
use super::gateway::{Browser, Gateway, judged};
use super::provider::{ISSUER, basic, plain};
use crate::bundled::openid_connect::explain::Explanations;
use crate::host::Host as _;

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
            // Also where none is announced: a provider that knows of none passes it over.
            let verifier = &forms.last().unwrap().1["code_verifier"];
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

#[test]
fn rule_30_an_assertion_is_for_one_endpoint_and_one_minute_and_never_made_twice() {
    let mut gateway = Gateway::new(json!({ "client_auth": ["client_secret_jwt"] }));
    for _ in 0..2 {
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    }
    let forms = gateway.provider.forms.borrow();
    let said = |number: usize| {
        let assertion = &forms[number].1["client_assertion"];
        let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap());
        serde_json::from_slice::<Value>(&claims.unwrap()).unwrap()
    };
    let now = crate::testing::START.as_secs();
    let (one, two) = (said(0), said(1));
    for (name, value) in [
        ("iss", json!("client")),
        ("sub", json!("client")),
        ("aud", json!(format!("{ISSUER}/token"))),
        ("iat", json!(now)),
        ("exp", json!(now + 60)),
    ] {
        assert_eq!(one[name], value, "{name}");
    }
    // 128 bits.
    assert!(one["jti"].as_str().unwrap().len() >= 22);
    assert_ne!(one["jti"], two["jti"]);
    for (path, _) in forms.iter() {
        let asked = gateway.provider.last(path);
        assert_eq!(asked.uri().query(), None, "{path}");
    }
}

#[test]
fn rule_32a_of_an_id_token_no_more_than_64_kib_are_read() {
    for (length, expected) in [(40_000, ""), (49_500, "idt_missing")] {
        let outcome = outcome(|gateway| {
            let claims = vec![("long", json!("a".repeat(length)))];
            gateway.provider.script.borrow_mut().id_claims = claims;
        });
        assert_eq!(outcome.1, expected, "{length}");
    }
}

#[test]
fn rule_38_the_user_info_says_nothing_else_of_what_the_id_token_says() {
    let mut gateway = Gateway::new(json!({
        "search_user_info": true, "credential_claim": ["acr"],
        "upstream_headers_claims": ["sub", "acr", "email", "team"],
        "upstream_headers_names": ["x-sub", "x-acr", "x-email", "x-team"],
    }));
    {
        let mut script = gateway.provider.script.borrow_mut();
        script.id_claims = vec![("acr", json!("bronze")), ("email", json!("id@a.example"))];
        let said =
            json!({ "sub": "user-1", "acr": "gold", "email": "b@a.example", "team": "blue" });
        script.user_info = Some((200, said));
    }
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    for (name, value) in [
        ("x-sub", "user-1"),
        ("x-acr", "bronze"),
        ("x-credential-identifier", "bronze"),
        ("x-email", "id@a.example"),
        ("x-team", "blue"),
    ] {
        assert_eq!(reply.seen(name), Some(value), "{name}");
    }
}

#[test]
fn rule_57_a_prefix_of_a_cookies_name_is_kept_to() {
    let refused = |changes: Value| {
        let errors = judged(&changes).err();
        errors.map(|errors| errors.by_field.keys().next().unwrap().clone())
    };
    for cookie in ["session_cookie", "authorization_cookie"] {
        let field = |end: &str| format!("{cookie}_{end}");
        let with = |name: &str, secure: bool, more: Value| {
            let mut changes = json!({ field("name"): name, field("secure"): secure });
            let all = changes.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            refused(changes)
        };
        let path = || json!({ field("path"): "/app" });
        let domain = || json!({ field("domain"): "a.example" });
        for prefix in ["__Host-", "__HOST-", "__Secure-", "__secure-"] {
            let name = format!("{prefix}x");
            let of_host = prefix.eq_ignore_ascii_case("__host-");
            assert_eq!(with(&name, true, json!({})), None, "{name}");
            let secure = Some(field("secure"));
            assert_eq!(with(&name, false, json!({})), secure, "{name}");
            let named = Some(field("name")).filter(|_| of_host);
            assert_eq!(with(&name, true, path()), named, "{name}");
            assert_eq!(with(&name, true, domain()), named, "{name}");
        }
        let everywhere = json!({ field("same_site"): "None", field("secure"): false });
        assert_eq!(refused(everywhere), Some(field("same_site")));
    }
}

#[test]
fn why_a_session_is_of_no_use_is_told() {
    let told = |change: &dyn Fn(&mut Gateway, &mut Browser)| {
        let mut gateway = Gateway::new(json!({
            "session_bind": ["user-agent"], "logout_uri_suffix": "/logout",
        }));
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        change(&mut gateway, &mut browser);
        // A look ahead begins no sign-in.
        let reply = browser.get_with(&mut gateway, "/api", "purpose", "prefetch");
        assert_eq!(reply.status, 401);
        let explanations = gateway.host.node_state::<Explanations>();
        let id = "0123456789abcdef0123456789abcdef";
        let told = explanations.find(id, gateway.host.now()).unwrap();
        told["session"].as_str().map(str::to_owned)
    };
    let is = |reason: &str| Some(reason.to_owned());
    let none = told(&|_, browser| browser.cookies.clear());
    assert_eq!(none, None);
    let bad = told(&|_, browser| _ = browser.cookies.insert("session".to_owned(), "x".to_owned()));
    assert_eq!(bad, is("session_bad"));
    let expired = told(&|gateway, _| gateway.advance(900));
    assert_eq!(expired, is("session_expired"));
    let revoked = told(&|gateway, browser| {
        browser.clone().post(gateway, "/logout", "");
    });
    assert_eq!(revoked, is("session_revoked"));
    let elsewhere = told(&|gateway, browser| {
        browser.cookies.clear();
        let mut request = crate::testing::Request::get("/api");
        let agent = http::HeaderValue::from_static("another");
        request.headers.push((http::header::USER_AGENT, agent));
        let mut other = Browser::default();
        let start = other.send(gateway, request);
        let back = format!("/api?{}", gateway.provider.authorize(start.location()));
        let mut request = crate::testing::Request::get(&back);
        let agent = http::HeaderValue::from_static("another");
        request.headers.push((http::header::USER_AGENT, agent));
        assert_eq!(other.send(gateway, request).status, 200);
        *browser = other;
    });
    assert_eq!(elsewhere, is("session_wrong_binding"));
}
