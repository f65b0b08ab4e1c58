//! The few calls that a control plane makes itself: to an OpenID provider, when an operator asks what
//! it says. Each on a thread of its own that ends with it, for the plugins' code wants a core to itself.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use plugins::bundled::openid_connect::client_keys::ClientKeys;
use plugins::host::ldap::{LdapError, LdapServer};
use plugins::host::redis::{Command, RedisError, RedisServer, Reply};
use plugins::host::sink::{Sink, SinkError};
use plugins::host::{FetchError, FetchLimits, Host, RevokeError};
use plugins::sessions::revocations::Revocations;
use plugins::state::{CoreStates, NodeStates};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use shared::clock::UnixTime;
use shared::entity::Revocation;
use shared::network::Network;
use shared::secret::Secret;
use shared::telemetry::chain;
use shared::tls::{provider, public_authorities};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest time for all calls of one question.
const LONGEST: Duration = Duration::from_secs(15);

/// Certificates are always verified here, by the machine's and Mozilla's roots.
static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(public_authorities())
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

/// What `question` comes to with a host that asks public addresses and `permitted` ones, and proves itself by `keys`;
/// `None` if that takes too long.
pub(crate) async fn run<T, F>(
    permitted: &Arc<[Network]>,
    keys: ClientKeys,
    question: impl FnOnce(Outbound) -> F + Send + 'static,
) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let permitted = Arc::clone(permitted);
    let asked = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let asking = question(Outbound(Rc::new(State {
                permitted,
                keys: Arc::new(keys),
                ..State::default()
            })));
            tokio::time::timeout(LONGEST, asking).await.ok()
        })
    });
    asked.await.ok().flatten()
}

/// A host that fetches, and has nothing else but what it proves itself by.
#[derive(Clone, Debug)]
pub(crate) struct Outbound(Rc<State>);

#[derive(Debug, Default)]
struct State {
    /// Networks in which providers may be besides public addresses.
    permitted: Arc<[Network]>,
    keys: Arc<ClientKeys>,
    core: CoreStates,
    node: NodeStates,
    revocations: Revocations,
}

impl Host for Outbound {
    async fn fetch(
        &self,
        request: Request<Bytes>,
        limits: FetchLimits,
    ) -> Result<Response<Bytes>, FetchError> {
        let authority = request.uri().authority().map(ToString::to_string);
        let authority = authority.unwrap_or_default();
        let timeout = limits.timeout;
        let fetching = fetch(request, &authority, &limits, &self.0.permitted);
        let late = FetchError::Timeout {
            authority: authority.clone(),
            timeout,
        };
        tokio::time::timeout(timeout, fetching)
            .await
            .unwrap_or(Err(late))
    }

    async fn redis(&self, _: &Arc<RedisServer>, _: Vec<Command>) -> Result<Vec<Reply>, RedisError> {
        std::future::ready(Err(RedisError::Connect {
            address: String::new(),
            reason: "a control plane asks no Redis server".to_owned(),
        }))
        .await
    }

    async fn bind(&self, _: &LdapServer, _: &str, _: &Secret<String>) -> Result<bool, LdapError> {
        std::future::ready(Err(LdapError::Connect {
            address: String::new(),
            reason: "a control plane asks no LDAP server".to_owned(),
        }))
        .await
    }

    async fn write(&self, _: &Sink, _: Bytes) -> Result<(), SinkError> {
        std::future::ready(Ok(())).await
    }

    fn now(&self) -> UnixTime {
        UnixTime::now()
    }

    fn node_id(&self) -> &'static str {
        "control-plane"
    }

    fn random(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer)
            .expect("the system's random source does not fail once it is seeded");
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn core_state<T: Default + 'static>(&self) -> Rc<T> {
        self.0.core.of()
    }

    fn node_state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.0.node.of()
    }

    fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    fn client_keys(&self) -> Arc<ClientKeys> {
        Arc::clone(&self.0.keys)
    }

    async fn revoke(&self, _: Vec<Revocation>) -> Result<(), RevokeError> {
        std::future::ready(Err(RevokeError::NotStored)).await
    }
}

