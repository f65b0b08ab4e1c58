//! Parameters that little else depends on: each does what its row of the reference says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::client::{CERTIFICATE, certificate};
use super::gateway::{Browser, Gateway, Reply, request};
use super::provider::{ISSUER, SigningKey, basic};

/// The cookie `name` that `reply` sets, with its attributes.
fn cookie(reply: &Reply, name: &str) -> String {
    let start = format!("{name}=");
    let cookies = reply.set_cookies();
    let found = cookies.iter().find(|cookie| cookie.starts_with(&start));
    found
        .unwrap_or_else(|| panic!("{name} in {cookies:?}"))
        .to_string()
}

#[test]
fn nothing_is_discovered_of_a_pseudo_issuer() {
    let config = json!({
        "using_pseudo_issuer": true, "extra_jwks_uris": [format!("{ISSUER}/jwks")],
        "authorization_endpoint": format!("{ISSUER}/authorize"),
        "token_endpoint": format!("{ISSUER}/token"),
    });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    let forged = SigningKey::es256("one").sign(&json!({ "iss": ISSUER, "sub": "x", "scope": "a" }));
    assert_eq!(gateway.call(&forged).status, 401);
    let discovery = "/.well-known/openid-configuration";
    assert_eq!(gateway.provider.called(discovery), 0);
}

#[test]
fn the_argument_that_selects_a_client_is_looked_for_in_its_places_in_their_order() {
    let json = |body: Value| ("application/json", body.to_string());
    let form = |body: &str| ("application/x-www-form-urlencoded", body.to_owned());
    let none = || ("text/plain", "tenant_app=2".to_owned());
    for (headers, query, (kind, body), id) in [
        (vec![("x-tenant-app", "2")], "", none(), "two"),
        (vec![("tenant-app", "two")], "", none(), "two"),
        (
            vec![("tenant-app", "1"), ("x-tenant-app", "2")],
            "?tenant_app=1",
            none(),
            "two",
        ),
        (
            vec![("tenant-app", "unknown")],
            "?tenant_app=2",
            none(),
            "one",
        ),
        (vec![], "?tenant_app=2", form("tenant_app=1"), "two"),
        (vec![], "", form("tenant_app=2"), "two"),
        (vec![], "", json(json!({ "tenant_app": 2 })), "two"),
        (vec![], "", json(json!({ "tenant_app": null })), "one"),
        (vec![], "?client_id=2", none(), "one"),
    ] {
        let mut gateway = Gateway::new(json!({
            "client_id": ["one", "two"], "client_arg": "tenant_app",
        }));
        let mut asked = request(&format!("/api{query}"), &headers);
        asked.method = Method::POST;
        asked
            .headers
            .push((CONTENT_TYPE, HeaderValue::from_static(kind)));
        asked.body = Bytes::from(body.clone());
        let reply = gateway.send(asked);
        let found = reply.argument("client_id");
        assert_eq!(found.as_deref(), Some(id), "{headers:?} {query} {body}");
    }
}

