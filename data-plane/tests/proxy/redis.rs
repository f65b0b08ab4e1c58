//! A real Redis server of Debian's package: on a free port, on another with TLS, and on a socket, with a
//! password.

#![allow(dead_code, reason = "two suites start it, and each uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server, stopped when it is dropped.
pub(crate) struct Redis {
    process: Child,
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) password: String,
    tls_port: u16,
}

impl Redis {
    /// Starts one. The package is installed if it is not there, which needs the rights to.
    pub(crate) fn start() -> Self {
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
        let password = uuid::Uuid::new_v4().to_string();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(file("tls.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(file("tls.key"), certificate.signing_key.serialize_pem()).unwrap();
        // The port may be taken by somebody else between the two: then another one is tried.
        for _ in 0..10 {
            let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [port, tls_port] = free.map(|listener| listener.local_addr().unwrap().port());
            let mut process = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--port", &port.to_string(), "--requirepass", &password])
                .args([
                    "--tls-port",
                    &tls_port.to_string(),
                    "--tls-auth-clients",
                    "no",
                ])
                .args([
                    "--tls-cert-file",
                    &file("tls.pem"),
                    "--tls-key-file",
                    &file("tls.key"),
                ])
                .args([
                    "--tls-ca-cert-file",
                    &file("tls.pem"),
                    "--unixsocket",
                    &file("socket"),
                ])
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
                    };
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        panic!("redis-server does not start");
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
        write!(stream, "AUTH {}\r\n{command}\r\nQUIT\r\n", self.password).unwrap();
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
    let asked = write!(stream, "AUTH {password}\r\nQUIT\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("+OK")
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
