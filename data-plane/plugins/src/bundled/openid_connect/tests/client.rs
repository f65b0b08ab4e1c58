//! How the gateway proves to the provider which client it is, and by which way it gets there.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use shared::secret::Secret;
use uuid::Uuid;

use super::super::jws::Jws;
use super::super::key::PublicKey;
use super::authorization::client_key;
use super::gateway::{Browser, Gateway, judged};
use super::provider::ISSUER;
use crate::client_keys::ClientKeys;
use crate::host::{ClientCertificate, Host as _};
use crate::testing::Request;

pub(super) const CERTIFICATE: Uuid = Uuid::from_u128(5);

pub(super) fn certificate() -> ClientKeys {
    let mut keys = ClientKeys::default();
    let certificate = ClientCertificate {
        chain: "the certificate".to_owned(),
        key: Secret::new("its key".to_owned()),
    };
    keys.certificates.insert(CERTIFICATE, Arc::new(certificate));
    keys
}

#[test]
fn case_66_an_assertion_is_signed_with_a_key_of_the_cluster() {
    let (private, public) = client_key();
    let mut keys = ClientKeys::default();
    keys.add_jwk(&private);
    let mut gateway = Gateway::new(json!({
        "client_auth": ["private_key_jwt"], "client_alg": ["ES256"], "client_secret": null,
    }));
    // Without one, nobody signs in, and the provider is not to blame.
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 503);
    gateway.host.equip(keys);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    let form = gateway.provider.forms.borrow()[0].1.clone();
    let token = &form["client_assertion"];
    let parsed = Jws::parse(token, token.len()).unwrap();
    assert!(parsed.signed_by(&PublicKey::read(&public).unwrap()));
    assert_eq!(parsed.header.kid.as_deref(), Some("own"));
    assert_eq!(parsed.claims["aud"], format!("{ISSUER}/token"));
    assert!(!form.contains_key("client_id"));
}

#[test]
fn the_key_of_the_configuration_comes_first_and_the_algorithm_chooses() {
    let (own, public) = client_key();
    let (other, _) = client_key();
    let mut keys = ClientKeys::default();
    keys.add_jwk(&other);
    let config = json!({ "client_auth": ["private_key_jwt"], "client_jwk": [own] });
    let mut gateway = Gateway::new(config);
    gateway.host.equip(keys);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    let token = gateway.provider.forms.borrow()[0].1["client_assertion"].clone();
    let parsed = Jws::parse(&token, token.len()).unwrap();
    assert!(parsed.signed_by(&PublicKey::read(&public).unwrap()));
    // RS256 is the default, and there is no such key.
    let mut keys = ClientKeys::default();
    keys.add_jwk(&other);
    let mut gateway = Gateway::new(json!({ "client_auth": ["private_key_jwt"] }));
    gateway.host.equip(keys);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 503);
}

#[test]
fn rule_30_a_certificate_takes_the_place_of_the_secret() {
    let check = |more: Value, discovery: Option<Value>, path: &str| {
        let mut config = json!({
            "client_auth": ["tls_client_auth"], "client_secret": null,
            "tls_client_auth_cert_id": CERTIFICATE.to_string(), "tls_client_auth_ssl_verify": false,
        });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let mut gateway = Gateway::new(config);
        let aliases = discovery.unwrap_or_default();
        gateway.provider.script.borrow_mut().discovery = vec![("mtls_endpoint_aliases", aliases)];
        // A certificate that is not there lets nobody in.
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 503);
        assert_eq!(gateway.provider.called(path), 0);
        gateway.host.equip(certificate());
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
        assert_eq!(gateway.provider.called(path), 1, "{more}");
        let limits = gateway.host.last_limits();
        assert_eq!(limits.certificate.unwrap().chain, "the certificate");
        assert!(!limits.verify_tls);
        let form = gateway.provider.forms.borrow()[0].1.clone();
        assert_eq!(form["client_id"], "client");
        assert!(!form.contains_key("client_secret"));
        assert!(
            !gateway
                .provider
                .last(path)
                .headers()
                .contains_key(AUTHORIZATION)
        );
    };
    check(json!({}), None, "/token");
    let alias = json!({ "token_endpoint": format!("{ISSUER}/mtls/token") });
    check(json!({}), Some(alias.clone()), "/mtls/token");
    check(
        json!({ "client_auth": ["self_signed_tls_client_auth"] }),
        Some(alias),
        "/mtls/token",
    );
    let own = json!({ "mtls_token_endpoint": format!("{ISSUER}/mtls/token") });
    check(own.clone(), None, "/mtls/token");
    // There is nothing else that it could prove itself by.
    check(json!({ "client_auth": null }), None, "/token");
    let mut unnamed = own;
    unnamed["client_auth"] = Value::Null;
    check(unnamed, None, "/mtls/token");
}

