//! The scripts that go onto every disk, and the driver's own.

use std::collections::BTreeMap;

use super::Entry;
use crate::error::{Error, Result};

/// Started by cloud-init at each boot: mounts the disk and runs [`BOOT`].
pub const START: &str = include_str!("scripts/start.sh");
/// First of the `bootcmd`s: the environment of logins, and the watcher.
pub const EARLY: &str = include_str!("scripts/early.sh");
/// Stays in the background of a boot and reports it to the host.
pub const WATCH: &str = include_str!("scripts/watch.sh");
/// Runs one `boot` script and reports its failure.
pub const STEP: &str = include_str!("scripts/step.sh");
const BOOT: &str = include_str!("scripts/boot.sh");

const ON_DISK: &[(&str, &str)] = &[
    ("boot.sh", BOOT),
    ("util/early.sh", EARLY),
    ("util/watch.sh", WATCH),
    ("util/packages.sh", include_str!("scripts/packages.sh")),
    ("util/install-packages.sh", include_str!("scripts/install-packages.sh")),
    ("boot.essential.Linux/01-login-shell.sh", include_str!("scripts/01-login-shell.sh")),
    ("boot.essential.Linux/05-sudo-password.sh", include_str!("scripts/05-sudo-password.sh")),
    ("boot.Linux/05-lima-disks.sh", include_str!("scripts/05-lima-disks.sh")),
    ("boot.Linux/06-etc-hosts.sh", include_str!("scripts/06-etc-hosts.sh")),
    ("boot.Linux/10-timezone.sh", include_str!("scripts/10-timezone.sh")),
    ("boot.Linux/12-ca-certs.sh", include_str!("scripts/12-ca-certs.sh")),
];

pub fn entries() -> impl Iterator<Item = Entry> {
    ON_DISK.iter().map(|(path, text)| Entry::script(*path, *text))
}

/// The driver's scripts: `boot.<OS>/FILE`, or the older `FILE`, which means `boot.Linux/FILE`.
pub fn of_driver(scripts: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Entry>> {
    scripts.iter().map(|(path, bytes)| Ok(Entry::script(driver_path(path)?, bytes.clone()))).collect()
}

fn driver_path(path: &str) -> Result<String> {
    let full = if path.contains('/') { path.to_owned() } else { format!("boot.Linux/{path}") };
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.chars().any(char::is_control);
    match full.split('/').collect::<Vec<_>>()[..] {
        [dir, file] if dir.starts_with("boot.") && is_plain(file) && is_plain(dir) => Ok(full),
        _ => Err(Error::invalid(format!("boot script {path:?} of the driver"), "must be named boot.<OS>/FILE")),
    }
}
