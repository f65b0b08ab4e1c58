//! The way back from the provider, when it is taken late, twice or in vain.

use std::rc::Rc;

use bytes::Bytes;
use http::Method;
use http::header::COOKIE;
use serde_json::{Value, json};
use shared::digest::sha256;
use shared::hexadecimal::hexadecimal;

use super::conformance::reason;
use super::gateway::{Browser, Gateway, Reply};
use crate::testing::Request;

/// A gateway, a browser that signed in at it, and the URI that the provider sent it back to.
fn signed_in(config: Value) -> (Gateway, Browser, String) {
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = way_back(&gateway, &start);
    let reply = browser.get(&mut gateway, &back);
    assert!(reply.sets_session(), "{reply:?}");
    (gateway, browser, back)
}

fn way_back(gateway: &Gateway, start: &Reply) -> String {
    let url = url::Url::parse(&start.argument("redirect_uri").unwrap()).unwrap();
    let query = gateway.provider.authorize(start.location());
    format!("{}?{query}", url.path())
}

#[test]
fn sign_ins_of_two_plugins_on_one_host_leave_each_other_alone() {
    let config = json!({});
    let [mut one, mut two] = Gateway::two(&config);
    two.filter = super::gateway::compile(&config, 8);
    for both_first in [true, false] {
        let mut browser = Browser::default();
        let to_one = browser.get(&mut one, "/one");
        let to_two = browser.get(&mut two, "/two");
        let (back_one, back_two) = (way_back(&one, &to_one), way_back(&two, &to_two));
        if both_first {
            assert_eq!(browser.get(&mut one, &back_one).status, 200);
            assert_eq!(browser.get(&mut two, &back_two).status, 200);
        } else {
            assert_eq!(browser.get(&mut two, &back_two).status, 200);
            assert_eq!(browser.get(&mut one, &back_one).status, 200);
        }
        let left = browser
            .cookies
            .keys()
            .filter(|name| name.starts_with("authorization"));
        assert_eq!(left.count(), 0);
        // A sign-in is still its plugin's alone, and the mark still one of ours.
        let mut browser = Browser::default();
        let start = browser.get(&mut one, "/one");
        let back = way_back(&one, &start);
        assert_ne!(browser.clone().get(&mut two, &back).status, 200);
        let mark = browser.cookies["authorization"].replace(['A', 'B', 'C'], "D");
        browser.cookies.insert("authorization".to_owned(), mark);
        assert_eq!(browser.get(&mut one, &back).status, 302);
    }
}

/// So many times 64 characters that do not repeat themselves.
fn noise(times: usize) -> String {
    let parts = (0..times).map(|part| hexadecimal(&sha256(&part.to_be_bytes())));
    parts.collect()
}

#[test]
fn a_query_that_no_single_cookie_holds_comes_back_on_any_node() {
    let config = json!({ "preserve_query_args": true });
    let [mut one, mut two] = Gateway::two(&config);
    let query = format!("hello={}", noise(100));
    let mut browser = Browser::default();
    for tab in 0..5 {
        let start = browser.get(&mut one, &format!("/api?{query}{tab}"));
        assert_eq!(start.status, 302, "{start:?}");
        let cookies = start.set_cookies();
        assert!(cookies.iter().all(|cookie| cookie.len() <= 4_096));
        let sizes = browser
            .cookies
            .iter()
            .map(|(name, value)| name.len() + value.len());
        assert!(sizes.sum::<usize>() < 16 * 1024);
        let back = format!("/api?{}", one.provider.authorize(start.location()));
        // Half of it is none.
        let mut robbed = browser.clone();
        robbed
            .cookies
            .retain(|name, _| name.len() != "authorization_".len() + 17);
        let reply = robbed.get(&mut two, &back);
        assert!(reply.status != 200 && !reply.sets_session(), "{reply:?}");
        if tab == 4 {
            let reply = browser.get(&mut two, &back);
            assert_eq!(
                reply.upstream.unwrap().0,
                format!("/api?{query}{tab}").as_str()
            );
        }
    }
    browser.cookies.remove("session");
    // What was forgotten on the way, and what succeeded, has left nothing behind.
    let left = browser
        .cookies
        .keys()
        .filter(|name| name.starts_with("authorization_"))
        .count();
    assert!(left % 2 == 0 && left <= 4, "{:?}", browser.cookies.keys());
    // More than two cookies hold is too long to return to.
    let reply = Browser::default().get(&mut one, &format!("/api?hello={}", noise(250)));
    assert_eq!(reply.status, 400);
}

