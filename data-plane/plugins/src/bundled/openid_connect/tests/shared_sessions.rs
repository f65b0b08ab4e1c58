//! Plugins on one host that share sessions, or only the name of their cookie.

use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, compile};
use super::storage::gateways;
use crate::bundled::openid_connect::OpenidConnectFilter;
use crate::testing::Request;

/// A gateway with `config` where a browser is signed in, and another plugin with `other`.
fn neighbours(config: &Value, other: &Value) -> (Gateway, Browser, OpenidConnectFilter) {
    let mut gateway = Gateway::new(config.clone());
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    (gateway, browser, compile(other, 8))
}

#[test]
fn a_refusal_leaves_the_session_of_another_plugin_alone() {
    for (other, status) in [
        (json!({ "auth_methods": ["bearer"] }), 401),
        (
            json!({ "auth_methods": ["bearer"], "session_secret": "s" }),
            401,
        ),
        // It has sessions as well, of its own.
        (json!({ "auth_methods": ["session", "bearer"] }), 401),
        (
            json!({ "auth_methods": ["bearer"], "scopes_required": ["admin"] }),
            403,
        ),
    ] {
        let config = json!({ "session_secret": "s" });
        let (mut gateway, mut browser, filter) = neighbours(&config, &other);
        let first = std::mem::replace(&mut gateway.filter, filter);
        let mut request = Request::get("/api");
        if status == 403 {
            let token = gateway.provider.access_token(&[]);
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            request.headers.push((AUTHORIZATION, value));
        }
        let reply = browser.send(&mut gateway, request);
        let outcome = (reply.status, reply.set_cookies().len());
        assert_eq!(outcome, (status, 0), "{other}");
        gateway.filter = first;
        assert_eq!(browser.get(&mut gateway, "/api").status, 200, "{other}");
    }
}

#[test]
fn a_shared_session_is_refreshed_once_however_its_plugins_reach_the_provider() {
    for more in [
        json!({ "timeout": 9_000 }),
        json!({ "ssl_verify": false }),
        json!({ "discovery_headers_names": ["x-a"], "discovery_headers_values": ["b"] }),
        json!({}),
    ] {
        let config = json!({ "session_secret": "s" });
        let mut other = config.clone();
        let members = other.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let (mut gateway, browser, filter) = neighbours(&config, &other);
        gateway.advance(350);
        let mut parallel = browser.clone();
        let mut browser = browser;
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        gateway.filter = filter;
        assert_eq!(parallel.get(&mut gateway, "/api").status, 200, "{more}");
        // The sign-in and the refresh; the provider would not have taken the old refresh token again.
        assert_eq!(gateway.provider.called("/token"), 2, "{more}");
    }
}

#[test]
fn rule_52_a_session_begun_without_proof_is_none_where_proof_is_due() {
    for proof in ["proof_of_possession_dpop", "proof_of_possession_mtls"] {
        let check = |more: Value, [status, by_token_status]: [u16; 2]| {
            let mut strict = json!({
                "session_secret": "s", "auth_methods": ["session", "bearer"], proof: "strict",
            });
            let members = strict.as_object_mut().unwrap();
            members.extend(more.as_object().unwrap().clone());
            let config = json!({ "session_secret": "s" });
            let (mut gateway, mut browser, filter) = neighbours(&config, &strict);
            let mut by_token = Browser::default();
            let token = gateway.provider.access_token(&[]);
            let bearer = format!("Bearer {token}");
            by_token.get_with(&mut gateway, "/api", "authorization", &bearer);
            let first = std::mem::replace(&mut gateway.filter, filter);
            for (browser, status) in [(&mut browser, status), (&mut by_token, by_token_status)] {
                let reply = browser.get(&mut gateway, "/api");
                assert_eq!(
                    (reply.status, reply.ends_session()),
                    (status, false),
                    "{strict}"
                );
            }
            gateway.filter = first;
            for browser in [&mut browser, &mut by_token] {
                assert_eq!(browser.get(&mut gateway, "/api").status, 200, "{strict}");
            }
        };
        check(json!({}), [401, 401]);
        // A plugin that lists the method itself, and says that it needs no proof, takes it.
        let lenient = json!({
            "auth_methods": ["session", "bearer", "authorization_code"],
            "proof_of_possession_auth_methods_validation": false,
        });
        check(lenient, [200, 302]);
    }
}

