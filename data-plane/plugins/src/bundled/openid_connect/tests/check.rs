//! A configuration checked against its provider, and discovery that an operator drops.

use std::time::Duration;

use serde_json::{Value, json};
use shared::entity::Revocation;

use super::authorization::client_key;
use super::gateway::{Browser, Gateway};
use super::provider::ISSUER;
use crate::bundled::openid_connect::check::{self, Discovered, Said};
use crate::bundled::openid_connect::config::AuthMethod;
use crate::bundled::openid_connect::opened;
use crate::bundled::openid_connect::session::Session;
use crate::bundled::openid_connect::token_endpoint::Tokens;
use crate::client_keys::ClientKeys;
use crate::host::Host;
use crate::testing::START;

pub(super) fn checked(gateway: &Gateway, config: &Value) -> Value {
    let mut all = json!({
        "issuer": ISSUER, "client_id": ["client"], "client_secret": ["secret"],
    });
    all.as_object_mut()
        .unwrap()
        .extend(config.as_object().unwrap().clone());
    gateway.host.run(check::run(&all, &gateway.host)).unwrap()
}

pub(super) fn result(report: &Value, name: &str) -> String {
    let all = report["findings"].as_array().unwrap();
    let found = all.iter().filter(|finding| finding["check"] == name);
    let results: Vec<&str> = found
        .map(|finding| finding["result"].as_str().unwrap())
        .collect();
    results.join(" ")
}

#[test]
fn a_good_configuration_passes_every_check() {
    let gateway = Gateway::new(json!({}));
    let config = json!({
        "logout_uri_suffix": "/logout", "redirect_uri": ["https://app.example/cb"],
    });
    let report = checked(&gateway, &config);
    assert_eq!(report["ok"], true, "{report}");
    for name in [
        "configuration",
        "discovery",
        "issuer",
        "pkce",
        "keys",
        "client",
        "redirect_uri",
    ] {
        assert_eq!(result(&report, name), "pass", "{name}: {report}");
    }
    // The code that tries the client is nobody's.
    let forms = gateway.provider.forms.borrow();
    assert_eq!(forms.last().unwrap().1["code"], "configuration-check");
}

#[test]
fn a_client_with_a_key_of_the_cluster_is_tried_by_it() {
    let config = json!({ "client_auth": ["private_key_jwt"], "client_alg": ["ES256"] });
    let gateway = Gateway::new(json!({}));
    let report = checked(&gateway, &config);
    assert_eq!(result(&report, "client"), "warn", "{report}");
    let (private, _) = client_key();
    let mut keys = ClientKeys::default();
    keys.add_jwk(&private);
    gateway.host.equip(keys);
    assert_eq!(result(&checked(&gateway, &config), "client"), "pass");
    let forms = gateway.provider.forms.borrow();
    assert!(forms.last().unwrap().1.contains_key("client_assertion"));
}

#[test]
fn each_finding_is_told() {
    let check = |prepare: &dyn Fn(&Gateway), config: Value, name: &str, expected: &str| {
        let gateway = Gateway::new(json!({}));
        prepare(&gateway);
        let report = checked(&gateway, &config);
        assert_eq!(result(&report, name), expected, "{report}");
        assert_eq!(report["ok"], !expected.contains("fail"), "{report}");
    };
    let discovery = |name: &'static str, value: Value| {
        move |gateway: &Gateway| {
            gateway.provider.script.borrow_mut().discovery = vec![(name, value.clone())];
        }
    };
    let down = |gateway: &Gateway| gateway.provider.script.borrow_mut().down = true;
    check(&down, json!({}), "discovery", "fail");
    let other = discovery("issuer", json!("https://other.example"));
    check(&other, json!({}), "issuer", "fail");
    let none = discovery("token_endpoint", Value::Null);
    check(&none, json!({}), "endpoints", "fail");
    let none = discovery("end_session_endpoint", Value::Null);
    check(
        &none,
        json!({ "logout_uri_suffix": "/x" }),
        "endpoints",
        "warn",
    );
    let scopes = discovery("scopes_supported", json!(["openid"]));
    check(
        &scopes,
        json!({ "scopes": ["openid", "admin"] }),
        "scopes",
        "warn",
    );
    let plain = discovery("code_challenge_methods_supported", json!(["plain"]));
    check(&plain, json!({}), "pkce", "warn");
    let unverified = |_: &Gateway| {};
    check(&unverified, json!({ "ssl_verify": false }), "tls", "warn");
    let back = json!({ "redirect_uri": ["https://app.example/cb"] });
    for (answer, expected) in [
        ("consent_required", "pass"),
        ("invalid_scope", "fail"),
        ("", "warn"),
    ] {
        let silent = |gateway: &Gateway| {
            gateway.provider.script.borrow_mut().refuses_silently = Some(answer);
        };
        check(&silent, back.clone(), "redirect_uri", expected);
    }
    let template = discovery("issuer", json!("https://idp.example/{tenantid}"));
    let tenants = json!({ "issuers_allowed": ["https://idp.example/one"] });
    check(&template, tenants, "issuer", "pass");
    check(&template, json!({}), "issuer", "fail");
    let stranger = |gateway: &Gateway| {
        let answer = (401, json!({ "error": "invalid_client" }));
        gateway.provider.script.borrow_mut().token_answer = Some(answer);
    };
    check(&stranger, json!({}), "client", "fail");
    let keyless = discovery("jwks_uri", Value::Null);
    check(&keyless, json!({}), "keys", "fail");
    let useless = |gateway: &Gateway| {
        let mut keys = gateway.provider.keys.borrow_mut();
        keys[0].jwk["use"] = json!("enc");
        let mut symmetric = keys[0].clone();
        symmetric.jwk = json!({ "kty": "oct", "k": "secret" });
        keys.push(symmetric);
    };
    check(&useless, json!({}), "keys", "fail");
    let none = |gateway: &Gateway| gateway.provider.keys.borrow_mut().clear();
    check(&none, json!({}), "keys", "fail");
    let by_secret = json!({ "enable_hs_signatures": true });
    check(&none, by_secret, "keys", "pass");
}

