//! The disks of a running VM that its guest may write to, as QEMU tells of them.

use std::path::{Path, PathBuf};

use limafs_driver::{Error, Result, Snapshot};
use serde_json::Value;

use crate::monitor::Client;
use crate::names;

/// A disk that a snapshot is taken of.
#[derive(Debug, PartialEq)]
pub(crate) struct Drive {
    pub node: String,
    pub file: PathBuf,
    /// `qcow2`, `raw`, ...
    pub format: String,
    pub snapshots: Vec<Snapshot>,
}

/// The writable disks, the instance's own first.
pub(crate) async fn writable(qmp: &Client, dir: &Path) -> Result<Vec<Drive>> {
    let blocks = qmp.execute("query-block", None).await?;
    let mut drives: Vec<Drive> = blocks.as_array().into_iter().flatten().filter_map(drive).collect();
    let own = dir.join(names::DISK);
    drives.sort_by_key(|drive| drive.file != own);
    match drives.first() {
        Some(first) if first.file == own => Ok(drives),
        _ => Err(Error::failed("snapshot", "the VM has no disk of its own")),
    }
}

fn drive(block: &Value) -> Option<Drive> {
    let inserted = block.get("inserted")?;
    if inserted["ro"] != false {
        return None;
    }
    Some(Drive {
        node: inserted["node-name"].as_str()?.to_owned(),
        file: inserted["file"].as_str()?.into(),
        format: inserted["drv"].as_str()?.to_owned(),
        snapshots: snapshots(&inserted["image"]),
    })
}

/// Those of an image, as QEMU and `qemu-img info` tell of it; oldest first.
pub(crate) fn snapshots(image: &Value) -> Vec<Snapshot> {
    let snapshot = |value: &Value| {
        Some(Snapshot {
            tag: value["name"].as_str()?.to_owned(),
            created: value["date-sec"].as_u64().unwrap_or(0),
            vm_size: value["vm-state-size"].as_u64().unwrap_or(0),
        })
    };
    let mut found: Vec<_> = image["snapshots"].as_array().into_iter().flatten().filter_map(snapshot).collect();
    found.sort_by_key(|snapshot| snapshot.created);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn read_only_and_empty_drives_are_none() {
        let image = json!({ "snapshots": [{ "name": "b", "date-sec": 9, "vm-state-size": 5, "id": "1" },
            { "name": "a", "date-sec": 3, "vm-state-size": 0, "id": "2" }] });
        let disk = json!({ "inserted": { "ro": false, "node-name": "#block1", "drv": "qcow2", "file": "/h/foo/disk",
            "image": image } });
        let found = drive(&disk).unwrap();
        assert_eq!((found.node.as_str(), found.format.as_str()), ("#block1", "qcow2"));
        let tags: Vec<_> = found.snapshots.iter().map(|snapshot| (snapshot.tag.as_str(), snapshot.vm_size)).collect();
        assert_eq!(tags, [("a", 0), ("b", 5)]);
        assert_eq!(drive(&json!({ "inserted": { "ro": true, "node-name": "n", "drv": "raw", "file": "/x" } })), None);
        assert_eq!(drive(&json!({ "device": "cd" })), None);
    }
}
