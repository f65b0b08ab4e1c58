//! Documents say what is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use plugins::registry;

use crate::root;

/// The parameters of a plugin that are known and not acted on, as the README is to list them.
fn not_yet(plugin: &registry::Definition) -> String {
    let fields = plugin.fields.fields.iter().filter(|field| field.not_yet);
    let names: Vec<String> = fields.map(|field| format!("`{}`", field.name)).collect();
    names.join(", ")
}

#[test]
fn the_readme_lists_every_parameter_that_is_not_honoured_yet() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    for plugin in registry::definitions() {
        let expected = not_yet(plugin);
        if !expected.is_empty() {
            assert!(
                readme.contains(&format!(": {expected}.")),
                "README.md, \"Not yet\", is to have this list for {}:\n\n{expected}.\n",
                plugin.name
            );
        }
    }
}

#[test]
fn the_readme_tells_how_to_run_and_to_test() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release", "cargo test --workspace"] {
        assert!(
            readme.contains(&format!("```console\n{command}\n```")),
            "{command}"
        );
    }
    for document in ["ARCHITECTURE.md", "CHANGELOG.md", "LICENSE"] {
        assert!(root().join(document).exists(), "{document}");
    }
}

#[test]
fn every_directory_that_the_architecture_names_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut named = 0;
    for row in rows {
        let cell = row.split('|').nth(1).unwrap();
        let mut base = String::new();
        for path in cell
            .split('`')
            .filter(|part| part.contains('/') || root().join(part).exists())
        {
            // A second path of a row stands beside the first.
            let whole = if base.is_empty() || root().join(path).exists() {
                path.to_owned()
            } else {
                format!("{base}{path}")
            };
            assert!(
                root().join(&whole).exists(),
                "{whole} of ARCHITECTURE.md is not there"
            );
            if base.is_empty() {
                let trimmed = path.trim_end_matches('/');
                base = trimmed
                    .rsplit_once('/')
                    .map_or(String::new(), |(parent, _)| format!("{parent}/"));
            }
            named += 1;
        }
    }
    assert!(named > 10, "the code map has {named} entries");
}

/// Everything in the repository's Rust that is called as a test would be.
pub(crate) fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.join("CACHEDIR.TAG").exists() {
            functions(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let named = text.split("fn ").skip(1);
            found.extend(named.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let text = fs::read_to_string(root().join("tests/faults/README.md")).unwrap();
    let mut there = BTreeSet::new();
    for directory in ["control-plane", "data-plane", "shared", "proto", "tests"] {
        functions(&root().join(directory), &mut there);
    }
    for promise in 1..=20 {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| P{promise}: ")));
        let cell = row.unwrap().split('|').nth(2).unwrap();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "P{promise} is shown by nothing");
        for name in names {
            assert!(
                there.contains(name),
                "P{promise}: there is no test `{name}`"
            );
        }
    }
}
