//! An OpenID provider without a network: it checks what a provider checks, and misbehaves on request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use shared::digest::sha256;
use url::Url;

use super::script::{Script, is_robot};
use crate::host::FetchError;
use crate::testing::START;

pub(super) const ISSUER: &str = "https://idp.example";

/// A signing key and its public form.
#[derive(Clone)]
pub(super) struct SigningKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
    pub(super) jwk: Value,
}

impl SigningKey {
    pub(super) fn es256(kid: &str) -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&public[1..33]), "y": URL_SAFE_NO_PAD.encode(&public[33..]),
        });
        Self {
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(pkcs8.as_ref()),
            jwk,
        }
    }

    pub(super) fn rs256(kid: &str) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        // RSAPublicKey of PKCS #1: a sequence of the modulus and the exponent 65537.
        let public = pair.public_key().as_ref().to_vec();
        let jwk = json!({
            "kty": "RSA", "kid": kid, "use": "sig",
            "n": URL_SAFE_NO_PAD.encode(&public[9..265]), "e": "AQAB",
        });
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        Self {
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(&pkcs1(pkcs8.as_ref())),
            jwk,
        }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        self.sign_as(Some("JWT"), claims)
    }

    /// A JWT of the type `typ`.
    pub(super) fn sign_as(&self, typ: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.typ = typ.map(str::to_owned);
        header.kid = self.jwk["kid"].as_str().map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    /// A JWT that shows `jwk`.
    pub(super) fn prove(&self, typ: &str, jwk: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "typ": typ, "alg": format!("{:?}", self.algorithm), "jwk": jwk });
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// The `RSAPrivateKey` inside of PKCS #8: the octet string after version and algorithm.
fn pkcs1(pkcs8: &[u8]) -> Vec<u8> {
    pkcs8[26..].to_vec()
}

/// What the provider remembers of an authorization request.
struct Grant {
    nonce: Option<String>,
    challenge: Option<String>,
    redirect_uri: String,
}

pub(super) struct Provider {
    pub(super) script: RefCell<Script>,
    pub(super) keys: RefCell<Vec<SigningKey>>,
    /// Paths that were asked for, in order.
    pub(super) calls: RefCell<Vec<String>>,
    /// Forms that were posted, in order.
    pub(super) forms: RefCell<Vec<(String, HashMap<String, String>)>>,
    /// Requests as they came, in order.
    pub(super) requests: RefCell<Vec<Request<Bytes>>>,
    grants: RefCell<HashMap<String, Grant>>,
    /// Authorization requests that were pushed, by the name that they got.
    pushed: RefCell<HashMap<String, HashMap<String, String>>>,
    pub(super) refresh_token: RefCell<String>,
    issued: RefCell<u32>,
    /// Seconds since the start, for the times in tokens.
    pub(super) clock: RefCell<u64>,
}

