//! Requests that end what data planes keep: sessions of a provider, cached answers, the health of a target.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use shared::clock::UnixTime;
use shared::entity::Revocation;
use uuid::Uuid;

use super::error::Refusal;
use super::{Admin, Answer};
use crate::history::Origin;
use crate::revocations;

/// How long nodes may hear of a target's health what an operator has said. One that comes later begins as it would have.
const MARKS: Duration = Duration::from_mins(1);

/// How long a node may take to report what has become of a mark.
const UNREPORTED: Duration = Duration::from_secs(3);

impl Admin {
    /// What operators have said just now of a target, by its id and its address.
    pub(super) fn marks(&self) -> impl Fn(Uuid, Option<(IpAddr, u16)>) -> Option<bool> + use<> {
        let (config, now) = (self.publisher.config(), UnixTime::now());
        move |target, address| {
            let (healthy, at) = revocations::marked(&config, target, address)?;
            (now.saturating_since(at) < UNREPORTED).then_some(healthy)
        }
    }

    /// Has all nodes that are connected take `target` as healthy or not, or one of its addresses: a request of `origin`.
    pub(super) async fn mark(
        &self,
        origin: Origin,
        (target, address): (Uuid, Option<(IpAddr, Option<u16>)>),
        healthy: bool,
    ) -> Result<Answer, Refusal> {
        let (config, now) = (self.publisher.config(), UnixTime::now());
        let [said, denied] = [healthy, !healthy].map(|healthy| {
            let id = Revocation::mark(target, address, healthy);
            revocations::anew(&config, id, now, MARKS)
        });
        // Later than what was said before, whatever the clock says: of two that a node hears at once the later one counts.
        let before = said.before.max(denied.before);
        let revocation = Revocation { before, ..said };
        self.have_kept(origin, vec![revocation]).await
    }

    /// Ends on all nodes, at `now`, what bears one of `ids` and has begun, none of which is older than `longest`: a
    /// request of `origin`, and its answer.
    pub(super) async fn revoke(
        &self,
        origin: Origin,
        ids: Vec<Uuid>,
        now: UnixTime,
        longest: Duration,
    ) -> Result<Answer, Refusal> {
        if ids.is_empty() {
            return Ok(Answer::without_body(StatusCode::NO_CONTENT));
        }
        let config = self.publisher.config();
        let of = |id| revocations::anew(&config, id, now, longest);
        self.have_kept(origin, ids.into_iter().map(of).collect())
            .await
    }

    async fn have_kept(&self, origin: Origin, asked: Vec<Revocation>) -> Result<Answer, Refusal> {
        let revoker = self.revoker.as_ref().ok_or(Refusal::NotFound)?;
        let status = StatusCode::NO_CONTENT;
        let kept = revoker.keep(origin.answered(status), asked).await;
        let revision = kept.map_err(|refused| Refusal::Unavailable(refused.to_string()))?;
        Ok(Answer {
            revision: Some(revision),
            urgent: true,
            ..Answer::without_body(status)
        })
    }
}
