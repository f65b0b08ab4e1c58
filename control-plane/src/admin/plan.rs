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

impl Plan {
    fn new(entity: &'static Definition, action: Action, parent: Option<Parent>) -> Self {
        Self {
            entity,
            action,
            parent,
            status: StatusCode::OK,
            joined: None,
        }
    }
}

pub(super) fn plan(
    endpoint: Endpoint,
    method: &Method,
    body: Body,
    config: &Config,
) -> Result<Plan, Refusal> {
    match endpoint {
        Endpoint::Collection { entity, parent } => Ok(Plan {
            status: StatusCode::CREATED,
            ..Plan::new(entity, Action::Create(body), parent)
        }),
        Endpoint::Record {
            entity,
            selector,
            parent,
        } => match *method {
            Method::PUT => put(config, entity, selector, parent, body),
            Method::PATCH => {
                check_there(config, entity, &selector, parent.as_ref())?;
                Ok(Plan::new(entity, Action::Patch(selector, body), parent))
            }
            _ => {
                check_there(config, entity, &selector, parent.as_ref())?;
                Ok(Plan {
                    status: StatusCode::NO_CONTENT,
                    ..Plan::new(entity, Action::Delete(selector), parent)
                })
            }
        },
        Endpoint::Unborn { entity, mut parent }
            if *method == Method::PUT && entity.kind != Target::KIND =>
        {
            let name = parent.child.take().ok_or(Refusal::NotFound)?;
            let action = Action::Upsert(Selector::Name(name), body);
            Ok(Plan::new(entity, action, Some(parent)))
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
            Ok(Plan::new(entity, action, None))
        }
        Endpoint::Membership(membership) => {
            let entity = definition(ConsumerGroupConsumer::KIND).ok_or(Refusal::NotFound)?;
            let (commands, status, joined) = membership.plan(config, method, &body)?;
            Ok(Plan {
                status,
                joined: Some(joined),
                ..Plan::new(entity, Action::Several(commands), None)
            })
        }
        Endpoint::DeclarativeConfig => Err(Refusal::NeedsSetting(NO_DATABASE)),
        _ => Err(Refusal::NotFound),
    }
}

fn put(
    config: &Config,
    entity: &'static Definition,
    selector: Selector,
    parent: Option<Parent>,
    body: Body,
) -> Result<Plan, Refusal> {
    // A target is never made by PUT: who does not find it is to POST it.
    if entity.kind == Target::KIND {
        let key = find(config, entity, &selector)?.ok_or(Refusal::NotFound)?;
        let action = Action::Patch(Selector::Id(key.id), body);
        return Ok(Plan::new(entity, action, parent));
    }
    let local = parent.as_ref().and_then(|parent| parent.child.clone());
    let selector = local.map_or(selector, Selector::Name);
    Ok(Plan::new(entity, Action::Upsert(selector, body), parent))
}

/// Refuses what is not there, or not below the parent that the URL names, where that is not for the command to say.
fn check_there(
    config: &Config,
    entity: &'static Definition,
    selector: &Selector,
    parent: Option<&Parent>,
) -> Result<(), Refusal> {
    if entity.kind == Certificate::KIND
        && matches!(selector, Selector::Name(_))
        && find(config, entity, selector)?.is_none()
    {
        return Err(missing(entity, selector));
    }
    if parent.is_some() {
        let key = find(config, entity, selector)?;
        let fields = key.and_then(|key| config.record(key));
        if !fields.is_some_and(|fields| below(&fields, parent)) {
            return Err(Refusal::NotFound);
        }
    }
    Ok(())
}
