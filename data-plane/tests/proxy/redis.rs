//! A real Redis server of Debian's package, on a free port, with a password.

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
        // The port may be taken by somebody else between the two: then another one is tried.
        for _ in 0..10 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let mut process = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--port", &port.to_string(), "--requirepass", &password])
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
                    };
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        panic!("redis-server does not start");
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
