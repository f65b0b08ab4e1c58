//! From an authorization response to verified tokens.

use std::sync::Arc;

use shared::clock::UnixTime;

use crate::bundled::openid_connect::failure::Failure;
use crate::bundled::openid_connect::flow::{
    self, Action, Callback, Context, Event, Pending, SignedIn, State,
};
use crate::bundled::openid_connect::provider::{self, Reason};
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::token_endpoint::{self, PassedOn, Tokens};
use crate::host::Host;

/// What the token endpoint has given for a code.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) tokens: Arc<Tokens>,
    /// When.
    pub(super) at: UnixTime,
}

shared::unsaid!(Given);

impl Given {
    fn now(tokens: Tokens, host: &impl Host) -> Self {
        Self {
            tokens: Arc::new(tokens),
            at: host.now(),
        }
    }

    fn received(&self) -> Event {
        Event::TokensReceived(Box::new(Tokens::clone(&self.tokens)))
    }
}

/// Finishes a sign-in: from the authorization response to verified tokens. What the token endpoint answers is left in
/// `given`; if there is something, it is not asked. Tokens are judged as of when they were given: they may have ended while
/// they waited for their keys.
///
/// # Errors
///
/// If it failed.
pub(super) async fn finish(
    rules: &Arc<Rules>,
    host: &impl Host,
    pending: Pending,
    callback: Callback,
    passed_on: &PassedOn,
    given: &mut Option<Given>,
) -> Result<SignedIn, Failure> {
    let mut document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    let client = pending.client;
    let mut state = State::Waiting(pending);
    let mut event = Event::CalledBack(callback);
    loop {
        let context = Context {
            rules,
            document: &document,
            signer: None,
        };
        let judges =
            matches!(event, Event::TokensReceived(_)) || matches!(state, State::Verifying(..));
        let given_at = given.as_ref().filter(|_| judges).map(|given| given.at);
        let now = given_at.unwrap_or_else(|| host.now());
        let (next, action) = flow::step(context, state, event, now);
        state = next;
        event = match action {
            Action::FetchTokens(_) if let Some(given) = given => given.received(),
            Action::FetchTokens(form) => {
                let asked =
                    token_endpoint::request(rules, &document, client, host, form, passed_on);
                match asked.await {
                    Ok(tokens) => given.insert(Given::now(tokens, host)).received(),
                    Err(error) => Event::TokensRefused(error.failure("token_http")),
                }
            }
            Action::FetchKeys => {
                // A browser may bring anything; what the token endpoint gives is the provider's.
                let reason = match &state {
                    State::Verifying(..) => Reason::ProviderToken,
                    _ => Reason::ClientToken,
                };
                document = provider::rediscover(rules, host, &document, reason)
                    .await
                    .map_err(|error| error.failure())?;
                Event::KeysReceived
            }
            Action::Proceed(signed_in) => return Ok(*signed_in),
            Action::Deny(failure) => return Err(failure),
            Action::Redirect(_) | Action::Post(..) | Action::Push(_) => {
                return Err(Failure::unexpected(
                    "state_unknown",
                    "a sign-in went backwards",
                ));
            }
        };
    }
}
