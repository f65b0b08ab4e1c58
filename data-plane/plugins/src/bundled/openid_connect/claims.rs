//! Looking things up in claims, and the claims that a configuration requires.

use std::borrow::Cow;

use serde_json::Value;

use super::failure::{Failure, SCOPE};
use super::jws::{self, Claims};
use super::rules::Rules;

/// The value at `path`: each step is a member's name or, in an array, a position from 1.
pub(super) fn find<'a>(claims: &'a Claims, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = claims.get(first)?;
    for step in rest {
        value = match value {
            Value::Object(members) => members.get(step)?,
            Value::Array(items) => items.get(step.parse::<usize>().ok()?.checked_sub(1)?)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        };
    }
    Some(value).filter(|value| !value.is_null())
}

/// A single value as text; nothing for lists and objects.
pub(super) fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Owned(flag.to_string())),
        Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The words of a value: the items of a list, the words of a text, or a single value.
pub(super) fn words(value: &Value) -> Vec<Cow<'_, str>> {
    match value {
        Value::Array(items) => items.iter().filter_map(text).collect(),
        Value::String(text) => text
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(Cow::Borrowed)
            .collect(),
        Value::Number(_) | Value::Bool(_) => text(value).into_iter().collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}

/// Checks what the configuration requires of an access token: of what `introspection` said, or else of the claims `own` to
/// it. No claims, as of an opaque token, meet no requirement. What is forbidden may be in neither, nor in `token`, whoever has
/// vouched for that.
pub(super) fn authorize(
    rules: &Rules,
    introspection: Option<&Claims>,
    own: Option<&Claims>,
    token: &str,
) -> Result<(), Failure> {
    let access = &rules.config.access;
    let claims = introspection.or(own);
    let pairs = [
        ("scopes", &access.scopes_required, &access.scopes_claim),
        (
            "audience",
            &access.audience_required,
            &access.audience_claim,
        ),
        ("groups", &access.groups_required, &access.groups_claim),
        ("roles", &access.roles_required, &access.roles_claim),
    ];
    for (what, required, path) in pairs {
        let Some(required) = required.as_deref().filter(|list| !list.is_empty()) else {
            continue;
        };
        let found = claims
            .and_then(|claims| find(claims, path.as_deref().unwrap_or_default()))
            .map(words)
            .unwrap_or_default();
        if !meets(required, &found) {
            let mut failure = Failure::forbidden(
                "authz_denied",
                format!("the access token does not have the required {what}"),
            )
            .with("required", required.join(" | "))
            .with("found", found.join(" "))
            .with("claim", path.as_deref().unwrap_or_default().join("."));
            if what == "scopes"
                && let Some(scope) = required.first().filter(|scope| fits_challenge(scope))
            {
                failure = failure.with(SCOPE, scope);
            }
            return Err(failure);
        }
    }
    let forbidden = access.claims_forbidden.as_deref().unwrap_or_default();
    if forbidden.is_empty() {
        return Ok(());
    }
    let read = match own {
        Some(_) => None,
        None => jws::payload(token).map_err(|jws::Ambiguous| {
            let detail =
                "the access token's claims cannot be read: none is known not to be forbidden";
            Failure::forbidden("authz_denied", detail)
        })?,
    };
    let has = |name: &&String| {
        let mut all = introspection.into_iter().chain(own).chain(&read);
        all.any(|claims| claims.contains_key(*name))
    };
    if let Some(name) = forbidden.iter().find(has) {
        return Err(Failure::forbidden(
            "authz_denied",
            format!("the access token has the forbidden claim {name}"),
        ));
    }
    Ok(())
}

/// Whether a challenge may name `scope` (RFC 6750 §3).
fn fits_challenge(scope: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    scope.bytes().all(fits)
}

/// One element suffices; of an element, all words are needed (Kong 3.9, `scopes_required`).
fn meets(required: &[String], found: &[Cow<'_, str>]) -> bool {
    required.iter().any(|element| {
        let mut words = element
            .split(' ')
            .filter(|word| !word.is_empty())
            .peekable();
        words.peek().is_some() && words.all(|word| found.iter().any(|found| found == word))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn cases_45_and_46_elements_are_alternatives_and_words_are_all_needed() {
        let check = |required: &[&str], found: Value, expected: bool| {
            assert_eq!(
                meets(&owned(required), &words(&found)),
                expected,
                "{required:?} {found}"
            );
        };
        check(&["openid email"], json!("openid profile"), false);
        check(&["openid", "email"], json!("openid profile"), true);
        let groups: &[&str] = &["employee marketing", "super-admins"];
        check(groups, json!(["employee", "marketing"]), true);
        check(groups, json!(["employee"]), false);
        check(groups, json!(["super-admins"]), true);
        check(&["admin"], json!("not-admin"), false);
        check(&["1"], json!(1), true);
        check(&[" "], json!("a"), false);
    }

    #[test]
    fn a_path_leads_through_objects_and_lists() {
        let claims = json!({"user": {"groups": ["a", "b"]}, "n": null});
        let claims = claims.as_object().unwrap();
        let check = |path: &[&str], expected: Option<Value>| {
            assert_eq!(find(claims, &owned(path)), expected.as_ref(), "{path:?}");
        };
        check(&["user", "groups"], Some(json!(["a", "b"])));
        check(&["user", "groups", "2"], Some(json!("b")));
        check(&["user", "groups", "0"], None);
        check(&["user", "groups", "3"], None);
        check(&["user.groups"], None);
        check(&["n"], None);
        check(&[], None);
    }
}
