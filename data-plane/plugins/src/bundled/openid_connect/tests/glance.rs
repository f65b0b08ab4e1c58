//! What a glance lets go on goes on in the same way as if it were looked at whole: every request of these tests is
//! looked at both ways.

use std::rc::Rc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use crate::bundled::openid_connect::OpenidConnectFilter;
use crate::environment::Consumers;
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow};
use crate::glance::Pass;
use crate::host::Host as _;
use crate::sessions::session_keys::KeyRing;
use crate::testing::{FakeHost, Request, consumer, glance, session_key};

/// What a glance says of a request.
pub(super) struct Foreseen {
    pass: Option<Pass>,
    /// The request's fields as filters get them.
    fields: HeaderMap,
    query: Option<String>,
}

impl Foreseen {
    pub(super) fn of(
        filter: &OpenidConnectFilter,
        exchange: &Exchange<'_>,
        host: &FakeHost,
    ) -> Self {
        let mut fields = exchange.request.headers.clone();
        for name in filter.owned_headers() {
            fields.remove(name);
        }
        Self {
            pass: glance(exchange, &fields, filter, host, Pass::default()),
            query: exchange.request.uri.query().map(str::to_owned),
            fields,
        }
    }

    /// Holds it against what has become of the request.
    pub(super) fn check(self, exchange: &Exchange<'_>, flow: &Flow) {
        let (Some(pass), mut fields) = (self.pass, self.fields) else {
            return;
        };
        assert!(matches!(flow, Flow::Continue), "it goes on");
        let known = pass.known.expect("somebody is known");
        for name in &known.removed {
            fields.remove(name);
        }
        for (name, value) in &known.fields {
            fields.insert(name.clone(), value.clone());
        }
        if let Some(cookies) = &pass.cookies {
            fields.remove(COOKIE);
            if !cookies.is_empty() {
                fields.insert(COOKIE, HeaderValue::from_bytes(cookies).unwrap());
            }
        }
        assert_eq!(fields, exchange.request.headers);
        assert_eq!(self.query.as_deref(), exchange.request.uri.query());
        assert_eq!(pass.response_headers, exchange.response_headers);
        let (glanced, whole) = (&known.identity, &exchange.identity);
        let ids = [glanced, whole].map(|identity| identity.consumer.as_ref().map(|one| one.id));
        assert_eq!(ids[0], ids[1]);
        assert!(!glanced.anonymous && !whole.anonymous);
        assert_eq!(glanced.credential, whole.credential);
        assert_eq!(glanced.authenticated_groups, whole.authenticated_groups);
        assert!(exchange.upstream.body.is_none());
        // What it begins ends with the same session or token.
        let (glanced, whole) = (pass.tenure.as_ref(), exchange.tenure.as_ref());
        let (glanced, whole) = (glanced.expect("it goes on by something"), whole.unwrap());
        assert!(Rc::ptr_eq(glanced, whole));
    }
}

/// Whether a glance is enough for a request.
fn passes(gateway: &mut Gateway, mut request: Request, fields: &[(HeaderName, &str)]) -> bool {
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers.push((name.clone(), value));
    }
    request.environment = std::mem::take(&mut gateway.environment);
    let passes = request.with_exchange(|exchange| {
        let foreseen = Foreseen::of(&gateway.filter, exchange, &gateway.host);
        foreseen.pass.is_some()
    });
    gateway.environment = request.environment;
    passes
}

fn cookies(browser: &Browser) -> String {
    let cookies = browser.cookies.iter();
    let cookies: Vec<_> = cookies
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    cookies.join("; ")
}

/// A gateway that has served a browser's session before, and the browser's cookies.
fn served(config: Value) -> (Gateway, String) {
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let cookies = cookies(&browser);
    (gateway, cookies)
}

#[test]
fn a_session_passes_at_a_glance_once_it_was_opened() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let held = cookies(&browser);
    let get = || Request::get("/api?a=b");
    let check = |gateway: &mut Gateway, text: &str, expected| {
        assert_eq!(
            passes(gateway, get(), &[(COOKIE, text)]),
            expected,
            "{text}"
        );
    };
    check(&mut gateway, &held, false);
    browser.cookies.insert("theirs".to_owned(), "1".to_owned());
    assert_eq!(
        browser.get(&mut gateway, "/api").seen("cookie"),
        Some("theirs=1")
    );
    check(&mut gateway, &held, true);
    check(&mut gateway, &format!("a=1;b=2 ; {held};c"), true);
    for more in [
        format!("{held}; \u{e9}=1"),
        format!("{held}; {held}"),
        format!("{held}; session2=more"),
        format!("{held}x"),
        held.replace("session=", "__Host-session="),
        held[..held.len() - 1].to_owned(),
    ] {
        check(&mut gateway, &more, false);
    }
    let twice = [(COOKIE, &*held), (COOKIE, "a=1")];
    assert!(!passes(&mut gateway, get(), &twice));

    // Another tab signs in: what comes may be its code.
    let mut tab = Browser::default();
    tab.get(&mut gateway, "/api");
    let both = format!("{held}; {}", cookies(&tab));
    check(&mut gateway, &both, false);
}

#[test]
fn what_was_made_of_cookies_serves_the_configuration_and_the_scheme_that_made_it() {
    let (mut gateway, held) = served(json!({}));
    let check = |gateway: &mut Gateway, https: bool, expected: bool| {
        let request = Request {
            https,
            ..Request::get("/api")
        };
        assert_eq!(passes(gateway, request, &[(COOKIE, &held)]), expected);
    };
    // Over TLS our cookies have another name.
    for (https, expected) in [(false, true), (true, false), (false, true)] {
        check(&mut gateway, https, expected);
    }
    let (other, _) = served(json!({ "session_cookie_name": "other" }));
    let filter = std::mem::replace(&mut gateway.filter, other.filter);
    check(&mut gateway, false, false);
    gateway.filter = filter;
    check(&mut gateway, false, true);
}

