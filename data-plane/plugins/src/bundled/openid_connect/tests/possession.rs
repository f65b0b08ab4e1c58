//! Tokens that are bound to a certificate or to a key of their client.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use shared::digest::sha256;

use super::super::possession::thumbprint;
use super::gateway::{Browser, Gateway, Reply, judged};
use super::provider::SigningKey;
use crate::host::redis;
use crate::registry::succession;
use crate::testing::{Request, START};

fn gateway(more: &Value) -> Gateway {
    let mut config = json!({ "auth_methods": ["bearer", "introspection", "session"] });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Gateway::new(config)
}

fn confirmed(member: &str, value: &str) -> Vec<(&'static str, Value)> {
    vec![("cnf", json!({ member: value }))]
}

#[test]
fn rule_51_a_token_that_is_bound_to_a_certificate_is_good_with_it_only() {
    let check = |mode: &str, bound: Option<u8>, held: Option<u8>, status: u16| {
        let mut gateway = gateway(&json!({ "proof_of_possession_mtls": mode }));
        let claims = bound.map(|byte| confirmed("x5t#S256", &URL_SAFE_NO_PAD.encode([byte; 32])));
        let token = gateway.provider.access_token(&claims.unwrap_or_default());
        let mut request = Request::get("/api");
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers.push((http::header::AUTHORIZATION, value));
        request.certificate = held.map(|byte| [byte; 32]);
        let reply = gateway.send(request);
        assert_eq!(reply.status, status, "{mode} {bound:?} {held:?}");
        if status == 401 {
            assert!(reply.challenge().contains("error=\"invalid_token\""));
        }
    };
    check("strict", Some(1), Some(1), 200);
    check("strict", Some(1), Some(2), 401);
    check("strict", Some(1), None, 401);
    check("strict", None, Some(1), 401);
    check("optional", None, None, 200);
    check("optional", Some(1), Some(2), 401);
    check("optional", Some(1), Some(1), 200);
    check("off", Some(1), None, 200);
}

#[test]
fn rule_51_a_session_is_bound_as_its_token_was() {
    let mut gateway = gateway(&json!({ "proof_of_possession_mtls": "strict" }));
    let claims = confirmed("x5t#S256", &URL_SAFE_NO_PAD.encode([1; 32]));
    let token = gateway.provider.access_token(&claims);
    let mut browser = Browser::default();
    let mut request = Request::get("/api");
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers.push((http::header::AUTHORIZATION, value));
    request.certificate = Some([1; 32]);
    assert!(browser.send(&mut gateway, request).sets_session());
    for (held, status) in [(Some([1; 32]), 200), (None, 401)] {
        let mut request = Request::get("/api");
        request.certificate = held;
        assert_eq!(browser.send(&mut gateway, request).status, status);
    }
}

#[test]
fn methods_that_cannot_be_bound_are_refused_or_left_alone() {
    let check = |config: Value, accepted: bool| {
        let result = judged(&config);
        assert_eq!(result.is_ok(), accepted, "{config}");
    };
    let bound = json!(["bearer", "introspection", "session"]);
    check(json!({ "proof_of_possession_mtls": "strict" }), false);
    check(json!({ "proof_of_possession_dpop": "optional" }), false);
    check(
        json!({ "proof_of_possession_mtls": "strict", "auth_methods": bound }),
        true,
    );
    let lenient = json!({
        "proof_of_possession_mtls": "strict", "proof_of_possession_auth_methods_validation": false,
    });
    check(lenient.clone(), true);
    let mut gateway = Gateway::new(lenient);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
}

/// A client that can prove what it has.
struct Prover {
    key: SigningKey,
    token: String,
}

impl Prover {
    fn new(gateway: &Gateway) -> Self {
        let mut key = SigningKey::es256("mine");
        for member in ["kid", "use", "alg"] {
            key.jwk.as_object_mut().unwrap().remove(member);
        }
        let claims = confirmed("jkt", &thumbprint(&key.jwk).unwrap());
        Self {
            token: gateway.provider.access_token(&claims),
            key,
        }
    }

