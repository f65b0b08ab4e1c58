//! Several control planes over one etcd, with data planes that know them all.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{Browser, Process, Reply, eventually, run};
use http::Method;
use serde_json::Value;
use tempfile::TempDir;

/// Where a process runs.
#[derive(Clone)]
pub(crate) struct Place {
    /// In which network namespace, if not in ours.
    pub(crate) namespace: Option<String>,
    /// Where the others of the cluster reach it.
    pub(crate) cluster: Ipv4Addr,
    /// Where we reach it.
    pub(crate) admin: Ipv4Addr,
}

/// Here.
pub(crate) const HERE: Place = Place {
    namespace: None,
    cluster: Ipv4Addr::LOCALHOST,
    admin: Ipv4Addr::LOCALHOST,
};

/// One member of etcd; killed when dropped.
pub(crate) struct Member {
    child: Option<Child>,
    /// The program and its arguments.
    command: Vec<String>,
    pub(crate) client: String,
}

impl Member {
    fn start(&mut self) {
        let (program, arguments) = self.command.split_first().unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed: tests/faults/run does that");
        self.child = Some(child);
    }

    /// Sends it a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        let signal = format!("-{name}");
        let sent = Command::new("kill").args([&signal, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago here; in a namespace of its own it is as good as any.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Three members of etcd in `directory`.
pub(crate) async fn etcd(directory: &Path, places: &[Place; 3]) -> Vec<Member> {
    let url = |place: &Place| format!("http://{}:{}", place.cluster, port());
    let urls: Vec<_> = places.iter().map(|at| (at, url(at), url(at))).collect();
    let peers = urls.iter().enumerate();
    let peers: Vec<String> = peers
        .map(|(at, (_, peer, _))| format!("m{at}={peer}"))
        .collect();
    let mut members = Vec::new();
    for (at, (place, peer, client)) in urls.iter().enumerate() {
        let data = directory.join(format!("etcd-{at}"));
        let arguments = [
            ("--name", format!("m{at}")),
            ("--data-dir", data.display().to_string()),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client.clone()),
            ("--initial-cluster", peers.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
        ];
        let arguments = arguments
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        let mut command = Vec::new();
        if let Some(namespace) = &place.namespace {
            command.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
        }
        command.push("etcd".to_owned());
        command.extend(arguments);
        let mut member = Member {
            child: None,
            command,
            client: client.clone(),
        };
        member.start();
        members.push(member);
    }
    for member in &members {
        let url = format!("{}/health", member.client);
        eventually("etcd is healthy", async || {
            let reply = Browser::new().try_get(&url).await?;
            reply.text().contains("true").then_some(())
        })
        .await;
    }
    members
}

/// Control planes over one store.
pub(crate) struct Replicas {
    pub(crate) directory: TempDir,
    pub(crate) members: Vec<Member>,
    pub(crate) control_planes: Vec<Option<Process>>,
    pub(crate) node: Option<Process>,
    /// Nodes that know one control plane only.
    pub(crate) bound: Vec<Process>,
    addresses: Vec<String>,
    places: Vec<Place>,
    /// The directory of the programs that are started from now on, if not those of the workspace.
    pub(crate) programs: Option<String>,
    settings: Vec<(&'static str, &'static str)>,
}

impl Replicas {
    /// `count` control planes, over an etcd of three members.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_at([HERE; 3], vec![HERE; count], &[]).await
    }

    /// The same, each member of etcd and each control plane in its place, with `settings` of the control planes.
    pub(crate) async fn start_at(
        members: [Place; 3],
        control_planes: Vec<Place>,
        settings: &[(&'static str, &'static str)],
    ) -> Self {
        Self::start_of(None, members, control_planes, settings).await
    }

    /// The same with the programs in the directory `of`, if it is given.
    pub(crate) async fn start_of(
        of: Option<&str>,
        members: [Place; 3],
        control_planes: Vec<Place>,
        settings: &[(&'static str, &'static str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificates = directory.path().join("certificates");
        let out = certificates.display().to_string();
        let arguments = ["certificates", "--out", &out, "--data-plane", "node-1"];
        run("wardgate-control-plane", &arguments);
        let members = etcd(directory.path(), &members).await;
        let mut replicas = Self {
            directory,
            members,
            control_planes: Vec::new(),
            node: None,
            bound: Vec::new(),
            addresses: Vec::new(),
            places: control_planes,
            programs: of.map(str::to_owned),
            settings: settings.to_vec(),
        };
        for at in 0..replicas.places.len() {
            replicas.control_planes.push(None);
            let cluster = replicas.places[at].cluster;
            replicas.addresses.push(format!("{cluster}:0"));
            replicas.start_control_plane(at).await;
        }
        let node = replicas.start_node("node-1", &replicas.addresses).await;
        replicas.node = Some(node);
        replicas
    }

    /// Starts a node that knows the control plane `at` only.
    pub(crate) async fn bind_node(&mut self, name: &str, at: usize) {
        let out = self.file("certificates");
        let arguments = ["certificates", "--out", &out, "--data-plane", name];
        run("wardgate-control-plane", &arguments);
        let node = self.start_node(name, &self.addresses[at..=at]).await;
        self.bound.push(node);
    }

    /// What is started as the program `name`.
    fn program(&self, name: &str) -> String {
        match &self.programs {
            Some(directory) => format!("{directory}/{name}"),
            None => name.to_owned(),
        }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn member(&self, name: &str) -> Vec<(&'static str, String)> {
        vec![
            (
                "WARDGATE_CLUSTER_CERTIFICATE",
                self.file(&format!("certificates/{name}.pem")),
            ),
            (
                "WARDGATE_CLUSTER_KEY",
                self.file(&format!("certificates/{name}.key")),
            ),
            ("WARDGATE_CLUSTER_CA", self.file("certificates/ca.pem")),
        ]
    }

    pub(crate) async fn start_control_plane(&mut self, at: usize) {
        let endpoints: Vec<&str> = self
            .members
            .iter()
            .map(|member| member.client.as_str())
            .collect();
        let mut environment = self.member("control-plane");
        let place = &self.places[at];
        environment.extend([
            ("WARDGATE_ADMIN_LISTEN", format!("{}:0", place.admin)),
            ("WARDGATE_ADMIN_ALLOW_INSECURE", "true".to_owned()),
            ("WARDGATE_CLUSTER_LISTEN", self.addresses[at].clone()),
            (
                "WARDGATE_DATA_DIRECTORY",
                self.file(&format!("data/control-plane-{at}")),
            ),
            ("WARDGATE_SECRETS_KEY_FILE", self.file("secrets.key")),
            ("WARDGATE_ETCD_ENDPOINTS", endpoints.join(",")),
        ]);
        let settings = self.settings.iter();
        environment.extend(settings.map(|(name, value)| (*name, (*value).to_owned())));
        let name = format!("control-plane-{at}");
        let program = self.program("wardgate-control-plane");
        let directory = self.directory.path();
        let under: Vec<String> = match &place.namespace {
            Some(name) => ["ip", "netns", "exec", name].map(str::to_owned).into(),
            None => Vec::new(),
        };
        let process = Process::start_under(&under, &program, &name, directory, &environment).await;
        self.addresses[at] = process.address("cluster");
        self.control_planes[at] = Some(process);
    }

    async fn start_node(&self, name: &str, control_planes: &[String]) -> Process {
        let urls: Vec<String> = control_planes
            .iter()
            .map(|address| format!("https://{address}"))
            .collect();
        let any = "127.0.0.1:0".to_owned();
        let mut environment = self.member(name);
        environment.extend([
            ("WARDGATE_PROXY_LISTEN", any.clone()),
            ("WARDGATE_PROXY_TLS_LISTEN", any.clone()),
            ("WARDGATE_STATUS_LISTEN", any),
            (
                "WARDGATE_DATA_DIRECTORY",
                self.file(&format!("data/{name}")),
            ),
            ("WARDGATE_CONTROL_PLANES", urls.join(",")),
        ]);
        let program = self.program("wardgate-data-plane");
        Process::start(&program, name, self.directory.path(), &environment).await
    }

    /// The base URL of the Admin API of one control plane.
    pub(crate) fn admin_url(&self, at: usize) -> String {
        let process = self.control_planes[at].as_ref().unwrap();
        format!("http://{}", process.address("admin"))
    }

    /// Sends JSON to the Admin API of one control plane.
    pub(crate) async fn admin(&self, at: usize, method: Method, path: &str, body: &Value) -> Reply {
        let url = format!("{}{path}", self.admin_url(at));
        let headers = [("content-type", "application/json")];
        Browser::new()
            .send(method, &url, &headers, body.to_string())
            .await
    }

    /// What one control plane reads.
    pub(crate) async fn read(&self, at: usize, path: &str) -> Value {
        self.admin(at, Method::GET, path, &Value::Null).await.json()
    }

    /// What the node answers.
    pub(crate) async fn proxied(&self, path: &str) -> u16 {
        let node = self.node.as_ref().unwrap();
        let url = format!("http://{}{path}", node.address("proxy"));
        Browser::new().get(&url).await.status
    }

    /// Waits until all control planes that run have the newest of them all.
    pub(crate) async fn agree(&self) {
        eventually("the control planes agree", async || {
            let mut revisions = Vec::new();
            for at in 0..self.control_planes.len() {
                if self.control_planes[at].is_some() {
                    revisions
                        .push(self.read(at, "/status").await["configuration_revision"].clone());
                }
            }
            revisions
                .iter()
                .all(|revision| *revision == revisions[0])
                .then_some(())
        })
        .await;
    }
}

/// Restarts a member that was killed.
pub(crate) fn revive(member: &mut Member) {
    member.start();
}

/// How long `work` takes.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = shared::clock::monotonic();
    let result = work.await;
    (result, started.elapsed())
}
