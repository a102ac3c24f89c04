//! Snapshots inside qcow2 disks: of a running VM by QEMU's jobs, with its memory; of a stopped one by `qemu-img`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Error, Instance, Result, Snapshot};
use serde_json::{Value, json};

use crate::drives::{self, Drive};
use crate::image::{self, Format};
use crate::vm::Running;
use crate::{disk, job, names, plan, shape};

/// A disk of many snapshots on a slow device.
const IMAGE_DEADLINE: Duration = Duration::from_secs(120);
const TAG_MAX: usize = 63;

/// Those of a running VM, once a job that somebody has left to it has ended.
pub(crate) async fn of_running(running: &Running, dir: &Path) -> Result<Vec<Snapshot>> {
    job::settle(&running.qmp).await?;
    let drives = drives::writable(&running.qmp, dir).await?;
    Ok(drives.into_iter().next().map(|own| own.snapshots).unwrap_or_default())
}

/// Takes one. Done in a task of its own: one that is given up goes on to its end.
pub(crate) async fn take(running: Arc<Running>, dir: PathBuf, tag: String) -> Result<()> {
    check_tag(&tag)?;
    let drives = drives::writable(&running.qmp, &dir).await?;
    check_formats(&drives)?;
    check_new(&drives[0].snapshots, &tag)?;
    shape::check_blockers(&running, "snapshot").await?;
    shape::note(&dir, &tag, Some(shape::of(&running).await?))?;
    let ran = is_running(&running).await?;
    let taken = job::run(&running.qmp, "snapshot-save", arguments(&tag, &drives)).await;
    if taken.is_err() {
        if ran && !is_running(&running).await? {
            running.qmp.execute("cont", None).await?;
        }
        // What is left says nothing of any snapshot. On a full disk even this fails, and why is told by the other error.
        if let Err(error) = shape::note(&dir, &tag, None) {
            tracing::warn!("{error}");
        }
    }
    taken
}

/// Goes back to one that has the VM's memory. A failure that is found out before leaves the VM as it was; any other ends
/// it, because its disk is no longer that of its memory.
pub(crate) async fn apply(running: Arc<Running>, dir: PathBuf, tag: String) -> Result<()> {
    let drives = drives::writable(&running.qmp, &dir).await?;
    let Some(found) = drives[0].snapshots.iter().find(|snapshot| snapshot.tag == tag) else {
        return Err(missing(&tag));
    };
    let stop_first =
        |why: &str| Err(Error::failed(format!("snapshot {tag}"), format!("{why}; stop the instance first")));
    if found.vm_size == 0 {
        return stop_first("has no memory, so a running VM cannot go back to it");
    }
    if drives.iter().any(|drive| !drive.snapshots.iter().any(|snapshot| snapshot.tag == tag)) {
        return stop_first("is not of all disks that the VM has now");
    }
    if shape::known(&dir, &tag) != Some(shape::of(&running).await?) {
        return stop_first("is of another machine: its processors, memory or devices differ from those that run now");
    }
    shape::check_blockers(&running, "restore").await?;
    let ran = is_running(&running).await?;
    let gone_back = job::run(&running.qmp, "snapshot-load", arguments(&tag, &drives)).await;
    match gone_back {
        Ok(()) if ran && !is_running(&running).await? => running.qmp.execute("cont", None).await.map(drop),
        Err(error) if ran => {
            running.kill().await?;
            Err(error)
        }
        done => done,
    }
}

pub(crate) async fn remove(running: Arc<Running>, dir: PathBuf, tag: String) -> Result<()> {
    let drives = drives::writable(&running.qmp, &dir).await?;
    let has_it = |drive: &&Drive| drive.snapshots.iter().any(|snapshot| snapshot.tag == tag);
    let nodes: Vec<&str> = drives.iter().filter(has_it).map(|drive| drive.node.as_str()).collect();
    if nodes.is_empty() {
        return Err(missing(&tag));
    }
    job::run(&running.qmp, "snapshot-delete", json!({ "tag": tag, "devices": nodes })).await?;
    shape::note(&dir, &tag, None)
}

/// Those of a stopped instance.
pub(crate) async fn of_stopped(dir: &Path) -> Result<Vec<Snapshot>> {
    let own = dir.join(names::DISK);
    if !own.exists() {
        return Ok(Vec::new());
    }
    match image::inspect(&own)?.format {
        Format::Raw => Ok(Vec::new()),
        Format::Qcow2 => list(&own).await,
    }
}

pub(crate) async fn take_stopped(instance: &Instance, tag: &str) -> Result<()> {
    check_tag(tag)?;
    let disks = disks(instance)?;
    for disk in &disks {
        check_new(&list(disk).await?, tag)?;
    }
    for (index, disk) in disks.iter().enumerate() {
        if let Err(error) = change("-c", tag, disk).await {
            for taken in &disks[..index] {
                change("-d", tag, taken).await?;
            }
            return Err(error);
        }
    }
    Ok(())
}

pub(crate) async fn apply_stopped(instance: &Instance, tag: &str) -> Result<()> {
    // For qemu-img a number may also be that of another snapshot.
    check_tag(tag)?;
    let disks = disks(instance)?;
    for disk in &disks {
        if !list(disk).await?.iter().any(|snapshot| snapshot.tag == tag) {
            return Err(missing(tag));
        }
    }
    for disk in &disks {
        change("-a", tag, disk).await?;
    }
    Ok(())
}

