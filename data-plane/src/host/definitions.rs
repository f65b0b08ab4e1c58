//! Definitions of gRPC services in files of this machine.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Largest file, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// The text of the file at `path`, whose name must end with `.proto`: whoever configures plugins is to read nothing
/// else by them.
pub(super) fn read(path: &str) -> Result<String, String> {
    if Path::new(path).extension().is_none_or(|end| end != "proto") {
        return Err("its name does not end with .proto".to_owned());
    }
    let failed = |error: std::io::Error| error.kind().to_string();
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut text = String::new();
    let mut bounded = file.take(LARGEST + 1);
    bounded.read_to_string(&mut text).map_err(failed)?;
    if bounded.limit() == 0 {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_definitions_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(at("a.proto"), "syntax").unwrap();
        std::fs::write(at("secret"), "hush").unwrap();
        std::fs::write(at("large.proto"), " ".repeat(1024 * 1024 + 1)).unwrap();
        std::fs::create_dir(at("b.proto")).unwrap();
        assert_eq!(read(&at("a.proto")).as_deref(), Ok("syntax"));
        for (name, expected) in [
            ("secret", ".proto"),
            ("none.proto", "not found"),
            ("large.proto", "larger"),
            ("b.proto", "no file"),
        ] {
            let refused = read(&at(name)).unwrap_err();
            assert!(refused.contains(expected), "{name}: {refused}");
        }
    }
}
