//! Filters with what says where they run.

use plugins::filter::Instance;
use plugins::registry::{self, AnyFilter};
use serde_json::Value;
use shared::entity::{Entity as _, Plugin};
use shared::schema::FieldErrors;
use uuid::Uuid;

use super::rank::{Whose, rank};
use super::{Choice, CompileFault, Variants};

/// What of a plugin record says where its filter runs, and the place of that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    /// The record's.
    pub(super) id: Uuid,
    pub(super) name: &'static str,
    pub(super) priority: u32,
    pub(super) route: Option<Uuid>,
    pub(super) service: Option<Uuid>,
    pub(super) consumer: Option<Uuid>,
    pub(super) group: Option<Uuid>,
    pub(super) filter: usize,
}

impl Placed {
    pub(super) fn is_for_everybody(self) -> bool {
        self.consumer.is_none() && self.group.is_none()
    }

    pub(super) fn choice(self) -> Choice {
        let whose = match (self.consumer, self.group) {
            (Some(_), Some(_)) => Whose::Member,
            (Some(_), None) => Whose::Consumer,
            (None, Some(_)) => Whose::Group,
            (None, None) => Whose::Everybody,
        };
        Choice {
            rank: rank(self.route.is_some(), self.service.is_some(), whose),
            filter: self.filter,
        }
    }

    pub(super) fn put(self, variants: &mut Variants) {
        let choice = self.choice();
        let (map, id) = match (self.consumer, self.group) {
            (Some(consumer), Some(group)) => {
                let own = variants.members.entry(consumer).or_default();
                return own.push((group, choice));
            }
            (Some(consumer), None) => (&mut variants.consumers, consumer),
            (None, Some(group)) => (&mut variants.groups, group),
            (None, None) => return,
        };
        let kept = map.entry(id).or_insert(choice);
        if kept.rank < choice.rank {
            *kept = choice;
        }
    }
}

/// The fault of a plugin that there is no room for: of the whole configuration, since each takes a part of it.
pub(in crate::compile) fn no_room(id: Uuid, message: String) -> CompileFault {
    CompileFault {
        kind: Plugin::KIND,
        id,
        field: "config".to_owned(),
        message,
    }
}

/// The filter of `plugin`, which is to have the place `filter`. One that cannot run lets nothing pass, unless requests
/// can go on without it. Of one that has a fault already, which `is_faulty` says, nothing more is told.
pub(super) fn compile(
    plugin: &Plugin,
    filter: usize,
    is_faulty: bool,
    faults: &mut Vec<CompileFault>,
) -> Option<(Placed, AnyFilter)> {
    let fault = |field: String, message: String| CompileFault {
        kind: Plugin::KIND,
        id: plugin.id,
        field,
        message,
    };
    let Some(definition) = registry::definition(&plugin.name) else {
        let message = format!("there is no plugin '{}'", plugin.name);
        faults.push(fault("name".to_owned(), message));
        return None;
    };
    let config = || Value::Object(plugin.config.clone());
    let compiled = (!is_faulty)
        .then(|| registry::compile(&plugin.name, config(), &Instance { id: plugin.id }))
        .and_then(|compiled| {
            let because = |errors: FieldErrors| {
                faults.extend(errors.by_field.iter().map(|(field, message)| {
                    let text = message.as_str();
                    let text = text.map_or_else(|| message.to_string(), str::to_owned);
                    fault(format!("config.{field}"), text)
                }));
            };
            compiled.map_err(because).ok()
        });
    let compiled = compiled.or_else(|| (!definition.dispensable).then(registry::barrier))?;
    let placed = Placed {
        id: plugin.id,
        name: definition.name,
        priority: definition.priority,
        route: plugin.route.map(|reference| reference.id),
        service: plugin.service.map(|reference| reference.id),
        consumer: plugin.consumer.map(|reference| reference.id),
        group: plugin.consumer_group.map(|reference| reference.id),
        filter,
    };
    Some((placed, compiled))
}
