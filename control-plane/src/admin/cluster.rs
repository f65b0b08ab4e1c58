//! What operators tell the cluster: `/clustering/session-keys`, `/clustering/data-planes/{node}/retry`,
//! `/clustering/exports`.

use http::{Method, StatusCode};
use serde_json::json;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::error::Refusal;
use super::{Admin, Answer, exports};
use crate::config::Config;
use crate::history::Origin;
use crate::session_keys::{self, RevokeError};

/// Something that is told to the cluster, or asked of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    /// `/clustering/session-keys`
    Keys,
    /// `/clustering/session-keys/revoke`, `/clustering/session-keys/{key}/revoke`
    Revoke(Option<Uuid>),
    /// `/clustering/data-planes/{node}/retry`
    Retry(String),
    /// `/clustering/exports[/{name}]`
    Exports(exports::Page),
}

pub(super) fn parse(segments: &[&str]) -> Option<Result<Order, Refusal>> {
    Some(match *segments {
        ["clustering", "session-keys"] => Ok(Order::Keys),
        ["clustering", "session-keys", "revoke"] => Ok(Order::Revoke(None)),
        ["clustering", "session-keys", key, "revoke"] => key
            .parse()
            .map(|key| Order::Revoke(Some(key)))
            .map_err(|_| Refusal::NotFound),
        ["clustering", "data-planes", node, "retry"] => Ok(Order::Retry(node.to_owned())),
        ["clustering", "exports"] => Ok(Order::Exports(exports::Page::All)),
        ["clustering", "exports", name] => Ok(Order::Exports(exports::Page::One(name.to_owned()))),
        _ => return None,
    })
}

impl Order {
    pub(super) const fn methods(&self) -> &'static [Method] {
        match self {
            Self::Keys => &[Method::GET, Method::HEAD, Method::OPTIONS],
            Self::Exports(page) => page.methods(),
            Self::Revoke(_) | Self::Retry(_) => &[Method::OPTIONS, Method::POST],
        }
    }
}

/// What `order` shows.
pub(super) async fn read(admin: &Admin, order: &Order) -> Result<Answer, Refusal> {
    match order {
        Order::Exports(page) => exports::read(admin, page).await,
        _ => Ok(keys(&admin.publisher.config())),
    }
}

/// The session keys, without what is secret of them.
fn keys(config: &Config) -> Answer {
    let keys = session_keys::of(config);
    let shown = keys.iter().map(|key| {
        json!({
            "id": key.id,
            "created_at": key.created_at,
            "activate_at": key.activate_at,
            "decrypt_until": key.decrypt_until,
            "state": key.state,
        })
    });
    Answer::ok(json!({ "data": shown.collect::<Vec<_>>(), "next": null }))
}

/// Carries `order` out.
pub(super) async fn write(admin: &Admin, order: Order, origin: Origin) -> Result<Answer, Refusal> {
    match order {
        Order::Exports(exports::Page::All) => exports::write(admin).await,
        Order::Keys | Order::Exports(_) => Err(Refusal::Method(order.methods())),
        Order::Retry(node) => {
            let clustering = admin.clustering.as_ref().ok_or(Refusal::NotFound)?;
            if clustering.fleet.retry(&node) {
                Ok(Answer::without_body(StatusCode::NO_CONTENT))
            } else {
                Err(Refusal::NotFound)
            }
        }
        Order::Revoke(key) => {
            let publisher = admin.publisher.clone();
            let origin = origin.answered(StatusCode::OK);
            let revoking = move || session_keys::revoke(&publisher, &origin, key, UnixTime::now());
            let revoked = admin.turns.take(revoking).await?;
            let revision = revoked.map_err(|error| match error {
                RevokeError::Unknown => Refusal::NotFound,
                RevokeError::Journal(fault) => Refusal::of_journal(&fault),
            })?;
            Ok(Answer {
                revision: Some(revision),
                urgent: true,
                ..keys(&admin.publisher.config())
            })
        }
    }
}
