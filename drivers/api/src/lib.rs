//! What every driver of limafs shares: the [`Driver`] trait, Lima's own data as types, driver errors.
//! Knows no hypervisor, and never imports another crate of ours.

mod blob;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod driver;
mod environment;
mod error;
mod health;
mod instance;
#[cfg(feature = "client")]
mod remote;
#[cfg(feature = "schema")]
mod schema;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "grpc")]
mod wire;

pub use blob::Blob;
pub use config::*;
pub use driver::{Accelerator, Driver, Features, Info, Memory, Snapshot, SshLogin, Vm, VmEvent};
pub use environment::environment;
pub use error::{Error, Result};
pub use health::{About, Health, Priority, Report};
pub use instance::{DataDisk, Instance, mac_address, mount_tag};
#[cfg(feature = "client")]
pub use remote::{Fault, Remote, spawn};
#[cfg(feature = "server")]
pub use serve::serve;
/// The messages and services of `proto/`, for other hosts and drivers.
#[cfg(feature = "grpc")]
pub use wire::proto;
