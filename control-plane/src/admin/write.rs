//! Carries out what is written, and shows what has become of it.

use axum::extract::Request;
use http::StatusCode;
use serde_json::Value;
use shared::clock::UnixTime;
use shared::entity::{BasicauthCredential, Entity as _, definition};

use super::access::Bounds;
use super::answer::Answer;
use super::endpoint::Endpoint;
use super::error::Refusal;
use super::plan::Plan;
use super::precondition::Precondition;
use super::show::show;
use super::{Admin, body, log_level, plan, precondition, schemas};
use crate::client_keys;
use crate::command::{Body, Command};
use crate::config::{Change, Config};
use crate::history::Origin;
use crate::publisher::{ExecuteError, Outcome, Publisher};

impl Admin {
    pub(super) async fn write(
        &self,
        endpoint: Endpoint,
        request: Request,
        config: Config,
        (origin, bounds): (Origin, Bounds),
    ) -> Result<Answer, Refusal> {
        let method = request.method().clone();
        let query = request.uri().query().map(str::to_owned);
        let condition = Precondition::of(request.headers(), &endpoint)?;
        let mut body = body::read(request).await?;
        match endpoint {
            Endpoint::SetLogLevel(level) => return log_level::set(&level, query.as_deref()),
            // No answer is made from a cache here: there is nothing to drop.
            Endpoint::Cache(_) => return Ok(Answer::without_body(StatusCode::NO_CONTENT)),
            Endpoint::Mark {
                target,
                address,
                healthy,
                ..
            } => {
                return self.mark(origin, (target.id, address), healthy).await;
            }
            Endpoint::ValidateEntity(entity) => return schemas::validate(entity, &body),
            Endpoint::ValidatePlugin => {
                let entity = definition("plugins").ok_or(Refusal::NotFound)?;
                return schemas::validate(entity, &body);
            }
            // Kong takes it from the query, decK's check of a file has it in the body.
            Endpoint::Record { entity, .. } | Endpoint::Collection { entity, .. }
                if entity.kind == BasicauthCredential::KIND
                    && body::is_set(query.as_deref(), "skip_hash") =>
            {
                let (Body::Json(fields) | Body::Form(fields)) = &mut body;
                fields.insert("skip_hash".to_owned(), true.into());
            }
            _ => {}
        }
        let planned = plan::plan(endpoint, &method, body, &config)?;
        self.carry_out(planned, condition, origin, bounds).await
    }

    async fn carry_out(
        &self,
        planned: Plan,
        condition: Option<Precondition>,
        origin: Origin,
        bounds: Bounds,
    ) -> Result<Answer, Refusal> {
        let Plan {
            entity,
            action,
            parent,
            status,
            joined,
        } = planned;
        let command = Command {
            entity: entity.kind,
            action,
            parents: parent
                .iter()
                .map(|parent| (parent.field, parent.key.id))
                .collect(),
        };
        let origin = origin.answered(status);
        let workspace = origin.workspace;
        let publisher = self.publisher.clone();
        let executing = move || execute(&publisher, &origin, &command, condition.as_ref(), &bounds);
        let outcome = self.turns.take(executing).await?;
        let outcome = outcome.map_err(|error| Refusal::of(error, entity))?;
        let config = self.publisher.config().within(workspace);
        let record = outcome.decision.record;
        // Of what was written here: somebody else may have gone on since.
        let shown = record.as_ref().filter(|_| joined.is_none());
        let etag = shown.and_then(|(key, _)| {
            let mut puts = outcome.decision.change.puts.iter();
            let (_, stored) = puts.find(|(put, _)| put == key)?;
            precondition::etag_of(stored)
        });
        let body = match joined {
            Some(joined) => Some(joined.show(&config)?),
            None => record.map(|(key, fields)| show(&config, key, &fields)),
        };
        Ok(Answer {
            body: body.filter(|_| status != StatusCode::NO_CONTENT),
            etag,
            revision: Some(outcome.revision),
            ..Answer::new(status, Value::Null)
        })
    }
}

/// Waits for the store. A write after which a plugin may have to sign as a client makes the keys for that, too: whoever
/// follows revisions by what is answered sees none that comes by itself.
fn execute(
    publisher: &Publisher,
    origin: &Origin,
    command: &Command,
    condition: Option<&Precondition>,
    bounds: &Bounds,
) -> Result<Outcome, ExecuteError> {
    let holds = |config: &Config| condition.is_none_or(|one| one.holds(config));
    let permits = |config: &Config, change: &Change| bounds.check(config, change);
    let mut outcome = publisher.execute_if(origin, command, UnixTime::now(), holds, permits)?;
    let mut puts = outcome.decision.change.puts.iter();
    if puts.any(|(key, record)| client_keys::may_sign(*key, record))
        && let Some(made) = client_keys::make_needed(publisher)
    {
        outcome.revision = made;
    }
    Ok(outcome)
}
