//! Cookies of sign-ins under way: of one, of several at once, and those that are for the way back alone, which a start
//! does not see.

use http::header::{CONTENT_TYPE, COOKIE};
use http::{HeaderValue, Method};
use serde_json::json;
use shared::digest::sha256;
use shared::hexadecimal::hexadecimal;

use super::gateway::{Browser, Gateway, Reply};
use crate::host::Host;
use crate::sessions::seal::{self, Sizes};
use crate::testing::Request;

const LIST: &str = "authorization_list";

fn gateway() -> Gateway {
    Gateway::new(json!({
        "authorization_cookie_path": "/cb", "redirect_uri": ["http://gateway.example/cb"],
        "login_action": "redirect", "login_tokens": null,
    }))
}

/// Begins a sign-in where the browser sends no cookie that is for the way back alone.
fn start(gateway: &mut Gateway, browser: &mut Browser) -> Reply {
    let mut request = Request::get("/api");
    let sent = browser
        .cookies
        .get(LIST)
        .map(|list| format!("{LIST}={list}"));
    let sent = sent.map(|sent| (COOKIE, sent.parse().unwrap()));
    request.headers.extend(sent);
    let reply = gateway.send(request);
    assert_eq!(reply.status, 302);
    browser.keep(&reply);
    reply
}

/// How many sign-ins the browser has cookies of.
fn held(browser: &Browser) -> usize {
    let names = browser.cookies.keys();
    let others = [LIST, "authorization_trail"];
    let own = names.filter(|name| name.starts_with("authorization_"));
    own.filter(|name| !others.contains(&name.as_str())).count()
}

fn comes_back(gateway: &mut Gateway, browser: &mut Browser, start: &Reply) -> Reply {
    let back = format!("/cb?{}", gateway.provider.authorize(start.location()));
    browser.get(gateway, &back)
}

/// The names of the cookies that a browser has of sign-ins.
fn names(browser: &Browser) -> Vec<&str> {
    let names = browser.cookies.keys().map(String::as_str);
    names
        .filter(|name| name.starts_with("authorization"))
        .collect()
}

#[test]
fn a_sign_in_needs_the_cookie_of_kongs_name_as_it_was_and_no_other() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    let cookies = start.set_cookies();
    assert!(cookies[0].starts_with("authorization="), "{cookies:?}");
    let refused = |gateway: &mut Gateway, mut browser: Browser| {
        let reply = browser.get(gateway, &back);
        assert_eq!((reply.status, reply.sets_session()), (302, false));
    };
    let mut without = browser.clone();
    without.cookies.remove("authorization");
    refused(&mut gateway, without);
    let value = browser.cookies["authorization"].clone();
    for position in (0..value.len()).step_by(7) {
        let mut changed = browser.clone();
        let value = changed.cookies.get_mut("authorization").unwrap();
        let old = &value[position..=position];
        let new = if old == "A" { "B" } else { "A" };
        value.replace_range(position..=position, new);
        refused(&mut gateway, changed);
    }
    for part in [value.split_once('.').unwrap().0, &value[..value.len() - 1]] {
        let mut cut = browser.clone();
        cut.cookies
            .insert("authorization".to_owned(), part.to_owned());
        refused(&mut gateway, cut);
    }
    assert_eq!(gateway.provider.called("/token"), 0);
    // A client that knows of one cookie finishes with that.
    let mut alone = browser.clone();
    alone.cookies.retain(|name, _| name == "authorization");
    let reply = alone.get(&mut gateway, &back);
    assert!(reply.status == 200 && reply.sets_session());
    assert_eq!(names(&alone), [""; 0]);
}

#[test]
fn sign_ins_that_begin_at_once_or_one_after_the_other_all_land() {
    for at_once in [true, false] {
        let mut gateway = Gateway::new(json!({}));
        let mut browser = Browser::default();
        let starts: Vec<_> = (0..4)
            .map(|_| {
                let mut tab = if at_once {
                    Browser::default()
                } else {
                    browser.clone()
                };
                let start = tab.get(&mut gateway, "/api");
                browser.keep(&start);
                start
            })
            .collect();
        for number in [3, 0, 2, 1] {
            let back = format!(
                "/api?{}",
                gateway.provider.authorize(starts[number].location())
            );
            let reply = browser.get(&mut gateway, &back);
            assert!(reply.sets_session(), "{at_once} {number}");
            // What is over is in no cookie any more.
            let held = browser.cookies.get("authorization");
            let held = held.is_some_and(|value| value.contains('.'));
            assert!(!held, "{at_once} {number}");
        }
        assert_eq!(names(&browser), [""; 0]);
    }
}

