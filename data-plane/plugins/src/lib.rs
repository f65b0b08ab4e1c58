//! The bundled plugins. Both planes link them: the control plane for their schemas and checks, the
//! data plane for their filters. Nothing here opens a socket or spawns a task.
//!
//! Adding a plugin: its file or folder, and one line in [`registry`].

pub mod acl;
mod answer;
mod arguments;
mod authentication;
pub mod basic_auth;
mod body;
pub mod bot_detection;
mod cookies;
pub mod correlation_id;
pub mod cors;
pub mod credentials;
mod custom_fields;
pub mod datadog;
pub mod environment;
pub mod exchange;
mod figures;
pub mod filter;
pub mod glance;
pub mod grpc_web;
pub mod hmac_auth;
pub mod host;
pub mod http_log;
mod identity_headers;
pub mod ip_restriction;
pub mod jwt;
pub mod key_auth;
pub mod ldap_auth;
pub mod line_logs;
pub mod log_record;
pub mod loggly;
mod lua;
mod old_names;
pub mod openid_connect;
pub mod opentelemetry;
mod pairs;
pub mod prometheus;
pub mod proxies;
pub mod proxy_cache;
pub mod queue;
pub mod rate_limiting;
pub mod redirect;
mod redis_config;
pub mod registry;
pub mod request_id;
pub mod request_size_limiting;
pub mod request_termination;
pub mod request_transformer;
pub mod reserved_headers;
pub mod response_ratelimiting;
pub mod response_transformer;
pub mod revocations;
pub mod session;
pub mod session_keys;
pub mod severity;
pub mod state;
pub mod statsd;
pub mod stream;
pub mod syslog;
pub mod tenure;
#[cfg(test)]
mod testing;
pub mod trace;
mod values;
pub mod zipkin;
