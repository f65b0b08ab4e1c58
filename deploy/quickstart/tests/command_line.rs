//! The program's command line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::process::{Command, Output};

fn wardgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wardgate"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn help_explains_directory_ports_and_single_planes() {
    let output = wardgate(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "--data-directory",
        "--admin-listen",
        "127.0.0.1:8000",
        "--only control-plane",
        "WARDGATE_PROXY_LISTEN",
        "port of 0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_mistake_is_named_and_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").display().to_string();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    for (arguments, expected) in [
        (["--admin-listen", "8001"], "--admin-listen"),
        (["--only", "everything"], "control-plane"),
        (["--admin-listen", &address], "admin_listen"),
    ] {
        let mut all = arguments.to_vec();
        all.extend(["--data-directory", &data, "--cluster-listen", "127.0.0.1:0"]);
        let output = wardgate(&all);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
