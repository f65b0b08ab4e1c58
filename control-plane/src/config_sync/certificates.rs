//! The cluster's certificates as files tell them, and again when the files change: new connections and
//! new signatures are made by the new ones, connections that stand are left alone.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use shared::clock::{UnixTime, monotonic};
use shared::expiry::{Expiry, Notices};
use shared::signature::Signer;
use shared::tls::{self, Identity, TlsError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::snapshot::SharedSigner;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where the certificates are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The control plane's own, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authorities of data planes, PEM.
    pub authorities: PathBuf,
}

/// What follows from the files.
#[derive(Debug)]
pub struct Certificates {
    pub(super) config: watch::Receiver<Arc<ServerConfig>>,
    pub(super) signer: SharedSigner,
    pub(super) renewing: JoinHandle<()>,
    /// When this control plane's certificates end.
    pub(crate) expiries: watch::Receiver<Vec<Expiry>>,
}

impl CertificateFiles {
    /// Reads the files.
    pub fn read(&self) -> Result<(Arc<ServerConfig>, Signer), TlsError> {
        let identity = Identity::read(&self.certificate, &self.key)?;
        let authorities = tls::read_authorities(&self.authorities)?;
        let config = tls::cluster_server(&identity, authorities)?;
        Ok((config, Signer::new(&identity)?))
    }

    fn contents(&self) -> [Option<Vec<u8>>; 3] {
        [&self.certificate, &self.key, &self.authorities].map(|path| std::fs::read(path).ok())
    }

    /// Reads the files now, and whenever they have changed, and says when they end soon, or one of `others`. Call on
    /// the runtime that is to do so.
    pub fn follow(self, others: Vec<Expiry>) -> Result<Certificates, TlsError> {
        let (first, signer) = self.read()?;
        let all = move |files: &Self| {
            let mut all = tls::cluster_expiries(&files.certificate, &files.authorities);
            all.extend_from_slice(&others);
            all
        };
        let (ends, expiries) = watch::channel(all(&self));
        let (sender, config) = watch::channel(first);
        let signer = Arc::new(RwLock::new(Some(signer)));
        let renewed = Arc::clone(&signer);
        let renewing = tokio::spawn(async move {
            let mut known = self.contents();
            let mut notices = Notices::default();
            loop {
                notices.tell(&ends.borrow(), UnixTime::now(), monotonic());
                tokio::time::sleep(LOOK).await;
                let contents = self.contents();
                if contents == known {
                    continue;
                }
                // Certificate and key are two files: until both are there, the old ones go on.
                match self.read() {
                    Ok((config, signer)) => {
                        *renewed.write().unwrap_or_else(PoisonError::into_inner) = Some(signer);
                        sender.send_replace(config);
                        ends.send_replace(all(&self));
                        tracing::info!("the cluster's certificates were renewed");
                        known = contents;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "changed certificates cannot be used; the ones before go on");
                    }
                }
            }
        });
        Ok(Certificates {
            config,
            signer,
            renewing,
            expiries,
        })
    }
}
