//! Required claims, consumers, groups and headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply};
use super::provider::SigningKey;
use crate::filter::Filter;
use crate::testing::{Request, consumer};

/// What becomes of a request with an access token whose claims are changed by `changes`.
fn call(config: Value, changes: &[(&'static str, Value)]) -> Reply {
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(changes);
    gateway.call(&token)
}

/// A gateway that maps Yoda by the token's subject.
fn yodas(config: &Value) -> Gateway {
    let mut all = json!({ "consumer_by": "custom_id", "consumer_claim": "sub" });
    // The Admin API turns the scalars of a form into lists.
    all["consumer_by"] = json!(["custom_id"]);
    all["consumer_claim"] = json!(["sub"]);
    all.as_object_mut()
        .unwrap()
        .extend(config.as_object().unwrap().clone());
    let mut gateway = Gateway::new(all);
    gateway.add_consumer(&consumer("Yoda", Some("user-1")));
    gateway.add_consumer(&consumer("guest", None));
    gateway
}

#[test]
fn case_12_without_consumer_settings_everybody_passes_without_a_consumer() {
    let reply = call(json!({}), &[]);
    assert_eq!(
        (reply.status, reply.seen("x-consumer-username")),
        (200, None)
    );
    assert_eq!(reply.seen("x-credential-identifier"), Some("user-1"));
}

#[test]
fn case_13_a_claim_names_the_consumer() {
    let mut gateway = yodas(&json!({}));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.seen("x-consumer-username"), Some("Yoda"));
    assert_eq!(reply.seen("x-consumer-custom-id"), Some("user-1"));
    assert_eq!(reply.seen("x-consumer-id").unwrap().len(), 36);
    assert_eq!(reply.seen("x-credential-identifier"), None);
    assert!(reply.identity.consumer.is_some() && reply.identity.credential.is_none());
}

#[test]
fn case_14_a_user_without_a_consumer_is_forbidden() {
    let mut gateway = yodas(&json!({}));
    let token = gateway.provider.access_token(&[("sub", json!("user-2"))]);
    let reply = gateway.call(&token);
    assert_eq!(
        (reply.status, &reply.json()["message"]),
        (403, &json!("Forbidden"))
    );
}

#[test]
fn case_15_anonymous_stands_in_for_a_missing_consumer() {
    let mut gateway = yodas(&json!({ "anonymous": "guest" }));
    let token = gateway.provider.access_token(&[("sub", json!("user-2"))]);
    let reply = gateway.call(&token);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.seen("x-consumer-username"), Some("guest"));
    assert_eq!(reply.seen("x-anonymous-consumer"), Some("true"));
    assert!(reply.identity.anonymous);
}

#[test]
fn case_16_an_optional_consumer_may_be_missing() {
    let mut gateway = yodas(&json!({ "consumer_optional": true }));
    let token = gateway.provider.access_token(&[("sub", json!("user-2"))]);
    let reply = gateway.call(&token);
    assert_eq!(
        (reply.status, reply.seen("x-consumer-username")),
        (200, None)
    );
}

#[test]
fn case_17_a_claim_stands_for_the_credential() {
    let credential = |config: Value| call(config, &[]).identity.credential;
    assert_eq!(credential(json!({})).as_deref(), Some("user-1"));
    assert_eq!(
        credential(json!({ "credential_claim": ["tenant"] })).as_deref(),
        Some("t1")
    );
    assert_eq!(credential(json!({ "credential_claim": ["missing"] })), None);
}

#[test]
fn case_18_a_claim_gives_the_authenticated_groups() {
    let reply = call(json!({ "authenticated_groups_claim": ["scope"] }), &[]);
    assert_eq!(
        reply.seen("x-authenticated-groups"),
        Some("openid, email, profile")
    );
    let groups = reply.identity.authenticated_groups.unwrap();
    assert_eq!(groups, ["openid", "email", "profile"]);
}

