//! Accepts data planes: TCP, then mutual TLS, with bounds on how many shake hands and for how long.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use shared::shares::Shares;

/// Handshakes at once. The rest waits in the listen backlog: refusing later has already paid for them.
const HANDSHAKES: usize = 64;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After which time one is slow, and how many of these an address may have: nobody without a certificate is to keep the
/// nodes of other addresses out.
const SLOW: Duration = Duration::from_secs(2);
const SLOW_PER_ADDRESS: usize = 16;
/// How long sent bytes may stay unacknowledged. Nodes send some at least as often as they answer a ping.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Bytes that may wait in the kernel: pings, logouts and keys would stand behind them. On a slow link that takes seconds.
const UNSENT: u32 = 8 * 1024;
/// And before it, encrypted.
const UNWRITTEN: usize = 8 * 1024;
/// Connections that may wait for their handshake: a fleet that comes back as one.
pub(crate) const BACKLOG: u32 = 4096;

/// Connections whose certificate an authority of the cluster has issued.
pub(super) fn accept(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
) -> (impl Stream<Item = TlsStream<TcpStream>>, JoinHandle<()>) {
    accept_with(listener, config, SLOW)
}

/// The same, where a handshake is slow after that time.
fn accept_with(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    late: Duration,
) -> (impl Stream<Item = TlsStream<TcpStream>>, JoinHandle<()>) {
    let (sender, connections) = mpsc::channel(HANDSHAKES);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let slow = Shares::new(SLOW_PER_ADDRESS);
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
            if !slow.allow(address.ip()) {
                tracing::debug!(%address, "a connection is closed: too many handshakes from its address are stalled");
                continue;
            }
            let slow = slow.clone();
            let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
            let sender = sender.clone();
            tokio::spawn(async move {
                let _permit = permit;
                // Small messages must not wait for more.
                let _ = stream.set_nodelay(true);
                // Nor may a peer that is gone hold what was sent to it for a quarter of an hour.
                let socket = SockRef::from(&stream);
                let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
                let _ = socket.set_tcp_notsent_lowat(UNSENT);
                let mut shaking = pin!(acceptor.accept(stream));
                let mut shaken = tokio::time::timeout(late, &mut shaking).await;
                if shaken.is_err() {
                    let Some(_share) = slow.take(address.ip()) else {
                        tracing::debug!(%address, "a handshake is given up: too many from its address are stalled");
                        return;
                    };
                    shaken = tokio::time::timeout(HANDSHAKE.saturating_sub(late), shaking).await;
                }
                match shaken {
                    Ok(Ok(mut connection)) => {
                        connection.get_mut().1.set_buffer_limit(Some(UNWRITTEN));
                        let _ = sender.send(connection).await;
                    }
                    Ok(Err(error)) => tracing::warn!(%address, %error, "a data plane was refused"),
                    Err(_) => tracing::warn!(%address, "a TLS handshake took over 10 s"),
                }
            });
        }
    });
    (ReceiverStream::new(connections), task)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures::StreamExt as _;
    use futures::stream::FuturesUnordered;
    use shared::tls::provider;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn handshakes_that_do_not_get_on_leave_room_for_others() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let listener = TcpListener::bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let (_config, config) = watch::channel(Arc::new(config));
        let late = Duration::from_millis(100);
        let (_connections, task) = accept_with(listener, config, late);
        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // All but its share are let go.
        let most = HANDSHAKES - SLOW_PER_ADDRESS;
        let mut reads: FuturesUnordered<_> = silent.iter_mut().map(|one| one.read_u8()).collect();
        for _ in 0..most {
            assert!(reads.next().await.unwrap().is_err());
        }
        let rest = tokio::time::timeout(late, reads.next()).await;
        assert!(rest.is_err(), "its share is waited for");
        // Its next one is closed at once; another's is not.
        let mut next = TcpStream::connect(address).await.unwrap();
        assert!(next.read_u8().await.is_err());
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let mut other = other.connect(address).await.unwrap();
        let read = tokio::time::timeout(Duration::from_millis(200), other.read_u8()).await;
        assert!(read.is_err(), "it is waited for");
        task.abort();
    }
}
