//! What follows a success: `login_action` and the tokens that it hands out.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value};
use url::Url;

use super::config::{AuthMethod, LoginAction, LoginToken, RedirectMode};
use super::flow::Pending;
use super::request;
use super::rules::{Client, Rules};
use super::sign_in;
use super::token_endpoint::Tokens;
use crate::answer;
use crate::exchange::Exchange;

/// The answer that `login_action` makes to a success by `method`, if it makes one.
pub(super) fn answer(
    rules: &Rules,
    exchange: &Exchange<'_>,
    client: &Client,
    method: AuthMethod,
    pending: Option<&Pending>,
    tokens: &Tokens,
) -> Option<Response<Bytes>> {
    let config = &rules.config.sign_in;
    let action = if config.login_methods.contains(&method) {
        config.login_action
    } else {
        LoginAction::Upstream
    };
    match action {
        LoginAction::Upstream => {
            // The page that the provider leads back to is not the one that another site has named.
            let wished = pending.filter(|pending| pending.wished)?;
            Some(answer::redirect(&origin(wished), &exchange.request_id))
        }
        LoginAction::Response => Some(answer::json(
            StatusCode::OK,
            &Value::Object(handed_out(rules, tokens)),
        )),
        LoginAction::Redirect => {
            let target = client.login_redirect_uri.clone().or_else(|| {
                let pending = pending?;
                Some(origin(pending))
            })?;
            // What every request does would go on for ever there.
            if method != AuthMethod::AuthorizationCode && leads_nowhere(exchange, &target) {
                return None;
            }
            let location = with_tokens(rules, &target, tokens)?;
            Some(answer::redirect(&location, &exchange.request_id))
        }
    }
}

/// Whether a sign-in ends with a redirect.
pub(super) fn redirects(rules: &Rules) -> bool {
    let config = &rules.config.sign_in;
    config.login_action == LoginAction::Redirect
        && config
            .login_methods
            .contains(&AuthMethod::AuthorizationCode)
}

/// Whether `target` is what was asked for.
fn leads_nowhere(exchange: &Exchange<'_>, target: &str) -> bool {
    let bare = target.split(['?', '#']).next();
    bare == Some(sign_in::own_url(exchange).as_str())
}

/// Whether a success by `method` leads back to where the browser wanted to go at first.
pub(super) fn returns(rules: &Rules, client: &Client, method: AuthMethod) -> bool {
    let sign_in = &rules.config.sign_in;
    if !sign_in.login_methods.contains(&method) {
        return true;
    }
    match sign_in.login_action {
        LoginAction::Upstream => true,
        LoginAction::Response => false,
        LoginAction::Redirect => client.login_redirect_uri.is_none(),
    }
}

/// Whether the client that comes by `method`, or the service behind, is told its new refresh token, so that it is not the
/// session alone that holds it.
pub(super) fn tells_refresh_token(rules: &Rules, method: AuthMethod) -> bool {
    let (sign_in, headers) = (&rules.config.sign_in, &rules.config.headers);
    let hands_out = |token| {
        sign_in
            .login_tokens
            .iter()
            .flatten()
            .any(|one| *one == token)
    };
    let answers = sign_in.login_action == LoginAction::Response
        && sign_in.login_methods.contains(&method)
        && (hands_out(LoginToken::RefreshToken) || hands_out(LoginToken::Tokens));
    answers
        || headers.upstream_refresh_token_header.is_some()
        || headers.downstream_refresh_token_header.is_some()
}

/// The URL that the browser wanted at first.
pub(super) fn origin(pending: &Pending) -> String {
    match &pending.query {
        Some(query) => format!("{}?{query}", pending.target),
        None => pending.target.clone(),
    }
}

/// What `login_tokens` lists and there is: all that the token endpoint answered, or what introspection said, and single tokens.
fn handed_out(rules: &Rules, tokens: &Tokens) -> Map<String, Value> {
    let listed = rules.config.sign_in.login_tokens.as_deref();
    let listed = listed.unwrap_or_default();
    let mut all = if listed.contains(&LoginToken::Tokens) {
        tokens.answer.clone()
    } else if listed.contains(&LoginToken::Introspection) {
        tokens.introspection.clone().unwrap_or_default()
    } else {
        Map::new()
    };
    for token in listed {
        let (name, token) = match token {
            LoginToken::IdToken => ("id_token", tokens.id_token.as_deref()),
            LoginToken::AccessToken => ("access_token", Some(tokens.access_token.as_str())),
            LoginToken::RefreshToken => ("refresh_token", tokens.refresh_token.as_deref()),
            LoginToken::Tokens | LoginToken::Introspection => continue,
        };
        if let Some(token) = token {
            all.insert(name.to_owned(), token.into());
        }
    }
    all
}

fn with_tokens(rules: &Rules, target: &str, tokens: &Tokens) -> Option<String> {
    let mut url = Url::parse(target).ok()?;
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let pairs = handed_out(rules, tokens).into_iter();
    let pairs: Vec<_> = pairs.map(|(name, value)| (name, text(value))).collect();
    if pairs.is_empty() {
        return Some(target.to_owned());
    }
    match rules.config.sign_in.login_redirect_mode {
        RedirectMode::Query => {
            // What the browser had brought under these names is not the provider's.
            let own = |name: &str| pairs.iter().any(|(own, _)| own == name);
            let kept = url
                .query()
                .map(|query| request::kept_arguments(query, |name| !own(name)));
            url.set_query(kept.as_deref().filter(|kept| !kept.is_empty()));
            url.query_pairs_mut().extend_pairs(pairs);
        }
        RedirectMode::Fragment => {
            let mut form = form_urlencoded::Serializer::new(String::new());
            url.set_fragment(Some(&form.extend_pairs(pairs).finish()));
        }
    }
    Some(url.into())
}
