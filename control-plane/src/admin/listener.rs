//! Where the Admin API is served: plain, and over TLS with handshakes that are bounded in number and time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use shared::tls::{Identity, TlsError, provider};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at once.
const HANDSHAKES: usize = 64;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// TLS 1.2 and 1.3 with the certificate and key in two files.
///
/// # Errors
///
/// If one of them cannot be read or used.
pub(crate) fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let identity = Identity::read(certificate, key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|source| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until `stopping` ends, then finishes what is under way.
pub(crate) async fn serve(listener: TcpListener, router: Router, stopping: oneshot::Receiver<()>) {
    let service = router.into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stopped(stopping));
    if let Err(error) = served.await {
        tracing::error!(%error, "admin api stopped");
    }
}

/// The same over TLS.
pub(crate) async fn serve_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    router: Router,
    stopping: oneshot::Receiver<()>,
) {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => {
            tracing::error!(%error, "admin api over tls not started");
            return;
        }
    };
    let (sender, connections) = mpsc::channel(HANDSHAKES);
    let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(config), sender));
    let listener = TlsListener {
        address,
        connections,
    };
    let service = router.into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stopped(stopping));
    if let Err(error) = served.await {
        tracing::error!(%error, "admin api over tls stopped");
    }
    accepting.abort();
}

async fn stopped(stopping: oneshot::Receiver<()>) {
    // A sender that is gone means the same as one that spoke.
    let _ = stopping.await;
}

type Connection = (TlsStream<TcpStream>, SocketAddr);

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<Connection>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the admin api failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(connection)) => _ = sender.send((connection, address)).await,
                Ok(Err(error)) => tracing::debug!(%address, %error, "an admin client was refused"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took over 10 s"),
            }
        });
    }
}

/// Connections whose handshake is done.
struct TlsListener {
    address: SocketAddr,
    connections: mpsc::Receiver<Connection>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.connections.recv().await {
            Some(connection) => connection,
            // Whoever accepts has ended, so nothing comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
