//! Certificates that the guest is to trust: told to cloud-init, and on the disk for guests whose cloud-init cannot.

use limafs_driver::Config;

use super::{Entry, Guest};

/// Those of files first, as in Lima.
pub fn all(guest: &Guest) -> Vec<String> {
    let written = guest.config.ca_certs.as_ref().and_then(|ca| ca.certs.clone()).unwrap_or_default();
    guest.ca_files.iter().cloned().chain(written).collect()
}

pub fn removes_defaults(config: &Config) -> bool {
    config.ca_certs.as_ref().and_then(|ca| ca.remove_defaults).unwrap_or(false)
}

pub fn entries(guest: &Guest) -> Vec<Entry> {
    let file = |(index, text)| Entry::text(format!("ca-certs/lima-{index:04}.crt"), text);
    all(guest).into_iter().enumerate().map(file).collect()
}