#[test]
fn each_endpoint_has_a_way_of_its_own_to_authenticate_and_names_for_the_token() {
    let shown = |gateway: &Gateway, path: &str| {
        let asked = gateway.provider.last(path);
        let forms = gateway.provider.forms.borrow();
        let form = forms.iter().rev().find(|(at, _)| at == path).unwrap();
        let secret = form.1.get("client_secret").cloned();
        (asked.headers().contains_key(AUTHORIZATION), secret)
    };
    let posted = (false, Some("secret".to_owned()));
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["introspection"], "client_auth": ["client_secret_basic"],
        "introspection_endpoint_auth_method": "client_secret_post",
        "introspection_token_param_name": "tok", "introspection_hint": "other",
        "introspection_post_args_names": ["a"], "introspection_post_args_values": ["1"],
    }));
    assert_eq!(
        gateway.call("opaque").status,
        401,
        "the provider reads token"
    );
    assert_eq!(shown(&gateway, "/introspect"), posted);
    let form = gateway.provider.forms.borrow()[0].1.clone();
    let said = ["tok", "token_type_hint", "a"].map(|name| form[name].as_str());
    assert_eq!(said, ["opaque", "other", "1"]);
    let mut gateway = Gateway::new(json!({
        "client_auth": ["client_secret_basic"], "token_endpoint_auth_method": "client_secret_post",
        "pushed_authorization_request_endpoint_auth_method": "client_secret_post",
        "require_pushed_authorization_requests": true,
        "revocation_endpoint_auth_method": "client_secret_post", "revocation_token_param_name": "tok",
        "logout_uri_suffix": "/logout", "logout_revoke": true, "logout_revoke_refresh_token": false,
        "token_post_args_names": ["resource", "b"], "token_post_args_values": ["https://api"],
    }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    assert_eq!(shown(&gateway, "/par"), posted);
    assert_eq!(shown(&gateway, "/token"), posted);
    let form = gateway.provider.forms.borrow()[1].1.clone();
    assert_eq!(form["resource"], "https://api");
    assert!(!form.contains_key("b"), "the shorter list decides");
    browser.post(&mut gateway, "/logout", "");
    assert_eq!(shown(&gateway, "/revoke"), posted);
    let forms = gateway.provider.forms.borrow();
    let revoked: Vec<_> = forms.iter().filter(|(path, _)| path == "/revoke").collect();
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].1["token_type_hint"], "access_token");
    assert!(revoked[0].1["tok"].starts_with("ey"));
}

