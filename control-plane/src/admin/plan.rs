//! Turns a write's URL, method and body into what it asks of the configuration.

use http::{Method, StatusCode};
use shared::entity::{Certificate, ConsumerGroupConsumer, Definition, Entity, Target, definition};

use super::endpoint::{Endpoint, Parent, below, missing};
use super::error::{NO_DATABASE, Refusal};
use super::groups::Joined;
use crate::command::{Action, Body, Selector, find};
use crate::config::Config;

/// What is to be done, and the status if it is.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) entity: &'static Definition,
    pub(super) action: Action,
    pub(super) parent: Option<Parent>,
    pub(super) status: StatusCode,
    /// Whom the reply shows instead of the record.
    pub(super) joined: Option<Joined>,
}

pub(super) fn plan(
    endpoint: Endpoint,
    method: &Method,
    body: Body,
    config: &Config,
) -> Result<Plan, Refusal> {
    let planned = |entity, action, parent| Plan {
        entity,
        action,
        parent,
        status: StatusCode::OK,
        joined: None,
    };
    Ok(match endpoint {
        Endpoint::Collection { entity, parent } => Plan {
            status: StatusCode::CREATED,
            ..planned(entity, Action::Create(body), parent)
        },
        Endpoint::Record {
            entity,
            selector,
            parent,
        } => {
            if entity.kind == Certificate::KIND
                && *method != Method::PUT
                && matches!(selector, Selector::Name(_))
                && find(config, entity, &selector)?.is_none()
            {
                return Err(missing(entity, &selector));
            }
            if parent.is_some() && *method != Method::PUT {
                let key = find(config, entity, &selector)?;
                let fields = key.and_then(|key| config.record(key));
                if !fields.is_some_and(|fields| below(&fields, parent.as_ref())) {
                    return Err(Refusal::NotFound);
                }
            }
            match *method {
                // A target is never made by PUT: who does not find it is to POST it.
                Method::PUT if entity.kind == Target::KIND => {
                    let key = find(config, entity, &selector)?.ok_or(Refusal::NotFound)?;
                    planned(entity, Action::Patch(Selector::Id(key.id), body), parent)
                }
                Method::PUT => {
                    let local = parent.as_ref().and_then(|parent| parent.child.clone());
                    let selector = local.map_or(selector, Selector::Name);
                    planned(entity, Action::Upsert(selector, body), parent)
                }
                Method::PATCH => planned(entity, Action::Patch(selector, body), parent),
                _ => Plan {
                    status: StatusCode::NO_CONTENT,
                    ..planned(entity, Action::Delete(selector), parent)
                },
            }
        }
        Endpoint::Unborn { entity, mut parent }
            if *method == Method::PUT && entity.kind != Target::KIND =>
        {
            let name = parent.child.take().ok_or(Refusal::NotFound)?;
            let action = Action::Upsert(Selector::Name(name), body);
            planned(entity, action, Some(parent))
        }
        Endpoint::Foreign {
            entity,
            key,
            owner,
            field,
        } => {
            let action = if *method == Method::PATCH {
                let key = key.ok_or(Refusal::NotFound)?;
                Action::Patch(Selector::Id(key.id), body)
            } else {
                Action::Link(owner, field, body)
            };
            planned(entity, action, None)
        }
        Endpoint::Membership(membership) => {
            let entity = definition(ConsumerGroupConsumer::KIND).ok_or(Refusal::NotFound)?;
            let (commands, status, joined) = membership.plan(config, method, &body)?;
            Plan {
                status,
                joined: Some(joined),
                ..planned(entity, Action::Several(commands), None)
            }
        }
        Endpoint::DeclarativeConfig => return Err(Refusal::NeedsSetting(NO_DATABASE)),
        _ => return Err(Refusal::NotFound),
    })
}
