//! TLS towards clients: which cipher suites are offered, and what a client's first message decides.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, Ticketer};
use rustls::server::{Acceptor, ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::{CipherSuite, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};
use shared::tls::provider;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::listening::certificates::{ByName, CertificateError, DefaultCertificate};
use crate::listening::client_certificates::AnyIssuer;
use crate::listening::handshake::{Handshake, cipher};
use crate::live::Live;
use crate::stream::{Corked, MOST_GREETING, Stream};

/// The suites that are taken unless a setting says otherwise, the best first. AES of 128 bits with SHA-256 stands before
/// that of 256 bits with SHA-384: no attack tells them apart, and processors have instructions for all of the former, which
/// makes a third of a handshake's cost (as `BoringSSL`, Go and Mozilla's guide have it).
pub(crate) const CIPHER_SUITES: &str = "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256,\
     ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-RSA-AES128-GCM-SHA256,ECDHE-ECDSA-AES256-GCM-SHA384,\
     ECDHE-RSA-AES256-GCM-SHA384,ECDHE-ECDSA-CHACHA20-POLY1305,ECDHE-RSA-CHACHA20-POLY1305";

/// A cipher suite, by the name that OpenSSL has for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cipher(SupportedCipherSuite);

impl FromStr for Cipher {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = |suite: &&SupportedCipherSuite| cipher(suite.suite()) == Some(name.trim());
        let found = ALL_CIPHER_SUITES.iter().find(named);
        found.copied().map(Self).ok_or_else(|| {
            format!(
                "this cipher suite is unknown or not secure; there are {}",
                CIPHER_SUITES.replace(',', ", ")
            )
        })
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(cipher(self.0.suite()).unwrap_or_default())
    }
}

/// The TLS of a listener, with the question for a certificate and without. Each has tickets of its own, so that no session
/// takes a certificate along to where it would not have been asked for, or goes on without where it would have been.
#[derive(Clone)]
pub(crate) struct Tls {
    quiet: Ordered,
    asking: Ordered,
    live: Live,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS 1.2 and 1.3, as far as `suites` are for them, with HTTP/2 and HTTP/1.1, resumed by tickets.
    pub(crate) fn new(
        suites: &[Cipher],
        default: Arc<DefaultCertificate>,
        live: Live,
    ) -> Result<Self, CertificateError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites.iter().map(|suite| suite.0).collect(),
            ..CryptoProvider::clone(&provider())
        });
        let versions: Vec<&SupportedProtocolVersion> = [&version::TLS13, &version::TLS12]
            .into_iter()
            .filter(|version| suites.iter().any(|suite| suite.0.version() == *version))
            .collect();
        let resolver: Arc<dyn ResolvesServerCert> =
            Arc::new(ByName::new(Arc::clone(&live), default));
        let ordered = |asks: bool| {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&versions)?;
            let builder = if asks {
                builder.with_client_cert_verifier(Arc::new(AnyIssuer::new()))
            } else {
                builder.with_no_client_auth()
            };
            let mut config = builder.with_cert_resolver(Arc::clone(&resolver));
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            config.ticketer = Arc::new(Fitting(Ticketer::new()?));
            Ok::<_, CertificateError>(Ordered::of(config))
        };
        Ok(Self {
            quiet: ordered(false)?,
            asking: ordered(true)?,
            live,
        })
    }

    /// The same for streams, of whose protocol nothing is known, and where nobody looks at certificates.
    pub(crate) fn without_protocols(&self) -> Self {
        let mut config = ServerConfig::clone(&self.quiet.clients);
        config.alpn_protocols.clear();
        let quiet = Ordered::of(config);
        Self {
            asking: quiet.clone(),
            quiet,
            live: Arc::clone(&self.live),
        }
    }

    /// The handshake with the client at the other end of `socket`, who is told why if it fails.
    pub(crate) async fn accept(&self, socket: Corked) -> io::Result<(Stream, Handshake)> {
        let mut greeting = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let begun = match (&mut greeting).await {
            Ok(mut begun) => {
                begun.io.is_greeted();
                begun
            }
            Err(error) => {
                if let Some(mut socket) = greeting.take_io() {
                    let _ = poll_fn(|cx| socket.poll_send(cx)).await;
                }
                return Err(error);
            }
        };
        let asked = self.is_asked(begun.client_hello().server_name());
        let ordered = if asked { &self.asking } else { &self.quiet };
        let config = ordered.choose(&begun.client_hello());
        let accepted = begun.into_stream(config).into_fallible().await;
        let handshake = accepted.as_ref().ok();
        let handshake = handshake.map(|stream| Handshake::of(stream.get_ref().1, asked));
        let stream = Stream::secured(accepted).await?;
        let handshake = handshake.ok_or(io::ErrorKind::InvalidData)?;
        Ok((stream, handshake))
    }

    /// Ends the handshake of a stream that a client has begun.
    pub(crate) async fn finish(
        &self,
        begun: StartHandshake<TcpStream>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.quiet.choose(&begun.client_hello());
        begun.into_stream(config).await
    }

    fn is_asked(&self, name: Option<&str>) -> bool {
        let live = self.live.load();
        live.as_ref().is_some_and(|live| live.asking.is_for(name))
    }
}

/// Tickets, but none that would not fit into a client's next greeting: it holds the certificates that the client has shown.
#[derive(Debug)]
struct Fitting(Arc<dyn ProducesTickets>);

