//! The Admin API: HTTP in, Kong's JSON out.
//!
//! ```text
//!  request ─► place.rs     which workspace the URL is about
//!          ─► endpoint.rs  which record, collection or page it means; management.rs for what is no record
//!          ─► body.rs      JSON, form or multipart
//!          ─► read.rs, or plan.rs and write.rs
//!          ─► publisher    decided and durable
//!          ─► answer, or error.rs: rejection → status and Kong's body
//! ```

mod access;
mod answer;
mod audit;
mod body;
mod client_keys;
mod cluster;
mod declare;
mod endpoint;
mod error;
mod exports;
pub(crate) mod files;
mod groups;
mod health;
mod info;
mod late;
pub(crate) mod listener;
mod log_level;
mod management;
mod newest;
mod openid_connect;
mod origin;
mod page;
mod place;
mod plan;
mod precondition;
mod proxy_cache;
mod rbac;
mod read;
mod revisions;
mod revocations;
mod rollouts;
mod schemas;
mod show;
mod status;
mod tags;
#[cfg(test)]
mod tests;
mod turn;
mod wait;
mod write;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::FutureExt;
use http::{HeaderValue, Method, header};
use shared::clock::monotonic;
use uuid::Uuid;

use crate::config::Config;
use crate::config_sync::{Rollouts, Target};
use crate::exporter::Exporter;
use crate::fleet::Fleet;
use crate::history::Origin;
use crate::publisher::Publisher;
use crate::revocations::Revoker;
use crate::status::Told;
pub use access::Access;
use access::Bounds;
use answer::Answer;
pub use answer::Headers;
use audit::Asked;
use endpoint::Endpoint;
use error::Refusal;
pub use info::Listener;
use turn::Turns;
use wait::Wait;

/// What the Admin API answers from.
#[derive(Clone, Debug)]
pub struct Admin {
    publisher: Publisher,
    node: Arc<info::Node>,
    clustering: Option<Clustering>,
    names: Arc<[String]>,
    access: Access,
    consoles: origin::Consoles,
    counters: Arc<status::Counters>,
    refused: Arc<audit::RefusedWrites>,
    providers: Arc<openid_connect::Providers>,
    revoker: Option<Revoker>,
    exporter: Option<Exporter>,
    told: Option<Told>,
    rollouts: Option<Rollouts>,
    turns: Turns,
    readers: Turns,
    schemas: Arc<schemas::Texts>,
}

/// What is known of the data planes.
#[derive(Clone, Debug)]
struct Clustering {
    fleet: Fleet,
    target: Target,
}

impl Admin {
    /// An Admin API on `publisher`, of the control plane `id`, that is served on `listeners`.
    pub fn new(publisher: Publisher, id: Uuid, listeners: Vec<Listener>) -> Self {
        Self {
            publisher,
            node: Arc::new(info::Node::new(id, listeners)),
            clustering: None,
            names: Arc::default(),
            access: Access::default(),
            consoles: origin::Consoles::default(),
            counters: Arc::default(),
            refused: Arc::default(),
            providers: Arc::default(),
            revoker: None,
            exporter: None,
            told: None,
            rollouts: None,
            turns: Turns::default(),
            readers: Turns::to_read(),
            schemas: Arc::default(),
        }
    }

    /// Also shows and commands `rollouts`.
    #[must_use]
    pub fn with_rollouts(mut self, rollouts: Rollouts) -> Self {
        self.rollouts = Some(rollouts);
        self
    }

    /// Also ends sessions, by way of `revoker`.
    #[must_use]
    pub fn with_revoker(mut self, revoker: Revoker) -> Self {
        self.revoker = Some(revoker);
        self
    }

    /// Also exports the store, by way of `exporter`.
    #[must_use]
    pub fn with_exporter(mut self, exporter: Exporter) -> Self {
        self.exporter = Some(exporter);
        self
    }

    /// Also shows metrics, of what is `told` of.
    #[must_use]
    pub fn with_metrics(mut self, told: Told) -> Self {
        self.told = Some(told);
        self
    }

    /// Asks for tokens as `access` says.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Also answers to these host names, besides `localhost` and addresses, and to pages of these consoles
    /// in a browser.
    #[must_use]
    pub fn with_names(mut self, names: Vec<String>, consoles: &[String]) -> Self {
        self.names = names.into();
        self.consoles = origin::Consoles::new(consoles);
        self
    }

    /// Also shows the data planes of `fleet`, which are led to `target`.
    #[must_use]
    pub fn with_fleet(mut self, fleet: Fleet, target: Target) -> Self {
        self.clustering = Some(Clustering { fleet, target });
        self
    }

    /// The service that a listener runs.
    pub fn router(self) -> Router {
        Router::new().fallback(serve).with_state(self)
    }
}