#[test]
fn what_is_refused_leads_to_where_the_client_of_the_flow_or_the_session_says() {
    let config = |more: Value| {
        let mut config = json!({
            "client_id": ["client", "other"], "client_secret": ["secret", "secret"],
            "unauthorized_redirect_uri": ["http://u1/", "http://u2/"],
            "forbidden_redirect_uri": ["http://f1/", "http://f2/"],
            "unexpected_redirect_uri": ["http://x1/", "http://x2/"],
        });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        config
    };
    // On the way back from the provider.
    let back = |more: Value, prepare: &dyn Fn(&Gateway), error: bool, target: &str| {
        let mut gateway = Gateway::new(config(more));
        gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("other"))];
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api?client_id=2");
        assert_eq!(start.argument("client_id").as_deref(), Some("other"));
        let query = if error {
            let state = start.argument("state").unwrap();
            format!("error=access_denied&state={state}")
        } else {
            gateway.provider.authorize(start.location())
        };
        prepare(&gateway);
        let reply = browser.get(&mut gateway, &format!("/api?{query}"));
        assert_eq!((reply.status, reply.location()), (302, target));
    };
    let as_is = |_: &Gateway| {};
    back(json!({}), &as_is, true, "http://u2/");
    let fails = |gateway: &Gateway| {
        let mut script = gateway.provider.script.borrow_mut();
        script.token_answer = Some((503, json!({})));
    };
    back(json!({}), &fails, false, "http://x2/");
    back(
        json!({ "scopes_required": ["admin"] }),
        &as_is,
        false,
        "http://f2/",
    );
    // In the session.
    let mut gateway = Gateway::new(config(json!({})));
    gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("other"))];
    let mut browser = Browser::default();
    assert_eq!(
        browser.sign_in(&mut gateway, "/api?client_id=2").status,
        200
    );
    gateway.provider.script.borrow_mut().token_answer =
        Some((400, json!({ "error": "invalid_grant" })));
    gateway.advance(350);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.location()), (302, "http://u2/"));
}

#[test]
fn sign_ins_of_two_plugins_on_one_host_all_land() {
    for order in ["ABAB", "ABBA", "AABB"] {
        let one = json!({ "session_cookie_name": "one" });
        let mut gateway = Gateway::new(one);
        let mut other = compile(&json!({ "session_cookie_name": "two" }), 8);
        let mut browser = Browser::default();
        let mut begun: Vec<(char, String)> = Vec::new();
        for (position, plugin) in order.chars().enumerate() {
            if plugin == 'B' {
                std::mem::swap(&mut gateway.filter, &mut other);
            }
            // Each begins where it has not begun yet, and ends in the end.
            let known = begun.iter().position(|(begun, _)| *begun == plugin);
            match known {
                None => {
                    let start = browser.get(&mut gateway, "/api");
                    assert_eq!(start.status, 302, "{order} {position}");
                    let query = gateway.provider.authorize(start.location());
                    begun.push((plugin, query));
                }
                Some(known) => {
                    let (_, query) = begun.remove(known);
                    let reply = browser.get(&mut gateway, &format!("/api?{query}"));
                    assert_eq!(reply.status, 200, "{order} {position}");
                }
            }
            if plugin == 'B' {
                std::mem::swap(&mut gateway.filter, &mut other);
            }
        }
    }
}

#[test]
fn a_browser_holds_a_session_of_each_audience() {
    for storage in ["cookie", "redis"] {
        let audience = |name: &str| {
            json!({
                "session_secret": "s", "session_audience": name, "session_storage": storage,
                "session_remember": true, "logout_uri_suffix": "/logout", "logout_methods": ["GET"],
            })
        };
        let (mut gateway, _, _redis) = gateways(&audience("default"));
        let filters = ["a", "b"].map(|name| compile(&audience(name), 8));
        let mut browser = Browser::default();
        let mut all: Vec<OpenidConnectFilter> = Vec::from(filters);
        let mut go_on = |gateway: &mut Gateway| {
            let next = all.remove(0);
            all.push(std::mem::replace(&mut gateway.filter, next));
        };
        // Those that begin at once all land.
        let mut begun = Vec::new();
        go_on(&mut gateway);
        for _ in 0..3 {
            let start = browser.get(&mut gateway, "/api");
            begun.push(gateway.provider.authorize(start.location()));
            go_on(&mut gateway);
        }
        for answer in begun {
            let reply = browser.get(&mut gateway, &format!("/api?{answer}"));
            assert_eq!(reply.status, 200, "{storage}");
            go_on(&mut gateway);
        }
        assert!(browser.cookies.contains_key("session") && browser.cookies.len() >= 6);
        let mut statuses = |browser: &mut Browser, gateway: &mut Gateway| {
            [(); 3].map(|()| {
                let reply = browser.get(gateway, "/api");
                go_on(gateway);
                reply.status
            })
        };
        assert_eq!(statuses(&mut browser, &mut gateway), [200; 3], "{storage}");
        // The logout of one is none of the others'.
        browser.get(&mut gateway, "/logout");
        let left = statuses(&mut browser.clone(), &mut gateway);
        assert_eq!(left, [302, 200, 200], "{storage}");
    }
}

#[test]
fn audiences_that_are_to_have_one_subject_have_one_session() {
    let audience = |name: &str| {
        json!({
            "session_secret": "s", "session_audience": name, "session_enforce_same_subject": true,
        })
    };
    let (mut gateway, mut browser, filter) = neighbours(&audience("a"), &audience("b"));
    let first = std::mem::replace(&mut gateway.filter, filter);
    browser.sign_in(&mut gateway, "/api");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.filter = first;
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}
