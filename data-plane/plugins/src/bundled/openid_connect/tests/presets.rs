//! Each preset, by a sign-in at a provider that does as the one of its name.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply};
use super::provider::ISSUER;
use crate::testing::Request;

/// What a provider puts into its tokens and says of itself.
struct Ways {
    id: Value,
    access: Value,
    discovery: Value,
    opaque: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            id: json!({}),
            access: json!({}),
            discovery: json!({}),
            opaque: false,
        }
    }
}

fn changes(value: &Value) -> Vec<(&'static str, Value)> {
    let members = value.as_object().unwrap().clone();
    let leaked = |name: String| &*name.leak();
    members
        .into_iter()
        .map(|(name, value)| (leaked(name), value))
        .collect()
}

/// A gateway with the preset and `more`, at a provider of these ways.
fn at(preset: &str, more: &Value, ways: &Ways) -> Gateway {
    let mut config = json!({ "preset": preset, "logout_uri_suffix": "/logout" });
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    let gateway = Gateway::new(config);
    {
        let mut script = gateway.provider.script.borrow_mut();
        script.id_claims = changes(&ways.id);
        script.access_claims = changes(&ways.access);
        script.discovery = changes(&ways.discovery);
        script.opaque = ways.opaque;
    }
    gateway
}

fn sign_in(gateway: &mut Gateway) -> (Browser, Reply) {
    let mut browser = Browser::default();
    let reply = browser.sign_in(gateway, "/api");
    assert_eq!(
        (reply.status, reply.sets_session()),
        (200, true),
        "{reply:?}"
    );
    (browser, reply)
}

/// What is asked of the provider by `name`.
fn asked(gateway: &mut Gateway, name: &str) -> Option<String> {
    Browser::default().get(gateway, "/api").argument(name)
}

fn is_refreshed(gateway: &mut Gateway, browser: &mut Browser) {
    gateway.advance(350);
    assert_eq!(browser.get(gateway, "/api").status, 200);
    let forms = gateway.provider.forms.borrow();
    assert_eq!(forms.last().unwrap().1["grant_type"], "refresh_token");
}

#[test]
fn okta_names_scopes_in_an_array_and_refreshes_by_scope() {
    let ways = Ways {
        access: json!({ "scope": null, "scp": ["openid", "email"], "groups": ["Everyone"] }),
        ..Ways::default()
    };
    let mut gateway = at("okta", &json!({ "scopes_required": ["email"] }), &ways);
    let scope = asked(&mut gateway, "scope").unwrap();
    assert!(scope.split(' ').any(|scope| scope == "offline_access"));
    let (mut browser, reply) = sign_in(&mut gateway);
    assert_eq!(reply.seen("x-authenticated-groups"), Some("Everyone"));
    is_refreshed(&mut gateway, &mut browser);
    let logout = browser.post(&mut gateway, "/logout", "");
    assert!(logout.argument("id_token_hint").is_some());
}

#[test]
fn entra_s_users_are_known_by_oid_and_its_graph_tokens_are_nobody_else_s_to_read() {
    let ways = Ways {
        id: json!({ "oid": "0000-1111", "groups": ["g1", "g2"], "sub": "pairwise" }),
        // The token is for Microsoft Graph, of another issuer.
        access: json!({ "iss": "https://sts.windows.net/tenant/", "aud": "graph", "oid": "x" }),
        ..Ways::default()
    };
    let mut gateway = at("entra", &json!({}), &ways);
    let (mut browser, reply) = sign_in(&mut gateway);
    assert_eq!(reply.seen("x-credential-identifier"), Some("0000-1111"));
    assert_eq!(reply.seen("x-authenticated-groups"), Some("g1, g2"));
    is_refreshed(&mut gateway, &mut browser);
}

/// A token as Microsoft Graph gets it: nobody else can tell who signed it.
fn for_graph(token: &str) -> String {
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "key-1", "nonce": "n" });
    let rest = token.split_once('.').unwrap().1;
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[test]
fn a_token_for_microsoft_graph_is_opaque_even_if_its_issuer_is_accepted() {
    let more = json!({ "issuers_allowed": [ISSUER], "authenticated_groups_claim": ["roles"] });
    let mut gateway = at("entra", &more, &Ways::default());
    let changes = [("roles", json!(["made-up"])), ("oid", json!("made-up"))];
    let token = for_graph(&gateway.provider.access_token(&changes));
    assert_eq!(gateway.call(&token).status, 401);
    gateway.provider.script.borrow_mut().access_token = Some(token.clone());
    let (mut browser, reply) = sign_in(&mut gateway);
    let bearer = format!("Bearer {token}");
    for reply in [reply, browser.get(&mut gateway, "/api")] {
        assert_eq!(reply.seen("authorization"), Some(bearer.as_str()));
        assert_eq!(reply.seen("x-authenticated-groups"), None);
        assert_ne!(reply.seen("x-credential-identifier"), Some("made-up"));
    }
}

