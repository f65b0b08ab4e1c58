//! Records whose names are unique only within their parent, such as an ACL, which goes by its group below its consumer.

use serde_json::Value;
use shared::entity::Definition;
use shared::snapshot::Key;
use uuid::Uuid;

use super::{Action, Body, Command, Selector};
use crate::config::Config;

/// The field that a record may go by below the one that its foreign key `parent` points to.
pub(crate) fn local_name(entity: &Definition, parent: &str) -> Option<&'static str> {
    entity.unique.iter().find_map(|set| match set {
        [one, other] if *one == parent => Some(*other),
        _ => None,
    })
}

/// The record below `parent` whose `field` is `name`.
pub(crate) fn find_local(
    config: &Config,
    entity: &Definition,
    parent: Key,
    (field, name): (&str, &str),
) -> Option<Key> {
    let mut children = config.children(parent, entity.kind, Uuid::nil());
    children.find(|key| {
        let fields = config.record(*key);
        fields.is_some_and(|fields| fields.get(field).and_then(Value::as_str) == Some(name))
    })
}

/// What `command` is where it is a PUT by such a name: of the record that has it, or of a new one. It is looked for only
/// when the decision is made, so that of several at once one makes it and the others find it.
pub(super) fn resolve(config: &Config, entity: &Definition, command: &Command) -> Option<Command> {
    let (Action::Upsert(Selector::Name(name), body), None) = (&command.action, entity.name_field)
    else {
        return None;
    };
    let mut parents = command.parents.iter();
    let (parent, field) = parents.find_map(|(foreign, id)| {
        let field = local_name(entity, foreign)?;
        let (_, kind) = entity.foreign_keys().find(|(own, _)| own == foreign)?;
        Some((Key { kind, id: *id }, field))
    })?;
    let mut body = body.clone();
    let (Body::Json(fields) | Body::Form(fields)) = &mut body;
    fields.insert(field.to_owned(), name.as_str().into());
    let found = find_local(config, entity, parent, (field, name));
    Some(Command {
        action: match found {
            Some(key) => Action::Upsert(Selector::Id(key.id), body),
            None => Action::Create(body),
        },
        ..command.clone()
    })
}
