//! The shape of source files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::root;

/// Directories that hold nothing that we wrote.
const SKIPPED: [&str; 4] = ["target", "node_modules", ".git", "wardgate-data"];
/// Lines of a source file: beyond, it has more than one subject.
const LINES: usize = 520;
/// Names that say nothing of what a module holds.
const VAGUE: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "misc", "mod", "stuff",
];

/// Files below the workspace with one of `extensions`, and their text.
pub(crate) fn files(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    open.push(path);
                }
            } else if extensions.iter().any(|extension| name.ends_with(extension)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {extensions:?}");
    found
}

/// Fails with every file for which `fault` has something to say.
fn all_are_fine(extensions: &[&str], fault: impl Fn(&Path, &str) -> Option<String>) {
    let faults: Vec<String> = files(extensions)
        .iter()
        .filter_map(|(path, text)| {
            let fault = fault(path, text)?;
            Some(format!(
                "{}: {fault}",
                path.strip_prefix(root()).unwrap().display()
            ))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_source_file_says_what_it_is_for() {
    all_are_fine(&[".rs"], |_, text| {
        (!text.starts_with("//! ")).then(|| "the first line is no `//!` comment".to_owned())
    });
}

#[test]
fn every_source_file_has_one_subject() {
    all_are_fine(&[".rs", ".js"], |_, text| {
        let lines = text.lines().count();
        (lines > LINES).then(|| format!("{lines} lines; split it, {LINES} are the most"))
    });
}

#[test]
fn modules_are_named_for_what_they_hold() {
    all_are_fine(&[".rs"], |path, _| {
        let name = path.file_stem().unwrap().to_string_lossy();
        VAGUE
            .contains(&&*name)
            .then(|| format!("`{name}` says nothing"))
    });
}

#[test]
fn nothing_is_left_for_later_or_names_a_machine() {
    // In parts, so that this file does not name them.
    let words = [
        ["to", "do!("],
        ["unimpl", "emented!("],
        ["db", "g!("],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["/ho", "me/"],
    ]
    .map(|parts| parts.concat());
    let extensions = [".rs", ".toml", ".md", ".js", ".proto", ".json", "run"];
    all_are_fine(&extensions, |_, text| {
        let word = words.iter().find(|word| text.contains(word.as_str()))?;
        Some(format!("`{word}`"))
    });
}
