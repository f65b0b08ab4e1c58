//! What the requirements of a relying party's security say of requests: by which way an answer may come, who is asked
//! what, and what nobody is told, by their numbers.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use shared::types::RouteHost;

use super::conformance::reason;
use super::gateway::{Browser, Gateway, Reply};
use super::provider::{ISSUER, SigningKey};
use crate::bundled::openid_connect::check;
use crate::bundled::openid_connect::explain::Explanations;
use crate::exchange::Matched;
use crate::host::Host;
use crate::testing::Request;

fn options(fields: &[(&'static str, &'static str)]) -> Request {
    let mut request = Request::get("/api");
    request.method = Method::OPTIONS;
    for (name, value) in fields {
        let field = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        request.headers.push(field);
    }
    request
}

/// The findings of a check with `changes`, by what is checked and how it went.
fn findings(gateway: &Gateway, changes: &Value) -> Vec<(String, String, String)> {
    let mut config =
        json!({ "issuer": ISSUER, "client_id": ["client"], "client_secret": ["secret"] });
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    let told = gateway
        .host
        .run(check::run(&config, &gateway.host))
        .unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = told["findings"].as_array().unwrap().iter();
    all.map(|finding| {
        (
            text(&finding["check"]),
            text(&finding["result"]),
            text(&finding["detail"]),
        )
    })
    .collect()
}

#[test]
fn rule_9_openid_is_asked_for_once_and_missed_where_it_is_not() {
    let scope = |scopes: Value| {
        let mut gateway = Gateway::new(json!({ "scopes": scopes }));
        let start = Browser::default().get(&mut gateway, "/api");
        start.argument("scope")
    };
    let asked = scope(json!(["openid", "email openid", "email", "profile"]));
    assert_eq!(asked.as_deref(), Some("openid email profile"));
    assert_eq!(scope(json!(["email"])).as_deref(), Some("email"));
    assert_eq!(scope(Value::Null), None);
    let gateway = Gateway::new(json!({}));
    let warned = |scopes: Value| {
        let found = findings(&gateway, &json!({ "scopes": scopes }));
        let missed = "sign-ins do not ask for an ID token";
        found
            .iter()
            .any(|(_, result, detail)| result == "warn" && detail == missed)
    };
    assert!(warned(json!(["email"])) && warned(Value::Null));
    assert!(!warned(json!(["email openid"])));
}

