//! The cache of downloads, laid out as Lima does: `download/by-url-sha256/<SHA-256 of the location as it is written>/` with
//! `url`, `data`, `time` (Last-Modified), `type` (Content-Type) and `<algorithm>.digest`; while it is downloaded,
//! `data.part`. A lock on the directory makes one download serve whoever waits, in this process or another.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::digest::{self, Algorithm, Expected};
use super::download::{self, Job};
use super::files::{remove, write};
use super::part::{self, PART, Part, Stamp};
use super::verified::{State, VERIFIED};
use super::{Meter, Policy, Report, blocking, home, http};
use crate::error::{Error, Result};

pub const DATA: &str = "data";
pub const URL: &str = "url";
const TIME: &str = "time";
/// Below the cache's root.
pub const ENTRIES: &str = "download/by-url-sha256";
const LOCK_PERIOD: Duration = Duration::from_millis(100);

/// `$XDG_CACHE_HOME/lima`, else `~/.cache/lima`.
pub fn root() -> Result<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(xdg.map_or_else(|| home().map(|home| home.join(".cache")), Ok)?.join("lima"))
}

/// The data of `location`, a URL, from the cache or downloaded into it, verified.
pub async fn open(
    root: &Path,
    location: &str,
    expected: Option<&Expected>,
    policy: &Policy,
    progress: &Report<'_>,
) -> Result<File> {
    let entry = Entry::wait(root, location, progress).await?;
    if let Some(data) = entry.open()? {
        match expected {
            Some(expected) => match entry.verified(data, expected, progress).await {
                Ok(data) => return entry.tidy().map(|()| data),
                Err(error @ Error::Failed { .. }) => tracing::warn!(%error, "cached image is wrong, downloading again"),
                Err(error) => return Err(error),
            },
            None if entry.is_fresh(policy).await => return entry.tidy().map(|()| data),
            None => {}
        }
    }
    entry.download(expected, policy, progress).await?;
    entry.open()?.ok_or_else(|| Error::failed(location, "was removed from the cache while it was downloaded"))
}

/// The name of an entry.
pub fn name(url: &str) -> String {
    Sha256::digest(url).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the lock of an entry, if nobody has it. One that was pruned meanwhile would be a lock on nothing.
pub fn try_lock(dir: &Path) -> Result<Option<File>> {
    // Not through a symlink: what is pruned or replaced is the cache's own.
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let lock = File::options().read(true).custom_flags(flags).open(dir).map_err(Error::io(dir))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(is_same(&lock, dir).then_some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(Error::io(dir)(error.into())),
    }
}

/// The same, of an entry that is made if need be.
fn take(dir: &Path) -> Result<Option<File>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io(dir))?;
    try_lock(dir)
}

/// A locked entry.
struct Entry<'a> {
    /// As it is written in lima.yaml: Lima names its entries by it.
    location: &'a str,
    url: Url,
    dir: PathBuf,
    _lock: File,
}

impl<'a> Entry<'a> {
    /// Waits for the lock, and tells how far the download is that somebody else has under way.
    async fn wait(root: &Path, location: &'a str, progress: &Report<'_>) -> Result<Self> {
        let url = Url::parse(location).map_err(|error| Error::invalid(location, error.to_string().to_lowercase()))?;
        let dir = root.join(ENTRIES).join(name(location));
        if let Some(lock) = take(&dir)? {
            return Ok(Self { location, url, dir, _lock: lock });
        }
        let meter = Meter::new("waiting for", None);
        // By trying, so that a waiter can be dropped at any time.
        let trying = async {
            loop {
                let done = fs::metadata(dir.join(PART)).map_or(0, |meta| meta.len());
                meter.begin(done, Stamp::read(&dir).and_then(|stamp| stamp.total));
                tokio::time::sleep(LOCK_PERIOD).await;
                if let Some(lock) = take(&dir)? {
                    return Ok(lock);
                }
            }
        };
        let lock = meter.report(progress, trying).await?;
        Ok(Self { location, url, dir, _lock: lock })
    }

