//! Images: fetch, verify, unpack into place. The only user of reqwest.
//!
//! ```text
//! location --path, file://--------------> data --digest--> temp file beside dest --fsync, rename--> dest
//!          \--http(s)--> cache entry, locked --> data      (reflink, copy or unpack)
//! ```
//! The cache is Lima's own, shared with it. An image never appears in part, nor before its digest was verified.

mod cache;
mod copy;
mod digest;
mod download;
mod files;
mod http;
mod meter;
mod part;
pub mod shelf;
mod text;
mod unpack;
mod verified;

use std::fs::File as Data;
use std::path::{Path, PathBuf};
use std::time::Duration;

use limafs_driver::File;
use reqwest::Url;

use crate::error::{Error, Result};
use digest::Expected;
use meter::Meter;

pub use text::{fetch_text, verify_text};

/// How far a fetch is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// `waiting for` (somebody else's download), `downloading`, `verifying`, `unpacking`, `copying`
    pub step: &'static str,
    pub done: u64,
    pub total: Option<u64>,
    /// Bytes a second, over the last seconds.
    pub rate: f64,
}

pub type Report<'a> = dyn Fn(Progress) + Send + Sync + 'a;

/// Fetches `file` (a path, http or https) to `dest`, decompressed, its digest verified. `dest` appears whole or not at all.
/// `progress` is called at most five times a second. May be dropped at any time; what it left behind is removed, but for
/// a download that can be continued.
pub async fn fetch(file: &File, dest: &Path, progress: &Report<'_>) -> Result<()> {
    fetch_as(Form::Unpacked, file, dest, progress).await
}

/// As [`fetch`], but what is compressed stays so: an initrd may be several archives in a row, each packed another way.
pub async fn fetch_as_is(file: &File, dest: &Path, progress: &Report<'_>) -> Result<()> {
    fetch_as(Form::AsIs, file, dest, progress).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Unpacked,
    AsIs,
}

async fn fetch_as(form: Form, file: &File, dest: &Path, progress: &Report<'_>) -> Result<()> {
    let location = file.location.as_deref().unwrap_or_default();
    let expected = file.digest.as_deref().filter(|text| !text.is_empty()).map(Expected::parse).transpose()?;
    let data = match Source::parse(location)? {
        Source::Local(path) => open_local(&path, expected.as_ref(), progress).await?,
        Source::Remote(url) => {
            if url.scheme() == "http" && expected.is_none() {
                let why =
                    "http needs a digest, because anybody on the way could change the image; use https or add one";
                return Err(Error::invalid(location, why));
            }
            if expected.is_none() {
                tracing::warn!(location, "image without a digest: trusted as the server sends it");
            }
            cache::open(&cache::root()?, location, expected.as_ref(), &Policy::default(), progress).await?
        }
    };
    let packing = if form == Form::Unpacked { unpack::format(location, &data)? } else { None };
    place(data, packing, location, dest, progress).await
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Local(PathBuf),
    Remote(Url),
}

impl Source {
    fn parse(location: &str) -> Result<Self> {
        if let Some(path) = location.strip_prefix("file://") {
            return Self::path(path, location);
        }
        if !location.contains("://") {
            return Self::path(location, location);
        }
        let url = Url::parse(location).map_err(|error| Error::invalid(location, error.to_string().to_lowercase()))?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Remote(url)),
            scheme => Err(Error::invalid(location, format!("scheme {scheme:?} is not known (https, http, file)"))),
        }
    }

    fn path(text: &str, location: &str) -> Result<Self> {
        let path = match text.strip_prefix("~/") {
            Some(rest) => home()?.join(rest),
            None => PathBuf::from(text),
        };
        if !path.is_absolute() {
            return Err(Error::invalid(
                format!("location {location:?}"),
                "must be absolute, begin with ~/ or be a URL",
            ));
        }
        Ok(Self::Local(path))
    }
}

/// How patient a download is.
#[derive(Debug, Clone)]
struct Policy {
    connect: Duration,
    /// Longest silence, before the answer or within it, and how long a trickle is borne. There is no limit on the whole.
    idle: Duration,
    /// Pauses before the second, third and fourth attempt, counted anew after each that brought much.
    retries: [Duration; 3],
}

impl Default for Policy {
    fn default() -> Self {
        let retries = [1, 3, 10].map(Duration::from_secs);
        Self { connect: Duration::from_secs(30), idle: Duration::from_secs(60), retries }
    }
}

fn home() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|path| path.is_absolute());
    home.ok_or_else(|| Error::failed("home directory", "neither HOME nor the user database names one"))
}

async fn open_local(path: &Path, expected: Option<&Expected>, progress: &Report<'_>) -> Result<Data> {
    let data = Data::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: path.display().to_string() },
        _ => Error::io(path)(error),
    })?;
    if !data.metadata().map_err(Error::io(path))?.is_file() {
        return Err(Error::invalid(path.display().to_string(), "is no regular file"));
    }
    match expected {
        Some(expected) => digest::verify(data, &path.display().to_string(), expected, progress).await,
        None => Ok(data),
    }
}

/// Copies or unpacks `data` beside `dest` and renames it there.
async fn place(
    data: Data,
    packing: Option<unpack::Format>,
    location: &str,
    dest: &Path,
    progress: &Report<'_>,
) -> Result<()> {
    let dir = dest.parent().ok_or_else(|| Error::invalid(dest.display().to_string(), "is no place for a file"))?;
    let name = dest.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prefix = format!(".{name}.");
    let temp = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(dir).map_err(Error::io(dir))?;
    let temp = match packing {
        Some(format) => unpack::unpack(data, format, location, temp, progress).await?,
        None => copy::copy(data, temp, progress).await?,
    };
    let dest = dest.to_owned();
    blocking(move || {
        temp.as_file().sync_all().map_err(Error::io(&dest))?;
        temp.persist(&dest).map_err(|error| Error::io(&dest)(error.error))?;
        let dir = dest.parent().unwrap_or(Path::new("/"));
        Data::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
    })
    .await
}

/// Runs `work`, which waits for disks, beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::failed("image", error))?
}

#[cfg(test)]
mod tests;
