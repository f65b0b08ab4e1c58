//! What the `claims` argument of the authorization request demands of ID tokens (OpenID Connect Core
//! §5.5): a provider may pass over what is asked for, but not over what is essential.

use serde_json::Value;

use super::config::OpenidConnect;
use super::jws::Claims;

/// How strongly the user has to have authenticated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EssentialAcr(Vec<String>);

impl EssentialAcr {
    /// What the configuration asks for, if it calls it essential (§5.5.1.1).
    pub(super) fn new(config: &OpenidConnect) -> Option<Self> {
        let sign_in = &config.sign_in;
        let names = sign_in.authorization_query_args_names.iter().flatten();
        let values = sign_in.authorization_query_args_values.iter().flatten();
        let (_, asked) = names.zip(values).find(|(name, _)| *name == "claims")?;
        let asked: Value = serde_json::from_str(asked).ok()?;
        let acr = asked.get("id_token")?.get("acr")?;
        if acr.get("essential") != Some(&Value::Bool(true)) {
            return None;
        }
        let several = acr.get("values").and_then(Value::as_array);
        let all = several.into_iter().flatten().chain(acr.get("value"));
        Some(Self(
            all.filter_map(Value::as_str).map(str::to_owned).collect(),
        ))
    }

    /// Whether `claims` say so: any value will do where none was named.
    pub(super) fn is_met_by(&self, claims: &Claims) -> bool {
        let found = claims.get("acr").and_then(Value::as_str);
        found.is_some_and(|found| self.0.is_empty() || self.0.iter().any(|wanted| wanted == found))
    }
}
