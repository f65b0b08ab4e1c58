//! Sessions that are remembered, bound, told of; explanations.

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use crate::bundled::openid_connect::explain::Explanations;
use crate::host::{Claim, Host};
use crate::testing::Request;

fn signed_in(config: &Value) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(config.clone());
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    (gateway, browser)
}

/// What is left when a browser is closed: the cookies that have an end.
fn close(browser: &mut Browser) {
    browser
        .cookies
        .retain(|name, _| name.starts_with("remember"));
}

#[test]
fn a_browser_that_was_closed_is_remembered() {
    let config = json!({ "session_remember": true, "session_remember_rolling_timeout": 1_000 });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    let cookies = reply.set_cookies();
    let remember = cookies
        .iter()
        .find(|cookie| cookie.starts_with("remember="));
    let remember = remember.unwrap();
    assert!(
        remember.contains("Max-Age=1000") && remember.contains("Expires="),
        "{remember}"
    );
    close(&mut browser);
    gateway.advance(10);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    // Its token has ended meanwhile: it is refreshed.
    close(&mut browser);
    gateway.advance(400);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    close(&mut browser);
    gateway.advance(1_000);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn requests_that_bring_an_old_cookie_are_given_the_same_new_one() {
    let config = json!({ "session_idling_timeout": 200, "session_rolling_timeout": 0 });
    let (mut gateway, browser) = signed_in(&config);
    let given = |gateway: &mut Gateway, seconds: u64| {
        gateway.advance(seconds);
        let reply = browser.clone().get(gateway, "/api");
        assert_eq!(reply.status, 200);
        let cookies = reply.set_cookies();
        cookies.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(given(&mut gateway, 49).is_empty());
    let first = given(&mut gateway, 1);
    assert_eq!(first.len(), 1);
    for _ in 0..1_000 {
        assert_eq!(given(&mut gateway, 0), first);
    }
    // Until the next one is due: the second fifty seconds.
    assert_eq!(given(&mut gateway, 49), first);
    let second = given(&mut gateway, 1);
    assert_ne!(second, first);
    assert_eq!(given(&mut gateway, 49), second);
    // It is still judged each time, and the new cookie is as good as any.
    let mut kept = browser.clone();
    let value = second[0].split([';', '=']).nth(1).unwrap();
    kept.cookies.insert("session".to_owned(), value.to_owned());
    gateway.advance(51);
    assert_eq!(browser.clone().get(&mut gateway, "/api").status, 302);
    assert_eq!(kept.get(&mut gateway, "/api").status, 200);
}

#[test]
fn a_client_that_keeps_no_cookies_is_restored_once_for_many_requests() {
    let config = json!({
        "session_remember": true, "logout_uri_suffix": "/logout", "session_idling_timeout": 200,
        "session_rolling_timeout": 0,
    });
    let (mut gateway, mut browser) = signed_in(&config);
    close(&mut browser);
    let given = |gateway: &mut Gateway, seconds: u64| {
        gateway.advance(seconds);
        let mut copy = browser.clone();
        let reply = copy.get(gateway, "/api");
        assert_eq!(reply.status, 200);
        let cookies = reply.set_cookies();
        let cookies: Vec<String> = cookies.iter().map(ToString::to_string).collect();
        (cookies, copy)
    };
    let (first, copy) = given(&mut gateway, 10);
    assert_eq!(first.len(), 2, "{first:?}");
    for _ in 0..100 {
        assert_eq!(given(&mut gateway, 0).0, first);
    }
    assert_eq!(given(&mut gateway, 49).0, first);
    // Until the next one is due: a quarter of the idling time.
    let (second, _) = given(&mut gateway, 1);
    assert_ne!(second, first);
    // Further chunks of an older session have to go.
    let mut stray = browser.clone();
    stray.cookies.insert("session2".to_owned(), "x".to_owned());
    let reply = stray.get(&mut gateway, "/api");
    let expired = reply.set_cookies();
    let expired = expired
        .iter()
        .any(|cookie| cookie.starts_with("session2=;"));
    assert!(expired, "{reply:?}");
    // What a browser is remembered by is no session.
    let mut swapped = browser.clone();
    let value = swapped.cookies.remove("remember").unwrap();
    swapped.cookies.insert("session".to_owned(), value);
    assert_eq!(swapped.get(&mut gateway, "/api").status, 302);
    // It ends where it would have ended, and with a logout of what was restored.
    let mut ended = copy;
    let mut late = browser.clone();
    ended.post(&mut gateway, "/logout", "");
    assert_eq!(late.get(&mut gateway, "/api").status, 302);
}

#[test]
fn what_is_restored_serves_no_longer_than_the_cookie_that_it_is_restored_from() {
    let config = json!({ "session_remember": true, "session_remember_rolling_timeout": 100 });
    let (mut gateway, mut browser) = signed_in(&config);
    close(&mut browser);
    for (seconds, status) in [(50, 200), (49, 200), (1, 302)] {
        gateway.advance(seconds);
        assert_eq!(browser.clone().get(&mut gateway, "/api").status, status);
    }
}

#[test]
fn nobody_is_remembered_for_longer_than_is_configured_for_all_in_all() {
    let (mut gateway, mut browser) = signed_in(&json!({
        "session_remember": true, "session_remember_rolling_timeout": 100,
        "session_remember_absolute_timeout": 150,
    }));
    for (seconds, status) in [(90, 200), (59, 200), (1, 302)] {
        close(&mut browser);
        gateway.advance(seconds);
        assert_eq!(browser.get(&mut gateway, "/api").status, status);
    }
}

#[test]
fn a_logout_forgets_a_browser_that_was_to_be_remembered() {
    let config = json!({ "session_remember": true, "logout_uri_suffix": "/logout" });
    let (mut gateway, mut browser) = signed_in(&config);
    let mut copy = browser.clone();
    browser.post(&mut gateway, "/logout", "");
    close(&mut browser);
    assert!(browser.cookies.is_empty());
    close(&mut copy);
    assert_eq!(copy.get(&mut gateway, "/api").status, 302);
}

#[test]
fn a_logout_ends_what_a_browser_was_remembered_by_before() {
    let config = json!({ "session_remember": true, "logout_uri_suffix": "/logout" });
    let (mut gateway, mut browser) = signed_in(&config);
    close(&mut browser);
    let mut copy = browser.clone();
    gateway.advance(10);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    browser.post(&mut gateway, "/logout", "");
    assert_eq!(copy.get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_67_a_session_serves_only_where_it_is_bound_to() {
    let (mut gateway, mut browser) =
        signed_in(&json!({ "session_bind": ["user-agent", "scheme"] }));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let reply = browser.get_with(&mut gateway, "/api", "user-agent", "another");
    assert_eq!(reply.status, 302);
}

#[test]
fn rule_66_a_planted_chunk_logs_nobody_out() {
    // Random text does not compress.
    let noise: String = (0_u64..100)
        .map(|n| blake3::hash(&n.to_be_bytes()).to_hex().to_string())
        .collect();
    let mut gateway = Gateway::new(json!({ "session_remember": true }));
    gateway.provider.script.borrow_mut().access_claims = vec![("noise", json!(noise))];
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    // A sibling domain knows what a cookie of ours looks like, and chooses how long the path of each is: before or behind.
    let altered = |value: &str| {
        let last = if value.ends_with('A') { "B" } else { "A" };
        format!("{}{last}", &value[..value.len() - 1])
    };
    for name in ["session", "remember"] {
        let [one, two] =
            ["", "2"].map(|number| browser.cookies[&format!("{name}{number}")].clone());
        let (false_one, false_two) = (altered(&one), altered(&two));
        let mut serves = |firsts: &[&str], seconds: &[&str]| {
            let cookies = |name: &str, values: &[&str]| {
                let cookies = values.iter().map(|value| format!("{name}={value}"));
                cookies.collect::<Vec<_>>().join("; ")
            };
            let further = cookies(&format!("{name}2"), seconds);
            let all = format!("{}; {further}; a=b", cookies(name, firsts));
            let reply = gateway.send(super::gateway::request("/api", &[("cookie", &all)]));
            let cookie = reply.upstream.map(|(_, headers)| headers["cookie"].clone());
            assert!(cookie.is_none_or(|cookie| cookie == "a=b"), "{name}");
            reply.status == 200
        };
        assert!(serves(&[&one], &[&two]), "{name}");
        assert!(serves(&[&one], &[&false_two, &two]), "{name}");
        assert!(serves(&[&one], &[&two, &false_two]), "{name}");
        assert!(serves(&[&one], &["x", "y", "z", &two, "w"]), "{name}");
        assert!(serves(&[&false_one, &one], &[&two, &false_two]), "{name}");
        assert!(serves(&[&one, &false_one], &[&false_two, &two]), "{name}");
        let firsts = [&false_one, &one, "AQI"];
        assert!(serves(&firsts, &[&false_two, "x", &two]), "{name}");
        assert!(
            !serves(&[&false_one, &false_one], &[&two, &false_two]),
            "{name}"
        );
        assert!(!serves(&[&one], &[&false_two]), "{name}");
    }
}

#[test]
fn upstream_and_client_are_told_of_the_session() {
    let facts = json!([
        "id",
        "audience",
        "subject",
        "timeout",
        "idling-timeout",
        "rolling-timeout",
        "absolute-timeout"
    ]);
    let config =
        json!({ "session_request_headers": facts, "session_response_headers": ["id", "timeout"] });
    let (mut gateway, mut browser) = signed_in(&config);
    gateway.advance(10);
    let reply = browser.get_with(&mut gateway, "/api", "session-subject", "forged");
    let told = |name: &str| reply.seen(name).map(str::to_owned);
    assert_eq!(told("session-subject").as_deref(), Some("user-1"));
    assert_eq!(told("session-audience").as_deref(), Some("default"));
    assert_eq!(told("session-timeout").as_deref(), Some("890"));
    assert_eq!(told("session-idling-timeout").as_deref(), Some("890"));
    assert_eq!(told("session-rolling-timeout").as_deref(), Some("3590"));
    assert_eq!(told("session-absolute-timeout").as_deref(), Some("86390"));
    assert_eq!(reply.headers["session-timeout"], "890");
    assert_eq!(
        reply.headers["session-id"].to_str().ok(),
        told("session-id").as_deref()
    );
    let owned = crate::filter::Filter::owned_headers(&gateway.filter);
    assert!(owned.iter().any(|name| name == "session-subject"));
}

#[test]
fn rule_57_over_tls_cookies_are_of_this_host_alone() {
    let mut gateway = Gateway::new(json!({}));
    gateway.https = true;
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    let cookies = reply.set_cookies();
    let session = cookies.iter().find(|cookie| cookie.contains("session="));
    let session = session.unwrap();
    assert!(
        session.starts_with("__Host-session=") && session.contains("; Secure"),
        "{session}"
    );
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.seen("cookie")), (200, None));
    // What a sibling may have planted is not believed, and does not go upstream.
    let value = browser.cookies.remove("__Host-session").unwrap();
    browser.cookies.insert("session".to_owned(), value);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn a_session_goes_on_for_its_grace_while_the_provider_is_away() {
    let (mut gateway, mut browser) = signed_in(&json!({ "refresh_grace": 100 }));
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(350);
    for _ in 0..5 {
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
    gateway.advance(60);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (503, false));
    gateway.provider.script.borrow_mut().down = false;
    gateway.advance(6);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    // Where nobody says whether another node was faster, a refusal ends it only once the browser would know.
    let (mut gateway, mut browser) = signed_in(&json!({ "refresh_grace": 0 }));
    gateway.host.claims(Claim::Alone);
    gateway.provider.script.borrow_mut().token_answer =
        Some((400, json!({ "error": "invalid_grant" })));
    gateway.advance(350);
    for (seconds, outcome) in [(0, (503, false)), (9, (503, false)), (1, (401, true))] {
        gateway.advance(seconds);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), outcome, "{seconds}");
    }
    // A refusal ends it at once.
    let (mut gateway, mut browser) = signed_in(&json!({}));
    gateway.provider.script.borrow_mut().token_answer =
        Some((400, json!({ "error": "invalid_grant" })));
    gateway.advance(350);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (401, true));
}

