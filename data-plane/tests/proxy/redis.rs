//! A real Redis server of Debian's package: on a free port, on another with TLS, and on a socket, with a
//! password.

#![allow(dead_code, reason = "two suites start it, and each uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server, stopped when it is dropped.
pub(crate) struct Redis {
    process: Child,
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) password: String,
    tls_port: u16,
    /// By which those of a cluster speak with each other.
    bus: u16,
}

impl Redis {
    /// Starts one.
    pub(crate) fn start() -> Self {
        Self::start_with(&uuid::Uuid::new_v4().to_string(), |_| Vec::new())
    }

    /// Three of them that are a cluster, each with a third of the slots.
    pub(crate) fn cluster() -> [Self; 3] {
        let password = uuid::Uuid::new_v4().to_string();
        let nodes = [(); 3].map(|()| {
            Self::start_with(&password, |bus| {
                let bus = bus.to_string();
                ["--cluster-enabled", "yes", "--cluster-port", &bus]
                    .map(str::to_owned)
                    .to_vec()
            })
        });
        for (place, node) in nodes.iter().enumerate() {
            let (first, last) = (place * 5462, (place * 5462 + 5461).min(16_383));
            let added = node.command(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            assert!(added.starts_with("+OK\r\n+OK"), "{added}");
            let met = format!("CLUSTER MEET 127.0.0.1 {} {}", node.port, node.bus);
            nodes[0].command(&met);
        }
        for node in &nodes {
            node.until("CLUSTER INFO", "cluster_state:ok");
        }
        nodes
    }

    /// A server, one that follows it, and a Sentinel that looks after both as `app`.
    pub(crate) fn group() -> [Self; 3] {
        let password = uuid::Uuid::new_v4().to_string();
        let known = ["--masterauth", &password].map(str::to_owned);
        let master = Self::start_with(&password, |_| known.to_vec());
        let port = master.port.to_string();
        let follows = ["--replicaof", "127.0.0.1", &port].map(str::to_owned);
        let replica = Self::start_with(&password, |_| [&known[..], &follows[..]].concat());
        master.until("INFO replication", "state=online");
        let sentinel = Self::launch("a Sentinel", |directory, ports| {
            let password = uuid::Uuid::new_v4().to_string();
            let file = directory.join("sentinel.conf");
            let text = format!(
                "port {}\nbind 127.0.0.1\nrequirepass {password}\n\
                 sentinel monitor app 127.0.0.1 {port} 1\nsentinel auth-pass app {}\n\
                 sentinel down-after-milliseconds app 5000\n",
                ports[0], master.password
            );
            std::fs::write(&file, text).unwrap();
            let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
            (password, arguments)
        });
        sentinel.until("SENTINEL REPLICAS app", &replica.port.to_string());
        [master, replica, sentinel]
    }

    /// Waits until a command's answer has `text`.
    pub(crate) fn until(&self, command: &str, text: &str) {
        for _ in 0..6_000 {
            if self.command(command).contains(text) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{command} never answers {text}: {}", self.command(command));
    }

    /// Starts one with a password and further arguments, given a port for its cluster.
    fn start_with(password: &str, more: impl Fn(u16) -> Vec<String>) -> Self {
        Self::launch("redis-server", |directory, [port, tls_port, bus]| {
            let file = |name: &str| directory.join(name).display().to_string();
            let certificate =
                rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            std::fs::write(file("tls.pem"), certificate.cert.pem()).unwrap();
            std::fs::write(file("tls.key"), certificate.signing_key.serialize_pem()).unwrap();
            let mut arguments: Vec<String> = [
                ("--bind", "127.0.0.1"),
                ("--save", ""),
                ("--appendonly", "no"),
                ("--port", &port.to_string()),
                ("--requirepass", password),
                ("--tls-port", &tls_port.to_string()),
                ("--tls-auth-clients", "no"),
                ("--tls-cert-file", &file("tls.pem")),
                ("--tls-key-file", &file("tls.key")),
                ("--tls-ca-cert-file", &file("tls.pem")),
                ("--unixsocket", &file("socket")),
            ]
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
            .collect();
            arguments.extend(more(bus));
            (password.to_owned(), arguments)
        })
    }

    /// Starts the program with what `prepare` makes of a directory and free ports: a password and arguments. The
    /// package is installed if it is not there, which needs the rights to.
    fn launch(
        what: &str,
        prepare: impl Fn(&std::path::Path, [u16; 3]) -> (String, Vec<String>),
    ) -> Self {
        if which("redis-server").is_none() {
            let installed = Command::new("apt-get")
                .args([
                    "install",
                    "--yes",
                    "--no-install-recommends",
                    "redis-server",
                ])
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(
                installed.is_ok_and(|status| status.success()),
                "redis-server is not there and cannot be installed"
            );
        }
        let directory = tempfile::tempdir().unwrap();
        // A port may be taken by somebody else between the two: then others are tried.
        for _ in 0..10 {
            let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [port, tls_port, bus] = free.map(|listener| listener.local_addr().unwrap().port());
            let (password, arguments) = prepare(directory.path(), [port, tls_port, bus]);
            let mut process = Command::new("redis-server")
                .args(arguments)
                .current_dir(directory.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            while process.try_wait().unwrap().is_none() {
                if answers(port, &password) {
                    return Self {
                        process,
                        directory,
                        port,
                        password,
                        tls_port,
                        bus,
                    };
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        panic!("{what} does not start");
    }

    /// The port for TLS; its certificate is of nobody known.
    pub(crate) const fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The path of its socket.
    pub(crate) fn socket(&self) -> String {
        self.directory.path().join("socket").display().to_string()
    }

    /// What it answers to a command of words without spaces, in Redis's protocol.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "AUTH {}\r\n{command}\r\n", self.password).unwrap();
        // It answers and closes: a Sentinel knows no QUIT.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Stops it.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        assert!(self.directory.path().exists());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

fn answers(port: u16, password: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let asked = write!(stream, "AUTH {password}\r\n");
    let ended = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    asked.is_ok()
        && ended.is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("+OK")
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
