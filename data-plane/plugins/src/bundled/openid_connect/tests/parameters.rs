//! What parameters do, alone and beside each other, where a first reading may miss it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply, request};
use super::provider::{SigningKey, basic};
use crate::testing::consumer;

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A browser whose session `token` has begun.
fn bringing(gateway: &mut Gateway, token: &str) -> Browser {
    let mut browser = Browser::default();
    let reply = browser.get_with(gateway, "/api", "authorization", &bearer(token));
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    browser
}

/// The cookie `name` that `reply` sets.
fn cookie(reply: &Reply, name: &str) -> Option<String> {
    let mut cookies = reply.set_cookies().into_iter();
    cookies
        .find(|cookie| cookie.starts_with(name))
        .map(str::to_owned)
}

#[test]
fn a_token_that_the_provider_vouches_for_must_belong_to_the_cookie_beside_it_too() {
    for (method, sid, cookie, status) in [
        ("introspection", json!("s-1"), "app=s-1", 200),
        ("introspection", json!("s-1"), "app=s-2", 401),
        ("introspection", json!("s-1"), "other=s-1", 401),
        ("introspection", json!(null), "app=s-1", 401),
        ("userinfo", json!(null), "app=s-1", 401),
    ] {
        let config = json!({ "auth_methods": [method], "jwt_session_cookie": "app" });
        let mut gateway = Gateway::new(config);
        gateway.provider.script.borrow_mut().access_claims = vec![("sid", sid)];
        let headers = [("authorization", "Bearer opaque"), ("cookie", cookie)];
        let reply = gateway.send(request("/api", &headers));
        assert_eq!(reply.status, status, "{method} {cookie}");
    }
    // A JWT says it itself, also where the provider does not repeat that.
    for (method, sid, cookie, status) in [
        ("introspection", json!("s-1"), "app=s-1", 200),
        ("introspection", json!("s-1"), "app=s-2", 401),
        ("userinfo", json!("s-1"), "app=s-1", 200),
        ("userinfo", json!("s-1"), "app=s-2", 401),
        ("userinfo", json!(""), "app=", 401),
        ("bearer", json!(""), "app=", 401),
    ] {
        let config = json!({ "auth_methods": [method], "jwt_session_cookie": "app" });
        let mut gateway = Gateway::new(config);
        let token = gateway.provider.access_token(&[("sid", sid)]);
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", &*bearer), ("cookie", cookie)];
        let reply = gateway.send(request("/api", &headers));
        assert_eq!(reply.status, status, "{method} {cookie}");
    }
}

#[test]
fn what_is_said_of_a_token_is_kept_no_longer_than_the_token_itself_says() {
    let config = json!({ "auth_methods": ["session", "introspection"] });
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().access_claims = vec![("exp", json!(null))];
    let end = gateway.provider.now() + 100;
    let token = gateway.provider.access_token(&[("exp", json!(end))]);
    let mut browser = bringing(&mut gateway, &token);
    gateway.advance(99);
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.provider.called("/introspect"), 1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(1);
    // The provider's word counts, and it is asked for it.
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.provider.called("/introspect"), 2);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn a_session_ends_with_its_token_whoever_has_vouched_for_that() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["session", "userinfo"] }));
    let end = gateway.provider.now() + 100;
    let token = gateway.provider.access_token(&[("exp", json!(end))]);
    let mut browser = bringing(&mut gateway, &token);
    gateway.advance(99);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn a_session_whose_token_was_asked_about_is_asked_about_again_where_it_is_verified_again() {
    for (reverify, status) in [(false, 200), (true, 401)] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["session", "bearer"], "introspect_jwt_tokens": true,
            "cache_introspection": false, "reverify": reverify,
        }));
        let token = gateway.provider.access_token(&[]);
        let mut browser = bringing(&mut gateway, &token);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        let revoked = Some((200, json!({ "active": false })));
        gateway.provider.script.borrow_mut().introspection = revoked;
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{reverify}");
    }
}

