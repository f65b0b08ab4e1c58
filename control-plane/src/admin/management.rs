//! What is asked of the control plane itself rather than of a record: `/config`, `/revisions`, `/audit`,
//! `/rollouts`, `/workspaces/{workspace}/meta`, `/rbac`, `/openid-connect/*`, `/proxy-cache/*`.

use axum::extract::Request;
use http::Method;
use serde_json::{Map, Value, json};
use shared::entity::{DEFAULT_WORKSPACE, Entity, Workspace, definitions};
use shared::snapshot::Key;
use uuid::Uuid;

use super::access::{Bounds, Caller};
use super::cluster::{self, Order};
use super::error::Refusal;
use super::place::Place;
use super::revisions::{self, Past};
use super::{Admin, Answer, client_keys, declare, openid_connect, proxy_cache, rbac, rollouts};
use crate::command::{Selector, find};
use crate::config::{Config, workspace_key};
use crate::history::Origin;

/// A page about the control plane itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    /// `/config`
    Config,
    /// `/revisions`, `/audit`
    Past(Past),
    /// `/workspaces/{workspace}/meta`
    Meta(Selector),
    /// `/workspaces` below the prefix of one, which is told of itself only.
    Itself,
    /// `/rbac`, `/userinfo`
    Rbac(rbac::Page),
    /// `/clustering/…`, as far as it is more than to be looked at
    Cluster(Order),
    /// `/rollouts`
    Rollout(rollouts::Page),
    /// `/openid-connect/jwks`
    ClientKeys,
    /// `/openid-connect/check`, `/openid-connect/issuers[/{issuer}]`
    OpenidConnect(openid_connect::Page),
    /// `/proxy-cache[/…]`
    ProxyCache(proxy_cache::Page),
}

pub(super) fn parse(place: &Place) -> Result<Option<Page>, Refusal> {
    // What is no text is none of these pages.
    let Some(segments) = place.segments() else {
        return Ok(None);
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let Some(past) = revisions::parse(&segments) {
        return past.map(|past| Some(Page::Past(past)));
    }
    if let Some(order) = cluster::parse(&segments) {
        // A part of the configuration is no place to command the whole cluster from.
        if place.narrowed().is_some_and(|own| own != DEFAULT_WORKSPACE) {
            return Err(Refusal::NotFound);
        }
        return order.map(|order| Some(Page::Cluster(order)));
    }
    if let Some(page) = rollouts::parse(&segments) {
        if place.narrowed().is_some_and(|own| own != DEFAULT_WORKSPACE) {
            return Err(Refusal::NotFound);
        }
        return page.map(|page| Some(Page::Rollout(page)));
    }
    if let Some(page) = rbac::parse(&segments) {
        return Ok(Some(Page::Rbac(page)));
    }
    let narrowed = place.narrowed().filter(|own| *own != DEFAULT_WORKSPACE);
    let other = |name: &str| name != place.name && name.parse() != Ok(place.workspace);
    Ok(match *segments.as_slice() {
        ["config"] => Some(Page::Config),
        ["openid-connect", "jwks"] => Some(Page::ClientKeys),
        ["workspaces"] if narrowed.is_some() => Some(Page::Itself),
        ["workspaces", name, ..] if narrowed.is_some() && other(name) => {
            return Err(Refusal::NotFound);
        }
        ["workspaces", workspace, "meta"] => Some(Page::Meta(Selector::parse(workspace))),
        ["openid-connect", ref rest @ ..] => openid_connect::parse(rest).map(Page::OpenidConnect),
        ["proxy-cache", ref rest @ ..] => proxy_cache::parse(rest).map(Page::ProxyCache),
        _ => None,
    })
}

impl Page {
    fn methods(&self) -> &'static [Method] {
        match self {
            Self::Config => declare::METHODS,
            Self::ClientKeys => client_keys::METHODS,
            Self::Past(past) => past.methods(),
            Self::Cluster(order) => order.methods(),
            Self::Rollout(page) => page.methods(),
            Self::Rbac(page) => page.methods(),
            Self::OpenidConnect(page) => page.methods(),
            Self::ProxyCache(page) => page.methods(),
            Self::Meta(_) | Self::Itself => &[Method::GET, Method::HEAD, Method::OPTIONS],
        }
    }
}

pub(super) async fn answer(
    admin: &Admin,
    place: &Place,
    page: Page,
    config: &Config,
    (caller, origin, bounds): (&Caller, Origin, Bounds),
    request: Request,
) -> Result<Answer, Refusal> {
    let methods = page.methods();
    let query = request.uri().query();
    match *request.method() {
        Method::OPTIONS => Ok(Answer::allowing(methods)),
        ref method if !methods.contains(method) => Err(Refusal::Method(methods)),
        Method::GET | Method::HEAD => match page {
            Page::Config => {
                let config = config.clone();
                admin.readers.take(move || declare::read(&config)).await?
            }
            Page::ClientKeys => client_keys::read(admin, origin).await,
            Page::Past(past) => {
                let (readers, query) = (&admin.readers, query.map(str::to_owned));
                let (admin, place) = (admin.clone(), place.clone());
                let reading = move || revisions::read(&admin, &place, &past, query.as_deref());
                readers.take(reading).await?
            }
            Page::Meta(workspace) => meta(config, place, &workspace),
            Page::Rbac(page) => rbac::read(config, &page, caller, query),
            Page::Itself => {
                let record = config.record(workspace_key(place.workspace));
                let own = record.map(|record| Value::Object((*record).clone()));
                Ok(Answer::ok(json!({ "data": [own], "next": null })))
            }
            Page::Cluster(order) => cluster::read(admin, &order).await,
            Page::Rollout(page) => rollouts::read(admin, page),
            Page::OpenidConnect(page) => openid_connect::read(admin, config, page, query).await,
            // What data planes keep is theirs.
            Page::ProxyCache(_) => Err(Refusal::NotFound),
        },
        _ => match page {
            Page::Config => declare::write(admin, place, origin, request).await,
            Page::ClientKeys => client_keys::rotate(admin, origin, request).await,
            Page::Past(Past::Rollback(to)) => {
                revisions::write(admin, place, origin, to, request).await
            }
            Page::Cluster(order) => cluster::write(admin, order, origin).await,
            Page::Rollout(page) => rollouts::write(admin, page).await,
            Page::OpenidConnect(page) => {
                openid_connect::write(admin, config, page, origin, request).await
            }
            Page::ProxyCache(page) => proxy_cache::write(admin, config, page, origin).await,
            Page::Rbac(page) => {
                let asking = (origin, bounds);
                rbac::write(admin, place, config, page, asking, request).await
            }
            Page::Past(_) | Page::Meta(_) | Page::Itself => Err(Refusal::Method(methods)),
        },
    }
}

/// How many records of each kind a workspace has.
fn meta(config: &Config, place: &Place, workspace: &Selector) -> Result<Answer, Refusal> {
    let entity = shared::entity::definition(Workspace::KIND).ok_or(Refusal::NotFound)?;
    let Key { id, .. } = find(config, entity, workspace)?.ok_or(Refusal::NotFound)?;
    if place.narrowed().is_some_and(|own| own != id) {
        return Err(Refusal::NotFound);
    }
    let within = config.within(id);
    let counts: Map<String, Value> = definitions()
        .iter()
        .filter(|entity| entity.workspaced)
        .map(|entity| {
            (
                entity.kind.to_owned(),
                within.keys(entity.kind, Uuid::nil()).count(),
            )
        })
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| (kind, count.into()))
        .collect();
    Ok(Answer::ok(json!({ "counts": counts })))
}
