//! The cloud-init disk (NoCloud): what is on it, and its bytes as an ISO. Pure: no files are opened here. A guest
//! without cloud-init gets the same files as a directory.
//!
//! ```text
//! meta-data user-data network-config      read by cloud-init
//! boot.sh lima.env param.env util/        our boot, started by user-data's per-boot script
//! boot.essential.Linux/ boot.Linux/       ours and the driver's, in that order
//! ca-certs/lima-%04d.crt                  certificates to trust
//! lima-guestagent                         the agent, as a program
//! nerdctl-full.tgz                        containerd, where its driver gives a guest no disk with it
//! ssh_authorized_keys                     for a guest without cloud-init, whose driver's scripts make the user
//! provision.{dependency,data,yq,system,user}/%08d  the user's, numbered by their place in lima.yaml
//! ```
//! Everything on it belongs to root and is closed to others: `env` and `param` may hold secrets.

mod certificates;
mod cloud;
mod env;
mod iso;
mod mounts;
mod provision;
mod scripts;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use limafs_driver::{Config, Features};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::names::Name;

pub use env::{ADDRESS, GATEWAY, params};
pub use iso::{SECTOR, iso};

const AGENT: &str = "lima-guestagent";
/// The archive with containerd among the files.
pub const ARCHIVE: &str = "nerdctl-full.tgz";
/// A longer line is none of the files that are looked for.
const LINE_MAX: u64 = 4096;

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
    /// Networks beside eth0, in the order of `networks`.
    pub networks: &'a [Network],
    /// Ports of the host's loopback, for UDP and for TCP, where the guest's name server listens.
    pub dns: Option<(u16, u16)>,
    /// Name of the virtio-serial port for boot reports, or empty.
    pub boot_port: &'a str,
    /// Name of the virtio-serial port for the guest agent, or empty.
    pub virtio_port: &'a str,
    /// The vsock port for the guest agent, or 0.
    pub vsock_port: u32,
    /// Of the driver: they decide what the guest can be told at all.
    pub features: &'a Features,
    /// From the driver: `boot.Linux/FILE` to its bytes.
    pub boot_scripts: &'a BTreeMap<String, Vec<u8>>,
    /// What is in the files of `caCerts.files`, which are the host's.
    pub ca_files: &'a [String],
    /// The guest agent's program, if there is one for such a guest.
    pub agent: Option<&'a [u8]>,
    /// What is on the disk [`ARCHIVE_SERIAL`], or added to the files; `None` where lima.yaml wants no containerd.
    pub archive: Option<&'a Archive>,
    /// The hostagent's environment, from which only proxy variables are taken.
    pub host_env: &'a BTreeMap<String, String>,
}

/// A network card beside eth0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub interface: String,
    pub mac: String,
    /// With the length of the prefix: `192.168.104.5/24`. Empty where the network hands one out itself.
    pub address: String,
}

/// Serial number of the disk that is the archive with containerd.
pub const ARCHIVE_SERIAL: &str = "limafs-containerd";

/// A tar.gz that the guest unpacks when it has another id than the one that it unpacked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub id: String,
    /// Bytes; its disk has whole sectors.
    pub size: u64,
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

/// Renders the disk's files, sorted by path. Refuses what a guest could not be told truthfully.
pub fn render(guest: &Guest) -> Result<Cidata> {
    // The id is part of the files, so they are made once without it. Pinned host keys change how often something
    // is done, not what the guest is told: the first and the second boot have the same id.
    let told = Guest { keep_host_keys: false, ..guest.clone() };
    let iid = format!("iid-{}", hash(&entries(&told, "")?));
    let mut entries = entries(guest, &iid)?;
    // Not part of the id: each boot installs the agent that is there, whatever else is told.
    if let Some(agent) = agent(guest) {
        entries.push(Entry::script(AGENT, agent));
        entries.sort_by(|one, other| one.path.cmp(&other.path));
    }
    Ok(Cidata { iid, entries })
}

/// Whether a disk was made from what [`render`] says, by whatever version, and not by Lima. Reads no further than needed.
pub fn is_ours(mut iso: impl BufRead) -> io::Result<bool> {
    let mark = env::MARK.as_bytes();
    let (mut line, mut is_begun) = (Vec::new(), false);
    while (&mut iso).take(LINE_MAX).read_until(b'\n', &mut line)? > 0 {
        if !is_begun && line.starts_with(mark) {
            return Ok(true);
        }
        is_begun = line.last() != Some(&b'\n');
        line.clear();
    }
    Ok(false)
}

impl Entry {
    fn text(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self::file(path, text.into())
    }

    fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o600, bytes: bytes.into() }
    }

    fn script(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o700, bytes: bytes.into() }
    }
}

fn entries(guest: &Guest, iid: &str) -> Result<Vec<Entry>> {
    if let Some(os) = guest.config.os.as_deref().filter(|os| *os != "Linux") {
        return Err(Error::unsupported("os", format!("{os} guests are not supported yet, only Linux")));
    }
    let mut files = BTreeMap::new();
    let provisioned = provision::entries(guest)?;
    let fixed = scripts::entries().chain(scripts::of_driver(guest.boot_scripts)?);
    let told = cloud::entries(guest, iid)?.into_iter().chain(env::entries(guest, iid)?);
    let keys = guest.features.no_cloud_init.then(|| cloud::authorized_keys(guest));
    for entry in fixed.chain(told).chain(certificates::entries(guest)).chain(provisioned).chain(keys) {
        files.insert(entry.path.clone(), entry);
    }
    Ok(files.into_values().collect())
}

/// Whether a VM of such a driver sees the host at [`GATEWAY`]: Lima's user network, which its own drivers and ours all
/// have. One whose address is known only when it runs, or which is given no disk, is in a network of somebody else's.
pub fn has_user_network(features: &Features) -> bool {
    !features.dynamic_ssh_address && !features.no_cloud_init
}

/// The agent's program where this guest is to have it.
fn agent<'a>(guest: &Guest<'a>) -> Option<&'a [u8]> {
    guest.agent.filter(|_| guest.config.plain != Some(true))
}

/// 64 bits of a hash over names, modes and bytes, as hex digits.
fn hash(entries: &[Entry]) -> String {
    let mut hasher = Sha256::new();
    for Entry { path, mode, bytes } in entries {
        hasher.update(format!("{path}\0{mode:o} {}\0", bytes.len()));
        hasher.update(bytes);
    }
    hasher.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a field that filling should have set.
fn required<'a>(what: &str, value: Option<&'a str>) -> Result<&'a str> {
    let value = value.filter(|text| !text.is_empty()).ok_or_else(|| Error::invalid(what, "is not set"))?;
    one_line(what, value)
}

/// Refuses what would end a line of a `KEY=VALUE` file or of a table in the guest.
fn one_line<'a>(what: &str, value: &'a str) -> Result<&'a str> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Error::invalid(what, "must not contain line breaks or other control characters"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
