//! What a VM's saved memory fits: a machine with the same devices, processors and memory. QEMU finds a difference only
//! after it has put the disk back, which is too late; so it is told apart before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use limafs_driver::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::vm::Running;
use crate::{disk, hotplug, names};

/// By tag.
type Shapes = BTreeMap<String, String>;

/// Options that decide which devices there are.
const DEVICES: &[&str] = &["-device", "-virtfs", "-cpu", "-accel", "-global"];

/// The running machine, in short.
pub(crate) async fn of(running: &Running) -> Result<String> {
    let machine = machine_type(running).await?;
    let cpus = running.qmp.execute("query-cpus-fast", None).await?;
    let memory = running.qmp.execute("query-memory-size-summary", None).await?;
    let arguments: Vec<String> =
        running.process.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut devices: Vec<&[String]> =
        arguments.windows(2).filter(|pair| DEVICES.contains(&&*pair[0]) && !hotplug::is_added(&pair[1])).collect();
    devices.sort();
    let all = json!([machine, cpus.as_array().map(Vec::len), memory, devices]);
    Ok(Sha256::digest(all.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// The versioned type: the same under a later QEMU, as an alias such as `q35` is not.
pub(crate) async fn machine_type(running: &Running) -> Result<String> {
    let asked = json!({ "path": "/machine", "property": "type" });
    let kind = running.qmp.execute("qom-get", Some(asked)).await?;
    let kind = kind.as_str().and_then(|kind| kind.strip_suffix("-machine"));
    kind.map(str::to_owned).ok_or_else(|| Error::failed("QEMU", "tells no machine type"))
}

/// That of a snapshot; `None` when it is not one of ours.
pub(crate) fn known(dir: &Path, tag: &str) -> Option<String> {
    read(dir).remove(tag)
}

/// Remembers, or forgets, that of a snapshot.
pub(crate) fn note(dir: &Path, tag: &str, shape: Option<String>) -> Result<()> {
    let mut shapes = read(dir);
    let before = shapes.clone();
    match shape {
        Some(shape) => shapes.insert(tag.into(), shape),
        None => shapes.remove(tag),
    };
    if shapes == before { Ok(()) } else { write(&dir.join(names::SHAPES), &shapes) }
}

fn read(dir: &Path) -> Shapes {
    let bytes = fs::read(dir.join(names::SHAPES)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Replaces a file whole, lastingly.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::failed("a record", error))?;
    let half = path.with_extension("json.tmp");
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
    let mut file = options.open(&half).map_err(Error::io(&half))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(Error::io(&half))?;
    disk::rename(&half, path)
}

/// Whether something keeps this VM's memory from being saved, as a sentence.
pub(crate) async fn check_blockers(running: &Running, what: &str) -> Result<()> {
    let cannot = |operation| Err(Error::Unsupported { driver: "qemu".into(), operation });
    let has = |word: &str| running.process.arguments().iter().any(|value| value.to_string_lossy().starts_with(word));
    if has("vhost-user-fs") {
        return cannot(
            "save the memory of a VM that shares directories by virtiofs; mountType reverse-sshfs has no such limit",
        );
    }
    let answer = running.qmp.execute("query-migrate", None).await?;
    let mut reasons = answer["blocked-reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match reasons.next() {
        None => Ok(()),
        Some(reason) if reason.contains("VirtFS") => cannot(
            "save the memory of a VM while directories are mounted in the guest by 9p; unmount them there, or use \
             mountType reverse-sshfs",
        ),
        Some(reason) => Err(Error::failed(what, reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_remembered_by_tag_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(known(dir.path(), "a"), None);
        note(dir.path(), "a", Some("1".into())).unwrap();
        note(dir.path(), "b", Some("2".into())).unwrap();
        note(dir.path(), "a", None).unwrap();
        assert_eq!((known(dir.path(), "a"), known(dir.path(), "b")), (None, Some("2".into())));
    }
}
