//! What the requirements of a relying party's security say of providers, tokens, claims and cookies, by
//! their numbers.

use http::header::SET_COOKIE;
use serde_json::{Value, json};

use super::conformance::{outcome, reason};
use super::gateway::{Browser, Gateway};
use super::provider::ISSUER;
use crate::bundled::openid_connect::OpenidConnect;
use crate::filter::Plugin;
use crate::registry;

fn signed_in(config: &Value) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(config.clone());
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    (gateway, browser)
}

/// The first field that a configuration is refused for.
fn refused_field(changes: &Value) -> Option<String> {
    let mut config = json!({ "issuer": ISSUER, "client_id": ["c"] });
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    let errors = registry::check(OpenidConnect::NAME, &config).err()?;
    errors.by_field.keys().next().cloned()
}

#[test]
fn rule_5_a_provider_that_does_not_announce_s256_gets_it_nonetheless() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().discovery =
        vec![("code_challenge_methods_supported", json!(["plain"]))];
    let start = Browser::default().get(&mut gateway, "/api");
    let method = start.argument("code_challenge_method");
    assert_eq!(method.as_deref(), Some("S256"));
}

#[test]
fn rule_35_what_is_essential_is_not_passed_over() {
    let check = |asked: &str, acr: Value, status: u16| {
        let mut gateway = Gateway::new(json!({
            "authorization_query_args_names": ["claims"],
            "authorization_query_args_values": [asked],
        }));
        gateway.provider.script.borrow_mut().id_claims = vec![("acr", acr.clone())];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{asked} {acr}");
        assert_eq!(reason(&gateway) == "idt_acr", status == 401);
    };
    let essential = r#"{"id_token":{"acr":{"essential":true,"values":["gold","silver"]}}}"#;
    check(essential, json!("silver"), 200);
    check(essential, json!("bronze"), 401);
    check(essential, Value::Null, 401);
    let any = r#"{"id_token":{"acr":{"essential":true}}}"#;
    check(any, json!("bronze"), 200);
    check(any, Value::Null, 401);
    let voluntary = r#"{"id_token":{"acr":{"values":["gold"]}}}"#;
    check(voluntary, Value::Null, 200);
    check("no JSON", Value::Null, 200);
}

#[test]
fn rule_36_a_clock_that_is_wrong_is_reported_and_not_tolerated() {
    let found = |date: &str| {
        let gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().headers = vec![("date", date.to_owned())];
        let config = json!({ "issuer": ISSUER, "client_id": ["client"] });
        let checking = crate::bundled::openid_connect::check::run(&config, &gateway.host);
        let report = gateway.host.run(checking).unwrap();
        let all = report["findings"].as_array().unwrap().clone();
        let clock = all.iter().find(|finding| finding["check"] == "clock");
        clock.unwrap()["result"].clone()
    };
    let at = |seconds: u64| {
        let now = crate::testing::START.as_secs() + seconds;
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(now))
    };
    assert_eq!(found(&at(60)), "pass");
    assert_eq!(found(&at(62)), "warn");
    assert_eq!(found("yesterday"), "pass");
    let early = outcome(|gateway| {
        let claims = vec![("iat", json!(gateway.provider.now() + 62))];
        gateway.provider.script.borrow_mut().id_claims = claims;
    });
    assert_eq!(early, (401, "idt_iat".to_owned()));
}

#[test]
fn rule_37_an_encrypted_id_token_signs_nobody_in() {
    let encrypted = outcome(|gateway| {
        let answer = json!({
            "access_token": "opaque", "token_type": "Bearer",
            "id_token": "eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4R0NNIn0.a.b.c.d",
        });
        gateway.provider.script.borrow_mut().token_answer = Some((200, answer));
    });
    assert_eq!(encrypted, (401, "idt_alg".to_owned()));
}