#[test]
fn each_endpoint_that_is_needed_and_not_there_is_told() {
    let (needs, one) = ("fail", |method: &str| json!({ "auth_methods": [method] }));
    let refreshes = json!({
        "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
    });
    let grouped = json!({ "search_user_info": true, "groups_required": ["a"] });
    for (endpoint, config, expected) in [
        ("userinfo_endpoint", one("userinfo"), needs),
        ("userinfo_endpoint", grouped, "warn"),
        (
            "userinfo_endpoint",
            json!({ "upstream_user_info_header": "x-info" }),
            "warn",
        ),
        ("userinfo_endpoint", json!({}), ""),
        ("introspection_endpoint", one("introspection"), needs),
        (
            "introspection_endpoint",
            json!({ "introspect_jwt_tokens": true }),
            needs,
        ),
        ("introspection_endpoint", json!({}), ""),
        ("token_endpoint", refreshes, needs),
        ("token_endpoint", one("client_credentials"), needs),
        ("token_endpoint", one("password"), needs),
        ("token_endpoint", one("bearer"), ""),
    ] {
        let gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().discovery = vec![(endpoint, Value::Null)];
        let report = checked(&gateway, &config);
        assert_eq!(result(&report, "endpoints"), expected, "{config} {report}");
        assert_eq!(report["ok"], expected != needs, "{config} {report}");
        let mut own = config.clone();
        own[endpoint] = json!("https://idp.example/other");
        let report = checked(&gateway, &own);
        assert_eq!(result(&report, "endpoints"), "", "{own} {report}");
    }
}