/// What may be asked of some page.
const ALL_METHODS: &[Method] = &[
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
];

async fn serve(State(admin): State<Admin>, request: Request) -> Response {
    let started = monotonic();
    let head = request.method() == Method::HEAD;
    let origin = request.headers().get(header::ORIGIN).cloned();
    let wished = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned();
    let mut asked = Asked::of(&request);
    // A process that stood still is to say so of what it has read before it has looked again.
    let stale = admin.publisher.is_stale();
    admin.counters.begin();
    let answer = guard(admin.answer(request, &mut asked)).await;
    admin.counters.end();
    let revision = admin.publisher.config().revision();
    admin.refused.note(asked, answer.status, revision);
    let mut response = answer.respond(head, wished, (started, &admin.node.headers));
    if stale || admin.publisher.is_stale() {
        // Others may have written what is not known here.
        let stale = HeaderValue::from_static("true");
        response.headers_mut().insert("x-wardgate-stale", stale);
    }
    admin.consoles.open(origin.as_ref(), response.headers_mut());
    response
}

/// Waits for an answer. A panic is a bug of ours: the caller learns so, and the listener serves on.
async fn guard(answering: impl Future<Output = Result<Answer, Refusal>>) -> Answer {
    let caught = AssertUnwindSafe(answering).catch_unwind().await;
    caught
        .unwrap_or_else(|_| {
            tracing::error!("answering an admin request panicked");
            Err(Refusal::Unexpected)
        })
        .unwrap_or_else(Refusal::answer)
}

impl Admin {
    /// Answers a request. Who asks for what workspace is noted in `asked` as soon as it is known.
    async fn answer(&self, request: Request, asked: &mut Asked) -> Result<Answer, Refusal> {
        origin::check(&request, &self.names, &self.consoles)?;
        body::check_query(request.uri().query())?;
        let (publisher, access) = (&self.publisher, &self.access);
        let known = newest::state(publisher, access, request.headers(), asked.writes).await;
        let (whole, caller) = match known {
            // A browser asks without a token whether it may ask with one. It learns nothing.
            Err(Refusal::Credentials) if *request.method() == Method::OPTIONS => {
                return Ok(Answer::allowing(ALL_METHODS));
            }
            known => known?,
        };
        asked.origin.user = caller.name();
        let place = place::of(request.uri().path(), &whole)?;
        asked.origin.workspace = place.workspace;
        let (config, bounds) = Access::view(&caller, &whole, &place, request.method())?;
        let longest = wait::parse(request.uri().query())?.filter(|_| asked.writes);
        let clustering = self.clustering.as_ref();
        let wait = longest.zip(clustering);
        let wait = wait.map(|(longest, known)| Wait::begin(&known.fleet, longest));
        asked.writes &= !place::only_judges(&place.path);
        let origin = asked.origin.clone();
        let answer = if let Some(page) = management::parse(&place)? {
            precondition::refuse(request.headers(), asked.writes)?;
            let asking = (&caller, origin, bounds);
            management::answer(self, &place, page, &config, asking, request).await?
        } else {
            let asking = (origin, bounds);
            self.answer_entity(&place, config, asking, request).await?
        };
        let answer = place.relink(answer);
        let Some(Clustering { fleet, target }) = clustering else {
            return Ok(answer);
        };
        let (target, rollouts) = (target.clone(), self.rollouts.as_ref());
        Ok(wait::until_served(fleet, target, rollouts, wait, answer).await)
    }

    async fn answer_entity(
        &self,
        place: &place::Place,
        config: Config,
        asking: (Origin, Bounds),
        request: Request,
    ) -> Result<Answer, Refusal> {
        let endpoint = match endpoint::parse(&place.path, &config) {
            Ok(endpoint) => endpoint,
            Err(refusal) => {
                return match endpoint::methods_below(&place.path) {
                    Some(methods) if *request.method() == Method::OPTIONS => {
                        Ok(Answer::allowing(methods))
                    }
                    // What may not be deleted is looked for first.
                    Some(methods)
                        if !methods.contains(request.method())
                            && *request.method() != Method::DELETE =>
                    {
                        Err(Refusal::Method(methods))
                    }
                    _ => Err(refusal),
                };
            }
        };
        let methods = endpoint.methods();
        match *request.method() {
            Method::OPTIONS => Ok(Answer::allowing(methods)),
            // There is nothing that could not be deleted.
            Method::DELETE if matches!(endpoint, Endpoint::Foreign { key: None, .. }) => {
                Err(Refusal::NotFound)
            }
            ref method if !methods.contains(method) => Err(Refusal::Method(methods)),
            Method::GET | Method::HEAD => self.read(&endpoint, request.uri().query(), &config),
            _ => self.write(endpoint, request, config, asking).await,
        }
    }
}