#[test]
fn a_number_is_the_position_of_a_client_before_it_is_a_name() {
    let config = json!({
        "client_id": ["2", "1", "7000"], "client_secret": ["s"],
        "redirect_uri": ["http://gateway.example/1", "http://gateway.example/2"],
    });
    for (choice, id, redirect) in [
        ("1", "2", "/1"),
        ("2", "1", "/2"),
        ("7000", "7000", "/1"),
        ("0", "2", "/1"),
    ] {
        let mut gateway = Gateway::new(config.clone());
        let uri = format!("/api?client_id={choice}");
        let reply = Browser::default().get(&mut gateway, &uri);
        let told = |name: &str| reply.argument(name).unwrap();
        assert_eq!(told("client_id"), id, "{choice}");
        let redirect = format!("http://gateway.example{redirect}");
        assert_eq!(told("redirect_uri"), redirect, "{choice}");
    }
}

#[test]
fn case_69_the_settings_of_the_client_that_was_chosen_hold_to_the_end() {
    let config = json!({
        "client_id": ["one", "two", "three"], "client_secret": ["s1", "s2"],
        "client_auth": ["client_secret_post", "client_secret_basic"],
        "logout_uri_suffix": "/logout", "logout_redirect_uri": ["https://a/1", "https://a/2"],
    });
    for (choice, id, pair, after) in [
        ("1", "one", None, "https://a/1"),
        ("2", "two", Some("two:s2"), "https://a/2"),
        // What has no place of its own is as with the first.
        ("three", "three", None, "https://a/1"),
    ] {
        let mut gateway = Gateway::new(config.clone());
        gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!(id))];
        let mut browser = Browser::default();
        let reply = browser.sign_in(&mut gateway, &format!("/api?client_id={choice}"));
        assert_eq!((reply.status, reply.sets_session()), (200, true), "{id}");
        let asked = gateway.provider.last("/token");
        let shown = asked.headers().get("authorization");
        let shown = shown.map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(shown, pair.map(basic), "{id}");
        let form = gateway.provider.forms.borrow()[0].1.clone();
        let secret = form.get("client_secret").map(String::as_str);
        assert_eq!(secret, pair.is_none().then_some("s1"), "{id}");
        let reply = browser.post(&mut gateway, "/logout", "");
        assert_eq!(reply.argument("client_id").as_deref(), Some(id));
        let back = reply.argument("post_logout_redirect_uri");
        assert_eq!(back.as_deref(), Some(after), "{id}");
    }
}

#[test]
fn a_list_may_hold_several_words_in_one_element() {
    let config = json!({
        "verify_parameters": true, "auth_methods": ["session", "authorization_code", "password"],
        "scopes": ["openid email", "email"],
        "response_type": ["id_token code"], "response_mode": "form_post",
    });
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().discovery = vec![
        ("scopes_supported", json!(["openid", "email"])),
        ("response_types_supported", json!(["code", "code id_token"])),
    ];
    let reply = Browser::default().get(&mut gateway, "/api");
    assert_eq!(reply.status, 302, "{reply:?}");
    assert_eq!(reply.argument("scope").as_deref(), Some("openid email"));
    let headers = [("authorization", &*basic("john:p:ss"))];
    assert_eq!(gateway.send(request("/api", &headers)).status, 200);
    let form = gateway.provider.forms.borrow()[0].1.clone();
    assert_eq!(form["scope"], "openid email");
}

