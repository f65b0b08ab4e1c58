//! What a URL means. Every entity's endpoints follow from its definition.

use std::net::{IpAddr, SocketAddr};
use std::str::Utf8Error;

use http::Method;
use percent_encoding::percent_decode_str;
use shared::authority::bare;
use shared::entity::{
    Certificate, Consumer, ConsumerGroup, Definition, Entity, Sni, Target, Upstream, definition,
    definition_at, definitions,
};
use shared::snapshot::Key;
use shared::types::{check_format, with_target_port};

use super::error::Refusal;
use super::groups::{Membership, absent};
use crate::command::{Rejection, Selector, find, find_local, local_name};
use crate::config::{Config, Fields, foreign_id};

/// What a URL means.
#[derive(Debug)]
pub(super) enum Endpoint {
    /// `/`
    Root,
    /// `/status`
    Status,
    /// `/status/dns`
    DnsStatus,
    /// `/timers`
    Timers,
    /// `/metrics`
    Metrics,
    /// `/cache`, `/cache/{key}`: whether a key is named.
    Cache(bool),
    /// `/debug/node/log-level`
    LogLevel,
    /// `/debug/node/log-level/{level}`
    SetLogLevel(String),
    /// `/upstreams/{u}/health`
    Health(Key),
    /// `/upstreams/{u}/targets/{t}[/{address}]/healthy`, and the same with `unhealthy`
    Mark {
        upstream: Key,
        target: Key,
        /// One of the target's addresses, with a port or with any.
        address: Option<(IpAddr, Option<u16>)>,
        healthy: bool,
    },
    /// `/endpoints`
    Endpoints,
    /// `/tags`, `/tags/{tag}`
    Tags(Option<String>),
    /// `/plugins/enabled`
    EnabledPlugins,
    /// `/clustering/data-planes`
    DataPlanes,
    /// `/clustering/status`
    ClusteringStatus,
    /// `/schemas/{entity}`
    Schema(&'static Definition),
    /// `/schemas/tags`
    TagsSchema,
    /// `/schemas/plugins/{name}`
    PluginSchema(String),
    /// `/plugins/schema/{name}`: the configuration's fields alone.
    ConfigSchema(String),
    /// `/schemas/vaults/{name}`
    VaultSchema(String),
    /// `/schemas/{entity}/validate`
    ValidateEntity(&'static Definition),
    /// `/schemas/plugins/validate`
    ValidatePlugin,
    /// `/{entity}`, `/{parent}/{p}/{entity}`
    Collection {
        entity: &'static Definition,
        parent: Option<Parent>,
    },
    /// `/{entity}/{e}`, `/{parent}/{p}/{entity}/{e}`
    Record {
        entity: &'static Definition,
        selector: Selector,
        parent: Option<Parent>,
    },
    /// `/{parent}/{p}/{entity}/{name}` of a record that is not there yet and would go by a name that is unique only
    /// below its parent.
    Unborn {
        entity: &'static Definition,
        parent: Parent,
    },
    /// `/{entity}/{e}/{foreign}`: the record pointed to; `None` while the foreign key is empty.
    Foreign {
        entity: &'static Definition,
        key: Option<Key>,
        /// The record that points, and by which foreign key.
        owner: Key,
        field: &'static str,
    },
    /// `/consumer_groups/{g}/consumers[/{c}]`, `/consumers/{c}/consumer_groups[/{g}]`
    Membership(Membership),
    /// `/config`: for a Kong without a database.
    DeclarativeConfig,
}

/// The record that a nested URL starts from.
#[derive(Debug)]
pub(super) struct Parent {
    /// The foreign key that points to it.
    pub(super) field: &'static str,
    /// The record.
    pub(super) key: Key,
    /// What the record below it goes by in the URL, if that is a name only there.
    pub(super) child: Option<String>,
}

const COLLECTION: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS, Method::POST];

const FOREIGN: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::PUT,
];

const READ: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS];

const VALIDATE: &[Method] = &[Method::OPTIONS, Method::POST];

/// Kong 2.8 takes POST, 3.x PUT.
const MARK: &[Method] = &[Method::OPTIONS, Method::POST, Method::PUT];

/// The methods that a record takes, sorted.
pub(super) const RECORD: &[Method] = &[
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::PUT,
];