#[test]
fn rule_20_an_answer_comes_by_the_way_that_was_asked_for() {
    for (mode, wrong, right) in [("query", "POST", "GET"), ("form_post", "GET", "POST")] {
        let mut gateway = Gateway::new(json!({ "response_mode": mode }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let query = gateway.provider.authorize(start.location());
        let bring = |gateway: &mut Gateway, browser: &mut Browser, method: &str, query: &str| {
            if method == "POST" {
                browser.post(gateway, "/api", query)
            } else {
                browser.get(gateway, &format!("/api?{query}"))
            }
        };
        let reply = bring(&mut gateway, &mut browser, wrong, &query);
        assert_eq!(
            (reply.status, &reply.headers["allow"]),
            (405, &right.parse().unwrap())
        );
        assert!(reply.set_cookies().is_empty() && gateway.provider.called("/token") == 0);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let mut request = Request::get(&format!("/api?{query}"));
            request.method = method.clone();
            let reply = browser.send(&mut gateway, request);
            let outcome = (reply.status, reply.set_cookies().len());
            assert_eq!(outcome, (405, 0), "{mode} {method}");
        }
        let reply = bring(&mut gateway, &mut browser, right, &query);
        assert_eq!((reply.status, reply.sets_session()), (200, true), "{mode}");
    }
    // What is posted in the course of things is none.
    let (mut gateway, mut browser) = (Gateway::new(json!({})), Browser::default());
    browser.sign_in(&mut gateway, "/api");
    assert_eq!(
        browser
            .post(&mut gateway, "/api", "state=ohio&code=43")
            .status,
        200
    );
}

#[test]
fn rule_27_a_callback_shows_nothing_before_somebody_is_known() {
    let mut gateway = Gateway::new(json!({ "display_errors": true }));
    let mut browser = Browser::default();
    browser.get(&mut gateway, "/api");
    for query in [
        "state=%3Cscript%3Ewicked&code=%3Cscript%3Ewicked",
        "state=wicked&error=wicked&error_description=wicked",
    ] {
        for path in ["/api", "/other"] {
            let reply = browser.get(&mut gateway, &format!("{path}?{query}"));
            assert!(reply.upstream.is_none(), "{query}");
            let shown = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(!shown.contains("wicked"), "{shown}");
        }
    }
    assert_eq!(gateway.provider.called("/token"), 0);
}

#[test]
fn rule_47_a_bearer_token_is_for_somebody_and_of_now() {
    let config = json!({ "auth_methods": ["bearer"], "audience_required": ["api"] });
    let mut gateway = Gateway::new(config);
    let mut outcome = |changes: &[(&'static str, Value)]| {
        let token = gateway.provider.access_token(changes);
        let reply = gateway.call(&token);
        (reply.status, reason(&gateway))
    };
    assert_eq!(outcome(&[]).0, 200);
    assert_eq!(outcome(&[("aud", json!(["other", "api"]))]).0, 200);
    // Kong's answer to an audience that is not the required one is 403.
    for audience in [json!("other"), json!(["other"]), json!("apis"), Value::Null] {
        assert_eq!(
            outcome(&[("aud", audience)]),
            (403, "authz_denied".to_owned())
        );
    }
    assert_eq!(
        outcome(&[("iss", json!("https://evil.example"))]),
        (401, "at_iss".to_owned())
    );
    assert_eq!(outcome(&[("exp", json!(1))]), (401, "at_exp".to_owned()));
    let warned = |changes: Value| {
        let found = findings(&Gateway::new(json!({})), &changes);
        found
            .iter()
            .any(|(check, result, _)| check == "audience" && result == "warn")
    };
    assert!(warned(json!({})) && !warned(json!({ "audience_required": ["api"] })));
}

#[test]
fn rule_53_a_token_is_exchanged_once_it_is_known_to_be_one() {
    let config = json!({
        "auth_methods": ["bearer"], "token_exchange_endpoint": format!("{ISSUER}/exchange"),
        "scopes_required": ["openid"], "audience_required": ["api"],
    });
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("one"));
    let forged = gateway.provider.access_token(&[]);
    gateway.provider.script.borrow_mut().signs_with = None;
    let foreign = gateway.provider.access_token(&[("aud", json!("other"))]);
    let old = gateway.provider.access_token(&[("exp", json!(1))]);
    for token in [forged, foreign, old] {
        assert_ne!(gateway.call(&token).status, 200);
    }
    assert_eq!(gateway.provider.called("/exchange"), 0);
    // Each token is exchanged for itself.
    for serial in 1..=2 {
        let token = gateway.provider.access_token(&[("serial", json!(serial))]);
        let reply = gateway.call(&token);
        assert_eq!(reply.seen("authorization"), Some("Bearer exchanged"));
        assert_eq!(gateway.provider.called("/exchange"), serial);
    }
}

#[test]
fn rule_81_a_check_tells_nobody_what_listens_where() {
    let told = |prepare: &dyn Fn(&Gateway)| {
        let gateway = Gateway::new(json!({}));
        prepare(&gateway);
        let found = findings(&gateway, &json!({}));
        let failed: Vec<_> = found
            .into_iter()
            .filter(|(_, result, _)| result == "fail")
            .collect();
        assert!(!failed.is_empty());
        failed
    };
    let refuses = told(&|gateway| gateway.provider.script.borrow_mut().down = true);
    let hangs = told(&|gateway| gateway.host.hang(true));
    assert_eq!(refuses, hangs, "nobody there, or somebody silent");
    let nonsense = told(&|gateway| {
        let text = b"SSH-2.0-OpenSSH_9.2 secret".to_vec();
        gateway.provider.script.borrow_mut().discovery_text = Some(text);
    });
    assert!(
        nonsense
            .iter()
            .all(|(_, _, detail)| !detail.contains("SSH"))
    );
}

#[test]
fn rule_94_a_preflight_brings_nobody_along() {
    let config = json!({ "run_on_preflight": false });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let preflight = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "PUT"),
    ];
    let reply = browser.send(&mut gateway, options(&preflight));
    assert_eq!(reply.status, 200);
    for name in ["authorization", "x-credential-identifier", "cookie"] {
        assert_eq!(reply.seen(name), None, "{name}");
    }
    assert!(reply.set_cookies().is_empty() && reply.identity.credential.is_none());
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    assert_eq!(gateway.send(options(&preflight)).status, 401);
}

