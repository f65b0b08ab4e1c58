//! Cookies of sign-ins under way that are for the way back alone: a start does not see them.

use http::header::COOKIE;
use serde_json::json;

use super::gateway::{Browser, Gateway, Reply};
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

#[test]
fn a_long_url_is_returned_to() {
    let mut gateway = Gateway::new(json!({ "login_action": "redirect", "login_tokens": null }));
    let mut browser = Browser::default();
    let long = format!("/{}", "x".repeat(4000));
    let reply = browser.sign_in(&mut gateway, &long);
    let expected = format!("http://gateway.example{long}");
    assert_eq!((reply.status, reply.location()), (302, expected.as_str()));
    let longer = format!("/{}", "x".repeat(6000));
    let reply = Browser::default().get(&mut gateway, &longer);
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.json()["message"],
        "The URL is too long to return to after a sign-in"
    );
}
