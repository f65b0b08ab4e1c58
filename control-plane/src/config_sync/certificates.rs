//! The cluster's certificates as files tell them, and again when the files change: new connections and
//! new signatures are made by the new ones, connections that stand are left alone, as long as one of the authorities
//! still vouches for the node.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::{RootCertStore, ServerConfig};
use shared::clock::{UnixTime, monotonic};
use shared::expiry::{Expiry, Notices};
use shared::signature::Signer;
use shared::tls::{self, ClusterFiles, Role, TlsError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::snapshot::SharedSigner;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What follows from the files.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(super) config: watch::Receiver<Arc<ServerConfig>>,
    pub(super) signer: SharedSigner,
    /// Who may vouch for data planes.
    pub(super) authorities: watch::Receiver<Arc<RootCertStore>>,
    pub(super) renewing: JoinHandle<()>,
    /// When this control plane's certificates end.
    pub(crate) expiries: watch::Receiver<Vec<Expiry>>,
}

impl Certificates {
    /// Reads the files now, and whenever they have changed, and says when they end soon, or one of the `others`. Call on
    /// the runtime that is to do so.
    pub(crate) fn follow(
        files: ClusterFiles,
        others: impl Fn() -> Vec<Expiry> + Send + 'static,
    ) -> Result<Self, TlsError> {
        let mut renewal = files.renewal();
        let (first, signer, authorities) = read(&files)?;
        let (trusts, authorities) = watch::channel(authorities);
        let all = move |files: &ClusterFiles| {
            let mut all = files.expiries();
            all.extend(others());
            all
        };
        let (ends, expiries) = watch::channel(all(&files));
        let (sender, config) = watch::channel(first);
        let signer = Arc::new(RwLock::new(Some(signer)));
        let renewed = Arc::clone(&signer);
        let renewing = tokio::spawn(async move {
            let mut notices = Notices::default();
            loop {
                notices.tell(&ends.borrow(), UnixTime::now(), monotonic());
                tokio::time::sleep(LOOK).await;
                if let Some((config, signer, authorities)) =
                    renewal.look(monotonic(), || read(&files))
                {
                    *renewed.write().unwrap_or_else(PoisonError::into_inner) = Some(signer);
                    sender.send_replace(config);
                    trusts.send_replace(authorities);
                }
                ends.send_replace(all(&files));
            }
        });
        Ok(Self {
            config,
            signer,
            authorities,
            renewing,
            expiries,
        })
    }
}

/// What follows from files: the TLS of config sync, who signs snapshots, and who may vouch for data planes.
type Read = (Arc<ServerConfig>, Signer, Arc<RootCertStore>);

/// Reads `files`, and says what is wrong with them that may be mended elsewhere.
fn read(files: &ClusterFiles) -> Result<Read, TlsError> {
    let (identity, authorities) = files.read()?;
    if let Some(doubt) = identity.judge(Role::ControlPlane, &authorities, UnixTime::now())? {
        tracing::error!("{doubt}");
    }
    let config = tls::cluster_server(&identity, Arc::clone(&authorities))?;
    Ok((config, Signer::new(&identity)?, authorities))
}

/// What keeps data planes from believing this control plane by `files`, if anything does.
///
/// # Errors
///
/// Files that cannot be used.
pub(crate) fn judge(files: &ClusterFiles) -> Result<Option<String>, TlsError> {
    let (identity, authorities) = files.read()?;
    Signer::new(&identity)?;
    tls::cluster_server(&identity, Arc::clone(&authorities))?;
    identity.judge(Role::ControlPlane, &authorities, UnixTime::now())
}
