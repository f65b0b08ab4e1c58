//! What a token must belong to besides its issuer: a cookie, an ID token, keys that still hold.

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply};
use super::provider::SigningKey;
use crate::testing::{Request, START};

fn send(gateway: &mut Gateway, headers: &[(&'static str, String)]) -> Reply {
    let mut request = Request::get("/api");
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers.push((HeaderName::from_static(name), value));
    }
    gateway.send(request)
}

#[test]
fn a_token_must_belong_to_the_cookie_beside_it() {
    let check = |claims: &[(&'static str, Value)], claim: &str, cookie: &str, status: u16| {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["bearer"], "jwt_session_cookie": "app", "jwt_session_claim": claim,
        }));
        let token = gateway.provider.access_token(claims);
        let headers = [
            ("authorization", format!("Bearer {token}")),
            ("cookie", cookie.to_owned()),
        ];
        assert_eq!(
            send(&mut gateway, &headers).status,
            status,
            "{claims:?} {cookie}"
        );
    };
    let claims = [("sid", json!("s-1")), ("other", json!("s-2"))];
    check(&claims, "sid", "app=s-1", 200);
    check(&claims, "other", "app=s-2", 200);
    check(&claims, "sid", "app=s-2", 401);
    check(&claims, "sid", "other=s-1", 401);
    check(&[], "sid", "app=s-1", 401);
    check(&[("sid", json!(1))], "sid", "app=1", 401);
}

#[test]
fn an_id_token_that_comes_along_is_verified_and_its_claims_count() {
    let config = json!({
        "auth_methods": ["bearer"], "id_token_param_name": "id_token",
        "upstream_headers_claims": ["email"], "upstream_headers_names": ["x-email"],
        "upstream_id_token_header": "x-id-token",
    });
    let mut gateway = Gateway::new(config.clone());
    let access = gateway.provider.access_token(&[]);
    let id = gateway.provider.id_token(None, &access);
    let both = |id: &str| {
        [
            ("authorization", format!("Bearer {access}")),
            ("id-token", format!("Bearer {id}")),
        ]
    };
    let reply = send(&mut gateway, &both(&id));
    assert_eq!(reply.seen("x-email"), Some("john@example.com"));
    assert_eq!(reply.seen("x-id-token"), Some(id.as_str()));
    // Without it, it is not missed.
    let reply = gateway.call(&access);
    assert_eq!((reply.status, reply.seen("x-email")), (200, None));
    // One of another access token, or of another key, is refused; one alone authenticates nobody.
    let foreign = gateway.provider.id_token(None, "another");
    assert_eq!(send(&mut gateway, &both(&foreign)).status, 401);
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("one"));
    let forged = gateway.provider.id_token(None, &access);
    assert_eq!(send(&mut gateway, &both(&forged)).status, 401);
    assert_eq!(send(&mut gateway, &[("id-token", id.clone())]).status, 401);
    let mut query = config;
    query["id_token_param_type"] = json!(["query"]);
    let mut gateway = Gateway::new(query);
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("one")];
    let access = gateway.provider.access_token(&[]);
    let id = gateway.provider.id_token(None, &access);
    let mut request = Request::get(&format!("/api?id_token={id}"));
    let value = format!("Bearer {access}").parse().unwrap();
    request.headers.push((http::header::AUTHORIZATION, value));
    assert_eq!(
        gateway.send(request).seen("x-email"),
        Some("john@example.com")
    );
}

#[test]
fn an_id_token_that_comes_along_is_of_the_same_user() {
    for (methods, access) in [
        (json!(["bearer"]), None),
        (json!(["introspection"]), Some("opaque")),
    ] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": methods, "id_token_param_name": "id_token",
            "upstream_headers_claims": ["email"], "upstream_headers_names": ["x-email"],
        }));
        gateway.provider.script.borrow_mut().introspection =
            Some((200, json!({ "active": true, "sub": "user-1" })));
        let own = gateway.provider.access_token(&[]);
        let access = access.unwrap_or(&own);
        let mut bring = |claims: &[(&'static str, Value)], status: u16| {
            gateway.provider.script.borrow_mut().id_claims = claims.to_vec();
            let id = gateway.provider.id_token(None, access);
            let both = [
                ("authorization", format!("Bearer {access}")),
                ("id-token", id),
            ];
            let reply = send(&mut gateway, &both);
            assert_eq!(reply.status, status, "{access} {claims:?}");
        };
        let unnamed = ("at_hash", Value::Null);
        bring(std::slice::from_ref(&unnamed), 200);
        bring(&[unnamed, ("sub", json!("user-2"))], 401);
        // It names the very access token: a provider may call one user differently in tokens for different readers.
        bring(&[("sub", json!("pairwise"))], 200);
    }
}

