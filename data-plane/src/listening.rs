//! Everything that a proxy listens on, according to its settings.

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

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::Type;

use crate::limits::Limits;
use crate::live::Live;
use crate::proxy::{Addresses, ProxyError};
use crate::settings::{Settings, StreamKind};
use certificates::{CertificateError, DefaultCertificate};
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
    /// Each with the TLS that is spoken there, if any.
    pub(crate) status: Vec<(std::net::TcpListener, Option<Tls>)>,
}

/// The TLS of all listeners.
pub(crate) struct Security {
    proxies: Tls,
    /// There is none if none of them speaks it.
    statuses: Option<Tls>,
    /// The certificates that are shown where the configuration has none for a name, by the settings that name the files.
    pub(crate) defaults: Vec<(&'static str, Arc<DefaultCertificate>)>,
}

impl Security {
    /// What `settings` say, with the certificates of what is `live`.
    pub(crate) fn of(settings: &Settings, live: &Live) -> Result<Self, ProxyError> {
        let statuses = settings.statuses().map_err(ProxyError::Listeners)?;
        let suites = &settings.proxy_tls_cipher_suites;
        let secured = |what, certificate: Option<&Path>, key, live: &Live| {
            let default = DefaultCertificate::new(what, certificate.zip(key))?;
            let default = Arc::new(default);
            let tls = Tls::new(suites, Arc::clone(&default), Arc::clone(live))?;
            Ok::<_, CertificateError>((tls, default))
        };
        let (proxies, default) = secured(
            "the proxy's certificates",
            settings.proxy_tls_certificate.as_deref(),
            settings.proxy_tls_key.as_deref(),
            live,
        )
        .map_err(ProxyError::Certificate)?;
        let mut security = Self {
            proxies,
            statuses: None,
            defaults: vec![("proxy_tls_certificate", default)],
        };
        if statuses.iter().any(|one| one.tls) {
            let (tls, default) = secured(
                "the certificates for status",
                settings.status_tls_certificate.as_deref(),
                settings.status_tls_key.as_deref(),
                // What is configured there is for clients.
                &Live::default(),
            )
            .map_err(ProxyError::StatusCertificate)?;
            security.statuses = Some(tls.without_protocols());
            security.defaults.push(("status_tls_certificate", default));
        }
        Ok(security)
    }
}

/// Listens at every address of `settings`, for clients within `limits`, on what was passed on as far as there is any.
pub(crate) fn listen(
    settings: &Settings,
    limits: &Limits,
    security: &Security,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Listeners, ProxyError> {
    let mut opening = Opening {
        settings,
        vanished: limits.vanished,
        workers,
        inherited,
        opened: Listeners {
            addresses: Addresses::default(),
            kept: Vec::new(),
            of_cores: std::iter::repeat_with(OfCore::default)
                .take(workers)
                .collect(),
            status: Vec::new(),
        },
    };
    opening.proxies(&security.proxies)?;
    opening.streams(&security.proxies.without_protocols())?;
    opening.statuses(security.statuses.as_ref())?;
    Ok(opening.opened)
}

/// Listeners, one after the other.
struct Opening<'a> {
    settings: &'a Settings,
    vanished: Duration,
    workers: usize,
    inherited: &'a mut Inherited,
    opened: Listeners,
}

impl Opening<'_> {
    /// Where clients of HTTP are taken.
    fn proxies(&mut self, tls: &Tls) -> Result<(), ProxyError> {
        let (mut plain, mut secure) = (0, 0);
        for (setting, listen) in self.settings.proxies().map_err(ProxyError::Listeners)? {
            let (kind, count) = if listen.tls {
                ("proxy_tls", &mut secure)
            } else {
                ("proxy", &mut plain)
            };
            *count += 1;
            let asked = self.asked(listen.address, listen.backlog);
            let sockets = self.open(setting, &named(kind, *count), asked, self.workers)?;
            let addresses = &mut self.opened.addresses;
            let first = if listen.tls {
                &mut addresses.proxy_tls
            } else {
                &mut addresses.proxy
            };
            first.get_or_insert(sockets.address);
            addresses.listeners.push(sockets.address);
            let takes = Takes {
                tls: listen.tls.then(|| tls.clone()),
                raw: false,
                proxy_protocol: listen.proxy_protocol,
            };
            self.give(sockets, &takes);
        }
        Ok(())
    }

