//! Consumer groups and who is in them: the one family whose replies have shapes of their own.
//!
//! ```text
//!  /consumer_groups/{g}                       {"consumer_group": …, "consumers": […], "plugins": […]}
//!  /consumer_groups/{g}/consumers[/{c}]       {"consumers": […]}
//!  /consumers/{c}/consumer_groups[/{g}]       {"consumer_groups": […]}
//! ```

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::entity::{Consumer, ConsumerGroup, ConsumerGroupConsumer, Entity, Plugin, definition};
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::show::show;
use crate::command::{Action, Body, Command, Selector, find};
use crate::config::{Config, Fields, foreign_id};

/// Which side a URL starts from, and whom it names on the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    /// The record that the URL starts from.
    pub(super) owner: Key,
    /// The other one, if the URL goes that far.
    pub(super) other: Option<Key>,
}

impl Membership {
    /// Reads the URL's last part: who is named on the other side of `owner`.
    pub(super) fn parse(config: &Config, owner: Key, other: Option<&str>) -> Result<Self, Refusal> {
        let other = match other {
            None => None,
            Some(text) => {
                let kind = other_side(owner);
                Some(record(config, kind, text)?.ok_or_else(|| absent(kind, text))?)
            }
        };
        Ok(Self { owner, other })
    }

    /// The methods that the URL takes.
    pub(super) const fn methods(&self) -> &'static [Method] {
        Self::methods_of(self.other.is_some())
    }

    /// The methods of the URL of `one` membership, or of all.
    pub(super) const fn methods_of(one: bool) -> &'static [Method] {
        if one {
            &[Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS]
        } else {
            &[
                Method::DELETE,
                Method::GET,
                Method::HEAD,
                Method::OPTIONS,
                Method::POST,
            ]
        }
    }

    /// What a read shows.
    pub(super) fn read(&self, config: &Config) -> Result<Value, Refusal> {
        if let Some(other) = self.other {
            member(config, self.owner, other).ok_or_else(|| self.no_member(other))?;
            let record = config.record(other).ok_or(Refusal::NotFound)?;
            return Ok(json!({ singular(other): show(config, other, &record) }));
        }
        Ok(json!({ other_side(self.owner): others(config, self.owner) }))
    }

    /// The commands that a write comes to, and what answers it.
    pub(super) fn plan(
        &self,
        config: &Config,
        method: &Method,
        body: &Body,
    ) -> Result<(Vec<Command>, StatusCode, Joined), Refusal> {
        let owner = self.owner;
        if *method != Method::POST {
            let members: Vec<Key> = match self.other {
                Some(other) => {
                    let member = member(config, self.owner, other);
                    vec![member.ok_or_else(|| self.no_member(other))?]
                }
                None => memberships(config, self.owner).collect(),
            };
            let deletes = members
                .into_iter()
                .map(|key| command(Action::Delete(Selector::Id(key.id))));
            let nobody = Joined {
                owner,
                others: Vec::new(),
            };
            return Ok((deletes.collect(), StatusCode::NO_CONTENT, nobody));
        }
        let others = self.named(config, body)?;
        let joins = others
            .iter()
            .map(|other| command(Action::Create(Body::Json(membership(owner, *other)))));
        let joins = joins.collect();
        Ok((joins, StatusCode::CREATED, Joined { owner, others }))
    }

    /// Whom a body names on the other side.
    fn named(&self, config: &Config, body: &Body) -> Result<Vec<Key>, Refusal> {
        let (Body::Json(fields) | Body::Form(fields)) = body;
        let kind = other_side(self.owner);
        let field = if self.owner.kind == ConsumerGroup::KIND {
            "consumer"
        } else {
            "group"
        };
        let listed = match fields.get(field) {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            Some(Value::Object(key)) => {
                let name = definition(kind).and_then(|other| other.name_field);
                let given = key.get("id").or_else(|| key.get(name?));
                given.and_then(Value::as_str).into_iter().collect()
            }
            _ => Vec::new(),
        };
        if listed.is_empty() {
            return Err(Refusal::Argument(format!("must provide {field}")));
        }
        let mut named = Vec::new();
        for text in listed {
            let other = record(config, kind, text)?.ok_or_else(|| absent(kind, text))?;
            if member(config, self.owner, other).is_some() {
                let (consumer, group) = if kind == Consumer::KIND {
                    (text.to_owned(), self.owner.id.to_string())
                } else {
                    (self.owner.id.to_string(), text.to_owned())
                };
                let message = format!("Consumer '{consumer}' already in group '{group}'");
                return Err(Refusal::Conflict(message));
            }
            if !named.contains(&other) {
                named.push(other);
            }
        }
        Ok(named)
    }

    /// The refusal where `other` does not belong to the owner.
    fn no_member(&self, other: Key) -> Refusal {
        let (consumer, group) = if other.kind == Consumer::KIND {
            (other.id, self.owner.id)
        } else {
            (self.owner.id, other.id)
        };
        Refusal::Absent(format!(
            "Consumer '{consumer}' not found in Group '{group}'"
        ))
    }
}

