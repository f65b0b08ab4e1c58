//! Small disks: a file system in memory that can be filled, emptied and made read-only, and one in a file, which holds
//! what a power cut would leave. They take root.

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

/// A file system in a file; unmounted when dropped. What programs have written and not synced is in memory, not there.
pub(crate) struct Image {
    file: PathBuf,
    directory: PathBuf,
}

impl Image {
    /// One of `megabytes` in `file`, mounted at `directory`.
    pub(crate) fn make(file: &Path, directory: &Path, megabytes: u64) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let empty = std::fs::File::create(file).unwrap();
        empty.set_len(megabytes << 20).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(file)
            .status();
        assert!(made.is_ok_and(|status| status.success()), "mkfs.ext4");
        let image = Self {
            file: file.to_owned(),
            directory: directory.to_owned(),
        };
        image.mount();
        image
    }

    fn mount(&self) {
        let file = self.file.display().to_string();
        mount(&["-o", "loop", &file], &self.directory);
    }

    /// The power goes: nobody uses the file system any more once `end` has run, and it is mounted again as the disk has
    /// it before.
    pub(crate) fn cut(&self, end: impl FnOnce()) {
        let left = self.file.with_extension("left");
        std::fs::copy(&self.file, &left).unwrap();
        end();
        self.unmount();
        std::fs::rename(&left, &self.file).unwrap();
        self.mount();
    }

    fn unmount(&self) {
        for _ in 0..100 {
            let ran = Command::new("umount").arg(&self.directory).output();
            if ran.is_ok_and(|ran| ran.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.unmount();
    }
}
