//! Facts of this host that configurations and guests are filled with: user, processors, memory, time zone.
//! Gathered once by a process; knows no configuration.

use std::path::PathBuf;

/// The user for whom VMs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostUser {
    pub name: String,
    pub uid: u32,
    pub home: PathBuf,
    /// GECOS, may be empty.
    pub comment: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub user: HostUser,
    /// Lima's name: `Linux`, `Darwin`.
    pub os: String,
    /// Lima's name: `x86_64`, `aarch64`, ...
    pub arch: String,
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// `Europe/Berlin`; empty when unknown.
    pub timezone: String,
    /// `/etc/machine-id`, else dbus's, else the host name.
    pub machine_id: String,
}
