//! A small disk: a file system in memory that can be filled, emptied and made read-only. It takes root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The file system; gone when dropped.
pub(crate) struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// One of `megabytes` at `directory`.
    pub(crate) fn mount(directory: &Path, megabytes: u64) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let size = format!("size={megabytes}m");
        mount(&["-t", "tmpfs", "-o", &size, "none"], directory);
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Takes all of its space but `left` bytes.
    pub(crate) fn fill(&self, left: u64) {
        let found = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(&self.directory)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let free: u64 = text.lines().nth(1).unwrap().trim().parse().unwrap();
        let size = free.saturating_sub(left).to_string();
        let filled = Command::new("fallocate")
            .args(["-l", &size])
            .arg(self.directory.join("filling"))
            .status();
        assert!(filled.unwrap().success(), "{size} bytes of {free}");
    }

    /// Gives the space back.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.directory.join("filling")).unwrap();
    }

    /// Lets nothing be written any more, or again.
    pub(crate) fn read_only(&self, only: bool) {
        let how = if only { "remount,ro" } else { "remount,rw" };
        mount(&["-o", how], &self.directory);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process may still have files of it open.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.directory)
            .status();
    }
}

fn mount(arguments: &[&str], directory: &Path) {
    let ran = Command::new("mount")
        .args(arguments)
        .arg(directory)
        .output();
    let ran = ran.expect("mount is installed");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "mount {arguments:?}: {said}");
}
