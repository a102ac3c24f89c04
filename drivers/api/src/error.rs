//! Why a driver could not do what was asked. One sentence each: what, which, why.

use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for something that this driver refuses; `field` is the path in lima.yaml.
    #[error("{field}: {why}")]
    Invalid { field: String, why: String },
    /// A program or file that the driver needs on this machine is missing; `fix` says how to get it.
    #[error("{what} is missing: {fix}")]
    Missing { what: String, fix: String },
    /// This driver has no such operation.
    #[error("driver {driver} cannot {operation}")]
    Unsupported { driver: String, operation: &'static str },
    /// The VM is not running.
    #[error("the VM is not running")]
    NotRunning,
    /// The hypervisor refused or failed; its own words.
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
    #[error("{what} took longer than {seconds} s")]
    Timeout { what: String, seconds: u64 },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    pub fn failed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Failed { what: what.into(), why: why.to_string() }
    }

    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
