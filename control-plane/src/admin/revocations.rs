//! Requests that end what data planes keep: sessions of a provider, cached answers.

use std::time::Duration;

use http::StatusCode;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::Admin;
use super::error::Refusal;
use crate::history::Origin;
use crate::revocations;

impl Admin {
    /// Ends on all nodes, at `now`, what bears one of `ids` and has begun, none of which is older than `longest`: a
    /// request of `origin`, whose answer has no body.
    pub(super) async fn revoke(
        &self,
        origin: Origin,
        ids: Vec<Uuid>,
        now: UnixTime,
        longest: Duration,
    ) -> Result<(), Refusal> {
        if ids.is_empty() {
            return Ok(());
        }
        let config = self.publisher.config();
        let of = |id| revocations::anew(&config, id, now, longest);
        let revoker = self.revoker.as_ref().ok_or(Refusal::NotFound)?;
        let origin = origin.answered(StatusCode::NO_CONTENT);
        let kept = revoker
            .keep(origin, ids.into_iter().map(of).collect())
            .await;
        kept.map_err(|refused| Refusal::ReadOnly(refused.to_string()))
    }
}