#[test]
fn a_key_without_a_name_is_tried_for_a_token_that_names_none_of_the_others() {
    let named = |count: usize| -> Vec<SigningKey> {
        let names = (0..count).map(|number| format!("other-{number}"));
        names.map(|name| SigningKey::es256(&name)).collect()
    };
    let unnamed = |mut key: SigningKey| {
        key.jwk.as_object_mut().unwrap().remove("kid");
        key
    };
    let own = SigningKey::es256("one");
    let others: Vec<_> = named(6).into_iter().map(unnamed).collect();
    let beside = |keys: Vec<SigningKey>, own: SigningKey| keys.into_iter().chain([own]).collect();
    let sets: [(Vec<SigningKey>, u16); 4] = [
        (beside(named(1), unnamed(own.clone())), 200),
        // What is named is tried first, however many are not.
        (beside(others, own.clone()), 200),
        (vec![unnamed(SigningKey::es256("one"))], 401),
        (named(1), 401),
    ];
    for (place, (keys, status)) in sets.into_iter().enumerate() {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
        *gateway.provider.keys.borrow_mut() = keys;
        gateway.provider.script.borrow_mut().signs_with = Some(own.clone());
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, status, "{place}");
    }
}

#[test]
fn a_claim_is_forbidden_whether_the_token_has_it_or_the_provider_says_it() {
    for (claim, status) in [("tenant", 403), ("username", 403), ("neither", 200)] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["bearer"], "introspect_jwt_tokens": true, "claims_forbidden": [claim],
        }));
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, status, "{claim}");
    }
    // Also where the provider alone has judged the token, and says less of it.
    for method in ["introspection", "userinfo"] {
        for (claim, status) in [("tenant", 403), ("other", 200)] {
            let config = json!({ "auth_methods": [method], "claims_forbidden": [claim] });
            let mut gateway = Gateway::new(config);
            let said = (200, json!({ "active": true, "sub": "user-1" }));
            gateway.provider.script.borrow_mut().introspection = Some(said);
            let token = gateway.provider.access_token(&[]);
            assert_eq!(gateway.call(&token).status, status, "{method} {claim}");
            // Whatever it calls its signature, and however it says the claim.
            let (header, rest) = token.split_once('.').unwrap();
            let (payload, signature) = rest.split_once('.').unwrap();
            let with = |header: &str, payload: &str| format!("{header}.{payload}.{signature}");
            let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
            let twice = encoded("{\"tenant\":1,\"tenant\":2}");
            for (token, status) in [
                (with(&encoded("{\"alg\":\"ES256K\"}"), payload), status),
                (with(&encoded("{\"alg\":\"none\"}"), payload), status),
                (with("eyJ", payload), status),
                (with(header, &twice), 403),
                (with(header, "opaque"), 200),
            ] {
                assert_eq!(
                    gateway.call(&token).status,
                    status,
                    "{method} {claim} {token}"
                );
            }
        }
    }
}

#[test]
fn each_request_is_told_of_its_session_whatever_began_it() {
    let told = json!(["id", "subject"]);
    let config = json!({
        "auth_methods": ["session", "introspection"], "session_request_headers": told,
    });
    let mut gateway = Gateway::new(config);
    let reply = gateway.call("opaque");
    assert_eq!(reply.seen("session-subject"), Some("user-1"));
    let config = json!({
        "auth_methods": ["session", "bearer"], "session_request_headers": told,
        "upstream_session_id_header": "x-session",
    });
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(&[]);
    for _ in 0..3 {
        let reply = gateway.call(&token);
        assert_eq!(reply.seen("session-subject"), Some("user-1"));
        assert!(reply.seen("session-id").is_some());
        assert_eq!(reply.seen("x-session"), reply.seen("session-id"));
    }
}