    fn open(&self) -> Result<Option<File>> {
        let path = self.dir.join(DATA);
        match File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }

    /// Hands `data` back if it has its digest: known from the last time, or read now.
    async fn verified(&self, data: File, expected: &Expected, progress: &Report<'_>) -> Result<File> {
        let state = State::of(&data)?;
        if state.is_known(&self.dir, expected) {
            return Ok(data);
        }
        let data = digest::verify(data, self.location, expected, progress).await?;
        if let Err(error) = state.remember(&self.dir, &data, expected) {
            // It is only hashed again the next time.
            tracing::warn!("{error}");
        }
        Ok(data)
    }

    /// Removes a download that was not whole when somebody else put the whole there.
    fn tidy(&self) -> Result<()> {
        remove(&self.dir.join(PART))?;
        remove(&self.dir.join(part::STAMP))
    }

    /// Whether the server still has what we have. A server that cannot be asked does not make the cache useless.
    async fn is_fresh(&self, policy: &Policy) -> bool {
        match http::stamp(&self.url, policy).await {
            Ok(Stamp { modified: Some(now), .. }) => {
                fs::read_to_string(self.dir.join(TIME)).is_ok_and(|then| then == now)
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "cannot ask whether the cached image is the latest, using it");
                true
            }
        }
    }

    /// Puts new data in place. The old is kept until the new is whole and verified.
    async fn download(&self, expected: Option<&Expected>, policy: &Policy, progress: &Report<'_>) -> Result<()> {
        let mut part = Part::open(&self.dir)?;
        let job = Job { location: self.location, url: &self.url, has_digest: expected.is_some(), policy };
        download::download(&job, &mut part, progress).await?;
        if let Err(error) = self.verify(&part, expected, progress).await {
            let is_suspect = part.is_resumed;
            part.discard()?;
            if !is_suspect {
                return Err(error);
            }
            // The beginning may be of other data than the rest: a server may have one tag for both.
            tracing::warn!(%error, "the continued download is wrong, downloading all of it again");
            download::download(&job, &mut part, progress).await?;
            if let Err(error) = self.verify(&part, expected, progress).await {
                part.discard()?;
                return Err(error);
            }
        }
        let (dir, expected) = (self.dir.clone(), expected.cloned());
        blocking(move || commit(&dir, &part, expected.as_ref())).await
    }

    /// Reads what is on the disk, not what came over the network.
    async fn verify(&self, part: &Part, expected: Option<&Expected>, progress: &Report<'_>) -> Result<()> {
        let Some(expected) = expected else { return Ok(()) };
        let data = File::open(part.path()).map_err(Error::io(part.path()))?;
        digest::verify(data, self.location, expected, progress).await.map(|_| ())
    }
}

/// Makes the whole part the entry's data. What describes data is removed before the data changes and written after, so
/// that it never describes other data.
fn commit(dir: &Path, whole: &Part, expected: Option<&Expected>) -> Result<()> {
    let path = whole.path();
    File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io(&path))?;
    for algorithm in Algorithm::ALL {
        remove(&dir.join(digest_file(algorithm)))?;
    }
    remove(&dir.join(VERIFIED))?;
    remove(&dir.join(TIME))?;
    write(dir, URL, &whole.stamp.url)?;
    fs::rename(&path, dir.join(DATA)).map_err(Error::io(&path))?;
    remove(&dir.join(part::STAMP))?;
    write(dir, "type", whole.stamp.content_type.as_deref().unwrap_or_default())?;
    write(dir, TIME, whole.stamp.modified.as_deref().unwrap_or_default())?;
    if let Some(expected) = expected {
        write(dir, &digest_file(expected.algorithm()), &expected.to_string())?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
}

pub fn digest_file(algorithm: Algorithm) -> String {
    format!("{}.digest", algorithm.name())
}

fn is_same(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((open.metadata().map(id), fs::metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
}
