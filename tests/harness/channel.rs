//! The way of a node to a control plane, for tests that speak for one of them.

use std::sync::{Arc, Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use shared::tls::CONTROL_PLANE_NAME;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// What a [`channel`] is made of, to be given other settings.
pub fn endpoint() -> Endpoint {
    Endpoint::from(Uri::from_static("http://wardgate-control-plane"))
}

/// One connection to the control plane at `address`, which is not made again once it has ended.
///
/// # Errors
///
/// If there is no connection, or one side does not believe the other's certificate.
pub async fn channel(
    endpoint: Endpoint,
    connector: &TlsConnector,
    address: &str,
) -> std::io::Result<Channel> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(CONTROL_PLANE_NAME).map_err(std::io::Error::other)?;
    let stream = connector.connect(name, stream).await?;
    let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    endpoint
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                stream
                    .ok_or(std::io::ErrorKind::NotConnected)
                    .map_err(std::io::Error::from)
            }
        }))
        .await
        .map_err(std::io::Error::other)
}