#[test]
fn the_session_of_a_token_is_for_the_connection_that_brought_it() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["session", "bearer"] }));
    let token = gateway.provider.access_token(&[]);
    for https in [false, true, true, false] {
        gateway.https = https;
        let reply = gateway.call(&token);
        let secure = cookie(&reply, "__Host-session=");
        assert_eq!(secure.is_some(), https, "{reply:?}");
        assert_eq!(cookie(&reply, "session=").is_some(), !https, "{reply:?}");
    }
    let config = json!({ "auth_methods": ["session", "bearer"], "session_bind": ["user-agent"] });
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(&[]);
    for agent in ["one", "two", "two"] {
        let mut browser = Browser::default();
        let headers = [("authorization", &*bearer(&token)), ("user-agent", agent)];
        let reply = browser.send(&mut gateway, request("/api", &headers));
        assert_eq!((reply.status, reply.sets_session()), (200, true));
        let reply = browser.get_with(&mut gateway, "/api", "user-agent", agent);
        assert_eq!(reply.status, 200, "{agent}");
    }
}

#[test]
fn no_header_of_a_client_passes_for_the_gateways_where_anonymous_stands_in() {
    let mut gateway = Gateway::new(json!({
        "scopes_required": ["admin"], "anonymous": "guest",
        "upstream_access_token_header": "x_access_token",
    }));
    gateway.add_consumer(&consumer("guest", None));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    let reply = browser.get_with(&mut gateway, "/api", "x-access-token", "forged");
    assert_eq!(reply.seen("x-anonymous-consumer"), Some("true"));
    assert_eq!(reply.seen("x-access-token"), None);
}

#[test]
fn without_a_look_at_claims_none_of_them_is_missed() {
    let lacking = |name: &'static str| (name, Value::Null);
    for (verify, claims, status) in [
        (true, vec![lacking("iat")], 401),
        (false, vec![lacking("iat"), lacking("exp")], 200),
        (false, vec![lacking("iss"), lacking("aud")], 200),
        (false, vec![("aud", json!({ "of": "no type" }))], 200),
        (false, vec![("nonce", json!("other"))], 401),
        (false, vec![lacking("nonce")], 401),
    ] {
        let mut gateway = Gateway::new(json!({ "verify_claims": verify }));
        gateway
            .provider
            .script
            .borrow_mut()
            .id_claims
            .clone_from(&claims);
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{verify} {claims:?}");
    }
}

#[test]
fn what_is_configured_is_called_while_discovery_is_away() {
    let config = json!({
        "token_endpoint": "https://idp.example/token", "logout_uri_suffix": "/logout",
        "revocation_endpoint": "https://idp.example/revoke", "logout_revoke": true,
        "scopes": ["email"],
    });
    let mut one = Gateway::new(config.clone());
    {
        let mut script = one.provider.script.borrow_mut();
        (script.no_id_token, script.opaque) = (true, true);
    }
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    one.provider.script.borrow_mut().no_discovery = true;
    let mut two = Gateway::with_provider(&config, std::rc::Rc::clone(&one.provider), 2);
    two.host.advance(300.0);
    let reply = browser.get(&mut two, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    assert_eq!(two.provider.called("/token"), 2);
    assert!(browser.post(&mut two, "/logout", "").ends_session());
    assert_eq!(two.provider.called("/revoke"), 2);
}

#[test]
fn what_restores_a_session_has_its_newest_refresh_token_though_no_use_renews_it() {
    let mut gateway = Gateway::new(json!({
        "session_remember": true, "disable_session": ["session"], "session_idling_timeout": 0,
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(300);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
    gateway.advance(300);
    // The browser was closed. The provider takes each refresh token once.
    browser.cookies.retain(|name, _| name == "remember");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 3);
}

#[test]
fn a_client_adds_no_second_argument_to_what_the_configuration_says() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["userinfo"],
        "userinfo_query_args_names": ["schema"], "userinfo_query_args_values": ["openid"],
        "userinfo_query_args_client": ["schema", "lang"],
    }));
    let headers = [("authorization", "Bearer opaque")];
    let uri = "/api?schema=evil&lang=de";
    assert_eq!(gateway.send(request(uri, &headers)).status, 200);
    let asked = gateway.provider.last("/userinfo");
    assert_eq!(asked.uri().query(), Some("schema=openid&lang=de"));
}
