//! What jwt promises.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use http::HeaderValue;
use shared::secret::Secret;
use uuid::Uuid;

use super::*;
use crate::credentials::PublicKey;
use crate::testing::{FakeHost, Request, START, answer_of, consumer};

fn encode(value: &Value) -> String {
    BASE64
        .encode(value.to_string())
        .trim_end_matches('=')
        .to_owned()
}

fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let text = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = BASE64.encode(hmac::sign(&key, text.as_bytes()));
    format!("{text}.{}", signature.trim_end_matches('='))
}

fn request(key: JwtKey, uri: &str, headers: &[(&'static str, &str)]) -> Request {
    let mut request = Request::get(uri);
    let consumer = consumer("bob", None);
    let key = JwtKey {
        consumer: consumer.id,
        ..key
    };
    let environment = &mut request.environment;
    environment.credentials.jwt.insert("key".to_owned(), key);
    environment.consumers.by_id.insert(consumer.id, consumer);
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers.push((HeaderName::from_static(name), value));
    }
    request
}

fn secret(text: &str) -> JwtKey {
    JwtKey {
        consumer: Uuid::nil(),
        algorithm: "HS256",
        secret: Secret::new(text.to_owned()),
        public: None,
    }
}

fn filter(config: Value) -> JwtFilter {
    let config: Jwt = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

fn check(config: Value, token: &str, expected: Result<(), Value>) {
    let authorization = format!("Bearer {token}");
    let request = request(secret("secret"), "/", &[("authorization", &authorization)]);
    let answer = answer_of(&filter(config), &FakeHost::default(), &request);
    match expected {
        Ok(()) => {
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(answer.upstream_header("x-credential-identifier"), "key");
        }
        Err(expected) => {
            let body: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!((answer.status, body), (401, expected), "{token}");
            assert_eq!(
                answer.header("www-authenticate"),
                r#"Bearer error="invalid_token""#
            );
        }
    }
}

fn said(message: &str) -> Result<(), Value> {
    Err(json!({ "message": message }))
}

#[test]
fn kongs_words_for_every_token_that_is_refused() {
    let header = json!({"typ": "JWT", "alg": "HS256"});
    let claims = json!({"iss": "key"});
    let now = START.as_secs();
    check(json!({}), &signed(&header, &claims, "secret"), Ok(()));
    check(
        json!({}),
        &signed(&header, &claims, "other"),
        said("Invalid signature"),
    );
    check(json!({}), "x", said("Bad token; invalid JSON"));
    check(json!({}), "a.b.c", said("Bad token; invalid JSON"));
    let none = signed(&json!({"alg": "none"}), &claims, "secret");
    check(json!({}), &none, said("Bad token; invalid alg"));
    let other = signed(&json!({"alg": "HS384"}), &claims, "secret");
    check(json!({}), &other, said("Invalid algorithm"));
    let nobody = signed(&header, &json!({"iss": "nobody"}), "secret");
    check(
        json!({}),
        &nobody,
        said("No credentials found for given 'iss'"),
    );
    let without = signed(&header, &json!({}), "secret");
    check(json!({}), &without, said("No mandatory 'iss' in claims"));
    let empty = signed(&header, &json!({"iss": ""}), "secret");
    check(json!({}), &empty, said("Invalid 'iss' in claims"));
    let verify = json!({"claims_to_verify": ["exp", "nbf"]});
    let errors = json!({"exp": "must be a number", "nbf": "must be a number"});
    check(
        verify.clone(),
        &signed(&header, &claims, "secret"),
        Err(errors),
    );
    let late = json!({"iss": "key", "exp": now, "nbf": now + 1});
    let errors = json!({"exp": "token expired", "nbf": "token not valid yet"});
    check(verify, &signed(&header, &late, "secret"), Err(errors));
    let long = json!({"iss": "key", "exp": now + 61});
    let bounded = json!({"claims_to_verify": ["exp"], "maximum_expiration": 60});
    let errors = json!({"exp": "exceeds maximum allowed expiration"});
    check(bounded, &signed(&header, &long, "secret"), Err(errors));
    let in_header = signed(&json!({"alg": "HS256", "kid": "key"}), &json!({}), "secret");
    check(json!({"key_claim_name": "kid"}), &in_header, Ok(()));
}

#[test]
fn a_token_has_64_kib_at_most() {
    let header = json!({"typ": "JWT", "alg": "HS256"});
    let of = |pad: usize| {
        let claims = json!({"iss": "key", "x": "y".repeat(pad)});
        signed(&header, &claims, "secret")
    };
    // Base64 has no text of every length.
    let pads = LONGEST / 4 * 3 - 200..LONGEST / 4 * 3;
    let fits = pads.clone().rfind(|pad| of(*pad).len() <= LONGEST).unwrap();
    assert!(of(fits).len() + 2 >= LONGEST && pads.contains(&(fits + 1)));
    check(json!({}), &of(fits), Ok(()));
    check(json!({}), &of(fits + 1), said("Bad token; invalid JSON"));
}

#[test]
fn a_token_may_come_as_argument_or_cookie_but_only_once() {
    let token = signed(&json!({"alg": "HS256"}), &json!({"iss": "key"}), "secret");
    let other = signed(
        &json!({"alg": "HS256"}),
        &json!({"iss": "key", "x": 1}),
        "secret",
    );
    let filter = filter(json!({"cookie_names": ["crumble"]}));
    let status = |uri: &str, headers: &[(&'static str, &str)]| {
        let request = request(secret("secret"), uri, headers);
        answer_of(&filter, &FakeHost::default(), &request)
    };
    assert_eq!(status(&format!("/?jwt={token}"), &[]).status, 200);
    let cookie = format!("a=b; crumble={token}");
    assert_eq!(status("/", &[("cookie", &cookie)]).status, 200);
    assert_eq!(
        status(&format!("/?jwt={token}"), &[("cookie", &cookie)]).status,
        200
    );
    let twice = status(&format!("/?jwt={other}"), &[("cookie", &cookie)]);
    assert_eq!(twice.message(), "Multiple tokens provided");
    let good = format!("Bearer {token}");
    let both = [("authorization", &*good), ("authorization", "Bearer x")];
    let first = status("/", &both);
    assert_eq!(first.status, 200);
    assert_eq!(first.upstream_header("authorization"), good);
    let first = status("/", &[("cookie", &format!("{cookie}; crumble={other}"))]);
    assert_eq!(first.status, 200);
    assert_eq!(first.upstream_header("cookie"), cookie);
    let missing = status("/", &[]);
    assert_eq!(
        (missing.status, missing.message().as_str()),
        (401, "Unauthorized")
    );
    assert_eq!(missing.header("www-authenticate"), "Bearer");
}

#[test]
fn a_public_key_verifies_what_its_owner_has_signed() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let spki = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
        pair.public_key(),
    )
    .unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(spki.as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
    let message = format!(
        "{}.{}",
        encode(&json!({"alg": "ES256"})),
        encode(&json!({"iss": "key"}))
    );
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let token = format!("{message}.{}", BASE64.encode(signature));
    let key = || JwtKey {
        algorithm: "ES256",
        public: PublicKey::read("ES256", &pem),
        ..secret("")
    };
    let filter = filter(json!({}));
    let ask = |token: &str| {
        let request = request(key(), &format!("/?jwt={token}"), &[]);
        answer_of(&filter, &FakeHost::default(), &request).status
    };
    assert_eq!(ask(token.trim_end_matches('=')), 200);
    let forged = signed(&json!({"alg": "ES256"}), &json!({"iss": "key"}), &pem);
    assert_eq!(ask(&forged), 401);
}