/// Who has come together by a write.
#[derive(Debug)]
pub(super) struct Joined {
    owner: Key,
    others: Vec<Key>,
}

impl Joined {
    /// What answers the write: the owner and the new ones, not who was there before.
    pub(super) fn show(&self, config: &Config) -> Result<Value, Refusal> {
        let owner = config.record(self.owner).ok_or(Refusal::NotFound)?;
        let others = self.others.iter().copied();
        Ok(json!({
            singular(self.owner): show(config, self.owner, &owner),
            other_side(self.owner): shown(config, others),
        }))
    }
}

/// One group as a read shows it.
pub(super) fn group(config: &Config, key: Key, fields: &Fields, query: Option<&str>) -> Value {
    let mut reply = Map::new();
    reply.insert("consumer_group".to_owned(), show(config, key, fields));
    let listed = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .all(|(name, value)| name != "list_consumers" || value != "false");
    if listed {
        reply.insert("consumers".to_owned(), others(config, key));
    }
    let plugins = config
        .children(key, Plugin::KIND, Uuid::nil())
        .filter_map(|plugin| Some(show(config, plugin, &*config.record(plugin)?)))
        .collect::<Vec<_>>();
    if !plugins.is_empty() {
        reply.insert("plugins".to_owned(), plugins.into());
    }
    Value::Object(reply)
}

/// The refusal of a consumer or a group that is not there.
pub(super) fn absent(kind: &'static str, text: &str) -> Refusal {
    let noun = if kind == Consumer::KIND {
        "Consumer"
    } else {
        "Group"
    };
    Refusal::Absent(format!("{noun} '{text}' not found"))
}

fn command(action: Action) -> Command {
    Command {
        entity: ConsumerGroupConsumer::KIND,
        action,
        parents: Vec::new(),
    }
}

fn membership(one: Key, other: Key) -> Fields {
    let mut fields = Fields::new();
    for key in [one, other] {
        let id = json!({ "id": key.id.to_string() });
        fields.insert(singular(key).to_owned(), id);
    }
    fields
}

fn other_side(owner: Key) -> &'static str {
    if owner.kind == ConsumerGroup::KIND {
        Consumer::KIND
    } else {
        ConsumerGroup::KIND
    }
}

fn singular(key: Key) -> &'static str {
    if key.kind == ConsumerGroup::KIND {
        "consumer_group"
    } else {
        "consumer"
    }
}

fn record(config: &Config, kind: &'static str, text: &str) -> Result<Option<Key>, Refusal> {
    let entity = definition(kind).ok_or(Refusal::NotFound)?;
    Ok(find(config, entity, &Selector::parse(text))?)
}

fn memberships(config: &Config, owner: Key) -> impl Iterator<Item = Key> {
    config.children(owner, ConsumerGroupConsumer::KIND, Uuid::nil())
}

/// The membership that ties `other` to `owner`.
fn member(config: &Config, owner: Key, other: Key) -> Option<Key> {
    memberships(config, owner).find(|key| {
        let fields = config.record(*key);
        fields.and_then(|fields| foreign_id(&fields, singular(other))) == Some(other.id)
    })
}

/// All on the other side of `owner`.
fn others(config: &Config, owner: Key) -> Value {
    let kind = other_side(owner);
    let field = if kind == Consumer::KIND {
        "consumer"
    } else {
        "consumer_group"
    };
    let others = memberships(config, owner).filter_map(|key| {
        let id = foreign_id(&*config.record(key)?, field)?;
        Some(Key { kind, id })
    });
    shown(config, others)
}

/// The records in the form of a list's.
fn shown(config: &Config, keys: impl Iterator<Item = Key>) -> Value {
    keys.filter_map(|key| Some(show(config, key, &*config.record(key)?)))
        .collect()
}
