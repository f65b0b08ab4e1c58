//! What a test has the provider do, and the clients that it knows.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::Value;
use shared::clock::UnixTime;

use super::super::assertion;
use super::super::jws::Jws;
use super::super::key::PublicKey;
use super::provider::{SigningKey, basic, plain};
use crate::client_keys::ClientKeys;
use crate::client_keys::signer::Signer;
use crate::host::FetchError;

/// What the provider does out of line.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a misbehaviour of its own"
)]
pub(super) struct Script {
    /// Headers of its answers.
    pub(super) headers: Vec<(&'static str, String)>,
    /// Nothing answers.
    pub(super) down: bool,
    /// The token endpoint answers this.
    pub(super) token_answer: Option<(u16, Value)>,
    /// Paths that answer with this status and nothing else; 0: there is nobody to connect to.
    pub(super) gone: Vec<(&'static str, u16)>,
    /// There is no discovery document now.
    pub(super) no_discovery: bool,
    /// The secret that the token endpoint accepts the client by; any if none is said.
    pub(super) secret: Option<&'static str>,
    /// The public key that it takes the client's assertions by; any if none is said.
    pub(super) client_key: Option<Value>,
    /// Whom these are to be for; anybody if that is not said.
    pub(super) client_audience: Option<&'static str>,
    /// What it answers the client that it accepts.
    pub(super) client_answer: Option<(u16, Value)>,
    /// The discovery document, whatever it is.
    pub(super) discovery_text: Option<Vec<u8>>,
    /// It calls itself a page.
    pub(super) discovery_is_page: bool,
    /// Changes to the discovery document.
    pub(super) discovery: Vec<(&'static str, Value)>,
    /// Changes to the claims of ID tokens; `null` removes one.
    pub(super) id_claims: Vec<(&'static str, Value)>,
    /// Changes to the claims of access tokens; `null` removes one.
    pub(super) access_claims: Vec<(&'static str, Value)>,
    /// Access tokens are this.
    pub(super) access_token: Option<String>,
    /// Access tokens are no JWTs.
    pub(super) opaque: bool,
    /// How long access tokens live, if not for the usual time.
    pub(super) lifetime: Option<u64>,
    /// No refresh tokens are given out.
    pub(super) no_refresh_token: bool,
    /// The key that signs, if it is not the published one.
    pub(super) signs_with: Option<SigningKey>,
    /// What the introspection endpoint answers, whatever the token.
    pub(super) introspection: Option<(u16, Value)>,
    /// ID tokens are not given out.
    pub(super) no_id_token: bool,
    /// What the user info endpoint answers, whatever the token.
    pub(super) user_info: Option<(u16, Value)>,
    /// User info and introspection are signed: the type of the answer and that of the JWT.
    pub(super) signed_answers: Option<(&'static str, Option<&'static str>)>,
    /// What the exchange endpoint answers.
    pub(super) exchange: Option<(u16, &'static str)>,
    /// The JWT of another source of claims.
    pub(super) source: Option<String>,
    /// It answers with this in place of the JWT.
    pub(super) source_fails: Option<u16>,
    /// The error that a silent request is sent back with, if not the usual one; with none it is not sent back.
    pub(super) refuses_silently: Option<&'static str>,
    /// The pushed authorization request endpoint answers this.
    pub(super) push_answer: Option<(u16, Value)>,
    /// Changes to the claims of signed authorization responses; `null` removes one.
    pub(super) response_claims: Vec<(&'static str, Value)>,
    /// Changes to the claims of ID tokens that come by way of the browser; `null` removes one.
    pub(super) front_claims: Vec<(&'static str, Value)>,
}

impl Script {
    /// What is answered at `path` in place of what is there.
    pub(super) fn instead(&self, path: &str) -> Option<Result<Response<Bytes>, FetchError>> {
        let gone = self.gone.iter().find(|(gone, _)| *gone == path);
        let status = if self.down { 0 } else { gone?.1 };
        if status == 0 {
            return Some(Err(FetchError::Connect {
                authority: "idp.example:443".to_owned(),
                reason: "connection refused".to_owned(),
            }));
        }
        Some(Ok(plain(status, "application/json", "{}".to_owned())))
    }

    /// Whether the token endpoint accepts the client.
    pub(super) fn knows_client(
        &self,
        request: &Request<Bytes>,
        form: &HashMap<String, String>,
    ) -> bool {
        let shown = request.headers().get("authorization");
        let shown = shown.map(HeaderValue::as_bytes);
        let by_secret = |secret: &str| shown == Some(basic(&format!("client:{secret}")).as_bytes());
        let asserted = || {
            let token = &form["client_assertion"];
            Jws::parse(token, token.len()).unwrap()
        };
        let by_key = |key: &Value| asserted().signed_by(&PublicKey::read(key).unwrap());
        let for_it = |audience: &str| asserted().claims["aud"] == audience;
        self.secret.is_none_or(by_secret)
            && self.client_key.as_ref().is_none_or(by_key)
            && self.client_audience.is_none_or(for_it)
    }
}

/// Whether a client that is no user's proves itself, by its secret or by what that signs.
pub(super) fn is_robot(request: &Request<Bytes>, form: &HashMap<String, String>) -> bool {
    let signed = |token: &String| {
        Jws::parse(token, token.len())
            .unwrap()
            .signed_with("robot-secret")
    };
    let shown = request.headers().get("authorization");
    shown.is_some_and(|shown| *shown == *basic("robot:robot-secret"))
        || form.get("client_assertion").is_some_and(signed)
}

impl ClientKeys {
    /// Adds a private key that is a JWK.
    pub(super) fn add_jwk(&mut self, jwk: &Value) {
        self.add_signer(signer(jwk));
    }

    /// Has all keys replaced at `at` by one that is a JWK.
    pub(super) fn replace_by_jwk(&mut self, jwk: &Value, at: UnixTime) {
        self.replace_by(signer(jwk), at);
    }
}

fn signer(jwk: &Value) -> Signer {
    let jwk = serde_json::from_value(jwk.clone()).unwrap();
    assertion::signer(&jwk, None).unwrap()
}
