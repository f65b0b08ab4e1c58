//! Tokens held against the keys that a provider has, those that are known and those that it has now.

use std::sync::Arc;

use super::rediscovery::{Found, search};
use super::{Document, ProviderError, Reason};
use crate::bundled::openid_connect::failure::Failure;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::verify::{Refusal, Verifier};
use crate::host::Host;

/// Why a token is not accepted.
#[derive(Debug)]
pub(in crate::bundled::openid_connect) enum Unaccepted {
    /// It is bad.
    Refused(Failure),
    /// The key that it names has not signed it, nor has one that the provider was asked for since.
    OtherKey(Failure),
    /// The provider does not have its key now, or was not asked for it again since the token came.
    Unsigned(Failure),
    /// No key that is known fits, and newer ones cannot be had.
    Keyless(Failure, ProviderError),
}

impl Unaccepted {
    /// The failure of a client's token: it does not become better for a provider that is away.
    pub(in crate::bundled::openid_connect) fn refusal(self) -> Failure {
        match self {
            Self::Refused(failure)
            | Self::OtherKey(failure)
            | Self::Unsigned(failure)
            | Self::Keyless(failure, _) => failure,
        }
    }

    /// The failure of what the provider itself gave out: that its keys cannot be had is its fault, and
    /// ends no session.
    pub(in crate::bundled::openid_connect) fn failure(self) -> Failure {
        match self {
            Self::Refused(failure) | Self::OtherKey(failure) | Self::Unsigned(failure) => failure,
            Self::Keyless(_, error) => error.failure(),
        }
    }

    /// Whether it may be accepted later: its key is not known yet.
    pub(in crate::bundled::openid_connect) fn is_for_now(&self) -> bool {
        matches!(self, Self::Unsigned(_) | Self::Keyless(..))
    }

    /// The same, of what takes the place of what still serves: that its key is not known yet is no refusal either.
    pub(in crate::bundled::openid_connect) fn failure_for_now(self) -> Failure {
        match self {
            Self::Unsigned(failure) => failure.for_now(),
            other => other.failure(),
        }
    }
}

/// What `judge` makes of a token of `client` by the keys in `document` or, where none of these has signed it, by those
/// that the provider has now, asked for by `reason`; and the document that decided.
///
/// # Errors
///
/// If the token is not accepted.
pub(in crate::bundled::openid_connect) async fn judged<T>(
    rules: &Arc<Rules>,
    client: usize,
    host: &impl Host,
    document: Arc<Document>,
    reason: Reason,
    judge: impl Fn(&Verifier<'_>) -> Result<T, Refusal>,
) -> Result<(T, Arc<Document>), Unaccepted> {
    let judge = |document: &Document| {
        judge(&Verifier {
            rules,
            document,
            client,
            now: host.now(),
        })
    };
    let failure = match judge(&document) {
        Ok(found) => return Ok((found, document)),
        Err(Refusal::Bad(failure)) => return Err(Unaccepted::Refused(failure)),
        Err(Refusal::UnknownKey(failure) | Refusal::OtherKey(failure)) => failure,
    };
    match search(rules, host, &document, reason).await {
        Ok(Found { document, is_asked }) => match judge(&document) {
            Ok(found) => Ok((found, document)),
            Err(Refusal::Bad(failure)) => Err(Unaccepted::Refused(failure)),
            Err(Refusal::OtherKey(failure)) if is_asked => Err(Unaccepted::OtherKey(failure)),
            Err(Refusal::OtherKey(failure) | Refusal::UnknownKey(failure)) => {
                Err(Unaccepted::Unsigned(failure))
            }
        },
        Err(error) => Err(Unaccepted::Keyless(failure, error)),
    }
}
