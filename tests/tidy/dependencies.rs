//! What the workspace depends on: licences, sources, one of each kind, and the directions between our
//! own packages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::files::files;
use crate::root;

/// Licences that may be in what we distribute. The MPL's duties end at the files that are under it,
/// which we use as they are.
const LICENCES: [&str; 16] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages that must not come in, and why.
const BANNED: [(&str, &str); 6] = [
    ("openssl", "one TLS stack: rustls"),
    ("openssl-sys", "one TLS stack: rustls"),
    ("native-tls", "one TLS stack: rustls"),
    ("ring", "one provider of cryptography: aws-lc-rs"),
    (
        "reqwest",
        "one HTTP client: our own on the request path, hyper elsewhere",
    ),
    ("async-std", "one async runtime: tokio"),
];

/// Packages of which two versions would be two stacks.
const SINGLE: [&str; 10] = [
    "aws-lc-rs",
    "axum",
    "h2",
    "http",
    "hyper",
    "prost",
    "rustls",
    "tokio",
    "tonic",
    "url",
];

/// What a package of ours must not depend on, itself or through another of ours.
const DIRECTIONS: [(&str, &[&str]); 7] = [
    (
        "shared",
        &[
            "proto",
            "plugins",
            "control-plane",
            "data-plane",
            "tokio",
            "hyper",
        ],
    ),
    (
        "program",
        &[
            "proto",
            "plugins",
            "fetch",
            "control-plane",
            "data-plane",
            "hyper",
        ],
    ),
    ("proto", &["plugins", "control-plane", "data-plane"]),
    (
        "plugins",
        &[
            "proto",
            "fetch",
            "control-plane",
            "data-plane",
            "hyper",
            "tonic",
        ],
    ),
    ("fetch", &["proto", "control-plane", "data-plane", "tonic"]),
    ("control-plane", &["data-plane", "wardgate"]),
    ("data-plane", &["control-plane", "wardgate", "sled"]),
];

/// Dependencies that nothing but generated code names.
const GENERATED: [(&str, &str); 1] = [("proto", "tonic-prost")];

/// What cargo knows of every package that is built here. Those of other platforms need not have been
/// downloaded.
fn metadata() -> Value {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let platform = format!("--filter-platform={host}");
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            &platform,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (package["name"].as_str().unwrap(), package))
}

/// Whether a licence expression (SPDX) can be fulfilled with what is allowed.
fn is_allowed(expression: &str) -> bool {
    // An old way to write OR.
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    let fine = |one: &str| LICENCES.contains(&one.trim());
    // Without brackets AND would bind tighter; with them removed, either reading must do.
    let alternatives = expression
        .split(" OR ")
        .any(|all| all.split(" AND ").all(fine));
    let requirements = expression
        .split(" AND ")
        .all(|any| any.split(" OR ").any(fine));
    alternatives || requirements
}

#[test]
fn every_licence_is_one_that_may_be_distributed() {
    let metadata = metadata();
    let faults: Vec<_> = packages(&metadata)
        .filter_map(|(name, package)| {
            let licence = package["license"].as_str().unwrap_or("none");
            (!is_allowed(licence)).then(|| format!("{name}: {licence}"))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(
        !is_allowed("GPL-3.0") && !is_allowed("MIT AND GPL-3.0") && is_allowed("GPL-2.0 OR MIT")
    );
}

#[test]
fn nothing_comes_from_elsewhere_or_is_banned() {
    let metadata = metadata();
    let mut faults = Vec::new();
    for (name, package) in packages(&metadata) {
        let source = package["source"].as_str().unwrap_or_default();
        if !source.is_empty() && !source.contains("crates.io-index") {
            faults.push(format!("{name} comes from {source}"));
        }
    }
    // A package may be named in the lock file for another platform; what counts is what is built here.
    let built = built();
    for (name, why) in BANNED {
        if built.keys().any(|package| package == name) {
            faults.push(format!("{name} is banned: {why}"));
        }
    }
    for name in SINGLE {
        let versions = built.get(name).map_or(0, BTreeSet::len);
        if versions != 1 {
            faults.push(format!("{versions} versions of {name}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The versions of every package that is built on this platform.
fn built() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--edges=normal,build",
            "--prefix=none",
            "--locked",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success());
    let mut built = BTreeMap::<String, BTreeSet<String>>::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            built
                .entry(name.to_owned())
                .or_default()
                .insert(version.to_owned());
        }
    }
    built
}

/// Those that are written here.
fn own_packages(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    packages(metadata).filter(|(_, package)| package["source"].is_null())
}

/// What the manifest of `package` calls its dependencies.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.map(|dependency| {
        let renamed = dependency["rename"].as_str();
        renamed.unwrap_or_else(|| dependency["name"].as_str().unwrap())
    })
}

/// The manifest of the package that `file` belongs to.
fn manifest_of(file: &Path) -> Option<String> {
    let mut manifests = file.ancestors().map(|above| above.join("Cargo.toml"));
    let manifest = manifests.find(|manifest| manifest.exists())?;
    Some(manifest.display().to_string())
}

/// Whether `text` has a path or a macro of the crate `name` in it.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let part = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        let after = &text[at + name.len()..];
        !part && (after.starts_with("::") || after.starts_with('!'))
    })
}

#[test]
fn every_dependency_is_used() {
    let metadata = metadata();
    let mut sources = BTreeMap::<String, String>::new();
    for (path, text) in files(&[".rs"]) {
        let manifest = manifest_of(&path).unwrap();
        sources.entry(manifest).or_default().push_str(&text);
    }
    let mut faults = Vec::new();
    let mut wanted = BTreeSet::new();
    for (package, described) in own_packages(&metadata) {
        let text = &sources[described["manifest_path"].as_str().unwrap()];
        for dependency in dependencies(described) {
            wanted.insert(dependency);
            let named = names(text, &dependency.replace('-', "_"));
            if !named && !GENERATED.contains(&(package, dependency)) {
                faults.push(format!("{package} does not use {dependency}"));
            }
        }
    }
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let listed = workspace.split("[workspace.dependencies]").nth(1).unwrap();
    for line in listed.lines().take_while(|line| !line.starts_with('[')) {
        let name = line.split_once(" = ").map(|(name, _)| name);
        if let Some(name) = name.filter(|name| !wanted.contains(name)) {
            faults.push(format!("no package uses {name} of the workspace"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let ours: BTreeMap<&str, BTreeSet<&str>> = own_packages(&metadata)
        .map(|(name, package)| {
            let all = package["dependencies"].as_array().unwrap().iter();
            let normal = all.filter(|dependency| dependency["kind"].is_null());
            (
                name,
                normal
                    .filter_map(|dependency| dependency["name"].as_str())
                    .collect(),
            )
        })
        .collect();
    for (name, forbidden) in DIRECTIONS {
        let (mut reached, mut open) = (BTreeSet::new(), vec![name]);
        while let Some(next) = open.pop() {
            for dependency in ours.get(next).into_iter().flatten() {
                if reached.insert(*dependency) {
                    open.push(dependency);
                }
            }
        }
        for dependency in forbidden {
            assert!(
                !reached.contains(dependency),
                "{name} depends on {dependency}"
            );
        }
    }
}