impl Endpoint {
    /// The methods that it takes, sorted.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Collection { .. } | Self::DeclarativeConfig => COLLECTION,
            Self::Record { .. } | Self::Unborn { .. } => RECORD,
            Self::Foreign { .. } => FOREIGN,
            Self::Mark { .. } => MARK,
            Self::Membership(membership) => membership.methods(),
            Self::SetLogLevel(_) => &[Method::OPTIONS, Method::PUT],
            Self::Cache(false) => &[Method::DELETE, Method::OPTIONS],
            Self::Cache(true) => &[Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS],
            Self::ValidateEntity(_) | Self::ValidatePlugin => VALIDATE,
            _ => READ,
        }
    }
}

pub(super) fn parse(path: &str, config: &Config) -> Result<Endpoint, Refusal> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Ok(Endpoint::Root);
    }
    let segments = segments(trimmed)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match *segments.as_slice() {
        ["status"] => Ok(Endpoint::Status),
        ["status", "dns"] => Ok(Endpoint::DnsStatus),
        ["timers"] => Ok(Endpoint::Timers),
        ["metrics"] => Ok(Endpoint::Metrics),
        ["cache"] => Ok(Endpoint::Cache(false)),
        ["cache", _] => Ok(Endpoint::Cache(true)),
        ["debug", "node", "log-level"] => Ok(Endpoint::LogLevel),
        ["debug", "node", "log-level", level]
        | [
            "debug",
            "cluster",
            "control-planes-nodes",
            "log-level",
            level,
        ] => Ok(Endpoint::SetLogLevel(level.to_owned())),
        ["endpoints"] => Ok(Endpoint::Endpoints),
        ["tags"] => Ok(Endpoint::Tags(None)),
        ["tags", tag] => match check_format("kong-tag", tag) {
            Ok(()) => Ok(Endpoint::Tags(Some(tag.to_owned()))),
            Err(message) => Err(no_tag(message)),
        },
        ["plugins", "enabled"] => Ok(Endpoint::EnabledPlugins),
        ["clustering", "data-planes"] => Ok(Endpoint::DataPlanes),
        ["clustering", "status"] => Ok(Endpoint::ClusteringStatus),
        ["schemas", "plugins", "validate"] => Ok(Endpoint::ValidatePlugin),
        ["plugins", "schema", name] => Ok(Endpoint::ConfigSchema(name.to_owned())),
        ["schemas", "vaults", name] if name != "validate" => {
            Ok(Endpoint::VaultSchema(name.to_owned()))
        }
        ["schemas", "plugins", name] => Ok(Endpoint::PluginSchema(name.to_owned())),
        ["config"] => Ok(Endpoint::DeclarativeConfig),
        ["schemas", "tags"] => Ok(Endpoint::TagsSchema),
        // No WebAssembly runs in data planes.
        ["filter-chains", ..]
        | ["services" | "routes", _, "filter-chains", ..]
        | ["routes", _, "filters", "all" | "disabled" | "enabled"] => {
            Err(Refusal::NeedsSetting("wasm is enabled"))
        }
        // Superseded by plugins of the group, and never served here.
        ["consumer_groups", _, "overrides", ..] => Err(Refusal::Absent(
            "consumer groups have no overrides; give the group a plugin of its own: \
             /consumer_groups/{group}/plugins"
                .to_owned(),
        )),
        ["schemas", name] => Ok(Endpoint::Schema(schema_of(name)?)),
        ["schemas", name, "validate"] => Ok(Endpoint::ValidateEntity(schema_of(name)?)),
        [kind] => Ok(Endpoint::Collection {
            entity: top_level(kind)?,
            parent: None,
        }),
        [kind, selector] => Ok(Endpoint::Record {
            entity: top_level(kind)?,
            selector: Selector::parse(selector),
            parent: None,
        }),
        [kind, selector, name] => nested(config, kind, selector, name, None),
        [kind, selector, name, child] => nested(config, kind, selector, name, Some(child)),
        [
            Upstream::KIND,
            upstream,
            "targets",
            target,
            ref address @ ..,
            word @ ("healthy" | "unhealthy"),
        ] if address.len() < 2 => {
            let address = address.first().copied();
            mark(config, (upstream, target, address), word == "healthy")
        }
        _ => Err(Refusal::NotFound),
    }
}