#[test]
fn rule_25_a_reloaded_callback_leads_to_its_url_without_the_code() {
    let (mut gateway, mut browser, back) = signed_in(json!({}));
    let reply = browser.get(&mut gateway, &back);
    assert_eq!(
        (reply.status, reply.location()),
        (302, "http://gateway.example/api")
    );
    let reply = browser.get(&mut gateway, &format!("{back}&page=2&session_state=x"));
    assert_eq!(reply.location(), "http://gateway.example/api?page=2");
    assert_eq!(gateway.provider.called("/token"), 1);
    assert_eq!(browser.get(&mut gateway, "/api?page=2").status, 200);
}

#[test]
fn a_reloaded_callback_leads_where_sign_ins_lead() {
    let config =
        json!({ "login_action": "redirect", "login_redirect_uri": ["https://app.example/home"] });
    let (mut gateway, mut browser, back) = signed_in(config);
    let reply = browser.get(&mut gateway, &back);
    assert_eq!(
        (reply.status, reply.location()),
        (302, "https://app.example/home")
    );
}

#[test]
fn a_reposted_callback_leads_to_its_url_as_well() {
    let mut gateway = Gateway::new(json!({ "response_mode": "form_post" }));
    gateway.https = true;
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let form = gateway.provider.authorize(start.location());
    assert_eq!(browser.post(&mut gateway, "/api", &form).status, 200);
    let reply = browser.post(&mut gateway, "/api", &form);
    assert_eq!(
        (reply.status, reply.location()),
        (302, "https://gateway.example/api")
    );
}

#[test]
fn a_json_body_is_no_authorization_response() {
    let mut gateway = Gateway::new(json!({ "response_mode": "form_post" }));
    gateway.https = true;
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let query = gateway.provider.authorize(start.location());
    let members: serde_json::Map<_, _> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
        .collect();
    let mut request = Request::get("/api");
    request.method = Method::POST;
    request.body = Value::Object(members).to_string().into();
    let kind = http::HeaderValue::from_static("application/json");
    request.headers.push((http::header::CONTENT_TYPE, kind));
    let reply = browser.send(&mut gateway, request);
    assert!(!reply.sets_session());
    assert_eq!(gateway.provider.called("/token"), 0);
    // The sign-in goes on as if nothing had been.
    assert_eq!(browser.post(&mut gateway, "/api", &query).status, 200);
}

#[test]
fn a_callback_of_another_application_goes_upstream_untouched() {
    let (mut gateway, mut browser, _) = signed_in(json!({}));
    let reply = browser.get(&mut gateway, "/api?code=theirs&state=theirs");
    let (uri, _) = reply.upstream.unwrap();
    assert_eq!(uri, "/api?code=theirs&state=theirs");
}

#[test]
fn a_state_of_another_plugin_is_not_ours() {
    let (mut gateway, mut browser, _) = signed_in(json!({}));
    let mut other = Gateway::with_provider(
        &json!({ "session_secret": "another" }),
        Rc::clone(&gateway.provider),
        2,
    );
    let start = Browser::default().get(&mut other, "/api");
    let back = way_back(&other, &start);
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
}

#[test]
fn a_reload_without_a_session_begins_anew_and_ends_at_a_clean_url() {
    let (mut gateway, mut browser, back) = signed_in(json!({}));
    browser.cookies.clear();
    let start = browser.get(&mut gateway, &back);
    assert_eq!(start.status, 302);
    assert_eq!(
        start.argument("redirect_uri").unwrap(),
        "http://gateway.example/api"
    );
    let again = way_back(&gateway, &start);
    let reply = browser.get(&mut gateway, &again);
    assert_eq!(reply.upstream.unwrap().0, "/api");
}

