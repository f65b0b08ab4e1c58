//! Verification of ID tokens (OpenID Connect Core §3.1.3.7).
//!
//! Audience and expiry are checked by the `openidconnect` crate, and here what it leaves to its caller, and the issuer: that
//! may be any text (RFC 7519 §4.1.1), and the crate knows URLs only.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use openidconnect::core::{CoreIdToken, CoreIdTokenVerifier};
use openidconnect::{ClientId, IssuerUrl, JsonWebKeySet, Nonce};
use serde_json::Value;
use shared::clock::UnixTime;
use subtle::ConstantTimeEq;

use super::judgement::{claims_failure, hash_fits};
use super::{Expected, PROVIDER_TOKEN, Refusal, Verifier};
use crate::bundled::openid_connect::failure::Failure;
use crate::bundled::openid_connect::jws::{self, Claims, Jws, JwsError};

/// How old the ID token of a sign-in may be when it comes: it is made for it.
const FRESH: Duration = Duration::from_mins(10);

/// What the crate takes each accepted issuer for.
const ACCEPTED: &str = "https://accepted.invalid";

/// The token with nothing but the claims that the crate is to judge: of what else a provider says of its user, the type is
/// no reason to refuse anybody. Its algorithm goes by the name that the crate knows, and its issuer is judged elsewhere.
fn what_decides(token: &str, parsed: &Jws<'_>) -> Option<String> {
    let judged = ["aud", "exp", "iat", "sub"];
    let mut judged: Claims = parsed
        .claims
        .iter()
        .filter(|(name, _)| judged.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    judged.insert("iss".to_owned(), ACCEPTED.into());
    let (head, rest) = token.split_once('.')?;
    let (_, signature) = rest.split_once('.')?;
    let mut header: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    let algorithm = serde_json::to_value(parsed.header.algorithm).ok()?;
    header.insert("alg".to_owned(), algorithm);
    let head = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).ok()?);
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&judged).ok()?);
    Some(format!("{head}.{payload}.{signature}"))
}

