//! Stands between a data plane and its control plane and keeps what either says, as test data for later versions.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, TryStreamExt};
use harness::{channel, endpoint};
use proto::v1::config_sync_client::ConfigSyncClient;
use proto::v1::config_sync_server::{ConfigSync, ConfigSyncServer};
use proto::v1::{ControlMessage, NodeMessage};
use shared::tls::{self, Identity};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Messages, each with its length before it.
type Said = Arc<Mutex<Vec<u8>>>;

/// What either side has said.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    control_plane: Said,
    node: Said,
}

/// The way to the real control plane.
#[derive(Clone)]
struct Between {
    recorder: Recorder,
    address: String,
    connector: TlsConnector,
}

fn keep(said: &Said, message: &impl prost::Message) {
    let bytes = message.encode_length_delimited_to_vec();
    said.lock().unwrap().extend(bytes);
}

impl Recorder {
    /// Passes on between `address` and the node `name`, with the certificates in `certificates`; where the node
    /// is to connect.
    pub(crate) async fn start(&self, address: &str, name: &str, certificates: &Path) -> String {
        let identity = |name: &str| {
            let file = |end: &str| certificates.join(format!("{name}.{end}"));
            Identity::read(&file("pem"), &file("key")).unwrap()
        };
        let authorities = tls::read_authorities(&certificates.join("ca.pem")).unwrap();
        let ours = identity("control-plane");
        let acceptor =
            TlsAcceptor::from(tls::cluster_server(&ours, Arc::clone(&authorities)).unwrap());
        let connector =
            TlsConnector::from(tls::cluster_client(&identity(name), authorities).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listens = listener.local_addr().unwrap().to_string();
        let (accepted, connections) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted.send(Ok::<_, std::io::Error>(stream)).await;
                }
            }
        });
        let between = Between {
            recorder: self.clone(),
            address: address.to_owned(),
            connector,
        };
        tokio::spawn(
            Server::builder()
                .add_service(ConfigSyncServer::new(between))
                .serve_with_incoming(ReceiverStream::new(connections)),
        );
        listens
    }

    /// Writes what was said to `control-plane` and `node` in `directory`.
    pub(crate) fn write(&self, directory: &Path) {
        for (name, said) in [("control-plane", &self.control_plane), ("node", &self.node)] {
            std::fs::write(directory.join(name), &*said.lock().unwrap()).unwrap();
        }
    }
}

impl Between {
    async fn client(&self) -> Option<ConfigSyncClient<tonic::transport::Channel>> {
        let channel = channel(endpoint(), &self.connector, &self.address)
            .await
            .ok()?;
        Some(ConfigSyncClient::new(channel))
    }
}

#[tonic::async_trait]
impl ConfigSync for Between {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut client = self
            .client()
            .await
            .ok_or_else(|| Status::unavailable("the control plane is away"))?;
        let node = Arc::clone(&self.recorder.node);
        let said = request.into_inner().filter_map(move |message| {
            let message = message.ok();
            if let Some(message) = &message {
                keep(&node, message);
            }
            std::future::ready(message)
        });
        // Asked at once and answered once the node has spoken.
        let answers = client.subscribe(said).await?.into_inner();
        let control_plane = Arc::clone(&self.recorder.control_plane);
        let answers = answers.inspect_ok(move |message| keep(&control_plane, message));
        Ok(Response::new(Box::pin(answers)))
    }
}