    /// A proof, changed by `changes`; `null` removes a claim.
    fn proof(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "jti": "one", "htm": "GET", "htu": "http://gateway.example/api",
            "iat": START.as_secs(), "ath": URL_SAFE_NO_PAD.encode(sha256(self.token.as_bytes())),
        });
        for (name, value) in changes {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(*name);
            } else {
                claims[*name] = value.clone();
            }
        }
        self.key.prove("dpop+jwt", &self.key.jwk, &claims)
    }

    fn send(&self, gateway: &mut Gateway, scheme: &str, proofs: &[String]) -> Reply {
        let mut request = Request::get("/api?x=1");
        request.method = Method::GET;
        let value = format!("{scheme} {}", self.token).parse().unwrap();
        request.headers.push((http::header::AUTHORIZATION, value));
        for proof in proofs {
            let value = HeaderValue::from_str(proof).unwrap();
            request
                .headers
                .push((HeaderName::from_static("dpop"), value));
        }
        gateway.send(request)
    }
}

#[test]
fn rules_51_and_52_what_is_bound_to_something_unreadable_is_nobodys() {
    for (member, proof) in [("jkt", "dpop"), ("x5t#S256", "mtls")] {
        for (cnf, expected) in [
            (json!(null), 200),
            (json!({}), 200),
            (json!({ "another": "x" }), 200),
            (json!({ member: null }), 200),
            (json!({ member: "" }), 401),
            (json!({ member: 5 }), 401),
            (json!({ member: ["x"] }), 401),
            (json!({ member: {} }), 401),
            (json!("x"), 401),
            (json!([1]), 401),
        ] {
            let config = json!({ format!("proof_of_possession_{proof}"): "optional" });
            let mut gateway = gateway(&config);
            let token = gateway.provider.access_token(&[("cnf", cnf.clone())]);
            let mut request = Request::get("/api");
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers.push((http::header::AUTHORIZATION, value));
            request.certificate = Some([7; 32]);
            assert_eq!(gateway.send(request).status, expected, "{member} {cnf}");
        }
    }
}

#[test]
fn rule_52_a_proof_must_be_right_in_everything() {
    let check =
        |changes: &[(&str, Value)], status: u16| {
            let mut gateway = gateway(&json!({ "proof_of_possession_dpop": "strict" }));
            let prover = Prover::new(&gateway);
            let reply = prover.send(&mut gateway, "dPoP", &[prover.proof(changes)]);
            assert_eq!(reply.status, status, "{changes:?}");
            if status == 200 {
                let bearer = format!("Bearer {}", prover.token);
                assert_eq!(reply.seen("authorization"), Some(bearer.as_str()));
                assert_eq!(reply.seen("dpop"), None);
            } else {
                assert!(reply.challenge().starts_with(
                    "DPoP realm=\"idp.example\", error=\"invalid_dpop_proof\", algs="
                ));
            }
        };
    let now = START.as_secs();
    check(&[], 200);
    check(
        &[("htu", json!("HTTP://Gateway.Example:80/api?other#part"))],
        200,
    );
    check(&[("iat", json!(now + 5))], 200);
    check(&[("iat", json!(now - 299))], 200);
    check(&[("iat", json!(now + 60))], 401);
    check(&[("iat", json!(now - 300))], 401);
    check(&[("iat", json!(null))], 401);
    check(&[("exp", json!(now + 1)), ("nbf", json!(now + 5))], 200);
    check(&[("exp", json!(now))], 401);
    check(&[("exp", json!("soon"))], 401);
    check(&[("nbf", json!(now + 60))], 401);
    check(&[("htm", json!("POST"))], 401);
    check(&[("htu", json!("http://gateway.example/other"))], 401);
    check(&[("htu", json!("https://gateway.example/api"))], 401);
    check(&[("ath", json!("AAAA"))], 401);
    check(&[("ath", json!(null))], 401);
    check(&[("jti", json!(null))], 401);
    check(&[("jti", json!(""))], 401);
}

#[test]
fn rule_52_a_proof_is_good_for_as_long_as_is_configured() {
    let config = json!({ "proof_of_possession_dpop": "strict", "dpop_proof_lifetime": 10 });
    for (age, status) in [(9, 200), (10, 401)] {
        let mut gateway = gateway(&config);
        let prover = Prover::new(&gateway);
        let proof = prover.proof(&[("iat", json!(START.as_secs() - age))]);
        assert_eq!(prover.send(&mut gateway, "DPoP", &[proof]).status, status);
    }
}