#[test]
fn rule_56_nobody_is_known_by_an_address_that_is_not_verified() {
    for (verified, seen) in [
        (json!(true), Some("john@example.com")),
        (Value::Null, Some("john@example.com")),
        (json!(false), None),
        (json!("true"), Some("john@example.com")),
        (json!("false"), None),
    ] {
        let mut gateway = Gateway::new(json!({ "credential_claim": ["email"] }));
        gateway.provider.script.borrow_mut().id_claims = vec![("email_verified", verified.clone())];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.seen("x-credential-identifier"), seen, "{verified}");
    }
}

#[test]
fn rule_59_chunks_that_do_not_belong_together_are_no_session() {
    let noise = |seed: u64| -> String {
        let hash = |n: u64| blake3::hash(&(seed * 1000 + n).to_be_bytes()).to_hex();
        (0..90).map(|n| hash(n).to_string()).collect()
    };
    let mut gateway = Gateway::new(json!({}));
    let mut session = |seed| {
        gateway.provider.script.borrow_mut().access_claims = vec![("noise", json!(noise(seed)))];
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        browser
    };
    let (one, two) = (session(1), session(2));
    let mut check = |change: &dyn Fn(&mut Browser), status: u16| {
        let mut browser = one.clone();
        change(&mut browser);
        assert_eq!(browser.get(&mut gateway, "/api").status, status);
    };
    let set = |browser: &mut Browser, name: &str, value: &str| {
        browser.cookies.insert(name.to_owned(), value.to_owned());
    };
    check(&|_| {}, 200);
    // What is beyond the last chunk is nobody's.
    check(&|browser| set(browser, "session9", "x"), 200);
    check(
        &|browser| set(browser, "session2", &two.cookies["session2"]),
        302,
    );
    check(
        &|browser| set(browser, "session2", &one.cookies["session"]),
        302,
    );
    check(&|browser| set(browser, "session2", ""), 302);
    check(
        &|browser| {
            let longer = format!("{}A", one.cookies["session2"]);
            set(browser, "session2", &longer);
        },
        302,
    );
    check(
        &|browser| {
            let value = &one.cookies["session"];
            set(browser, "session", &value[..value.len() - 1]);
        },
        302,
    );
}

#[test]
fn rules_6_7_57_and_71_what_is_not_safe_is_refused_by_name() {
    let check = |changes: Value, field: &str| {
        assert_eq!(refused_field(&changes).as_deref(), Some(field), "{changes}");
    };
    for url in [
        "http://idp.example",
        "ftp://idp.example",
        "file:///etc/passwd",
        "gopher://idp.example",
        "https://user:word@idp.example",
        "https://idp.example/#x",
        "https://0x7f000001",
        "https://2130706433",
        "https://127.1",
        "https://0177.0.0.1",
        "idp.example",
    ] {
        check(json!({ "issuer": url }), "issuer");
        check(json!({ "token_endpoint": url }), "token_endpoint");
        check(json!({ "extra_jwks_uris": [url] }), "extra_jwks_uris");
    }
    check(
        json!({ "response_type": ["id_token token"] }),
        "response_type",
    );
    let cookie = json!({ "session_cookie_same_site": "None", "session_cookie_secure": false });
    check(cookie, "session_cookie_same_site");
    let prefix = json!({ "session_cookie_name": "__Host-s", "session_cookie_secure": false });
    check(prefix, "session_cookie_secure");
    check(
        json!({ "unknown_restriction": ["x"] }),
        "unknown_restriction",
    );
    assert_eq!(
        refused_field(&json!({ "allow_insecure_http": true, "issuer": "http://idp.example" })),
        None
    );
}