async fn fetch(
    request: Request<Bytes>,
    authority: &str,
    limits: &FetchLimits,
    permitted: &[Network],
) -> Result<Response<Bytes>, FetchError> {
    let limit = limits.body;
    let url = || FetchError::Url(authority.to_owned());
    let unreachable = |reason: String| FetchError::Connect {
        authority: authority.to_owned(),
        reason,
    };
    let host = request.uri().host().ok_or_else(url)?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let tls = match request.uri().scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(url()),
    };
    let port = request.uri().port_u16();
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let found = found.map_err(|error| unreachable(error.to_string()))?;
    let mut stream = Err(unreachable("the name has no address".to_owned()));
    for address in found {
        if !limits.reach.allows(address.ip(), permitted) {
            stream = Err(FetchError::Forbidden {
                authority: authority.to_owned(),
                address: address.ip(),
            });
            continue;
        }
        let connected = TcpStream::connect(address).await;
        stream = connected.map_err(|error| unreachable(error.to_string()));
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    if tls {
        let name = ServerName::try_from(host).map_err(|_| url())?;
        let stream = TLS
            .connect(name, stream)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        exchange(stream, request, authority, limit).await
    } else {
        exchange(stream, request, authority, limit).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Bytes>,
    authority: &str,
    limit: usize,
) -> Result<Response<Bytes>, FetchError> {
    let broken = |reason: String| FetchError::Broken {
        authority: authority.to_owned(),
        reason,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(chain(&error).to_string()))?;
    tokio::task::spawn_local(async move {
        // Whoever waits for the answer learns of it.
        drop(connection.await);
    });
    let (mut parts, body) = request.into_parts();
    let host = HeaderValue::from_str(authority).map_err(|error| broken(error.to_string()))?;
    parts.headers.insert(header::HOST, host);
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    parts.uri = target
        .parse()
        .map_err(|_| FetchError::Url(authority.to_owned()))?;
    let answer = sender
        .send_request(Request::from_parts(parts, Full::new(body)))
        .await
        .map_err(|error| broken(chain(&error).to_string()))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, limit).collect().await;
    let body = body.map_err(|_| FetchError::TooLarge {
        authority: authority.to_owned(),
        limit,
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use plugins::host::Reach;

    use super::*;

    #[tokio::test]
    async fn rule_72_only_public_and_permitted_addresses_are_asked() {
        let fetched = async |host: &str, loopback: bool, permitted: &[&str]| {
            let permitted = permitted.iter().map(|text| text.parse().unwrap()).collect();
            // Nobody listens on the port, which is told only where a connection is tried.
            let request = Request::get(format!("http://{host}:1/"));
            let request = request.body(Bytes::new()).unwrap();
            let limits = FetchLimits {
                timeout: Duration::from_secs(10),
                waits: None,
                body: 100,
                verify_tls: true,
                certificate: None,
                proxies: None,
                keep_alive: false,
                http_1_0: false,
                repeatable: false,
                reach: Reach::Public { loopback },
            };
            let asked = run(
                &permitted,
                ClientKeys::default(),
                move |outbound| async move { outbound.fetch(request, limits).await },
            );
            asked.await.unwrap().unwrap_err()
        };
        for host in ["127.0.0.1", "localhost", "10.0.0.1", "[::1]", "2130706433"] {
            let error = fetched(host, false, &[]).await;
            assert!(
                matches!(error, FetchError::Forbidden { .. }),
                "{host}: {error}"
            );
        }
        for (loopback, permitted) in [(true, &[][..]), (false, &["127.0.0.0/8"])] {
            let error = fetched("127.0.0.1", loopback, permitted).await;
            assert!(matches!(error, FetchError::Connect { .. }), "{error}");
        }
    }
}