/// Room for all else that a greeting says.
const MOST_TICKET: usize = MOST_GREETING - 4 * 1024;

impl ProducesTickets for Fitting {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let ticket = self.0.encrypt(session);
        ticket.filter(|ticket| ticket.len() <= MOST_TICKET)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(ticket)
    }
}

/// One configuration, with the suites in either order.
#[derive(Clone)]
struct Ordered {
    ours: Arc<ServerConfig>,
    clients: Arc<ServerConfig>,
}

impl Ordered {
    fn of(config: ServerConfig) -> Self {
        let mut ours = config.clone();
        ours.ignore_client_order = true;
        Self {
            ours: Arc::new(ours),
            clients: Arc::new(config),
        }
    }

    /// A client that would rather have `ChaCha20` has no instructions for AES: it gets its will.
    fn choose(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let suites = &self.ours.crypto_provider().cipher_suites;
        let taken = |suite: &&CipherSuite| suites.iter().any(|ours| ours.suite() == **suite);
        Arc::clone(match hello.cipher_suites().iter().find(taken) {
            Some(
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ) => &self.clients,
            _ => &self.ours,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rustls::ClientConfig;
    use rustls::RootCertStore;
    use rustls_pki_types::ServerName;
    use tokio_rustls::TlsConnector;

    use super::*;

    fn suites(names: &str) -> Vec<Cipher> {
        names.split(',').map(|name| name.parse().unwrap()).collect()
    }

    /// What `server` and a client that offers `offered`, in this order, agree on.
    async fn agreed(server: &str, offered: &str) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["pem", "key"].map(|name| directory.path().join(name));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let default =
            Arc::new(DefaultCertificate::new("ours", Some((&certificate, &key))).unwrap());
        let tls = Tls::new(&suites(server), default, Live::default()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = CryptoProvider {
            cipher_suites: suites(offered).into_iter().map(|suite| suite.0).collect(),
            ..CryptoProvider::clone(&provider())
        };
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(listener.accept(), far);
        let near = Corked::new(near.unwrap().0, BytesMut::new());
        let connector = TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("localhost").unwrap();
        let serving = async {
            let (mut stream, handshake) = tls.accept(near).await.ok()?;
            // What the handshake ends with would go with the first answer.
            poll_fn(|cx| stream.poll_push(cx)).await.unwrap();
            Some((stream, handshake))
        };
        let (accepted, _client) = tokio::join!(serving, connector.connect(name, far.unwrap()));
        let (_, handshake) = accepted?;
        Some(handshake.session?.cipher.to_owned())
    }

    const AES_128: &str = "TLS_AES_128_GCM_SHA256";
    const AES_256: &str = "TLS_AES_256_GCM_SHA384";
    const CHACHA: &str = "TLS_CHACHA20_POLY1305_SHA256";

    #[tokio::test]
    async fn suites_are_chosen_in_our_order_unless_the_client_has_no_aes_of_its_own() {
        for (offered, chosen) in [
            (format!("{AES_256},{CHACHA},{AES_128}"), AES_128),
            (format!("{AES_256},{CHACHA}"), AES_256),
            (format!("{CHACHA},{AES_128}"), CHACHA),
            (
                "ECDHE-ECDSA-AES256-GCM-SHA384,ECDHE-ECDSA-AES128-GCM-SHA256".to_owned(),
                "ECDHE-ECDSA-AES128-GCM-SHA256",
            ),
        ] {
            let agreed = agreed(CIPHER_SUITES, &offered).await;
            assert_eq!(agreed.as_deref(), Some(chosen), "{offered}");
        }
    }

    #[tokio::test]
    async fn only_the_suites_of_the_setting_are_taken_and_the_versions_that_they_are_for() {
        let modern = format!("{AES_256},{AES_128}");
        let all = agreed(&modern, CIPHER_SUITES).await;
        assert_eq!(all.as_deref(), Some(AES_256));
        let old = "ECDHE-ECDSA-AES256-GCM-SHA384";
        assert_eq!(agreed(&modern, old).await, None);
        assert_eq!(agreed(old, CIPHER_SUITES).await.as_deref(), Some(old));
        // A client's wish is not for what is not taken.
        let wish = format!("{CHACHA},{AES_128},{AES_256}");
        assert_eq!(agreed(&modern, &wish).await.as_deref(), Some(AES_256));
    }

    #[test]
    fn no_ticket_is_longer_than_a_greeting_may_be() {
        let tickets = Fitting(Ticketer::new().unwrap());
        let session = vec![7; MOST_TICKET / 2];
        let ticket = tickets.encrypt(&session).unwrap();
        assert_eq!(tickets.decrypt(&ticket), Some(session));
        assert_eq!(tickets.encrypt(&[7; MOST_TICKET]), None);
        assert!(tickets.enabled() && tickets.lifetime() > 0);
    }

    #[test]
    fn every_suite_has_a_name_and_other_names_are_refused_with_those_that_there_are() {
        let named: Vec<String> = suites(CIPHER_SUITES)
            .iter()
            .map(Cipher::to_string)
            .collect();
        assert_eq!(named.join(","), CIPHER_SUITES);
        assert_eq!(named.len(), ALL_CIPHER_SUITES.len());
        for wrong in ["", "RC4-SHA", "AES128-SHA", "ECDHE-RSA-AES128-SHA"] {
            let told = wrong.parse::<Cipher>().unwrap_err();
            assert!(told.contains(AES_128), "{told}");
        }
    }
}