    /// A socket for connections on which HTTP is spoken.
    const fn asked(&self, address: SocketAddr, backlog: i32) -> Asked {
        Asked {
            address,
            kind: Type::STREAM,
            backlog,
            vanished: self.vanished,
            raw: false,
        }
    }

    /// Where byte streams and datagrams are taken.
    fn streams(&mut self, tls: &Tls) -> Result<(), ProxyError> {
        let streams = self.settings.streams().map_err(ProxyError::Listeners)?;
        for (listen, number) in streams.into_iter().zip(1_u16..) {
            let (kind, tls) = match listen.kind {
                StreamKind::Tcp => (Type::STREAM, None),
                StreamKind::Tls => (Type::STREAM, Some(tls.clone())),
                StreamKind::Udp => (Type::DGRAM, None),
            };
            let asked = Asked {
                kind,
                raw: true,
                ..self.asked(listen.address, listen.backlog)
            };
            let name = format!("stream_{number}");
            let sockets = self.open("stream_listen", &name, asked, self.workers)?;
            self.opened.addresses.stream.push(sockets.address);
            if listen.kind == StreamKind::Udp {
                self.give_datagrams(sockets);
                continue;
            }
            let takes = Takes {
                tls,
                raw: true,
                proxy_protocol: listen.proxy_protocol,
            };
            self.give(sockets, &takes);
        }
        Ok(())
    }

    /// Where operators ask for status and metrics.
    fn statuses(&mut self, tls: Option<&Tls>) -> Result<(), ProxyError> {
        let statuses = self.settings.statuses().map_err(ProxyError::Listeners)?;
        for (listen, number) in statuses.into_iter().zip(1_u16..) {
            let asked = self.asked(listen.address, listen.backlog);
            let sockets = self.open("status_listen", &named("status", number), asked, 1)?;
            let addresses = &mut self.opened.addresses;
            addresses.status.get_or_insert(sockets.address);
            let sockets = sockets.by_core.into_iter().flatten();
            let tls = tls.filter(|_| listen.tls);
            let secured = sockets.map(|socket| (socket.into(), tls.cloned()));
            self.opened.status.extend(secured);
        }
        Ok(())
    }

    /// Opens the sockets of the listener `name`, which `setting` asks for, and keeps them once more.
    fn open(
        &mut self,
        setting: &'static str,
        name: &str,
        asked: Asked,
        cores: usize,
    ) -> Result<Sockets, ProxyError> {
        let sockets = Sockets::open(name, asked, cores, self.inherited);
        let sockets = sockets.map_err(|source| ProxyError::Listen {
            setting,
            address: asked.address,
            source,
        })?;
        let clones = sockets.clones().map_err(ProxyError::Sockets)?;
        self.opened.kept.extend(clones);
        Ok(sockets)
    }

    /// Gives each core its sockets of a listener.
    fn give(&mut self, sockets: Sockets, takes: &Takes) {
        for (own, sockets) in self.opened.of_cores.iter_mut().zip(sockets.by_core) {
            own.listeners
                .extend(sockets.into_iter().map(|socket| Bound {
                    socket: socket.into(),
                    takes: takes.clone(),
                }));
        }
    }

    /// The same of a listener for datagrams.
    fn give_datagrams(&mut self, sockets: Sockets) {
        for (own, sockets) in self.opened.of_cores.iter_mut().zip(sockets.by_core) {
            own.datagrams.extend(sockets.into_iter().map(Into::into));
        }
    }
}

/// What the sockets of the listener `number` of a kind are called.
fn named(kind: &str, number: u16) -> String {
    match number {
        1 => kind.to_owned(),
        _ => format!("{kind}_{number}"),
    }
}