#[test]
fn rules_111_and_123_no_header_of_a_configuration_frames_a_message() {
    let names = |sent: &str, name: &str| {
        let names = format!("{sent}_names");
        let others = format!(
            "{sent}_{}",
            if sent.ends_with("stream_headers") {
                "claims"
            } else {
                "values"
            }
        );
        (
            json!({ &names: ["x-fine", name], others: ["a", "b"] }),
            names,
        )
    };
    for name in [
        "Host",
        "Content_Length",
        "transfer-encoding",
        "connection",
        "te",
        "X_Real_IP",
        "cookie",
        "via",
    ] {
        let (config, field) = names("upstream_headers", name);
        assert_eq!(refused_field(&config), Some(field), "{name}");
        for field in ["upstream_id_token_header", "upstream_user_info_header"] {
            assert_eq!(
                refused_field(&json!({ field: name })).as_deref(),
                Some(field),
                "{name}"
            );
        }
    }
    for name in ["content-length", "Transfer_Encoding", "set-cookie", "date"] {
        let (config, field) = names("downstream_headers", name);
        assert_eq!(refused_field(&config), Some(field), "{name}");
        let field = "downstream_id_token_header";
        assert_eq!(
            refused_field(&json!({ field: name })).as_deref(),
            Some(field),
            "{name}"
        );
    }
    for sent in [
        "token_headers",
        "discovery_headers",
        "userinfo_headers",
        "introspection_headers",
    ] {
        let (config, field) = names(sent, "host");
        assert_eq!(refused_field(&config), Some(field));
    }
    for field in [
        "token_headers_client",
        "userinfo_headers_client",
        "introspection_headers_client",
    ] {
        let refused = refused_field(&json!({ field: ["content-length"] }));
        assert_eq!(refused.as_deref(), Some(field));
    }
    let replayed = |prefix: Value, name: &str| {
        refused_field(&json!({ "token_headers_prefix": prefix, "token_headers_replay": [name] }))
    };
    let field = Some("token_headers_replay".to_owned());
    assert_eq!(replayed(Value::Null, "content-length"), field);
    assert_eq!(replayed(json!("content-"), "length"), field);
    assert_eq!(replayed(json!("x-"), "content-length"), None);
    assert_eq!(replayed(Value::Null, "set-cookie"), None);
    // What only says who somebody is may be said by any claim.
    let (config, _) = names("upstream_headers", "x_consumer_username");
    assert_eq!(refused_field(&config), None);
}

#[test]
fn rule_10_what_the_gateway_says_itself_is_said_once() {
    for (field, name) in [
        ("authorization_query_args_names", "state"),
        ("authorization_query_args_names", "redirect_uri"),
        ("token_post_args_names", "grant_type"),
        ("introspection_post_args_names", "token"),
    ] {
        let config = json!({ field: ["x", name] });
        assert_eq!(refused_field(&config).as_deref(), Some(field), "{name}");
    }
    let mut gateway = Gateway::new(json!({
        "scopes": ["openid", "email"], "max_age": 60,
        "authorization_query_args_names": ["scope", "max_age", "x"],
        "authorization_query_args_values": ["openid", "30", "1"],
    }));
    let start = Browser::default().get(&mut gateway, "/api");
    let url = url::Url::parse(start.location()).unwrap();
    let said = |name: &str| -> Vec<String> {
        let found = url.query_pairs().filter(|(found, _)| found == name);
        found.map(|(_, value)| value.into_owned()).collect()
    };
    assert_eq!(
        (said("scope"), said("max_age")),
        (vec!["openid".to_owned()], vec!["30".to_owned()])
    );
    let fragment = json!({ "redirect_uri": ["https://a.example/#x"] });
    assert_eq!(refused_field(&fragment).as_deref(), Some("redirect_uri"));
}

