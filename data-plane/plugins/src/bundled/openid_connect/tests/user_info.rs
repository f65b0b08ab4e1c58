//! User info: as a method, as a source of claims and headers, and the claims that other sources add.

use std::cell::Cell;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::{CERTIFICATE, certificate};
use super::gateway::{Browser, Gateway, Reply};
use super::provider::{ISSUER, SigningKey};
use crate::host::FetchError;
use crate::testing::consumer;

fn method(more: Value) -> Gateway {
    let mut config = json!({ "auth_methods": ["userinfo"] });
    if let Value::Object(more) = more {
        config.as_object_mut().unwrap().extend(more);
    }
    Gateway::new(config)
}

#[test]
fn case_39_the_user_info_endpoint_decides_over_a_token() {
    let mut gateway = method(json!({}));
    for _ in 0..3 {
        assert_eq!(gateway.call("opaque-1").status, 200);
    }
    assert_eq!(gateway.provider.called("/userinfo"), 1);
    let asked = gateway.provider.last("/userinfo");
    assert_eq!(asked.headers()["authorization"], "Bearer opaque-1");
    assert_eq!(asked.headers()["accept"], "application/json");
    let reply = gateway.call("unknown");
    assert_eq!(reply.status, 401);
    assert!(reply.challenge().contains("invalid_token"));
    gateway.provider.script.borrow_mut().user_info = Some((500, json!({})));
    assert_eq!(gateway.call("opaque-2").status, 503);
    gateway.provider.script.borrow_mut().user_info = Some((200, json!(["no object"])));
    assert_eq!(gateway.call("opaque-3").status, 503);
}

#[test]
fn user_info_may_be_as_long_as_a_megabyte() {
    let mut gateway = method(json!({}));
    assert_eq!(gateway.call("opaque").status, 200);
    let limits = gateway.host.all_limits();
    let asked = limits.iter().find(|(path, _)| path.ends_with("/userinfo"));
    assert_eq!(asked.unwrap().1.body, 1024 * 1024);
}

#[test]
fn an_opaque_token_goes_from_introspection_to_user_info() {
    let config = json!({ "auth_methods": ["introspection", "userinfo"] });
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().introspection = Some((200, json!({ "active": false })));
    assert_eq!(gateway.call("opaque").status, 200);
    assert_eq!(gateway.provider.called("/introspect"), 1);
    assert_eq!(gateway.provider.called("/userinfo"), 1);
    assert_eq!(gateway.call("unknown").status, 401);
    // What the first accepts, the second is not asked about.
    gateway.provider.script.borrow_mut().introspection = None;
    assert_eq!(gateway.call("opaque-2").status, 200);
    assert_eq!(gateway.provider.called("/userinfo"), 2);
}

#[test]
fn a_question_carries_what_the_configuration_adds() {
    let mut gateway = method(json!({
        "userinfo_endpoint": format!("{ISSUER}/userinfo?a=1"),
        "userinfo_accept": "application/jwt", "userinfo_headers_names": ["x-fixed"],
        "userinfo_headers_values": ["1"], "userinfo_headers_client": ["x-region"],
        "userinfo_query_args_names": ["schema"], "userinfo_query_args_values": ["openid"],
        "userinfo_query_args_client": ["tenant"],
    }));
    let mut request = crate::testing::Request::get("/api?tenant=t&other=o");
    for (name, value) in [("authorization", "Bearer opaque"), ("x-region", "eu")] {
        let name = http::HeaderName::from_static(name);
        request.headers.push((name, value.parse().unwrap()));
    }
    assert_eq!(gateway.send(request).status, 200);
    let asked = gateway.provider.last("/userinfo");
    assert_eq!(asked.uri().query(), Some("a=1&schema=openid&tenant=t"));
    assert_eq!(asked.headers()["x-fixed"], "1");
    assert_eq!(asked.headers()["x-region"], "eu");
    assert_eq!(asked.headers()["accept"], "application/jwt");
}

