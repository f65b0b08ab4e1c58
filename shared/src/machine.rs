//! What a process knows about its machine, and what it may leave behind there.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The machine's name, as the kernel tells it; empty if it does not.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Memory that this process has in use, in bytes; 0 where the kernel does not tell.
pub fn resident_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// Memory that the machine has, in bytes; 0 where the kernel does not tell.
pub fn total_bytes() -> u64 {
    kilobytes("/proc/meminfo", "MemTotal:")
}

/// Memory that the machine could give to a process now, in bytes; 0 where the kernel does not tell.
pub fn available_bytes() -> u64 {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

/// How many files and sockets this process may have open.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of them are open; 0 where the kernel does not tell.
pub fn open_descriptors() -> u64 {
    // That of the directory itself is among them.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1));
    u64::try_from(open).unwrap_or(u64::MAX)
}

/// Lets this process have as many of them as it is permitted. What it begins with is often 1,024, for the sake of programs that
/// use `select(2)`.
pub fn open_as_many_as_permitted() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "fewer files and sockets can be open than are permitted");
    }
}

/// Has a crash leave no core file: it would hold session keys and clients' secrets. Whoever wants one raises the limit of
/// the running process (`prlimit --core`).
pub fn leave_no_core_file() {
    let limit = getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file, with secrets in it");
    }
}

fn kilobytes(file: &str, label: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let amount = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    amount.unwrap_or_default().saturating_mul(1024)
}

/// Whether the directory `path` is there, or can be made, and can be written to.
pub fn check_directory(path: &Path) -> io::Result<()> {
    let mut at = path;
    loop {
        match std::fs::metadata(at) {
            Ok(found) if found.is_dir() => {
                return Ok(access(at, Access::WRITE_OK | Access::EXEC_OK)?);
            }
            Ok(_) => return Err(ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Ok(leads) = std::fs::read_link(at) {
                    let why = format!(
                        "{} is a link to {}, which is not there",
                        at.display(),
                        leads.display()
                    );
                    return Err(io::Error::new(ErrorKind::NotFound, why));
                }
                at = directory_of(at);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The file at `path`, by whose lock processes keep each other off what lies beside it, made if it is not there. It is opened to be
/// read: a disk that takes nothing any more is no reason not to start.
pub fn lock_file(path: &Path) -> io::Result<File> {
    let made = || File::create(path).and_then(|_| File::open(path));
    File::open(path).or_else(|_| made())
}

/// Whether what lies in `directory`, if that is there, can be read to an end, but for what is called one of `but_for`: a pipe
/// would be waited for, and a device may have none.
///
/// # Errors
///
/// One that names what cannot be.
pub fn check_files(directory: &Path, but_for: &[&str]) -> io::Result<()> {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let entry = entry?;
        if but_for.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let path = entry.path();
        // What leads nowhere is not read.
        let kind = std::fs::metadata(&path).map(|found| found.file_type());
        let has_no_end = kind
            .is_ok_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_block_device());
        if has_no_end {
            let message = format!("{} is a pipe or a device: move it away", path.display());
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
    }
    Ok(())
}

/// Whether the file `path` can be written to, or made in a directory that is there.
pub fn check_file(path: &Path) -> io::Result<()> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(ErrorKind::IsADirectory.into());
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(access(
            directory_of(path),
            Access::WRITE_OK | Access::EXEC_OK,
        )?),
        Err(error) => Err(error),
    }
}

/// The directory that `path` is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ if path.is_absolute() => Path::new("/"),
        _ => Path::new("."),
    }
}

/// What the file at `path` holds; none if there is none. One of more than `most` bytes is not read: a file system that was
/// damaged may show a file of any size.
pub fn read_bounded(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Ok(found) if usize::try_from(found.len()).is_ok_and(|length| length <= most) => {}
        Ok(_) => return Err(ErrorKind::FileTooLarge.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    std::fs::read(path).map(Some)
}

/// Writes `text` to `path` whole or not at all, so that a reader who sees the file can use it.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}

/// Writes `text` to `path` whole or not at all. Once this returns, it is there after a power failure, too.
pub fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(unfinished, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn rule_128_a_crash_leaves_no_core_file() {
        let limit = getrlimit(Resource::Core);
        let some = Rlimit {
            current: limit.maximum,
            ..limit
        };
        setrlimit(Resource::Core, some).unwrap();
        leave_no_core_file();
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }

    #[test]
    fn as_many_files_can_be_open_as_are_permitted() {
        let limit = getrlimit(Resource::Nofile);
        // What other tests have open stays below.
        let few = Rlimit {
            current: limit.maximum.map(|most| most.min(1024)),
            ..limit
        };
        setrlimit(Resource::Nofile, few).unwrap();
        open_as_many_as_permitted();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
        let before = open_descriptors();
        let _some: Vec<_> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(before > 0 && open_descriptors() >= 50);
    }

    #[test]
    fn what_cannot_be_read_to_an_end_is_named() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        assert!(check_files(&place("absent"), &[]).is_ok());
        std::fs::write(place("file"), "").unwrap();
        std::fs::create_dir(place("directory")).unwrap();
        symlink(place("file"), place("link")).unwrap();
        symlink(place("absent"), place("nowhere")).unwrap();
        assert!(check_files(root.path(), &[]).is_ok());
        symlink("/dev/zero", place("endless")).unwrap();
        let named = |name: &str| {
            let error = check_files(root.path(), &[]).unwrap_err().to_string();
            assert!(
                error.contains(&place(name).display().to_string()),
                "{error}"
            );
        };
        named("endless");
        std::fs::remove_file(place("endless")).unwrap();
        mknodat(CWD, place("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        named("pipe");
        assert!(check_files(root.path(), &["pipe"]).is_ok());
    }

    #[test]
    fn places_that_cannot_be_written_to_are_told_from_those_that_can() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        let link = root.path().join("link");
        symlink("/nowhere/at/all", &link).unwrap();
        for path in [link.clone(), link.join("deep")] {
            let told = check_directory(&path).unwrap_err().to_string();
            assert!(told.ends_with("is a link to /nowhere/at/all, which is not there"));
        }
        let kind = |outcome: io::Result<()>| outcome.map_err(|error| error.kind());
        for (path, as_directory, as_file) in [
            (root.path().to_owned(), Ok(()), Err(ErrorKind::IsADirectory)),
            (root.path().join("new"), Ok(()), Ok(())),
            (
                root.path().join("new/deep"),
                Ok(()),
                Err(ErrorKind::NotFound),
            ),
            (file.clone(), Err(ErrorKind::NotADirectory), Ok(())),
            (
                file.join("x"),
                Err(ErrorKind::NotADirectory),
                Err(ErrorKind::NotADirectory),
            ),
            ("relative".into(), Ok(()), Ok(())),
        ] {
            assert_eq!(kind(check_directory(&path)), as_directory, "{path:?}");
            assert_eq!(kind(check_file(&path)), as_file, "{path:?}");
        }
    }
}
