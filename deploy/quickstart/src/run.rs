//! From settings to something that runs, and what is said about it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use control_plane::ControlPlane;
use data_plane::DataPlane;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use shared::clock::monotonic;
use shared::machine::write_whole;

use crate::admin::{AdminApi, Call, exchange};
use crate::cluster;
use crate::demo::{self, Demo};
use crate::settings::{Part, Settings};

/// The data planes of the cluster on one machine.
const NODES: [&str; 2] = ["node-1", "node-2"];
/// How long the data planes may take to run what the control plane has.
const SETTLE: Duration = Duration::from_secs(30);

/// What runs.
#[derive(Debug, Default)]
pub struct Running {
    control_plane: Option<ControlPlane>,
    data_planes: Vec<DataPlane>,
    demo: Option<Demo>,
    /// What the user is to know.
    pub greeting: String,
}

/// Starts what `settings` ask for. When it returns, what the greeting says is so.
pub async fn start(settings: &Settings) -> anyhow::Result<Running> {
    let mut running = Running::default();
    match settings.only {
        Some(Part::DataPlane) => {
            cluster::make_certificates(settings, &[&settings.node])?;
            let node = cluster::data_plane(
                settings,
                &settings.node,
                settings.first(),
                settings.cluster_listen,
            )?;
            running.data_planes.push(node);
        }
        Some(Part::ControlPlane) => {
            cluster::make_certificates(settings, &NODES)?;
            running.control_plane = Some(cluster::control_plane(settings).await?);
        }
        Some(Part::Demo) => {
            let gateways = [settings.proxy_listen, settings.second_proxy_listen].map(gateway);
            running.demo = Some(Demo::start(settings, &gateways).await?);
        }
        None => {
            cluster::make_certificates(settings, &NODES)?;
            let control_plane = cluster::control_plane(settings).await?;
            let cluster = control_plane.cluster_address();
            running.control_plane = Some(control_plane);
            for (node, listen) in NODES.into_iter().zip([settings.first(), settings.second()]) {
                let node = cluster::data_plane(settings, node, listen, cluster)?;
                running.data_planes.push(node);
            }
        }
    }
    let mut calls = Vec::new();
    if settings.only.is_none() && !settings.no_demo {
        calls = running.start_demo(settings).await?;
    }
    if running.control_plane.is_some() {
        running.settled().await?;
    }
    if let Some(path) = &settings.addresses_file {
        write_whole(path, &running.addresses().to_string())
            .with_context(|| format!("writing {} (addresses_file)", path.display()))?;
    }
    running.greeting = running.greet(settings, &calls);
    Ok(running)
}

impl Running {
    async fn start_demo(&mut self, settings: &Settings) -> anyhow::Result<Vec<Call>> {
        let gateways = self.gateways();
        let gateway = gateways.first().context("there is no data plane")?;
        let demo = Demo::start(settings, &gateways).await?;
        let api = self.api().context("there is no control plane")?;
        let calls = demo::configure(&api, &demo, gateway).await?;
        self.demo = Some(demo);
        Ok(calls)
    }

    /// The URLs by which browsers know the data planes.
    fn gateways(&self) -> Vec<String> {
        let nodes = self.data_planes.iter();
        let addresses = nodes.filter_map(|node| node.addresses().proxy);
        addresses.map(gateway).collect()
    }

    fn api(&self) -> Option<AdminApi> {
        let control_plane = self.control_plane.as_ref()?;
        Some(AdminApi::new(control_plane.admin_address().to_string()))
    }

