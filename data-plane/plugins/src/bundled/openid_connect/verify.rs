//! Verification of ID tokens and JWT access tokens.
//!
//! The signature is checked against each key that may have made it. The claims of ID tokens are checked
//! in `id_token`, access tokens here, by RFC 9068 as far as Kong does.

mod id_token;
mod judgement;

use std::time::Duration;

use serde_json::Value;
use shared::clock::UnixTime;

use self::judgement::{looks_like_id_token, posing};
use super::failure::Failure;
use super::jws::{self, Claims, Jws, JwsError};
use super::provider::{Document, Key};
use super::rules::{self, Rules};

/// Longest token of a provider, in bytes.
pub(super) const PROVIDER_TOKEN: usize = 64 * 1024;

/// Longest bearer token of a client, in bytes.
const BEARER_TOKEN: usize = 16 * 1024;

/// Why a token is not accepted.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No known key fits: the provider may have a new one.
    UnknownKey(Failure),
    /// The key that the token names has not signed it: the provider may have another one of that name.
    OtherKey(Failure),
    /// The token is bad.
    Bad(Failure),
}

impl Refusal {
    /// This refusal, with what was compared.
    fn with_token(self, token: &Jws<'_>, verifier: &Verifier<'_>) -> Self {
        let rules = verifier.rules;
        let add = |failure: Failure| {
            let mut failure = failure
                .with("alg", format!("{:?}", token.header.algorithm))
                .with("kid", token.header.kid.clone().unwrap_or_default())
                .with("now", verifier.now.as_secs().to_string())
                .with("leeway", verifier.leeway().as_secs().to_string())
                .with("expected iss", rules.issuer.clone())
                .with("client_id", rules.client(verifier.client).id.clone());
            for name in ["iss", "aud", "azp", "exp", "iat", "nbf", "auth_time", "typ"] {
                if let Some(value) = token.claims.get(name) {
                    failure = failure.with(name, value.to_string());
                }
            }
            failure
        };
        match self {
            Self::UnknownKey(failure) => Self::UnknownKey(add(failure)),
            Self::OtherKey(failure) => Self::OtherKey(add(failure)),
            Self::Bad(failure) => Self::Bad(add(failure)),
        }
    }

    /// The failure, once no further key is to be had.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::UnknownKey(failure) | Self::OtherKey(failure) | Self::Bad(failure) => failure,
        }
    }
}

/// Verifies tokens of one provider for one client at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verifier<'a> {
    pub(super) rules: &'a Rules,
    pub(super) document: &'a Document,
    pub(super) client: usize,
    pub(super) now: UnixTime,
}

/// What the provider said, under its signature.
pub(super) struct Statement {
    /// The type that its header names.
    pub(super) kind: Option<String>,
    pub(super) claims: Claims,
}

shared::unsaid!(Statement);

/// What an ID token must fit to.
#[derive(Clone, Copy, Default)]
pub(super) struct Expected<'a> {
    /// The nonce that was sent. `None` after a refresh.
    pub(super) nonce: Option<&'a str>,
    /// The access token that came with it.
    pub(super) access_token: &'a str,
    /// The code that it was exchanged for.
    pub(super) code: Option<&'a str>,
    /// The state that was sent.
    pub(super) state: Option<&'a str>,
    /// Whether it came by way of the browser: then it vouches for what came with it.
    pub(super) front: bool,
    /// When the user was sent to authenticate.
    pub(super) asked_at: Option<UnixTime>,
    /// Whether it takes the place of an earlier one, by a refresh: the user has authenticated when they did.
    pub(super) renewed: bool,
}

