//! Credentials that nobody needed stay with the gateway as those do that decided.

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{self, Browser, Gateway, Reply};
use crate::filter::{Filter as _, Flow};
use crate::testing::{Request, consumer};

const FORM: &str = "application/x-www-form-urlencoded";

/// A request for `uri` with `fields`, and with `form` if there is one.
fn request(uri: &str, fields: &[(&'static str, &str)], form: &str) -> Request {
    let mut request = gateway::request(uri, fields);
    if !form.is_empty() {
        request.method = Method::POST;
        request.body = Bytes::copy_from_slice(form.as_bytes());
        let kind = HeaderValue::from_static(FORM);
        request.headers.push((http::header::CONTENT_TYPE, kind));
    }
    request
}

/// What the upstream sees of what comes beside a session that decides.
#[expect(
    clippy::needless_pass_by_value,
    reason = "tests write the value in place"
)]
fn beside_a_session(config: Value, asked: Request) -> Reply {
    let mut all = json!({
        "refresh_token_param_name": "renew", "id_token_param_name": "id",
        "upstream_access_token_header": "x-token",
    });
    let members = config.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(members);
    let mut gateway = Gateway::new(all);
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    // What is let through at a glance is the same.
    assert_eq!(browser.get(&mut gateway, "/api?a=1").status, 200);
    let reply = browser.send(&mut gateway, asked);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

#[test]
fn rule_45_no_credential_in_a_query_goes_upstream_whoever_decided() {
    let check = |config: Value, query: &str, left: &str| {
        let asked = request(&format!("/api?{query}"), &[], "");
        let (uri, _) = beside_a_session(config, asked).upstream.unwrap();
        assert_eq!(uri.query().unwrap_or_default(), left, "{query}");
    };
    let all = "a=1&access_token=t&renew=r&id=i&b=%20&username=u&password=p&c";
    check(json!({}), all, "a=1&b=%20&c");
    check(json!({}), "access%5Ftoken=t&access_token=u&x", "x");
    check(json!({}), "client_id=c&client_secret=s", "");
    check(json!({}), "grant_type=g&assertion=s&d=1", "d=1");
    // Half a pair, or an argument that only looks like one, is the application's.
    for theirs in [
        "username=u&page=2",
        "password=p",
        "client_id=c",
        "grant_type=g",
        "token=t&my_access_token=t&q=access_token",
    ] {
        check(json!({}), theirs, theirs);
    }
    // So is what the plugin does not look for.
    let headers = json!({
        "bearer_token_param_type": ["header"], "refresh_token_param_type": ["header"],
        "id_token_param_type": ["body"], "password_param_type": ["header"],
    });
    check(headers, all, all);
    check(
        json!({ "auth_methods": ["session", "authorization_code"] }),
        all,
        all,
    );
}

#[test]
fn rule_85_what_clients_bring_in_headers_and_forms_stays_if_it_is_to_be_hidden() {
    let fields = [
        ("authorization", "Bearer t"),
        ("x-access-token", "t"),
        ("access-token", "t"),
        ("id", "i"),
        ("renew", "r"),
    ];
    let form = "a=1&access_token=t&renew=r&id=i&password=p&username=u";
    let check = |hides: bool, seen: &[&str], left: Option<&str>| {
        let config = json!({ "hide_credentials": hides });
        let reply = beside_a_session(config, request("/api", &fields, form));
        let found = fields.iter().map(|(name, _)| *name);
        let found: Vec<_> = found.filter(|name| reply.seen(name).is_some()).collect();
        assert_eq!(found, seen);
        assert_eq!(reply.sent.as_deref(), left.map(str::as_bytes));
    };
    // A refresh token is for the provider alone.
    let kept = ["authorization", "x-access-token", "access-token", "id"];
    check(false, &kept, None);
    // The fields of a form that only together are credentials may be the application's.
    check(true, &[], Some("a=1&password=p&username=u"));
    // Another scheme may be another plugin's.
    let hides = json!({ "hide_credentials": true });
    let other = [("authorization", "hmac username=\"u\"")];
    let reply = beside_a_session(hides, request("/api", &other, ""));
    assert_eq!(reply.seen("authorization"), Some(other[0].1));
}

#[test]
fn rule_85_a_credential_is_found_and_withheld_in_both_spellings_of_its_header() {
    let config = json!({
        "auth_methods": ["session", "authorization_code", "refresh_token"],
        "refresh_token_param_name": "refresh_token",
        "id_token_param_name": "id_token", "hide_credentials": true,
    });
    let fields = [
        ("refresh_token", "r"),
        ("refresh-token", "r"),
        ("id_token", "i"),
        ("id-token", "i"),
    ];
    for (name, value) in fields {
        let reply = beside_a_session(config.clone(), request("/api", &[(name, value)], ""));
        let expected = name.starts_with("id").then_some(value);
        // Without a method that reads access tokens no ID token is looked for.
        assert_eq!(reply.seen(name), expected, "{name}");
        let mut bearer = config.clone();
        bearer["auth_methods"] =
            json!(["session", "authorization_code", "bearer", "refresh_token"]);
        let reply = beside_a_session(bearer, request("/api", &[(name, value)], ""));
        assert_eq!(reply.seen(name), None, "{name}");
    }
    for name in ["refresh_token", "refresh-token"] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["refresh_token", "password"], "refresh_token_param_name": "refresh_token",
        }));
        let basic = super::provider::basic("john:p:ss");
        let password = request("/api", &[("authorization", &basic)], "");
        assert_eq!(gateway.send(password).status, 200);
        let token = gateway.provider.refresh_token.borrow().clone();
        let reply = gateway.send(request("/api", &[(name, &token)], ""));
        assert_eq!((reply.status, reply.seen(name)), (200, None), "{name}");
    }
}

