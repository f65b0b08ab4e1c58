//! Configurations checked against providers that are not reached, or that browsers do not come back from.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shared::secret::Secret;
use shared::tls::Mistrust;
use uuid::Uuid;

use super::authorization::client_key;
use super::check::{checked, result};
use super::gateway::{Browser, Gateway, compile};
use super::provider::ISSUER;
use crate::client_keys::ClientKeys;
use crate::host::{ClientCertificate, FetchError};

/// The finding `name` of a report, as far as somebody has to act.
fn told(report: &Value, name: &str) -> (String, String) {
    let all = report["findings"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["check"] == name);
    let found = found.unwrap_or_else(|| panic!("{name}: {report}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("detail"), text("fix"))
}

#[test]
fn a_certificate_that_is_not_believed_is_told_from_a_provider_that_is_not_reached() {
    let (authority, reason) = ("idp.example:443".to_owned(), "canary".to_owned());
    let untrusted = |why| FetchError::Untrusted {
        authority: authority.clone(),
        reason: reason.clone(),
        why,
    };
    let fails = |error: FetchError| {
        let gateway = Gateway::new(json!({}));
        gateway.host.connect(Rc::new(move |_| Err(error.clone())));
        let report = checked(&gateway, &json!({}));
        assert!(!report.to_string().contains("canary"), "{report}");
        told(&report, "discovery")
    };
    for (why, detail, fix) in [
        (
            Mistrust::Issuer,
            "not a trusted authority",
            "add that authority",
        ),
        (Mistrust::Expired, "has expired", "renewed"),
        (Mistrust::NotYet, "not valid yet", "clock"),
        (Mistrust::Name, "another host name", "subjectAltName"),
        (Mistrust::Other, "certificate of a server", "version 3"),
    ] {
        let told = fails(untrusted(why));
        assert!(
            told.0.contains("certificate") && told.0.contains(detail),
            "{told:?}"
        );
        assert!(told.1.contains(fix), "{told:?}");
    }
    // Nobody learns what a network is like.
    let unreached = [
        FetchError::Connect {
            authority: authority.clone(),
            reason: reason.clone(),
        },
        FetchError::Timeout {
            authority: authority.clone(),
            timeout: Duration::from_secs(1),
        },
        FetchError::Broken {
            authority: authority.clone(),
            reason: reason.clone(),
        },
    ];
    for error in unreached {
        let (detail, fix) = fails(error);
        assert_eq!(detail, "the OpenID provider does not answer");
        assert!(
            fix.contains("name resolves") && fix.contains("connect"),
            "{fix}"
        );
    }
    let forbidden = FetchError::Forbidden {
        authority: authority.clone(),
        address: [10, 0, 0, 1].into(),
    };
    assert!(fails(forbidden).1.contains("provider_networks"));
    // Of keys and of the token endpoint, which may be elsewhere.
    for (path, name) in [("/jwks", "keys"), ("/token", "client")] {
        let gateway = Gateway::new(json!({}));
        let provider = Rc::clone(&gateway.provider);
        let error = untrusted(Mistrust::Expired);
        gateway.host.connect(Rc::new(move |request| {
            if request.uri().path() == path {
                return Err(error.clone());
            }
            provider.handle(request)
        }));
        let told = told(&checked(&gateway, &json!({})), name);
        assert!(told.0.contains("has expired"), "{name}: {told:?}");
        assert!(told.1.contains("renewed"), "{name}: {told:?}");
    }
}

#[test]
fn rule_18_what_no_provider_brings_back_is_told() {
    let gateway = Gateway::new(json!({}));
    for name in ["session_cookie_same_site", "authorization_cookie_same_site"] {
        for (more, expected) in [
            (json!({ name: "Strict" }), "warn"),
            (json!({ name: "Lax" }), ""),
            (json!({}), ""),
            (json!({ name: "Strict", "auth_methods": ["bearer"] }), ""),
        ] {
            let report = checked(&gateway, &more);
            assert_eq!(result(&report, name), expected, "{more}");
            assert_eq!(report["ok"], true, "{report}");
        }
    }
    for (mode, expected) in [
        ("fragment", "warn"),
        ("fragment.jwt", "warn"),
        ("query", ""),
    ] {
        let report = checked(&gateway, &json!({ "response_mode": mode }));
        assert_eq!(result(&report, "response_mode"), expected, "{mode}");
    }
    let posted = json!({
        "authorization_cookie_same_site": "Strict", "response_mode": "form_post",
    });
    let report = checked(&gateway, &posted);
    assert_eq!(result(&report, "authorization_cookie_same_site"), "");
}

#[test]
fn rule_12_a_provider_that_demands_pushed_requests_and_takes_none_is_told() {
    let demanded = ("require_pushed_authorization_requests", json!(true));
    let back = json!({ "redirect_uri": ["http://gateway.example/cb"] });
    let name = "pushed_authorization_request_endpoint";
    for (endpoint, expected) in [(Value::Null, "fail"), (json!(5), "fail")] {
        let mut gateway = Gateway::new(back.clone());
        gateway.provider.script.borrow_mut().discovery = vec![(name, endpoint), demanded.clone()];
        assert_eq!(result(&checked(&gateway, &back), "endpoints"), expected);
        // It is the provider's fault, and no riddle.
        let reply = Browser::default().get(&mut gateway, "/api");
        assert_eq!(reply.status, 502);
    }
    let pushed = |answer: Option<(u16, Value)>, gone: bool| {
        let gateway = Gateway::new(back.clone());
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.discovery = vec![demanded.clone()];
            script.push_answer = answer;
            if gone {
                script.gone = vec![("/par", 0)];
            }
        }
        result(&checked(&gateway, &back), "pushed_authorization_request")
    };
    assert_eq!(pushed(None, false), "pass");
    assert_eq!(pushed(Some((401, json!({}))), false), "fail");
    assert_eq!(pushed(Some((404, json!({}))), false), "fail");
    assert_eq!(pushed(None, true), "fail");
}

#[test]
fn rule_13_a_key_for_signed_requests_is_told_that_is_not_there() {
    let gateway = Gateway::new(json!({}));
    let check = |config: Value| {
        let report = checked(&gateway, &config);
        assert_eq!(
            report["ok"],
            result(&report, "client_key") != "fail",
            "{report}"
        );
        result(&report, "client_key")
    };
    assert_eq!(check(json!({})), "");
    gateway.provider.script.borrow_mut().discovery =
        vec![("require_signed_request_object", json!(true))];
    // The cluster makes one for whoever saves the plugin, but no secret.
    assert_eq!(check(json!({})), "warn");
    let secret = json!({ "client_alg": ["HS256"], "client_secret": null });
    assert_eq!(check(secret), "fail");
    let (private, _) = client_key();
    for named in [
        json!({ "require_signed_request_object": false }),
        json!({ "client_alg": ["HS256"] }),
        json!({ "client_jwk": [private] }),
        json!({ "auth_methods": ["bearer"] }),
    ] {
        assert_eq!(check(named), "");
    }
    let mut keys = ClientKeys::default();
    keys.add_jwk(&private);
    gateway.host.equip(keys);
    assert_eq!(check(json!({ "client_alg": ["ES256"] })), "");
}

/// Where a sign-in leads at a provider that demands signed requests.
fn sign_in_at(gateway: &mut Gateway) -> u16 {
    gateway.provider.script.borrow_mut().discovery =
        vec![("require_signed_request_object", json!(true))];
    Browser::default().get(gateway, "/api").status
}

#[test]
fn rule_13_what_no_key_will_ever_sign_is_told_from_what_none_signs_yet() {
    for configured in [Value::Null, json!(true)] {
        let config = json!({
            "require_signed_request_object": configured, "client_alg": ["HS256"], "client_secret": null,
            "client_auth": ["none"],
        });
        let mut gateway = Gateway::new(config);
        let reply = sign_in_at(&mut gateway);
        assert_eq!(reply, 502, "{configured}");
        let mut gateway = Gateway::new(json!({ "require_signed_request_object": configured }));
        assert_eq!(sign_in_at(&mut gateway), 503, "{configured}");
        let (private, _) = client_key();
        let mut keys = ClientKeys::default();
        keys.add_jwk(&private);
        let config = json!({
            "require_signed_request_object": configured, "client_alg": ["ES256"],
        });
        gateway.filter = compile(&config, 8);
        gateway.host.equip(keys);
        assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
    }
}

#[test]
fn a_certificate_that_is_not_stored_is_told_before_anybody_signs_in() {
    let id = Uuid::from_u128(5);
    let config = json!({
        "client_auth": ["tls_client_auth"], "client_secret": null,
        "tls_client_auth_cert_id": id.to_string(),
    });
    let gateway = Gateway::new(json!({}));
    let report = checked(&gateway, &config);
    assert_eq!(result(&report, "tls_client_auth_cert_id"), "fail");
    assert_eq!(report["ok"], false);
    let mut keys = ClientKeys::default();
    let certificate = ClientCertificate {
        chain: "the certificate".to_owned(),
        key: Secret::new("its key".to_owned()),
    };
    keys.certificates.insert(id, Arc::new(certificate));
    gateway.host.equip(keys);
    let report = checked(&gateway, &config);
    assert_eq!(result(&report, "tls_client_auth_cert_id"), "");
    assert_eq!(result(&report, "client"), "pass", "{report}");
    assert!(gateway.host.last_limits().certificate.is_some());
}

#[test]
fn a_provider_that_is_not_discovered_needs_keys_for_what_is_verified() {
    let gateway = Gateway::new(json!({}));
    let check = |more: Value, expected: &str| {
        let mut config = json!({
            "using_pseudo_issuer": true, "authorization_endpoint": format!("{ISSUER}/auth"),
            "token_endpoint": format!("{ISSUER}/token"),
            "introspection_endpoint": format!("{ISSUER}/introspect"),
        });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let report = checked(&gateway, &config);
        assert_eq!(result(&report, "keys"), expected, "{report}");
        assert_eq!(report["ok"], expected != "fail", "{report}");
    };
    check(json!({}), "fail");
    check(json!({ "auth_methods": ["bearer"] }), "fail");
    check(json!({ "auth_methods": ["introspection"] }), "pass");
    let keys = json!({ "extra_jwks_uris": [format!("{ISSUER}/jwks")] });
    check(keys, "pass");
    check(json!({ "verify_signature": false }), "pass");
}

#[test]
fn a_key_set_that_is_not_read_whole_is_told() {
    for (count, expected) in [(100, "pass"), (101, "warn")] {
        let gateway = Gateway::new(json!({}));
        {
            let mut keys = gateway.provider.keys.borrow_mut();
            let first = keys[0].clone();
            keys.resize_with(count, || first.clone());
        }
        assert_eq!(result(&checked(&gateway, &json!({})), "keys"), expected);
    }
}