#[test]
fn mutual_tls_needs_a_certificate() {
    let check = |config: Value, accepted: bool| {
        let result = judged(&config);
        assert_eq!(result.is_ok(), accepted, "{config} {result:?}");
    };
    let id = CERTIFICATE.to_string();
    check(json!({ "client_auth": ["tls_client_auth"] }), false);
    check(
        json!({ "client_auth": ["tls_client_auth"], "tls_client_auth_cert_id": id }),
        true,
    );
    check(json!({ "tls_client_auth_cert_id": "mine" }), false);
    check(
        json!({ "token_endpoint_auth_method": "self_signed_tls_client_auth" }),
        false,
    );
    check(json!({ "http_version": 2 }), false);
    check(json!({ "http_version": 1.0 }), true);
    check(json!({ "https_proxy": "proxy" }), false);
    check(json!({ "https_proxy": "http://proxy:3128" }), true);
}

#[test]
fn a_client_with_a_secret_of_its_own_uses_it() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["client_credentials"], "client_auth": ["tls_client_auth"],
        "tls_client_auth_cert_id": CERTIFICATE.to_string(),
    }));
    let mut request = Request::get("/api");
    let pair = super::provider::basic("robot:robot-secret")
        .parse()
        .unwrap();
    request.headers.push((AUTHORIZATION, pair));
    assert_eq!(gateway.send(request).status, 200);
}

#[test]
fn the_way_to_the_provider_is_as_configured() {
    let mut gateway = Gateway::new(json!({
        "http_version": 1.0, "keepalive": false, "https_proxy": "http://proxy.example:3128",
        "https_proxy_authorization": "Basic eDp5", "no_proxy": "other.example",
    }));
    Browser::default().get(&mut gateway, "/api");
    let limits = gateway.host.last_limits();
    assert!(limits.http_1_0 && !limits.keep_alive);
    let proxies = limits.proxies.unwrap();
    let proxy = proxies
        .of(&format!("{ISSUER}/token").parse().unwrap())
        .unwrap();
    assert_eq!(proxy.url.authority().unwrap(), "proxy.example:3128");
    assert_eq!(proxy.authorization.as_ref().unwrap().expose(), "Basic eDp5");
    assert!(
        proxies
            .of(&"https://other.example/".parse().unwrap())
            .is_none()
    );
    let mut gateway = Gateway::new(json!({}));
    Browser::default().get(&mut gateway, "/api");
    let limits = gateway.host.last_limits();
    assert!(!limits.http_1_0 && limits.keep_alive && limits.proxies.is_none());
}