#[test]
fn a_claim_names_consumer_groups() {
    let call = |more: Value, groups: Value| {
        let mut config = json!({
            "consumer_groups_claim": ["realm", "groups"], "forbidden_error_message": "No",
        });
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more);
        let mut gateway = Gateway::new(config);
        gateway.add_consumer(&consumer("guest", None));
        for (name, id) in [("gold", 1), ("staff", 2)] {
            let known = &mut gateway.environment.consumers.group_ids;
            known.insert(name.to_owned(), uuid::Uuid::from_u128(id));
        }
        let token = gateway
            .provider
            .access_token(&[("realm", json!({ "groups": groups }))]);
        let first = gateway.call(&token);
        // What is remembered of the token says the same.
        let again = gateway.call(&token);
        let groups = |reply: &Reply| {
            let groups = reply.identity.consumer_groups.iter();
            groups.map(|group| group.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(groups(&first), groups(&again));
        let groups = groups(&first);
        (first, groups)
    };
    let (reply, groups) = call(json!({}), json!(["other", "staff", "gold"]));
    assert_eq!(
        (reply.status, groups),
        (200, vec!["staff".to_owned(), "gold".to_owned()])
    );
    assert_eq!(reply.seen("x-credential-identifier"), Some("user-1"));
    for unknown in [json!(["other"]), json!([]), Value::Null] {
        let (reply, _) = call(json!({}), unknown.clone());
        assert_eq!(
            (reply.status, &reply.json()["message"]),
            (403, &json!("No"))
        );
        let (reply, groups) = call(json!({ "consumer_groups_optional": true }), unknown.clone());
        assert_eq!((reply.status, groups.len()), (200, 0));
        let (reply, _) = call(json!({ "anonymous": "guest" }), unknown);
        assert_eq!(reply.status, 200);
        assert_eq!(reply.seen("x-anonymous-consumer"), Some("true"));
    }
}

#[test]
fn the_consumer_may_be_found_without_regard_to_case() {
    for (ignore, status) in [(true, 200), (false, 403)] {
        let config = json!({
            "consumer_by": ["username"], "consumer_claim": ["sub"], "by_username_ignore_case": ignore,
        });
        let mut gateway = yodas(&config);
        let token = gateway.provider.access_token(&[("sub", json!("YODA"))]);
        assert_eq!(gateway.call(&token).status, status);
    }
}

#[test]
fn cases_45_to_48_required_claims_decide() {
    let check = |config: Value, changes: &[(&'static str, Value)], status: u16| {
        assert_eq!(call(config.clone(), changes).status, status, "{config}");
    };
    check(
        json!({ "scopes_required": ["openid email"] }),
        &[("scope", json!("openid profile"))],
        403,
    );
    check(
        json!({ "scopes_required": ["openid", "email"] }),
        &[("scope", json!("openid profile"))],
        200,
    );
    check(
        json!({ "groups_required": ["employee marketing", "super-admins"] }),
        &[],
        200,
    );
    check(json!({ "groups_required": ["super-admins"] }), &[], 403);
    check(
        json!({ "scopes_required": ["openid"], "audience_required": ["httpbin"] }),
        &[],
        403,
    );
    check(json!({ "audience_required": ["api"] }), &[], 200);
    let okta = [("scope", json!(null)), ("scp", json!(["openid"]))];
    check(json!({ "scopes_required": ["openid"] }), &okta, 403);
    check(
        json!({ "scopes_required": ["openid"], "scopes_claim": ["scp"] }),
        &okta,
        200,
    );
    check(json!({ "claims_forbidden": ["tenant"] }), &[], 403);
    check(json!({ "claims_forbidden": ["other"] }), &[], 200);
    check(json!({ "roles_required": ["admin"] }), &[], 403);
}

#[test]
fn case_47_a_403_ends_the_session_unless_it_may_stay() {
    for (destroy, ends) in [(true, true), (false, false)] {
        let mut gateway = Gateway::new(json!({}));
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        let config = json!({ "scopes_required": ["admin"], "forbidden_destroy_session": destroy });
        gateway.filter = super::gateway::compile(&config, 7);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (403, ends));
    }
}

#[test]
fn case_49_anonymous_stands_in_when_a_requirement_fails() {
    let mut gateway = Gateway::new(json!({ "scopes_required": ["admin"], "anonymous": "guest" }));
    gateway.add_consumer(&consumer("guest", None));
    let token = gateway.provider.access_token(&[]);
    let reply = gateway.call(&token);
    assert_eq!(
        (reply.status, reply.seen("x-anonymous-consumer")),
        (200, Some("true"))
    );
}

#[test]
fn a_missing_anonymous_consumer_is_an_explained_failure() {
    let reply = call(
        json!({ "scopes_required": ["admin"], "anonymous": "nobody", "display_errors": true }),
        &[],
    );
    let message = "An unexpected error occurred (anonymous consumer was not found)";
    assert_eq!(
        (reply.status, &reply.json()["message"]),
        (500, &json!(message))
    );
}

#[test]
fn anonymous_covers_missing_credentials_where_nobody_can_sign_in() {
    let mut gateway = Gateway::new(json!({ "anonymous": "guest", "auth_methods": ["bearer"] }));
    gateway.add_consumer(&consumer("guest", None));
    let reply = gateway.send(Request::get("/api"));
    assert_eq!(
        (reply.status, reply.seen("x-consumer-username")),
        (200, Some("guest"))
    );
}

#[test]
fn case_50_a_forbidden_user_is_redirected_where_the_configuration_says() {
    let config = json!({
        "scopes_required": ["admin"], "forbidden_redirect_uri": ["https://a/forbidden"],
        "unauthorized_redirect_uri": ["https://a/unauthorized"],
    });
    let reply = call(config, &[]);
    assert_eq!(
        (reply.status, reply.location()),
        (302, "https://a/forbidden")
    );
}

#[test]
fn case_51_the_error_code_is_shown_unless_it_is_hidden() {
    let challenge = |config: Value| call(config, &[]).challenge().to_owned();
    assert_eq!(
        challenge(json!({ "groups_required": ["admin"] })),
        "Bearer realm=\"idp.example\", error=\"insufficient_scope\""
    );
    assert_eq!(
        challenge(json!({ "scopes_required": ["admin"], "expose_error_code": false })),
        "Bearer realm=\"idp.example\""
    );
}

#[test]
fn case_52_headers_come_from_claims_and_never_from_the_client() {
    let config = json!({
        "upstream_headers_claims": ["preferred_username", "groups"],
        "upstream_headers_names": ["authenticated_user", "x-groups"],
    });
    let send = |changes: &[(&'static str, Value)]| {
        let mut gateway = Gateway::new(config.clone());
        assert!(
            gateway
                .filter
                .owned_headers()
                .iter()
                .any(|name| name == "authenticated-user")
        );
        let token = gateway.provider.access_token(changes);
        let mut request = Request::get("/api");
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            ("authenticated-user", "admin".to_owned()),
        ] {
            request.headers.push((
                HeaderName::from_static(name),
                HeaderValue::from_str(&value).unwrap(),
            ));
        }
        gateway.send(request)
    };
    let reply = send(&[]);
    assert_eq!(reply.seen("authenticated-user"), Some("john"));
    let groups = STANDARD.encode(r#"["employee","marketing"]"#);
    assert_eq!(reply.seen("x-groups"), Some(groups.as_str()));
    assert_eq!(
        send(&[("preferred_username", json!(null))]).seen("authenticated-user"),
        None
    );
    assert_eq!(
        send(&[("preferred_username", json!("a\r\nx: y"))]).seen("authenticated-user"),
        None
    );
}

#[test]
fn case_54_no_token_reaches_the_upstream_if_none_shall() {
    let config = json!({ "upstream_access_token_header": null, "hide_credentials": true });
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).seen("authorization"), None);
    let mut request = Request::get(&format!("/api?a=1&access_token={token}&b=2"));
    request.headers.clear();
    let reply = gateway.send(request);
    assert_eq!(reply.upstream.unwrap().0, "/api?a=1&b=2");
}

