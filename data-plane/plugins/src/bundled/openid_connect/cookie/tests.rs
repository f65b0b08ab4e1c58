//! What cookie promises.

use super::*;
use crate::bundled::openid_connect::config::SameSite;

fn attributes() -> Attributes {
    Attributes {
        path: "/".to_owned(),
        domain: None,
        same_site: SameSite::Lax,
        http_only: true,
        secure: None,
        cross_site_over_tls: false,
        host_prefix: true,
    }
}

fn names() -> Names {
    let attributes = attributes();
    Names::new(
        ("session", &attributes),
        "remember",
        ("authorization", &attributes),
        Used {
            session: true,
            remember: true,
            sign_in: true,
        },
    )
}

#[test]
fn rule_57_a_cookie_for_all_sites_is_secure_or_says_nothing_of_them() {
    let cookie = Attributes {
        same_site: SameSite::None,
        ..attributes()
    };
    assert!(
        !cookie
            .set("session", "x", false)
            .to_str()
            .unwrap()
            .contains("SameSite")
    );
    let secure = cookie.set("session", "x", true);
    assert!(secure.to_str().unwrap().contains("SameSite=None; Secure"));
}

#[test]
fn rule_57_over_tls_only_what_the_host_itself_has_set_is_believed() {
    let kind = |name: &str, https| names().kind(name, https);
    let session = Some(Kind::Chunk(Family::Session, 1));
    assert_eq!(kind("session", false), session);
    assert_eq!(kind("__Host-session", true), session);
    assert_eq!(kind("session", true), Some(Kind::Stray));
    assert_eq!(kind("__Host-session", false), Some(Kind::Stray));
    assert_eq!(kind("__HOST-session", true), None);
    let set = attributes().set("session", "x", true);
    assert_eq!(
        set,
        "__Host-session=x; Path=/; SameSite=Lax; Secure; HttpOnly"
    );
    let wide = Attributes {
        domain: Some("example.com".to_owned()),
        ..attributes()
    };
    assert!(
        wide.set("session", "x", true)
            .as_bytes()
            .starts_with(b"session=")
    );
}