#[test]
fn the_client_is_chosen_by_header_query_or_body() {
    use http::{HeaderName, HeaderValue};
    let config = json!({
        "client_id": ["one", "two"], "client_secret": ["s1", "s2"], "auth_methods": ["password"],
        "client_auth": ["client_secret_post"], "disable_session": ["password"],
    });
    let check = |header: Option<(&'static str, &str)>, uri: &str, body: &str, id: &str| {
        let mut gateway = Gateway::new(config.clone());
        let mut request = Request::get(uri);
        request.method = http::Method::POST;
        let pair = super::provider::basic("john:p:ss").parse().unwrap();
        request.headers.push((AUTHORIZATION, pair));
        if let Some((name, value)) = header {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers.push((HeaderName::from_static(name), value));
        }
        let json = HeaderValue::from_static("application/json");
        request.headers.push((http::header::CONTENT_TYPE, json));
        request.body = bytes::Bytes::copy_from_slice(body.as_bytes());
        gateway.send(request);
        assert_eq!(
            gateway.provider.forms.borrow()[0].1["client_id"],
            id,
            "{uri} {body}"
        );
    };
    check(Some(("x-client-id", "2")), "/api?client_id=1", "", "two");
    check(Some(("client-id", "two")), "/api", "", "two");
    check(None, "/api?client_id=two", r#"{"client_id":"one"}"#, "two");
    check(None, "/api", r#"{"client_id":2}"#, "two");
    check(None, "/api", r#"{"client_id":null}"#, "one");
    check(Some(("client-id", "0")), "/api", "", "one");
    check(Some(("client-id", "99")), "/api", "", "one");
}

#[test]
fn a_node_waits_for_keys_that_are_being_made() {
    let (private, _) = client_key();
    let mut keys = ClientKeys::default();
    keys.add_jwk(&private);
    let mut gateway = Gateway::new(json!({
        "client_auth": ["private_key_jwt"], "client_alg": ["ES256"], "client_secret": null,
    }));
    let host = gateway.host.clone();
    let making = host.clone();
    host.run(async {
        use crate::host::Host;
        making.clone().spawn(Box::pin(async move {
            making.sleep(std::time::Duration::from_secs(2)).await;
            making.equip(keys);
        }));
    });
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
}

#[test]
fn a_client_proves_itself_by_what_it_has_of_what_the_provider_takes() {
    let (key, _) = client_key();
    let key_only = json!({ "client_secret": null, "client_jwk": [key] });
    let nothing = json!({ "client_secret": null, "client_alg": ["ES256"] });
    for (config, offered, shown) in [
        (json!({}), json!(["client_secret_jwt"]), "client_assertion"),
        // Nothing that it takes is there: the default is tried.
        (json!({}), json!(["private_key_jwt"]), "authorization"),
        (
            json!({}),
            json!(["client_secret_jwt", "client_secret_post"]),
            "client_secret",
        ),
        (
            json!({}),
            json!(["client_secret_jwt", "client_secret_basic"]),
            "authorization",
        ),
        (
            key_only,
            json!([
                "client_secret_basic",
                "client_secret_post",
                "private_key_jwt"
            ]),
            "client_assertion",
        ),
        (nothing.clone(), json!(["client_secret_basic"]), "client_id"),
        // Nothing else is left than a key, and the cluster has some.
        (
            nothing.clone(),
            json!(["private_key_jwt", "tls_client_auth"]),
            "client_assertion",
        ),
        (
            nothing.clone(),
            json!(["private_key_jwt", "client_secret_post"]),
            "client_id",
        ),
        (nothing, json!(["private_key_jwt", "none"]), "client_id"),
    ] {
        let mut gateway = Gateway::new(config);
        let mut keys = ClientKeys::default();
        keys.add_jwk(&key);
        gateway.host.equip(keys);
        gateway.provider.script.borrow_mut().discovery =
            vec![("token_endpoint_auth_methods_supported", offered.clone())];
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
        let asked = gateway.provider.last("/token");
        let form = gateway.provider.forms.borrow().last().unwrap().1.clone();
        let has = |name: &str| asked.headers().contains_key(name) || form.contains_key(name);
        for name in ["client_assertion", "client_secret", "authorization"] {
            assert_eq!(has(name), name == shown, "{offered}: {name}");
        }
    }
}

#[test]
fn the_cluster_s_keys_sign_by_what_the_provider_says_that_it_takes() {
    let (key, public) = client_key();
    let name = "token_endpoint_auth_signing_alg_values_supported";
    for (configured, announced, status) in [
        (Value::Null, json!(["HS256", "odd", "ES256"]), 200),
        (json!(["ES256"]), json!(["PS256"]), 200),
        // The default of Kong is among them, or nothing is said; there is only another key here.
        (Value::Null, json!(["ES256", "RS256"]), 503),
        (Value::Null, Value::Null, 503),
    ] {
        let mut gateway = Gateway::new(json!({
            "client_auth": ["private_key_jwt"], "client_alg": configured, "client_secret": null,
        }));
        let mut keys = ClientKeys::default();
        keys.add_jwk(&key);
        gateway.host.equip(keys);
        let mut script = gateway.provider.script.borrow_mut();
        (script.client_key, script.discovery) =
            (Some(public.clone()), vec![(name, announced.clone())]);
        drop(script);
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{announced}");
    }
}

#[test]
fn a_secret_signs_by_what_the_provider_says_that_it_takes() {
    let name = "token_endpoint_auth_signing_alg_values_supported";
    for (configured, announced, algorithm) in [
        (Value::Null, json!(["RS256", "HS512"]), "HS512"),
        (Value::Null, json!(["HS384", "HS256"]), "HS256"),
        (Value::Null, Value::Null, "HS256"),
        (json!(["HS384"]), json!(["HS512"]), "HS384"),
    ] {
        let config = json!({ "client_auth": ["client_secret_jwt"], "client_alg": configured });
        let mut gateway = Gateway::new(config);
        gateway.provider.script.borrow_mut().discovery = vec![(name, announced)];
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
        let token = gateway.provider.forms.borrow()[0].1["client_assertion"].clone();
        let parsed = Jws::parse(&token, token.len()).unwrap();
        assert_eq!(format!("{:?}", parsed.header.algorithm), algorithm);
        assert!(parsed.signed_with("secret"), "{algorithm}");
    }
}

#[test]
fn rule_30_an_assertion_is_for_whom_the_provider_takes_it() {
    let endpoint = "https://idp.example/token";
    for (audience, status, calls) in [
        (endpoint, 200, [1, 1]),
        // As FAPI 2.0 has it. What was accepted is what the next one begins with.
        (ISSUER, 200, [2, 1]),
        ("https://other.example", 502, [2, 2]),
    ] {
        for (auth, algorithm) in [("private_key_jwt", "ES256"), ("client_secret_jwt", "HS256")] {
            let config = json!({ "client_auth": [auth], "client_alg": [algorithm] });
            let mut gateway = Gateway::new(config);
            let mut keys = ClientKeys::default();
            keys.add_jwk(&client_key().0);
            gateway.host.equip(keys);
            gateway.provider.script.borrow_mut().client_audience = Some(audience);
            for calls in calls {
                let before = gateway.provider.called("/token");
                let reply = Browser::default().sign_in(&mut gateway, "/api");
                let called = gateway.provider.called("/token") - before;
                assert_eq!((reply.status, called), (status, calls), "{audience} {auth}");
            }
        }
    }
}

#[test]
fn rule_30_an_answer_that_says_nothing_of_an_assertion_teaches_nothing() {
    let endpoint = "https://idp.example/token";
    for (answer, status, calls) in [
        ((503, json!({})), 503, 1),
        ((500, json!({ "error": "server_error" })), 503, 1),
        ((403, json!({})), 401, 1),
        // Who refuses the code has accepted the client.
        ((400, json!({ "error": "invalid_grant" })), 401, 2),
    ] {
        let mut gateway = Gateway::new(json!({ "client_auth": ["client_secret_jwt"] }));
        for (audience, answer, status, calls) in [
            (ISSUER, Some(answer.clone()), status, 2),
            (endpoint, None, 200, calls),
        ] {
            let mut script = gateway.provider.script.borrow_mut();
            (script.client_audience, script.client_answer) = (Some(audience), answer.clone());
            drop(script);
            let before = gateway.provider.called("/token");
            let reply = Browser::default().sign_in(&mut gateway, "/api");
            let called = gateway.provider.called("/token") - before;
            assert_eq!((reply.status, called), (status, calls), "{answer:?}");
        }
    }
}

#[test]
fn rule_30_a_client_that_brings_its_secret_is_believed_by_whom_its_assertion_is_for() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["client_credentials"], "client_auth": ["client_secret_jwt"],
    }));
    let called = |gateway: &mut Gateway, pair: &str, status| {
        let pair = super::provider::basic(pair).parse().unwrap();
        let mut request = Request::get("/api");
        request.headers.push((AUTHORIZATION, pair));
        let before = gateway.provider.called("/token");
        assert_eq!(gateway.send(request).status, status);
        gateway.provider.called("/token") - before
    };
    gateway.provider.script.borrow_mut().client_audience = Some(ISSUER);
    // A secret that is wrong says nothing of that.
    assert_eq!(called(&mut gateway, "robot:wrong", 401), 2);
    assert_eq!(called(&mut gateway, "robot:robot-secret", 200), 2);
    gateway.advance(400);
    assert_eq!(called(&mut gateway, "robot:robot-secret", 200), 1);
}

