//! The cloud-init disk (NoCloud): what is on it, and its bytes as an ISO. Pure: no files are opened here.

use std::collections::BTreeMap;

use limafs_driver::Config;

use crate::error::Result;
use crate::names::Name;

/// Everything that the guest is told.
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    pub name: &'a Name,
    /// Filled.
    pub config: &'a Config,
    /// Lines of `authorized_keys`.
    pub ssh_keys: &'a [String],
    /// The guest's host keys are pinned already: cloud-init must not delete them for a new instance id.
    pub keep_host_keys: bool,
    /// MAC address of eth0.
    pub mac: &'a str,
    /// Name of the virtio-serial port for boot reports, or empty.
    pub boot_port: &'a str,
    /// From the driver: `boot.Linux/FILE` to its bytes.
    pub boot_scripts: &'a BTreeMap<String, Vec<u8>>,
    /// The hostagent's environment, from which only proxy variables are taken.
    pub host_env: &'a BTreeMap<String, String>,
}

/// A file of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, `/`-separated: `boot.Linux/05-lima-mounts.sh`.
    pub path: String,
    pub mode: u32,
    pub bytes: Vec<u8>,
}

/// The files of the disk and the instance id that they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cidata {
    /// `iid-` and a hash of all that the guest is told: cloud-init's once-per-instance modules run again exactly
    /// when something changed.
    pub iid: String,
    pub entries: Vec<Entry>,
}

pub fn render(_guest: &Guest) -> Result<Cidata> {
    todo!()
}

/// An ISO 9660 image with Rock Ridge and Joliet, label `cidata`; the same bytes for the same entries.
pub fn iso(_entries: &[Entry]) -> Result<Vec<u8>> {
    todo!()
}