#[test]
fn cases_53_and_rule_83_headers_carry_the_user_info() {
    let mut gateway = Gateway::new(json!({
        "upstream_user_info_header": "x_userinfo", "downstream_user_info_header": "x-info",
    }));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    let info = json!({ "sub": "user-1", "email": "john@example.com", "team": ["blue"] });
    let expected = STANDARD.encode(info.to_string());
    assert_eq!(reply.seen("x-userinfo"), Some(expected.as_str()));
    assert_eq!(reply.headers["x-info"], expected.as_str());
    // The session remembers it.
    gateway.provider.script.borrow_mut().user_info = Some((500, json!({})));
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!(reply.seen("x-userinfo"), Some(expected.as_str()));
    assert_eq!(gateway.provider.called("/userinfo"), 1);
    let reply = browser.get_with(&mut gateway, "/api", "x-userinfo", "forged");
    assert_eq!(reply.seen("x-userinfo"), Some(expected.as_str()));
}

#[test]
fn without_a_cache_every_request_asks() {
    let mut gateway = Gateway::new(json!({
        "upstream_user_info_header": "x_userinfo", "cache_user_info": false,
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    browser.get(&mut gateway, "/api");
    assert_eq!(gateway.provider.called("/userinfo"), 2);
}

#[test]
fn claims_are_searched_in_the_user_info_only_if_that_is_configured() {
    for (search, status) in [(true, 200), (false, 403)] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["bearer"], "search_user_info": search, "consumer_claim": ["email"],
            "consumer_by": ["username"], "authenticated_groups_claim": ["team"],
            "upstream_headers_claims": ["email"], "upstream_headers_names": ["x-email"],
        }));
        gateway.add_consumer(&consumer("john@example.com", None));
        let token = gateway.provider.access_token(&[]);
        let reply = gateway.call(&token);
        assert_eq!(reply.status, status);
        if search {
            assert_eq!(reply.seen("x-email"), Some("john@example.com"));
            assert_eq!(reply.seen("x-authenticated-groups"), Some("blue"));
        }
    }
    // Required claims are never met by user info.
    let config = json!({
        "auth_methods": ["bearer"], "search_user_info": true, "groups_claim": ["team"],
        "groups_required": ["blue"],
    });
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 403);
    assert_eq!(
        gateway.provider.called("/userinfo"),
        0,
        "nobody who fails is asked about"
    );
}

#[test]
fn rule_38_user_info_of_another_user_ends_the_sign_in() {
    for answer in [json!({ "sub": "other" }), json!({ "email": "x" })] {
        let mut gateway = Gateway::new(json!({ "search_user_info": true }));
        gateway.provider.script.borrow_mut().user_info = Some((200, answer));
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!((reply.status, reply.sets_session()), (401, false));
    }
}

#[test]
fn rule_38_user_info_that_somebody_else_signed_ends_the_sign_in() {
    for (issuer, status) in [(ISSUER, 200), ("https://evil.example", 401)] {
        let mut gateway = Gateway::new(json!({ "search_user_info": true }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.signed_answers = Some(("application/jwt", None));
            script.user_info = Some((200, json!({ "sub": "user-1", "iss": issuer })));
        }
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(
            (reply.status, reply.sets_session()),
            (status, status == 200)
        );
    }
}

#[test]
fn rule_38_signed_user_info_is_verified() {
    let check = |claims: Value, forged: bool, ignore: Value, status: u16| {
        let mut gateway = method(json!({
            "ignore_signature": ignore, "upstream_user_info_jwt_header": "x-jwt",
        }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.signed_answers = Some(("application/jwt; charset=utf-8", None));
            script.user_info = Some((200, claims.clone()));
            script.signs_with = forged.then(|| SigningKey::es256("one"));
        }
        let reply = gateway.call("opaque");
        assert_eq!(reply.status, status, "{claims} {forged}");
        if status == 200 {
            assert!(reply.seen("x-jwt").unwrap().starts_with("ey"));
        }
    };
    let good = json!({ "sub": "user-1", "iss": ISSUER, "aud": "client" });
    check(good.clone(), false, json!([]), 200);
    check(json!({ "sub": "user-1" }), false, json!([]), 200);
    check(good.clone(), true, json!([]), 401);
    check(good, true, json!(["userinfo"]), 200);
    check(
        json!({ "sub": "u", "iss": "https://evil.example" }),
        false,
        json!([]),
        401,
    );
    check(
        json!({ "sub": "u", "aud": ["other"] }),
        false,
        json!([]),
        401,
    );
}

#[test]
fn rule_39_oidcc_client_test_aggregated_and_distributed_claims_are_added_if_somebody_known_signed_them()
 {
    let check = |resolve: bool, forged: bool, aggregated: bool, found: bool| {
        let mut gateway = method(json!({
            "resolve_distributed_claims": resolve, "search_user_info": true,
            "upstream_headers_claims": ["shoe_size", "sub"],
            "upstream_headers_names": ["x-size", "x-sub"],
        }));
        let key = if forged {
            SigningKey::es256("one")
        } else {
            gateway.provider.keys.borrow()[0].clone()
        };
        let token = key.sign(
            &json!({ "iss": "https://shop.example", "shoe_size": 9, "sub": "evil", "extra": 1 }),
        );
        let source = if aggregated {
            json!({ "JWT": token })
        } else {
            json!({ "endpoint": format!("{ISSUER}/source"), "access_token": "key" })
        };
        let info = json!({
            "sub": "user-1", "_claim_names": { "shoe_size": "shop", "sub": "shop" },
            "_claim_sources": { "shop": source },
        });
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.user_info = Some((200, info));
            script.source = Some(token);
        }
        let reply = gateway.call("opaque");
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.seen("x-size"),
            found.then_some("9"),
            "{resolve} {forged} {aggregated}"
        );
        assert_eq!(reply.seen("x-sub"), Some("user-1"));
        if found && !aggregated {
            let asked = gateway.provider.last("/source");
            assert_eq!(asked.headers()["authorization"], "Bearer key");
        }
    };
    check(true, false, true, true);
    check(true, false, false, true);
    check(true, true, true, false);
    check(true, true, false, false);
    check(false, false, true, false);
}