#[test]
fn rule_30_an_assertion_for_the_issuer_goes_to_nobody_else() {
    for (more, answer, calls) in [
        (json!({}), "invalid_client", 2),
        (json!({}), "server_error", 1),
        (
            json!({ "token_endpoint": "https://idp.example/v2/token" }),
            "invalid_client",
            2,
        ),
        (
            json!({ "token_endpoint": "https://else.example/token" }),
            "invalid_client",
            1,
        ),
    ] {
        let mut config = json!({ "client_auth": ["client_secret_jwt"] });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let mut gateway = Gateway::new(config);
        let refused = (401, json!({ "error": answer }));
        gateway.provider.script.borrow_mut().token_answer = Some(refused);
        Browser::default().sign_in(&mut gateway, "/api");
        let posts = gateway.provider.forms.borrow().len();
        assert_eq!(posts, calls, "{more} {answer}");
    }
}

#[test]
fn keys_that_were_replaced_serve_until_the_provider_knows_the_new_ones() {
    let ((old, old_public), (new, new_public)) = (client_key(), client_key());
    let config = json!({
        "client_auth": ["private_key_jwt"], "client_alg": ["ES256"], "client_secret": null,
    });
    let mut gateway = Gateway::new(config.clone());
    let mut keys = ClientKeys::default();
    keys.add_jwk(&old);
    keys.replace_by_jwk(&new, gateway.host.now());
    gateway.host.equip(keys);
    let sign_in = |gateway: &mut Gateway, known: &Value, seconds, status, calls| {
        gateway.advance(seconds);
        gateway.provider.script.borrow_mut().client_key = Some(known.clone());
        let before = gateway.provider.called("/token");
        let reply = Browser::default().sign_in(gateway, "/api");
        assert_eq!(reply.status, status);
        assert_eq!(gateway.provider.called("/token") - before, calls);
    };
    let (_, strange) = client_key();
    for (known, seconds, status, calls) in [
        (&old_public, 0, 200, 2),
        (&old_public, 0, 200, 1),
        // It has read the new ones.
        (&new_public, 0, 200, 2),
        (&new_public, 0, 200, 1),
        (&strange, 0, 502, 4),
        // Those before do not serve for ever.
        (&old_public, 48 * 3600, 502, 2),
    ] {
        sign_in(&mut gateway, known, seconds, status, calls);
    }

    // Two replacements while the provider reads none of the sets.
    let mut gateway = Gateway::new(config.clone());
    let mut keys = ClientKeys::default();
    keys.add_jwk(&old);
    keys.replace_by_jwk(&client_key().0, gateway.host.now());
    gateway.advance(60);
    keys.replace_by_jwk(&new, gateway.host.now());
    gateway.host.equip(keys);
    for (known, seconds, status, calls) in [
        (&old_public, 0, 200, 3),
        (&old_public, 0, 200, 1),
        (&new_public, 0, 200, 2),
        // The oldest serve no more.
        (&old_public, 48 * 3600 - 60, 502, 4),
    ] {
        sign_in(&mut gateway, known, seconds, status, calls);
    }

    // Who checks the configuration is told.
    let gateway = Gateway::new(config.clone());
    let mut keys = ClientKeys::default();
    keys.add_jwk(&old);
    keys.replace_by_jwk(&new, gateway.host.now());
    gateway.host.equip(keys);
    gateway.provider.script.borrow_mut().client_key = Some(old_public);
    let mut config = config;
    config["issuer"] = json!(ISSUER);
    config["client_id"] = json!(["client"]);
    let asked = crate::bundled::openid_connect::check::run(&config, &gateway.host);
    let told = gateway.host.run(asked).unwrap();
    let findings = told["findings"].as_array().unwrap();
    let mut found = findings
        .iter()
        .filter(|finding| finding["check"] == "client");
    let found = found.next().unwrap();
    assert_eq!(found["result"], "warn", "{told}");
    assert!(found["fix"].as_str().unwrap().contains("read that page"));
}