impl Provider {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            script: RefCell::default(),
            keys: RefCell::new(vec![SigningKey::es256("one")]),
            calls: RefCell::default(),
            forms: RefCell::default(),
            requests: RefCell::default(),
            grants: RefCell::default(),
            pushed: RefCell::default(),
            refresh_token: RefCell::default(),
            issued: RefCell::default(),
            clock: RefCell::default(),
        })
    }

    /// How often `path` was asked for.
    pub(super) fn called(&self, path: &str) -> usize {
        self.calls
            .borrow()
            .iter()
            .filter(|called| *called == path)
            .count()
    }

    /// The last request to `path`.
    pub(super) fn last(&self, path: &str) -> Request<Bytes> {
        let requests = self.requests.borrow();
        let found = requests
            .iter()
            .rev()
            .find(|request| request.uri().path() == path);
        found.expect("the provider was asked").clone()
    }

    pub(super) fn now(&self) -> u64 {
        START.as_secs() + *self.clock.borrow()
    }

    /// Lets the user sign in who was sent to `location`, and answers the query of the way back.
    pub(super) fn authorize(&self, location: &str) -> String {
        let arguments = self.request(location);
        let code = format!("code-{}", self.grants.borrow().len());
        let nonce = arguments.get("nonce").cloned();
        self.grants.borrow_mut().insert(
            code.clone(),
            Grant {
                nonce: nonce.clone(),
                challenge: arguments.get("code_challenge").cloned(),
                redirect_uri: arguments["redirect_uri"].clone(),
            },
        );
        let mut answer = vec![
            ("code".to_owned(), code.clone()),
            ("state".to_owned(), arguments["state"].clone()),
        ];
        if arguments["response_type"].contains("id_token") {
            let hash = sha256(code.as_bytes());
            let mut claims = json!({
                "iss": ISSUER, "sub": "user-1", "aud": "client", "exp": self.now() + 300,
                "iat": self.now(), "nonce": nonce, "c_hash": URL_SAFE_NO_PAD.encode(&hash[..16]),
            });
            change(&mut claims, &self.script.borrow().front_claims);
            answer.push(("id_token".to_owned(), self.signing_key().sign(&claims)));
        }
        let mode = arguments.get("response_mode").cloned().unwrap_or_default();
        if mode.ends_with("jwt") {
            let mut claims = json!({ "iss": ISSUER, "aud": "client", "exp": self.now() + 60 });
            for (name, value) in answer {
                claims[name] = value.into();
            }
            change(&mut claims, &self.script.borrow().response_claims);
            return format!("response={}", self.signing_key().sign(&claims));
        }
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(answer).finish()
    }

    /// The arguments of an authorization request, wherever it has them.
    pub(super) fn request(&self, location: &str) -> HashMap<String, String> {
        let url = Url::parse(location).unwrap();
        let mut arguments: HashMap<_, _> = url.query_pairs().into_owned().collect();
        if let Some(name) = arguments.get("request_uri") {
            assert_eq!(
                arguments.len(),
                3,
                "client_id, request_uri and what the endpoint had"
            );
            arguments = self
                .pushed
                .borrow_mut()
                .remove(name)
                .expect("it is used once");
        }
        if let Some(signed) = arguments.get("request") {
            let body = signed.split('.').nth(1).unwrap();
            let claims: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
            for (name, value) in claims.as_object().unwrap() {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                arguments.insert(name.clone(), text);
            }
        }
        arguments
    }

    /// A token with the claims that access tokens have, changed by `changes`; `null` removes a claim.
    pub(super) fn access_token(&self, changes: &[(&'static str, Value)]) -> String {
        let mut claims = json!({
            "iss": ISSUER, "sub": "user-1", "aud": "api", "exp": self.now() + 300, "iat": self.now(),
            "scope": "openid email profile", "preferred_username": "john", "tenant": "t1",
            "groups": ["employee", "marketing"], "serial": *self.issued.borrow(),
        });
        change(&mut claims, changes);
        self.signing_key().sign(&claims)
    }

    /// What is said of a token that is active.
    fn introspected(&self, changes: &[(&'static str, Value)]) -> Value {
        let mut claims = json!({
            "active": true, "iss": ISSUER, "sub": "user-1", "scope": "openid email",
            "exp": self.now() + 300, "username": "john",
        });
        change(&mut claims, changes);
        claims
    }

    pub(super) fn signing_key(&self) -> SigningKey {
        let script = self.script.borrow();
        script
            .signs_with
            .clone()
            .unwrap_or_else(|| self.keys.borrow()[0].clone())
    }

    pub(super) fn id_token(&self, nonce: Option<&str>, access_token: &str) -> String {
        let hash = sha256(access_token.as_bytes());
        let mut claims = json!({
            "iss": ISSUER, "sub": "user-1", "aud": "client", "exp": self.now() + 300,
            "iat": self.now(), "auth_time": START.as_secs(), "email": "john@example.com",
            "at_hash": URL_SAFE_NO_PAD.encode(&hash[..16]),
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        change(&mut claims, &self.script.borrow().id_claims);
        self.signing_key().sign(&claims)
    }

    /// Answers a request of the gateway.
    pub(super) fn handle(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let path = request.uri().path().to_owned();
        self.calls.borrow_mut().push(path.clone());
        self.requests.borrow_mut().push(request.clone());
        if let Some(answered) = self.script.borrow().instead(&path) {
            return answered;
        }
        // What was moved is what it was.
        let path = path.strip_prefix("/v2").unwrap_or(&path).to_owned();
        let (status, body) = match path.as_str() {
            "/.well-known/openid-configuration" if self.script.borrow().no_discovery => {
                (503, json!({}))
            }
            "/.well-known/openid-configuration" => {
                match self.script.borrow().discovery_text.clone() {
                    Some(text) => {
                        let is_page = self.script.borrow().discovery_is_page;
                        let kind = if is_page {
                            "text/html"
                        } else {
                            "application/json"
                        };
                        let mut response = plain(200, kind, String::new());
                        *response.body_mut() = text.into();
                        return Ok(response);
                    }
                    None => (200, self.discovery()),
                }
            }
            "/jwks" => {
                let keys: Vec<_> = self
                    .keys
                    .borrow()
                    .iter()
                    .map(|key| key.jwk.clone())
                    .collect();
                (200, json!({ "keys": keys }))
            }
            "/authorize" => return Ok(self.silently(request)),
            "/token" | "/mtls/token" => self.token(request),
            "/userinfo" => self.user_info(request),
            "/par" => self.push(request),
            "/exchange" => {
                let (status, text) = self.script.borrow().exchange.unwrap_or((200, "exchanged"));
                return Ok(plain(status, "text/plain", text.to_owned()));
            }
            "/source" if self.script.borrow().source_fails.is_some() => (
                self.script.borrow().source_fails.unwrap_or_default(),
                json!({}),
            ),
            "/source" => {
                let token = self.script.borrow().source.clone().unwrap_or_default();
                return Ok(plain(200, "application/jwt", token));
            }
            "/introspect" => {
                let form = self.keep_form(request);
                let script = self.script.borrow();
                let known = |token: &String| token.starts_with("opaque") || token.starts_with("ey");
                match &script.introspection {
                    Some((status, answer)) => (*status, answer.clone()),
                    None if form.get("token").is_some_and(known) => {
                        (200, self.introspected(&script.access_claims))
                    }
                    None => (200, json!({ "active": false })),
                }
            }
            "/revoke" => {
                self.keep_form(request);
                (200, json!({}))
            }
            _ => (404, json!({})),
        };
        let signed = self.script.borrow().signed_answers;
        if let Some((kind, typ)) = signed
            && matches!(path.as_str(), "/userinfo" | "/introspect")
            && status == 200
        {
            return Ok(plain(200, kind, self.signing_key().sign_as(typ, &body)));
        }
        let mut response = plain(status, "application/json", body.to_string());
        let answered = HeaderValue::from_static("yes");
        response.headers_mut().insert("x-answered", answered);
        for (name, value) in &self.script.borrow().headers {
            let value = HeaderValue::from_str(value).unwrap();
            response.headers_mut().append(*name, value);
        }
        Ok(response)
    }

    fn push(&self, request: &Request<Bytes>) -> (u16, Value) {
        let form = self.keep_form(request);
        if let Some(answer) = self.script.borrow().push_answer.clone() {
            return answer;
        }
        let name = format!("urn:request:{}", self.forms.borrow().len());
        self.pushed.borrow_mut().insert(name.clone(), form);
        (201, json!({ "request_uri": name, "expires_in": 60 }))
    }

    fn user_info(&self, request: &Request<Bytes>) -> (u16, Value) {
        if let Some(answer) = self.script.borrow().user_info.clone() {
            return answer;
        }
        let authorization = request.headers()["authorization"].to_str().unwrap();
        let known = ["Bearer opaque", "Bearer ey"];
        if !known.iter().any(|start| authorization.starts_with(start)) {
            return (401, json!({ "error": "invalid_token" }));
        }
        (
            200,
            json!({ "sub": "user-1", "email": "john@example.com", "team": ["blue"] }),
        )
    }

    pub(super) fn discovery(&self) -> Value {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": format!("{ISSUER}/authorize?tenant=a"),
            "token_endpoint": format!("{ISSUER}/token"),
            "jwks_uri": format!("{ISSUER}/jwks"),
            "end_session_endpoint": format!("{ISSUER}/logout"),
            "revocation_endpoint": format!("{ISSUER}/revoke"),
            "introspection_endpoint": format!("{ISSUER}/introspect"),
            "userinfo_endpoint": format!("{ISSUER}/userinfo"),
            "pushed_authorization_request_endpoint": format!("{ISSUER}/par"),
            "code_challenge_methods_supported": ["S256"],
        });
        change(&mut document, &self.script.borrow().discovery);
        document
    }

    fn keep_form(&self, request: &Request<Bytes>) -> HashMap<String, String> {
        let form: HashMap<_, _> = form_urlencoded::parse(request.body())
            .into_owned()
            .collect();
        let path = request.uri().path().to_owned();
        self.forms.borrow_mut().push((path, form.clone()));
        form
    }

    /// The answer to a request that may show nothing: nobody is signed in.
    fn silently(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let query = request.uri().query().unwrap_or_default();
        let arguments: HashMap<String, String> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        assert_eq!(arguments["prompt"], "none");
        let script = self.script.borrow();
        let error = script.refuses_silently.unwrap_or("login_required");
        if error.is_empty() {
            return plain(400, "text/html", "Who are you?".to_owned());
        }
        let mut answer = plain(302, "text/html", String::new());
        let back = format!("{}?error={error}", arguments["redirect_uri"]);
        let back = HeaderValue::try_from(back).unwrap();
        answer.headers_mut().insert("location", back);
        answer
    }

    fn token(&self, request: &Request<Bytes>) -> (u16, Value) {
        let form = self.keep_form(request);
        if let Some(answer) = self.script.borrow().token_answer.clone() {
            return answer;
        }
        if !self.script.borrow().knows_client(request, &form) {
            return (401, json!({ "error": "invalid_client" }));
        }
        if let Some(answer) = self.script.borrow().client_answer.clone() {
            return answer;
        }
        let refused = |error: &str| (400, json!({ "error": error }));
        let nonce = match form["grant_type"].as_str() {
            "authorization_code" => {
                let Some(grant) = self.grants.borrow_mut().remove(&form["code"]) else {
                    return refused("invalid_grant");
                };
                let verifier = form.get("code_verifier");
                let challenge =
                    verifier.map(|verifier| URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes())));
                if challenge != grant.challenge || form["redirect_uri"] != grant.redirect_uri {
                    return refused("invalid_grant");
                }
                grant.nonce
            }
            "refresh_token" if form["refresh_token"] == *self.refresh_token.borrow() => None,
            "password" if form["username"] == "john" && form["password"] == "p:ss" => None,
            "client_credentials" => {
                if !is_robot(request, &form) {
                    return (401, json!({ "error": "invalid_client" }));
                }
                None
            }
            _ => return refused("invalid_grant"),
        };
        *self.issued.borrow_mut() += 1;
        let scripted = self.script.borrow().access_token.clone();
        let access_token = match scripted {
            Some(token) => token,
            None if self.script.borrow().opaque => "opaque".to_owned(),
            None => self.access_token(&self.script.borrow().access_claims),
        };
        let mut answer = json!({ "access_token": access_token, "token_type": "Bearer" });
        answer["expires_in"] = self.script.borrow().lifetime.unwrap_or(300).into();
        if !self.script.borrow().no_id_token {
            answer["id_token"] = self.id_token(nonce.as_deref(), &access_token).into();
        }
        if !self.script.borrow().no_refresh_token {
            // Each refresh token serves once.
            let token = format!("refresh-{}", self.issued.borrow());
            self.refresh_token.borrow_mut().clone_from(&token);
            answer["refresh_token"] = token.into();
        }
        (200, answer)
    }
}

pub(super) fn plain(status: u16, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert("content-type", kind);
    response
}

/// The `Authorization` header for a name and a secret.
pub(super) fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn change(value: &mut Value, changes: &[(&'static str, Value)]) {
    let members = value.as_object_mut().unwrap();
    for (name, value) in changes {
        if value.is_null() {
            members.remove(*name);
        } else {
            members.insert((*name).to_owned(), value.clone());
        }
    }
}
