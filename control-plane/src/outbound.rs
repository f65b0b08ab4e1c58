//! The few requests that a control plane makes itself: to an OpenID provider, when an operator has it checked. Each
//! runs on a thread of its own that ends with it, since the plugins' code expects a core to itself.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use fetch::{Address, Outside};
use futures::future::LocalBoxFuture;
use http::{Request, Response};
use plugins::client_keys::ClientKeys;
use plugins::host::ldap::{LdapError, LdapServer};
use plugins::host::redis::{Command, RedisError, RedisServer, Reply};
use plugins::host::sink::{Sink, SinkError};
use plugins::host::{ClientCertificate, FetchError, FetchLimits, Host, RevokeError};
use plugins::sessions::revocations::Revocations;
use plugins::state::{CoreStates, NodeStates};
use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::clock::UnixTime;
use shared::entity::Revocation;
use shared::network::Network;
use shared::secret::Secret;
use shared::tls::{Unverified, certified, provider, public_authorities, server_verifier};
use tokio_rustls::TlsConnector;

/// Longest time for all calls of one question.
const LONGEST: Duration = Duration::from_secs(15);

/// Believes servers that the machine's or Mozilla's roots vouch for.
static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let config = believing(Some(public_authorities()));
    TlsConnector::from(Arc::new(config.with_no_client_auth()))
});

/// Believes every server.
static UNVERIFIED: LazyLock<TlsConnector> =
    LazyLock::new(|| TlsConnector::from(Arc::new(believing(None).with_no_client_auth())));

/// The same, as a client that presents `certificate`.
fn presenting(verify: bool, certificate: &ClientCertificate) -> Result<TlsConnector, String> {
    let unusable = |_| "the certificate of tls_client_auth_cert_id cannot be used".to_owned();
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose().as_bytes());
    let pair = certified(chain, key.map_err(unusable)?);
    let pair = pair.map_err(|error| error.to_string())?;
    let presents = Arc::new(SingleCertAndKey::from(pair));
    let config = believing(verify.then(public_authorities)).with_client_cert_resolver(presents);
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Believes servers that `roots` vouch for, as data planes do; without any, every server.
fn believing(roots: Option<Arc<RootCertStore>>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        Some(roots) => server_verifier(roots),
        None => Arc::new(Unverified),
    };
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

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
        let fetching = fetch::fetch(request, &limits, self);
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

