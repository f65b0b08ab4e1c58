//! Holds the tokens of a session against the provider's keys once more.

use std::sync::Arc;

use super::config::{AuthMethod, UnsignedMethod};
use super::provider::{self, Reason, Unaccepted};
use super::rules::Rules;
use super::session::Session;
use super::verify::Verifier;
use super::{introspection, user_info};
use crate::exchange::Exchange;
use crate::host::Host;

/// Verifies the tokens of a session once more (Kong 3.9, `reverify`).
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
    // Whom the provider has vouched for it is asked about once more.
    if session.introspection.is_some() {
        let method = session.method;
        let asked = introspection::ask(rules, exchange, host, token, session.client, method);
        asked.await.map_err(Unaccepted::Refused)?;
    } else if session.method == AuthMethod::Userinfo {
        let question = user_info::Question::new(rules, exchange, session.client, token).await;
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
        verifier.stored(
            Some(token.as_str()).filter(|_| is_read),
            session.id_token.as_deref(),
            !rules.ignores_signature(UnsignedMethod::Session),
        )
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