#[test]
fn rule_52_a_proof_serves_once_and_alone() {
    let mut gateway = gateway(&json!({ "proof_of_possession_dpop": "strict" }));
    let prover = Prover::new(&gateway);
    let (one, two) = (prover.proof(&[]), prover.proof(&[("jti", json!("two"))]));
    assert_eq!(prover.send(&mut gateway, "DPoP", &[]).status, 401);
    let both = [one.clone(), two.clone()];
    assert_eq!(prover.send(&mut gateway, "DPoP", &both).status, 401);
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", std::slice::from_ref(&one))
            .status,
        200
    );
    assert_eq!(prover.send(&mut gateway, "DPoP", &[one]).status, 401);
    // A bound token is none of a mere bearer.
    let reply = prover.send(&mut gateway, "Bearer", std::slice::from_ref(&two));
    assert_eq!(reply.status, 401);
    assert!(reply.challenge().contains("error=\"invalid_token\""));
    assert_eq!(prover.send(&mut gateway, "DPoP", &[two]).status, 200);
}

#[test]
fn rule_52_a_proof_serves_once_over_a_hot_restart_too() {
    let [mut before, mut after] = Gateway::two(&json!({
        "auth_methods": ["bearer"], "proof_of_possession_dpop": "strict", "dpop_proof_lifetime": 60,
    }));
    let prover = Prover::new(&before);
    let (one, two) = (prover.proof(&[]), prover.proof(&[("jti", json!("two"))]));
    let send = |gateway: &mut Gateway, proof: &String| {
        let proofs = std::slice::from_ref(proof);
        prover.send(gateway, "DPoP", proofs).status
    };
    let states = [&before, &after].map(|gateway| gateway.host.node_states());
    let go_on = |now| succession::take(&states[1], &succession::give(&states[0], now), now);
    assert_eq!(send(&mut before, &one), 200);
    go_on(START);
    assert_eq!(send(&mut after, &one), 401);
    assert_eq!(send(&mut after, &two), 200);
    // It is told once more as the process before ends.
    let three = prover.proof(&[("jti", json!("three"))]);
    assert_eq!(send(&mut before, &three), 200);
    go_on(START);
    for used in [&one, &two, &three] {
        assert_eq!(send(&mut after, used), 401);
    }
    // What has ended is not told.
    let [given, ..] = succession::give(&states[0], START.saturating_add(Duration::from_mins(2)));
    assert!(given.is_empty(), "{given:?}");
}

#[test]
fn rule_52_who_sends_a_bound_token_as_bearer_is_told_of_dpop() {
    for mode in ["optional", "strict"] {
        let mut gateway = gateway(&json!({ "proof_of_possession_dpop": mode }));
        let prover = Prover::new(&gateway);
        let reply = prover.send(&mut gateway, "Bearer", &[]);
        assert_eq!(reply.status, 401, "{mode}");
        let told = reply.challenge();
        let is_told = told.starts_with("DPoP ") && told.contains("error=\"invalid_token\"");
        assert!(is_told && told.contains("algs="), "{mode}: {told}");
    }
}

#[test]
fn rule_52_the_key_of_a_proof_is_public_and_the_tokens() {
    let mut gateway = gateway(&json!({ "proof_of_possession_dpop": "strict" }));
    let prover = Prover::new(&gateway);
    let other = Prover {
        key: SigningKey::es256("other"),
        token: prover.token.clone(),
    };
    let claims = json!({
        "jti": "x", "htm": "GET", "htu": "http://gateway.example/api", "iat": START.as_secs(),
        "ath": URL_SAFE_NO_PAD.encode(sha256(prover.token.as_bytes())),
    });
    let mut private = prover.key.jwk.clone();
    private["d"] = json!("AAAA");
    for proof in [
        // Another key than the token's.
        other.proof(&[]),
        // Signed with another key than it shows.
        other.key.prove("dpop+jwt", &prover.key.jwk, &claims),
        // A JWT for something else.
        prover.key.prove("JWT", &prover.key.jwk, &claims),
        // A key that is no longer a secret.
        prover.key.prove("dpop+jwt", &private, &claims),
        prover
            .key
            .prove("dpop+jwt", &json!({ "kty": "oct", "k": "AAAA" }), &claims),
        "no.jwt".to_owned(),
    ] {
        assert_eq!(prover.send(&mut gateway, "DPoP", &[proof]).status, 401);
    }
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[prover.proof(&[])])
            .status,
        200
    );
}