#[test]
fn rules_74_and_75_each_call_is_bounded_and_verifies_its_server() {
    let (gateway, _) = signed_in(&json!({ "upstream_user_info_header": "x-user" }));
    let all = gateway.host.all_limits();
    let paths: Vec<&str> = all.iter().map(|(path, _)| path.as_str()).collect();
    for asked in [
        "/.well-known/openid-configuration",
        "/jwks",
        "/token",
        "/userinfo",
    ] {
        assert!(paths.contains(&asked), "{paths:?}");
    }
    for (path, limits) in all {
        assert!(limits.verify_tls, "{path}");
        assert_eq!(limits.timeout, std::time::Duration::from_secs(10), "{path}");
        let most = if path == "/jwks" { 256 } else { 1024 };
        assert!(limits.body <= most * 1024, "{path} {}", limits.body);
    }
}

#[test]
fn rule_77_keys_are_fetched_anew_when_their_server_says_so() {
    let fetches = |control: &str, seconds: u64| {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
        gateway.provider.script.borrow_mut().headers = vec![("cache-control", control.to_owned())];
        for wait in [0, seconds, 2] {
            gateway.advance(wait);
            let token = gateway.provider.access_token(&[]);
            assert_eq!(gateway.call(&token).status, 200);
        }
        gateway.provider.called("/jwks")
    };
    assert_eq!(fetches("max-age=120", 119), 2);
    assert_eq!(fetches("public, Max-Age=\"120\"", 110), 1);
    assert_eq!(fetches("max-age=7200", 130), 1);
    // Nobody makes us ask all the time.
    assert_eq!(fetches("no-cache, max-age=0", 50), 1);
}

#[test]
fn rule_78_unknown_keys_make_one_fetch_in_a_while() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    let mut signer = gateway.provider.keys.borrow()[0].clone();
    let now = gateway.provider.now();
    for number in 0..500 {
        signer.jwk["kid"] = json!(format!("random-{number}"));
        let claims = json!({ "iss": ISSUER, "sub": "user-1", "exp": now + 300 });
        assert_eq!(gateway.call(&signer.sign(&claims)).status, 401);
    }
    assert_eq!(gateway.provider.called("/jwks"), 2);
}

#[test]
fn rule_82_a_token_makes_nobody_fetch_anything() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    let key = gateway.provider.keys.borrow()[0].clone();
    let mut header = jsonwebtoken::Header::new(key.algorithm);
    header.jku = Some("https://idp.example/evil".to_owned());
    header.x5u = Some("https://idp.example/evil".to_owned());
    header.kid = Some("elsewhere".to_owned());
    let claims = json!({ "iss": ISSUER, "sub": "u", "exp": gateway.provider.now() + 60 });
    let token = jsonwebtoken::encode(&header, &claims, &key.key).unwrap();
    assert_eq!(gateway.call(&token).status, 401);
    assert_eq!(gateway.provider.called("/evil"), 0);
}

#[test]
fn rules_84_and_123_a_claim_that_is_no_header_value_makes_no_header() {
    for value in [
        json!("a\r\nX-Admin: 1"),
        json!("a\0"),
        json!("\u{7f}"),
        json!("x".repeat(8 * 1024 + 1)),
    ] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["bearer"], "upstream_headers_claims": ["odd"],
            "upstream_headers_names": ["x-odd"], "credential_claim": ["odd"],
            "authenticated_groups_claim": ["odd"],
        }));
        let token = gateway.provider.access_token(&[("odd", value)]);
        let reply = gateway.call(&token);
        assert_eq!((reply.status, reply.seen("x-odd")), (200, None));
        let (_, headers) = reply.upstream.as_ref().unwrap();
        assert!(!headers.contains_key("x-admin"));
    }
}