impl Outside for Outbound {
    async fn addresses(&self, host: &str) -> Result<Vec<Address>, String> {
        // The port is that of the URL.
        let found = tokio::net::lookup_host((host, 0)).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(|address| (address.ip(), None)).collect())
    }

    fn connector(
        &self,
        verify: bool,
        certificate: Option<&ClientCertificate>,
    ) -> Result<TlsConnector, String> {
        match certificate {
            Some(certificate) => presenting(verify, certificate),
            None if verify => Ok(TLS.clone()),
            None => Ok(UNVERIFIED.clone()),
        }
    }

    fn permitted(&self) -> &[Network] {
        &self.0.permitted
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use plugins::host::{Reach, Repeatable};
    use plugins::proxies::{Proxies, Proxy};
    use shared::tls::Mistrust;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn limits(reach: Reach) -> FetchLimits {
        FetchLimits {
            timeout: Duration::from_secs(10),
            waits: None,
            body: 100,
            verify_tls: true,
            certificate: None,
            proxies: None,
            keep_alive: false,
            http_1_0: false,
            repeatable: Repeatable::Never,
            reach,
        }
    }

    #[tokio::test]
    async fn a_provider_is_asked_by_way_of_the_proxy_that_nodes_go_by() {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut stream, _) = proxy.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            stream.write_all(answer).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        let proxy = Proxy {
            url: url.parse().unwrap(),
            authorization: None,
        };
        let limits = FetchLimits {
            proxies: Some(Arc::new(Proxies {
                http: Some(proxy),
                https: None,
                without: Vec::new(),
            })),
            ..limits(Reach::Public { loopback: true })
        };
        let request = Request::get("http://idp.test/keys").body(Bytes::new());
        let none = Arc::default();
        let asked = run(&none, ClientKeys::default(), move |outbound| async move {
            outbound.fetch(request.unwrap(), limits).await
        });
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(answer.body().as_ref(), b"hi");
        let head = served.await.unwrap();
        let line = "GET http://idp.test/keys HTTP/1.1\r\n";
        assert!(head.starts_with(line), "{head}");
    }

    /// A server that answers "hi" over TLS.
    async fn serve(config: rustls::ServerConfig) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
                stream.write_all(answer).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_is_verified_or_not_as_the_configuration_of_the_provider_says() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let address = serve(server).await;
        for verify_tls in [true, false] {
            let limits = FetchLimits {
                verify_tls,
                ..limits(Reach::Public { loopback: true })
            };
            let request = Request::get(format!("https://{address}/keys")).body(Bytes::new());
            let none = Arc::default();
            let asked = run(&none, ClientKeys::default(), move |outbound| async move {
                outbound.fetch(request.unwrap(), limits).await
            });
            match asked.await.unwrap() {
                Ok(answer) => assert!(!verify_tls && answer.body().as_ref() == b"hi"),
                Err(error) => {
                    let why = match &error {
                        FetchError::Untrusted { why, .. } => Some(*why),
                        _ => None,
                    };
                    assert!(verify_tls && why == Some(Mistrust::Issuer), "{error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_is_an_authority_itself_is_believed_as_data_planes_do() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let signing_key = rcgen::KeyPair::generate().unwrap();
        let own = params.self_signed(&signing_key).unwrap();
        let key = signing_key.serialize_der().try_into().unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .unwrap();
        let address = serve(server).await;
        for (is_root, name, expected) in [
            (true, "localhost", true),
            (true, "other.test", false),
            (false, "localhost", false),
        ] {
            let mut roots = RootCertStore::empty();
            if is_root {
                roots.add(own.der().clone()).unwrap();
            }
            let config = believing(Some(Arc::new(roots))).with_no_client_auth();
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let connecting = TlsConnector::from(Arc::new(config));
            let connected = connecting.connect(name.try_into().unwrap(), stream).await;
            assert_eq!(connected.is_ok(), expected, "{is_root} {name}");
            if let Ok(mut stream) = connected {
                // The server expects a head.
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'H');
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_certificate_is_shown_the_one_that_is_meant_for_it() {
        let made = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (server, client) = (made(), made());
        let key = server.signing_key.serialize_der().try_into().unwrap();
        let mut known = RootCertStore::empty();
        known.add(client.cert.der().clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(known),
            provider(),
        );
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![server.cert.der().clone()], key)
            .unwrap();
        let address = serve(config).await;
        let pair = |key: String| ClientCertificate {
            chain: client.cert.pem(),
            key: Secret::new(key),
        };
        for (certificate, is_shown) in [
            (Some(pair(client.signing_key.serialize_pem())), true),
            (Some(pair("no key".to_owned())), false),
            (None, false),
        ] {
            let limits = FetchLimits {
                verify_tls: false,
                certificate: certificate.map(Arc::new),
                ..limits(Reach::Public { loopback: true })
            };
            let request = Request::get(format!("https://{address}/keys")).body(Bytes::new());
            let none = Arc::default();
            let asked = run(&none, ClientKeys::default(), move |outbound| async move {
                outbound.fetch(request.unwrap(), limits).await
            });
            assert_eq!(asked.await.unwrap().is_ok(), is_shown);
        }
    }

    #[tokio::test]
    async fn rule_72_only_public_and_permitted_addresses_are_asked() {
        let fetched = async |host: &str, loopback: bool, permitted: &[&str]| {
            let permitted = permitted.iter().map(|text| text.parse().unwrap()).collect();
            // Nobody listens on the port, which is told only where a connection is tried.
            let request = Request::get(format!("http://{host}:1/"));
            let request = request.body(Bytes::new()).unwrap();
            let limits = limits(Reach::Public { loopback });
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
