//! Lima's `Instance`: what a driver is configured with, under Lima's JSON names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Config;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    pub name: String,
    /// `lima-NAME`, dots and underscores as dashes.
    pub hostname: String,
    pub status: String,
    /// The instance directory, absolute.
    pub dir: PathBuf,
    pub vm_type: String,
    pub arch: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
    /// Host port that is forwarded to the guest's port 22; 0 when not known yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub ssh_local_port: u16,
    /// The filled configuration.
    pub config: Config,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssh_address: String,
    pub protected: bool,
    pub lima_version: String,
    /// Files that the guest gets as read-only disks, besides those of the configuration. Not Lima's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_disks: Vec<DataDisk>,
}

/// A file whose bytes are a read-only disk of the guest's; its last sector is filled up with zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataDisk {
    /// By this the guest finds it; at most 20 bytes of ASCII.
    pub serial: String,
    pub path: PathBuf,
}

fn is_zero(n: &u16) -> bool {
    *n == 0
}

/// MAC address of a network card, as Lima derives it: `52:55:55:` and three bytes of
/// SHA-256(machine id + unique id). `unique` is the instance directory for the first card and
/// `DIR/lima.yaml#INDEX` for entry INDEX of `networks`.
pub fn mac_address(machine_id: &str, unique: &str) -> String {
    let digest = Sha256::digest([machine_id.as_bytes(), unique.as_bytes()].concat());
    format!("52:55:55:{:02x}:{:02x}:{:02x}", digest[0], digest[1], digest[2])
}

/// Tag of a 9p or virtiofs mount entry, as Lima derives it.
pub fn mount_tag(location: &str, mount_point: &str) -> String {
    let digest = Sha256::digest(format!("{location}:{mount_point}"));
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("lima-{hex}")
}
