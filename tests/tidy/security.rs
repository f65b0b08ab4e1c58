//! What the requirements of security say of the source itself, by their numbers.

use std::fs;

use crate::files::files;
use crate::root;

/// Where the programs are written, and not what tries them.
fn is_program(path: &std::path::Path) -> bool {
    let own = path.strip_prefix(root()).unwrap();
    let of_tests = |part: &std::path::Component<'_>| {
        let name = part.as_os_str().to_string_lossy();
        name == "tests" || name == "tests.rs" || name == "testing.rs" || name == "testing"
    };
    !own.components().any(|part| of_tests(&part))
}

/// The lines of programs for which `fault` holds.
fn lines(fault: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files(&[".rs"]) {
        if !is_program(&path) {
            continue;
        }
        let own = path.strip_prefix(root()).unwrap().display().to_string();
        let program = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for (number, line) in program.lines().enumerate() {
            if !line.trim_start().starts_with("//") && fault(&own, line) {
                found.push(format!("{own}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn rule_132_the_wall_clock_is_read_in_one_place() {
    let faults =
        lines(|path, line| path != "shared/src/clock.rs" && line.contains("SystemTime::now("));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn rule_133_randomness_is_the_systems_and_its_failure_is_not_passed_over() {
    let others = [
        "thread_rng",
        "fastrand",
        "SmallRng",
        "StdRng",
        "oorandom",
        "nanorand",
    ];
    let faults = lines(|_, line| others.iter().any(|other| line.contains(other)));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    for (path, text) in files(&[".rs"]) {
        for call in text.split("rand::fill(").skip(1) {
            let next: String = call.chars().take(200).collect();
            let judged = ["expect(", "map_err(", "?"]
                .iter()
                .any(|end| next.contains(end));
            assert!(judged, "{}: {next}", path.display());
        }
    }
}

#[test]
fn rule_134_what_is_secret_is_not_compared_byte_by_byte() {
    let compared = |line: &str| line.contains("==") || line.contains("!=");
    let faults = lines(|_, line| line.contains(".expose()") && compared(line));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn rule_139_unsafe_code_is_forbidden_wherever_we_write_code() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    for (path, manifest) in files(&["Cargo.toml"]) {
        let own = path.strip_prefix(root()).unwrap().display().to_string();
        // The wire is generated; the fuzz targets are a workspace of their own.
        if ["Cargo.toml", "proto/Cargo.toml", "tests/fuzz/Cargo.toml"].contains(&own.as_str()) {
            continue;
        }
        assert!(manifest.contains("[lints]\nworkspace = true"), "{own}");
    }
    let faults = lines(|_, line| line.contains("unsafe {") || line.contains("unsafe fn"));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