#[test]
fn cookies_have_the_names_and_attributes_that_are_configured() {
    let mut gateway = Gateway::new(json!({
        "authorization_cookie_name": "auth", "authorization_cookie_lifetime": 30,
        "authorization_cookie_domain": "example.com", "authorization_cookie_path": "/api",
        "authorization_cookie_samesite": "Strict", "authorization_cookie_httponly": false,
        "authorization_cookie_secure": true, "session_cookie_name": "app",
        "session_cookie_domain": "gateway.example", "session_cookie_path": "/api",
        "session_cookie_samesite": "off", "session_cookie_httponly": false,
        "session_cookie_secure": true,
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let end = "Domain=example.com; Path=/api; SameSite=Strict; Secure";
    assert!(cookie(&start, "auth").ends_with(end), "{start:?}");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    let mut late = browser.clone();
    gateway.advance(29);
    let reply = browser.get(&mut gateway, &back);
    assert_eq!(reply.status, 200);
    let end = "; Domain=gateway.example; Path=/api; Secure";
    assert!(cookie(&reply, "app").ends_with(end), "{reply:?}");
    gateway.advance(1);
    assert_eq!(late.get(&mut gateway, &back).status, 302);
    // Over TLS the names say that no other host has set them, unless that is switched off.
    for (prefix, name) in [(true, "__Host-session"), (false, "session")] {
        let mut gateway = Gateway::new(json!({ "cookie_host_prefix": prefix }));
        gateway.https = true;
        let mut browser = Browser::default();
        let reply = browser.sign_in(&mut gateway, "/api");
        let end = "; Path=/; SameSite=Lax; Secure; HttpOnly";
        assert!(cookie(&reply, name).ends_with(end), "{reply:?}");
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
    let remembered = json!({ "session_remember": true, "session_remember_cookie_name": "stay" });
    let mut gateway = Gateway::new(remembered);
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert!(cookie(&reply, "stay").contains("Max-Age=604800"));
    browser.cookies.remove("session");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn sessions_of_two_audiences_are_apart() {
    for (audience, status) in [("default", 200), ("other", 302)] {
        let mut gateway = Gateway::new(json!({ "session_secret": "s" }));
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        let other = json!({ "session_secret": "s", "session_audience": audience });
        gateway.filter = super::gateway::compile(&other, 8);
        assert_eq!(
            browser.get(&mut gateway, "/api").status,
            status,
            "{audience}"
        );
    }
}

#[test]
fn required_claims_are_looked_for_where_they_are_said_to_be() {
    let claims = [
        ("realm", json!({ "roles": ["admin"], "for": ["a", "b"] })),
        ("list", json!(["first", { "second": "x y" }])),
    ];
    for (config, status) in [
        (
            json!({ "roles_required": ["admin"], "roles_claim": ["realm", "roles"] }),
            200,
        ),
        (
            json!({ "roles_required": ["root"], "roles_claim": ["realm", "roles"] }),
            403,
        ),
        (
            json!({ "audience_required": ["b"], "audience_claim": ["realm", "for"] }),
            200,
        ),
        (
            json!({ "audience_required": ["b"], "audience_claim": ["realm", "not"] }),
            403,
        ),
        (
            json!({ "groups_required": ["y"], "groups_claim": ["list", "2", "second"] }),
            200,
        ),
        (
            json!({ "groups_required": ["y"], "groups_claim": ["list", "1", "second"] }),
            403,
        ),
        (
            json!({ "scopes_required": ["first"], "scopes_claim": ["list", "1"] }),
            200,
        ),
        // Nowhere to look, nothing found; nothing required, all may pass.
        (
            json!({ "scopes_required": ["openid"], "scopes_claim": null }),
            403,
        ),
        (
            json!({ "scopes_required": ["openid"], "scopes_claim": [] }),
            403,
        ),
        (
            json!({ "scopes_required": [], "roles_required": null }),
            200,
        ),
    ] {
        let mut gateway = Gateway::new(config.clone());
        let token = gateway.provider.access_token(&claims);
        assert_eq!(gateway.call(&token).status, status, "{config}");
    }
}

#[test]
fn refusals_have_the_words_that_are_configured() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "unauthorized_error_message": "Who?",
        "forbidden_error_message": "Not you", "scopes_required": ["admin"],
    }));
    let reply = gateway.call("no token");
    assert_eq!(
        (reply.status, reply.json()),
        (401, json!({ "message": "Who?" }))
    );
    let token = gateway.provider.access_token(&[]);
    let reply = gateway.call(&token);
    let whole = json!({ "message": "Not you" });
    assert_eq!((reply.status, reply.json()), (403, whole));
}

#[test]
fn the_client_is_told_by_header_what_is_configured() {
    let config = json!({
        "downstream_headers_claims": ["email", "missing", "groups"],
        "downstream_headers_names": ["x_email", "x-missing", "x-groups"],
        "downstream_access_token_header": "x-access:bearer", "downstream_id_token_header": "x-id",
        "downstream_refresh_token_header": "x-refresh", "downstream_session_id_header": "x-session",
        "downstream_access_token_jwk_header": "x-access-key", "downstream_id_token_jwk_header": "x-id-key",
        "downstream_user_info_header": "x-info", "upstream_session_id_header": "x-session",
    });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let reply = browser.get(&mut gateway, "/api");
    let told = |name: &str| reply.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(told("x-email"), Some("john@example.com"));
    assert_eq!(told("x-missing"), None);
    let groups = STANDARD.encode(r#"["employee","marketing"]"#);
    assert_eq!(told("x-groups"), Some(groups.as_str()));
    assert!(told("x-access").unwrap().starts_with("Bearer ey"));
    assert!(told("x-id").unwrap().starts_with("ey"));
    assert_eq!(told("x-refresh"), Some("refresh-1"));
    assert_eq!(told("x-session"), reply.seen("x-session"));
    let key = gateway.provider.keys.borrow()[0].jwk.clone();
    for name in ["x-access-key", "x-id-key"] {
        let shown = STANDARD.decode(told(name).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap(), key);
    }
    assert!(told("x-info").is_some());
    // What the provider says of a token, as it came and as JSON.
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["introspection"], "downstream_introspection_header": "x-said",
        "downstream_introspection_jwt_header": "x-said-jwt", "downstream_user_info_jwt_header": "x-info-jwt",
        "introspection_accept": "application/jwt", "userinfo_accept": "application/jwt",
    }));
    gateway.provider.script.borrow_mut().signed_answers = Some(("application/jwt", None));
    let reply = gateway.call("opaque");
    assert_eq!(reply.status, 200);
    let said = STANDARD.decode(&reply.headers["x-said"]).unwrap();
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["username"], "john");
    for name in ["x-said-jwt", "x-info-jwt"] {
        assert_eq!(reply.headers[name].to_str().unwrap().split('.').count(), 3);
    }
    assert_eq!(
        gateway.provider.last("/userinfo").headers()["accept"],
        "application/jwt"
    );
}

