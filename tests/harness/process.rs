//! A program of the workspace as a process, killed when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::eventually;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where it tells its addresses.
    told: PathBuf,
    addresses: Value,
    /// The process that has taken its place, if one has.
    successor: Option<u32>,
}

impl Process {
    /// Starts `program`, one of the workspace or a path, with `environment` and waits until it has told its
    /// addresses. Its log goes to `NAME.log` in `directory`, after that of a process of the same name before it.
    ///
    /// # Panics
    ///
    /// If it does not start; with its log.
    pub async fn start(
        program: &str,
        name: &str,
        directory: &Path,
        environment: &[(&str, String)],
    ) -> Self {
        Self::start_under(&[], program, name, directory, environment).await
    }

    /// The same by a command that runs the program: `under` is that and its arguments, such as `ip netns exec NAME`.
    ///
    /// # Panics
    ///
    /// If it does not start; with its log.
    pub async fn start_under(
        under: &[String],
        program: &str,
        name: &str,
        directory: &Path,
        environment: &[(&str, String)],
    ) -> Self {
        let mut process = Self::launch(under, program, name, directory, environment);
        process
            .started()
            .await
            .unwrap_or_else(|status| panic!("{name} ended with {status}:\n{}", process.log()));
        process
    }

    /// Starts a program that may end before it tells its addresses: then with what.
    pub async fn try_start_under(
        under: &[String],
        program: &str,
        name: &str,
        directory: &Path,
        environment: &[(&str, String)],
    ) -> Result<Self, ExitStatus> {
        let mut process = Self::launch(under, program, name, directory, environment);
        process.started().await.map(|()| process)
    }