shared::unsaid!(Expected<'a>);

/// Whether `token` says itself that it is no access token, whoever vouches for it.
pub(super) fn poses(rules: &Rules, token: &str) -> bool {
    let Ok(parsed) = Jws::parse(token, BEARER_TOKEN) else {
        return false;
    };
    let untyped = parsed.header.kind().as_deref() != Some("at+jwt");
    posing(&parsed) || (untyped && rules.config.credentials.require_at_jwt)
}

impl Verifier<'_> {
    /// A client secret, or one of the provider's keys, has made the signature of an ID token.
    fn check_id_signature(&self, token: &Jws<'_>) -> Result<(), Refusal> {
        if !self.rules.config.credentials.verify_signature {
            return Ok(());
        }
        if token.header.algorithm.is_symmetric() {
            let mut secrets = self.hmac_secrets().peekable();
            if secrets.peek().is_none() {
                let detail = "the ID token is signed with the client secret, which enable_hs_signatures does not allow";
                return Err(Refusal::Bad(Failure::refused("idt_alg", detail)));
            }
            if secrets.any(|secret| token.signed_with(secret)) {
                return Ok(());
            }
            let failure = Failure::refused("idt_sig", "the ID token's signature is not valid");
            return Err(Refusal::Bad(failure));
        }
        let lack = self.document.keys.lack(&token.header);
        let mut failure = Failure::refused("idt_kid", lack);
        for key in self.candidates(token) {
            if token.signed_by(&key.public) {
                return Ok(());
            }
            failure = Failure::refused("idt_sig", "the ID token's signature is not valid");
        }
        Err(self.unsigned(token, failure))
    }

    /// The claims of an access token that a client brought.
    pub(super) fn bearer(&self, token: &str) -> Result<Claims, Refusal> {
        let parsed = Jws::parse(token, BEARER_TOKEN).map_err(|error| {
            let code = match error {
                JwsError::Long { .. } => "at_long",
                JwsError::Shape | JwsError::Encrypted => "at_typ",
                JwsError::Algorithm | JwsError::Critical => "at_sig",
            };
            Refusal::Bad(Failure::refused(code, error.to_string()))
        })?;
        if parsed.header.for_graph {
            let detail = "the access token is for Microsoft Graph, as the nonce in its header says, and nobody else can verify it: ask for the scope of an API of your own";
            return Err(Refusal::Bad(Failure::refused("at_aud", detail)));
        }
        let untyped = parsed.header.kind().as_deref() != Some("at+jwt");
        let client = &self.rules.client(self.client).id;
        if posing(&parsed)
            || looks_like_id_token(&parsed, client)
            || (untyped && self.rules.config.credentials.require_at_jwt)
        {
            let failure = Failure::refused("at_typ", "the token is not an access token");
            return Err(Refusal::Bad(failure));
        }
        self.check_access_token(&parsed, self.rules.config.credentials.verify_signature)
            .and_then(|()| self.check_age(&parsed.claims))
            .map_err(|refusal| refusal.with_token(&parsed, self))?;
        Ok(parsed.claims)
    }

    /// What a client's own token says must be of late, unless the provider says it once more.
    fn check_age(&self, claims: &Claims) -> Result<(), Refusal> {
        let Some(age) = &self.rules.config.access.max_claim_age else {
            return Ok(());
        };
        let credentials = &self.rules.config.credentials;
        let asked = credentials.introspect_jwt_tokens;
        let made_at = jws::time(claims, "iat").ok().flatten();
        let age = age.seconds() + self.leeway();
        if asked || made_at.is_some_and(|at| self.now < at.saturating_add(age)) {
            return Ok(());
        }
        let detail = "the access token is older than max_claim_age, or does not say how old it is";
        Err(Refusal::Bad(Failure::refused("at_exp", detail)))
    }

    /// The claims of an access token that the token endpoint handed out: `None` if it is opaque or
    /// meant for somebody else to read, which its issuer or its header tells.
    pub(super) fn issued(
        &self,
        token: &str,
        check_signature: bool,
    ) -> Result<Option<Claims>, Refusal> {
        let Ok(parsed) = Jws::parse(token, PROVIDER_TOKEN) else {
            return Ok(None);
        };
        if parsed.header.for_graph || self.accepted_issuer(&parsed.claims).is_none() {
            return Ok(None);
        }
        self.check_access_token(&parsed, check_signature)?;
        Ok(Some(parsed.claims))
    }

    fn check_access_token(&self, token: &Jws<'_>, check_signature: bool) -> Result<(), Refusal> {
        let refuse = |code, detail: &'static str| Err(Refusal::Bad(Failure::refused(code, detail)));
        if check_signature {
            self.check_signature(token, "at_sig")?;
        }
        if !self.rules.config.credentials.verify_claims {
            return Ok(());
        }
        let claims = &token.claims;
        if claims.contains_key("iss") && self.accepted_issuer(claims).is_none() {
            return refuse("at_iss", "the access token is of another issuer");
        }
        let leeway = self.leeway();
        if !jws::unexpired(claims, self.now, leeway) {
            return refuse("at_exp", "the access token has expired");
        }
        if !jws::begun(claims, "nbf", self.now, leeway)
            || !jws::begun(claims, "iat", self.now, leeway)
        {
            return refuse("at_nbf", "the access token is not valid yet");
        }
        Ok(())
    }

    /// A client secret, or one of the provider's keys, has made the signature.
    pub(super) fn check_signature(
        &self,
        token: &Jws<'_>,
        code: &'static str,
    ) -> Result<(), Refusal> {
        let lack = self.document.keys.lack(&token.header);
        let mut failure = Failure::refused(code, lack);
        if token.header.algorithm.is_symmetric() {
            if self.hmac_secrets().any(|secret| token.signed_with(secret)) {
                return Ok(());
            }
            failure.detail = "the token's signature is not valid".into();
            return Err(Refusal::Bad(failure));
        }
        for key in self.candidates(token) {
            if token.signed_by(&key.public) {
                return Ok(());
            }
            failure.detail = "the token's signature is not valid".into();
        }
        Err(self.unsigned(token, failure))
    }

    /// The refusal of a token that no known key has signed.
    fn unsigned(&self, token: &Jws<'_>, failure: Failure) -> Refusal {
        if self.document.keys.has_named_by(&token.header) {
            Refusal::OtherKey(failure)
        } else {
            Refusal::UnknownKey(failure)
        }
    }

    fn candidates<'b>(&'b self, token: &'b Jws<'_>) -> impl Iterator<Item = &'b Key> {
        self.document.keys.candidates(&token.header)
    }

    /// The key that signed `token`, among the provider's.
    pub(super) fn key_of(&self, token: &str) -> Option<&Key> {
        let parsed = Jws::parse(token, PROVIDER_TOKEN).ok()?;
        let keys = &self.document.keys;
        keys.candidates(&parsed.header)
            .find(|key| parsed.signed_by(&key.public))
    }

    /// The claims of an answer that the provider signed: user info, introspection, an authorization
    /// response. Its issuer and its audience, where it names them, are the provider and the client.
    pub(super) fn statement(
        &self,
        token: &str,
        check_signature: bool,
        code: &'static str,
    ) -> Result<Statement, Refusal> {
        let bad = |detail: &'static str| Refusal::Bad(Failure::refused(code, detail));
        let parsed = Jws::parse(token, PROVIDER_TOKEN)
            .map_err(|error| match error {
                JwsError::Encrypted => bad(
                    "the provider's answer is encrypted, which the gateway does not read: register the client for answers that are signed alone",
                ),
                _ => bad("the provider's answer is not a signed JWT"),
            })?;
        if check_signature {
            self.check_signature(&parsed, code)?;
        }
        let claims = &parsed.claims;
        if self.rules.config.credentials.verify_claims {
            if claims.contains_key("iss") && self.accepted_issuer(claims).is_none() {
                return Err(bad("the provider's answer is of another issuer"));
            }
            let client = &self.rules.client(self.client).id;
            let is_ours = |audience: &Value| audience.as_str() == Some(client.as_str());
            let for_us = match claims.get("aud") {
                None => true,
                Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
                Some(audience) => is_ours(audience),
            };
            if !for_us {
                return Err(bad("the provider's answer is for another client"));
            }
        }
        Ok(Statement {
            kind: parsed.header.kind(),
            claims: parsed.claims,
        })
    }

    /// The claims of a JWT of another source, signed with a key that is trusted here.
    pub(super) fn of_source(&self, token: &str) -> Option<Claims> {
        let parsed = Jws::parse(token, PROVIDER_TOKEN).ok()?;
        if parsed.header.algorithm.is_symmetric() {
            return None;
        }
        self.check_signature(&parsed, "claims_source").ok()?;
        let alive = jws::unexpired(&parsed.claims, self.now, self.leeway());
        alive.then_some(parsed.claims)
    }

    /// Verifies once more the tokens that a session holds: all of the access token, and of the ID
    /// token, which may have ended, whose it is, of which domain and how long ago they authenticated.
    pub(super) fn stored(
        &self,
        access_token: Option<&str>,
        id_token: Option<&str>,
        check_signature: bool,
    ) -> Result<(), Refusal> {
        if let Some(token) = access_token {
            self.issued(token, check_signature)?;
        }
        if let Some(parsed) = id_token.and_then(|token| Jws::parse(token, PROVIDER_TOKEN).ok()) {
            self.check_id_signature(&parsed)?;
            if self.rules.config.credentials.verify_claims {
                self.check_still(&parsed.claims)?;
            }
            self.check_domain(&parsed.claims)?;
        }
        Ok(())
    }

    /// The issuer that the claims name, if it is accepted.
    pub(super) fn accepted_issuer(&self, claims: &Claims) -> Option<String> {
        let found = claims.get("iss")?.as_str()?;
        // A provider for several tenants puts each one's id into the claim beside, too.
        let tenant = rules::tenant(&self.document.issuer, found);
        let fits = tenant.is_none_or(|tenant| claims.get("tid").is_some_and(|tid| tid == tenant));
        let accepted = fits && self.rules.accepts_issuer(found);
        accepted.then(|| found.to_owned())
    }

    /// The client's secrets, where they may sign.
    fn hmac_secrets(&self) -> impl Iterator<Item = &str> {
        let client = self.rules.client(self.client);
        let enabled = self.rules.config.credentials.enable_hs_signatures;
        let secrets = client
            .secret
            .iter()
            .chain(&client.spare)
            .filter(move |_| enabled);
        let secrets = secrets.map(|secret| secret.expose().as_str());
        secrets.filter(|secret| secret.len() > 1)
    }

    pub(super) fn leeway(&self) -> Duration {
        self.rules.config.credentials.leeway.seconds()
    }
}