#[test]
fn an_id_token_that_nothing_ties_to_the_access_token_does_not_count() {
    for (methods, access) in [
        (json!(["bearer"]), None),
        (json!(["introspection"]), Some("opaque")),
    ] {
        for (named, status) in [(true, 200), (false, 401)] {
            let mut gateway = Gateway::new(json!({
                "auth_methods": methods, "id_token_param_name": "id_token",
            }));
            gateway.provider.script.borrow_mut().introspection =
                Some((200, json!({ "active": true })));
            // It says nothing of whose it is.
            let own = gateway.provider.access_token(&[("sub", Value::Null)]);
            let access = access.unwrap_or(&own);
            if !named {
                gateway.provider.script.borrow_mut().id_claims = vec![("at_hash", Value::Null)];
            }
            let id = gateway.provider.id_token(None, access);
            let both = [
                ("authorization", format!("Bearer {access}")),
                ("id-token", id),
            ];
            let reply = send(&mut gateway, &both);
            assert_eq!(reply.status, status, "{access} {named}");
        }
    }
}

#[test]
fn what_no_longer_holds_of_a_session_ends_it_where_it_is_verified_again() {
    for change in [
        json!({}),
        json!({ "issuers_allowed": ["https://other.example"] }),
        json!({ "domains": ["other.example"] }),
        json!({ "max_age": 10 }),
    ] {
        for reverify in [true, false] {
            let mut config = json!({ "reverify": reverify, "domains": ["a.example"] });
            let mut gateway = Gateway::new(config.clone());
            let now = gateway.provider.now();
            gateway.provider.script.borrow_mut().id_claims =
                vec![("hd", json!("a.example")), ("auth_time", json!(now))];
            let mut browser = Browser::default();
            assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
            let more = change.as_object().unwrap().clone();
            config.as_object_mut().unwrap().extend(more.clone());
            gateway.filter = super::gateway::compile(&config, 7);
            gateway.advance(20);
            let ends = reverify && !more.is_empty();
            let reply = browser.get(&mut gateway, "/api");
            let status = if ends { 401 } else { 200 };
            let outcome = (reply.status, reply.ends_session());
            assert_eq!(outcome, (status, ends), "{change} {reverify}");
        }
    }
}

#[test]
fn a_session_is_verified_again_if_that_is_configured() {
    for (reverify, ignore, renewable, status) in [
        (true, json!([]), false, 401),
        (true, json!(["session"]), false, 401),
        (false, json!([]), false, 200),
        // The provider has newer tokens for who can ask for them.
        (true, json!([]), true, 200),
        (false, json!([]), true, 200),
    ] {
        let config = json!({ "reverify": reverify, "ignore_signature": ignore, "cache_ttl": 10 });
        let mut gateway = Gateway::new(config);
        gateway.provider.script.borrow_mut().no_refresh_token = !renewable;
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        // The provider takes its key back.
        *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
        gateway.advance(40);
        // What this request finds aged is fetched anew for the next.
        browser.get(&mut gateway, "/api");
        gateway.advance(2);
        let reply = browser.get(&mut gateway, "/api");
        let outcome = (reply.status, reply.ends_session());
        assert_eq!(
            outcome,
            (status, status == 401),
            "{reverify} {ignore} {renewable}"
        );
        gateway.advance(40);
        assert_eq!(
            browser.get(&mut gateway, "/api").status == 200,
            status == 200
        );
        let calls = 1 + usize::from(reverify && renewable);
        assert_eq!(gateway.provider.called("/token"), calls);
    }
}