    fn launch(
        under: &[String],
        program: &str,
        name: &str,
        directory: &Path,
        environment: &[(&str, String)],
    ) -> Self {
        let mut command = Command::new(under.first().map_or_else(|| path(program), PathBuf::from));
        command.env_clear();
        if let [_, arguments @ ..] = under {
            command.args(arguments).arg(path(program));
            command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        }
        let told = directory.join(format!("{name}.json"));
        // A leftover would name the ports of the process before.
        let _ = std::fs::remove_file(&told);
        let log = directory.join(format!("{name}.log"));
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true).open(&log)
        };
        let child = command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("WARDGATE_ADDRESSES_FILE", &told)
            .stdin(Stdio::null())
            .stdout(open().expect("the log can be opened"))
            .stderr(open().expect("the log can be opened"))
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
            told,
            addresses: Value::Null,
            successor: None,
        }
    }

    /// Waits until it has told its addresses, or has ended with what is returned then.
    async fn started(&mut self) -> Result<(), ExitStatus> {
        let (child, told) = (&mut self.child, &self.told);
        let addresses = eventually(&format!("{} starts", self.name), async || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            serde_json::from_slice(&std::fs::read(told).ok()?)
                .ok()
                .map(Ok)
        })
        .await;
        self.addresses = addresses?;
        Ok(())
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.successor.unwrap_or_else(|| self.child.id())
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An address that it listens on, such as `admin`.
    ///
    /// # Panics
    ///
    /// If it listens on none of that name.
    pub fn address(&self, name: &str) -> String {
        let told = self.addresses.get(name);
        // Of several the first.
        let told = told.map(|told| told.get(0).unwrap_or(told));
        let address = told.and_then(Value::as_str);
        address
            .unwrap_or_else(|| panic!("{} has no address {name}", self.name))
            .to_owned()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The most memory that it has had, in bytes.
    ///
    /// # Panics
    ///
    /// If it has ended, or this is not Linux.
    pub fn most_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that it has, in bytes.
    ///
    /// # Panics
    ///
    /// If it has ended, or this is not Linux.
    pub fn memory_now(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, figure: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(figure));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.expect("the kernel tells") * 1_024
    }

    /// Leaves it no descriptor beyond those in use now and the gaps between them; with `false`, it has enough again.
    ///
    /// # Panics
    ///
    /// If it has ended, or the program `prlimit` is not there.
    pub fn take_descriptors(&self, taken: bool) {
        let id = self.id();
        let all = std::fs::read_dir(format!("/proc/{id}/fd")).expect("the process runs");
        let numbers = all
            .flatten()
            .filter_map(|one| one.file_name().to_str()?.parse::<u64>().ok());
        let limit = if taken {
            numbers.max().map_or(0, |last| last + 1)
        } else {
            1024
        };
        let ran = Command::new("prlimit")
            .args([&format!("--pid={id}"), &format!("--nofile={limit}:")])
            .status();
        assert!(ran.is_ok_and(|status| status.success()), "prlimit {limit}");
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    ///
    /// If it has ended, or this is not Linux.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        open.expect("the process runs").count()
    }

    /// Stops it where it is: its connections stay, and it says nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Has it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Sends it a signal, such as `USR2`.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        send(name, self.id());
    }

    /// Has it start a new process that gets its sockets, by a signal such as `USR2`. The id of the old one.
    ///
    /// # Panics
    ///
    /// If that does not happen in time.
    pub async fn start_successor(&mut self, signal: &str) -> u32 {
        const STARTED: &str = "a successor was started process=";
        let before = self.log().matches(STARTED).count();
        let old = self.id();
        send(signal, old);
        let successor = eventually("a successor is started", async || {
            let log = self.log();
            let id = log
                .split(STARTED)
                .nth(before + 1)?
                .split_whitespace()
                .next()?;
            id.parse().ok()
        })
        .await;
        self.successor = Some(successor);
        old
    }

    /// Has it replaced, by a signal such as `USR2`, by a new process that gets its sockets, and waits until it has
    /// ended.
    ///
    /// # Panics
    ///
    /// If that does not happen in time.
    pub async fn succeed(&mut self, signal: &str) {
        let old = self.start_successor(signal).await;
        eventually("the old process ends", async || {
            // The first is our child: its end is to be waited for.
            let _ = self.child.try_wait();
            (!is_running(old)).then_some(())
        })
        .await;
    }

    /// Says that what it had started in its place has failed.
    pub fn goes_on(&mut self) {
        self.successor = None;
    }

    /// Kills it as the kernel would: nothing of it runs any more.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to stop, as an init system would, and waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not stop in time.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        // The first, which is our child, has ended before one that has taken its place.
        let successor = self.successor;
        let status = eventually("the process stops", async || {
            if successor.is_some_and(is_running) {
                return None;
            }
            self.child
                .try_wait()
                .expect("the process can be waited for")
        })
        .await;
        self.successor = None;
        status
    }

    fn end(&mut self) {
        if let Some(successor) = self.successor.take() {
            let id = successor.to_string();
            let _ = Command::new("kill").args(["-KILL", &id]).status();
            // It is not our child: what it has in use is free once it is gone. A number that is another's by then may never be.
            for _ in 0..10_000 {
                if !is_running(successor) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            #[expect(
                clippy::print_stderr,
                reason = "a failed test shows what the processes said"
            )]
            {
                eprintln!("--- {} ---\n{}", self.name, tail.join("\n"));
            }
        }
    }
}

fn send(signal: &str, id: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &id.to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()), "{signal} {id}");
}

/// Whether a thread of the process of this id does something still: the first may have ended before others, which have its
/// files and locks.
fn is_running(id: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
    })
}

/// Runs a program to its end.
///
/// # Panics
///
/// If it fails.
pub fn run(program: &str, arguments: &[&str]) {
    output(program, arguments);
}

/// Runs a program to its end and returns what it has written to its standard output.
///
/// # Panics
///
/// If it fails.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(path(program))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("running {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where cargo has put a program of this workspace: beside the directory of the tests. One that is given with its
/// path is taken from there.
///
/// # Panics
///
/// If it is not built.
pub fn path(program: &str) -> PathBuf {
    if Path::new(program).is_absolute() {
        return program.into();
    }
    let test = std::env::current_exe().expect("a process knows its program");
    let directory = test.parent().and_then(Path::parent);
    let path = directory
        .expect("tests lie in target/PROFILE/deps")
        .join(program);
    assert!(
        path.exists(),
        "{} is not built: run `cargo test --workspace`, or `cargo build --workspace` before",
        path.display()
    );
    path
}