#[test]
fn rule_8_a_redirect_uri_that_is_made_from_the_request_is_a_url_that_a_provider_can_know() {
    for authority in [
        "", "gw:", ":80", "gw,evil", "gw:99999", "gw:0", "gw:+1", "[::1", "a@b", "[gw]",
    ] {
        let mut gateway = Gateway::new(json!({}));
        let request = Request {
            authority,
            ..Request::get("/api")
        };
        let reply = Browser::default().send(&mut gateway, request);
        assert_eq!(
            (reply.status, reply.set_cookies().len()),
            (400, 0),
            "{authority}"
        );
        assert_eq!(reason(&gateway), "redirect_uri_host");
        // One that is configured does not go by it.
        let mut gateway = Gateway::new(json!({ "redirect_uri": ["https://app.example/back"] }));
        let request = Request {
            authority,
            ..Request::get("/api")
        };
        let reply = Browser::default().send(&mut gateway, request);
        assert_eq!(reply.status, 302, "{authority}");
    }
    for authority in [
        "gw",
        "gw:8443",
        "gw_x.example.",
        "[::1]",
        "[::1]:80",
        "127.0.0.1",
    ] {
        for (path, encoded) in [
            ("/a|b\"c", "/a%7Cb%22c"),
            ("/a%2Fb;c=d/(x)~'!$&*+,@:", "/a%2Fb;c=d/(x)~'!$&*+,@:"),
            ("/%", "/%"),
        ] {
            let mut gateway = Gateway::new(json!({}));
            let mut browser = Browser::default();
            let request = Request {
                authority,
                ..Request::get(path)
            };
            let start = browser.send(&mut gateway, request);
            let expected = format!("http://{authority}{encoded}");
            assert_eq!(start.argument("redirect_uri"), Some(expected));
            let answer = gateway.provider.authorize(start.location());
            let back = format!("{encoded}?{answer}");
            let request = Request {
                authority,
                ..Request::get(&back)
            };
            assert!(browser.send(&mut gateway, request).sets_session());
        }
    }
}

#[test]
fn rule_8_rule_110_the_provider_leads_back_to_hosts_of_the_route_only() {
    let check = |hosts: &[&str], authority, configured: Option<&str>, expected| {
        let mut gateway = Gateway::new(json!({ "redirect_uri": configured.map(|uri| [uri]) }));
        let request = Request {
            authority,
            matched: Matched {
                hosts: hosts
                    .iter()
                    .map(|host| (&RouteHost::parse(*host).unwrap()).into())
                    .collect(),
                ..Matched::default()
            },
            ..Request::get("/api")
        };
        let reply = Browser::default().send(&mut gateway, request);
        assert_eq!(reply.status, expected, "{hosts:?} {authority}");
        if expected == 400 {
            assert_eq!(reason(&gateway), "redirect_uri_host");
        }
    };
    for (hosts, authority, expected) in [
        (&["app.example"][..], "app.example", 302),
        (&["app.example"], "App.example:8443", 302),
        (&["app.example:80"], "app.example:8443", 302),
        (&["app.example"], "evil.example", 400),
        (&["app.example"], "app.example.evil", 400),
        (&["a.example", "*.app.example"], "x.app.example", 302),
        (&["*.app.example"], "app.example", 400),
        (&["app.*"], "app.test", 302),
        (&["app.*"], "evil.app.test", 400),
        (&["[::1]:321"], "[::1]", 302),
        (&["::1"], "[::1]:80", 302),
        (&["::1"], "[::2]", 400),
        (&[], "evil.example", 302),
    ] {
        check(hosts, authority, None, expected);
    }
    let fixed = Some("https://app.example/back");
    check(&["app.example"], "evil.example", fixed, 302);
}

#[test]
fn an_error_that_is_registered_is_named() {
    for (error, told) in [("invalid_target", "invalid_target"), ("canary", "an error")] {
        let (mut gateway, mut browser) = (Gateway::new(json!({})), Browser::default());
        let start = browser.get(&mut gateway, "/api");
        let state = start.argument("state").unwrap();
        let reply = browser.get(&mut gateway, &format!("/api?error={error}&state={state}"));
        assert_eq!(reply.status, 401);
        let explanations = gateway.host.node_state::<Explanations>();
        let id = "0123456789abcdef0123456789abcdef";
        let explained = explanations.find(id, gateway.host.now()).unwrap();
        assert!(
            explained.to_string().contains(&format!("answered {told}")),
            "{explained}"
        );
    }
}

#[test]
fn rule_110_what_a_host_field_says_is_no_place_to_go_to() {
    let mut gateway = Gateway::new(json!({
        "redirect_uri": ["https://app.example/back"], "login_action": "redirect",
        "login_redirect_uri": ["https://app.example/home"], "login_tokens": null,
        "logout_uri_suffix": "/logout", "logout_methods": ["GET"],
        "logout_redirect_uri": ["https://app.example/bye"],
        "unauthorized_redirect_uri": ["https://app.example/no"],
    }));
    let mut browser = Browser::default();
    let mut ask = |gateway: &mut Gateway, uri: &str, location: &str| {
        let asked = Request {
            authority: "evil.example",
            ..Request::get(uri)
        };
        let reply = browser.send(gateway, asked);
        let told = format!("{:?} {:?}", reply.headers, reply.body);
        assert!(
            reply.status == 302 && !told.contains("evil"),
            "{uri}: {told}"
        );
        let target = reply.location();
        assert!(target.starts_with(location), "{uri}: {target}");
        reply
    };
    let idp = "https://idp.example/authorize";
    let start = ask(&mut gateway, "/api", idp);
    let redirect_uri = start.argument("redirect_uri");
    assert_eq!(redirect_uri.as_deref(), Some("https://app.example/back"));
    let state = start.argument("state").unwrap();
    let refused = format!("/back?error=access_denied&state={state}");
    ask(&mut gateway, &refused, "https://app.example/no");
    let start = ask(&mut gateway, "/api", idp);
    let back = format!("/back?{}", gateway.provider.authorize(start.location()));
    ask(&mut gateway, &back, "https://app.example/home");
    ask(&mut gateway, &back, "https://app.example/home");
    ask(&mut gateway, "/logout", "https://idp.example/");
}

