//! A new record that an existing one points to, in one change: PUT on an empty foreign key, such as
//! `/routes/{route}/service`.

use serde_json::{Value, json};
use shared::entity::Definition;
use shared::snapshot::Key;

use super::{Action, Body, Command, Context, Decision, Rejection, Selector, decide};
use crate::config::{Config, Fields, foreign_id};

/// Makes the record and links `owner` to it by `field`. Should `owner` have got one in the meantime, that
/// one is replaced, as PUT does. Both records pass every check that they would pass alone.
pub(super) fn link(
    config: &Config,
    entity: &'static Definition,
    owner: Key,
    field: &str,
    body: &Body,
    context: &Context,
) -> Result<Decision, Rejection> {
    let selector = Selector::Id(owner.id);
    let holder = config
        .record(owner)
        .ok_or_else(|| Rejection::NotFound(selector.clone(), "id"))?;
    let action = foreign_id(&holder, field).map_or_else(
        || Action::Create(body.clone()),
        |id| Action::Upsert(Selector::Id(id), body.clone()),
    );
    let linked = matches!(action, Action::Upsert(..));
    let mut decision = decide(config, &command(entity.kind, action), context)?;
    if linked {
        return Ok(decision);
    }
    let Some((made, _)) = &decision.record else {
        return Ok(decision);
    };
    let mut pointer = Fields::new();
    pointer.insert(
        field.to_owned(),
        json!({ "id": Value::from(made.id.to_string()) }),
    );
    let next = config.evolve(&decision.change, config.revision());
    let patch = Action::Patch(selector, Body::Json(pointer));
    let changed = decide(&next, &command(owner.kind, patch), context)?;
    decision.change.puts.extend(changed.change.puts);
    Ok(decision)
}

fn command(entity: &'static str, action: Action) -> Command {
    Command {
        entity,
        action,
        parents: Vec::new(),
    }
}
