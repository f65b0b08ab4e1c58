//! When this node's certificates expire: those that it uses in the cluster, and those that it shows to clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::clock::{UnixTime, monotonic};
use shared::expiry::{self, Expiry, Notices};
use shared::tls::CLUSTER_CERTIFICATE;

use crate::listening::certificates::DefaultCertificate;
use crate::live::Live;
use crate::metrics::family;

/// How often the certificates are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Written by config sync, read by whoever asks for the node's status.
#[derive(Debug)]
pub(crate) struct Expiring {
    /// What clients are shown who ask for nothing that is configured, by the settings that name the files.
    defaults: Vec<(&'static str, Arc<DefaultCertificate>)>,
    /// Of what this node is in the cluster by.
    cluster: Mutex<Vec<Expiry>>,
}

impl Expiring {
    /// Looks after the `defaults`, too.
    pub(crate) const fn new(defaults: Vec<(&'static str, Arc<DefaultCertificate>)>) -> Self {
        Self {
            defaults,
            cluster: Mutex::new(Vec::new()),
        }
    }

    /// Takes note of the cluster's certificates.
    pub(crate) fn in_cluster(&self, expiries: Vec<Expiry>) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    fn cluster(&self) -> Vec<Expiry> {
        let cluster = self.cluster.lock();
        cluster.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them, those that are shown by the live configuration last.
    pub(crate) fn all(&self, live: &Live) -> Vec<Expiry> {
        let mut all = self.cluster();
        let defaults = self.defaults.iter();
        all.extend(
            defaults.filter_map(|(name, one)| Some(((*name).to_owned(), one.expires_at()?))),
        );
        if let Some(snapshot) = live.load().as_ref() {
            all.extend_from_slice(snapshot.server_names.expiries());
        }
        all
    }

    /// All of them as metrics, and the node's own under Kong's name.
    pub(crate) fn metrics(&self, live: &Live) -> String {
        let mut text = expiry::metrics(&self.all(live));
        let cluster = self.cluster();
        let own = cluster.iter().find(|(what, _)| what == CLUSTER_CERTIFICATE);
        if let Some((_, at)) = own {
            let (name, at) = (
                "kong_data_plane_cluster_cert_expiry_timestamp",
                at.as_secs(),
            );
            let help = "Unix timestamp of Data Plane's cluster_cert expiry time";
            family(&mut text, name, "gauge", help, &format!("{name} {at}\n"));
        }
        text
    }

    /// Says of each that it ends soon, and takes up a default that has changed, for as long as the process lives.
    pub(crate) async fn watch(&self, live: &Live) {
        let mut notices = Notices::default();
        loop {
            for (_, default) in &self.defaults {
                default.renew(monotonic());
            }
            notices.tell(&self.all(live), UnixTime::now(), monotonic());
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_certificate_has_kongs_name_too() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["pem", "key"].map(|name| directory.path().join(name));
        let [certificate, key] = &files;
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        std::fs::write(certificate, made.cert.pem()).unwrap();
        std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
        let default = DefaultCertificate::new("ours", Some((certificate, key))).unwrap();
        let ends = default.expires_at().unwrap().as_secs();
        let expiring = Expiring::new(vec![("proxy_tls_certificate", Arc::new(default))]);
        let end = |what: &str, at| (what.to_owned(), UnixTime::from_secs(at));
        let live = Live::default();
        assert!(!expiring.metrics(&live).contains("kong_"));
        expiring.in_cluster(vec![end(CLUSTER_CERTIFICATE, 1), end("cluster_ca", 2)]);
        let text = expiring.metrics(&live);
        let own = format!(
            r#"wardgate_certificate_expiry_timestamp{{certificate="proxy_tls_certificate"}} {ends}"#
        );
        for line in [
            own.as_str(),
            r#"wardgate_certificate_expiry_timestamp{certificate="cluster_certificate"} 1"#,
            r#"wardgate_certificate_expiry_timestamp{certificate="cluster_ca"} 2"#,
            "kong_data_plane_cluster_cert_expiry_timestamp 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