#[test]
fn case_55_an_identity_header_of_the_client_is_not_passed_on() {
    let mut gateway = Gateway::new(json!({}));
    let token = gateway.provider.access_token(&[]);
    let mut request = Request::get("/api");
    for (name, value) in [
        ("authorization", format!("Bearer {token}")),
        ("x-consumer-username", "admin".to_owned()),
    ] {
        request.headers.push((
            HeaderName::from_static(name),
            HeaderValue::from_str(&value).unwrap(),
        ));
    }
    assert_eq!(gateway.send(request).seen("x-consumer-username"), None);
}

#[test]
fn claims_of_an_opaque_or_foreign_access_token_meet_no_requirement() {
    for foreign in [false, true] {
        let mut gateway = Gateway::new(json!({ "scopes_required": ["openid"] }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.opaque = !foreign;
            script.access_claims = vec![("iss", json!("https://other.example"))];
        }
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 403);
    }
}

#[test]
fn a_forged_access_token_at_sign_in_is_refused_unless_its_signature_is_ignored() {
    // The ID token comes by the same key; it is left out so that only the access token counts.
    for (ignore, status) in [(json!([]), 401), (json!(["authorization_code"]), 200)] {
        let mut gateway = Gateway::new(json!({ "scopes": ["email"], "ignore_signature": ignore }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.no_id_token = true;
            script.signs_with = Some(SigningKey::es256("one"));
        }
        assert_eq!(
            Browser::default().sign_in(&mut gateway, "/api").status,
            status
        );
    }
}

#[test]
fn anonymous_does_not_hide_a_sign_in_that_failed() {
    let mut gateway = Gateway::new(json!({ "anonymous": "guest" }));
    gateway.add_consumer(&consumer("guest", None));
    gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("other"))];
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 401);
}

#[test]
fn without_a_client_nobody_is_sent_to_the_provider_and_tokens_are_accepted() {
    let mut gateway = Gateway::new(json!({ "client_id": null, "client_secret": null }));
    assert_eq!(gateway.send(Request::get("/api")).status, 401);
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
}
