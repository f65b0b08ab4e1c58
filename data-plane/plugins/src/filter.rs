//! What a plugin is to the control plane (a configuration) and to the data plane (a filter).

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use shared::entity::Protocol;
use shared::schema::FieldErrors;
use uuid::Uuid;

use crate::credentials::secret_names::SecretNames;
use crate::exchange::{Exchange, Log, Reply, WholeBody};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;
use crate::state::NodeStates;
use crate::stream::StreamLog;

/// A bundled plugin: the one definition of its configuration, and the way to its filter.
pub trait Plugin: DeserializeOwned + Serialize + JsonSchema + 'static {
    /// The name that operators configure it by.
    const NAME: &'static str;

    /// Filters with a higher priority run first. Kong 3.9's number where Kong has the plugin.
    const PRIORITY: u32;

    /// Scopes that a configuration of this plugin must not have.
    const FORBIDDEN_SCOPES: &'static [Scope] = &[];

    /// The protocols whose traffic it sees.
    const PROTOCOLS: Protocols = Protocols::HTTP;

    /// Whether requests go on where it is configured but cannot run: it only tells of them. Nothing passes without the
    /// others.
    const DISPENSABLE: bool = false;

    /// Names accepted on write in place of a field's own: `(old, new)`. They are not stored.
    const SHORTHANDS: &'static [(&'static str, &'static str)] = &[];

    /// Whether replies show values also under the old names, as Kong does where a record has taken their place.
    const SHOWS_OLD_NAMES: bool = false;

    /// Rewrites values of earlier versions, after the names. Does nothing by default.
    fn modernize(_config: &mut Map<String, Value>) {}

    /// What runs.
    type Filter: Filter;

    /// Finds what may not be written, although [`Self::compile`] takes it, because it was once stored: asked by the control
    /// plane alone, so that an upgrade leaves what runs running.
    fn refuse(&self, _errors: &mut FieldErrors) {}

    /// Prepares everything that a request must not compute. The control plane calls it to accept a write, the data
    /// plane to build a pipeline: what one accepts, the other can run.
    fn compile(self, instance: &Instance) -> Result<Self::Filter, FieldErrors>;
}

/// Where a plugin may be attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// A service.
    Service,
    /// A route.
    Route,
    /// A consumer.
    Consumer,
}

/// The protocols whose traffic a plugin sees.
#[derive(Clone, Copy, Debug)]
pub struct Protocols {
    /// Those that a configuration may name.
    pub allowed: &'static [Protocol],
    /// Those of a configuration that names none.
    pub default: &'static [Protocol],
}

impl Protocols {
    /// Those of requests.
    pub const HTTP: Self = {
        use Protocol::{Grpc, Grpcs, Http, Https};
        Self {
            allowed: &[Grpc, Grpcs, Http, Https],
            default: &[Grpc, Grpcs, Http, Https],
        }
    };

    /// Those of requests and, where a configuration says so, of byte streams.
    pub const ALL: Self = {
        use Protocol::{Grpc, Grpcs, Http, Https, Tcp, Tls, TlsPassthrough, Udp};
        Self {
            allowed: &[Grpc, Grpcs, Http, Https, Tcp, Tls, TlsPassthrough, Udp],
            ..Self::HTTP
        }
    };
}

/// The configured plugin that a filter is compiled for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instance {
    /// The plugin record's id.
    pub id: Uuid,
}

