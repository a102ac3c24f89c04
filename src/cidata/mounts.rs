//! The host's directories that the guest mounts by itself, over 9p or virtiofs: entries of fstab, and what our own boot
//! script needs to mount those that fstab cannot have or has lost.

use limafs_driver::{Config, Mount, mount_tag};
use serde_json::{Value, json};

use super::{one_line, required};
use crate::error::Result;

struct Entry<'a> {
    tag: String,
    point: &'a str,
    kind: &'a str,
    options: String,
}

/// cloud-init's `mounts`. It writes them into fstab as they are, where a blank would begin the next field.
pub fn fstab(config: &Config) -> Result<Vec<Value>> {
    let is_plain = |entry: &Entry| !entry.point.contains([' ', '\t', '\\']);
    let line = |Entry { tag, point, kind, options }| json!([tag, point, kind, format!("{options},nofail"), "0", "0"]);
    Ok(entries(config)?.into_iter().filter(is_plain).map(line).collect())
}

/// Lines of lima.env.
pub fn env(config: &Config) -> Result<String> {
    let entries = entries(config)?.into_iter().enumerate();
    let lines = entries.map(|(index, Entry { tag, options, .. })| {
        format!("LIMAFS_MOUNT_{index}_TAG={tag}\nLIMAFS_MOUNT_{index}_OPTIONS={options}\n")
    });
    Ok(lines.collect())
}

fn entries(config: &Config) -> Result<Vec<Entry<'_>>> {
    let kind = config.mount_type.as_deref().unwrap_or_default();
    let options: fn(&Mount) -> String = match kind {
        "9p" => nine_p_options,
        "virtiofs" => |mount| access(mount).to_owned(),
        _ => return Ok(Vec::new()),
    };
    let mut entries = Vec::new();
    for (index, mount) in config.mounts.iter().flatten().enumerate() {
        let location = required(&format!("mounts[{index}].location"), mount.location.as_deref())?;
        let point = mount.mount_point.as_deref().unwrap_or(location);
        let point = required(&format!("mounts[{index}].mountPoint"), Some(point))?;
        let options = options(mount);
        one_line(&format!("mounts[{index}].9p"), &options)?;
        entries.push(Entry { tag: mount_tag(location, point), point, kind, options });
    }
    Ok(entries)
}

fn nine_p_options(mount: &Mount) -> String {
    let nine_p = mount.nine_p.clone().unwrap_or_default();
    let version = nine_p.protocol_version.as_deref().unwrap_or("9p2000.L");
    // Filling has put a size in; a text that is none would make the mount fail, the kernel's own default does not.
    let msize = nine_p.msize.as_deref().and_then(crate::config::size).unwrap_or(128 * 1024);
    let writable = mount.writable.unwrap_or(false);
    let cache = nine_p.cache.as_deref().unwrap_or(if writable { "mmap" } else { "fscache" });
    format!("{},trans=virtio,version={version},msize={msize},cache={cache}", access(mount))
}

fn access(mount: &Mount) -> &'static str {
    if mount.writable.unwrap_or(false) { "rw" } else { "ro" }
}