#[test]
fn a_cookie_that_holds_the_sign_in_of_one_plugin_is_the_mark_of_another() {
    let config = json!({});
    let [mut one, mut two] = Gateway::two(&config);
    two.filter = super::gateway::compile(&config, 8);
    let mut browser = Browser::default();
    let to_one = browser.get(&mut one, "/one");
    let back_one = format!("/one?{}", one.provider.authorize(to_one.location()));
    // Of two answers that come at once the first plugin's cookie stays.
    let mark = browser.cookies["authorization"].clone();
    let to_two = browser.get(&mut two, "/two");
    browser.cookies.insert("authorization".to_owned(), mark);
    let back_two = format!("/two?{}", one.provider.authorize(to_two.location()));
    assert!(browser.get(&mut two, &back_two).sets_session());
    browser.cookies.remove("session");
    assert!(browser.get(&mut one, &back_one).sets_session());
    assert_eq!(names(&browser), [""; 0]);
}

#[test]
fn rule_17_a_start_that_sees_no_cookies_of_others_takes_the_oldest_back() {
    let (mut gateway, mut browser) = (gateway(), Browser::default());
    let first = start(&mut gateway, &mut browser);
    let list = first
        .set_cookies()
        .into_iter()
        .find(|cookie| cookie.starts_with(LIST));
    let list = list.unwrap();
    assert!(
        list.contains("; Path=/;") && list.contains("Max-Age=600"),
        "{list}"
    );
    let mut newest = first;
    for _ in 0..200 {
        gateway.advance(1);
        newest = start(&mut gateway, &mut browser);
        assert!(held(&browser) <= 20);
        let taken_back = newest.set_cookies().into_iter();
        let mut taken_back = taken_back.filter(|cookie| cookie.contains("Max-Age=0"));
        assert!(taken_back.all(|cookie| cookie.contains("; Path=/cb")));
    }
    assert!(held(&browser) >= 15 && browser.cookies[LIST].len() < 400);
    let reply = comes_back(&mut gateway, &mut browser, &newest);
    assert_eq!(reply.location(), "http://gateway.example/api");
    assert_eq!(browser.get(&mut gateway, "/api").seen("cookie"), None);
}

#[test]
fn rule_17_the_way_back_takes_back_all_but_the_newest() {
    let (mut gateway, mut browser) = (gateway(), Browser::default());
    // Many at once: none knows of another.
    let mut starts = Vec::new();
    for _ in 0..60 {
        browser.cookies.remove(LIST);
        gateway.advance(1);
        starts.push(start(&mut gateway, &mut browser));
    }
    assert_eq!(held(&browser), 60);
    let newest = starts.pop().unwrap();
    let reply = comes_back(&mut gateway, &mut browser, &newest);
    assert!(reply.sets_session());
    assert!((10..=20).contains(&held(&browser)), "{}", held(&browser));
    // Those that are left still land, and the last leaves none.
    let next = starts.pop().unwrap();
    assert!(comes_back(&mut gateway, &mut browser, &next).sets_session());
}

#[test]
fn a_list_that_is_not_ours_takes_nothing_back() {
    let (mut gateway, mut browser) = (gateway(), Browser::default());
    for _ in 0..25 {
        start(&mut gateway, &mut browser);
    }
    let list = browser.cookies[LIST].clone();
    for planted in [
        "",
        "x",
        &list[1..],
        &browser.cookies["authorization"].clone(),
    ] {
        browser.cookies.insert(LIST.to_owned(), planted.to_owned());
        let reply = start(&mut gateway, &mut browser);
        let cookies = reply.set_cookies();
        assert!(
            cookies.iter().all(|cookie| !cookie.contains("Max-Age=0")),
            "{planted}"
        );
    }
}

/// A path of some 300 characters that does not repeat itself.
fn long_path(number: usize) -> String {
    let parts = (0..9).map(|part| sha256(format!("{number} {part}").as_bytes()));
    let parts: Vec<_> = parts.map(|part| hexadecimal(&part[..16])).collect();
    format!("/{}", parts.join("/"))
}