/// The segments of a path, decoded. What is no UTF-8 is no page, but may have been meant as a tag, of which Kong says so.
fn segments(path: &str) -> Result<Vec<String>, Refusal> {
    let decode = |part| percent_decode_str(part).decode_utf8().map(String::from);
    let segments: Result<_, _> = path.split('/').map(decode).collect();
    segments.map_err(|error: Utf8Error| {
        if !path.starts_with("tags/") {
            return Refusal::NotFound;
        }
        no_tag(format!(
            "invalid utf-8 character sequence detected at position {}",
            error.valid_up_to() + 1
        ))
    })
}

/// Whether a record is below the parent that the URL names.
pub(super) fn below(fields: &Fields, parent: Option<&Parent>) -> bool {
    parent.is_none_or(|parent| foreign_id(fields, parent.field) == Some(parent.key.id))
}

/// The refusal of a tag that no record can have.
fn no_tag(message: String) -> Refusal {
    Refusal::from(Rejection::InvalidUnique("tag", message))
}

/// The entity that URLs call `path`.
fn public(path: &str) -> Result<&'static Definition, Refusal> {
    definition_at(path)
        .filter(|entity| entity.public)
        .ok_or(Refusal::NotFound)
}

/// The same, if its collection also stands alone.
fn top_level(path: &str) -> Result<&'static Definition, Refusal> {
    public(path).and_then(|entity| {
        if entity.top_level {
            Ok(entity)
        } else {
            Err(Refusal::NotFound)
        }
    })
}

/// The refusal of a record that is not there. Of groups, and of certificates that go by a server name, Kong says so.
pub(super) fn missing(entity: &Definition, selector: &Selector) -> Refusal {
    match selector {
        _ if entity.kind == ConsumerGroup::KIND => absent(entity.kind, &selector.to_string()),
        Selector::Name(_) if entity.kind == Certificate::KIND => {
            Refusal::Absent("SNI not found".to_owned())
        }
        _ => Refusal::NotFound,
    }
}

fn schema_of(name: &str) -> Result<&'static Definition, Refusal> {
    definition(name)
        .filter(|entity| entity.public)
        .ok_or_else(|| Refusal::Absent(format!("No entity named '{name}'")))
}

/// What an operator says of a target, or of one of its addresses.
fn mark(
    config: &Config,
    (upstream, target, address): (&str, &str, Option<&str>),
    healthy: bool,
) -> Result<Endpoint, Refusal> {
    let found = nested(config, Upstream::KIND, upstream, "targets", Some(target))?;
    let (
        Endpoint::Record {
            entity,
            selector: Selector::Id(target),
            parent: Some(parent),
        },
        Ok(address),
    ) = (found, address.map(address_of).transpose())
    else {
        return Err(Refusal::NotFound);
    };
    let key = Key {
        kind: entity.kind,
        id: target,
    };
    let fields = config.record(key).ok_or(Refusal::NotFound)?;
    if foreign_id(&fields, parent.field) != Some(parent.key.id) {
        return Err(Refusal::NotFound);
    }
    Ok(Endpoint::Mark {
        upstream: parent.key,
        target: key,
        address,
        healthy,
    })
}

/// An address as a target's health lists it, with its port or without. A name is none.
fn address_of(text: &str) -> Result<(IpAddr, Option<u16>), std::net::AddrParseError> {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Ok((both.ip(), Some(both.port())));
    }
    bare(text).parse().map(|address| (address, None))
}

/// What a path below a record takes, whether or not that record is there: a browser asks so before it sends, and reads no
/// answer that refuses this (Fetch, CORS-preflight fetch).
pub(super) fn methods_below(path: &str) -> Option<&'static [Method]> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    let (kind, name, child) = match *segments.as_slice() {
        ["schemas", "plugins" | "vaults", name] if name != "validate" => return Some(READ),
        ["schemas", _] | ["plugins", "schema", _] => return Some(READ),
        ["schemas", _, "validate"] => return Some(VALIDATE),
        [kind, _, name] => (kind, name, None),
        [kind, _, name, child] => (kind, name, Some(child)),
        [Upstream::KIND, _, "targets", _, "healthy" | "unhealthy"]
        | [Upstream::KIND, _, "targets", _, _, "healthy" | "unhealthy"] => return Some(MARK),
        _ => return None,
    };
    let entity = top_level(kind).ok()?;
    match (entity.kind, name, child) {
        (ConsumerGroup::KIND, "consumers", _) | (Consumer::KIND, "consumer_groups", _) => {
            Some(Membership::methods_of(child.is_some()))
        }
        (Upstream::KIND, "health", None) => Some(READ),
        (Upstream::KIND, "targets", Some("all")) => Some(COLLECTION),
        (Sni::KIND, "certificate", _) => None,
        _ if owner_below(entity, name).is_some() => {
            Some(if child.is_some() { RECORD } else { COLLECTION })
        }
        _ => {
            let mut foreign = entity.foreign_keys();
            let points = child.is_none() && foreign.any(|(field, _)| field == name);
            points.then_some(FOREIGN)
        }
    }
}

