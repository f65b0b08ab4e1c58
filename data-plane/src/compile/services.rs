//! Compiles services: where their requests go, and how.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls_pki_types::ServerName;
use shared::authority::bare;
use shared::entity::{Protocol, Service};
use uuid::Uuid;

use super::CompileFault;
use super::tls::{Authorities, Identities};
use super::upstreams::{CompiledUpstream, Named};
use crate::router::normalize::normalize;
use crate::upstream::exchange::Timeouts;
use crate::upstream::origin::Origin;
use crate::upstream::origins::Transport;
use crate::upstream::tls::TlsProfile;
use crate::upstream::tls::defaults::TlsDefaults;

/// A service with everything that its requests need.
#[derive(Clone, Debug)]
pub(crate) struct CompiledService {
    pub(crate) id: Uuid,
    pub(crate) destination: Destination,
    pub(crate) transport: Transport,
    pub(crate) path: String,
    pub(crate) timeouts: Timeouts,
    pub(crate) retries: u32,
    /// Whether it takes bytes or datagrams as they are, and no HTTP.
    pub(crate) raw: bool,
}

/// Where the requests of a service go.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// To one server.
    Origin {
        origin: Arc<Origin>,
        /// The `Host` to send, unless the route preserves the client's.
        host: HeaderValue,
    },
    /// To the targets of an upstream, by its place among the snapshot's.
    Upstream(usize),
}

/// The other records that services point to.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) identities: &'a Identities,
    pub(super) authorities: &'a Authorities,
    pub(super) tls: &'a TlsDefaults,
    pub(super) upstreams: &'a [Arc<CompiledUpstream>],
    pub(super) named: &'a Named,
}

/// The host of `service` as upstreams are named: in lower case, without brackets.
pub(super) fn bare_host(service: &Service) -> String {
    bare(service.host.as_str()).to_ascii_lowercase()
}

/// Compiles `service` of `workspace`.
pub(super) fn compile(
    service: &Service,
    workspace: Uuid,
    surroundings: &Surroundings<'_>,
) -> Result<CompiledService, CompileFault> {
    let fault = |field: &str, message: String| CompileFault {
        kind: "services",
        id: service.id,
        field: field.to_owned(),
        message,
    };
    let (tls, http2) = match service.protocol {
        Protocol::Http | Protocol::Tcp | Protocol::TlsPassthrough | Protocol::Udp => (false, false),
        Protocol::Https | Protocol::Tls => (true, false),
        Protocol::Grpc => (false, true),
        Protocol::Grpcs => (true, true),
    };
    let host = bare_host(service);
    let place = surroundings.named.place(workspace, &host);
    let upstream = place.and_then(|place| surroundings.upstreams.get(place));
    let profile = if tls {
        Some(
            profile(service, upstream.map(|upstream| &**upstream), surroundings)
                .map_err(|(field, message)| fault(field, message))?,
        )
    } else {
        None
    };
    let transport = Transport {
        tls: profile,
        http2,
    };
    let destination = if let Some(place) = place {
        Destination::Upstream(place)
    } else {
        let not_a_host = || {
            let message = format!("not a DNS name or IP address: {}", service.host.as_str());
            fault("host", message)
        };
        // What is no name cannot be asked for in TLS, and no certificate is for it.
        let nobody = |_| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let name = ServerName::try_from(host.clone()).unwrap_or_else(nobody);
        let authority = transport.authority(&host, service.port);
        Destination::Origin {
            host: HeaderValue::from_str(&authority).map_err(|_| not_a_host())?,
            origin: transport.origin(host, service.port, name),
        }
    };
    let milliseconds =
        |value: Option<u32>| Duration::from_millis(u64::from(value.unwrap_or(60_000)));
    let path = service.path.as_ref().map_or("/", |path| path.as_str());
    Ok(CompiledService {
        id: service.id,
        destination,
        transport,
        path: normalize(path).into_owned(),
        timeouts: Timeouts {
            connect: milliseconds(service.connect_timeout),
            write: milliseconds(service.write_timeout),
            read: milliseconds(service.read_timeout),
        },
        retries: service.retries.unwrap_or(5),
        raw: matches!(
            service.protocol,
            Protocol::Tcp | Protocol::Tls | Protocol::TlsPassthrough | Protocol::Udp
        ),
    })
}

/// How TLS is spoken for `service`: its own certificate, else its upstream's, else the node's; and so with the rest.
fn profile(
    service: &Service,
    upstream: Option<&CompiledUpstream>,
    surroundings: &Surroundings<'_>,
) -> Result<Arc<TlsProfile>, (&'static str, String)> {
    let identity = match service.client_certificate {
        Some(reference) => Some(
            surroundings
                .identities
                .of(reference.id)
                .map_err(|message| ("client_certificate", message))?,
        ),
        None if upstream.is_some_and(|upstream| upstream.lacks_identity) => {
            let message = "the client certificate of its upstream cannot be used";
            return Err(("host", message.to_owned()));
        }
        None => upstream
            .and_then(|upstream| upstream.identity.clone())
            .or_else(|| surroundings.tls.identity.clone()),
    };
    // One that does not exist vouches for nobody.
    let believed = service
        .ca_certificates
        .as_ref()
        .filter(|ids| !ids.is_empty());
    let authorities = believed.map(|ids| {
        let known = |id: &Uuid| surroundings.authorities.of(*id).cloned();
        ids.iter().filter_map(known).collect::<Vec<_>>()
    });
    let defaults = surroundings.tls;
    Ok(TlsProfile::of(
        service.tls_verify.unwrap_or(defaults.verify),
        service.tls_verify_depth.or(defaults.depth),
        authorities.as_deref().or(defaults.authorities.as_deref()),
        identity.as_ref(),
    ))
}