pub(crate) async fn remove_stopped(instance: &Instance, tag: &str) -> Result<()> {
    let mut found = false;
    for disk in disks(instance)? {
        if list(&disk).await?.iter().any(|snapshot| snapshot.tag == tag) {
            change("-d", tag, &disk).await?;
            found = true;
        }
    }
    if !found {
        return Err(missing(tag));
    }
    shape::note(&instance.dir, tag, None)
}

/// The instance's own disk and its additional ones; all must be able to hold snapshots.
fn disks(instance: &Instance) -> Result<Vec<PathBuf>> {
    let own = instance.dir.join(names::DISK);
    if !own.exists() {
        return Err(Error::failed("snapshot", "the instance has no disk before its first start"));
    }
    let format = image::inspect(&own)?.format;
    let all = std::iter::once((own, format)).chain(plan::additional_disks(instance)?);
    all.map(|(path, format)| if format == Format::Qcow2 { Ok(path) } else { Err(raw()) }).collect()
}

async fn list(disk: &Path) -> Result<Vec<Snapshot>> {
    let arguments = ["info", "--output=json", "-f", "qcow2", "--"].map(AsRef::as_ref);
    let told = disk::run_qemu_img(arguments.into_iter().chain([disk.as_os_str()]), IMAGE_DEADLINE).await?;
    let info: Value = serde_json::from_slice(&told).map_err(|error| Error::failed("qemu-img", error))?;
    Ok(drives::snapshots(&info))
}

async fn change(verb: &str, tag: &str, disk: &Path) -> Result<()> {
    let arguments = ["snapshot", "-q", verb, tag, "--"].map(AsRef::as_ref);
    disk::run_qemu_img(arguments.into_iter().chain([disk.as_os_str()]), IMAGE_DEADLINE).await.map(drop)
}

fn arguments(tag: &str, drives: &[Drive]) -> Value {
    let nodes: Vec<&str> = drives.iter().map(|drive| drive.node.as_str()).collect();
    json!({ "tag": tag, "vmstate": nodes[0], "devices": nodes })
}

pub(crate) async fn is_running(running: &Running) -> Result<bool> {
    Ok(running.qmp.execute("query-status", None).await?["running"] == true)
}

fn check_formats(drives: &[Drive]) -> Result<()> {
    match drives.iter().find(|drive| drive.format != "qcow2") {
        Some(_) => Err(raw()),
        None => Ok(()),
    }
}

fn check_new(there: &[Snapshot], tag: &str) -> Result<()> {
    match there.iter().any(|snapshot| snapshot.tag == tag) {
        true => Err(Error::invalid("tag", format!("there is a snapshot {tag} already"))),
        false => Ok(()),
    }
}

/// What qemu-img and QEMU take for a tag and for nothing else.
fn check_tag(tag: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_plain = tag.starts_with(|c: char| c.is_ascii_alphanumeric()) && tag.chars().all(fits);
    if !is_plain || tag.len() > TAG_MAX {
        let why = format!("must be at most {TAG_MAX} letters, digits, dots, dashes and underscores, not {tag:.80?}");
        return Err(Error::invalid("tag", why));
    }
    if tag.chars().all(|c| c.is_ascii_digit()) {
        return Err(Error::invalid("tag", "must not be a number: QEMU counts snapshots with them"));
    }
    Ok(())
}

fn raw() -> Error {
    let operation = "take a snapshot of a VM with a disk that is not qcow2: no other format holds them";
    Error::Unsupported { driver: "qemu".into(), operation }
}

fn missing(tag: &str) -> Error {
    Error::invalid("tag", format!("there is no snapshot {tag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_word_and_no_number() {
        for good in ["a", "before-upgrade", "v1.2_3", "0x1"] {
            check_tag(good).unwrap();
        }
        for bad in ["", "-d", ".", "a b", "a/b", "12", "a,b", "x".repeat(64).as_str()] {
            assert!(check_tag(bad).is_err(), "{bad:?}");
        }
    }

    fn instance(dir: &Path) -> Instance {
        Instance { name: "foo".into(), dir: dir.to_owned(), ..Instance::default() }
    }

    #[tokio::test]
    async fn e22_snapshots_of_a_stopped_disk_stand_alone() {
        if crate::program::in_path("qemu-img").is_none() {
            eprintln!("SKIPPED: there is no qemu-img");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (disk, foo) = (dir.path().join("disk"), instance(dir.path()));
        let words = ["create", "-q", "-f", "qcow2", &disk.to_string_lossy(), "1M"];
        disk::run_qemu_img(words, IMAGE_DEADLINE).await.unwrap();
        for tag in ["s1", "s2", "s3"] {
            take_stopped(&foo, tag).await.unwrap();
        }
        let again = take_stopped(&foo, "s2").await.unwrap_err().to_string();
        assert_eq!(again, "tag: there is a snapshot s2 already");
        remove_stopped(&foo, "s1").await.unwrap();
        apply_stopped(&foo, "s3").await.unwrap();
        assert_eq!(apply_stopped(&foo, "s1").await.unwrap_err().to_string(), "tag: there is no snapshot s1");
        let there = of_stopped(dir.path()).await.unwrap();
        let tags: Vec<_> = there.iter().map(|snapshot| (snapshot.tag.as_str(), snapshot.vm_size)).collect();
        assert_eq!(tags, [("s2", 0), ("s3", 0)]);
    }

    #[tokio::test]
    async fn a_raw_disk_holds_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), vec![7; 4096]).unwrap();
        assert!(take_stopped(&instance(dir.path()), "a").await.unwrap_err().to_string().contains("that is not qcow2"));
        assert_eq!(of_stopped(dir.path()).await.unwrap(), []);
    }
}
