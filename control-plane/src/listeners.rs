//! The addresses that a control plane listens on.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::StartError;
use crate::admin::Listener;
use crate::admin::listener::{Limits, serve};
use crate::config_sync::BACKLOG;
use crate::settings::Settings;

/// A listener and the address that it got.
pub(crate) fn listen(
    setting: &'static str,
    address: SocketAddr,
    backlog: u32,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address,
        setting,
        source,
    };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let bind = |socket: TcpSocket| {
        // A restart must not wait for the connections of the process before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    };
    let listener = socket.and_then(bind).map_err(failed)?;
    let chosen = listener.local_addr().map_err(failed)?;
    Ok((listener, chosen))
}

/// The listeners of the Admin API.
pub(crate) struct Admins(Vec<Bound>);

struct Bound {
    address: SocketAddr,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl Admins {
    /// Those that `settings` ask for; where they speak TLS, it is `tls`.
    pub(crate) fn listen(
        settings: &Settings,
        tls: Option<&Arc<ServerConfig>>,
    ) -> Result<Self, StartError> {
        let mut all = Vec::new();
        for (setting, asked) in settings.admins().map_err(StartError::Listeners)? {
            let backlog = asked.backlog.unsigned_abs();
            let (listener, address) = listen(setting, asked.address, backlog)?;
            all.push(Bound {
                address,
                listener,
                tls: tls.filter(|_| asked.tls).cloned(),
            });
        }
        Ok(Self(all))
    }

    /// What clients are told of them.
    pub(crate) fn shown(&self) -> Vec<Listener> {
        let shown = |bound: &Bound| Listener {
            address: bound.address,
            encrypted: bound.tls.is_some(),
        };
        self.0.iter().map(shown).collect()
    }

    /// The first one without TLS, or else the first.
    pub(crate) fn first(&self) -> Result<SocketAddr, StartError> {
        let plain = self.0.iter().find(|bound| bound.tls.is_none());
        let first = plain.or(self.0.first());
        let none = || StartError::Listeners("there is no Admin API".to_owned());
        first.map(|bound| bound.address).ok_or_else(none)
    }

    /// What is told of where the control plane listens, as far as it is known, with where data planes connect.
    pub(crate) fn addresses(&self, cluster: SocketAddr) -> serde_json::Map<String, Value> {
        let encrypted = self.0.iter().find(|bound| bound.tls.is_some());
        let told = [
            ("admin", self.first().ok()),
            ("admin_tls", encrypted.map(|bound| bound.address)),
            ("cluster", Some(cluster)),
        ];
        let told = told
            .into_iter()
            .filter_map(|(name, address)| Some((name.to_owned(), address?.to_string().into())));
        told.collect()
    }

    /// Serves the Admin API. To drop the senders ends it.
    pub(crate) fn serve(self, router: &axum::Router) -> (Vec<oneshot::Sender<()>>, JoinHandle<()>) {
        let mut stop = Vec::new();
        let mut served = JoinSet::new();
        for Bound { listener, tls, .. } in self.0 {
            let (end, stopping) = oneshot::channel();
            stop.push(end);
            served.spawn(serve(
                listener,
                tls,
                Limits::default(),
                router.clone(),
                stopping,
            ));
        }
        let all = async move {
            while let Some(ended) = served.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "admin api ended badly");
                }
            }
        };
        (stop, tokio::spawn(all))
    }
}

/// Listeners that need no farewell: of pages and probes.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// By name, such as `console`.
    pub(crate) addresses: serde_json::Map<String, Value>,
    pub(crate) served: Vec<JoinHandle<()>>,
}

impl Pages {
    /// Serves the routers whose addresses are set.
    pub(crate) fn start(
        settings: [(&'static str, Option<SocketAddr>); 2],
        routers: [axum::Router; 2],
    ) -> Result<Self, StartError> {
        let mut pages = Self::default();
        for ((name, address), router) in settings.into_iter().zip(routers) {
            let Some(address) = address else { continue };
            let (listener, chosen) = listen(name, address, BACKLOG)?;
            let chosen = chosen.to_string();
            let name = name.trim_end_matches("_listen");
            pages.addresses.insert(name.to_owned(), chosen.into());
            pages.served.push(tokio::spawn(async move {
                // Never sent: the task is ended instead.
                let (_end, stopping) = oneshot::channel();
                serve(listener, None, Limits::of_a_page(), router, stopping).await;
            }));
        }
        Ok(pages)
    }
}
