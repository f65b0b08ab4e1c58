//! The addresses that a control plane listens on.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use serde_json::Value;
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

/// A listener with TLS.
pub(crate) struct Encrypted {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

/// The Admin API's listener with TLS, if one is set.
pub(crate) fn listen_encrypted(
    setting: Option<(SocketAddr, Arc<ServerConfig>)>,
) -> Result<Option<Encrypted>, StartError> {
    let Some((address, config)) = setting else {
        return Ok(None);
    };
    let (listener, address) = listen("admin_tls_listen", address)?;
    Ok(Some(Encrypted {
        address,
        listener,
        config,
    }))
}

/// Serves the Admin API, also with TLS where that is set, whose address joins `addresses`. To drop
/// the senders ends it.
pub(crate) fn serve_admin(
    plain: TcpListener,
    tls: Option<Encrypted>,
    router: axum::Router,
    addresses: &mut Value,
) -> (Vec<oneshot::Sender<()>>, JoinHandle<()>) {
    let limits = Limits::default();
    let (stop, stopping) = oneshot::channel();
    let plain = serve(plain, None, limits, router.clone(), stopping);
    let Some(tls) = tls else {
        return (vec![stop], tokio::spawn(plain));
    };
    if let Some(addresses) = addresses.as_object_mut() {
        addresses.insert("admin_tls".to_owned(), tls.address.to_string().into());
    }
    let (also, stopping) = oneshot::channel();
    let encrypted = serve(tls.listener, Some(tls.config), limits, router, stopping);
    let both = async move {
        tokio::join!(plain, encrypted);
    };
    (vec![stop, also], tokio::spawn(both))
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