#[test]
fn a_request_that_may_mean_more_is_looked_at_whole() {
    let config = json!({
        "logout_uri_suffix": "/out", "logout_post_arg": "logout",
        "backchannel_logout_uri_suffix": "/back", "login_initiation_uri_suffix": "/begin",
        "redirect_uri": ["http://gateway.example/api"],
    });
    let (mut gateway, held) = served(config);
    let mut check = |method: Method, uri: &str, expected| {
        let request = Request {
            method: method.clone(),
            ..Request::get(uri)
        };
        let passes = passes(&mut gateway, request, &[(COOKIE, &held)]);
        assert_eq!(passes, expected, "{method} {uri}");
    };
    check(Method::GET, "/api", true);
    check(Method::PUT, "/api?a", true);
    check(Method::POST, "/api", false);
    check(Method::DELETE, "/api", false);
    check(Method::OPTIONS, "/api", false);
    check(Method::GET, "/api?state=1&code=2", false);
    for path in ["/api/out", "/api/back", "/api/begin"] {
        check(Method::GET, path, false);
    }
}

#[test]
fn what_is_due_or_over_is_looked_at_whole() {
    let check = |config: Value, change: fn(&mut Gateway), expected: bool| {
        let (mut gateway, held) = served(config.clone());
        change(&mut gateway);
        let passes = passes(&mut gateway, Request::get("/api"), &[(COOKIE, &held)]);
        assert_eq!(passes, expected, "{config}");
    };
    check(json!({}), |_| {}, true);
    check(json!({}), |gateway| gateway.advance(300), false);
    check(
        json!({ "session_rolling_timeout": 100 }),
        |gateway| gateway.advance(99),
        false,
    );
    check(
        json!({ "session_idling_timeout": 100 }),
        |gateway| gateway.advance(30),
        false,
    );
    check(
        json!({}),
        |gateway| gateway.host.revocations().lose(true),
        false,
    );
    let rotated = |gateway: &mut Gateway| {
        gateway.environment.session_keys = KeyRing {
            keys: vec![session_key(2)],
        };
    };
    check(json!({}), rotated, false);
    for asks_more in [
        json!({ "session_bind": ["ip"] }),
        json!({ "reverify": true }),
        json!({ "search_user_info": true }),
        json!({ "login_methods": ["session"], "login_action": "response" }),
        json!({ "session_response_headers": ["timeout"] }),
    ] {
        check(asks_more, |_| {}, false);
    }
}

#[test]
fn a_mapped_consumer_is_looked_for_each_time() {
    let named = |names: &[&str]| {
        let mut consumers = Consumers::default();
        for name in names {
            consumers.add(&consumer(name, None));
        }
        consumers
    };
    let sub = "user-1";
    let mut gateway =
        Gateway::new(json!({ "consumer_claim": ["sub"], "consumer_by": ["username"] }));
    gateway.environment.consumers = named(&[sub]);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let held = cookies(&browser);
    let mut passes = |consumers: Consumers| {
        gateway.environment.consumers = consumers;
        passes(&mut gateway, Request::get("/api"), &[(COOKIE, &held)])
    };
    assert!(passes(named(&[sub])));
    assert!(!passes(named(&["somebody else"])));
    assert!(passes(named(&["somebody else", sub])));
}

#[test]
fn a_logout_ends_what_a_glance_would_let_go_on() {
    let (mut gateway, held) =
        served(json!({ "logout_uri_suffix": "/out", "logout_methods": ["GET"] }));
    let session = [(COOKIE, &*held)];
    assert!(passes(&mut gateway, Request::get("/api"), &session));
    let mut request = Request::get("/api/out");
    let value = HeaderValue::from_str(&held).unwrap();
    request.headers.push((COOKIE, value));
    assert_eq!(gateway.send(request).status, 302);
    assert!(!passes(&mut gateway, Request::get("/api"), &session));
}

#[test]
fn a_bearer_token_passes_at_a_glance_once_it_was_verified() {
    for methods in [json!(["bearer"]), json!(["session", "bearer"])] {
        let mut gateway = Gateway::new(json!({ "auth_methods": methods }));
        let token = gateway.provider.access_token(&[]);
        let bearer = format!("Bearer {token}");
        let check = |gateway: &mut Gateway, fields: &[(HeaderName, &str)], expected| {
            let passes = passes(gateway, Request::get("/api"), fields);
            assert_eq!(passes, expected, "{fields:?}");
        };
        let brought = (AUTHORIZATION, &*bearer);
        check(&mut gateway, std::slice::from_ref(&brought), false);
        assert_eq!(gateway.call(&token).status, 200);
        check(&mut gateway, std::slice::from_ref(&brought), true);
        let theirs = [
            brought.clone(),
            (COOKIE, "a=1"),
            (CONTENT_TYPE, "application/json"),
        ];
        check(&mut gateway, &theirs, true);
        for more in [
            (AUTHORIZATION, &*bearer),
            (COOKIE, "authorization_0123456789abcdef=1"),
            (
                CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=utf-8",
            ),
        ] {
            check(&mut gateway, &[brought.clone(), more], false);
        }
        let other = format!("Bearer {token}x");
        check(&mut gateway, &[(AUTHORIZATION, &*other)], false);
        assert!(!passes(
            &mut gateway,
            Request::get("/api?a"),
            std::slice::from_ref(&brought)
        ));
        gateway.advance(100_000);
        check(&mut gateway, &[brought], false);
    }
}
