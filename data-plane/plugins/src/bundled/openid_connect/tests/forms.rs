//! Forms that outlast a sign-in.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde_json::json;

use super::gateway::{Browser, Gateway, Reply};
use crate::host::Host;
use crate::testing::{Landed, Request};

/// A text that no cookie holds.
fn long() -> String {
    let words = (0..9_000).map(|n| (n * 7_919 % 99_991).to_string());
    words.collect()
}

fn form_of(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

fn post_and_sign_in(gateway: &mut Gateway, form: &str, headers: &[(&'static str, &str)]) -> Reply {
    let mut browser = Browser::default();
    let mut request = Request::get("/orders?x=1");
    request.method = Method::POST;
    request.body = bytes::Bytes::copy_from_slice(form.as_bytes());
    for (name, value) in [("content-type", "application/x-www-form-urlencoded")]
        .iter()
        .chain(headers)
    {
        let name = HeaderName::from_static(name);
        request
            .headers
            .push((name, HeaderValue::from_str(value).unwrap()));
    }
    let start = browser.send(gateway, request);
    assert_eq!(start.status, 302, "{start:?}");
    let query = gateway.provider.authorize(start.location());
    browser.get(gateway, &format!("/orders?{query}"))
}

#[test]
fn a_posted_form_outlasts_the_sign_in() {
    let mut gateway = Gateway::new(json!({}));
    let reply = post_and_sign_in(&mut gateway, "item=a%22b&count=2", &[]);
    assert!(reply.status == 200 && reply.upstream.is_none() && reply.sets_session());
    let page = form_of(&reply);
    assert!(
        page.contains("action=\"http://gateway.example/orders?x=1\""),
        "{page}"
    );
    assert!(page.contains("name=\"item\" value=\"a&quot;b\""), "{page}");
    assert!(
        reply.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("sha256-")
    );
    // One that no cookie holds stays on the node.
    let long = long();
    let reply = post_and_sign_in(&mut gateway, &format!("text={long}"), &[]);
    assert!(form_of(&reply).contains(&long));
    // Longer ones are lost, and the sign-in goes on.
    let reply = post_and_sign_in(&mut gateway, &format!("text={}", "x".repeat(70_000)), &[]);
    assert!(reply.upstream.is_some());
}

#[test]
fn a_form_that_would_come_back_as_another_is_not_kept() {
    for form in ["a=%FC", "a=%00", "=x", "a=1&=2"] {
        let mut gateway = Gateway::new(json!({}));
        let reply = post_and_sign_in(&mut gateway, form, &[("sec-fetch-site", "same-origin")]);
        assert!(!form_of(&reply).contains("<form"), "{form}");
    }
}

#[test]
fn a_form_of_another_site_is_not_posted_again() {
    for headers in [
        [("sec-fetch-site", "cross-site")],
        [("origin", "https://evil.example")],
    ] {
        let mut gateway = Gateway::new(json!({}));
        let reply = post_and_sign_in(&mut gateway, "amount=1000", &headers);
        assert!(reply.upstream.is_some(), "{headers:?}");
    }
    let mut gateway = Gateway::new(json!({ "preserve_post": false }));
    assert!(
        post_and_sign_in(&mut gateway, "a=1", &[])
            .upstream
            .is_some()
    );
}

#[test]
fn a_form_that_no_cookie_holds_comes_back_on_any_node_by_way_of_the_control_plane() {
    let cluster = Rc::<Landed>::default();
    let [mut one, mut two] = Gateway::joined(&json!({}), &cluster);
    let long = long();
    let start = |node: &mut Gateway| {
        let mut browser = Browser::default();
        let start = browser.post(node, "/orders?x=1", &format!("text={long}"));
        assert_eq!(start.status, 302, "{start:?}");
        let query = node.provider.authorize(start.location());
        (browser, format!("/orders?{query}"))
    };
    let (mut browser, back) = start(&mut one);
    {
        let cluster = cluster.borrow();
        let sealed = cluster.values().next().unwrap();
        let holds = |text: &str| {
            sealed
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        assert!(!holds(&long[..20]) && sealed.len() < long.len());
    }
    let page = form_of(&browser.get(&mut two, &back));
    assert!(page.contains(&long), "{}", page.len());
    // Where it was posted it is given back as well, and then nobody keeps it.
    let (mut browser, back) = start(&mut one);
    let page = form_of(&browser.get(&mut one, &back));
    assert!(page.contains(&long));
    let kept = cluster.borrow().values().any(|kept| kept.len() > 10_000);
    assert!(!kept, "it is not needed any more");
    // A control plane that has it no more, or something else as that, leads to the page.
    let change = |kept: &mut Vec<u8>| {
        if let Some(byte) = kept.get_mut(100) {
            *byte ^= 1;
        }
    };
    for damage in [Vec::clear, change] {
        let (mut browser, back) = start(&mut one);
        cluster.borrow_mut().values_mut().for_each(damage);
        let reply = browser.get(&mut two, &back);
        assert!(reply.upstream.is_some() && reply.sets_session());
    }
}

#[test]
fn a_sign_in_waits_until_its_form_is_where_other_nodes_find_it_but_not_for_long() {
    for (milliseconds, waited, is_there) in [(0, 0, true), (700, 700, true), (5_000, 1_000, false)]
    {
        let [mut one, mut two] = Gateway::joined(&json!({}), &Rc::default());
        one.host.keeps_after(Duration::from_millis(milliseconds));
        let (mut browser, began) = (Browser::default(), one.host.now());
        let start = browser.post(&mut one, "/orders", &format!("text={}", long()));
        assert_eq!(start.status, 302, "{start:?}");
        let took = one.host.now().saturating_since(began);
        assert_eq!(took, Duration::from_millis(waited));
        let query = one.provider.authorize(start.location());
        let reply = browser.get(&mut two, &format!("/orders?{query}"));
        assert!(reply.sets_session());
        assert_eq!(
            form_of(&reply).contains(&long()),
            is_there,
            "{milliseconds}"
        );
    }
}

#[test]
fn a_form_outlasts_a_sign_in_that_begins_anew() {
    let config = json!({
        "authorization_query_args_names": ["prompt"], "authorization_query_args_values": ["none"],
    });
    for (form, ends_at) in [("short".to_owned(), 0), (long(), 0), (long(), 1)] {
        let mut nodes = Gateway::joined(&config, &Rc::default());
        let mut browser = Browser::default();
        let start = browser.post(&mut nodes[0], "/orders", &format!("text={form}"));
        let state = start.argument("state").unwrap();
        let back = format!("/orders?error=login_required&state={state}");
        let again = browser.get(&mut nodes[0], &back);
        assert_eq!((again.status, again.argument("prompt")), (302, None));
        let query = nodes[0].provider.authorize(again.location());
        let node = &mut nodes[ends_at];
        let page = form_of(&browser.get(node, &format!("/orders?{query}")));
        assert!(page.contains(&form), "{} at {ends_at}", form.len());
    }
}