#[test]
fn rule_106_no_page_of_ours_watches_the_providers_session() {
    let mut gateway = Gateway::new(json!({ "logout_uri_suffix": "/logout" }));
    gateway.provider.script.borrow_mut().discovery =
        vec![("check_session_iframe", json!("https://idp.example/watch"))];
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!(
        "/api?{}&session_state=x",
        gateway.provider.authorize(start.location())
    );
    let reply = browser.get(&mut gateway, &back);
    // What it would need goes nowhere, and nothing listens for messages.
    assert_eq!(reply.upstream.unwrap().0, "/api");
    assert_eq!(gateway.provider.called("/watch"), 0);
    let page = browser.get_with(&mut gateway, "/logout", "accept", "text/html");
    let page = String::from_utf8_lossy(&page.body).into_owned();
    for word in ["postMessage", "addEventListener", "iframe"] {
        assert!(!page.contains(word), "{page}");
    }
}

#[test]
fn rule_134_what_is_nearly_right_is_wrong() {
    let near = |right: &str| {
        let flipped = |at: usize| {
            let mut bytes = right.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        };
        let last = right.len() - 1;
        vec![
            flipped(0),
            flipped(last / 2),
            flipped(last),
            right[..last].to_owned(),
            format!("{right}A"),
            right.to_uppercase(),
            String::new(),
        ]
    };
    let mut gateway = Gateway::new(json!({}));
    let started = |gateway: &mut Gateway| {
        let mut browser = Browser::default();
        let start = browser.get(gateway, "/api");
        (browser, start)
    };
    let (_, start) = started(&mut gateway);
    for number in 0..near(&start.argument("nonce").unwrap()).len() {
        let (mut browser, start) = started(&mut gateway);
        let forged = near(&start.argument("nonce").unwrap()).swap_remove(number);
        gateway.provider.script.borrow_mut().id_claims = vec![("nonce", json!(forged))];
        let back = format!("/api?{}", gateway.provider.authorize(start.location()));
        assert_eq!(browser.get(&mut gateway, &back).status, 401, "{number}");
        gateway.provider.script.borrow_mut().id_claims.clear();

        let (mut browser, start) = started(&mut gateway);
        let state = start.argument("state").unwrap();
        let forged = near(&state).swap_remove(number);
        let back = gateway
            .provider
            .authorize(start.location())
            .replace(&state, &forged);
        let reply = browser.get(&mut gateway, &format!("/api?{back}"));
        assert!(!reply.sets_session(), "{number}");
    }
}

#[test]
fn rule_137_a_refusal_tells_of_its_own_request() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"], "display_errors": true }));
    for (own, other) in [("anna", "otto"), ("otto", "anna")] {
        let issuer = json!(format!("https://{own}.example"));
        let token = gateway.provider.access_token(&[("iss", issuer)]);
        let reply: Reply = gateway.call(&token);
        assert_eq!(reply.status, 401);
        let explanations = gateway.host.node_state::<Explanations>();
        let id = "0123456789abcdef0123456789abcdef";
        let told = explanations
            .find(id, gateway.host.now())
            .unwrap()
            .to_string();
        assert!(told.contains(own) && !told.contains(other), "{told}");
        assert!(!String::from_utf8_lossy(&reply.body).contains("example"));
    }
}

#[test]
fn rule_140_what_is_bad_asks_nobody() {
    let methods = ["session", "bearer", "authorization_code"];
    let mut gateway = Gateway::new(json!({ "auth_methods": methods }));
    Browser::default().get(&mut gateway, "/api");
    let before = gateway.provider.calls.borrow().len();
    let mut browser = Browser::default();
    for number in 0..50 {
        let value = "A".repeat(100 + number);
        browser.cookies.insert("session".to_owned(), value.clone());
        browser.cookies.insert("session2".to_owned(), value);
        assert_eq!(browser.get(&mut gateway, "/api").status, 302);
        assert_eq!(gateway.call(&format!("a.{number}.c")).status, 401);
        let mut body = Request::get("/api");
        body.method = Method::POST;
        body.body = Bytes::from_static(b"access_token=no%20token");
        gateway.send(body);
    }
    assert_eq!(gateway.provider.calls.borrow().len(), before);
}
