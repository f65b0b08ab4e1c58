//! Sign-ins that another site asks for.

use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{Browser, Gateway, Reply};

const START: &str = "/app/start-sign-in";

/// Where the provider leads back to.
const BACK: &str = "/app/callback";

fn gateway(more: &Value) -> Gateway {
    let mut config = json!({
        "login_initiation_uri_suffix": "/start-sign-in", "login_action": "redirect",
        "login_tokens": null, "redirect_uri": [format!("http://gateway.example{BACK}")],
    });
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    Gateway::new(config)
}

fn asked(arguments: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(arguments).finish()
}

fn ask(gateway: &mut Gateway, arguments: &[(&str, &str)]) -> Reply {
    let uri = format!("{START}?{}", asked(arguments));
    Browser::default().get(gateway, &uri)
}

/// Follows the redirect to the provider and back.
fn finish(gateway: &mut Gateway, browser: &mut Browser, start: &Reply) -> Reply {
    let query = gateway.provider.authorize(start.location());
    let back = url::Url::parse(&start.argument("redirect_uri").unwrap()).unwrap();
    browser.get(gateway, &format!("{}?{query}", back.path()))
}

#[test]
fn oidcc_client_test_3rd_party_init_login() {
    let target = "http://gateway.example/app/reports?year=1";
    let arguments = [
        ("iss", "https://idp.example/"),
        ("login_hint", "john@example.com"),
        ("target_link_uri", target),
        ("client_id", "another"),
    ];
    for post in [false, true] {
        let mut gateway = gateway(&json!({}));
        let mut browser = Browser::default();
        let start = if post {
            browser.post(&mut gateway, START, &asked(&arguments))
        } else {
            browser.get(&mut gateway, &format!("{START}?{}", asked(&arguments)))
        };
        assert_eq!(start.status, 302, "{start:?}");
        let argument = |name: &str| start.argument(name).unwrap();
        assert_eq!(argument("login_hint"), "john@example.com");
        assert_eq!(argument("client_id"), "client");
        assert_eq!(
            argument("redirect_uri"),
            format!("http://gateway.example{BACK}"),
            "and none that another site names"
        );
        assert_eq!(start.headers["x-frame-options"], "DENY");
        let policy = &start.headers["content-security-policy"];
        assert_eq!(policy, "frame-ancestors 'none'");
        let reply = finish(&mut gateway, &mut browser, &start);
        assert_eq!((reply.status, reply.location()), (302, target));
        assert!(reply.sets_session());
    }
}

#[test]
fn rule_107_only_the_configured_provider_and_this_host_are_meant() {
    let refused = |arguments: &[(&str, &str)], expected: &str| {
        let mut gateway = gateway(&json!({}));
        let reply = ask(&mut gateway, arguments);
        assert_eq!(reply.status, 400, "{arguments:?}");
        assert_eq!(reason(&gateway), expected, "{arguments:?}");
        assert!(gateway.provider.calls.borrow().is_empty());
        assert!(reply.set_cookies().is_empty());
    };
    refused(&[], "login_initiation");
    refused(&[("iss", "https://evil.example")], "login_initiation");
    let ours = ("iss", "https://idp.example");
    refused(&[ours, ours], "duplicate_param");
    for target in [
        "https://gateway.example/",
        "http://evil.example/",
        "http://gateway.example:8080/",
        "http://gateway.example@evil.example/",
        "http://user@gateway.example/",
        "//evil.example/",
        "/app",
        "javascript:alert(1)",
        "http://gateway.example/\r\nx",
        "http://gateway.example.evil.example/",
    ] {
        refused(&[ours, ("target_link_uri", target)], "login_initiation");
    }
    let long = "x".repeat(1025);
    refused(&[ours, ("login_hint", &long)], "login_initiation");
}

#[test]
fn rule_107_it_ends_where_it_was_asked_to_whatever_follows_other_sign_ins() {
    let target = "http://gateway.example/app/reports?year=1";
    for more in [
        json!({ "login_action": "upstream" }),
        json!({ "login_methods": ["password"] }),
    ] {
        let mut gateway = gateway(&more);
        let mut browser = Browser::default();
        let arguments = [("iss", "https://idp.example"), ("target_link_uri", target)];
        let start = browser.get(&mut gateway, &format!("{START}?{}", asked(&arguments)));
        let reply = finish(&mut gateway, &mut browser, &start);
        assert_eq!((reply.status, reply.location()), (302, target), "{more}");
        assert_eq!(browser.get(&mut gateway, "/app/reports?year=1").status, 200);
    }
}

#[test]
fn without_a_target_a_sign_in_ends_at_the_root() {
    for more in [
        vec![],
        vec![(
            "target_link_uri",
            "http://gateway.example/app/start-sign-in?iss=x",
        )],
    ] {
        let mut gateway = gateway(&json!({}));
        let arguments = [vec![("iss", "https://idp.example")], more].concat();
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, &format!("{START}?{}", asked(&arguments)));
        let reply = finish(&mut gateway, &mut browser, &start);
        assert_eq!(
            (reply.status, reply.location()),
            (302, "http://gateway.example/")
        );
    }
}

#[test]
fn nobody_asks_for_sign_ins_unless_that_is_configured() {
    let mut gateway = gateway(&json!({ "login_initiation_uri_suffix": null }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let reply = browser.get(
        &mut gateway,
        &format!("{START}?iss=https%3A%2F%2Fevil.example"),
    );
    assert_eq!(reply.status, 200);
    let mut gateway = super::initiation::gateway(&json!({}));
    let mut request = crate::testing::Request::get(START);
    request.method = http::Method::DELETE;
    let reply = gateway.send(request);
    assert_eq!(
        (reply.status, &reply.headers["allow"]),
        (405, &http::HeaderValue::from_static("GET, POST"))
    );
}
