//! The field `snis` of a certificate: names that are records of their own, written along with it in one
//! change. Kong's certificates also go by these names.

use serde_json::{Value, json};
use shared::entity::{Certificate, Definition, Entity, Sni};
use shared::schema::FieldErrors;
use shared::snapshot::Key;
use shared::types::check_format;

use super::{Action, Body, Command, Context, Decision, Rejection, Selector, decide, find};
use crate::config::{Config, Fields, foreign_id};

/// The certificate that is presented for the server name `name`.
pub(super) fn certificate_of(config: &Config, name: &str) -> Option<Key> {
    let id = config.find(Sni::KIND, "name", name)?;
    let sni = config.record(Key {
        kind: Sni::KIND,
        id,
    })?;
    Some(Key {
        kind: Certificate::KIND,
        id: foreign_id(&sni, "certificate")?,
    })
}

/// The server names of a certificate, sorted.
pub(crate) fn names(config: &Config, certificate: Key) -> Vec<String> {
    let mut names: Vec<String> = config
        .children(certificate, Sni::KIND, uuid::Uuid::nil())
        .filter_map(|key| Some(config.record(key)?.get("name")?.as_str()?.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// Decides a command on certificates: the record, then the server names that are to lead to it.
pub(super) fn decide_with_names(
    config: &Config,
    entity: &'static Definition,
    command: &Command,
    context: &Context,
) -> Result<Decision, Rejection> {
    let mut command = command.clone();
    let wanted = match &mut command.action {
        Action::Create(body) => take_names(body)?,
        // PUT replaces: names that are not given are gone.
        Action::Upsert(selector, body) => {
            let given = take_names(body)?;
            let found = find(config, entity, selector)?;
            let keeps = given.as_ref().is_some_and(|names| !names.is_empty());
            let mut wanted = given.unwrap_or_default();
            if let Selector::Name(name) = selector {
                // The name in the URL is one of those that lead here. Of a body without names Kong makes none: what was
                // there loses them, since PUT replaces. Only a new one keeps it, or nobody could find that again.
                if (keeps || found.is_none()) && !wanted.contains(name) {
                    wanted.push(name.clone());
                }
                *selector = Selector::Id(found.map_or(context.id, |key| key.id));
            }
            Some(wanted)
        }
        Action::Patch(selector, body) => {
            if let (Selector::Name(_), Some(key)) = (&*selector, find(config, entity, selector)?) {
                *selector = Selector::Id(key.id);
            }
            take_names(body)?
        }
        _ => None,
    };
    let mut decision = super::decide_record(config, entity, &command, context)?;
    let (Some(wanted), Some((key, _))) = (wanted, &decision.record) else {
        return Ok(decision);
    };
    let key = *key;
    let mut next = config.evolve(&decision.change, config.revision());
    for name in &wanted {
        let holder = certificate_of(config, name).filter(|holder| *holder != key);
        if let Some(holder) = holder {
            let message = format!(
                "{name} already associated with existing certificate '{}'",
                holder.id
            );
            return Err(Rejection::Invalid(FieldErrors::at(&["snis"], message)));
        }
    }
    let current = names(config, key);
    let gone = current.iter().filter(|name| !wanted.contains(name));
    let new = wanted.iter().filter(|name| !current.contains(name));
    let actions = gone
        .map(|name| Action::Delete(Selector::Name(name.clone())))
        .chain(new.map(|name| Action::Create(Body::Json(sni(name, key)))));
    for (at, action) in actions.enumerate() {
        let command = Command {
            entity: Sni::KIND,
            action,
            parents: Vec::new(),
        };
        let step = decide(&next, &command, &context.child(at))?;
        next = next.evolve(&step.change, config.revision());
        decision.change.puts.extend(step.change.puts);
        decision.change.removes.extend(step.change.removes);
    }
    Ok(decision)
}

fn sni(name: &str, certificate: Key) -> Fields {
    let mut fields = Fields::new();
    fields.insert("name".to_owned(), name.into());
    fields.insert(
        "certificate".to_owned(),
        json!({ "id": certificate.id.to_string() }),
    );
    fields
}

/// Takes the names out of a body; `None` if it does not speak of them.
fn take_names(body: &mut Body) -> Result<Option<Vec<String>>, Rejection> {
    let (Body::Json(fields) | Body::Form(fields)) = body;
    let refused = |message: String| Rejection::Invalid(FieldErrors::at(&["snis"], message));
    let list = match fields.shift_remove("snis") {
        None => return Ok(None),
        Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text
            .split(',')
            .filter(|name| !name.is_empty())
            .map(Value::from)
            .collect(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(refused("expected an array".to_owned())),
    };
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for value in list {
        let Value::String(name) = value else {
            return Err(refused("expected a string".to_owned()));
        };
        check_format("kong-sni", &name).map_err(refused)?;
        if names.contains(&name) {
            return Err(refused(format!("{name} is duplicated")));
        }
        names.push(name);
    }
    Ok(Some(names))
}
