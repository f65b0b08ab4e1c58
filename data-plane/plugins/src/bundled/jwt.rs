//! `jwt`: lets a request through if it carries a JWT that a consumer's key verifies (RFC 7519; Kong 3.9,
//! jwt).

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;
use shared::types::Set;

use crate::config::values::{Number, yes};
use crate::credentials::JwtKey;
use crate::credentials::arguments::Arguments;
use crate::credentials::authentication::{Authenticated, Refusal, challenge, is_settled, settle};
use crate::credentials::cookies;
use crate::credentials::secret_names::SecretNames;
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;

/// Base64 for URLs, with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Longest token, in bytes.
const LONGEST: usize = 64 * 1024;

/// Configuration of `jwt`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Jwt {
    /// Query arguments that may carry the token.
    #[serde(default = "jwt")]
    pub uri_param_names: Set<String>,

    /// Cookies that may carry the token.
    #[serde(default)]
    pub cookie_names: Set<String>,

    /// Claim, or field of the token's header, that names the consumer's key.
    #[serde(default = "iss")]
    pub key_claim_name: String,

    /// Whether the consumers' secrets are in Base64.
    #[serde(default)]
    pub secret_is_base64: bool,

    /// Claims that must hold: `exp`, `nbf`.
    #[serde(default)]
    pub claims_to_verify: Option<Set<Claim>>,

    /// Consumer, by id or username, that requests without a valid token count as. Without one they are
    /// refused.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// Asks `OPTIONS` requests for a token too.
    #[serde(default = "yes")]
    pub run_on_preflight: bool,

    /// Longest time that a token may still be valid for, in seconds; 0: any.
    #[serde(default = "Number::of::<0>")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub maximum_expiration: Number,

    /// Headers that may carry the token, after `Bearer`.
    #[serde(default = "authorization")]
    pub header_names: Set<String>,

    /// Realm of the challenge to clients without a token.
    #[serde(default)]
    pub realm: Option<String>,
}

/// A claim about time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// When the token ends.
    Exp,
    /// When the token begins.
    Nbf,
}

fn jwt() -> Set<String> {
    std::iter::once("jwt".to_owned()).collect()
}

fn iss() -> String {
    "iss".to_owned()
}

fn authorization() -> Set<String> {
    std::iter::once("authorization".to_owned()).collect()
}

impl Plugin for Jwt {
    const NAME: &'static str = "jwt";
    const PRIORITY: u32 = 1450;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = JwtFilter;

    fn compile(self, _: &Instance) -> Result<JwtFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let verifies_end = self
            .claims_to_verify
            .as_ref()
            .is_some_and(|claims| claims.as_slice().contains(&Claim::Exp));
        if self.maximum_expiration.value() > 0.0 && !verifies_end {
            errors.add(&["claims_to_verify"], "expected to contain: exp");
            errors.add_rule(
                "failed conditional validation given value of field 'config.maximum_expiration'",
            );
        }
        let mut headers = Vec::new();
        for name in self.header_names.as_slice() {
            match HeaderName::try_from(name.as_str()) {
                Ok(name) => headers.push(name),
                Err(_) => errors.add(&["header_names"], format!("bad header name '{name}'")),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let base = challenge("Bearer", self.realm.as_deref());
        let separator = if self.realm.is_some() { "," } else { "" };
        Ok(JwtFilter {
            invalid: format!("{base}{separator} error=\"invalid_token\""),
            missing: base,
            headers,
            config: self,
        })
    }
}

/// Looks for JWTs.
#[derive(Debug)]
pub struct JwtFilter {
    config: Jwt,
    headers: Vec<HeaderName>,
    /// The challenge to clients without a token, and with a bad one (RFC 6750 §3).
    missing: String,
    invalid: String,
}

impl Filter for JwtFilter {
    fn secret_names(&self) -> SecretNames {
        SecretNames {
            arguments: self.config.uri_param_names.as_slice().to_vec(),
            fields: self.headers.clone(),
        }
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let preflight = exchange.request.method == Method::OPTIONS;
        let anonymous = self.config.anonymous.as_deref();
        if (preflight && !self.config.run_on_preflight) || is_settled(exchange, anonymous) {
            return Flow::Continue;
        }
        let outcome = self.authenticate(exchange, host.now());
        let headers = &mut exchange.request.headers;
        let names = self.config.cookie_names.as_slice().iter();
        cookies::keep_first(headers, names.map(String::as_str));
        for name in &self.headers {
            if let Some(first) = headers.get(name).cloned() {
                headers.insert(name, first);
            }
        }
        settle(exchange, outcome, anonymous)
    }
}

impl JwtFilter {
    fn authenticate(
        &self,
        exchange: &Exchange<'_>,
        now: UnixTime,
    ) -> Result<Authenticated, Refusal> {
        let say = |message: &str, challenge: &str| {
            Refusal::json(json!({ "message": message }), challenge)
        };
        let bad = |message: String| say(&message, &self.invalid);
        let mut tokens = self.tokens(exchange);
        let Some(token) = tokens.pop() else {
            return Err(say("Unauthorized", &self.missing));
        };
        if !tokens.is_empty() {
            return Err(bad("Multiple tokens provided".to_owned()));
        }
        let token = Token::read(&token).map_err(|reason| bad(format!("Bad token; {reason}")))?;
        let name = &self.config.key_claim_name;
        let key = token.claims.get(name).or_else(|| token.header.get(name));
        let key = match key {
            None | Some(Value::Null) => {
                return Err(bad(format!("No mandatory '{name}' in claims")));
            }
            Some(Value::String(key)) if key.is_empty() => {
                return Err(bad(format!("Invalid '{name}' in claims")));
            }
            Some(Value::String(key)) => key.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(bad(format!("Invalid '{name}' in claims"))),
        };
        let found = exchange.environment.credentials.jwt.get(&key);
        let found = found.ok_or_else(|| bad(format!("No credentials found for given '{name}'")))?;
        if token.algorithm() != Some(found.algorithm) {
            return Err(bad("Invalid algorithm".to_owned()));
        }
        match self.is_signed(found, &token) {
            None => return Err(bad("Invalid key/secret".to_owned())),
            Some(false) => return Err(bad("Invalid signature".to_owned())),
            Some(true) => {}
        }
        self.check_times(&token, now)
            .map_err(|errors| Refusal::json(Value::Object(errors), self.invalid.as_str()))?;
        Ok(Authenticated {
            consumer: found.consumer,
            credential: key,
        })
    }

