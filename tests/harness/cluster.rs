//! A control plane and data planes as processes, with certificates of their own.

use std::path::Path;
use std::process::ExitStatus;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::run;
use crate::{Browser, Process, Reply, eventually};

/// A cluster in a directory of its own. Dropped, it is gone.
#[derive(Debug)]
pub struct Cluster {
    /// The control plane, while it runs.
    pub control_plane: Option<Process>,
    /// The data planes that were started.
    pub data_planes: Vec<DataPlane>,
    /// Settings of all processes beyond those that they need.
    settings: Vec<(&'static str, String)>,
    /// Where data planes find the control plane, also after it has ended.
    listens_to_nodes: String,
    /// Where data planes are told that it is, if that is elsewhere.
    led_through: Option<String>,
    /// The programs that are started from now on, each of the workspace or a path.
    programs: [String; 2],
    /// What runs the programs that are started from now on, with its arguments.
    under: Vec<String>,
    admin: Browser,
    /// Dropped last: what processes have logged is there, and a failed test shows it as they go.
    directory: TempDir,
}

/// One data plane.
#[derive(Debug)]
pub struct DataPlane {
    /// Its id.
    pub name: String,
    /// Its process.
    pub process: Process,
}

impl DataPlane {
    /// Its base URL for plain HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.process.address("proxy"))
    }

    /// What `/status` says, if it answers.
    pub async fn status(&self) -> Option<Value> {
        let url = format!("http://{}/status", self.process.address("status"));
        Some(Browser::new().try_get(&url).await?.json())
    }

    /// Whether it serves traffic.
    pub async fn is_ready(&self) -> bool {
        let url = format!("http://{}/status/ready", self.process.address("status"));
        let reply = Browser::new().try_get(&url).await;
        reply.is_some_and(|reply| reply.status == 200)
    }
}

/// The programs in the directory `of`, or of the workspace.
fn programs(of: Option<&str>) -> [String; 2] {
    let place = of.map(|of| format!("{of}/")).unwrap_or_default();
    ["wardgate-control-plane", "wardgate-data-plane"].map(|name| format!("{place}{name}"))
}

impl Cluster {
    /// Starts a control plane and `data_planes` nodes called `node-1` and so on.
    pub async fn start(data_planes: usize) -> Self {
        Self::start_with(data_planes, &[]).await
    }