#[test]
fn rule_45_what_did_not_let_in_stays_too_where_anonymous_does() {
    let guest = consumer("guest", None);
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "anonymous": guest.id, "hide_credentials": true,
    }));
    gateway.add_consumer(&guest);
    let expired = gateway
        .provider
        .access_token(&[("exp", json!(1_700_000_000))]);
    let uri = format!("/api?a=1&access_token={expired}");
    let reply = gateway.send(Request::get(&uri));
    assert!(reply.identity.anonymous);
    assert_eq!(reply.upstream.unwrap().0, "/api?a=1");
    let reply = gateway.call(&expired);
    assert_eq!((reply.status, reply.seen("authorization")), (200, None));
}

#[test]
fn rule_45_nor_does_what_comes_where_the_plugin_steps_aside() {
    let fields = [("authorization", "Bearer t"), ("renew", "r"), ("id", "i")];
    let guest = consumer("guest", None);
    let gateway = Gateway::new(json!({
        "auth_methods": ["bearer", "refresh_token"], "anonymous": guest.id,
        "refresh_token_param_name": "renew", "id_token_param_name": "id", "run_on_preflight": false,
    }));
    for method in [Method::OPTIONS, Method::GET] {
        let mut asked = request("/api?a=1&access_token=t&renew=r&id=i", &fields, "");
        asked.method = method.clone();
        asked.with_exchange(|exchange| {
            // Another plugin has said who it is.
            exchange.identity.consumer = (method == Method::GET).then(|| consumer("ann", None));
            let flow = gateway
                .host
                .run(gateway.filter.on_request(exchange, &gateway.host));
            assert!(matches!(flow, Flow::Continue), "{method}");
            let (uri, headers) = (&exchange.request.uri, &exchange.request.headers);
            assert_eq!(uri.query(), Some("a=1"), "{method}");
            assert_eq!(headers.get("renew"), None, "{method}");
            // These may be what the other one goes by, and are not to be hidden.
            assert!(headers.contains_key("authorization") && headers.contains_key("id"));
        });
    }
}

#[test]
fn rule_45_nor_does_a_sign_in_bring_back_what_was_in_the_query_that_began_it() {
    let config = json!({ "id_token_param_name": "id", "preserve_query_args": true });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api?a=1&id=i");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    let (uri, _) = browser.get(&mut gateway, &back).upstream.unwrap();
    assert_eq!(uri, "/api?a=1");
}

#[test]
fn rule_44_a_json_body_names_one_token() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    let token = gateway.provider.access_token(&[]);
    let mut check = |fields: &[(&'static str, &str)], body: &str, status: u16| {
        let mut request = request("/api", fields, body);
        let kind = HeaderValue::from_static("application/json");
        request.headers.push((http::header::CONTENT_TYPE, kind));
        request.headers.retain(|(_, value)| value != FORM);
        assert_eq!(gateway.send(request).status, status, "{body}");
    };
    let once = format!(r#"{{"a":1,"access_token":"{token}"}}"#);
    let twice = format!(r#"{{"access_token":"{token}","access_token":"{token}"}}"#);
    check(&[], &once, 200);
    check(&[], &twice, 400);
    check(&[], &twice.replacen(&token, "x", 1), 400);
    check(&[], &once.replace("a\":1", "access_token\":1"), 400);
    // Beside a token in the header, what stands there is the application's.
    let bearer = format!("Bearer {token}");
    check(&[("authorization", &bearer)], &twice, 200);
}
