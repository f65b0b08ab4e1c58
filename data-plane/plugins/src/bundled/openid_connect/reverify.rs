//! Holds the tokens of a session against the provider's keys once more.

use std::sync::Arc;

use shared::clock::UnixTime;

use super::config::{AuthMethod, UnsignedMethod};
use super::provider::{self, Reason, Unaccepted};
use super::rules::Rules;
use super::session::Session;
use super::verify::Verifier;
use super::{introspection, user_info};
use crate::exchange::Exchange;
use crate::host::Host;

/// Verifies the tokens of a session once more (Kong 3.9, `reverify`). Whether the session may go on though its access token
/// has ended is not asked here: that one is judged as of when it lived.
///
/// # Errors
///
/// Why they are not accepted any more.
pub(super) async fn reverify(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    session: &Session,
) -> Result<(), Unaccepted> {
    let token = &session.access_token;
    let before = |end: UnixTime| UnixTime::from_millis(end.as_millis().saturating_sub(1));
    let lived = session.expires_at.map(before);
    let is_over = lived.is_some_and(|lived| lived < host.now());
    // Whom the provider has vouched for it is asked about once more, while it can say more than that the token has ended.
    if !is_over && session.introspection.is_some() {
        let method = session.method;
        let asked = introspection::ask(rules, exchange, host, token, session.client, method);
        asked.await.map_err(Unaccepted::Refused)?;
    } else if !is_over && session.method == AuthMethod::Userinfo {
        let of = (session.client, session.method);
        let question = user_info::Question::new(rules, exchange, of, token).await;
        question
            .ask(rules, host)
            .await
            .map_err(Unaccepted::Refused)?;
    }
    let is_read = !matches!(
        session.method,
        AuthMethod::Introspection | AuthMethod::Userinfo
    );
    let document = provider::document(rules, host)
        .await
        .map_err(|error| Unaccepted::Refused(error.failure()))?;
    let judge = |verifier: &Verifier<'_>| {
        let check = !rules.ignores_signature(UnsignedMethod::Session);
        let now = lived.map_or(verifier.now, |lived| verifier.now.min(lived));
        let then = Verifier { now, ..*verifier };
        then.stored(Some(token.as_str()).filter(|_| is_read), None, check)?;
        verifier.stored(None, session.id_token.as_deref(), check)
    };
    let judged = provider::judged(
        rules,
        session.client,
        host,
        document,
        Reason::ProviderToken,
        judge,
    )
    .await;
    judged.map(|_| ())
}