#[test]
fn a_provider_that_hangs_holds_a_session_up_once() {
    let (mut gateway, mut browser) = signed_in(&json!({ "timeout": 2_000 }));
    gateway.advance(350);
    gateway.host.hang(true);
    let started = gateway.host.now();
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert!(gateway.host.now().saturating_since(started).as_secs() <= 3);
    for _ in 0..3 {
        let started = gateway.host.now();
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        assert!(gateway.host.now().saturating_since(started).as_millis() <= 1_100);
    }
}

#[test]
fn rule_129_a_refusal_is_explained_without_secrets() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("another"))];
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 401);
    let explanations = gateway.host.node_state::<Explanations>();
    let id = "0123456789abcdef0123456789abcdef";
    let told = explanations.find(id, gateway.host.now()).unwrap();
    assert_eq!(
        (told["reason"].as_str(), told["step"].as_str()),
        (Some("idt_aud"), Some("ID token"))
    );
    assert_eq!(told["compared"]["aud"], "\"another\"");
    assert_eq!(told["compared"]["client_id"], "client");
    let text = told.to_string();
    for secret in ["code-0", "ey", "refresh-", "secret\""] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(explanations.metrics().contains("{reason=\"idt_aud\"} 1"));
    // A scope that is missing says which.
    let (mut gateway, mut browser) = (
        Gateway::new(json!({ "scopes_required": ["admin"] })),
        Browser::default(),
    );
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 403);
    let explanations = gateway.host.node_state::<Explanations>();
    let told = explanations.find(id, gateway.host.now()).unwrap();
    assert_eq!(told["compared"]["required"], "admin");
    // A token of which nothing is read says how long it is.
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    let long = ("note", json!("x".repeat(16 * 1024)));
    let token = gateway.provider.access_token(&[long]);
    assert_eq!(gateway.call(&token).status, 401);
    let explanations = gateway.host.node_state::<Explanations>();
    let told = explanations.find(id, gateway.host.now()).unwrap();
    assert_eq!(told["reason"], "at_long");
    let length = token.len().to_string();
    assert!(told.to_string().contains(&length), "{told}");
}

