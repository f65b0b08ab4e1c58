//! What session promises.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::COOKIE;
use uuid::Uuid;

use super::*;
use crate::exchange::{BodyWish, Seen, Source};
use crate::testing::{Answer, FakeHost, Request, answer_of, consumer};

fn filter(config: &Value) -> SessionFilter {
    let config = crate::registry::check("session", config).unwrap();
    let config: Session = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

fn request(cookie: Option<&str>) -> Request {
    let mut request = Request::get("/");
    let consumer = consumer("coop", None);
    let consumers = &mut request.environment.consumers;
    consumers.by_id.insert(consumer.id, consumer);
    if let Some(cookie) = cookie {
        let value = HeaderValue::from_str(cookie).unwrap();
        request.headers.push((COOKIE, value));
    }
    request
}

fn signed_in(anonymous: bool) -> Identity {
    Identity {
        consumer: Some(consumer("coop", None)),
        anonymous,
        credential: (!anonymous).then(|| "key".to_owned()),
        authenticated_groups: Some(vec!["agents".to_owned(), "doubleagents".to_owned()]),
        ..Identity::default()
    }
}

/// What the client is sent once another plugin has found out who it is.
fn replied(
    filter: &SessionFilter,
    host: &FakeHost,
    request: &Request,
    identity: Option<Identity>,
) -> HeaderMap {
    let mut seen = request.with_exchange(|exchange| {
        let flow = host.run(filter.on_request(exchange, host));
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        Seen {
            method: exchange.request.method.clone(),
            uri: exchange.request.uri.clone(),
            request: exchange.request.clone(),
            client: exchange.client.clone(),
            identity: identity.unwrap_or_else(|| exchange.identity.clone()),
            notes: std::mem::take(&mut exchange.notes),
            request_id: exchange.request_id,
        }
    });
    let mut headers = HeaderMap::new();
    let mut status = StatusCode::OK;
    let mut reply = Reply {
        seen: &mut seen,
        matched: None,
        status: &mut status,
        headers: &mut headers,
        source: Source::Service,
        wish: BodyWish::Nothing,
        maps: Vec::new(),
    };
    filter.on_response(&mut reply, host);
    headers
}

/// What a browser sends that has been sent `headers`.
fn cookie(headers: &HeaderMap) -> String {
    let cookies = headers.get_all(SET_COOKIE).iter();
    let pairs: Vec<_> = cookies
        .map(|value| value.to_str().unwrap().split(';').next().unwrap())
        .collect();
    pairs.join("; ")
}

/// The cookie of a client that has just signed in.
fn begun(filter: &SessionFilter, host: &FakeHost) -> String {
    cookie(&replied(
        filter,
        host,
        &request(None),
        Some(signed_in(false)),
    ))
}

fn who(answer: &Answer) -> String {
    answer.upstream_header("x-consumer-username")
}

#[test]
fn a_sign_in_becomes_a_cookie_that_signs_in() {
    let host = FakeHost::default();
    let session = filter(&json!({}));
    let headers = replied(&session, &host, &request(None), Some(signed_in(false)));
    let line = headers[SET_COOKIE].to_str().unwrap();
    let attributes = line.split_once("; ").unwrap().1;
    assert!(line.starts_with("session="), "{line}");
    assert_eq!(attributes, "Path=/; SameSite=Strict; Secure; HttpOnly");
    let sent = format!("a=b; {}", cookie(&headers));
    let answer = answer_of(&session, &host, &request(Some(&sent)));
    assert_eq!((answer.status, who(&answer).as_str()), (200, "coop"));
    assert_eq!(answer.upstream_header("x-credential-identifier"), "key");
    assert_eq!(answer.upstream_header("x-anonymous-consumer"), "");
    assert_eq!(
        answer.upstream_header("x-authenticated-groups"),
        "agents, doubleagents"
    );
    // The upstream cannot sign in with it, and the browser keeps what it has.
    assert_eq!(answer.upstream_header("cookie"), "a=b");
    assert_eq!(answer.header("set-cookie"), "");
    let headers = replied(&session, &host, &request(Some(&sent)), None);
    assert!(headers.is_empty(), "{headers:?}");
}

#[test]
fn attributes_are_as_configured_under_old_names_too() {
    let host = FakeHost::default();
    let config = json!({
        "cookie_name": "da_cookie", "cookie_samesite": "off", "cookie_httponly": false,
        "cookie_secure": false, "cookie_domain": "example.com", "cookie_path": "/a",
    });
    let headers = replied(
        &filter(&config),
        &host,
        &request(None),
        Some(signed_in(false)),
    );
    let line = headers[SET_COOKIE].to_str().unwrap();
    let attributes = line.split_once("; ").unwrap().1;
    assert!(line.starts_with("da_cookie="), "{line}");
    assert_eq!(attributes, "Domain=example.com; Path=/a; SameSite=Lax");
}

#[test]
fn nobody_gets_a_session_without_a_credential() {
    let host = FakeHost::default();
    let session = filter(&json!({}));
    for identity in [None, Some(signed_in(true))] {
        let headers = replied(&session, &host, &request(None), identity);
        assert!(!headers.contains_key(SET_COOKIE));
    }
    for forged in ["session=x", "session=", "session=AAAA"] {
        let answer = answer_of(&session, &host, &request(Some(forged)));
        assert_eq!((answer.status, who(&answer).as_str()), (200, ""));
        assert_eq!(answer.upstream_header("cookie"), "");
    }
}

#[test]
fn a_cookie_is_for_its_plugin_name_and_audience_only() {
    let host = FakeHost::default();
    let own = begun(&filter(&json!({})), &host);
    let shared = begun(&filter(&json!({"secret": "s"})), &host);
    let check = |config: Value, sent: &str, expected: &str| {
        let answer = answer_of(&filter(&config), &host, &request(Some(sent)));
        assert_eq!(who(&answer), expected, "{config}");
    };
    check(json!({}), &own, "coop");
    check(json!({"secret": "s"}), &own, "");
    check(json!({"secret": "s"}), &shared, "coop");
    check(json!({"secret": "t"}), &shared, "");
    check(json!({"audience": "other"}), &own, "");
    let renamed = own.replace("session=", "other=");
    check(json!({"cookie_name": "other"}), &renamed, "");
}

#[test]
fn a_session_ends_by_each_of_its_limits_and_use_renews_it() {
    let host = FakeHost::default();
    let session = filter(&json!({
        "idling_timeout": 100, "rolling_timeout": 400, "absolute_timeout": 1000,
    }));
    let mut sent = begun(&session, &host);
    let use_at = |sent: &mut String, seconds: f64| {
        host.advance(seconds);
        let answer = answer_of(&session, &host, &request(Some(sent)));
        if !answer.header("set-cookie").is_empty() {
            *sent = cookie(&answer.headers);
        }
        who(&answer)
    };
    let idle = &mut sent.clone();
    assert_eq!(use_at(idle, 0.0), "coop");
    // Used each 90 seconds it lives on, beyond the rolling limit, until the absolute one.
    let mut alive = 0;
    while use_at(&mut sent, 90.0) == "coop" {
        alive += 1;
    }
    assert_eq!(alive, 11);
    let mut fresh = begun(&session, &host);
    assert_eq!(use_at(&mut fresh, 100.0), "");
}

#[test]
fn a_logout_ends_the_session_and_not_only_the_cookie() {
    let host = FakeHost::default();
    let session = filter(&json!({"read_body_for_logout": true}));
    let ask = |method: Method, uri: &str, body: &'static str, sent: &str| {
        let mut request = request(Some(sent));
        request.method = method;
        request.uri = uri.to_owned();
        request.body = Bytes::from_static(body.as_bytes());
        let kind = if body.starts_with('{') {
            HeaderValue::from_static("application/json")
        } else {
            HeaderValue::from_static("application/x-www-form-urlencoded")
        };
        request.headers.push((http::header::CONTENT_TYPE, kind));
        answer_of(&session, &host, &request)
    };
    let sent = begun(&session, &host);
    let goes_on = ask(Method::GET, "/?session_logout=true", "", &sent);
    assert_eq!(who(&goes_on), "coop");
    assert_eq!(who(&ask(Method::POST, "/", "a=b", &sent)), "coop");
    let over = ask(Method::POST, "/?session_logout=true", "", &sent);
    assert_eq!(
        (over.status, over.body.as_str(), who(&over).as_str()),
        (200, "", "")
    );
    let line = over.header("set-cookie");
    assert!(
        line.starts_with("session=; ") && line.contains("Max-Age=0"),
        "{line}"
    );
    assert_eq!(who(&ask(Method::GET, "/", "", &sent)), "");
    let sent = begun(&session, &host);
    ask(Method::POST, "/", "session_logout=1", &sent);
    assert_eq!(who(&ask(Method::GET, "/", "", &sent)), "");
    let sent = begun(&session, &host);
    for nothing in [
        r#"{"session_logout":false}"#,
        r#"{"session_logout":null}"#,
        r#"{"a":1}"#,
    ] {
        assert_eq!(who(&ask(Method::POST, "/", nothing, &sent)), "coop");
    }
    ask(Method::POST, "/", r#"{"session_logout":true}"#, &sent);
    assert_eq!(who(&ask(Method::GET, "/", "", &sent)), "");
    // Other nodes hear of it once a control plane can be told.
    assert_eq!(host.stored(), 3);
    let sent = begun(&session, &host);
    host.store(false);
    ask(Method::DELETE, "/?session_logout", "", &sent);
    assert_eq!(who(&ask(Method::GET, "/", "", &sent)), "");
    assert_eq!(host.stored(), 3);
    host.store(true);
    host.run(host.sleep(Duration::from_mins(10)));
    assert_eq!(host.stored(), 4, "nobody brings it a second time");
}

#[test]
fn a_remembered_client_comes_back_after_its_session() {
    let host = FakeHost::default();
    let session = filter(&json!({"remember": true, "remember_absolute_timeout": 5000}));
    let headers = replied(&session, &host, &request(None), Some(signed_in(false)));
    let lines: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
    assert!(
        lines[1].to_str().unwrap().contains("; Max-Age=5000; "),
        "{lines:?}"
    );
    let sent = cookie(&headers);
    host.advance(4000.0);
    let answer = answer_of(&session, &host, &request(Some(&sent)));
    assert_eq!(who(&answer), "coop");
    let again = cookie(&answer.headers);
    assert!(
        again.contains("session=") && again.contains("remember="),
        "{again}"
    );
    let remembered = again.split("; ").last().unwrap();
    let mut logout = request(Some(&again));
    logout.method = Method::DELETE;
    logout.uri = "/?session_logout".to_owned();
    assert_eq!(answer_of(&session, &host, &logout).status, 200);
    for gone in [sent.as_str(), remembered] {
        assert_eq!(who(&answer_of(&session, &host, &request(Some(gone)))), "");
    }
    let sent = begun(&session, &host);
    host.advance(5000.0);
    assert_eq!(who(&answer_of(&session, &host, &request(Some(&sent)))), "");
}

#[test]
fn a_session_whose_consumer_is_gone_is_taken_back() {
    let host = FakeHost::default();
    let session = filter(&json!({}));
    let sent = begun(&session, &host);
    let mut request = request(Some(&sent));
    request.environment.consumers.by_id.clear();
    let answer = answer_of(&session, &host, &request);
    assert_eq!((answer.status, who(&answer).as_str()), (200, ""));
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
}

#[test]
fn facts_of_the_session_are_told_on_wish() {
    let host = FakeHost::default();
    let session = filter(&json!({
        "response_headers": ["timeout"], "request_headers": ["subject", "absolute-timeout"],
    }));
    let headers = replied(&session, &host, &request(None), Some(signed_in(false)));
    assert_eq!(headers["session-timeout"], "900");
    host.advance(10.0);
    let answer = answer_of(&session, &host, &request(Some(&cookie(&headers))));
    assert_eq!(answer.upstream_header("session-subject"), "coop");
    assert_eq!(answer.upstream_header("session-absolute-timeout"), "86390");
    assert_eq!(answer.header("session-timeout"), "890");
    assert_eq!(session.owned_headers().len(), 2);
}

#[test]
fn another_client_behind_the_same_browser_gets_a_session_of_its_own() {
    let host = FakeHost::default();
    let session = filter(&json!({}));
    let sent = begun(&session, &host);
    let other = Identity {
        consumer: Some(consumer("ann", None)),
        ..signed_in(false)
    };
    let headers = replied(&session, &host, &request(Some(&sent)), Some(other));
    let mut request = request(Some(&cookie(&headers)));
    let ann: Arc<Consumer> = consumer("ann", None);
    request.environment.consumers.by_id.insert(ann.id, ann);
    assert_eq!(who(&answer_of(&session, &host, &request)), "ann");
}

#[test]
fn sessions_are_paused_while_nobody_knows_which_are_over() {
    let host = FakeHost::default();
    let session = filter(&json!({ "remember": true, "logout_methods": ["POST"] }));
    let both = begun(&session, &host);
    host.revocations().lose(true);
    for cookie in [both.as_str(), both.split("; ").nth(1).unwrap()] {
        let answer = answer_of(&session, &host, &request(Some(cookie)));
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, "5".into()),
            "{cookie}"
        );
        // The session may go on later.
        assert_eq!(answer.header("set-cookie"), "");
    }
    // Who has none is not concerned, and may begin one; ending one is safe.
    for cookie in [None, Some("session=none")] {
        let answer = answer_of(&session, &host, &request(cookie));
        assert_eq!(answer.status, 200);
    }
    let mut logout = request(Some(&both));
    logout.method = Method::POST;
    logout.uri = "/?session_logout=true".to_owned();
    assert_eq!(answer_of(&session, &host, &logout).status, 200);
    host.revocations().lose(false);
    // The next one goes on, what was ended is over.
    let answer = answer_of(&session, &host, &request(Some(&both)));
    assert_eq!((answer.status, who(&answer).as_str()), (200, ""));
    let sent = begun(&session, &host);
    assert_eq!(
        who(&answer_of(&session, &host, &request(Some(&sent)))),
        "coop"
    );
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let check = |config: Value, field: &str| {
        let errors = crate::registry::check("session", &config).unwrap_err();
        assert!(errors.by_field.contains_key(field), "{config}: {errors:?}");
    };
    check(json!({"storage": "kong"}), "storage");
    check(json!({"cookie_path": "a"}), "cookie_path");
    check(json!({"cookie_domain": "a;b"}), "cookie_domain");
    check(json!({"cookie_name": "a b"}), "cookie_name");
    check(json!({"idling_timeout": -1}), "idling_timeout");
    check(
        json!({"remember": true, "remember_cookie_name": "session"}),
        "remember_cookie_name",
    );
    assert_eq!(
        filter(&json!({})).limits.idling,
        Some(Duration::from_mins(15))
    );
}