    /// The same, with `settings` of all processes as environment variables.
    pub async fn start_with(data_planes: usize, settings: &[(&'static str, &str)]) -> Self {
        Self::start_of(None, data_planes, settings).await
    }

    /// The same with the programs in the directory `of`, if it is given.
    pub async fn start_of(
        of: Option<&str>,
        data_planes: usize,
        settings: &[(&'static str, &str)],
    ) -> Self {
        let settings = settings.iter();
        let settings = settings.map(|(name, value)| (*name, (*value).to_owned()));
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut cluster = Self {
            directory,
            control_plane: None,
            data_planes: Vec::new(),
            settings: settings.collect(),
            listens_to_nodes: "127.0.0.1:0".to_owned(),
            led_through: None,
            programs: programs(of),
            under: Vec::new(),
            admin: Browser::new(),
        };
        let certificates = cluster.file("certificates");
        let mut arguments = vec!["certificates", "--out", &certificates];
        let names: Vec<_> = (1..=data_planes)
            .map(|number| format!("node-{number}"))
            .collect();
        for name in &names {
            arguments.extend(["--data-plane", name]);
        }
        let [control_plane, _] = &cluster.programs;
        run(control_plane, &arguments);
        cluster.start_control_plane().await;
        for name in names {
            cluster.start_data_plane(&name).await;
        }
        cluster.settled().await;
        cluster
    }

    /// The directory of certificates, stores and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, name: &str) -> String {
        self.directory().join(name).display().to_string()
    }

    fn member(&self, name: &str) -> [(&'static str, String); 4] {
        [
            (
                "WARDGATE_CLUSTER_CERTIFICATE",
                self.file(&format!("certificates/{name}.pem")),
            ),
            (
                "WARDGATE_CLUSTER_KEY",
                self.file(&format!("certificates/{name}.key")),
            ),
            ("WARDGATE_CLUSTER_CA", self.file("certificates/ca.pem")),
            (
                "WARDGATE_DATA_DIRECTORY",
                self.file(&format!("data/{name}")),
            ),
        ]
    }

    /// Has processes that are started from now on be those in the directory `of`, or of the workspace.
    pub fn change_programs(&mut self, of: Option<&str>) {
        self.programs = programs(of);
    }

    /// Has processes that are started from now on be run by a command, such as `ip netns exec NAME`.
    pub fn run_under<Word: ToString>(&mut self, command: &[Word]) {
        self.under = command.iter().map(Word::to_string).collect();
    }

    /// Starts the control plane, again at the address where data planes look for it.
    pub async fn start_control_plane(&mut self) {
        let started = self.try_start_control_plane().await;
        started.unwrap_or_else(|status| {
            let log = std::fs::read(self.directory().join("control-plane.log"));
            let log = log.unwrap_or_default();
            panic!("it ended with {status}: {}", String::from_utf8_lossy(&log))
        });
    }

    /// The same with a control plane that may not start: then how it has ended.
    pub async fn try_start_control_plane(&mut self) -> Result<(), ExitStatus> {
        let mut environment = self.member("control-plane").to_vec();
        environment.push(("WARDGATE_ADMIN_LISTEN", "127.0.0.1:0".to_owned()));
        environment.push(("WARDGATE_CLUSTER_LISTEN", self.listens_to_nodes.clone()));
        environment.extend(self.settings.iter().cloned());
        let ([program, _], directory) = (&self.programs, self.directory());
        let (under, name) = (&self.under, "control-plane");
        let process = Process::try_start_under(under, program, name, directory, &environment);
        let process = process.await?;
        self.listens_to_nodes = process.address("cluster");
        self.control_plane = Some(process);
        Ok(())
    }

    /// Has data planes that are started from now on find the control plane at `address`.
    pub fn lead_through(&mut self, address: &str) {
        self.led_through = Some(address.to_owned());
    }

    /// Makes a certificate for a further data plane.
    pub fn certify(&self, name: &str) {
        let out = self.file("certificates");
        run(
            "wardgate-control-plane",
            &["certificates", "--out", &out, "--data-plane", name],
        );
    }

    /// Makes a certificate for a further data plane and starts that.
    pub async fn add_data_plane(&mut self, name: &str) {
        self.certify(name);
        self.start_data_plane(name).await;
    }

    /// Starts a data plane whose certificate exists.
    pub async fn start_data_plane(&mut self, name: &str) {
        self.start_data_plane_with(name, &[]).await;
    }

    /// The same with further variables.
    pub async fn start_data_plane_with(&mut self, name: &str, more: &[(&'static str, String)]) {
        let environment = self.data_plane(name, more);
        let ([_, program], directory) = (&self.programs, self.directory());
        let under = &self.under;
        let process = Process::start_under(under, program, name, directory, &environment).await;
        self.data_planes.push(DataPlane {
            name: name.to_owned(),
            process,
        });
    }

    /// Starts a data plane that may not start: then how it has ended.
    pub async fn try_start_data_plane(&mut self, name: &str) -> Result<(), ExitStatus> {
        let environment = self.data_plane(name, &[]);
        let ([_, program], directory) = (&self.programs, self.directory());
        let under = &self.under;
        let process = Process::try_start_under(under, program, name, directory, &environment);
        let process = process.await?;
        self.data_planes.push(DataPlane {
            name: name.to_owned(),
            process,
        });
        Ok(())
    }

    /// The variables of a data plane.
    fn data_plane(
        &self,
        name: &str,
        more: &[(&'static str, String)],
    ) -> Vec<(&'static str, String)> {
        let mut environment = self.member(name).to_vec();
        for listener in ["PROXY", "PROXY_TLS", "STATUS"] {
            let variable = match listener {
                "PROXY" => "WARDGATE_PROXY_LISTEN",
                "PROXY_TLS" => "WARDGATE_PROXY_TLS_LISTEN",
                _ => "WARDGATE_STATUS_LISTEN",
            };
            environment.push((variable, "127.0.0.1:0".to_owned()));
        }
        let address = self.led_through.as_ref();
        let control_plane = format!("https://{}", address.unwrap_or(&self.listens_to_nodes));
        environment.push(("WARDGATE_CONTROL_PLANES", control_plane));
        environment.push(("WARDGATE_LABELS", "zone=test".to_owned()));
        environment.extend(self.settings.iter().cloned());
        environment.extend_from_slice(more);
        environment
    }

    /// The base URL of the Admin API.
    ///
    /// # Panics
    ///
    /// If the control plane does not run.
    pub fn admin_url(&self) -> String {
        let control_plane = self.control_plane.as_ref().expect("the control plane runs");
        format!("http://{}", control_plane.address("admin"))
    }

    /// Where data planes connect.
    pub fn cluster_address(&self) -> &str {
        &self.listens_to_nodes
    }

    /// The base URL of the data plane with the index `at`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn url(&self, at: usize) -> String {
        self.data_planes
            .get(at)
            .expect("the data plane was started")
            .url()
    }

    /// Sends JSON to the Admin API.
    ///
    /// # Panics
    ///
    /// If no answer comes.
    pub async fn admin(&self, method: Method, path: &str, body: &Value) -> Reply {
        let reply = self.try_admin(method, path, body).await;
        reply.unwrap_or_else(|| panic!("the Admin API does not answer for {path}"))
    }

    /// The same; none if no answer comes.
    pub async fn try_admin(&self, method: Method, path: &str, body: &Value) -> Option<Reply> {
        let url = format!("{}{path}", self.admin_url());
        let headers = [("content-type", "application/json")];
        self.admin
            .try_send(method, &url, &headers, body.to_string())
            .await
    }

    /// Reads from the Admin API.
    pub async fn read(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.admin_url());
        self.admin.get(&url).await.json()
    }

    /// All records of a list of the Admin API, page by page.
    ///
    /// # Panics
    ///
    /// If `path` is no list.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut next = format!("{path}?size=1000");
        loop {
            let mut page = self.read(&next).await;
            let Value::Array(rows) = page["data"].take() else {
                panic!("{path} is no list: {page}");
            };
            all.extend(rows);
            let Some(path) = page["next"].as_str() else {
                return all;
            };
            path.clone_into(&mut next);
        }
    }

    /// Creates a record and returns it.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let reply = self.admin(Method::POST, path, &body).await;
        assert_eq!(reply.status, 201, "POST {path} {body}: {}", reply.text());
        reply.json()
    }

    /// Changes a record and returns it.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn patch(&self, path: &str, body: Value) -> Value {
        let reply = self.admin(Method::PATCH, path, &body).await;
        assert_eq!(reply.status, 200, "PATCH {path} {body}: {}", reply.text());
        reply.json()
    }

    /// A service to `upstream` with one route for `path`; returns the route's id.
    pub async fn route(&self, upstream: &str, path: &str) -> String {
        let service = self.create("/services", json!({ "url": upstream })).await;
        let route =
            json!({ "paths": [path], "service": { "id": service["id"] }, "strip_path": false });
        let route = self.create("/routes", route).await;
        route["id"].as_str().expect("a route has an id").to_owned()
    }

    /// Waits until every data plane runs what the control plane has, and the control plane knows it.
    pub async fn settled(&self) {
        let newest = self.read("/status").await["configuration_revision"].clone();
        for node in &self.data_planes {
            let what = format!("{} runs revision {newest}", node.name);
            eventually(&what, async || {
                let rows = self.list("/clustering/data-planes").await;
                let row = rows.iter().find(|row| row["name"] == node.name.as_str())?;
                let current = row["connected"] == true
                    && row["progress"] == "current"
                    && row["revision"].as_u64() >= newest.as_u64();
                current.then_some(())
            })
            .await;
        }
    }

    /// Waits until every data plane also has on disk what it runs.
    pub async fn persisted(&self) {
        eventually("every node has its configuration on disk", async || {
            let rows = self.list("/clustering/data-planes").await;
            let is_there = |row: &Value| row["persisted"] == true && row["progress"] == "current";
            rows.iter().all(is_there).then_some(())
        })
        .await;
    }
}
