//! Documents say what is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use plugins::registry;

use crate::files::files;
use crate::root;

/// The parameters of a plugin that are known and not acted on, as "Not yet" is to list them.
fn not_yet(plugin: &registry::Definition) -> String {
    let fields = plugin.fields.fields.iter().filter(|field| field.not_yet);
    let names: Vec<String> = fields.map(|field| format!("`{}`", field.name)).collect();
    names.join(", ")
}

#[test]
fn every_parameter_that_is_not_honoured_yet_is_listed() {
    let text = fs::read_to_string(root().join("deploy/KONG.md")).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for plugin in registry::definitions() {
        let expected = not_yet(plugin);
        if !expected.is_empty() {
            assert!(
                text.contains(&format!(": {expected}.")),
                "deploy/KONG.md, \"Not yet\", is to have this list for {}:\n\n{expected}.\n",
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
fn every_link_between_documents_leads_somewhere() {
    let mut followed = 0;
    for (path, text) in files(&[".md"]) {
        let links = text.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains(':')) {
            let target = path.parent().unwrap().join(link);
            assert!(target.exists(), "{link} in {}", path.display());
            followed += 1;
        }
    }
    assert!(followed > 10, "{followed} links");
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

/// Those of them that do not run with every change.
fn ignored(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            ignored(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let attributes = text.split("\n#[ignore").skip(1);
            let named = attributes.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
            found.extend(named.map(|(name, _)| name.to_owned()));
        }
    }
}

/// The tests that a cell of a table names.
fn tests_in(cell: &str) -> Vec<&str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        word.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(is_name).collect()
}

/// Faults that take minutes, root or a thousand nodes, whatever is done about it.
const NOT_WITH_EVERY_CHANGE: [&str; 7] =
    ["T1.3", "T7.3", "T10.5", "T16.3", "T17.2", "T18.1", "T19.1"];

#[test]
fn every_promise_and_every_fault_names_tests_that_are_there() {
    let text = fs::read_to_string(root().join("tests/faults/README.md")).unwrap();
    let (mut there, mut later) = (BTreeSet::new(), BTreeSet::new());
    for directory in ["control-plane", "data-plane", "shared", "proto", "tests"] {
        functions(&root().join(directory), &mut there);
    }
    ignored(&root().join("tests"), &mut later);
    let (mut promises, mut faults) = (0, 0);
    for line in text.lines() {
        let mut cells = line.split('|').skip(1);
        let (Some(what), Some(shown)) = (cells.next(), cells.next()) else {
            continue;
        };
        let number = what.trim().split([' ', ':']).next().unwrap_or_default();
        let names = tests_in(shown);
        for name in &names {
            assert!(there.contains(*name), "{what}: there is no test `{name}`");
        }
        let counted = match number.split_at_checked(1) {
            Some(("P", rest)) if rest.parse::<u32>().is_ok() => &mut promises,
            Some(("T", rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) => &mut faults,
            _ => continue,
        };
        *counted += 1;
        let at_once = names.iter().any(|name| !later.contains(*name));
        let may_wait = NOT_WITH_EVERY_CHANGE.contains(&number);
        assert!(
            at_once != may_wait,
            "{number}: {names:?} run with every change or not, which is {at_once}"
        );
        // Of faults it is said which ones; what is told before the first "run" runs with every change.
        let first = shown.split("run `").next().unwrap_or_default();
        let first = tests_in(first)
            .into_iter()
            .filter(|_| number.starts_with('T'));
        for name in first {
            assert!(
                !later.contains(name),
                "{number}: `{name}` is one of \"run\""
            );
        }
    }
    assert_eq!((promises, faults), (20, 62));
}
