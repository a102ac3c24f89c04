//! Snapshots of the fake VM: copies of its disk, and a list.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use limafs_driver::{Error, Result, Snapshot};

pub(crate) fn list(dir: &Path) -> Result<Vec<Snapshot>> {
    match fs::read(list_file(dir)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::failed("fake.snapshots.json", error)),
        Err(_) => Ok(Vec::new()),
    }
}

pub(crate) fn take(dir: &Path, tag: &str, has_memory: bool) -> Result<()> {
    let mut all = list(dir)?;
    if all.iter().any(|snapshot| snapshot.tag == tag) {
        return Err(Error::invalid("tag", format!("there is a snapshot {tag} already")));
    }
    fs::copy(dir.join("disk"), copy(dir, tag)).map_err(Error::io(dir.join("disk")))?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    all.push(Snapshot { tag: tag.into(), created, vm_size: if has_memory { 1 << 20 } else { 0 } });
    set_list(dir, &all)
}

pub(crate) fn apply(dir: &Path, tag: &str) -> Result<()> {
    fs::copy(copy(dir, tag), dir.join("disk")).map(drop).map_err(Error::io(copy(dir, tag)))
}

pub(crate) fn delete(dir: &Path, tag: &str) -> Result<()> {
    fs::remove_file(copy(dir, tag)).map_err(Error::io(copy(dir, tag)))?;
    let left: Vec<Snapshot> = list(dir)?.into_iter().filter(|snapshot| snapshot.tag != tag).collect();
    set_list(dir, &left)
}

fn set_list(dir: &Path, all: &[Snapshot]) -> Result<()> {
    let bytes = serde_json::to_vec(all).map_err(|error| Error::failed("fake.snapshots.json", error))?;
    fs::write(list_file(dir), bytes).map_err(Error::io(list_file(dir)))
}

fn list_file(dir: &Path) -> PathBuf {
    dir.join("fake.snapshots.json")
}

fn copy(dir: &Path, tag: &str) -> PathBuf {
    dir.join(format!("fake.snapshot.{tag}"))
}
