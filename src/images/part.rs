//! A download that is not whole yet: `data.part` in the cache entry, and beside it what the server said of the data,
//! without which it cannot be continued. Only who holds the entry's lock changes either.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED};
use rustix::fs::fstatvfs;
use serde::{Deserialize, Serialize};

use super::files::{remove, write};
use crate::error::{Error, Result};

/// Lima's word for what it removes when it prunes.
pub const PART: &str = "data.part";
pub const STAMP: &str = "data.part.json";
const STAMP_MAX: u64 = 64 << 10;

/// What a server says of its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stamp {
    pub url: String,
    pub etag: Option<String>,
    /// Last-Modified, as text.
    pub modified: Option<String>,
    pub content_type: Option<String>,
    /// Bytes of the whole.
    pub total: Option<u64>,
}

impl Stamp {
    pub fn of(url: &str, response: &Response) -> Self {
        let text = |name: HeaderName| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        Self {
            url: url.to_string(),
            etag: text(ETAG),
            modified: text(LAST_MODIFIED),
            content_type: text(CONTENT_TYPE),
            total: response.content_length(),
        }
    }

    /// What proves that the server still has the same bytes; a weak tag does not (RFC 9110, 13.1.5).
    pub fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| tag.starts_with('"'));
        strong.or(self.modified.as_deref())
    }

    /// Reads the stamp of an entry's unfinished download.
    pub fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(STAMP);
        let meta = fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > STAMP_MAX {
            return None;
        }
        serde_json::from_slice(&fs::read(&path).ok()?).ok()
    }
}

/// The unfinished data. When dropped, only what can be continued stays.
pub struct Part {
    dir: PathBuf,
    file: File,
    length: u64,
    pub stamp: Stamp,
    /// Began with what an earlier attempt left.
    pub is_resumed: bool,
}

impl Part {
    /// Takes up what an earlier download left in the entry, if it can be continued.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(PART);
        let options = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            options
        };
        let file = options().open(&path).map_err(Error::io(&path))?;
        let stamp = Stamp::read(dir).filter(|stamp| stamp.validator().is_some()).unwrap_or_default();
        let mut part = Self { dir: dir.to_owned(), file, length: 0, stamp, is_resumed: false };
        let there = part.file.metadata().map_err(Error::io(&path))?.len();
        // Of one that is complete the last byte is asked for again, so that the server says whether it is still right.
        let kept = if part.can_continue() {
            there.min(part.stamp.total.map_or(there, |all| all.saturating_sub(1)))
        } else {
            0
        };
        part.cut(kept)?;
        Ok(part)
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(PART)
    }

    pub fn can_continue(&self) -> bool {
        self.stamp.validator().is_some()
    }

    /// Begins anew, with data that `stamp` describes.
    pub fn begin(&mut self, stamp: Stamp) -> Result<()> {
        self.is_resumed = false;
        self.cut(0)?;
        let text = serde_json::to_string(&stamp).map_err(|error| Error::failed(STAMP, error))?;
        write(&self.dir, STAMP, &text)?;
        self.stamp = stamp;
        Ok(())
    }

    /// Forgets what was received, because it cannot be right.
    pub fn discard(&mut self) -> Result<()> {
        self.is_resumed = false;
        self.stamp = Stamp::default();
        remove(&self.dir.join(STAMP))?;
        self.cut(0)
    }

    /// Fails before the first byte when there is no room for the rest.
    pub fn check_room(&self) -> Result<()> {
        let Some(total) = self.stamp.total else { return Ok(()) };
        let disk = fstatvfs(&self.file).map_err(|error| Error::io(&self.dir)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = total.saturating_sub(self.length);
        if needed <= free {
            return Ok(());
        }
        let why = format!("{} MiB are to be downloaded, {} MiB are free", needed.div_ceil(1 << 20), free >> 20);
        Err(Error::Full { what: self.dir.display().to_string(), why })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        // The page cache takes what the network gives; a thread for each piece would cost more.
        if let Err(error) = self.file.write_all(bytes) {
            return Err(self.broken(error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Gives back the room of a disk that is full: others need it, too.
    fn broken(&mut self, error: std::io::Error) -> Error {
        if error.kind() != std::io::ErrorKind::StorageFull {
            return Error::io(self.path())(error);
        }
        let why = format!("the disk is full after {} MiB of the download", self.length >> 20);
        match self.discard() {
            Ok(()) => Error::Full { what: self.dir.display().to_string(), why },
            Err(error) => error,
        }
    }

    fn cut(&mut self, length: u64) -> Result<()> {
        self.file
            .set_len(length)
            .and_then(|()| self.file.seek(SeekFrom::Start(length)))
            .map_err(Error::io(self.path()))?;
        self.length = length;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.length == 0 || !self.can_continue() {
            for file in [STAMP, PART] {
                if let Err(error) = remove(&self.dir.join(file)) {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}
