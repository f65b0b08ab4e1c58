//! What a provider says of itself, for the page that shows it: kept as data planes keep it while it says nothing usable.

use std::sync::Arc;

use serde_json::{Map, Value};
use shared::clock::UnixTime;
use uuid::Uuid;

use super::tell;
use crate::bundled::openid_connect::provider::{self, EMPTIED, LONGEST_KEPT, ProviderError};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::Host;

/// What was found out of a provider.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// The discovery document.
    pub metadata: Map<String, Value>,
    /// The public members of its keys.
    pub keys: Vec<Value>,
}

impl Discovered {
    /// Whether `now` takes away what nobody signs in without.
    fn is_lost_by(&self, now: &Self) -> bool {
        let gone = |name| self.metadata.contains_key(name) && !now.metadata.contains_key(name);
        (!self.keys.is_empty() && now.keys.is_empty())
            || gone("token_endpoint")
            || gone("authorization_endpoint")
            || self.metadata.get("issuer") != now.metadata.get("issuer")
    }
}

/// What a provider said last that can be used, kept as data planes keep it.
#[derive(Clone, Debug)]
pub struct Said {
    /// What it said.
    pub discovered: Discovered,
    /// When.
    pub at: UnixTime,
    /// What is wrong with what it says now, and since when.
    pub trouble: Option<(UnixTime, String)>,
    /// Since when it says that it has no key or endpoint any more, or another issuer.
    lost_since: Option<UnixTime>,
}

impl Said {
    /// What counts once a provider has `answered`, which is as [`discover`] tells, `after` what it said before.
    ///
    /// # Errors
    ///
    /// If nothing does: why.
    pub fn after(
        before: Option<Self>,
        answered: Result<Discovered, String>,
        now: UnixTime,
    ) -> Result<Self, String> {
        let age = |at: UnixTime| now.saturating_since(at);
        let before = before.filter(|before| age(before.at) < LONGEST_KEPT);
        let since = |before: &Self| before.trouble.as_ref().map_or(now, |(since, _)| *since);
        let mut lost_since = before.as_ref().and_then(|before| before.lost_since);
        let trouble = match (answered, &before) {
            (Err(reason), _) => reason,
            (Ok(discovered), Some(before))
                if before.discovered.is_lost_by(&discovered)
                    && age(*lost_since.get_or_insert(now)) < EMPTIED =>
            {
                "it has no key any more, no endpoint, or another issuer: what it said before serves for an hour".to_owned()
            }
            (Ok(discovered), _) => {
                return Ok(Self {
                    discovered,
                    at: now,
                    trouble: None,
                    lost_since: None,
                });
            }
        };
        match before {
            Some(before) => Ok(Self {
                trouble: Some((since(&before), trouble)),
                lost_since,
                ..before
            }),
            None => Err(trouble),
        }
    }
}

/// Discovers the provider of `config`, which is stored.
///
/// # Errors
///
/// If the configuration is none, or nothing usable can be discovered: why, in fixed words.
pub async fn discover(config: &Value, host: &impl Host) -> Result<Discovered, String> {
    let stored = serde_json::from_value(config.clone()).ok();
    let rules = stored.and_then(|config| Rules::new(config, Uuid::nil()).ok());
    let rules = Arc::new(rules.ok_or("the configuration is not valid")?);
    let told = |error: ProviderError| tell(&error);
    let found = provider::metadata(&rules, host).await.map_err(told)?;
    let metadata = found.value;
    let keys = match metadata.get("jwks_uri").and_then(Value::as_str) {
        Some(uri) => provider::key_set(&rules, host, uri).await.map_err(told)?,
        None => Value::Null,
    };
    let keys = keys.get("keys").and_then(Value::as_array);
    Ok(Discovered {
        keys: keys.into_iter().flatten().filter_map(public).collect(),
        metadata,
    })
}

/// A key's public members; nothing of a symmetric key.
fn public(key: &Value) -> Option<Value> {
    let members = key.as_object()?;
    if members.get("kty").and_then(Value::as_str) == Some("oct") {
        return None;
    }
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "r", "t"];
    let shown = members
        .iter()
        .filter(|(name, _)| !private.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()));
    Some(Value::Object(shown.collect()))
}