/// The entity whose records are listed as `name` below one of `entity`, and by which of their foreign keys.
fn owner_below(entity: &Definition, name: &str) -> Option<(&'static Definition, &'static str)> {
    let nests = |(field, _): &(&str, &str), owner: &'static Definition| {
        owner
            .foreign_keys()
            .any(|(key, to)| key == *field && to == entity.kind)
    };
    definitions()
        .iter()
        .filter(|owner| owner.public)
        .find_map(|owner| {
            let mut places = owner.nested.iter();
            let place = places.find(|place| place.1 == name && nests(place, owner))?;
            Some((owner, place.0))
        })
}

/// What hangs below a record: those that point to it, or the one that it points to.
fn nested(
    config: &Config,
    kind: &str,
    text: &str,
    name: &str,
    mut child: Option<&str>,
) -> Result<Endpoint, Refusal> {
    let entity = top_level(kind)?;
    let selector = Selector::parse(text);
    let key = find(config, entity, &selector)?;
    if key.is_none() && entity.kind == Certificate::KIND {
        return Err(missing(entity, &selector));
    }
    if matches!(
        (entity.kind, name),
        (ConsumerGroup::KIND, "consumers") | (Consumer::KIND, "consumer_groups")
    ) {
        let key = key.ok_or_else(|| absent(entity.kind, text))?;
        return Membership::parse(config, key, child).map(Endpoint::Membership);
    }
    if entity.kind == Upstream::KIND {
        match (name, child) {
            ("health", None) => return key.map(Endpoint::Health).ok_or(Refusal::NotFound),
            // What is no longer in use is not kept here, so that all are those that there are.
            ("targets", Some("all")) => child = None,
            _ => {}
        }
    }
    // Kong has no way from a server name to its certificate; the certificate itself goes by the name.
    if (entity.kind, name) == (Sni::KIND, "certificate") {
        return Err(Refusal::NotFound);
    }
    if let Some((owner, field)) = owner_below(entity, name) {
        let key = key.ok_or(Refusal::NotFound)?;
        let parent = Parent {
            field,
            key,
            child: None,
        };
        return Ok(match child {
            None => Endpoint::Collection {
                entity: owner,
                parent: Some(parent),
            },
            Some(child) => nested_record(config, owner, parent, child),
        });
    }
    let foreign = entity.foreign_keys().find(|(field, _)| *field == name);
    let (Some((field, to)), None, Some(owner)) = (foreign, child, key) else {
        return Err(Refusal::NotFound);
    };
    let fields = config.record(owner).ok_or(Refusal::NotFound)?;
    let key = foreign_id(&fields, name).map(|id| Key { kind: to, id });
    Ok(Endpoint::Foreign {
        entity: definition(to).ok_or(Refusal::NotFound)?,
        key,
        owner,
        field,
    })
}

/// A child may go by a field that is unique only below its parent.
fn nested_record(
    config: &Config,
    owner: &'static Definition,
    mut parent: Parent,
    child: &str,
) -> Endpoint {
    let record = |selector, parent| Endpoint::Record {
        entity: owner,
        selector,
        parent: Some(parent),
    };
    let selector = Selector::parse(child);
    let local = local_name(owner, parent.field);
    let (Selector::Name(name), None, Some(field)) = (&selector, owner.name_field, local) else {
        return record(selector, parent);
    };
    let stored = (owner.kind == Target::KIND)
        .then(|| with_target_port(name))
        .flatten();
    let stored = stored.as_ref().unwrap_or(name);
    let found = find_local(config, owner, parent.key, (field, stored));
    parent.child = Some(name.clone());
    match found {
        Some(key) => record(Selector::Id(key.id), parent),
        None => Endpoint::Unborn {
            entity: owner,
            parent,
        },
    }
}