    /// The distinct tokens of a request.
    fn tokens(&self, exchange: &Exchange<'_>) -> Vec<String> {
        let mut tokens: Vec<String> = Vec::new();
        let mut add = |token: &str| {
            if !token.is_empty() && !tokens.iter().any(|known| known == token) {
                tokens.push(token.to_owned());
            }
        };
        let query = Arguments::of(&exchange.request.uri);
        for name in self.config.uri_param_names.as_slice() {
            query.all(name).for_each(&mut add);
        }
        let headers = &exchange.request.headers;
        // Of a cookie or a field that comes twice the first counts (Kong 3.9), and goes upstream.
        for name in self.config.cookie_names.as_slice() {
            cookies::values(headers, name).take(1).for_each(&mut add);
        }
        for name in &self.headers {
            if let Some(value) = headers.get(name) {
                let text = value.to_str().unwrap_or_default().trim_start();
                if let Some((scheme, token)) = text.split_once(char::is_whitespace)
                    && scheme.eq_ignore_ascii_case("bearer")
                {
                    add(token.trim());
                }
            }
        }
        tokens
    }

    /// Whether the credential's key verifies the token; `None` if there is no such key.
    fn is_signed(&self, found: &JwtKey, token: &Token<'_>) -> Option<bool> {
        let hash = match found.algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => {
                let key = found.public.as_ref()?;
                return Some(key.verifies(token.signed.as_bytes(), &token.signature));
            }
        };
        let secret = found.secret.expose();
        let secret = if self.config.secret_is_base64 {
            decode(secret)?
        } else {
            secret.as_bytes().to_vec()
        };
        let key = hmac::Key::new(hash, &secret);
        Some(hmac::verify(&key, token.signed.as_bytes(), &token.signature).is_ok())
    }

    fn check_times(&self, token: &Token<'_>, now: UnixTime) -> Result<(), Map<String, Value>> {
        let now = Number(now.as_secs().into()).value();
        let mut errors = Map::new();
        let claims = self.config.claims_to_verify.as_ref();
        for claim in claims.map_or(&[][..], Set::as_slice) {
            let (name, wrong): (_, fn(f64, f64) -> Option<&'static str>) = match claim {
                Claim::Exp => ("exp", |exp, now| (exp <= now).then_some("token expired")),
                Claim::Nbf => ("nbf", |nbf, now| {
                    (nbf > now).then_some("token not valid yet")
                }),
            };
            let problem = match token.claims.get(name).and_then(Value::as_f64) {
                None => Some("must be a number"),
                Some(value) => wrong(value, now),
            };
            if let Some(problem) = problem {
                errors.insert(name.to_owned(), json!(problem));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let longest = self.config.maximum_expiration.value();
        let end = token.claims.get("exp").and_then(Value::as_f64);
        if longest > 0.0 && end.is_none_or(|end| end - now > longest) {
            errors.insert(
                "exp".to_owned(),
                json!("exceeds maximum allowed expiration"),
            );
            return Err(errors);
        }
        Ok(())
    }
}

/// A token, read but not verified.
#[derive(Debug)]
struct Token<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signature: Vec<u8>,
    /// What the signature is of.
    signed: &'a str,
}

impl<'a> Token<'a> {
    fn read(text: &'a str) -> Result<Self, &'static str> {
        const JSON: &str = "invalid JSON";
        if text.len() > LONGEST {
            return Err(JSON);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(JSON)?;
        let (header, claims) = signed.split_once('.').ok_or(JSON)?;
        let object = |part: &str| -> Option<Map<String, Value>> {
            serde_json::from_slice(&decode(part)?).ok()
        };
        let token = Self {
            header: object(header).ok_or(JSON)?,
            claims: object(claims).ok_or(JSON)?,
            signature: decode(signature).ok_or("invalid signature")?,
            signed,
        };
        match token.algorithm() {
            Some(_) => Ok(token),
            None => Err("invalid alg"),
        }
    }

    /// The algorithm, if it is one that is known.
    fn algorithm(&self) -> Option<&'static str> {
        let said = self.header.get("alg")?.as_str()?;
        [
            "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512",
            "PS256", "PS384", "PS512", "EdDSA",
        ]
        .into_iter()
        .find(|known| *known == said)
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.replace('+', "-").replace('/', "_")).ok()
}

#[cfg(test)]
mod tests;
