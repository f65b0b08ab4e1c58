//! Accepts data planes: TCP, then mutual TLS, with bounds on how many shake hands and for how long.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Handshakes at once. The rest waits in the listen backlog: refusing later has already paid for them.
const HANDSHAKES: usize = 64;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged, in milliseconds.
const UNACKNOWLEDGED: u32 = 15_000;
/// Connections that may wait for their handshake: a fleet that comes back as one.
pub const BACKLOG: u32 = 4096;

/// Connections whose certificate an authority of the cluster has issued.
pub(super) fn accept(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
) -> (
    impl Stream<Item = Result<TlsStream<TcpStream>, Infallible>>,
    JoinHandle<()>,
) {
    let (sender, connections) = mpsc::channel(HANDSHAKES);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let task = tokio::spawn(async move {
        while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a data plane failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
            let sender = sender.clone();
            tokio::spawn(async move {
                let _permit = permit;
                // Small messages must not wait for more.
                let _ = stream.set_nodelay(true);
                // Nor may a peer that is gone hold what was sent to it for a quarter of an hour.
                let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED);
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(connection)) => _ = sender.send(connection).await,
                    Ok(Err(error)) => tracing::warn!(%address, %error, "a data plane was refused"),
                    Err(_) => tracing::warn!(%address, "a TLS handshake took over 10 s"),
                }
            });
        }
    });
    (ReceiverStream::new(connections).map(Ok), task)
}
