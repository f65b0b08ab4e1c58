//! Tests of who is taken to ask for what, and of what the upstream is told of it.

use http::Request;
use plugins::config::reserved_headers::Message;

use super::*;
use crate::http1::headers::Headers;

#[test]
fn what_is_replaced_is_for_no_filter_to_set() {
    let ours = replaced(false).and(Kind::HOP_BY_HOP).and(Kind::TRAILER);
    let reserved: Vec<_> = Message::Request.reserved().collect();
    for name in &reserved {
        let kind = Kind::of_text(name.as_bytes());
        assert!(kind.is_any_of(ours) || *name == "cookie", "{name}");
    }
    let none = HeaderMap::new();
    let peer = Peer::new("10.0.0.1:4000".parse().unwrap(), 8000, false);
    let client = client(None, &peer, None, &"gate.internal".into());
    let mut added = Vec::new();
    let view = View::Map(&none);
    let path = forwarded_path(view, false, "/", Some("/"));
    forwarded(view, &peer, false, &client, &mut added);
    added.push(via(view, Version::HTTP_11));
    let path = path.iter().map(|told| told.unwrap().0);
    for name in added.iter().map(|(name, _)| *name).chain(path) {
        assert!(reserved.contains(&name), "{name}");
    }
}

#[test]
fn by_http2_a_host_is_known_again_where_it_is_said_once() {
    let peer = Peer::new("10.0.0.1:4000".parse().unwrap(), 8000, false);
    let asked = |authority: &str, host: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        let head = RequestHead {
            method: Method::GET,
            uri: format!("http://{authority}/").parse().unwrap(),
            version: Version::HTTP_2,
            headers: Headers::Map(headers),
        };
        super::authority(&head, &peer)
    };
    let said = || asked("a.test", Some("a.test")).unwrap();
    assert!(Rc::ptr_eq(&said(), &said()));
    for (authority, host, expected) in [
        ("A.test", None, Some("a.test")),
        ("b.test:80", None, Some("b.test:80")),
        ("b.test:80", Some("b.test:80"), Some("b.test:80")),
        ("b.test:80", Some("a.test"), None),
        ("me@b.test:80", None, None),
        ("b.test:80", None, Some("b.test:80")),
    ] {
        let found = asked(authority, host).ok();
        assert_eq!(found.as_deref(), expected, "{authority} {host:?}");
    }
}

#[test]
fn what_is_told_of_a_client_is_written_once_for_a_host() {
    let peer = Peer::new("10.0.0.1:4000".parse().unwrap(), 8000, false);
    let said = |fields: &[(&str, &str)]| -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    };
    let host: Rc<str> = "a.test".into();
    let client = client(None, &peer, None, &host);
    let told = |version, trusted, fields: &[(&str, &str)]| {
        let headers = said(fields);
        usual_lines(View::Map(&headers), version, &peer, trusted, &client)
    };
    assert_eq!(told(Version::HTTP_2, false, &[]), None, "of another host");
    peer.kept.borrow_mut().keep_host(&host);
    let lines = told(Version::HTTP_2, false, &[("accept", "a")]).unwrap();
    let none = HeaderMap::new();
    let mut added = Vec::new();
    forwarded(View::Map(&none), &peer, false, &client, &mut added);
    added.push(via(View::Map(&none), Version::HTTP_2));
    let mut expected = BytesMut::new();
    for (name, value) in added {
        field(&mut expected, name, &value);
    }
    assert_eq!(&*lines, &*expected);
    let again = told(Version::HTTP_2, false, &[("x-real-ip", "b")]).unwrap();
    assert!(Rc::ptr_eq(&again, &lines));
    for (version, trusted, fields) in [
        (Version::HTTP_2, true, &[][..]),
        (Version::HTTP_10, false, &[]),
        (Version::HTTP_2, false, &[("via", "1.1 b")]),
        (Version::HTTP_2, false, &[("x-forwarded-for", "b")]),
    ] {
        assert_eq!(
            told(version, trusted, fields),
            None,
            "{version:?} {fields:?}"
        );
    }
}

#[test]
fn a_trusted_proxy_says_which_url_was_asked_for() {
    let check = |trusted: bool, fields: &[(&str, &str)], https, authority: &str| {
        let mut request = Request::get("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let peer = Peer::new("10.0.0.1:4000".parse().unwrap(), 8000, false);
        let trusted = trusted.then_some(&parts.headers);
        let found = client(trusted, &peer, None, &"gate.internal:8000".into());
        assert_eq!(
            (found.https, &*found.authority),
            (https, authority),
            "{fields:?}"
        );
    };
    let host = ("x-forwarded-host", "app.example.com");
    let proto = ("x-forwarded-proto", "https");
    let port = |port| ("x-forwarded-port", port);
    check(true, &[], false, "gate.internal:8000");
    check(true, &[host, proto], true, "app.example.com");
    check(true, &[host, proto, port("443")], true, "app.example.com");
    check(
        true,
        &[host, proto, port("8443")],
        true,
        "app.example.com:8443",
    );
    check(true, &[host, port("80")], false, "app.example.com");
    check(true, &[proto, port("443")], true, "gate.internal");
    check(true, &[host, port("x")], false, "app.example.com");
    check(
        true,
        &[
            ("x-forwarded-host", "a.test, b.test"),
            ("x-forwarded-proto", "https, http"),
        ],
        true,
        "a.test",
    );
    check(
        true,
        &[("x-forwarded-host", "a b")],
        false,
        "gate.internal:8000",
    );
    check(
        true,
        &[("x-forwarded-host", "user@a.test")],
        false,
        "gate.internal:8000",
    );
    check(
        true,
        &[("x-forwarded-host", "[::1]:1"), port("8443")],
        false,
        "[::1]:8443",
    );
    check(
        false,
        &[host, proto, port("8443")],
        false,
        "gate.internal:8000",
    );
}