#[test]
fn rule_52_a_nonce_dates_a_proof_if_that_is_configured() {
    let config = json!({ "proof_of_possession_dpop": "optional", "dpop_use_nonce": true });
    let mut gateway = gateway(&config);
    let prover = Prover::new(&gateway);
    let reply = prover.send(&mut gateway, "DPoP", &[prover.proof(&[])]);
    assert_eq!(reply.status, 401);
    assert!(reply.challenge().contains("error=\"use_dpop_nonce\""));
    let nonce = reply.headers["dpop-nonce"].to_str().unwrap().to_owned();
    let with = |nonce: &str, id: &str| prover.proof(&[("nonce", json!(nonce)), ("jti", json!(id))]);
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[with("forged", "two")])
            .status,
        401
    );
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[with(&nonce, "three")])
            .status,
        200
    );
    gateway.advance(299);
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[with(&nonce, "four")])
            .status,
        200
    );
    gateway.advance(1);
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[with(&nonce, "five")])
            .status,
        401
    );
}

#[test]
fn rule_52_an_unbound_token_passes_where_proofs_are_optional_only() {
    for (mode, status) in [("optional", 200), ("strict", 401)] {
        let mut gateway = gateway(&json!({ "proof_of_possession_dpop": mode }));
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, status);
    }
    // Where nobody looks, the scheme is unknown.
    let mut gateway = gateway(&json!({}));
    let prover = Prover::new(&gateway);
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[prover.proof(&[])])
            .status,
        401
    );
}

#[test]
fn rule_52_an_introspected_token_is_bound_by_what_the_provider_says() {
    let mut gateway = gateway(&json!({ "proof_of_possession_dpop": "strict" }));
    let mut prover = Prover::new(&gateway);
    prover.token = "opaque".to_owned();
    let claims = confirmed("jkt", &thumbprint(&prover.key.jwk).unwrap());
    gateway.provider.script.borrow_mut().access_claims = claims;
    assert_eq!(
        prover
            .send(&mut gateway, "DPoP", &[prover.proof(&[])])
            .status,
        200
    );
    assert_eq!(gateway.call("opaque").status, 401);
}

#[test]
fn rule_52_a_proof_serves_once_in_a_cluster_that_shares_what_it_knows() {
    let config = json!({
        "proof_of_possession_dpop": "strict", "cluster_cache_strategy": "redis",
        "cluster_cache_redis": { "prefix": "here" },
    });
    let (mut gateway, mut other) = (gateway(&config), gateway(&config));
    other.provider = std::rc::Rc::clone(&gateway.provider);
    let network = std::rc::Rc::clone(&gateway.provider);
    other
        .host
        .connect(std::rc::Rc::new(move |request| network.handle(request)));
    let used = std::rc::Rc::new(std::cell::RefCell::new(std::collections::HashSet::new()));
    let store: std::rc::Rc<crate::testing::RedisFake> = std::rc::Rc::new(move |commands| {
        let text: Vec<_> = commands[0].0.iter().map(|part| part.to_vec()).collect();
        assert_eq!(
            (text[0].as_slice(), text[3].as_slice()),
            (&b"SET"[..], &b"NX"[..])
        );
        assert!(text[1].starts_with(b"here:=used:"));
        let first = used.borrow_mut().insert(text[1].clone());
        Ok(vec![if first {
            redis::Reply::Status("OK".to_owned())
        } else {
            redis::Reply::Nil
        }])
    });
    gateway.host.connect_redis(std::rc::Rc::clone(&store));
    let prover = Prover::new(&gateway);
    let proof = prover.proof(&[]);
    let status = |gateway: &mut Gateway, proof: &String| {
        prover
            .send(gateway, "DPoP", std::slice::from_ref(proof))
            .status
    };
    assert_eq!(status(&mut gateway, &proof), 200);
    // Whoever cannot ask does not know.
    let next = prover.proof(&[("jti", json!("next"))]);
    assert_eq!(status(&mut other, &next), 503);
    other.host.connect_redis(store);
    assert_eq!(status(&mut other, &proof), 401);
}
