//! All bundled plugins, one line each: their definitions for the control plane, their filters for the
//! data plane.

mod absent;
mod references;
mod sealing;
pub mod succession;

use std::net::IpAddr;
use std::sync::LazyLock;

use http::HeaderName;
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use shared::schema::{FieldErrors, Record};
use uuid::Uuid;

pub use self::absent::absence;
use self::references::refers;
pub use self::sealing::sealed_for;
use crate::bundled::acl::Acl;
use crate::bundled::basic_auth::BasicAuth;
use crate::bundled::bot_detection::BotDetection;
use crate::bundled::correlation_id::CorrelationId;
use crate::bundled::cors::Cors;
use crate::bundled::datadog::Datadog;
use crate::bundled::grpc_gateway::GrpcGateway;
use crate::bundled::grpc_web::GrpcWeb;
use crate::bundled::hmac_auth::HmacAuth;
use crate::bundled::http_log::HttpLog;
use crate::bundled::ip_restriction::IpRestriction;
use crate::bundled::jwt::Jwt;
use crate::bundled::key_auth::KeyAuth;
use crate::bundled::ldap_auth::LdapAuth;
use crate::bundled::line_logs::{FileLog, TcpLog, UdpLog};
use crate::bundled::loggly::Loggly;
use crate::bundled::openid_connect::OpenidConnect;
use crate::bundled::opentelemetry::Opentelemetry;
use crate::bundled::prometheus::Prometheus;
use crate::bundled::proxy_cache::ProxyCache;
use crate::bundled::rate_limiting::RateLimiting;
use crate::bundled::redirect::Redirect;
use crate::bundled::request_size_limiting::RequestSizeLimiting;
use crate::bundled::request_termination::{RequestTermination, RequestTerminationFilter};
use crate::bundled::request_transformer::RequestTransformer;
use crate::bundled::response_ratelimiting::ResponseRatelimiting;
use crate::bundled::response_transformer::ResponseTransformer;
use crate::bundled::session::Session;
use crate::bundled::standard_webhooks::StandardWebhooks;
use crate::bundled::statsd::Statsd;
use crate::bundled::syslog::Syslog;
use crate::bundled::tls_handshake_modifier::TlsHandshakeModifier;
use crate::bundled::zipkin::Zipkin;
use crate::config::old_names;
use crate::credentials::secret_names::SecretNames;
use crate::exchange::{Exchange, Reply, WholeBody};
use crate::filter::{
    Counts, Filter, Flow, Instance, Over, Phases, Plugin, Protocols, Scope, Trouble,
};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;
use crate::state::NodeStates;

/// What the control plane knows of a plugin.
#[derive(Debug)]
pub struct Definition {
    /// The name that operators configure it by.
    pub name: &'static str,
    /// Kong's version of the plugin: that of the gateway, since 3.0.
    pub version: &'static str,
    /// Filters with a higher priority run first.
    pub priority: u32,
    /// Scopes that a configuration of this plugin must not have.
    pub forbidden_scopes: &'static [Scope],
    /// The protocols whose traffic it sees.
    pub protocols: Protocols,
    /// Whether requests go on where it is configured but cannot run.
    pub dispensable: bool,
    /// Names accepted on write in place of a field's own: `(old, new)`. A dot leads into a record; an
    /// empty new name means "accepted and ignored".
    pub shorthands: &'static [(&'static str, &'static str)],
    /// Whether replies show values also under the names of earlier versions.
    shows_old_names: bool,
    /// The fields of the configuration, to coerce forms, to merge patches and to show.
    pub fields: Record,
    modernize: fn(&mut Map<String, Value>),
    judge: fn(Value) -> Result<(), FieldErrors>,
}

impl Definition {
    /// Moves what stands under names of earlier versions to today's. To be called before a form is
    /// coerced, because only today's names have types; [`Self::check`] does it again.
    pub fn modernize(&self, config: &mut Map<String, Value>) {
        old_names::rename(config, self.shorthands);
        (self.modernize)(config);
    }

    /// What `config` says under a name of an earlier version and otherwise under today's, where replies show
    /// both (Kong 3.9). Named without the record that they are in, as Kong does.
    pub fn contradictions(&self, config: &Map<String, Value>) -> FieldErrors {
        if self.shows_old_names {
            old_names::contradictions(config, self.shorthands)
        } else {
            FieldErrors::default()
        }
    }