#[test]
fn headers_and_tokens_of_requests_to_the_provider_are_as_configured() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["password"], "discovery_headers_names": ["x-key", "x-more"],
        "discovery_headers_values": ["k"], "token_headers_names": ["x-fixed"],
        "token_headers_values": ["f"], "token_headers_client": ["x_tenant"],
        "token_headers_replay": ["x-answered"], "token_headers_prefix": "idp-",
        "token_headers_grants": ["password"], "token_post_args_client": ["lang", "device_id"],
        "client_auth": ["client_secret_post"],
    }));
    let headers = [
        ("authorization", &*basic("john:p:ss")),
        ("x-tenant", "t"),
        ("device-id", "d"),
    ];
    let reply = gateway.send(request("/api?lang=de", &headers));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["idp-x-answered"], "yes");
    for path in ["/.well-known/openid-configuration", "/jwks"] {
        assert_eq!(gateway.provider.last(path).headers()["x-key"], "k");
    }
    let asked = gateway.provider.last("/token");
    assert_eq!(asked.headers()["x-fixed"], "f");
    assert_eq!(asked.headers()["x_tenant"], "t");
    let form = gateway.provider.forms.borrow()[0].1.clone();
    let said = ["lang", "device_id", "client_id"].map(|name| form[name].as_str());
    assert_eq!(said, ["de", "d", "client"]);
    // Of another grant nothing is replayed.
    let mut gateway = Gateway::new(json!({
        "token_headers_replay": ["x-answered"], "token_headers_grants": ["password"],
    }));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert!(reply.status == 200 && !reply.headers.contains_key("x-answered"));
}

#[test]
fn who_shows_a_certificate_does_so_at_the_endpoints_that_are_named_for_it() {
    let certificate_id = json!(CERTIFICATE.to_string());
    for (auth, certificate_id, asked, other) in [
        ("tls_client_auth", certificate_id, "/v2", ""),
        ("client_secret_basic", Value::Null, "", "/v2"),
    ] {
        let named = |path: &str| format!("{ISSUER}/v2{path}");
        let mut gateway = Gateway::new(json!({
            "client_auth": [auth], "tls_client_auth_cert_id": certificate_id,
            "mtls_token_endpoint": named("/token"), "mtls_revocation_endpoint": named("/revoke"),
            "mtls_introspection_endpoint": named("/introspect"), "introspect_jwt_tokens": true,
            "logout_uri_suffix": "/logout", "logout_revoke": true,
            "auth_methods": ["session", "introspection", "authorization_code"],
        }));
        gateway.host.equip(certificate());
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        browser.post(&mut gateway, "/logout", "");
        assert_eq!(gateway.call("opaque").status, 200);
        for path in ["/token", "/revoke", "/introspect"] {
            let called = |before: &str| gateway.provider.called(&format!("{before}{path}")) > 0;
            assert!(called(asked) && !called(other), "{auth} {path}");
        }
    }
}

#[test]
fn a_provider_without_tls_is_asked_by_way_of_a_proxy_of_its_own() {
    let mut gateway = Gateway::new(json!({
        "issuer": "http://idp.example", "allow_insecure_http": true,
        "http_proxy": "http://proxy.example:3128", "http_proxy_authorization": "Basic eDp5",
    }));
    Browser::default().get(&mut gateway, "/api");
    let proxies = gateway.host.last_limits().proxies.unwrap();
    let to = |url: &str| proxies.of(&url.parse().unwrap());
    let proxy = to("http://idp.example/token").unwrap();
    assert_eq!(proxy.url.authority().unwrap(), "proxy.example:3128");
    assert_eq!(proxy.authorization.as_ref().unwrap().expose(), "Basic eDp5");
    assert!(to("https://idp.example/token").is_none());
}
