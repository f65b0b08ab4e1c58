//! The addresses that a control plane listens on.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::listener::{Limits, serve};
use crate::{StartError, config_sync};

/// A listener and the address that it got.
pub(crate) fn listen(
    setting: &'static str,
    address: SocketAddr,
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
        socket.listen(config_sync::BACKLOG)
    };
    let listener = socket.and_then(bind).map_err(failed)?;
    let chosen = listener.local_addr().map_err(failed)?;
    Ok((listener, chosen))
}

/// Listeners that need no farewell: of pages and probes.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// By name, such as `console`.
    pub(crate) addresses: serde_json::Map<String, serde_json::Value>,
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
            let (listener, chosen) = listen(name, address)?;
            let chosen = chosen.to_string();
            let name = name.trim_end_matches("_listen");
            pages.addresses.insert(name.to_owned(), chosen.into());
            pages.served.push(tokio::spawn(async move {
                // Never sent: the task is ended instead.
                let (_end, stopping) = oneshot::channel();
                serve(listener, None, Limits::default(), router, stopping).await;
            }));
        }
        Ok(pages)
    }
}
