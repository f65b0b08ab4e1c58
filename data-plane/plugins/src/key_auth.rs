//! `key-auth`: lets a request through if it carries a known API key (Kong 3.9, key-auth).

use bytes::Bytes;
use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;

use crate::arguments::Arguments;
use crate::authentication::{Authenticated, Refusal, challenge, is_settled, settle};
use crate::body::{self, Form};
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;
use crate::values::yes;

/// Configuration of `key-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct KeyAuth {
    /// Names of the header, query argument or body field that may carry the key, tried in this order.
    #[serde(default = "apikey")]
    pub key_names: Vec<KeyName>,

    /// Keeps the key from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,

    /// Consumer, by id or username, that requests without a valid key count as. Without one they are
    /// refused.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// Looks for the key in headers.
    #[serde(default = "yes")]
    pub key_in_header: bool,

    /// Looks for the key in the query.
    #[serde(default = "yes")]
    pub key_in_query: bool,

    /// Looks for the key in the body: a form, JSON or multipart.
    #[serde(default)]
    pub key_in_body: bool,

    /// Asks `OPTIONS` requests for a key too.
    #[serde(default = "yes")]
    pub run_on_preflight: bool,

    /// Realm of the challenge to clients without a key.
    #[serde(default)]
    pub realm: Option<String>,
}

/// A name that a key is looked for under.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct KeyName(#[schemars(extend("format" = "kong-header-name"))] pub String);

fn apikey() -> Vec<KeyName> {
    vec![KeyName("apikey".to_owned())]
}

impl Plugin for KeyAuth {
    const NAME: &'static str = "key-auth";
    const PRIORITY: u32 = 1250;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = KeyAuthFilter;

    fn compile(self, _: &Instance) -> Result<KeyAuthFilter, FieldErrors> {
        let mut names = Vec::new();
        for KeyName(name) in &self.key_names {
            match HeaderName::try_from(name.as_str()) {
                Ok(header) => names.push((name.clone(), header)),
                Err(_) => {
                    return Err(FieldErrors::at(
                        &["key_names"],
                        format!(
                            "bad header name '{name}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"
                        ),
                    ));
                }
            }
        }
        Ok(KeyAuthFilter {
            challenge: challenge("Key", self.realm.as_deref()),
            names,
            config: self,
        })
    }
}

/// Looks for API keys.
#[derive(Debug)]
pub struct KeyAuthFilter {
    config: KeyAuth,
    names: Vec<(String, HeaderName)>,
    challenge: String,
}

impl Filter for KeyAuthFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let config = &self.config;
        let preflight = exchange.request.method == Method::OPTIONS;
        let anonymous = config.anonymous.as_deref();
        if (preflight && !config.run_on_preflight) || is_settled(exchange, anonymous) {
            return Flow::Continue;
        }
        let outcome = self.authenticate(exchange, host.now()).await;
        settle(exchange, outcome, anonymous)
    }
}

impl KeyAuthFilter {
    async fn authenticate(
        &self,
        exchange: &mut Exchange<'_>,
        now: UnixTime,
    ) -> Result<Authenticated, Refusal> {
        let refuse = |message: &str| Refusal::new(message, self.challenge.as_str());
        let key = self.find(exchange).await.map_err(refuse)?;
        let key = key
            .filter(|key| !key.is_empty())
            .ok_or_else(|| refuse("No API key found in request"))?;
        let found = exchange.environment.credentials.key(&key, now);
        found
            .map(|credential| Authenticated {
                consumer: credential.consumer,
                credential: credential.id.to_string(),
            })
            .ok_or_else(|| refuse("Unauthorized"))
    }

    /// The key, taken away if it is not for the upstream.
    async fn find(&self, exchange: &mut Exchange<'_>) -> Result<Option<String>, &'static str> {
        const TWICE: &str = "Duplicate API key found";
        let mut query = Arguments::of(&exchange.request.uri);
        let mut form: Option<Form> = None;
        for (name, header) in &self.names {
            let mut key = None;
            if self.config.key_in_header {
                let mut values = exchange.request.headers.get_all(header).iter();
                key = values
                    .next()
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                if values.next().is_some() {
                    return Err(TWICE);
                }
            }
            if key.is_none() && self.config.key_in_query {
                let mut values = query.all(name);
                key = values.next().map(str::to_owned);
                if values.next().is_some() {
                    return Err(TWICE);
                }
            }
            if key.is_none() && self.config.key_in_body {
                if form.is_none() {
                    form = Some(body::form(exchange).await);
                }
                let values = form.as_ref().map(|form| form.values(name));
                let mut values = values.unwrap_or_default().into_iter();
                key = values.next();
                if values.next().is_some() {
                    return Err(TWICE);
                }
            }
            if key.is_none() {
                continue;
            }
            if self.config.hide_credentials {
                if query.remove(name) {
                    query.write(&mut exchange.request.uri);
                }
                exchange.request.headers.remove(header);
                if self.config.key_in_body {
                    let mut form = match form {
                        Some(form) => form,
                        None => body::form(exchange).await,
                    };
                    if form.remove(name)
                        && let Some(bytes) = form.encode()
                    {
                        exchange.upstream.body = Some(Bytes::from(bytes));
                    }
                }
            }
            return Ok(key);
        }
        Ok(None)
    }
}