/// A compiled plugin. Immutable: what changes lives behind [`Host`].
pub trait Filter: Send + Sync + 'static {
    /// What [`Self::on_glance`] can tell: asked once.
    fn looks(&self) -> Looks {
        Looks::Never
    }

    /// Lets a request go on of which a look tells the same as [`Self::on_request`] would say, and adds to `pass` what
    /// it goes on with. `None` leaves the request to the latter, of all filters. Asked first, in order of priority,
    /// where all filters of a request can tell by a look.
    fn on_glance(&self, _request: &Glance<'_>, _pass: &mut Pass, _host: &impl Host) -> Option<()> {
        None
    }

    /// Looks at a request before it goes upstream.
    fn on_request(
        &self,
        _exchange: &mut Exchange<'_>,
        _host: &impl Host,
    ) -> impl Future<Output = Flow> {
        std::future::ready(Flow::Continue)
    }

    /// The later phases that it has a part in. Nothing is kept of an exchange for phases that nobody
    /// waits for.
    fn phases(&self) -> Phases {
        Phases::NONE
    }

    /// Looks at a response's head, whoever made it, before it goes to the client.
    fn on_response(&self, _reply: &mut Reply<'_>, _host: &impl Host) {}

    /// Looks at the whole body that it has wished for in [`Self::on_response`].
    fn on_body(&self, _whole: &mut WholeBody<'_>, _host: &impl Host) {}

    /// Learns of what is over, after its last byte.
    fn on_log(&self, _over: Over<'_>, _host: &impl Host) {}

    /// Looks at the client of a byte stream before a server is asked; whether the stream may go on.
    fn on_stream(&self, _client: IpAddr) -> bool {
        true
    }

    /// What of the exchanges that it sees is counted; `None` leaves that to others.
    fn counts(&self) -> Option<Counts> {
        None
    }

    /// Request headers that only this filter may set: the pipeline removes the client's copies before
    /// any filter runs.
    fn owned_headers(&self) -> &[HeaderName] {
        &[]
    }

    /// Response headers that only this filter may set: the pipeline removes the upstream's.
    fn owned_response_headers(&self) -> &[HeaderName] {
        &[]
    }

    /// The names under which it looks for credentials, or tells them on: no log tells what stands under them.
    fn secret_names(&self) -> SecretNames {
        SecretNames::default()
    }

    /// Whether it looks at the certificates of clients: they are not asked for one otherwise.
    fn wants_certificates(&self) -> bool {
        false
    }

    /// Whether it was told to take any certificate of the OpenID provider that it trusts.
    fn trusts_any_server(&self) -> bool {
        false
    }

    /// What is wrong with the OpenID provider that it trusts, by the `states` of its node.
    fn trouble(&self, _states: &NodeStates, _now: UnixTime) -> Option<Trouble> {
        None
    }

    /// What the OpenID provider that it trusts is [kept](Host::keep) under.
    fn provider(&self) -> Option<[u8; 32]> {
        None
    }

    /// Whether cookies of this name are this filter's: the pipeline drops an upstream's `Set-Cookie`
    /// of such a name.
    fn owns_cookie(&self, _name: &str) -> bool {
        false
    }
}

/// An OpenID provider that says nothing usable of itself now.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Trouble {
    /// The issuer, as configured.
    pub issuer: String,
    /// Since when.
    pub since: UnixTime,
    /// What is wrong, without secrets.
    pub reason: String,
    /// When what serves on was fetched, if there is anything.
    pub serves_from: Option<UnixTime>,
}

/// What filters learn of once it is over.
#[derive(Clone, Copy, Debug)]
pub enum Over<'a> {
    /// An exchange.
    Exchange(&'a Log<'a>),
    /// A byte stream, or a session of datagrams.
    Stream(&'a StreamLog<'a>),
}

impl Over<'_> {
    /// How it ended.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Exchange(log) => log.status,
            Self::Stream(log) => log.status,
        }
    }
}

/// The phases after a request has gone upstream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Phases {
    /// [`Filter::on_response`], and [`Filter::on_body`] on wish.
    pub response: bool,
    /// [`Filter::on_log`].
    pub log: bool,
    /// [`Filter::counts`].
    pub count: bool,
}

impl Phases {
    /// None.
    pub const NONE: Self = Self {
        response: false,
        log: false,
        count: false,
    };
    /// The response alone.
    pub const RESPONSE: Self = Self {
        response: true,
        ..Self::NONE
    };
    /// The log alone.
    pub const LOG: Self = Self {
        log: true,
        ..Self::NONE
    };
    /// Both.
    pub const ALL: Self = Self {
        log: true,
        ..Self::RESPONSE
    };
    /// What is counted alone.
    pub const COUNT: Self = Self {
        count: true,
        ..Self::NONE
    };

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            response: self.response || other.response,
            log: self.log || other.log,
            count: self.count || other.count,
        }
    }
}

/// What is counted of an exchange.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct Counts {
    /// Answers by status.
    pub statuses: bool,
    /// How long they took.
    pub latencies: bool,
    /// Bytes.
    pub bandwidth: bool,
    /// All of these by consumer.
    pub consumers: bool,
    /// Whether the health of upstreams' targets is shown beside.
    pub health: bool,
}

impl Counts {
    /// What is counted where no plugin says otherwise.
    pub const DEFAULT: Self = Self {
        statuses: true,
        latencies: true,
        bandwidth: true,
        consumers: false,
        health: false,
    };

    /// What this one counts or `other` does.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            statuses: self.statuses || other.statuses,
            latencies: self.latencies || other.latencies,
            bandwidth: self.bandwidth || other.bandwidth,
            consumers: self.consumers || other.consumers,
            health: self.health || other.health,
        }
    }
}

/// What happens next to a request.
#[derive(Debug)]
pub enum Flow {
    /// The next filter, or the upstream.
    Continue,
    /// This answer goes to the client, and no later filter runs.
    Answer(http::Response<Bytes>),
    /// The same, with an answer that the upstream has given before: it counts as the upstream's.
    Kept(http::Response<Bytes>),
}
