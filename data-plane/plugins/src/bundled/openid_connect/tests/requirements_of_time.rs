//! What the requirements of a relying party's security say of what ends, what is too old, what takes another's place
//! and what is too much, by their numbers.

use std::rc::Rc;

use serde_json::{Value, json};
use shared::clock::UnixTime;

use super::conformance::reason;
use super::gateway::{Browser, Gateway};
use super::provider::basic;
use crate::filter::{Filter, Flow};
use crate::host::Host;
use crate::sessions::tenure::{Renewals, Tenure};
use crate::testing::Request;

fn signed_in(config: Value) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    (gateway, browser)
}

/// What a request with these header fields is let through by.
fn let_through(gateway: &Gateway, headers: &[(&'static str, String)]) -> Rc<Tenure> {
    let mut request = Request::get("/api");
    for (name, value) in headers {
        request
            .headers
            .push((http::HeaderName::from_static(name), value.parse().unwrap()));
    }
    request.with_exchange(|exchange| {
        let flow = gateway
            .host
            .run(gateway.filter.on_request(exchange, &gateway.host));
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        exchange
            .tenure
            .clone()
            .expect("it is let through by something")
    })
}

fn by_session(gateway: &Gateway, browser: &Browser) -> Rc<Tenure> {
    let cookie = format!("session={}", browser.cookies["session"]);
    let_through(gateway, &[("cookie", cookie)])
}

#[test]
fn rule_95_a_stream_lasts_as_long_as_what_it_was_let_through_by() {
    let after = |gateway: &Gateway, seconds: u64| {
        Some(UnixTime::from_secs(gateway.host.now().as_secs() + seconds))
    };
    let bearer = Gateway::new(json!({ "auth_methods": ["bearer"], "leeway": 7 }));
    let authorization = format!("Bearer {}", bearer.provider.access_token(&[]));
    let by_token = let_through(&bearer, &[("authorization", authorization)]);
    assert_eq!(by_token.end, after(&bearer, 307));
    // With a session beside it, the token decides on what it was sent for.
    let beside = Gateway::new(json!({ "session_idling_timeout": 20 }));
    let authorization = format!("Bearer {}", beside.provider.access_token(&[]));
    let by_token = let_through(&beside, &[("authorization", authorization)]);
    assert_eq!(by_token.end, after(&beside, 300));

    // A session goes on while its token is refreshed, and ends with one that is not.
    let config = json!({ "session_idling_timeout": 600 });
    let (gateway, browser) = signed_in(config.clone());
    assert_eq!(by_session(&gateway, &browser).end, after(&gateway, 600));
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().no_refresh_token = true;
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    assert_eq!(by_session(&gateway, &browser).end, after(&gateway, 300));
}

#[test]
fn rule_95_a_session_that_is_renewed_keeps_what_it_has_begun() {
    let config = json!({ "session_idling_timeout": 100, "logout_uri_suffix": "/logout" });
    let (mut gateway, mut browser) = signed_in(config);
    let renewals = gateway.host.node_state::<Renewals>();
    let stream = renewals.watch(by_session(&gateway, &browser));
    let is_over = |gateway: &Gateway| {
        let host = &gateway.host;
        stream.is_over(host.revocations(), host.now())
    };
    gateway.advance(60);
    assert!(browser.get(&mut gateway, "/api").sets_session());
    gateway.advance(60);
    assert!(!is_over(&gateway));
    // What begins later knows of the same.
    let later = renewals.watch(by_session(&gateway, &browser));
    browser.post(&mut gateway, "/logout", "");
    assert!(is_over(&gateway));
    assert!(later.is_over(gateway.host.revocations(), gateway.host.now()));

    let config = json!({ "session_idling_timeout": 100 });
    let (gateway, browser) = signed_in(config);
    let renewals = gateway.host.node_state::<Renewals>();
    let idle = renewals.watch(by_session(&gateway, &browser));
    gateway.advance(100);
    assert!(idle.is_over(gateway.host.revocations(), gateway.host.now()));
}

#[test]
fn rule_93_what_was_said_too_long_ago_is_said_anew_before_it_decides() {
    let config =
        json!({ "max_claim_age": 60, "stale_if_error": 30, "groups_required": ["employee"] });
    let (mut gateway, mut browser) = signed_in(config);
    gateway.advance(59);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 1);
    gateway.advance(1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
    // While the provider fails, what it said serves for a little longer.
    gateway.advance(60);
    gateway.provider.script.borrow_mut().down = true;
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(30);
    assert_eq!(browser.get(&mut gateway, "/api").status, 503);
    gateway.provider.script.borrow_mut().down = false;
    gateway.advance(10);
    // The user has left the group meanwhile.
    gateway.provider.script.borrow_mut().access_claims = vec![("groups", json!([]))];
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!(
        (reply.status, reason(&gateway)),
        (403, "authz_denied".to_owned())
    );
}

#[test]
fn rule_93_what_nobody_can_say_anew_does_not_decide() {
    // A session without a refresh token: its user signs in anew, or is known to the provider.
    let mut gateway = Gateway::new(json!({ "max_claim_age": 60 }));
    gateway.provider.script.borrow_mut().no_refresh_token = true;
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(59);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);

    // A refresh that says nothing of the user: the age counts from the sign-in, also after one that came before.
    for (more, again) in [(json!({}), 302), (json!({ "search_user_info": true }), 200)] {
        let mut config = json!({ "max_claim_age": 60, "session_idling_timeout": 0 });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let mut gateway = Gateway::new(config);
        gateway.provider.script.borrow_mut().opaque = true;
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        gateway.provider.script.borrow_mut().no_id_token = true;
        gateway.advance(59);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        gateway.advance(1);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(
            (reply.status, gateway.provider.called("/token")),
            (again, 2)
        );
        if again == 302 {
            assert!(!browser.cookies.contains_key("session"));
            gateway.provider.script.borrow_mut().no_id_token = false;
            assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        }
    }

    // A client's own token.
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"], "max_claim_age": 60 }));
    let token = gateway.provider.access_token(&[]);
    let undated = gateway.provider.access_token(&[("iat", Value::Null)]);
    assert_eq!(gateway.call(&undated).status, 401);
    assert_eq!(gateway.call(&token).status, 200);
    gateway.advance(60);
    let reply = gateway.call(&token);
    assert_eq!((reply.status, reason(&gateway)), (401, "at_exp".to_owned()));

    // A session that goes with it makes its claims no younger.
    let config = json!({ "auth_methods": ["session", "bearer"], "max_claim_age": 60 });
    let mut gateway = Gateway::new(config);
    let token = format!("Bearer {}", gateway.provider.access_token(&[]));
    gateway.advance(59);
    let mut browser = Browser::default();
    let reply = browser.get_with(&mut gateway, "/api", "authorization", &token);
    assert_eq!((reply.status, browser.cookies.len()), (200, 1));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);

    // What introspection said is asked anew.
    let config = json!({ "auth_methods": ["introspection"], "max_claim_age": 60 });
    let mut gateway = Gateway::new(config);
    for (seconds, asked) in [(0, 1), (59, 1), (1, 2)] {
        gateway.advance(seconds);
        assert_eq!(gateway.call("opaque").status, 200);
        assert_eq!(gateway.provider.called("/introspect"), asked);
    }
}

