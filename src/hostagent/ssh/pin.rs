//! The guest's host key as it was at the first boot: `ssh.known_hosts`, in OpenSSH's form.

use std::path::Path;

use russh::keys::PublicKey;

use crate::error::{Error, Result};
use crate::store;

/// The keys that are trusted; none while nothing is pinned.
#[derive(Debug, Clone, Default)]
pub struct Pin(Vec<PublicKey>);

impl Pin {
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    pub fn allows(&self, key: &PublicKey) -> bool {
        self.0.is_empty() || self.0.iter().any(|pinned| pinned.key_data() == key.key_data())
    }
}

/// Reads the keys of `alias`. A line that cannot be read is an error: it must not count as no pin.
pub fn read(path: &Path, alias: &str) -> Result<Pin> {
    let Some(bytes) = store::read_small(path)? else { return Ok(Pin::default()) };
    let mut keys = Vec::new();
    for line in String::from_utf8_lossy(&bytes).lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((host, key)) = line.split_once(' ') else { continue };
        if host == alias {
            let key = PublicKey::from_openssh(key).map_err(|error| Error::failed(path.display().to_string(), error))?;
            keys.push(key);
        }
    }
    Ok(Pin(keys))
}

/// Pins `key`, in place of what was pinned.
pub fn write(path: &Path, alias: &str, key: &PublicKey) -> Result<()> {
    let bare = PublicKey::from(key.key_data().clone());
    let key = bare.to_openssh().map_err(|error| Error::failed(path.display().to_string(), error))?;
    store::replace(path, format!("{alias} {}\n", key.trim()).as_bytes(), 0o600)
}

/// Trusts whatever key the guest shows next.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(source)),
        _ => Ok(()),
    }
}