#[test]
fn rule_95_what_was_begun_lasts_as_long_as_the_session() {
    let host = FakeHost::default();
    let config = json!({ "idling_timeout": 100, "logout_methods": ["POST"] });
    let session = filter(&config);
    let let_through = |cookie: &str| {
        request(Some(cookie)).with_exchange(|exchange| {
            let flow = host.run(session.on_request(exchange, &host));
            assert!(matches!(flow, Flow::Continue), "{flow:?}");
            exchange.tenure.clone()
        })
    };
    let cookie = begun(&session, &host);
    let renewals = host.node_state::<Renewals>();
    let stream = renewals.watch(let_through(&cookie).unwrap());
    let is_over = || stream.is_over(host.revocations(), host.now());
    host.advance(60.0);
    let_through(&cookie);
    host.advance(60.0);
    assert!(!is_over(), "it was used meanwhile");
    host.advance(40.0);
    assert!(is_over());
    // Who has no session is let through by something else.
    assert!(let_through("session=none").is_none());

    let cookie = begun(&session, &host);
    let stream = renewals.watch(let_through(&cookie).unwrap());
    let mut logout = request(Some(&cookie));
    logout.method = Method::POST;
    logout.uri = "/?session_logout=true".to_owned();
    answer_of(&session, &host, &logout);
    assert!(stream.is_over(host.revocations(), host.now()));
}