impl Verifier<'_> {
    /// The claims of an ID token.
    pub(in crate::bundled::openid_connect) fn id_token(
        &self,
        token: &str,
        expected: Expected<'_>,
    ) -> Result<Claims, Refusal> {
        let parsed = Jws::parse(token, PROVIDER_TOKEN).map_err(|error| {
            let code = match error {
                JwsError::Long { .. } | JwsError::Shape => "idt_missing",
                JwsError::Algorithm | JwsError::Critical | JwsError::Encrypted => "idt_alg",
            };
            Refusal::Bad(Failure::refused(code, error.to_string()))
        })?;
        // Without a look at claims none has to be there.
        let verifies = self.rules.config.credentials.verify_claims;
        let core = verifies.then(|| self.shaped(token, &parsed)).transpose()?;
        let checked = self.check_id_signature(&parsed).and_then(|()| {
            if let Some(core) = &core {
                self.check_with_crate(core, &parsed.claims)?;
            }
            self.check_nonce(&parsed.claims, expected)?;
            if verifies {
                self.check_what_the_crate_does_not(&parsed, expected)?;
            }
            self.check_domain(&parsed.claims)
        });
        checked.map_err(|refusal| refusal.with_token(&parsed, self))?;
        Ok(parsed.claims)
    }

    /// The token as the crate judges it, if it has what every ID token has (OpenID Connect Core §2).
    fn shaped(&self, token: &str, parsed: &Jws<'_>) -> Result<CoreIdToken, Refusal> {
        let bad = |code, detail: &'static str| Refusal::Bad(Failure::refused(code, detail));
        // Times out of any range would not survive the crate's arithmetic.
        for (name, code) in [
            ("exp", "idt_exp"),
            ("iat", "idt_iat"),
            ("nbf", "idt_nbf"),
            ("auth_time", "idt_auth_time"),
        ] {
            if jws::time(&parsed.claims, name).is_err() {
                return Err(bad(code, "the ID token has a time that is none"));
            }
        }
        // The crate says of a claim that is missing only that something is wrong.
        for (name, code) in [
            ("iss", "idt_iss"),
            ("sub", "idt_sub"),
            ("aud", "idt_aud"),
            ("exp", "idt_exp"),
            ("iat", "idt_iat"),
        ] {
            if !parsed.claims.contains_key(name) {
                return Err(bad(code, "the ID token lacks a claim that it must have")
                    .with_token(parsed, self));
            }
        }
        for (name, code) in [
            ("iss", "idt_iss"),
            ("sub", "idt_sub"),
            ("aud", "idt_aud"),
            ("nonce", "idt_nonce"),
        ] {
            let right = match parsed.claims.get(name) {
                None | Some(Value::String(_)) => true,
                Some(Value::Array(audiences)) => {
                    name == "aud" && audiences.iter().all(Value::is_string)
                }
                Some(value) => name == "nonce" && value.is_null(),
            };
            if !right {
                return Err(bad(code, "the ID token has a claim of the wrong type")
                    .with_token(parsed, self));
            }
        }
        what_decides(token, parsed)
            .and_then(|token| token.parse().ok())
            .ok_or_else(|| bad("idt_missing", "the ID token has claims of the wrong type"))
    }

    /// The nonce is the one that was sent, if one was.
    fn check_nonce(&self, claims: &Claims, expected: Expected<'_>) -> Result<(), Refusal> {
        let checks = self.rules.config.credentials.verify_nonce;
        let Some(sent) = expected.nonce.filter(|_| checks) else {
            return Ok(());
        };
        let found = claims.get("nonce").and_then(Value::as_str);
        if found.is_some_and(|found| bool::from(sent.as_bytes().ct_eq(found.as_bytes()))) {
            return Ok(());
        }
        Err(Refusal::Bad(Failure::refused(
            "idt_nonce",
            "the ID token's nonce is not the one that was sent",
        )))
    }

    /// The issuer, and by the crate audience and expiry.
    fn check_with_crate(&self, token: &CoreIdToken, claims: &Claims) -> Result<(), Refusal> {
        self.check_issuer(claims)?;
        let unfit = |_| Refusal::Bad(Failure::refused("idt_iss", "there is no such issuer"));
        let issuer = IssuerUrl::new(ACCEPTED.to_owned()).map_err(unfit)?;
        // An expiry is compared with the time that it is with the provider at the latest.
        let leeway = UnixTime::from_millis(0).saturating_add(self.leeway());
        let at = UnixTime::from_millis(0).saturating_add(self.now.saturating_since(leeway));
        let at: DateTime<Utc> = i64::try_from(at.as_millis())
            .ok()
            .and_then(DateTime::from_timestamp_millis)
            .unwrap_or_default();
        let client_id = ClientId::new(self.rules.client(self.client).id.clone());
        let no_keys = JsonWebKeySet::new(Vec::new());
        let verifier = CoreIdTokenVerifier::new_public_client(client_id, issuer, no_keys)
            // The signature has been checked before, and the nonce is afterwards.
            .insecure_disable_signature_check()
            .allow_any_alg()
            .set_other_audience_verifier_fn(|_| true)
            .set_time_fn(move || at);
        let any_nonce = |_: Option<&Nonce>| Ok::<(), String>(());
        let judged = token.claims(&verifier, any_nonce);
        judged
            .map(|_| ())
            .map_err(|error| Refusal::Bad(claims_failure(&error)))
    }

    /// Authorized party, times, subject, what came with it, and how and when the user has authenticated.
    fn check_what_the_crate_does_not(
        &self,
        token: &Jws<'_>,
        expected: Expected<'_>,
    ) -> Result<(), Refusal> {
        let claims = &token.claims;
        let refuse = |code, detail: &'static str| Err(Refusal::Bad(Failure::refused(code, detail)));
        let client = self.rules.client(self.client);
        let several = claims
            .get("aud")
            .and_then(Value::as_array)
            .is_some_and(|audiences| audiences.len() > 1);
        match claims.get("azp") {
            Some(party) if party.as_str() != Some(client.id.as_str()) => {
                return refuse(
                    "idt_azp",
                    "the ID token's authorized party is another client",
                );
            }
            None if several => {
                return refuse(
                    "idt_azp",
                    "the ID token has several audiences and no authorized party",
                );
            }
            _ => {}
        }
        let leeway = self.leeway();
        if !jws::begun(claims, "iat", self.now, leeway) {
            return refuse("idt_iat", "the ID token was issued in the future");
        }
        let issued_at = jws::time(claims, "iat").ok().flatten();
        let issued_at = issued_at.unwrap_or(UnixTime::from_millis(0));
        if expected.nonce.is_some() && issued_at.saturating_add(FRESH + leeway) < self.now {
            return refuse("idt_iat", "the ID token was issued long before it came");
        }
        if !jws::begun(claims, "nbf", self.now, leeway) {
            return refuse("idt_nbf", "the ID token is not valid yet");
        }
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if subject.is_empty() || subject.len() > 255 {
            return refuse("idt_sub", "the ID token has no subject");
        }
        check_hashes(token, expected)?;
        let essential = self.rules.essential_acr.as_ref();
        if essential.is_some_and(|essential| !essential.is_met_by(claims)) {
            return refuse(
                "idt_acr",
                "the user has not authenticated in a way that was asked for",
            );
        }
        if expected.renewed {
            return Ok(());
        }
        self.check_auth_time(claims, expected.asked_at)
    }

    /// The user's authentication is no older than `max_age` was when it was asked for, or is now where nobody asked
    /// (OpenID Connect Core §3.1.2.1).
    fn check_auth_time(&self, claims: &Claims, asked_at: Option<UnixTime>) -> Result<(), Refusal> {
        let Some(most) = &self.rules.config.sign_in.max_age else {
            return Ok(());
        };
        if !jws::begun(claims, "auth_time", self.now, self.leeway()) {
            let detail = "the user's authentication is in the future";
            return Err(Refusal::Bad(Failure::refused("idt_auth_time", detail)));
        }
        let latest = jws::time(claims, "auth_time").ok().flatten();
        let latest = latest.map(|at| at.saturating_add(most.seconds()));
        // Providers tell whole seconds.
        let at = asked_at.map_or(self.now, |at| UnixTime::from_secs(at.as_secs()));
        if latest.is_some_and(|latest| at <= latest.saturating_add(self.leeway())) {
            return Ok(());
        }
        let detail = "the user's authentication is older than max_age";
        Err(Refusal::Bad(Failure::refused("idt_auth_time", detail)))
    }

    /// What may have become wrong with a token that was right.
    pub(super) fn check_still(&self, claims: &Claims) -> Result<(), Refusal> {
        self.check_issuer(claims)?;
        self.check_auth_time(claims, None)
    }

    fn check_issuer(&self, claims: &Claims) -> Result<(), Refusal> {
        let accepted = self.accepted_issuer(claims).map(|_| ());
        let other = || Failure::refused("idt_iss", "the ID token is of another issuer");
        accepted.ok_or_else(|| Refusal::Bad(other()))
    }

    pub(super) fn check_domain(&self, claims: &Claims) -> Result<(), Refusal> {
        let Some(domains) = self
            .rules
            .config
            .access
            .domains
            .as_deref()
            .filter(|list| !list.is_empty())
        else {
            return Ok(());
        };
        let domain = claims.get("hd").and_then(Value::as_str);
        if domain.is_some_and(|domain| domains.iter().any(|known| known == domain)) {
            return Ok(());
        }
        let failure = Failure::refused("authz_denied", "the user is of no accepted domain");
        Err(Refusal::Bad(failure))
    }
}

