//! All that a proxy listens on, by its settings.

pub(crate) mod certificates;
pub(crate) mod client_certificates;
pub(crate) mod connections;
pub(crate) mod handshake;
pub mod inherited;
pub(crate) mod listener;
pub(crate) mod proxy_protocol;
pub(crate) mod shortage;
pub(crate) mod sockets;
pub(crate) mod tls;

use std::os::fd::OwnedFd;

use socket2::Type;

use crate::limits::Limits;
use crate::proxy::{Addresses, ProxyError};
use crate::settings::{Settings, StreamKind};
use inherited::Inherited;
use listener::{Bound, OfCore, Takes};
use sockets::{Asked, Sockets};
use tls::Tls;

/// All listening sockets.
pub(crate) struct Listeners {
    pub(crate) addresses: Addresses,
    /// The same sockets once more, with their names.
    pub(crate) kept: Vec<(String, OwnedFd)>,
    pub(crate) of_cores: Vec<OfCore>,
    pub(crate) status: Vec<std::net::TcpListener>,
}

/// Listens at every address of `settings`, for clients within `limits`, on what was passed on as far as there is any.
pub(crate) fn listen(
    settings: &Settings,
    limits: &Limits,
    tls: &Tls,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Listeners, ProxyError> {
    let mut kept = Vec::new();
    let mut open = |setting, name: &str, asked: Asked, cores| {
        let sockets = Sockets::open(name, asked, cores, inherited);
        let sockets = sockets.map_err(|source| ProxyError::Listen {
            setting,
            address: asked.address,
            source,
        })?;
        kept.extend(sockets.clones().map_err(ProxyError::Sockets)?);
        Ok::<_, ProxyError>(sockets)
    };
    let mut addresses = Addresses::default();
    let mut of_cores: Vec<OfCore> = std::iter::repeat_with(OfCore::default)
        .take(workers)
        .collect();
    let (mut plain, mut secure) = (0, 0);
    for (setting, listen) in settings.proxies().map_err(ProxyError::Listeners)? {
        let (kind, count, first) = if listen.tls {
            ("proxy_tls", &mut secure, &mut addresses.proxy_tls)
        } else {
            ("proxy", &mut plain, &mut addresses.proxy)
        };
        *count += 1;
        let asked = Asked {
            address: listen.address,
            kind: Type::STREAM,
            backlog: listen.backlog,
            vanished: limits.vanished,
            raw: false,
        };
        let sockets = open(setting, &named(kind, *count), asked, workers)?;
        first.get_or_insert(sockets.address);
        addresses.listeners.push(sockets.address);
        let takes = Takes {
            tls: listen.tls.then(|| tls.clone()),
            raw: false,
            proxy_protocol: listen.proxy_protocol,
        };
        give(&mut of_cores, sockets, &takes);
    }
    let stream_tls = tls.without_protocols();
    let streams = settings.streams().map_err(ProxyError::Listeners)?;
    for (listen, number) in streams.into_iter().zip(1_u16..) {
        let (kind, tls) = match listen.kind {
            StreamKind::Tcp => (Type::STREAM, None),
            StreamKind::Tls => (Type::STREAM, Some(stream_tls.clone())),
            StreamKind::Udp => (Type::DGRAM, None),
        };
        let asked = Asked {
            address: listen.address,
            kind,
            backlog: listen.backlog,
            vanished: limits.vanished,
            raw: true,
        };
        let sockets = open("stream_listen", &format!("stream_{number}"), asked, workers)?;
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
    let mut status = Vec::new();
    let statuses = settings.statuses().map_err(ProxyError::Listeners)?;
    for (listen, number) in statuses.into_iter().zip(1_u16..) {
        let asked = Asked {
            address: listen.address,
            kind: Type::STREAM,
            backlog: listen.backlog,
            vanished: limits.vanished,
            raw: false,
        };
        let sockets = open("status_listen", &named("status", number), asked, 1)?;
        addresses.status.get_or_insert(sockets.address);
        let sockets = sockets.by_core.into_iter().flatten();
        status.extend(sockets.map(Into::into));
    }
    Ok(Listeners {
        addresses,
        kept,
        of_cores,
        status,
    })
}

/// What the sockets of the listener `number` of a kind are called.
fn named(kind: &str, number: u16) -> String {
    match number {
        1 => kind.to_owned(),
        _ => format!("{kind}_{number}"),
    }
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