#[test]
fn rule_32f_of_a_provider_for_several_tenants_only_those_on_the_list_sign_in() {
    let of = |tenant: &str| format!("{ISSUER}/{tenant}/v2.0");
    let outcome = |allowed: Value, tenant: &str, tid: &str| {
        let ways = Ways {
            discovery: json!({ "issuer": of("{tenantid}") }),
            id: json!({ "iss": of(tenant), "tid": tid }),
            opaque: true,
            ..Ways::default()
        };
        let more = json!({ "issuers_allowed": allowed });
        let mut gateway = at("entra", &more, &ways);
        let mut browser = Browser::default();
        match browser.get(&mut gateway, "/api").status {
            302 => browser.sign_in(&mut gateway, "/api").status,
            refused => refused,
        }
    };
    let both = json!([of("one"), of("two")]);
    assert_eq!(outcome(both.clone(), "one", "one"), 200);
    assert_eq!(outcome(both.clone(), "two", "two"), 200);
    assert_eq!(outcome(both.clone(), "three", "three"), 401);
    assert_eq!(outcome(both, "one", "two"), 401, "the claims disagree");
    // Without a list, and with one that does not fill the template, the document is another provider's.
    assert_eq!(outcome(Value::Null, "one", "one"), 503);
    assert_eq!(outcome(json!(["https://other.example"]), "one", "one"), 503);
}

#[test]
fn google_refreshes_by_arguments_and_has_no_logout() {
    let ways = Ways {
        discovery: json!({ "end_session_endpoint": null }),
        id: json!({ "hd": "example.com" }),
        opaque: true,
        ..Ways::default()
    };
    let mut gateway = at("google", &json!({ "domains": ["example.com"] }), &ways);
    assert_eq!(
        asked(&mut gateway, "access_type").as_deref(),
        Some("offline")
    );
    assert_eq!(asked(&mut gateway, "prompt").as_deref(), Some("consent"));
    let scope = asked(&mut gateway, "scope").unwrap();
    assert!(!scope.contains("offline_access"));
    let (mut browser, reply) = sign_in(&mut gateway);
    assert_eq!(reply.seen("authorization"), Some("Bearer opaque"));
    is_refreshed(&mut gateway, &mut browser);
    let logout = browser.post(&mut gateway, "/logout", "");
    assert_eq!((logout.status, logout.ends_session()), (200, true));
}

#[test]
fn rule_32f_an_issuer_that_is_no_url_is_accepted_where_it_is_listed() {
    // Google: "always https://accounts.google.com or accounts.google.com".
    let google = "https://accounts.google.com";
    let both = json!([google, "accounts.google.com"]);
    let only = json!([google]);
    for (config, iss, status) in [
        (json!({ "preset": "google" }), "accounts.google.com", 200),
        (json!({ "preset": "google" }), google, 200),
        (json!({ "preset": "google" }), "google.com", 401),
        (
            json!({ "issuers_allowed": both }),
            "accounts.google.com",
            200,
        ),
        (
            json!({ "issuers_allowed": only }),
            "accounts.google.com",
            401,
        ),
        (json!({}), "accounts.google.com", 401),
    ] {
        let mut fields = json!({
            "issuer": google, "authorization_endpoint": format!("{ISSUER}/authorize"),
        });
        let more = config.as_object().unwrap().clone();
        fields.as_object_mut().unwrap().extend(more);
        let mut gateway = Gateway::new(fields);
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.discovery = changes(&json!({ "issuer": google }));
            script.id_claims = changes(&json!({ "iss": iss }));
            script.opaque = true;
        }
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{config} {iss}");
        if status == 401 {
            assert_eq!(super::conformance::reason(&gateway), "idt_iss");
        }
    }
}

#[test]
fn auth0_puts_a_slash_behind_its_issuer() {
    let slash = format!("{ISSUER}/");
    let ways = Ways {
        id: json!({ "iss": slash, "https://example.com/groups": ["a"] }),
        discovery: json!({ "issuer": slash }),
        opaque: true,
        ..Ways::default()
    };
    let more = json!({
        "issuer": slash, "authenticated_groups_claim": ["https://example.com/groups"],
        "audience": ["https://api.example"],
    });
    let mut gateway = at("auth0", &more, &ways);
    let audience = asked(&mut gateway, "audience");
    assert_eq!(audience.as_deref(), Some("https://api.example"));
    let (mut browser, reply) = sign_in(&mut gateway);
    assert_eq!(reply.seen("x-authenticated-groups"), Some("a"));
    is_refreshed(&mut gateway, &mut browser);
}

