//! What is asked of the control plane itself rather than of a record: `/config`, `/revisions`, `/audit`,
//! `/workspaces/{workspace}/meta`.

use axum::extract::Request;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::entity::{Entity, Workspace, definitions};
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::place::Place;
use super::revisions::{self, Past};
use super::{Admin, Answer, declare};
use crate::command::{Selector, find};
use crate::config::Config;
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
}

pub(super) fn parse(place: &Place) -> Result<Option<Page>, Refusal> {
    let segments = place.segments().ok_or(Refusal::NotFound)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let Some(past) = revisions::parse(&segments) {
        return past.map(|past| Some(Page::Past(past)));
    }
    Ok(match *segments.as_slice() {
        ["config"] => Some(Page::Config),
        ["workspaces", workspace, "meta"] => Some(Page::Meta(Selector::parse(workspace))),
        _ => None,
    })
}

impl Page {
    const fn methods(&self) -> &'static [Method] {
        match self {
            Self::Config => declare::METHODS,
            Self::Past(past) => past.methods(),
            Self::Meta(_) => &[Method::GET, Method::HEAD, Method::OPTIONS],
        }
    }
}

pub(super) async fn answer(
    admin: &Admin,
    place: &Place,
    page: Page,
    config: &Config,
    origin: Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    let methods = page.methods();
    let query = request.uri().query();
    match *request.method() {
        Method::OPTIONS => Ok(Answer {
            allow: Some(methods),
            ..Answer::without_body(StatusCode::NO_CONTENT)
        }),
        ref method if !methods.contains(method) => Err(Refusal::Method(methods)),
        Method::GET | Method::HEAD => match page {
            Page::Config => declare::read(config),
            Page::Past(past) => revisions::read(admin, place, &past, query),
            Page::Meta(workspace) => meta(config, place, &workspace),
        },
        _ => match page {
            Page::Config => declare::write(admin, place, origin, request).await,
            Page::Past(Past::Rollback(to)) => {
                revisions::write(admin, place, origin, to, request).await
            }
            Page::Past(_) | Page::Meta(_) => Err(Refusal::Method(methods)),
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
