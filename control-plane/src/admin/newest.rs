//! Which state a request is answered from, where other control planes commit to the same store: a write from
//! everything that was committed before it came, a read from what is known here, which may be a tenth of a second old,
//! or from no earlier a revision than it asks for with `X-Wardgate-Revision`.

use http::HeaderMap;
use shared::snapshot::Revision;

use super::error::Refusal;
use crate::config::Config;
use crate::publisher::Publisher;

/// What an answer names its revision by, and a request the one that it wants to see.
pub(super) const REVISION: &str = "x-wardgate-revision";

/// The state for a request that `writes` or not.
pub(super) async fn state(
    publisher: &Publisher,
    headers: &HeaderMap,
    writes: bool,
) -> Result<Config, Refusal> {
    let wanted = headers.get(REVISION).map(|value| {
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        let refused = || Refusal::Argument("X-Wardgate-Revision is no revision".to_owned());
        number.map(Revision).ok_or_else(refused)
    });
    let wanted = wanted.transpose()?.unwrap_or_default();
    if writes || publisher.config().revision() < wanted {
        publisher.look().await;
    }
    let config = publisher.config();
    if config.revision() < wanted {
        return Err(Refusal::Behind(wanted));
    }
    Ok(config)
}