#[test]
fn who_was_too_slow_still_ends_where_they_wanted_to_go() {
    let mut gateway = Gateway::new(json!({
        "redirect_uri": ["http://gateway.example/callback"],
        "login_action": "redirect", "login_tokens": null, "preserve_query_args": true,
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/page?number=7");
    let late = way_back(&gateway, &start);
    gateway.advance(700);
    let again = browser.get(&mut gateway, &late);
    assert_eq!((again.status, gateway.provider.called("/token")), (302, 0));
    let back = way_back(&gateway, &again);
    let reply = browser.get(&mut gateway, &back);
    assert_eq!(reply.location(), "http://gateway.example/page?number=7");
}

#[test]
fn rule_28_a_look_ahead_uses_no_code_up() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = way_back(&gateway, &start);
    let mut look = Request::get(&back);
    look.method = Method::HEAD;
    let reply = browser.send(&mut gateway, look);
    assert_eq!(reply.status, 405);
    assert_eq!(reply.headers["allow"], "GET");
    assert!(reply.set_cookies().is_empty());
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
}

#[test]
fn a_browser_that_keeps_no_cookie_is_told_so() {
    let mut gateway = Gateway::new(json!({}));
    let mut reply = Browser::default().get(&mut gateway, "/api");
    let mut rounds = 0;
    while reply.status == 302 {
        rounds += 1;
        assert!(rounds < 10, "it goes on for ever");
        let back = way_back(&gateway, &reply);
        reply = Browser::default().get(&mut gateway, &back);
    }
    assert_eq!((reply.status, rounds), (400, 3));
    let text = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(text.contains("Allow cookies"), "{text}");
}

#[test]
fn rule_18_a_browser_that_sends_no_strict_cookie_is_not_said_to_keep_none() {
    let config = json!({ "login_action": "redirect", "session_cookie_same_site": "Strict" });
    let (mut gateway, mut browser) = (Gateway::new(config), Browser::default());
    for _ in 0..3 {
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 302);
        browser.cookies.remove("session");
    }
    let told = browser.get(&mut gateway, "/api").json()["message"].to_string();
    assert!(
        told.contains("SameSite=Strict") && !told.contains("keep"),
        "{told}"
    );
}

#[test]
fn rule_18_a_browser_that_keeps_no_session_is_told_so() {
    let config = json!({ "login_action": "redirect", "login_tokens": null });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    for _ in 0..3 {
        let reply = browser.sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, 302);
        browser
            .cookies
            .retain(|name, _| !name.starts_with("session"));
    }
    // A page that explains, and that leads nowhere by itself; nothing is asked of the provider for it.
    let calls = gateway.provider.calls.borrow().len();
    let reply = browser.get_with(&mut gateway, "/api", "accept", "text/html");
    assert_eq!((reply.status, reason(&gateway)), (400, "loop".to_owned()));
    assert!(reply.headers.get("location").is_none() && reply.set_cookies().is_empty());
    for (name, value) in [
        ("content-type", "text/html"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'"),
    ] {
        let found = reply.headers[name].to_str().unwrap();
        assert!(found.starts_with(value), "{name}: {found}");
    }
    let page = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(page.contains("Signing in goes round in circles"), "{page}");
    for leads_on in ["http-equiv", "<script", "<form", "href"] {
        assert!(!page.contains(leads_on), "{page}");
    }
    assert_eq!(gateway.provider.calls.borrow().len(), calls);
    // To a program it says the same; another browser is not held up, nor this one later.
    let told = browser.get(&mut gateway, "/api").json()["message"].to_string();
    assert!(told.contains("Allow cookies"), "{told}");
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
    gateway.advance(30);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_25_no_referer_tells_the_code() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let page = browser.sign_in(&mut gateway, "/api");
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["referrer-policy"], "strict-origin");
    let next = browser.get(&mut gateway, "/api");
    assert!(!next.headers.contains_key("referrer-policy"));
}

#[test]
fn rule_18_a_session_that_was_used_counts_for_no_circle() {
    let config = json!({ "login_action": "redirect", "login_tokens": null });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    for _ in 0..6 {
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 302);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        // Whatever ends it: here its cookie is gone.
        let kept = |name: &String| !name.starts_with("session");
        browser.cookies.retain(|name, _| kept(name));
    }
}

#[test]
fn a_sign_in_ends_by_the_way_that_it_was_begun_for() {
    for posted in [false, true] {
        let mode = |posted| json!({ "response_mode": if posted { "form_post" } else { "query" } });
        let mut gateway = Gateway::new(mode(posted));
        gateway.https = true;
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let answer = gateway.provider.authorize(start.location());
        gateway.filter = super::gateway::compile(&mode(!posted), 7);
        let mut come = |by_post: bool| {
            if by_post {
                browser.post(&mut gateway, "/api", &answer)
            } else {
                browser.get(&mut gateway, &format!("/api?{answer}"))
            }
        };
        if posted {
            assert_eq!(come(false).status, 405);
        }
        assert_eq!(come(posted).status, 200);
    }
}

