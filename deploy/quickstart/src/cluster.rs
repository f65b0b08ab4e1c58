//! The planes of one machine: their certificates, and their settings from ours.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use control_plane::ControlPlane;
use control_plane::certificates::{self, CertificatesCommand};
use data_plane::DataPlane;
use shared::clock::UnixTime;

use crate::settings::Settings;

/// How long a data plane that stops lets exchanges end.
const DRAIN_MS: u64 = 5_000;

/// Where a data plane listens.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Plain HTTP.
    pub proxy: SocketAddr,
    /// HTTPS.
    pub proxy_tls: SocketAddr,
    /// Status and metrics.
    pub status: SocketAddr,
}

impl Settings {
    /// Where the first data plane listens.
    pub const fn first(&self) -> Listen {
        Listen {
            proxy: self.proxy_listen,
            proxy_tls: self.proxy_tls_listen,
            status: self.status_listen,
        }
    }

    /// Where the second data plane listens.
    pub const fn second(&self) -> Listen {
        Listen {
            proxy: self.second_proxy_listen,
            proxy_tls: self.second_proxy_tls_listen,
            status: self.second_status_listen,
        }
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.certificates().join(name)
    }

    fn certificates(&self) -> PathBuf {
        self.data_directory.join("certificates")
    }
}

/// Makes the certificates of `nodes` and of the control plane, as far as they are missing.
pub fn make_certificates(settings: &Settings, nodes: &[&str]) -> anyhow::Result<()> {
    let members = ["control-plane"].into_iter().chain(nodes.iter().copied());
    let missing = members
        .map(|member| settings.certificate(&format!("{member}.pem")))
        .any(|path| !path.exists());
    if missing {
        let command = CertificatesCommand {
            out: settings.certificates(),
            data_planes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            groups: Vec::new(),
            names: Vec::new(),
        };
        certificates::write(&command, UnixTime::now()).context("making certificates")?;
    }
    Ok(())
}

/// Starts the control plane.
pub async fn control_plane(settings: &Settings) -> anyhow::Result<ControlPlane> {
    let started = ControlPlane::start(control_plane::settings::Settings {
        admin_listen: vec![settings.admin_listen.into()],
        console_listen: vec![settings.console_listen.into()],
        cluster_listen: settings.cluster_listen,
        data_directory: settings.data_directory.join("control-plane"),
        cluster_certificate: settings.certificate("control-plane.pem"),
        cluster_key: settings.certificate("control-plane.key"),
        cluster_ca: settings.certificate("ca.pem"),
        provider_networks: settings.provider_networks.clone(),
        ..control_plane::settings::Settings::default()
    });
    started.await.context("starting the control plane")
}

/// Starts the data plane `node`, which follows the control plane at `cluster`.
pub fn data_plane(
    settings: &Settings,
    node: &str,
    listen: Listen,
    cluster: SocketAddr,
) -> anyhow::Result<DataPlane> {
    let access_log = settings.data_directory.join(format!("{node}-access.log"));
    let started = DataPlane::start(&data_plane::settings::Settings {
        proxy_listen: vec![listen.proxy.into()],
        proxy_tls_listen: vec![listen.proxy_tls.into()],
        status_listen: vec![listen.status.into()],
        control_planes: vec![format!("https://{cluster}")],
        data_directory: settings.data_directory.join(node),
        cluster_certificate: settings.certificate(&format!("{node}.pem")),
        cluster_key: settings.certificate(&format!("{node}.key")),
        cluster_ca: settings.certificate("ca.pem"),
        drain_timeout_ms: DRAIN_MS,
        provider_networks: settings.provider_networks.clone(),
        access_log: access_log.display().to_string(),
        ..data_plane::settings::Settings::default()
    });
    started.with_context(|| format!("starting the data plane {node}"))
}