    /// Waits until every data plane runs what the control plane has.
    async fn settled(&self) -> anyhow::Result<()> {
        let Some(api) = self.api() else { return Ok(()) };
        let newest = demo::revision(&api).await?;
        let started = monotonic();
        let addresses = self.data_planes.iter().map(DataPlane::addresses);
        for status in addresses.filter_map(|addresses| addresses.status) {
            while runs(status).await < Some(newest) {
                if started.elapsed() > SETTLE {
                    bail!(
                        "a data plane does not take the configuration: see {}/clustering/data-planes",
                        api.url()
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    fn addresses(&self) -> serde_json::Value {
        let node = |at: usize| self.data_planes.get(at).map(DataPlane::addresses);
        let control_plane = self.control_plane.as_ref();
        json!({
            "admin": control_plane.map(ControlPlane::admin_address),
            "cluster": control_plane.map(ControlPlane::cluster_address),
            "console": control_plane.and_then(ControlPlane::console_address),
            "proxy": node(0).map(|node| node.proxy),
            "status": node(0).map(|node| node.status),
            "second_proxy": node(1).map(|node| node.proxy),
            "second_status": node(1).map(|node| node.status),
            "provider": self.demo.as_ref().map(|demo| demo.provider),
            "upstream": self.demo.as_ref().map(|demo| demo.upstream),
        })
    }

    fn greet(&self, settings: &Settings, calls: &[Call]) -> String {
        let mut text = String::from("Wardgate runs.\n\n");
        // Writing to a string cannot fail.
        let mut line = |name: &str, value: &str| _ = writeln!(text, "  {name:<16}{value}");
        if let Some(api) = self.api() {
            line("Admin API", &api.url());
            if let Some(console) = self
                .control_plane
                .as_ref()
                .and_then(ControlPlane::console_address)
            {
                line("Console", &format!("http://{console}/"));
            }
            line(
                "Data planes",
                &format!("{}/clustering/data-planes", api.url()),
            );
        }
        for (number, node) in self.data_planes.iter().enumerate() {
            let addresses = node.addresses();
            let (Some(proxy), Some(status)) = (addresses.proxy, addresses.status) else {
                continue;
            };
            let port = proxy.port();
            let name = format!("Data plane {}", number + 1);
            line(
                &name,
                &format!("http://localhost:{port}    status http://{status}/status"),
            );
        }
        if let Some(demo) = &self.demo {
            line("Provider", &format!("http://{}    (demo)", demo.provider));
            line("Upstream", &format!("http://{}    (demo)", demo.upstream));
        }
        let data = std::path::absolute(&settings.data_directory);
        let data = data.as_deref().unwrap_or(&settings.data_directory);
        line("Data", &data.display().to_string());
        if let Some(demo) = self.demo.as_ref().filter(|_| !calls.is_empty()) {
            text.push_str(&self.tour(demo, calls));
        }
        text.push_str("\nCtrl-C stops it. `--help` explains the rest.\n");
        text
    }

    fn tour(&self, demo: &Demo, calls: &[Call]) -> String {
        let gateways = self.gateways();
        let gateway = gateways.first().map_or("", String::as_str);
        let second = gateways.get(1).map_or("", String::as_str);
        let api = self.api().map(|api| api.url()).unwrap_or_default();
        let mut text = format!(
            "\nOpen {gateway}/ in a browser. It leads to the provider's login page; sign in as\n\n"
        );
        for user in &demo.users {
            let groups = user.groups.join(", ");
            _ = writeln!(
                text,
                "  {:<8}{:<18}groups {groups}",
                user.username, user.password
            );
        }
        _ = write!(
            text,
            "\nand the upstream shows the request that the gateway sent it. Then try\n\n  \
             {second}/    the same session on the other data plane\n  \
             {gateway}/admins    only for members of the group admins\n  \
             {gateway}/logout    after POST, with the page's button: signed out here and at the provider\n\n\
             The demo was configured with these commands:\n\n"
        );
        for call in calls {
            text.push_str(&call.curl(&api));
            text.push('\n');
        }
        text
    }

    /// Stops everything, data planes first: they tell the control plane that they go.
    pub async fn stop(self) {
        for node in self.data_planes {
            node.stop(std::future::pending()).await;
        }
        if let Some(control_plane) = self.control_plane {
            control_plane.stop().await;
        }
    }
}

/// The URL by which browsers know a data plane. By name: a browser keeps cookies by name, and the
/// provider, which goes by its address, is to have others.
fn gateway(address: SocketAddr) -> String {
    format!("http://localhost:{}", address.port())
}

/// The revision that the data plane with this status address runs.
async fn runs(status: SocketAddr) -> Option<u64> {
    let request = Request::get("/status").header("host", "localhost");
    let request = request.body(Full::<Bytes>::default()).ok()?;
    let (_, answer) = exchange(&status.to_string(), request).await.ok()?;
    answer.get("configuration_revision")?.as_u64()
}
