//! Answers what is read, and changes nothing.

use serde_json::Value;
use shared::clock::UnixTime;
use shared::entity::{ConsumerGroup, Definition, Entity as _};
use shared::snapshot::Key;

use super::answer::Answer;
use super::endpoint::{self, Endpoint, Parent, below};
use super::error::{NO_DATABASE, Refusal};
use super::show::show;
use super::{Admin, groups, health, info, log_level, page, precondition, status, tags};
use crate::command::{self, Selector};
use crate::config::Config;
use crate::fleet::Introduction;
use crate::status::{METRICS, Told, database};

impl Admin {
    pub(super) fn read(
        &self,
        endpoint: &Endpoint,
        query: Option<&str>,
        config: &Config,
    ) -> Result<Answer, Refusal> {
        if let Some(text) = self.schemas.show(endpoint) {
            return Ok(Answer {
                text: Some(text?),
                ..Answer::ok(Value::Null)
            });
        }
        let body = match endpoint {
            Endpoint::Root => info::root(self),
            Endpoint::Status => {
                let untold = || database(self.publisher.trouble().is_none(), None);
                let database = self.told.as_ref().map_or_else(untold, Told::database);
                status::status(config, &database, &self.counters, query)?
            }
            Endpoint::Timers => status::timers(),
            Endpoint::Metrics => {
                let told = self.told.as_ref().ok_or(Refusal::NotFound)?;
                return Ok(Answer {
                    written: Some(told.metrics().into()),
                    content_type: Some(METRICS),
                    ..Answer::ok(Value::Null)
                });
            }
            Endpoint::DnsStatus => return Err(Refusal::NoDnsClient),
            Endpoint::LogLevel => log_level::show(),
            Endpoint::Health(upstream) => self.health(*upstream, query, config),
            Endpoint::Endpoints => info::endpoints(),
            Endpoint::Tags(tag) => tags::list(config, tag.as_deref(), query)?,
            Endpoint::EnabledPlugins => info::enabled_plugins(),
            Endpoint::DataPlanes => self.data_planes(query)?,
            Endpoint::ClusteringStatus => {
                let clustering = self.clustering.as_ref().ok_or(Refusal::NotFound)?;
                clustering.fleet.status()
            }
            Endpoint::Cache(_) | Endpoint::Unborn { .. } => return Err(Refusal::NotFound),
            Endpoint::DeclarativeConfig => return Err(Refusal::NeedsSetting(NO_DATABASE)),
            Endpoint::Collection { entity, parent } => {
                let query = page::Query::parse(query, entity.kind)?;
                page::list(config, entity, parent.as_ref(), &query)
            }
            Endpoint::Record {
                entity,
                selector,
                parent,
            } => record(config, entity, selector, parent.as_ref(), query)?,
            Endpoint::Foreign { key, .. } => {
                let key = key.ok_or(Refusal::NotFound)?;
                show(config, key, &*config.record(key).ok_or(Refusal::NotFound)?)
            }
            Endpoint::Membership(membership) => membership.read(config)?,
            Endpoint::ValidateEntity(_)
            | Endpoint::ValidatePlugin
            | Endpoint::SetLogLevel(_)
            | Endpoint::Mark { .. }
            | Endpoint::Schema(_)
            | Endpoint::TagsSchema
            | Endpoint::PluginSchema(_)
            | Endpoint::ConfigSchema(_)
            | Endpoint::VaultSchema(_) => {
                return Err(Refusal::Method(endpoint.methods()));
            }
        };
        Ok(Answer {
            deprecated: matches!(endpoint, Endpoint::ClusteringStatus),
            etag: precondition::record_of(endpoint, config)
                .and_then(|key| precondition::etag(config, key)),
            ..Answer::ok(body)
        })
    }

    /// `/upstreams/{upstream}/health`
    fn health(&self, upstream: Key, query: Option<&str>, config: &Config) -> Value {
        let fleet = self.clustering.as_ref().map(|clustering| &clustering.fleet);
        let told = fleet.map(|fleet| health::told(config, upstream, fleet));
        let told = told.unwrap_or_default();
        let said = self.marks();
        health::health(config, upstream, self.node.id, query, &told, said)
    }

    /// `/clustering/data-planes`
    fn data_planes(&self, query: Option<&str>) -> Result<Value, Refusal> {
        let clustering = self.clustering.as_ref().ok_or(Refusal::NotFound)?;
        let targets = clustering.target.borrow().clone();
        let target = |node: &Introduction| targets.position_of(node);
        page::of_named("/clustering/data-planes", query, |from, most| {
            let nodes = (from, most);
            clustering.fleet.list_from(nodes, target, UnixTime::now())
        })
    }
}

/// A record by its id or name, if it is below the `parent` that the URL names and has not expired.
fn record(
    config: &Config,
    entity: &'static Definition,
    selector: &Selector,
    parent: Option<&Parent>,
    query: Option<&str>,
) -> Result<Value, Refusal> {
    let key = command::find(config, entity, selector)?
        .ok_or_else(|| endpoint::missing(entity, selector))?;
    let fields = config.record(key).ok_or(Refusal::NotFound)?;
    if !below(&fields, parent) || command::has_expired(entity, &fields, UnixTime::now()) {
        return Err(Refusal::NotFound);
    }
    if entity.kind == ConsumerGroup::KIND {
        return Ok(groups::group(config, key, &fields, query));
    }
    Ok(show(config, key, &fields))
}