#[test]
fn the_answer_of_the_provider_outlives_an_outage_as_far_as_configured() {
    let mut gateway = method(json!({ "cache_ttl": 10, "cache_ttl_resurrect": 60 }));
    assert_eq!(gateway.call("opaque").status, 200);
    gateway.advance(11);
    gateway.provider.script.borrow_mut().down = true;
    assert_eq!(gateway.call("opaque").status, 200);
    gateway.advance(60);
    assert_eq!(gateway.call("opaque").status, 503);
}

#[test]
fn a_refusal_is_remembered_if_that_is_configured() {
    for (seconds, calls) in [(json!(null), 2), (json!(30), 1)] {
        let mut gateway = method(json!({ "cache_ttl_neg": seconds }));
        assert_eq!(gateway.call("unknown").status, 401);
        assert_eq!(gateway.call("unknown").status, 401);
        assert_eq!(gateway.provider.called("/userinfo"), calls);
    }
}

#[test]
fn rule_39_the_sources_of_an_id_token_are_asked_once_for_each() {
    let check = |resolve: bool, forged: bool, found: bool| {
        let mut gateway = Gateway::new(json!({
            "resolve_distributed_claims": resolve,
            "upstream_headers_claims": ["shoe_size", "sub", "email"],
            "upstream_headers_names": ["x-size", "x-sub", "x-email"],
        }));
        let key = if forged {
            SigningKey::es256("one")
        } else {
            gateway.provider.keys.borrow()[0].clone()
        };
        let token = key.sign(&json!({ "shoe_size": 9, "sub": "evil", "email": "evil@e" }));
        let source = json!({ "endpoint": format!("{ISSUER}/source"), "access_token": "key" });
        let names = json!({ "shoe_size": "shop", "sub": "shop", "email": "shop" });
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.id_claims = vec![
                ("_claim_names", names),
                ("_claim_sources", json!({ "shop": source })),
            ];
            script.source = Some(token);
        }
        let mut browser = Browser::default();
        let mut replies = vec![browser.sign_in(&mut gateway, "/api")];
        replies.push(browser.get(&mut gateway, "/api"));
        assert_eq!(gateway.provider.called("/source"), usize::from(resolve));
        // A refresh brings another ID token.
        gateway.advance(301);
        replies.push(browser.get(&mut gateway, "/api"));
        replies.push(browser.get(&mut gateway, "/api"));
        assert_eq!(gateway.provider.called("/source"), 2 * usize::from(resolve));
        for reply in replies {
            assert_eq!(reply.status, 200);
            assert_eq!(
                reply.seen("x-size"),
                found.then_some("9"),
                "{resolve} {forged}"
            );
            assert_eq!(reply.seen("x-sub"), Some("user-1"));
            assert_eq!(reply.seen("x-email"), Some("john@example.com"));
        }
    };
    check(true, false, true);
    check(true, true, false);
    check(false, false, false);
}