#[test]
fn rule_131_a_client_has_two_secrets_while_one_takes_the_others_place() {
    let mut gateway = Gateway::new(json!({ "client_secret_alternate": ["next"] }));
    let mut sign_in = |secret: &'static str, status: u16, calls: usize| {
        gateway.provider.script.borrow_mut().secret = Some(secret);
        let before = gateway.provider.called("/token");
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{secret}");
        assert_eq!(
            gateway.provider.called("/token") - before,
            calls,
            "{secret}"
        );
    };
    sign_in("secret", 200, 1);
    sign_in("next", 200, 2);
    // The one that was accepted last is tried first.
    sign_in("next", 200, 1);
    sign_in("secret", 200, 2);
    sign_in("secret", 200, 1);
    sign_in("neither", 502, 2);
    sign_in("secret", 200, 1);

    // As Keycloak says it, the other one is shown as well: one more call than who is refused for good.
    let refused = (401, json!({ "error": "unauthorized_client" }));
    gateway.provider.script.borrow_mut().token_answer = Some(refused);
    let before = gateway.provider.called("/token");
    Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(gateway.provider.called("/token") - before, 2);

    // The outcome is told to whoever checks the configuration.
    for (secret, result) in [("secret", "pass"), ("next", "warn"), ("neither", "fail")] {
        let gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().secret = Some(secret);
        let config = json!({
            "issuer": super::provider::ISSUER, "client_id": ["client"],
            "client_secret": ["secret"], "client_secret_alternate": ["next"],
        });
        let asked = crate::bundled::openid_connect::check::run(&config, &gateway.host);
        let told = gateway.host.run(asked).unwrap();
        let findings = told["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == "client");
        assert_eq!(found.unwrap()["result"], result, "{secret}: {told}");
    }

    // Nobody shows a second secret where there is none.
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().secret = Some("next");
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 502);
    let shown = gateway.provider.last("/token").headers()["authorization"].clone();
    assert_eq!(shown, basic("client:secret"));
}

#[test]
fn rule_84_headers_are_bounded_and_lists_read_one_way() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "upstream_headers_names": ["x-claim"],
        "upstream_headers_claims": ["claim"], "authenticated_groups_claim": ["groups"],
    }));
    for (length, told) in [(8 * 1024, true), (8 * 1024 + 1, false)] {
        let claim = ("claim", json!("x".repeat(length)));
        let token = gateway.provider.access_token(&[claim]);
        let reply = gateway.call(&token);
        assert_eq!((reply.status, reply.seen("x-claim").is_some()), (200, told));
    }
    for (groups, told) in [
        (json!(["a", "b c", "d"]), Some("a, b c, d")),
        (json!(["a,admin", "50%"]), Some("a%2Cadmin, 50%")),
        (json!(["x".repeat(8 * 1024 + 1)]), None),
    ] {
        let token = gateway.provider.access_token(&[("groups", groups)]);
        let reply = gateway.call(&token);
        assert_eq!(
            (reply.status, reply.seen("x-authenticated-groups")),
            (200, told)
        );
    }
}

#[test]
fn rule_84_no_more_than_so_much_goes_upstream_in_all() {
    let names: Vec<_> = (0..6).map(|number| format!("x-claim-{number}")).collect();
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["introspection"], "upstream_headers_names": names,
        "upstream_headers_claims": vec!["long"; 6], "disable_session": ["introspection"],
    }));
    let long = "x".repeat(8 * 1024 - 10);
    gateway.provider.script.borrow_mut().introspection = Some((
        200,
        json!({ "active": true, "sub": "user-1", "long": long }),
    ));
    let reply = gateway.call("opaque");
    assert_eq!(reply.seen("authorization"), Some("Bearer opaque"));
    let sent = names.iter().filter(|name| reply.seen(name).is_some());
    assert_eq!(sent.count(), 4);
}