/// Whether the token belongs to what came with it (OpenID Connect Core §3.1.3.8, §3.3.2.11, FAPI 1.0 Part 2 §5.1).
fn check_hashes(token: &Jws<'_>, expected: Expected<'_>) -> Result<(), Refusal> {
    let refuse = |code, detail: &'static str| Err(Refusal::Bad(Failure::refused(code, detail)));
    let claims = &token.claims;
    let algorithm = token.header.algorithm;
    if expected.front {
        if expected.code.is_some() && !claims.contains_key("c_hash") {
            return refuse("idt_c_hash", "the ID token does not vouch for the code");
        }
        if !expected.access_token.is_empty() && !claims.contains_key("at_hash") {
            return refuse(
                "idt_at_hash",
                "the ID token does not vouch for the access token",
            );
        }
    }
    if !hash_fits(claims, "at_hash", algorithm, Some(expected.access_token)) {
        return refuse(
            "idt_at_hash",
            "the ID token belongs to another access token",
        );
    }
    if !hash_fits(claims, "c_hash", algorithm, expected.code) {
        return refuse("idt_c_hash", "the ID token belongs to another code");
    }
    if !hash_fits(claims, "s_hash", algorithm, expected.state) {
        return refuse("idt_s_hash", "the ID token belongs to another sign-in");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_algorithm_has_two_names_of_which_the_crate_knows_one() {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "iss": "https://a", "aud": "b", "sub": "c", "exp": 2, "iat": 1 });
        for algorithm in ["RS256", "EdDSA", "Ed25519"] {
            let head = json!({ "alg": algorithm, "kid": "d", "typ": "JWT" });
            let token = format!("{}.{}.c2ln", part(head), part(claims.clone()));
            let parsed = Jws::parse(&token, token.len()).unwrap();
            let judged = what_decides(&token, &parsed).unwrap();
            assert!(judged.parse::<CoreIdToken>().is_ok(), "{algorithm}");
        }
    }
}