#[test]
fn rule_39_a_source_that_was_away_is_asked_again_and_one_that_refuses_is_not() {
    for (status, asked_again) in [(503, true), (429, true), (404, false)] {
        for of_user_info in [false, true] {
            let mut gateway = Gateway::new(json!({
                "resolve_distributed_claims": true, "search_user_info": of_user_info,
                "upstream_headers_claims": ["shoe_size"], "upstream_headers_names": ["x-size"],
            }));
            let key = gateway.provider.keys.borrow()[0].clone();
            let names = json!({ "shoe_size": "shop" });
            let sources = json!({ "shop": { "endpoint": format!("{ISSUER}/source") } });
            {
                let mut script = gateway.provider.script.borrow_mut();
                if of_user_info {
                    let info = json!({
                        "sub": "user-1", "_claim_names": names, "_claim_sources": sources,
                    });
                    script.user_info = Some((200, info));
                } else {
                    script.id_claims = vec![("_claim_names", names), ("_claim_sources", sources)];
                }
                script.source = Some(key.sign(&json!({ "iss": ISSUER, "shoe_size": 9 })));
                script.source_fails = Some(status);
            }
            let asked = |gateway: &Gateway| gateway.provider.called("/source");
            let mut browser = Browser::default();
            let mut replies = vec![browser.sign_in(&mut gateway, "/api")];
            // Nobody's requests wait for it one after the other.
            replies.push(browser.get(&mut gateway, "/api"));
            replies.push(browser.get(&mut gateway, "/api"));
            assert_eq!(asked(&gateway), 1, "{status} {of_user_info}");
            let user_info = gateway.provider.called("/userinfo");
            assert_eq!(user_info, usize::from(of_user_info), "{status}");
            for reply in replies {
                assert_eq!((reply.status, reply.seen("x-size")), (200, None));
            }
            gateway.provider.script.borrow_mut().source_fails = None;
            gateway.advance(11);
            for _ in 0..2 {
                let reply = browser.get(&mut gateway, "/api");
                let seen = asked_again.then_some("9");
                assert_eq!(reply.seen("x-size"), seen, "{status} {of_user_info}");
            }
            assert_eq!(asked(&gateway), 1 + usize::from(asked_again));
        }
    }
}