#[test]
fn many_tabs_short_sessions_and_logouts_make_no_circle() {
    let config = json!({
        "login_action": "redirect", "login_tokens": null, "session_rolling_timeout": 2,
        "logout_query_arg": "logout", "logout_methods": ["GET"],
    });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    for _ in 0..6 {
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 302);
        gateway.advance(2);
    }
    for _ in 0..6 {
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 302);
        assert!(browser.get(&mut gateway, "/api?logout=1").ends_session());
    }
    let starts: Vec<_> = (0..8)
        .map(|_| {
            // Each tab asks before another one has its answer.
            let mut tab = Browser::default();
            let start = tab.get(&mut gateway, "/api");
            browser.cookies.extend(tab.cookies);
            start
        })
        .collect();
    for start in starts {
        let back = way_back(&gateway, &start);
        assert_eq!(browser.get(&mut gateway, &back).status, 302);
    }
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_2_an_altered_state_is_not_ours() {
    let (mut gateway, mut browser, back) = signed_in(json!({}));
    let altered = back.replace("state=AQE", "state=AQF");
    assert_ne!(altered, back);
    assert_eq!(browser.get(&mut gateway, &altered).status, 200);
}

#[test]
fn a_body_may_choose_the_client() {
    let config = json!({ "client_id": ["one", "two"], "client_secret": ["s1", "s2"] });
    let check = |kind: &'static str, body: &'static str, chosen: &str| {
        let mut gateway = Gateway::new(config.clone());
        let mut request = Request::get("/api");
        request.method = Method::POST;
        request.body = Bytes::from_static(body.as_bytes());
        request.headers.push((
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static(kind),
        ));
        let reply = gateway.send(request);
        assert_eq!(
            reply.argument("client_id").as_deref(),
            Some(chosen),
            "{body}"
        );
    };
    let (form, json) = ("application/x-www-form-urlencoded", "application/json");
    check(form, "client_id=two", "two");
    check(form, "client_id=2", "two");
    check(form, "client_id=99", "one");
    check(json, r#"{"client_id":2}"#, "two");
    check(json, r#"{"client_id":"two"}"#, "two");
    check(json, r#"{"client_id":null}"#, "one");
    check(json, "{", "one");
    check("text/plain", "client_id=two", "one");
}

#[test]
fn the_trail_of_sign_ins_never_reaches_the_upstream() {
    let config = json!({ "login_action": "redirect", "login_tokens": null });
    let (mut gateway, mut browser, _) = signed_in(config);
    assert!(browser.cookies.contains_key("authorization_trail"));
    browser.cookies.insert("theirs".to_owned(), "1".to_owned());
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!(reply.seen(COOKIE.as_str()), Some("theirs=1"));
}

#[test]
fn rule_25_what_the_provider_posts_goes_no_further() {
    for (config, left) in [
        (json!({ "response_mode": "form_post" }), "/api"),
        (
            json!({ "response_mode": "form_post", "preserve_query_args": true }),
            "/api?x=1",
        ),
        (
            json!({ "response_mode": "form_post", "response_type": ["code id_token"] }),
            "/api",
        ),
        (json!({ "response_mode": "form_post.jwt" }), "/api"),
    ] {
        let mut gateway = Gateway::new(config.clone());
        for (more, sent) in [("", ""), ("&theirs=a%20b", "theirs=a%20b")] {
            let mut browser = Browser::default();
            let start = browser.get(&mut gateway, "/api?x=1");
            let form = gateway.provider.authorize(start.location());
            let reply = browser.post(&mut gateway, "/api", &format!("{form}{more}"));
            let (uri, _) = reply.upstream.as_ref().expect("it goes upstream");
            assert_eq!(uri.to_string(), left, "{config}");
            assert_eq!(reply.sent.as_deref(), Some(sent.as_bytes()), "{config}");
        }
    }
}

#[test]
fn a_callback_that_is_brought_again_leads_where_its_own_client_does() {
    let mut gateway = Gateway::new(json!({
        "client_id": ["one", "two"], "client_secret": ["secret", "secret"],
        "login_action": "redirect", "login_tokens": null,
        "login_redirect_uri": ["http://one.example/", "http://two.example/"],
    }));
    gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("two"))];
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api?client_id=2");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    let copy = browser.clone();
    for mut browser in [browser.clone(), copy] {
        for _ in 0..2 {
            let reply = browser.get(&mut gateway, &back);
            assert_eq!(
                (reply.status, reply.location()),
                (302, "http://two.example/")
            );
        }
    }
}