    /// Adds what a reply shows besides the stored configuration: values under names of earlier versions, where
    /// Kong shows these too.
    pub fn show(&self, config: &mut Map<String, Value>) {
        if self.shows_old_names {
            old_names::show(config, self.shorthands);
        }
    }

    /// Completes a configuration with its defaults.
    ///
    /// # Errors
    ///
    /// Every field that is wrong.
    pub fn check(&self, config: &Value) -> Result<Value, FieldErrors> {
        let mut config = match config {
            Value::Object(fields) => fields.clone(),
            Value::Null => Map::new(),
            _ => return Err(FieldErrors::at(&["@entity"], "expected a record")),
        };
        self.modernize(&mut config);
        let (completed, errors) = self.fields.complete_all(&config);
        if !errors.is_empty() {
            return Err(self.with_rules(config, errors));
        }
        let completed = Value::Object(completed);
        self.keeps_rules(&completed)?;
        Ok(completed)
    }

    /// `errors` of `config`, and the rules that it breaks as well if nothing is wrong but fields that there are not.
    fn with_rules(&self, mut config: Map<String, Value>, mut errors: FieldErrors) -> FieldErrors {
        config.retain(|name, _| self.fields.field(name).is_some());
        let (known, others) = self.fields.complete_all(&config);
        if others.is_empty()
            && let Err(broken) = self.keeps_rules(&Value::Object(known))
        {
            errors.merge(broken);
        }
        errors
    }

    /// Judges a whole configuration by the rules of the plugin, but for what stands behind a reference to a secret: that is
    /// judged on the data plane, which alone can read it.
    fn keeps_rules(&self, config: &Value) -> Result<(), FieldErrors> {
        let Err(mut errors) = (self.judge)(config.clone()) else {
            return Ok(());
        };
        let fields = self.fields.fields.iter();
        let referring = fields.filter(|field| {
            let value = config.get(&field.name);
            value.is_some_and(|value| refers(field, value))
        });
        let referring: Vec<&str> = referring.map(|field| field.name.as_str()).collect();
        if !referring.is_empty() {
            let judged = |field: &str| field != "@entity" && !referring.contains(&field);
            errors.by_field.retain(|field, _| judged(field));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// Every bundled plugin.
pub fn definitions() -> &'static [Definition] {
    &DEFINITIONS
}

/// The plugin of this name.
pub fn definition(name: &str) -> Option<&'static Definition> {
    definitions()
        .iter()
        .find(|definition| definition.name == name)
}

/// Completes the configuration of the plugin `name` with its defaults.
///
/// # Errors
///
/// Every field that is wrong, or `name` itself in Kong's words if there is no such plugin.
pub fn check(name: &str, config: &Value) -> Result<Value, FieldErrors> {
    definition(name).ok_or_else(|| unknown(name))?.check(config)
}

macro_rules! registry {
    ($($plugin:ident),* $(,)?) => {
        static DEFINITIONS: LazyLock<Vec<Definition>> =
            LazyLock::new(|| vec![$(define::<$plugin>()),*]);

        /// The filter of any plugin.
        #[derive(Debug)]
        pub enum AnyFilter {
            $(#[doc = concat!("That of [`", stringify!($plugin), "`].")]
            $plugin(<$plugin as Plugin>::Filter),)*
        }

        /// Prepares the filter of the plugin `name`.
        ///
        /// # Errors
        ///
        /// Every field that is wrong, or `name` itself if there is no such plugin.
        pub fn compile(name: &str, config: Value, instance: &Instance) -> Result<AnyFilter, FieldErrors> {
            match name {
                $($plugin::NAME => Ok(AnyFilter::$plugin(read::<$plugin>(config)?.compile(instance)?)),)*
                _ => Err(unknown(name)),
            }
        }

        impl Filter for AnyFilter {
            fn looks(&self) -> Looks {
                match self {
                    $(Self::$plugin(filter) => filter.looks(),)*
                }
            }

            fn on_glance(
                &self,
                request: &Glance<'_>,
                pass: &mut Pass,
                host: &impl Host,
            ) -> Option<()> {
                match self {
                    $(Self::$plugin(filter) => filter.on_glance(request, pass, host),)*
                }
            }

            async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
                match self {
                    $(Self::$plugin(filter) => filter.on_request(exchange, host).await,)*
                }
            }

            fn phases(&self) -> Phases {
                match self {
                    $(Self::$plugin(filter) => filter.phases(),)*
                }
            }

            fn on_response(&self, reply: &mut Reply<'_>, host: &impl Host) {
                match self {
                    $(Self::$plugin(filter) => filter.on_response(reply, host),)*
                }
            }

            fn on_body(&self, whole: &mut WholeBody<'_>, host: &impl Host) {
                match self {
                    $(Self::$plugin(filter) => filter.on_body(whole, host),)*
                }
            }

            fn on_log(&self, over: Over<'_>, host: &impl Host) {
                match self {
                    $(Self::$plugin(filter) => filter.on_log(over, host),)*
                }
            }

            fn on_stream(&self, client: IpAddr) -> bool {
                match self {
                    $(Self::$plugin(filter) => filter.on_stream(client),)*
                }
            }

            fn counts(&self) -> Option<Counts> {
                match self {
                    $(Self::$plugin(filter) => filter.counts(),)*
                }
            }

            fn owned_headers(&self) -> &[HeaderName] {
                match self {
                    $(Self::$plugin(filter) => filter.owned_headers(),)*
                }
            }

            fn owned_response_headers(&self) -> &[HeaderName] {
                match self {
                    $(Self::$plugin(filter) => filter.owned_response_headers(),)*
                }
            }

            fn secret_names(&self) -> SecretNames {
                match self {
                    $(Self::$plugin(filter) => filter.secret_names(),)*
                }
            }

            fn wants_certificates(&self) -> bool {
                match self {
                    $(Self::$plugin(filter) => filter.wants_certificates(),)*
                }
            }

            fn trusts_any_server(&self) -> bool {
                match self {
                    $(Self::$plugin(filter) => filter.trusts_any_server(),)*
                }
            }

            fn trouble(&self, states: &NodeStates, now: UnixTime) -> Option<Trouble> {
                match self {
                    $(Self::$plugin(filter) => filter.trouble(states, now),)*
                }
            }

            fn provider(&self) -> Option<[u8; 32]> {
                match self {
                    $(Self::$plugin(filter) => filter.provider(),)*
                }
            }

            fn owns_cookie(&self, name: &str) -> bool {
                match self {
                    $(Self::$plugin(filter) => filter.owns_cookie(name),)*
                }
            }
        }
    };
}

