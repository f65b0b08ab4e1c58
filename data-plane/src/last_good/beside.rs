//! A file beside the last good configuration, sealed as that is. A process with a successor shares it with that.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sealing::{Magic, OVERHEAD, Sealing, Unopened};
use super::{make, write_unfinished};

/// Why what is on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Unopened(#[from] Unopened),
}

/// Such a file.
#[derive(Debug)]
pub(crate) struct SealedFile {
    directory: PathBuf,
    name: &'static str,
    magic: Magic,
    sealing: Arc<Sealing>,
    /// Most bytes of its content.
    most: usize,
}

/// It is nobody else's to change until this is dropped.
pub(crate) struct Locked<'a> {
    file: &'a SealedFile,
    directory: File,
}

impl SealedFile {
    /// The file `name` in `directory`, which begins with `magic` and holds `most` bytes at most.
    pub(crate) fn new(
        directory: &Path,
        (name, magic): (&'static str, Magic),
        sealing: Arc<Sealing>,
        most: usize,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            name,
            magic,
            sealing,
            most,
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    /// How often the private key was replaced that it is sealed under.
    pub(crate) fn renewals(&self) -> u64 {
        self.sealing.renewals()
    }

    /// What it holds, if it is there.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>, Unusable> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let most = OVERHEAD + self.most;
        let mut bytes = Vec::new();
        let limit = u64::try_from(most + 1).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(Unopened::Format.into());
        }
        Ok(Some(self.sealing.open(self.magic, &bytes)?))
    }

    /// Keeps the other process of this node, if there is one, from changing it.
    pub(crate) fn lock(&self) -> io::Result<Locked<'_>> {
        make(&self.directory)?;
        let directory = File::open(&self.directory)?;
        directory.lock()?;
        Ok(Locked {
            file: self,
            directory,
        })
    }
}

impl Locked<'_> {
    /// Has it hold `content`; whole and on disk, or not at all.
    pub(crate) fn write(self, content: Vec<u8>) -> io::Result<()> {
        let SealedFile {
            directory,
            name,
            magic,
            sealing,
            ..
        } = self.file;
        let bytes = sealing.seal(*magic, content)?;
        let unfinished = write_unfinished(directory, &format!("{name}.new"), &bytes)?;
        std::fs::rename(unfinished, self.file.path())?;
        self.directory.sync_all()
    }

    /// Takes it away.
    pub(crate) fn remove(self) -> io::Result<()> {
        match std::fs::remove_file(self.file.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => self.directory.sync_all(),
        }
    }
}
