//! Logout.

use http::Method;
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use crate::testing::Request;

fn signed_in(config: &Value) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(config.clone());
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    (gateway, browser)
}

#[test]
fn case_56_only_the_listed_methods_log_out() {
    let (mut gateway, mut browser) =
        signed_in(&json!({ "logout_uri_suffix": "/logout", "logout_methods": ["POST"] }));
    assert_eq!(browser.get(&mut gateway, "/logout").status, 200);
    let reply = browser.post(&mut gateway, "/logout?x=1", "");
    assert_eq!((reply.status, reply.ends_session()), (302, true));
    assert!(reply.location().starts_with("https://idp.example/logout?"));
    assert!(reply.argument("id_token_hint").unwrap().starts_with("ey"));
    assert_eq!(reply.argument("client_id").as_deref(), Some("client"));
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn case_57_tokens_are_revoked_as_configured() {
    let check = |config: Value, expected: &[&str]| {
        let (mut gateway, mut browser) = signed_in(&config);
        let mut request = Request::get("/logout");
        request.method = Method::DELETE;
        assert_eq!(browser.send(&mut gateway, request).status, 302);
        let forms = gateway.provider.forms.borrow();
        let revoked: Vec<_> = forms
            .iter()
            .filter(|(path, _)| path == "/revoke")
            .map(|(_, form)| form["token_type_hint"].as_str())
            .collect();
        assert_eq!(revoked, expected, "{config}");
    };
    check(json!({ "logout_uri_suffix": "/logout" }), &[]);
    check(
        json!({ "logout_uri_suffix": "/logout", "logout_revoke": true }),
        &["refresh_token", "access_token"],
    );
    check(
        json!({ "logout_uri_suffix": "/logout", "logout_revoke": true, "logout_revoke_access_token": false }),
        &["refresh_token"],
    );
}

#[test]
fn case_58_the_browser_goes_where_the_configuration_says() {
    let config = json!({
        "logout_query_arg": "logout", "logout_methods": ["GET"],
        "logout_redirect_uri": ["https://a/bye"],
    });
    let (mut gateway, mut browser) = signed_in(&config);
    let reply = browser.get(&mut gateway, "/api?logout");
    assert_eq!(
        reply.argument("post_logout_redirect_uri").as_deref(),
        Some("https://a/bye")
    );
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().discovery = vec![("end_session_endpoint", json!(null))];
    let reply = Browser::default().get(&mut gateway, "/api?logout");
    assert_eq!((reply.status, reply.location()), (302, "https://a/bye"));
}

#[test]
fn a_form_argument_may_mean_logout() {
    let (mut gateway, mut browser) = signed_in(&json!({ "logout_post_arg": "logout" }));
    let reply = browser.post(&mut gateway, "/api", "logout=1");
    assert_eq!((reply.status, reply.ends_session()), (302, true));
}

#[test]
fn logout_works_while_the_provider_is_down() {
    let (mut gateway, mut browser) = signed_in(&json!({ "logout_uri_suffix": "/logout" }));
    gateway.provider.script.borrow_mut().down = true;
    gateway.host.advance(3600.0 * 24.0);
    let reply = browser.post(&mut gateway, "/logout", "");
    assert!(reply.ends_session());
    let mut fresh = Gateway::new(json!({ "logout_uri_suffix": "/logout" }));
    fresh.provider.script.borrow_mut().down = true;
    assert_eq!(
        Browser::default().post(&mut fresh, "/logout", "").status,
        200
    );
}

#[test]
fn another_site_cannot_log_a_user_out() {
    let (mut gateway, mut browser) = signed_in(&json!({
        "logout_uri_suffix": "/logout", "logout_methods": ["GET", "POST"],
        "forbidden_destroy_session": false,
    }));
    let reply = browser.get_with(&mut gateway, "/logout", "sec-fetch-site", "cross-site");
    assert_eq!((reply.status, reply.ends_session()), (403, false));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}
