//! The one error of this crate: an errno for the shell and a sentence for people.
//! Never imports anything of ours but the drivers' errors.

use std::io;
use std::path::{Path, PathBuf};

use limafs_driver as driver;

pub type Result<T> = std::result::Result<T, Error>;

/// One sentence, lower case, no full stop: what, which, why, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unknown verb, bad value, bad YAML, bad name. `what` is a node or a field path.
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// A document with several faults, one a line.
    #[error("{}", .0.join("\n"))]
    Document(Vec<String>),
    /// The wrong state for that verb.
    #[error("{what}: {why}")]
    Busy { what: String, why: String },
    /// Protected, or a name that cannot be made here.
    #[error("{what}: {why}")]
    Forbidden { what: String, why: String },
    /// Mode bits, another user.
    #[error("{what}: permission denied")]
    Denied { what: String },
    #[error("{what} does not exist")]
    Missing { what: String },
    #[error("{what} exists already")]
    Exists { what: String },
    #[error("{what}: {why}")]
    Unsupported { what: String, why: String },
    /// A control write over 4 KiB, a document over 1 MiB.
    #[error("{what}: larger than {limit} bytes")]
    TooBig { what: String, limit: usize },
    /// A name, or the socket path that it would lead to.
    #[error("{what}: {why}")]
    NameTooLong { what: String, why: String },
    #[error("{what} took longer than {seconds} s")]
    Timeout { what: String, seconds: u64 },
    /// Needs a running VM or hostagent.
    #[error("{what}: not running")]
    HostDown { what: String },
    /// No room on the disk.
    #[error("{what}: {why}")]
    Full { what: String, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// A hostagent's refusal, in its own words.
    #[error("{message}")]
    Refused { message: String, errno: i32 },
    /// Something failed that no caller can act upon but by reading the sentence.
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
}

impl Error {
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    pub fn busy(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Busy { what: what.into(), why: why.into() }
    }

    pub fn forbidden(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Forbidden { what: what.into(), why: why.into() }
    }

    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }

    pub fn failed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Failed { what: what.into(), why: why.to_string() }
    }

    /// For `map_err`: names the path of a failed file operation.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    /// The errno that a file system call answers with. The README has the same table.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Invalid { .. } | Self::Document(_) => libc::EINVAL,
            Self::Busy { .. } => libc::EBUSY,
            Self::Forbidden { .. } => libc::EPERM,
            Self::Denied { .. } => libc::EACCES,
            Self::Missing { .. } => libc::ENOENT,
            Self::Exists { .. } => libc::EEXIST,
            Self::Unsupported { .. } => libc::EOPNOTSUPP,
            Self::TooBig { .. } => libc::EFBIG,
            Self::NameTooLong { .. } => libc::ENAMETOOLONG,
            Self::Timeout { .. } => libc::ETIMEDOUT,
            Self::HostDown { .. } => libc::EHOSTDOWN,
            Self::Full { .. } => libc::ENOSPC,
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Driver(error) => driver_errno(error),
            Self::Refused { errno, .. } => *errno,
            Self::Failed { .. } => libc::EIO,
        }
    }
}

fn driver_errno(error: &driver::Error) -> i32 {
    match error {
        driver::Error::Invalid { .. } => libc::EINVAL,
        driver::Error::Missing { .. } => libc::ENODEV,
        driver::Error::Unsupported { .. } => libc::EOPNOTSUPP,
        driver::Error::NotRunning => libc::EHOSTDOWN,
        driver::Error::Failed { .. } => libc::EIO,
        driver::Error::Timeout { .. } => libc::ETIMEDOUT,
        driver::Error::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
    }
}
