//! All that a proxy listens on, by its settings.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::ServerConfig;
use socket2::Type;

use crate::inherited::Inherited;
use crate::listener::{Bound, OfCore, Takes};
use crate::proxy::{Addresses, ProxyError};
use crate::settings::{ProxyListen, Settings, StreamKind};
use crate::sockets::Sockets;

/// All listening sockets.
pub(crate) struct Listeners {
    pub(crate) addresses: Addresses,
    /// The same sockets once more, with their names.
    pub(crate) kept: Vec<(String, OwnedFd)>,
    pub(crate) of_cores: Vec<OfCore>,
    pub(crate) status: Vec<std::net::TcpListener>,
}

/// Listens at every address of `settings`, on what was passed on as far as there is any.
pub(crate) fn listen(
    settings: &Settings,
    tls: &Arc<ServerConfig>,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Listeners, ProxyError> {
    let mut kept = Vec::new();
    let mut open = |name: &str, setting, address, kind, cores| {
        let sockets = Sockets::open(name, address, kind, cores, inherited);
        let sockets = sockets.map_err(|source| ProxyError::Listen {
            setting,
            address,
            source,
        })?;
        kept.extend(sockets.clones().map_err(ProxyError::Sockets)?);
        Ok::<_, ProxyError>(sockets)
    };
    let (plain, secure) = (settings.proxy_listen, settings.proxy_tls_listen);
    let tcp = Type::STREAM;
    let of_plain = open("proxy", "proxy_listen", plain.address, tcp, workers)?;
    let of_secure = open(
        "proxy_tls",
        "proxy_tls_listen",
        secure.address,
        tcp,
        workers,
    )?;
    let status = open("status", "status_listen", settings.status_listen, tcp, 1)?;
    let mut addresses = Addresses {
        proxy: of_plain.address,
        proxy_tls: of_secure.address,
        status: status.address,
        stream: Vec::new(),
    };
    let mut of_cores: Vec<OfCore> = std::iter::repeat_with(OfCore::default)
        .take(workers)
        .collect();
    let http = |listen: ProxyListen, tls: Option<&Arc<ServerConfig>>| Takes {
        tls: tls.cloned(),
        raw: false,
        proxy_protocol: listen.proxy_protocol,
    };
    give(&mut of_cores, of_plain, &http(plain, None));
    give(&mut of_cores, of_secure, &http(secure, Some(tls)));
    let stream_tls = without_protocols(tls);
    for (listen, number) in settings.stream_listen.iter().zip(1_u16..) {
        let name = format!("stream_{number}");
        let (kind, tls) = match listen.kind {
            StreamKind::Tcp => (tcp, None),
            StreamKind::Tls => (tcp, Some(Arc::clone(&stream_tls))),
            StreamKind::Udp => (Type::DGRAM, None),
        };
        let sockets = open(&name, "stream_listen", listen.address, kind, workers)?;
        addresses.stream.push(sockets.address);
        if listen.kind == StreamKind::Udp {
            for (own, sockets) in of_cores.iter_mut().zip(sockets.by_core) {
                own.datagrams.extend(sockets.into_iter().map(Into::into));
            }
            continue;
        }
        let takes = Takes {
            tls,
            raw: true,
            proxy_protocol: listen.proxy_protocol,
        };
        give(&mut of_cores, sockets, &takes);
    }
    let status = status.by_core.into_iter().flatten();
    Ok(Listeners {
        addresses,
        kept,
        of_cores,
        status: status.map(Into::into).collect(),
    })
}

/// Gives each core its sockets of a listener.
fn give(of_cores: &mut [OfCore], sockets: Sockets, takes: &Takes) {
    for (own, sockets) in of_cores.iter_mut().zip(sockets.by_core) {
        own.listeners
            .extend(sockets.into_iter().map(|socket| Bound {
                socket: socket.into(),
                takes: takes.clone(),
            }));
    }
}

/// The same TLS for streams, of whose protocol nothing is known.
fn without_protocols(tls: &Arc<ServerConfig>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(tls);
    config.alpn_protocols.clear();
    Arc::new(config)
}
