//! What the guest is told: cidata.iso, or a directory of the same, with keys, environment and scripts. Written only when
//! it differs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use limafs_driver::{Config, Driver, Info, mac_address};

use super::iso::Image;
use super::{Boot, directory};
use crate::cidata::{self, Archive, Guest};
use crate::config;
use crate::error::{Error, Result};
use crate::hostagent::dns;
use crate::hostagent::ready::deliver::Parcel;
use crate::hostagent::ssh::{keys::Identity, pin};
use crate::names;
use crate::store;

/// What was found or made for this boot.
pub struct Given {
    pub dns: Option<dns::Ports>,
    pub networks: Vec<cidata::Network>,
    pub archive: Option<Archive>,
    /// The archive itself, for a guest that has it from cidata.
    pub packed: Option<PathBuf>,
}

/// Writes `cidata.iso`, or `cidata/` for a guest without cloud-init, and `cloud-config.yaml`, and returns the instance id
/// that the guest will report.
pub async fn write_cidata(
    boot: &Boot,
    driver: &dyn Driver,
    config: &Config,
    identity: &Identity,
    given: &Given,
) -> Result<String> {
    let known_hosts = boot.dir.join(names::KNOWN_HOSTS);
    let path = boot.dir.join(names::CIDATA_ISO);
    let directory = boot.dir.join(names::CIDATA_DIR);
    forget_host_keys_of_others(&path, &known_hosts)?;
    let Info { boot_port, virtio_port, vsock_port, features, .. } = driver.info();
    let agent = super::agent::program(config).await;
    let guest = Guest {
        name: &boot.name,
        config,
        ssh_keys: &ssh_keys(boot, config, identity),
        keep_host_keys: pin::read(&known_hosts, &boot.name.hostname())?.is_set(),
        mac: &mac_address(&boot.host.machine_id, &boot.dir.to_string_lossy()),
        networks: &given.networks,
        dns: given.dns.map(|ports| (ports.udp, ports.tcp)),
        boot_port: &boot_port,
        virtio_port: &virtio_port,
        vsock_port,
        features: &features,
        boot_scripts: &driver.boot_scripts().await?,
        ca_files: &ca_files(boot, config)?,
        agent: agent.as_deref(),
        archive: given.archive.as_ref(),
        host_env: &environment(),
    };
    let cidata = cidata::render(&guest)?;
    let user_data = cidata.entries.iter().find(|entry| entry.path == "user-data").map(|entry| entry.bytes.clone());
    let iid = cidata.iid.clone();
    let packed = given.packed.clone();
    let archive = given.archive.clone().filter(|_| packed.is_some());
    let no_cloud_init = features.no_cloud_init;
    let write = move || match no_cloud_init {
        true => directory::replace(&directory, &cidata.entries, packed.as_deref()),
        false => {
            directory::remove(&directory)?;
            Image { held: cidata::iso(&cidata.entries, archive.as_ref())?, archive: packed }.replace(&path)
        }
    };
    // Beside the hostagent's thread: an archive on it takes seconds.
    tokio::task::spawn_blocking(write).await.map_err(|error| Error::failed("making cidata", error))??;
    if let Some(user_data) = user_data {
        // For people to look at. Like the disk it may hold what `env` and `param` hold.
        store::replace(&boot.dir.join(names::CLOUD_CONFIG), &user_data, 0o400)?;
    }
    Ok(iid)
}

/// The same for a guest that gets it over ssh.
pub async fn parcel(boot: &Boot, driver: &dyn Driver, config: &Config, identity: &Identity) -> Result<Parcel> {
    Ok(Parcel {
        name: boot.name.clone(),
        config: config.clone(),
        features: driver.info().features,
        ssh_keys: ssh_keys(boot, config, identity),
        agent: super::agent::program(config).await,
        boot_scripts: driver.boot_scripts().await?,
        ca_files: ca_files(boot, config)?,
        host_env: environment(),
    })
}