#[test]
fn twenty_sign_ins_in_one_browser_all_land_on_the_pages_that_they_began_at() {
    let host = "https://portal.customer-name.example.com";
    for (mode, back) in [
        ("query", Some("/cb")),
        ("query", None),
        ("form_post", Some("/cb")),
        ("form_post", None),
    ] {
        let redirect_uri = back.map(|path| json!([format!("{host}{path}")]));
        let config = json!({
            "redirect_uri": redirect_uri, "response_mode": mode, "preserve_query_args": true,
            "login_action": "redirect", "login_tokens": null,
        });
        let mut nodes = Gateway::two(&config);
        let mut browser = Browser::default();
        let at_host = |browser: &mut Browser, node: &mut Gateway, mut request: Request| {
            node.https = true;
            request.authority = "portal.customer-name.example.com";
            browser.send(node, request)
        };
        let starts: Vec<_> = (0..20)
            .map(|number| {
                let uri = format!("{}?page={number}", long_path(number));
                let start = at_host(&mut browser, &mut nodes[number % 2], Request::get(&uri));
                assert_eq!(start.status, 302, "{start:?}");
                (uri, start)
            })
            .collect();
        let cookies = browser.cookies.iter();
        let sent: usize = cookies
            .map(|(name, value)| name.len() + value.len() + 3)
            .sum();
        // Half of what servers read of one header: a session's own cookies go beside them.
        assert!(sent < 4_608, "{mode} {back:?}: {sent}");
        for (number, (uri, start)) in starts.iter().enumerate() {
            let answer = nodes[0].provider.authorize(start.location());
            let back = back.unwrap_or_else(|| uri.split('?').next().unwrap());
            let mut request = Request::get(back);
            if mode == "query" {
                request = Request::get(&format!("{back}?{answer}"));
            } else {
                request.method = Method::POST;
                request.body = answer.into();
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                request.headers.push((CONTENT_TYPE, kind));
            }
            let reply = at_host(&mut browser, &mut nodes[(number + 1) % 2], request);
            let expected = format!("{host}{uri}");
            assert_eq!(reply.location(), expected, "{mode} {back:?} {number}");
        }
        let mut left = browser.cookies.keys();
        assert!(left.all(|name| !name.contains("authorization") || name.ends_with("trail")));
    }
}

#[test]
fn a_sign_in_that_the_version_before_has_begun_lands() {
    let mut gateway = Gateway::new(json!({
        "login_action": "redirect", "login_tokens": null,
        "require_proof_key_for_code_exchange": false,
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/there");
    let [state, nonce] = ["state", "nonce"].map(|name| start.argument(name).unwrap());
    let rules = &gateway.filter.0;
    let name = browser.cookies.keys();
    let name = name.clone().find(|name| name.starts_with("authorization_"));
    let name = name.unwrap().clone();
    let now = gateway.host.now();
    let told = json!({
        "s": state, "n": nonce, "c": 0, "r": "http://gateway.example/there", "t": "", "q": "page=1",
        "a": now,
    });
    let (ring, sizes) = (
        &gateway.environment.session_keys,
        Sizes {
            chunk: 3_800,
            most: 2,
        },
    );
    let (text, seconds) = (told.to_string(), now.as_secs());
    let sealed = seal::seal(
        ring,
        &rules.binding,
        &name,
        text.as_bytes(),
        sizes,
        seconds,
        [7; 12],
    );
    // It held the sign-in, and does no more.
    let value = &browser.cookies["authorization"];
    assert!(value.contains(&browser.cookies[&name]));
    let next = browser.get(&mut gateway, "/elsewhere");
    assert_eq!(next.status, 302);
    browser.cookies.insert(name, sealed.unwrap());
    let answer = gateway.provider.authorize(start.location());
    let reply = browser.get(&mut gateway, &format!("/there?{answer}"));
    assert_eq!(reply.location(), "http://gateway.example/there?page=1");
    assert!(reply.sets_session());
}

#[test]
fn a_long_url_is_returned_to() {
    let mut gateway = Gateway::new(json!({ "login_action": "redirect", "login_tokens": null }));
    let long = |parts: usize| -> String { (0..parts).map(long_path).collect() };
    for parts in [1, 2, 8, 14] {
        let long = long(parts);
        let reply = Browser::default().sign_in(&mut gateway, &long);
        let expected = format!("http://gateway.example{long}");
        assert_eq!((reply.status, reply.location()), (302, expected.as_str()));
    }
    for parts in [60, 200] {
        let reply = Browser::default().get(&mut gateway, &long(parts));
        assert_eq!(reply.status, 400);
        assert_eq!(
            reply.json()["message"],
            "The URL is too long to return to after a sign-in"
        );
    }
}