#[test]
fn what_would_open_the_door_or_fail_each_sign_in_is_told() {
    let gateway = Gateway::new(json!({}));
    let check = |config: Value, name: &str, expected: &str| {
        let report = checked(&gateway, &config);
        assert_eq!(result(&report, name), expected, "{name}: {report}");
    };
    for name in ["verify_signature", "verify_claims", "verify_nonce"] {
        check(json!({}), name, "");
        check(json!({ name: false }), name, "warn");
    }
    let further = json!({ "extra_jwks_uris": ["https://idp.example/jwks"] });
    check(further, "extra_jwks_uris", "warn");
    let offers = |changes: &[(&'static str, Value)]| {
        gateway.provider.script.borrow_mut().discovery = changes.to_vec();
    };
    offers(&[
        ("pushed_authorization_request_endpoint", Value::Null),
        ("code_challenge_methods_supported", Value::Null),
    ]);
    let pushes = json!({ "require_pushed_authorization_requests": true });
    check(pushes, "endpoints", "fail");
    let challenges = json!({ "require_proof_key_for_code_exchange": true });
    check(challenges, "pkce", "warn");
    check(json!({}), "pkce", "");
    offers(&[
        ("response_types_supported", json!(["id_token"])),
        ("response_modes_supported", json!(["form_post"])),
        ("grant_types_supported", json!(["implicit"])),
    ]);
    for name in ["response_type", "response_mode", "auth_methods"] {
        check(json!({}), name, "warn");
    }
    offers(&[("response_types_supported", json!(["id_token code"]))]);
    let hybrid = json!({ "response_type": ["code id_token"], "response_mode": "form_post" });
    check(hybrid, "response_type", "");
}

/// Has `gateway` hear that the provider was dropped, and its sessions ended, by a clock that said `before`.
pub(super) fn drop_provider(gateway: &Gateway, before: u64) {
    let dropped = Revocation {
        id: Revocation::issuer(ISSUER),
        before,
        expires_at: gateway.host.now().as_secs() + 1_000,
    };
    let revocations = gateway.host.revocations();
    revocations.add([dropped], gateway.host.now());
}

#[test]
fn case_64_a_provider_that_is_dropped_is_discovered_anew_and_its_sessions_end() {
    for (secret, status) in [(json!({}), 302), (json!({ "session_secret": "s" }), 200)] {
        for skew in [-90_000, 0, 90_000] {
            let mut gateway = Gateway::new(secret.clone());
            let mut browser = Browser::default();
            browser.sign_in(&mut gateway, "/api");
            let discovery = "/.well-known/openid-configuration";
            assert_eq!(gateway.provider.called(discovery), 1);
            gateway.advance(2);
            let before = gateway.host.now().as_millis().saturating_add_signed(skew);
            for (more, called) in [(0, 2), (1, 3)] {
                drop_provider(&gateway, before + more);
                gateway.advance(1);
                assert_eq!(browser.get(&mut gateway, "/api").status, status, "{skew}");
                assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
                assert_eq!(gateway.provider.called(discovery), called);
                gateway.advance(2);
                assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
                assert_eq!(gateway.provider.called(discovery), called);
                // What begins now stays, whatever the clock said that dropped the provider.
                let mut browser = Browser::default();
                let signed_in = browser.sign_in(&mut gateway, "/api");
                assert_eq!(signed_in.status, 200, "{skew} {signed_in:?}");
                gateway.advance(100);
                assert_eq!(browser.get(&mut gateway, "/api").status, 200, "{skew}");
            }
        }
    }
}

#[test]
fn case_64_a_sign_in_that_is_under_way_begins_anew() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = gateway.provider.authorize(start.location());
    drop_provider(&gateway, 1);
    let again = browser.get(&mut gateway, &format!("/api?{back}"));
    assert_eq!((again.status, again.sets_session()), (302, false));
    let back = gateway.provider.authorize(again.location());
    let signed_in = browser.get(&mut gateway, &format!("/api?{back}"));
    assert_eq!((signed_in.status, signed_in.sets_session()), (200, true));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn a_session_of_a_version_before_is_ended_by_its_time() {
    let gateway = Gateway::new(json!({}));
    let tokens = Tokens {
        access_token: "token".to_owned(),
        id_token: None,
        refresh_token: None,
        expires_at: None,
        answer: serde_json::Map::new(),
        introspection: None,
        headers: Vec::new(),
    };
    let rules = &gateway.filter.0;
    let (method, host) = (AuthMethod::AuthorizationCode, &gateway.host);
    let session = Session::begin(rules, &tokens, method, 0, host);
    let mut written = serde_json::to_value(&session).unwrap();
    assert_eq!(
        written.as_object_mut().unwrap().remove("epoch"),
        Some(json!(0))
    );
    let session: Session = serde_json::from_value(written).unwrap();
    let began = host.now().as_millis();
    for (before, is_ended) in [(began - 1, false), (began, true)] {
        drop_provider(&gateway, before);
        let tenure = opened::tenure(rules, &session);
        assert_eq!(tenure.is_ended(host.revocations()), is_ended);
    }
}

#[test]
fn what_is_discovered_shows_public_keys_only() {
    let gateway = Gateway::new(json!({}));
    {
        let mut keys = gateway.provider.keys.borrow_mut();
        let mut careless = keys[0].clone();
        careless.jwk["d"] = json!("private");
        let mut symmetric = keys[0].clone();
        symmetric.jwk = json!({ "kty": "oct", "k": "secret" });
        keys.extend([careless, symmetric]);
    }
    let config = json!({ "issuer": format!("{ISSUER}/.well-known/openid-configuration") });
    let found = gateway
        .host
        .run(check::discover(&config, &gateway.host))
        .unwrap();
    assert_eq!(check::issuer(&config).as_deref(), Some(ISSUER));
    assert_eq!(found.keys.len(), 2);
    let text = json!(found.keys).to_string();
    assert!(
        !text.contains("private") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn what_is_known_of_a_provider_is_told() {
    let gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().down = true;
    let check = |config: Value, name: &str, words: &str| {
        let report = checked(&gateway, &config);
        let all = report["findings"].as_array().unwrap();
        let found = all.iter().find(|finding| finding["check"] == name);
        match found {
            Some(finding) if !words.is_empty() => {
                let detail = finding["detail"].as_str().unwrap();
                assert!(detail.contains(words), "{config} {detail}");
            }
            found => assert!(found.is_none() && words.is_empty(), "{config} {report}"),
        }
    };
    let okta = "https://dev.okta.com";
    let custom = "https://dev.okta.com/oauth2/default";
    check(json!({ "issuer": custom }), "preset", "scopes_claim");
    check(json!({ "issuer": custom, "preset": "okta" }), "preset", "");
    check(
        json!({ "issuer": custom, "preset": "auth0" }),
        "preset",
        "okta",
    );
    check(json!({ "issuer": "https://idp.example" }), "preset", "");
    let told = json!({
        "issuer": custom, "scopes_claim": ["scp"], "scopes": ["openid"],
        "authenticated_groups_claim": ["groups"],
    });
    check(told, "preset", "would set scopes,");
    check(
        json!({ "issuer": okta }),
        "bearer",
        "org authorization server",
    );
    check(json!({ "issuer": custom }), "bearer", "");
    let auth0 = "https://t.auth0.com/";
    check(json!({ "issuer": auth0 }), "bearer", "audience");
    check(
        json!({ "issuer": auth0, "audience": ["api"] }),
        "bearer",
        "",
    );
    let pool = "https://cognito-idp.us-east-1.amazonaws.com/pool";
    check(
        json!({ "issuer": pool, "logout_uri_suffix": "/x" }),
        "logout",
        "come back",
    );
    let back = json!({
        "issuer": pool, "logout_uri_suffix": "/x", "logout_redirect_uri": ["https://a.example"],
    });
    check(back, "logout", "");
    check(json!({ "issuer": pool }), "logout", "");
    for (auth, algorithm, words) in [
        ("client_secret_jwt", "RS256", "signs nothing"),
        ("client_secret_jwt", "HS384", ""),
        ("private_key_jwt", "HS256", "signs nothing"),
        ("private_key_jwt", "ES256", ""),
        ("client_secret_basic", "RS256", "signs nothing"),
    ] {
        let config = json!({ "client_auth": [auth], "client_alg": [algorithm] });
        check(config, "client_alg", words);
    }
}

#[test]
fn rule_77_what_a_provider_said_is_shown_while_it_says_nothing_usable() {
    let said = |keys: usize| {
        Ok(Discovered {
            metadata: serde_json::Map::new(),
            keys: vec![json!({}); keys],
        })
    };
    let at = |seconds: u64| START.saturating_add(Duration::from_secs(seconds));
    let away = || Err("away".to_owned());
    // What was said when, how many keys are shown, and since when something is wrong.
    let seen = |said: &Option<Said>| {
        said.as_ref().map(|said| {
            let since = said.trouble.as_ref().map(|(since, _)| *since);
            (said.at, said.discovered.keys.len(), since)
        })
    };
    let after = |before, answered, now| Said::after(before, answered, now).ok();
    assert_eq!(seen(&after(None, away(), at(0))), None);
    assert_eq!(seen(&after(None, said(0), at(0))), Some((at(0), 0, None)));
    let good = after(None, said(2), at(0));
    assert_eq!(seen(&good), Some((at(0), 2, None)));
    let failing = after(good.clone(), away(), at(60));
    assert_eq!(seen(&failing), Some((at(0), 2, Some(at(60)))));
    let failing = after(failing, away(), at(86_399));
    assert_eq!(seen(&failing), Some((at(0), 2, Some(at(60)))));
    assert_eq!(seen(&after(failing, away(), at(86_400))), None);
    let emptied = after(good.clone(), said(0), at(60));
    assert_eq!(seen(&emptied), Some((at(0), 2, Some(at(60)))));
    let emptied = after(emptied, said(0), at(3_659));
    assert_eq!(seen(&emptied), Some((at(0), 2, Some(at(60)))));
    let believed = after(emptied, said(0), at(3_660));
    // The hour is that of what it says, not of an outage before.
    let back = after(good.clone(), away(), at(60));
    let back = after(back, said(0), at(7_200));
    assert_eq!(seen(&back), Some((at(0), 2, Some(at(60)))));
    let back = after(back, away(), at(10_000));
    let back = after(back, said(0), at(10_800));
    assert_eq!(seen(&back), Some((at(10_800), 0, None)));
    assert_eq!(seen(&believed), Some((at(3_660), 0, None)));
    assert_eq!(seen(&after(good, said(1), at(61))), Some((at(61), 1, None)));
}