/// Options of `ssh:` in lima.yaml that a user's own ssh is to have.
pub fn ssh_options(config: &Config) -> Vec<(&'static str, &'static str)> {
    let ssh = config.ssh.clone().unwrap_or_default();
    let table = [
        ("ForwardAgent", ssh.forward_agent),
        ("ForwardX11", ssh.forward_x11),
        ("ForwardX11Trusted", ssh.forward_x11_trusted),
    ];
    table.into_iter().filter(|(_, wanted)| *wanted == Some(true)).map(|(key, _)| (key, "yes")).collect()
}

/// limactl boots a guest with an instance id and a cidata.iso of its own, for which cloud-init makes new host keys.
fn forget_host_keys_of_others(iso: &Path, known_hosts: &Path) -> Result<()> {
    let is_ours = File::open(iso).and_then(|iso| cidata::is_ours(BufReader::new(iso)));
    match is_ours {
        Ok(false) => {
            tracing::info!("the last boot was not by limafs: the guest's ssh host key is taken anew");
            pin::remove(known_hosts)
        }
        Ok(true) => Ok(()),
        // Nobody has booted it yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(iso)(error)),
    }
}

/// The home's own key first, then those of `~/.ssh` where lima.yaml asks for them.
fn ssh_keys(boot: &Boot, config: &Config, identity: &Identity) -> Vec<String> {
    let mut keys = vec![identity.line.clone()];
    if config.ssh.as_ref().and_then(|ssh| ssh.load_dot_ssh_pub_keys) != Some(true) {
        return keys;
    }
    let Ok(entries) = std::fs::read_dir(boot.host.user.home.join(".ssh")) else { return keys };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
    paths.sort();
    for path in paths {
        match store::read_small(&path) {
            Ok(Some(text)) => keys.extend(String::from_utf8_lossy(&text).lines().map(|line| line.trim().to_owned())),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
    keys.retain(|key| !key.is_empty() && !key.starts_with('#'));
    keys
}

/// A file that cannot be read fails the start: a guest without it would fail later, and less plainly.
fn ca_files(boot: &Boot, config: &Config) -> Result<Vec<String>> {
    let files = config.ca_certs.as_ref().and_then(|ca| ca.files.as_deref()).unwrap_or_default();
    let read = |file: &String| {
        let path = config::expand_path(file, &boot.host.user.home);
        let path = path.ok_or_else(|| Error::invalid("caCerts.files", format!("{file:?} is not an absolute path")))?;
        let bytes = store::read_small(&path)?;
        let bytes = bytes.ok_or_else(|| Error::Missing { what: format!("caCerts.files: {file}") })?;
        String::from_utf8(bytes).map_err(|_| Error::invalid("caCerts.files", format!("{file} is not text (PEM)")))
    };
    files.iter().map(read).collect()
}

/// Variables that are not text cannot reach a guest.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_pin_from_before_a_boot_by_limactl_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (iso, known_hosts) = (dir.path().join(names::CIDATA_ISO), dir.path().join(names::KNOWN_HOSTS));
        std::fs::write(&known_hosts, "lima-foo ssh-ed25519 AAAA\n").unwrap();
        forget_host_keys_of_others(&iso, &known_hosts).unwrap();
        assert!(known_hosts.exists(), "dropped without a boot");
        std::fs::write(&iso, "LIMA_CIDATA_NAME=foo\nLIMAFS_BOOT_PORT=\n").unwrap();
        forget_host_keys_of_others(&iso, &known_hosts).unwrap();
        assert!(known_hosts.exists(), "dropped after a boot of ours");
        std::fs::write(&iso, "LIMA_CIDATA_NAME=foo\n").unwrap();
        forget_host_keys_of_others(&iso, &known_hosts).unwrap();
        assert!(!known_hosts.exists(), "kept after a boot by limactl");
    }
}
