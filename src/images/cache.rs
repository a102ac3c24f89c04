//! The cache of downloads, laid out as Lima does: `download/by-url-sha256/<SHA-256 of the URL>/` with `url`, `data`,
//! `time` (Last-Modified), `type` (Content-Type) and `<algorithm>.digest`. A lock on the directory makes one download
//! serve whoever waits, in this process or another.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::digest::{self, Expected};
use super::download::{self, Stamp};
use super::{Policy, Report, blocking, home};
use crate::error::{Error, Result};

const DATA: &str = "data";
const LOCK_PERIOD: Duration = Duration::from_millis(100);

/// `$XDG_CACHE_HOME/lima`, else `~/.cache/lima`.
pub fn root() -> Result<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(xdg.map_or_else(|| home().map(|home| home.join(".cache")), Ok)?.join("lima"))
}

/// The data of `url`, from the cache or downloaded into it, verified.
pub async fn open(
    root: &Path,
    url: &Url,
    expected: Option<&Expected>,
    policy: &Policy,
    progress: &Report<'_>,
) -> Result<File> {
    let entry = Entry::lock(root, url).await?;
    if let Some(data) = entry.open()? {
        match expected {
            Some(expected) => match digest::verify(data, url.as_str(), expected, progress).await {
                Ok(data) => return Ok(data),
                Err(error @ Error::Failed { .. }) => tracing::warn!(%error, "cached image is wrong, downloading again"),
                Err(error) => return Err(error),
            },
            None if entry.is_fresh(policy).await => return Ok(data),
            None => {}
        }
    }
    entry.download(expected, policy, progress).await?;
    entry.open()?.ok_or_else(|| Error::failed(url.as_str(), "was removed from the cache while it was downloaded"))
}

/// A locked entry.
struct Entry<'a> {
    url: &'a Url,
    dir: PathBuf,
    _lock: File,
}

impl<'a> Entry<'a> {
    /// Waits for the lock by trying, so that a waiter can be dropped at any time.
    async fn lock(root: &Path, url: &'a Url) -> Result<Self> {
        let name: String = Sha256::digest(url.as_str()).iter().map(|byte| format!("{byte:02x}")).collect();
        let dir = root.join("download/by-url-sha256").join(name);
        loop {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
            let lock = File::open(&dir).map_err(Error::io(&dir))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                // An entry that was pruned while we waited would be a lock on nothing.
                Ok(()) if is_same(&lock, &dir) => return Ok(Self { url, dir, _lock: lock }),
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_PERIOD).await,
                Err(error) => return Err(Error::io(&dir)(error.into())),
            }
        }
    }

    fn open(&self) -> Result<Option<File>> {
        let path = self.dir.join(DATA);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }

    /// Whether the server still has what we have. A server that cannot be asked does not make the cache useless.
    async fn is_fresh(&self, policy: &Policy) -> bool {
        match download::stamp(self.url, policy).await {
            Ok(Stamp { modified: Some(now), .. }) => {
                fs::read_to_string(self.dir.join("time")).is_ok_and(|then| then == now)
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "cannot ask whether the cached image is the latest, using it");
                true
            }
        }
    }

    /// Puts new data in place. The old is kept until the new is whole.
    async fn download(&self, expected: Option<&Expected>, policy: &Policy, progress: &Report<'_>) -> Result<()> {
        let prefix = format!("{DATA}.tmp.{}.", std::process::id());
        let temp = tempfile::Builder::new().prefix(&prefix).tempfile_in(&self.dir).map_err(Error::io(&self.dir))?;
        let stamp = download::download(self.url, temp.as_file(), expected, policy, progress).await?;
        let (dir, url, expected) = (self.dir.clone(), self.url.clone(), expected.cloned());
        blocking(move || {
            temp.as_file().sync_all().map_err(Error::io(&dir))?;
            for algorithm in ["sha256", "sha384", "sha512"] {
                remove(&dir.join(format!("{algorithm}.digest")))?;
            }
            write(&dir, "url", url.as_str())?;
            write(&dir, "time", stamp.modified.as_deref().unwrap_or_default())?;
            write(&dir, "type", stamp.content_type.as_deref().unwrap_or_default())?;
            temp.persist(dir.join(DATA)).map_err(|error| Error::io(&dir)(error.error))?;
            if let Some(expected) = expected {
                write(&dir, &format!("{}.digest", expected.algorithm().name()), &expected.to_string())?;
            }
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(Error::io(&dir))
        })
        .await
    }
}

fn is_same(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((open.metadata().map(id), fs::metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let mut temp = tempfile::NamedTempFile::new_in(dir).map_err(Error::io(dir))?;
    temp.write_all(text.as_bytes()).map_err(Error::io(dir))?;
    temp.persist(dir.join(name)).map_err(|error| Error::io(dir)(error.error))?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}