registry! {
    OpenidConnect,
    Acl,
    BasicAuth,
    BotDetection,
    CorrelationId,
    Cors,
    Datadog,
    FileLog,
    GrpcGateway,
    GrpcWeb,
    HmacAuth,
    HttpLog,
    IpRestriction,
    Jwt,
    KeyAuth,
    LdapAuth,
    Loggly,
    Opentelemetry,
    Prometheus,
    ProxyCache,
    RateLimiting,
    Redirect,
    RequestSizeLimiting,
    RequestTermination,
    RequestTransformer,
    ResponseRatelimiting,
    ResponseTransformer,
    Session,
    StandardWebhooks,
    Statsd,
    Syslog,
    TcpLog,
    TlsHandshakeModifier,
    UdpLog,
    Zipkin,
}

fn define<P: Plugin>() -> Definition {
    Definition {
        name: P::NAME,
        version: shared::version::KONG_VERSION,
        priority: P::PRIORITY,
        forbidden_scopes: P::FORBIDDEN_SCOPES,
        protocols: P::PROTOCOLS,
        dispensable: P::DISPENSABLE,
        shorthands: P::SHORTHANDS,
        shows_old_names: P::SHOWS_OLD_NAMES,
        fields: Record::of::<P>(),
        modernize: P::modernize,
        // No id is known before a plugin is stored, and none changes the verdict.
        judge: |config| {
            let instance = Instance { id: Uuid::nil() };
            let config = read::<P>(config)?;
            let mut errors = FieldErrors::default();
            config.refuse(&mut errors);
            if let Err(others) = config.compile(&instance) {
                errors.merge(others);
            }
            if errors.is_empty() {
                Ok(())
            } else {
                Err(errors)
            }
        },
    }
}

/// What stands in the place of a plugin that cannot run: it lets nothing pass.
pub fn barrier() -> AnyFilter {
    AnyFilter::RequestTermination(RequestTerminationFilter::barrier())
}

/// Reads a configuration that was checked when it was written; defaults of fields that are newer than
/// it are filled.
fn read<P: Plugin>(config: Value) -> Result<P, FieldErrors> {
    serde_json::from_value(config).map_err(|error| FieldErrors::at(&["@entity"], error.to_string()))
}

fn unknown(name: &str) -> FieldErrors {
    FieldErrors::at(&["name"], absence(name))
}

#[cfg(test)]
mod tests;