#[test]
fn a_person_whose_sign_in_fails_gets_a_page() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.get(&mut gateway, "/api");
    let state = "error=access_denied&error_description=%3Cscript%3E";
    let mut request = Request::get(&format!("/api?{state}&state=wrong"));
    request.headers.push((
        http::header::ACCEPT,
        HeaderValue::from_static("text/html,*/*"),
    ));
    let reply = browser.send(&mut gateway, request);
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, 401);
    assert!(
        text.starts_with("<!doctype html>") && !text.contains("script"),
        "{text}"
    );
    assert!(text.contains("Reference: 0123456789abcdef0123456789abcdef"));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
        ),
    ] {
        assert_eq!(reply.headers[name], value);
    }
}

#[test]
fn a_session_that_is_not_to_be_renewed_ends_though_it_is_used() {
    let mut gateway = Gateway::new(json!({
        "disable_session": ["session"], "session_idling_timeout": 40,
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(30);
    let used = browser.get(&mut gateway, "/api");
    assert_eq!((used.status, used.sets_session()), (200, false));
    gateway.advance(11);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_16_a_look_ahead_logs_nobody_out() {
    let mut gateway = Gateway::new(json!({
        "logout_uri_suffix": "/logout", "logout_methods": ["GET"],
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let ahead = browser.get_with(&mut gateway, "/logout", "sec-purpose", "prefetch;prerender");
    assert_eq!((ahead.status, ahead.set_cookies().len()), (204, 0));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert!(browser.get(&mut gateway, "/logout").ends_session());
}

#[test]
fn rule_96_a_host_beside_ours_cannot_log_a_user_out() {
    let (mut gateway, mut browser) = signed_in(&json!({ "logout_uri_suffix": "/logout" }));
    for (site, origin, ends) in [
        ("same-site", "http://beside.example", false),
        ("same-site", "null", false),
        ("same-site", "http://gateway.example", true),
        ("same-origin", "null", true),
    ] {
        let mut request = Request::get("/logout");
        request.method = Method::POST;
        for (name, value) in [("sec-fetch-site", site), ("origin", origin)] {
            let name = HeaderName::from_static(name);
            request
                .headers
                .push((name, HeaderValue::from_static(value)));
        }
        let reply = browser.clone().send(&mut gateway, request);
        assert_eq!(reply.ends_session(), ends, "{site} {origin}");
        assert_eq!(reply.status == 403, !ends, "{site} {origin}");
        browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
    }
}

#[test]
fn rule_96_a_link_of_a_host_beside_ours_asks_first_and_a_picture_is_refused() {
    let config = json!({ "logout_uri_suffix": "/logout", "logout_methods": ["GET"] });
    let sent = |site: &'static str, more: &[(&'static str, &'static str)]| {
        let (mut gateway, mut browser) = signed_in(&config);
        let mut request = Request::get("/logout");
        for (name, value) in [("sec-fetch-site", site)].iter().chain(more) {
            let name = HeaderName::from_static(name);
            request
                .headers
                .push((name, HeaderValue::from_static(value)));
        }
        let reply = browser.send(&mut gateway, request);
        (reply.status, reply.ends_session())
    };
    let (user, ours) = (
        ("sec-fetch-user", "?1"),
        ("referer", "http://gateway.example/"),
    );
    for site in ["same-site", "cross-site", "unheard-of"] {
        assert_eq!(sent(site, &[]), (403, false), "{site}");
        // One that was sent on has the first page's name.
        assert_eq!(sent(site, &[ours]), (403, false), "{site}");
        assert_eq!(sent(site, &[user, ours]), (200, false), "{site}");
    }
    // A link of the application itself, and an address that was typed (Kong's guide).
    for site in ["same-origin", "none"] {
        for more in [&[][..], &[user]] {
            assert_eq!(sent(site, more), (302, true), "{site}");
        }
    }
}
