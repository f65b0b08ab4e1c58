//! What a request refers to, for permissions: its path in every spelling, the records above it, and the other paths of
//! the record that it means. A prohibition of a record holds whichever path leads to it.

use http::Method;
use shared::entity::{Certificate, Definition, Entity, RbacRole, RbacUser, definition};
use shared::snapshot::Key;

use super::rules::Part;
use crate::admin::endpoint::{self, Endpoint};
use crate::admin::place::Place;
use crate::command::{Selector, certificate_names, find, local_name};
use crate::config::{Config, foreign_id};

/// What a request is about.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Its path, without the workspace.
    pub(super) path: Vec<Part>,
    /// Where else it may be forbidden, unless it is permitted by its own path: the records that its path leads through,
    /// and the collection that it adds to.
    pub(super) above: Vec<Vec<Part>>,
    /// The paths of the record that it means.
    pub(super) record: Vec<Vec<Part>>,
    /// The records that its path leads through.
    pub(super) on_the_way: Vec<Key>,
    /// The record that it means.
    pub(super) meant: Option<Key>,
}

impl Asked {
    /// `config` is that of the workspace that the request is about.
    pub(super) fn of(place: &Place, segments: &[String], method: &Method, config: &Config) -> Self {
        let mut asked = Self {
            path: segments.iter().map(|part| vec![part.clone()]).collect(),
            ..Self::default()
        };
        // Of what is no page, or of a record that cannot be, there is nothing more to be known.
        match endpoint::parse(&place.path, config) {
            Ok(Endpoint::Collection { entity, parent }) => {
                if let Some(parent) = parent {
                    asked.above.push(vec![word(entity.path)]);
                    asked.through(config, 1, parent.key);
                }
            }
            Ok(Endpoint::Record {
                entity,
                selector,
                parent,
            }) => {
                let key = find(config, entity, &selector).ok().flatten();
                if let Some(parent) = parent {
                    asked.through(config, 1, parent.key);
                    asked.spell(config, 3, key);
                } else {
                    asked.spell(config, 1, key);
                }
                asked.means(config, entity, key, method);
            }
            Ok(Endpoint::Unborn { entity, parent, .. }) => {
                asked.through(config, 1, parent.key);
                asked.means(config, entity, None, method);
            }
            Ok(Endpoint::Foreign {
                entity, key, owner, ..
            }) => {
                asked.through(config, 1, owner);
                asked.means(config, entity, key, method);
            }
            Ok(Endpoint::Membership(membership)) => {
                asked.through(config, 1, membership.owner);
                asked.spell(config, 3, membership.other);
            }
            Ok(Endpoint::Health(upstream)) => asked.through(config, 1, upstream),
            Ok(Endpoint::Mark {
                upstream, target, ..
            }) => {
                asked.through(config, 1, upstream);
                asked.through(config, 3, target);
            }
            _ => asked.administers(segments, config),
        }
        asked
    }

    /// The same for `/rbac`, whose paths are no entities'.
    fn administers(&mut self, segments: &[String], config: &Config) {
        let [first, kind, one, ..] = segments else {
            return;
        };
        let kind = match (first.as_str(), kind.as_str()) {
            ("rbac", "users") => RbacUser::KIND,
            ("rbac", "roles") => RbacRole::KIND,
            _ => return,
        };
        let found =
            definition(kind).and_then(|entity| find(config, entity, &Selector::parse(one)).ok()?);
        if let Some(key) = found {
            self.through(config, 2, key);
        }
    }

    /// Part `at` of the path names `key`, if there is such a record.
    fn spell(&mut self, config: &Config, at: usize, key: Option<Key>) {
        if let (Some(part), Some(key)) = (self.path.get_mut(at), key) {
            part.extend(names(config, key));
        }
    }

    /// The same, and what is asked lies below that record.
    fn through(&mut self, config: &Config, at: usize, key: Key) {
        self.spell(config, at, Some(key));
        self.on_the_way.push(key);
        if let Some(above) = self
            .path
            .get(..=at)
            .filter(|above| above.len() < self.path.len())
        {
            self.above.push(above.to_vec());
        }
    }

    /// The request means the record `key`, or would make one.
    fn means(&mut self, config: &Config, entity: &Definition, key: Option<Key>, method: &Method) {
        self.meant = key;
        match key {
            Some(key) => self.record = paths(config, key),
            None if *method == Method::PUT => self.above.push(vec![word(entity.path)]),
            None => {}
        }
    }
}

/// What the paths of records of `kind` begin with: those that stand alone, and those below other records.
pub(super) fn beginnings(kind: &str) -> impl Iterator<Item = &'static str> {
    let entity = definition(kind);
    let alone = entity.map(|entity| match entity.kind {
        RbacUser::KIND | RbacRole::KIND => "rbac",
        _ => entity.path,
    });
    let below = entity.into_iter().flat_map(|entity| {
        let parents = entity
            .nested
            .iter()
            .filter_map(|(field, _)| parent_of(entity, field));
        parents.map(|parent| parent.path)
    });
    alone.into_iter().chain(below)
}

/// Every path of a record.
pub(super) fn paths(config: &Config, key: Key) -> Vec<Vec<Part>> {
    let (Some(entity), Some(fields)) = (definition(key.kind), config.record(key)) else {
        return Vec::new();
    };
    let own = names(config, key);
    let alone = match entity.kind {
        RbacUser::KIND => vec![word("rbac"), word("users"), own.clone()],
        RbacRole::KIND => vec![word("rbac"), word("roles"), own.clone()],
        _ => vec![word(entity.path), own.clone()],
    };
    let below = entity.nested.iter().filter_map(|(field, name)| {
        let (parent, id) = (parent_of(entity, field)?, foreign_id(&fields, field)?);
        let above = names(
            config,
            Key {
                kind: parent.kind,
                id,
            },
        );
        Some(vec![word(parent.path), above, word(name), own.clone()])
    });
    std::iter::once(alone).chain(below).collect()
}

/// The entity that a foreign key of another points to.
pub(super) fn parent_of(entity: &Definition, field: &str) -> Option<&'static Definition> {
    let (_, kind) = entity.foreign_keys().find(|(own, _)| *own == field)?;
    definition(kind)
}

/// What a record goes by in a URL.
fn names(config: &Config, key: Key) -> Part {
    let mut names = vec![key.id.to_string()];
    if key.kind == Certificate::KIND {
        names.extend(certificate_names(config, key));
        return names;
    }
    let field = definition(key.kind).and_then(|entity| {
        let mut below = entity.nested.iter();
        let local = || below.find_map(|(parent, _)| local_name(entity, parent));
        entity.name_field.or_else(local)
    });
    let fields = config.record(key);
    if let (Some(field), Some(fields)) = (field, fields)
        && let Some(name) = fields.get(field).and_then(serde_json::Value::as_str)
    {
        names.push(name.to_owned());
    }
    names
}

fn word(text: &str) -> Part {
    vec![text.to_owned()]
}
