//! The demo's provider and upstream on sockets, with a count of what they were asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wardgate::provider::{Client, Provider, ProviderSettings};
use wardgate::upstream;

/// The registered relying party.
pub const CLIENT: &str = "wardgate";
/// Its secret.
pub const SECRET: &str = "wardgate-secret";

/// A provider with the users alice and bob, and an upstream that echoes.
#[derive(Debug)]
pub struct Demo {
    /// The provider, to be changed by a test.
    pub provider: Provider,
    provider_server: Server,
    upstream_server: Server,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Demo {
    /// Starts both. The provider sends browsers back to any path of `redirect_origins`.
    pub async fn start(redirect_origins: &[String]) -> Self {
        let listener = listen("127.0.0.1:0").await;
        let address = listener.local_addr().expect("a listener has an address");
        let mut settings = ProviderSettings::new(format!("http://{address}"));
        let anywhere: Vec<_> = redirect_origins
            .iter()
            .map(|origin| format!("{origin}/*"))
            .collect();
        settings.clients.push(Client {
            id: CLIENT.to_owned(),
            secret: SECRET.to_owned(),
            redirect_uris: anywhere.clone(),
            post_logout_redirect_uris: anywhere,
        });
        let provider = Provider::new(settings);
        let provider_server = Server::start(listener, provider.router());
        let upstream = upstream::router(upstream::Links::default());
        let upstream_server = Server::start(listen("127.0.0.1:0").await, upstream);
        Self {
            provider,
            provider_server,
            upstream_server,
        }
    }

    /// The provider's issuer identifier.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.provider_server.address)
    }

    /// The upstream's base URL.
    pub fn upstream(&self) -> String {
        format!("http://{}", self.upstream_server.address)
    }

    /// Requests that the provider was sent so far, by browsers and gateways.
    pub fn provider_requests(&self) -> usize {
        self.provider_server.requests.load(Ordering::SeqCst)
    }

    /// Requests that the upstream was sent so far.
    pub fn upstream_requests(&self) -> usize {
        self.upstream_server.requests.load(Ordering::SeqCst)
    }

    /// Lets access tokens live for `lifetime` from now on.
    pub fn set_access_token_lifetime(&self, lifetime: Duration) {
        self.provider
            .configure(|settings| settings.access_token_lifetime = lifetime);
    }

    /// Takes the provider off the network.
    pub async fn stop_provider(&mut self) {
        self.provider_server.stop().await;
    }

    /// Puts it back, with everything that it knew.
    pub async fn restart_provider(&mut self) {
        let address = self.provider_server.address.to_string();
        let listener = listen(&address).await;
        self.provider_server = Server::start(listener, self.provider.router());
    }
}

impl Server {
    fn start(listener: TcpListener, router: Router) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let router = router.layer(from_fn(move |request: Request, next: Next| {
            counted.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }));
        let task = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("the listener works");
        });
        Self {
            address,
            requests,
            task,
        }
    }

    async fn stop(&mut self) {
        self.task.abort();
        // Connections live in tasks of their own and end with their clients; only the listener goes.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(address: &str) -> TcpListener {
    crate::eventually(&format!("{address} is free"), async || {
        TcpListener::bind(address).await.ok()
    })
    .await
}