fn stripped(cookies: &[&str]) -> Option<String> {
    let mut headers = HeaderMap::new();
    for cookie in cookies {
        headers.append(COOKIE, HeaderValue::from_str(cookie).unwrap());
    }
    Jar::read(&headers.clone(), &names(), false).strip(&mut headers, None);
    let left: Vec<_> = headers.get_all(COOKIE).iter().collect();
    assert!(left.len() <= 1 || cookies.len() > 1);
    left.first().map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn only_our_cookies_leave_and_others_stay_byte_for_byte() {
    let check =
        |cookies: &[&str], left: Option<&str>| assert_eq!(stripped(cookies).as_deref(), left);
    check(
        &["a=1; session=x; b=\"2 3\"; session2=y"],
        Some("a=1; b=\"2 3\""),
    );
    check(&["session=x"], None);
    check(&["session=x", "a=1", "b=2"], Some("a=1; b=2"));
    check(
        &["authorization_0123456789abcdef=x; authorization=y; a=1"],
        Some("a=1"),
    );
    check(
        &["sessions=1; session1=2; session10=3; authorization_x=4; session=z"],
        Some("sessions=1; session1=2; session10=3; authorization_x=4"),
    );
    check(&["a=1;b=2"], Some("a=1;b=2"));
    check(&["flag; session=x; =odd"], Some("flag; =odd"));
}

#[test]
fn every_copy_of_a_name_is_seen_but_no_more_than_five() {
    let mut headers = HeaderMap::new();
    headers.insert(
        COOKIE,
        HeaderValue::from_static(
            "session=1; session=2; session=3; session=4; session=5; session=6",
        ),
    );
    let jar = Jar::read(&headers, &names(), false);
    assert_eq!(
        jar.chunk(Family::Session, 1).collect::<Vec<_>>(),
        ["1", "2", "3", "4", "5"]
    );
}

#[test]
fn attributes_come_in_kongs_order() {
    let mut attributes = Attributes {
        host_prefix: false,
        ..attributes()
    };
    assert_eq!(
        attributes.set("session", "x", false),
        "session=x; Path=/; SameSite=Lax; HttpOnly"
    );
    attributes.domain = Some("a.example".to_owned());
    assert_eq!(
        attributes.expire("session", true),
        "session=; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; Domain=a.example; Path=/; SameSite=Lax; Secure; HttpOnly"
    );
    attributes.cross_site_over_tls = true;
    for same_site in [SameSite::Default, SameSite::Lax, SameSite::Strict] {
        attributes.same_site = same_site;
        let set = |https| attributes.set("a", "x", https).to_str().unwrap().to_owned();
        assert!(set(true).contains("SameSite=None; Secure"), "{same_site:?}");
        assert!(!set(false).contains("SameSite"), "{same_site:?}");
    }
}

#[test]
fn what_is_no_text_hides_no_other_cookie_and_stays_as_it_is() {
    let mut headers = HeaderMap::new();
    let sealed = format!("AQ{}", "A".repeat(60));
    let mut text = b"d=\xe9; session=".to_vec();
    text.extend_from_slice(sealed.as_bytes());
    text.extend_from_slice(b"; e=\xff\xfe");
    headers.insert(COOKIE, HeaderValue::from_bytes(&text).unwrap());
    let jar = Jar::read(&headers, &names(), false);
    assert_eq!(jar.chunk(Family::Session, 1).next(), Some(sealed.as_str()));
    jar.strip(&mut headers, None);
    assert_eq!(headers[COOKIE].as_bytes(), b"d=\xe9; e=\xff\xfe");
}

#[test]
fn sessions_of_other_audiences_are_neither_read_nor_sent_upstream_nor_set_by_it() {
    let digest = |digit: &str| digit.repeat(AUDIENCE);
    let [own, other] = [digest("a"), digest("b")];
    let default = names();
    let names = names().of_audience(&own);
    let kind = |name: &str| names.kind(name, false);
    let [session, remember] = [Family::Session, Family::Remember];
    for (name, expected) in [
        (format!("session-{own}"), Some(Kind::Chunk(session, 1))),
        (format!("session-{own}2"), Some(Kind::Chunk(session, 2))),
        (format!("remember-{own}"), Some(Kind::Chunk(remember, 1))),
        (
            format!("session-{other}"),
            Some(Kind::Elsewhere(session, 1)),
        ),
        (
            format!("session-{other}9"),
            Some(Kind::Elsewhere(session, 9)),
        ),
        (
            format!("remember-{other}"),
            Some(Kind::Elsewhere(remember, 1)),
        ),
        // Those of the default audience.
        ("session".to_owned(), Some(Kind::Elsewhere(session, 1))),
        ("session2".to_owned(), Some(Kind::Elsewhere(session, 2))),
        (format!("session-{other}1"), None),
        (format!("session-{}", "x".repeat(AUDIENCE)), None),
        ("session-b".to_owned(), None),
        ("sessions".to_owned(), None),
    ] {
        assert_eq!(kind(&name), expected, "{name}");
        assert_eq!(names.own(&name), expected.is_some(), "{name}");
    }
    let foreign = format!("session-{other}");
    assert!(default.own(&foreign), "also at the default audience");
    let mut headers = HeaderMap::new();
    let cookies = format!("a=b; {foreign}=x; session-{own}=y; session=z; session-b=c");
    headers.insert(COOKIE, HeaderValue::from_str(&cookies).unwrap());
    let jar = Jar::read(&headers, &names, false);
    assert_eq!(jar.chunk(session, 1).collect::<Vec<_>>(), ["y"]);
    jar.strip(&mut headers, None);
    assert_eq!(headers[COOKIE], "a=b; session-b=c");
    let glimpse = Glimpse::of(cookies.as_bytes(), &names, false).unwrap();
    assert_eq!(glimpse.others.as_deref(), Some(&b"a=b; session-b=c"[..]));
    assert_eq!(glimpse.chunk(1), Some(&b"y"[..]));
}