#[test]
fn rule_39_a_source_that_may_not_be_asked_is_none_that_is_away() {
    let mut gateway = Gateway::new(json!({ "resolve_distributed_claims": true }));
    let sources = json!({ "shop": { "endpoint": format!("{ISSUER}/source") } });
    let names = json!({ "shoe_size": "shop" });
    gateway.provider.script.borrow_mut().id_claims =
        vec![("_claim_names", names), ("_claim_sources", sources)];
    let (network, asked) = (Rc::clone(&gateway.provider), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&asked);
    gateway.host.connect(Rc::new(move |request| {
        if request.uri().path() != "/source" {
            return network.handle(request);
        }
        counted.set(counted.get() + 1);
        Err(FetchError::TooLarge {
            authority: "idp.example:443".to_owned(),
            limit: 1,
        })
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    for _ in 0..2 {
        gateway.advance(11);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
    assert_eq!(asked.get(), 1);
}

#[test]
fn rule_39_what_could_not_be_asked_lets_nobody_in_for_want_of_a_claim() {
    let groups = json!({ "authenticated_groups_claim": ["team"] });
    let mapped = json!({ "consumer_claim": ["nickname"], "consumer_optional": true });
    let limited = json!({ "credential_claim": ["seat"] });
    for config in [&groups, &mapped, &limited] {
        for (status, expected) in [(200, 200), (503, 503), (429, 503), (404, 503), (401, 200)] {
            let mut config = config.clone();
            config["search_user_info"] = true.into();
            let mut gateway = Gateway::new(config.clone());
            let told = json!({
                "sub": "user-1", "team": "blue", "nickname": "Jo", "seat": "one",
            });
            gateway.provider.script.borrow_mut().user_info = Some((status, told.clone()));
            let token = gateway.provider.access_token(&[]);
            let reply = gateway.call(&token);
            assert_eq!(reply.status, expected, "{status} {config}");
            let mut browser = Browser::default();
            let signed_in = browser.sign_in(&mut gateway, "/api");
            assert_eq!(signed_in.status, expected, "{status} {config}");
            assert_eq!(signed_in.sets_session(), expected == 200);
        }
        // What nothing depends on that could not be found holds nobody up.
        let mut gateway = Gateway::new(json!({ "search_user_info": true }));
        gateway.provider.script.borrow_mut().user_info = Some((503, json!({})));
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, 200);
    }
}

#[test]
fn rule_39_what_could_not_be_asked_at_a_refresh_decides_nothing_later_either() {
    let mut gateway = Gateway::new(json!({
        "resolve_distributed_claims": true, "authenticated_groups_claim": ["team"],
    }));
    let key = gateway.provider.keys.borrow()[0].clone();
    {
        let mut script = gateway.provider.script.borrow_mut();
        let source = json!({ "shop": { "endpoint": format!("{ISSUER}/source") } });
        script.id_claims = vec![
            ("_claim_names", json!({ "team": "shop" })),
            ("_claim_sources", source),
        ];
        script.source = Some(key.sign(&json!({ "iss": ISSUER, "team": "blocked" })));
    }
    let mut browser = Browser::default();
    let blocked = |reply: Reply| {
        let seen = reply.seen("x-authenticated-groups").map(str::to_owned);
        (reply.status, seen)
    };
    let as_before = (200, Some("blocked".to_owned()));
    assert_eq!(blocked(browser.sign_in(&mut gateway, "/api")), as_before);
    gateway.advance(301);
    gateway.provider.script.borrow_mut().source_fails = Some(503);
    let refreshed = browser.get(&mut gateway, "/api");
    assert_eq!((refreshed.status, refreshed.sets_session()), (503, true));
    assert_eq!(browser.get(&mut gateway, "/api").status, 503);
    gateway.provider.script.borrow_mut().source_fails = None;
    gateway.advance(11);
    assert_eq!(blocked(browser.get(&mut gateway, "/api")), as_before);
}

#[test]
fn rule_30_who_has_a_certificate_shows_it_where_a_token_is_used() {
    let id = json!(CERTIFICATE.to_string());
    let plain = json!(format!("{ISSUER}/userinfo"));
    for (auth, id, configured, path) in [
        ("tls_client_auth", &id, Value::Null, "/v2/userinfo"),
        ("self_signed_tls_client_auth", &id, plain, "/userinfo"),
        (
            "client_secret_basic",
            &Value::Null,
            Value::Null,
            "/userinfo",
        ),
    ] {
        let mut gateway = Gateway::new(json!({
            "client_auth": [auth], "tls_client_auth_cert_id": id, "userinfo_endpoint": configured,
            "upstream_user_info_header": "x-userinfo", "tls_client_auth_ssl_verify": false,
            "auth_methods": ["session", "userinfo", "authorization_code"],
        }));
        gateway.host.equip(certificate());
        let alias = json!({ "userinfo_endpoint": format!("{ISSUER}/v2/userinfo") });
        gateway.provider.script.borrow_mut().discovery = vec![("mtls_endpoint_aliases", alias)];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert!(reply.seen("x-userinfo").is_some(), "{auth}");
        let asked = |gateway: &Gateway| {
            let all = gateway.host.all_limits();
            let last = all.iter().rfind(|(path, _)| path.ends_with("/userinfo"));
            let (path, limits) = last.unwrap();
            assert!(limits.verify_tls, "{auth}");
            (path.clone(), limits.certificate.is_some())
        };
        assert_eq!(asked(&gateway), (path.to_owned(), !id.is_null()), "{auth}");
        // Who brings a token is not vouched for: it may be stolen, and bound to the certificate.
        // Nor by what is remembered of the session that it was stolen from.
        let token = reply.seen("authorization").unwrap();
        gateway.call(token.trim_start_matches("Bearer "));
        assert_eq!(asked(&gateway), ("/userinfo".to_owned(), false), "{auth}");
    }
}
