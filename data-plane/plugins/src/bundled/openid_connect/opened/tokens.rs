//! What the tokens of an opened session say: whom they are about, and what the provider calls the session. They were
//! verified before they were sealed.

use shared::entity::Revocation;
use uuid::Uuid;

use crate::bundled::openid_connect::admission::Found;
use crate::bundled::openid_connect::config::AuthMethod;
use crate::bundled::openid_connect::headers::Facts;
use crate::bundled::openid_connect::jws::{self, Claims, Jws};
use crate::bundled::openid_connect::principal::Principal;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session::Session;

/// What a revocation may call the session by: its own name, and those of the provider for the session
/// and the user that it comes from.
pub(super) fn names(rules: &Rules, session: &Session) -> Vec<Uuid> {
    let mut names = vec![Revocation::session(&session.id)];
    // A version before has begun it, which noted no epoch: its time stands for that.
    if rules.config.session.session_secret.is_none() && session.epoch.is_none() {
        names.push(rules.issuer_name);
    }
    let issuer = said(session, "iss").unwrap_or_else(|| rules.issuer.clone());
    let newest = sid(session);
    let first = session
        .sid
        .clone()
        .filter(|first| newest.as_ref() != Some(first));
    let sids = newest.into_iter().chain(first);
    names.extend(sids.map(|sid| Revocation::provider_session(&issuer, &sid)));
    if let Some(subject) = said(session, "sub") {
        names.push(Revocation::subject(&issuer, &subject));
    }
    names
}

/// What the tokens of `session` call the provider's session.
pub(in crate::bundled::openid_connect) fn sid(session: &Session) -> Option<String> {
    said(session, "sid")
}

/// Whom the tokens of `session` speak of.
pub(in crate::bundled::openid_connect) fn subject(session: &Session) -> Option<String> {
    said(session, "sub")
}

/// What the tokens of `session` say of its user. Of a token that only the provider can read, it has said who it is of.
fn said(session: &Session, name: &str) -> Option<String> {
    let token = session.id_token.as_ref().unwrap_or(&session.access_token);
    let claims = jws::claims(token).unwrap_or_default();
    let stated = session
        .introspection
        .as_ref()
        .or(session.user_info.as_ref());
    let found = claims.get(name).or_else(|| stated?.get(name))?;
    Some(found.as_str()?.to_owned())
}

/// Who a session's tokens speak of. They were verified before they were sealed.
pub(in crate::bundled::openid_connect) fn principal(rules: &Rules, session: &Session) -> Principal {
    principal_with(rules, session, &Found::default())
}

/// Who a session's tokens speak of, with what was found out besides.
pub(in crate::bundled::openid_connect) fn principal_with(
    rules: &Rules,
    session: &Session,
    found: &Found,
) -> Principal {
    let (access, id) = claims_of(rules, session);
    let facts = Facts {
        access_token: &session.access_token,
        id_token: session.id_token.as_deref(),
        refresh_token: session.refresh_token.as_deref(),
        session_id: Some(&session.id),
        access: access.as_ref(),
        introspection: session.introspection.as_ref(),
        introspection_jwt: session.introspection_jwt.as_deref(),
        id: id.as_ref(),
        user_info: session.user_info.as_ref(),
        user_info_jwt: session.user_info_jwt.as_deref(),
        keys: [found.access_key.as_deref(), found.id_key.as_deref()],
        searches_user_info: rules.config.credentials.search_user_info,
    };
    let exchanged = found.exchanged.as_deref();
    Principal::new(
        rules,
        facts,
        exchanged.map(|exchanged| exchanged.0.as_str()),
    )
}

/// The claims of a session's access and ID token, as far as they count.
pub(in crate::bundled::openid_connect) fn claims_of(
    rules: &Rules,
    session: &Session,
) -> (Option<Claims>, Option<Claims>) {
    let access = Jws::parse(&session.access_token, session.access_token.len()).ok();
    let access = access.filter(|access| !access.header.for_graph);
    let access = access.map(|access| access.claims).filter(|claims| {
        // A token for somebody else to read is opaque to us, as it was at sign-in. A bearer token was
        // accepted even without an issuer.
        let issuer = claims.get("iss").and_then(serde_json::Value::as_str);
        match session.method {
            AuthMethod::Bearer => true,
            // Nobody has verified it here; what the provider said of it counts.
            AuthMethod::Introspection | AuthMethod::Userinfo => false,
            _ => issuer.is_some_and(|issuer| rules.accepts_issuer(issuer)),
        }
    });
    let mut id = session.id_token.as_deref().and_then(jws::claims);
    if let (Some(id), Some(sourced)) = (&mut id, &session.sourced) {
        id.extend(sourced.clone());
    }
    (access, id)
}