#[test]
fn auth0_s_own_logout_serves_where_none_is_discovered() {
    let logout = |discovered: Value, after: Value| {
        let ways = Ways {
            discovery: json!({ "end_session_endpoint": discovered }),
            ..Ways::default()
        };
        let mut gateway = at("auth0", &json!({ "logout_redirect_uri": after }), &ways);
        let (mut browser, _) = sign_in(&mut gateway);
        browser.post(&mut gateway, "/logout", "")
    };
    let back = json!(["https://app.example/bye"]);
    let own = logout(Value::Null, back.clone());
    assert_eq!(
        own.location(),
        "https://idp.example/v2/logout?client_id=client&returnTo=https%3A%2F%2Fapp.example%2Fbye"
    );
    let own = logout(Value::Null, Value::Null);
    assert_eq!(
        own.location(),
        "https://idp.example/v2/logout?client_id=client"
    );
    let standard = logout(json!("https://idp.example/oidc/logout"), back);
    assert!(
        standard
            .location()
            .starts_with("https://idp.example/oidc/logout?")
    );
    assert!(standard.argument("post_logout_redirect_uri").is_some());
}

#[test]
fn cognito_has_a_logout_of_its_own_and_says_what_a_token_is_for() {
    // Newer pools discover it, with other arguments than the standard's all the same.
    for discovered in [Value::Null, json!("https://idp.example/logout")] {
        let ways = Ways {
            id: json!({ "token_use": "id", "cognito:groups": ["admins"] }),
            access: json!({ "token_use": "access", "aud": null, "client_id": "client", "cognito:groups": ["admins"] }),
            discovery: json!({ "end_session_endpoint": discovered }),
            ..Ways::default()
        };
        let more = json!({
            "groups_required": ["admins"], "logout_redirect_uri": ["https://app.example/bye"],
        });
        let mut gateway = at("cognito", &more, &ways);
        let (mut browser, reply) = sign_in(&mut gateway);
        assert_eq!(reply.seen("x-authenticated-groups"), Some("admins"));
        is_refreshed(&mut gateway, &mut browser);
        let logout = browser.post(&mut gateway, "/logout", "");
        assert_eq!(
            logout.location(),
            "https://idp.example/logout?client_id=client&logout_uri=https%3A%2F%2Fapp.example%2Fbye"
        );
        let id_token = gateway.provider.id_token(None, "x");
        assert_eq!(gateway.call(&id_token).status, 401);
        let whole =
            "https://idp.example/logout?client_id=client&logout_uri=https%3A%2F%2Fa.example";
        let more = json!({ "logout_redirect_uri": [whole] });
        let mut gateway = at("cognito", &more, &ways);
        let (mut browser, _) = sign_in(&mut gateway);
        let logout = browser.post(&mut gateway, "/logout", "");
        assert_eq!(logout.location(), whole);
        // It takes nobody who is not to come back.
        let mut gateway = at("cognito", &json!({}), &ways);
        let (mut browser, _) = sign_in(&mut gateway);
        let logout = browser.post(&mut gateway, "/logout", "");
        assert_eq!((logout.status, logout.ends_session()), (200, true));
    }
}

#[test]
fn keycloak_keeps_roles_inside_of_an_object() {
    let ways = Ways {
        id: json!({ "typ": "ID", "sid": "s1" }),
        access: json!({
            "typ": "Bearer", "azp": "client", "realm_access": { "roles": ["admin"] },
            "groups": ["staff"],
        }),
        ..Ways::default()
    };
    let mut gateway = at("keycloak", &json!({ "roles_required": ["admin"] }), &ways);
    let (mut browser, reply) = sign_in(&mut gateway);
    assert_eq!(reply.seen("x-authenticated-groups"), Some("staff"));
    is_refreshed(&mut gateway, &mut browser);
    let id_token = gateway.provider.id_token(None, "x");
    assert_eq!(gateway.call(&id_token).status, 401);
}

#[test]
fn rules_45_and_55_no_preset_reads_tokens_in_urls_or_takes_passwords() {
    for preset in ["okta", "entra", "google", "auth0", "cognito", "keycloak"] {
        let mut gateway = at(preset, &json!({}), &Ways::default());
        let token = gateway.provider.access_token(&[]);
        let reply = gateway.send(Request::get(&format!("/api?access_token={token}")));
        assert_eq!(reply.status, 302, "{preset}");
        let basic = super::provider::basic("john:p:ss");
        let reply = Browser::default().get_with(&mut gateway, "/api", "authorization", &basic);
        assert_eq!(reply.status, 302, "{preset}");
        // Clocks may differ by half a minute.
        let changes = [("nbf", json!(gateway.provider.now() + 29))];
        let token = gateway.provider.access_token(&changes);
        assert_eq!(gateway.call(&token).status, 200, "{preset}");
    }
}