#[test]
fn a_session_of_an_opaque_token_is_asked_about_again_if_that_is_configured() {
    let config = json!({
        "auth_methods": ["session", "introspection"], "reverify": true, "cache_introspection": false,
    });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    browser.get_with(&mut gateway, "/api", "authorization", "Bearer opaque");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.provider.script.borrow_mut().introspection = Some((200, json!({ "active": false })));
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn a_signed_introspection_is_verified() {
    let check =
        |kind: &'static str, typ: Option<&'static str>, nested: bool, forged: bool, status: u16| {
            let mut gateway = Gateway::new(json!({
                "auth_methods": ["introspection"],
                "introspection_accept": "application/token-introspection+jwt",
                "upstream_introspection_jwt_header": "x-jwt",
            }));
            let said = json!({ "active": true, "username": "john" });
            let answer = if nested {
                json!({
                    "iss": "https://idp.example", "aud": "client", "iat": START.as_secs(),
                    "token_introspection": said,
                })
            } else {
                said
            };
            {
                let mut script = gateway.provider.script.borrow_mut();
                script.signed_answers = Some((kind, typ));
                script.introspection = Some((200, answer));
                script.signs_with = forged.then(|| SigningKey::es256("one"));
            }
            let reply = gateway.call("opaque");
            assert_eq!(reply.status, status, "{kind} {typ:?} {nested} {forged}");
            if status == 200 {
                assert!(reply.seen("x-jwt").unwrap().starts_with("ey"));
                let asked = gateway.provider.last("/introspect");
                assert_eq!(
                    asked.headers()["accept"],
                    "application/token-introspection+jwt"
                );
            }
        };
    let kind = "application/token-introspection+jwt";
    check(kind, Some("token-introspection+jwt"), true, false, 200);
    check("application/jwt", None, false, false, 200);
    check(kind, Some("token-introspection+jwt"), true, true, 401);
    check(kind, Some("at+jwt"), true, false, 401);
    check(kind, Some("jwt"), true, false, 401);
    check(kind, None, true, false, 401);
}

#[test]
fn rule_43_a_signed_introspection_is_for_the_client_that_has_asked() {
    let said = json!({ "active": true, "username": "john" });
    let answer = |audience: Value| {
        let mut answer = json!({
            "iss": "https://idp.example", "iat": START.as_secs(), "token_introspection": said,
        });
        if !audience.is_null() {
            answer["aud"] = audience;
        }
        answer
    };
    let with = |name: &str, value: Value| {
        let mut answer = answer(json!("client"));
        if value.is_null() {
            answer.as_object_mut().unwrap().remove(name);
        } else {
            answer[name] = value;
        }
        answer
    };
    let now = START.as_secs();
    for (answer, verifies, status) in [
        (with("iss", Value::Null), true, 401),
        (with("iss", Value::Null), false, 200),
        (with("iat", Value::Null), true, 401),
        (with("iat", json!(now + 30)), true, 200),
        (with("iat", json!(now + 5_000)), true, 401),
        (with("iat", json!(now - 200)), true, 200),
        (with("iat", json!(now - 5_000)), true, 401),
        (with("iat", json!(now - 5_000)), false, 200),
        (with("exp", json!(now + 50)), true, 200),
        (with("exp", json!(now - 50)), true, 401),
        (with("token_introspection", json!("active")), true, 401),
        (
            json!({ "iss": "https://idp.example", "aud": "client", "iat": now, "active": true }),
            true,
            401,
        ),
        (answer(json!("client")), true, 200),
        (with("nbf", json!(now + 500)), true, 401),
        (answer(json!(["other", "client"])), true, 200),
        (answer(json!("other")), true, 401),
        (answer(json!([])), true, 401),
        (answer(Value::Null), true, 401),
        (said.clone(), true, 401),
        (answer(Value::Null), false, 200),
    ] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["introspection"], "verify_claims": verifies,
            "introspection_accept": "application/token-introspection+jwt",
        }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            let kind = "application/token-introspection+jwt";
            script.signed_answers = Some((kind, Some("token-introspection+jwt")));
            script.introspection = Some((200, answer.clone()));
        }
        assert_eq!(gateway.call("opaque").status, status, "{answer}");
    }
}