#[test]
fn rule_85_only_the_access_token_goes_upstream_by_itself() {
    let (mut gateway, mut browser) = signed_in(&json!({}));
    let reply = browser.get(&mut gateway, "/api");
    let (_, headers) = reply.upstream.unwrap();
    let id_token = gateway.provider.id_token(None, "x");
    let start = id_token.split('.').next().unwrap().to_owned();
    let carried: Vec<_> = headers
        .iter()
        .filter(|(_, value)| {
            let text = value.to_str().unwrap();
            text.contains(&start) || text.contains("refresh-")
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(carried, ["authorization"]);
}

#[test]
fn rule_88_what_is_required_is_there_whole_and_of_its_kind() {
    let check = |groups: Value, status: u16| {
        let config = json!({ "auth_methods": ["bearer"], "groups_required": ["admin"] });
        let mut gateway = Gateway::new(config);
        let token = gateway.provider.access_token(&[("groups", groups.clone())]);
        assert_eq!(gateway.call(&token).status, status, "{groups}");
    };
    check(json!(["admin"]), 200);
    check(json!("user admin"), 200);
    for groups in [
        json!(null),
        json!([]),
        json!(""),
        json!(["not-admin"]),
        json!(["Admin"]),
        json!([["admin"]]),
        json!({ "admin": true }),
        json!(true),
        json!("admin,user"),
    ] {
        check(groups, 403);
    }
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "claims_forbidden": ["tenant"],
    }));
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 403);
}

#[test]
fn rule_97_a_logout_takes_cookies_back_as_they_were_given() {
    let mut gateway = Gateway::new(json!({
        "logout_uri_suffix": "/logout", "session_cookie_path": "/app",
        "session_cookie_domain": "gateway.example",
    }));
    gateway.https = true;
    let mut browser = Browser::default();
    let given = browser.sign_in(&mut gateway, "/app");
    let attributes = |reply: &super::gateway::Reply| {
        let all = reply.headers.get_all(SET_COOKIE).iter();
        let session = all
            .map(|value| value.to_str().unwrap().to_owned())
            .find(|cookie| cookie.starts_with("session="))
            .unwrap();
        let kept = session
            .split("; ")
            .skip(1)
            .filter(|part| !part.starts_with("Expires") && !part.starts_with("Max-Age"));
        kept.map(str::to_owned).collect::<Vec<_>>()
    };
    let taken = browser.post(&mut gateway, "/app/logout", "");
    assert_eq!(attributes(&given), attributes(&taken));
    assert_eq!(taken.headers["cache-control"], "no-store");
}

#[test]
fn rule_100_a_logout_that_the_provider_does_not_hear_of_says_so() {
    let mut gateway = Gateway::new(json!({
        "logout_uri_suffix": "/logout", "logout_methods": ["GET"],
    }));
    gateway.provider.script.borrow_mut().discovery = vec![("end_session_endpoint", Value::Null)];
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let reply = browser.get_with(&mut gateway, "/logout", "accept", "text/html");
    assert_eq!((reply.status, reply.ends_session()), (200, true));
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(text.contains("still signed in"), "{text}");
}

#[test]
fn rules_101_and_108_no_argument_of_a_request_leads_to_another_host() {
    let config = json!({
        "login_action": "redirect", "login_tokens": null, "preserve_query_args": true,
        "logout_query_arg": "logout", "logout_methods": ["GET"],
    });
    for uri in [
        "//evil.example/x",
        "/%2Fevil.example",
        "/\\evil.example".replace('\\', "%5C").as_str(),
        "/api?redirect_uri=https%3A%2F%2Fevil.example&post_logout_redirect_uri=https%3A%2F%2Fevil.example",
        "/@evil.example/",
    ] {
        let mut gateway = Gateway::new(config.clone());
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, uri);
        let redirect_uri = start.argument("redirect_uri").unwrap();
        let own = |url: &str| url::Url::parse(url).unwrap().host_str() == Some("gateway.example");
        assert!(own(&redirect_uri), "{redirect_uri}");
        let query = gateway.provider.authorize(start.location());
        let reply = browser.get(&mut gateway, &format!("/api?{query}"));
        assert!(own(reply.location()), "{uri}: {}", reply.location());
        let out = browser.get(
            &mut gateway,
            "/api?logout&post_logout_redirect_uri=https%3A%2F%2Fevil.example",
        );
        assert_eq!(out.argument("post_logout_redirect_uri"), None);
    }
}
