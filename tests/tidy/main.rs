//! House rules that a program can check: the shape of files, what is depended on, and that the README
//! tells what is missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod dependencies;
mod documents;
mod files;
mod requirements;
mod security;

use std::path::{Path, PathBuf};

/// The directory of the workspace.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}
