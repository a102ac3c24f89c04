//! Suspend to disk: a stopped VM's memory written to a file, and a later start that goes on from there.
//!
//! ```text
//!  stop -> migrate to SAVING -> rename to SAVED -> record -> quit        any failure: no record, cont
//!  start -incoming -> migrate from SAVED -> record removed -> cont       any failure: quit; file and record stay
//! ```
//! The record is what counts. It is there only while nothing has run on the disks since: before a VM goes on it is removed,
//! and disks that were changed by others make it void.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::vm::Running;
use crate::{disk, drives, hotplug, names, shape};

/// Between two looks at what is being written or read.
const LOOK: Duration = Duration::from_millis(30);
const LIMIT: Duration = Duration::from_secs(900);
const QUIT: Duration = Duration::from_secs(20);
const FILE: &str = "limafs-memory";
const WAITS: [&str; 2] = ["-incoming", "defer"];

/// What is needed to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// QEMU with its arguments, devices that were added later among them.
    arguments: Vec<String>,
    disks: Vec<Disk>,
}

/// A disk as it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Disk {
    path: PathBuf,
    size: u64,
    /// Nanoseconds since 1970.
    modified: i128,
}

/// What there is to go on from, if anything.
pub(crate) fn saved(dir: &Path) -> Result<Option<Saved>> {
    let path = dir.join(names::SAVED_RECORD);
    match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::failed(names::SAVED_RECORD, error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Gives up what was saved. The record goes first.
pub(crate) fn discard(dir: &Path) -> Result<()> {
    for name in [names::SAVED_RECORD, names::SAVED, names::SAVING] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(error)),
            Err(_) => {}
            Ok(()) => sync(dir)?,
        }
    }
    Ok(())
}

/// Saves the VM and ends it. Done in a task of its own: one that is given up goes on to its end.
pub(crate) async fn suspend(running: Arc<Running>, dir: PathBuf) -> Result<()> {
    shape::check_blockers(&running, "suspend").await?;
    let was_running = take_over(&running, &dir).await?;
    let saved = save(&running, &dir).await;
    if let Err(error) = saved {
        go_on(&running, &dir, was_running).await?;
        return Err(error);
    }
    running.expect_end();
    // It may be gone before it has answered.
    let _ = running.qmp.execute("quit", None).await;
    if timeout(QUIT, running.gone()).await.is_err() {
        running.kill().await?;
    }
    Ok(())
}

/// Undoes what somebody who died had begun. Says whether the VM is to run if nothing comes of this.
async fn take_over(running: &Running, dir: &Path) -> Result<bool> {
    let status = running.qmp.execute("query-status", None).await?;
    let migration = running.qmp.execute("query-migrate", None).await?;
    let is_busy = matches!(migration["status"].as_str(), Some("setup" | "active" | "device" | "cancelling"));
    if is_busy {
        running.qmp.execute("migrate_cancel", None).await?;
        // However it ends: cancelled, or complete after all.
        let _ = migrated(running).await;
    }
    discard(dir)?;
    let left_over = is_busy || status["status"] == "postmigrate";
    if left_over {
        running.qmp.execute("cont", None).await?;
    }
    let runs = left_over || status["running"] == true;
    running.qmp.execute("stop", None).await?;
    Ok(runs)
}

async fn save(running: &Running, dir: &Path) -> Result<()> {
    let arguments = arguments(running).await?;
    let disks = drives::writable(&running.qmp, dir).await?;
    let (half, whole) = (dir.join(names::SAVING), dir.join(names::SAVED));
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&half);
    let file = file.map_err(Error::io(&half))?;
    let copy = file.try_clone().map_err(Error::io(&half))?;
    // It writes as fast as the disk takes it: there is nobody to be spared.
    running.qmp.execute("migrate-set-parameters", Some(json!({ "max-bandwidth": 1_u64 << 40 }))).await?;
    running.qmp.give(FILE, OwnedFd::from(copy)).await?;
    running.qmp.execute("migrate", Some(json!({ "uri": format!("fd:{FILE}") }))).await?;
    migrated(running).await?;
    let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
    synced.map_err(|error| Error::failed("suspend", error))?.map_err(Error::io(&half))?;
    disk::rename(&half, &whole)?;
    let disks = disks.into_iter().map(|drive| Disk::now(drive.file)).collect::<Result<_>>()?;
    shape::write(&dir.join(names::SAVED_RECORD), &Saved { arguments, disks })
}

/// The VM goes on as if nothing had been.
async fn go_on(running: &Running, dir: &Path, was_running: bool) -> Result<()> {
    discard(dir)?;
    if was_running && !running.is_gone() {
        running.qmp.execute("cont", None).await?;
    }
    Ok(())
}

/// Follows a migration to its end.
async fn migrated(running: &Running) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match running.qmp.execute("query-migrate", None).await {
            Ok(state) => match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => return Err(Error::failed("the VM's memory", why(&state))),
                _ => {}
            },
            // Busy with it.
            Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(error),
        }
        // Cancel-safe: a watch and a timer.
        tokio::select! {
            () = running.gone() => return running.answers().await,
            () = sleep(LOOK) => {}
        }
    }
    Err(Error::Timeout { what: "the VM's memory".into(), seconds: LIMIT.as_secs() })
}

fn why(state: &Value) -> String {
    let words = state["error-desc"].as_str().or(state["status"].as_str());
    words.unwrap_or("was not saved or read").to_owned()
}

/// QEMU as it would have to be started to be as it is now.
async fn arguments(running: &Running) -> Result<Vec<String>> {
    let words = running.process.arguments().into_iter().filter(|word| !word.is_empty());
    let words: std::result::Result<Vec<String>, _> = words.map(|word| word.into_string()).collect();
    let mut words = words.map_err(|word| Error::failed("suspend", format!("{word:?} is not UTF-8")))?;
    if let Some(at) = words.windows(2).position(|pair| pair == WAITS) {
        words.drain(at..at + 2);
    }
    words.extend(hotplug::added(running).await?);
    let machine = ["-machine".to_owned(), shape::machine_type(running).await?];
    if !words.windows(2).any(|pair| pair == machine) {
        words.extend(machine);
    }
    Ok(words)
}

impl Saved {
    /// The command line that goes on from here, with ssh at `port`.
    pub(crate) fn command_line(&self, port: u16) -> Result<Vec<std::ffi::OsString>> {
        for disk in &self.disks {
            if Disk::now(disk.path.clone())? != *disk {
                let why = "it has been changed since the VM was suspended, so that the saved memory fits no more; kill gives that up";
                return Err(Error::failed(disk.path.to_string_lossy(), why));
            }
        }
        let words = self.arguments.iter().map(|word| with_port(word, port));
        Ok(words.chain(WAITS.map(str::to_owned)).map(Into::into).collect())
    }

    pub(crate) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Whether a program has to be there that is its TPM.
    pub(crate) fn has_tpm(&self) -> bool {
        self.arguments.iter().any(|word| word == "-tpmdev")
    }
}

/// Another process may have the port of then.
fn with_port(word: &str, port: u16) -> String {
    const FORWARD: &str = "hostfwd=tcp:127.0.0.1:";
    match word.split_once(FORWARD).and_then(|(before, rest)| Some((before, rest.split_once('-')?.1))) {
        Some((before, after)) if word.starts_with("user,id=net0") => format!("{before}{FORWARD}{port}-{after}"),
        _ => word.to_owned(),
    }
}

/// Fills a QEMU that waits for it with what was saved, and lets it run.
pub(crate) async fn resume(running: &Running, dir: &Path) -> Result<()> {
    let path = dir.join(names::SAVED);
    let file = File::open(&path).map_err(Error::io(&path))?;
    running.qmp.give(FILE, OwnedFd::from(file)).await?;
    running.qmp.execute("migrate-incoming", Some(json!({ "uri": format!("fd:{FILE}") }))).await?;
    migrated(running).await?;
    // From here on the disk is no longer that of the file.
    discard(dir)?;
    running.qmp.execute("cont", None).await.map(drop)
}

impl Disk {
    fn now(path: PathBuf) -> Result<Self> {
        let meta = fs::metadata(&path).map_err(Error::io(&path))?;
        let modified = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Ok(Self { size: meta.len(), modified, path })
    }
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspended() -> (tempfile::TempDir, Saved) {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, "data").unwrap();
        let network = "user,id=net0,net=192.168.5.0/24,hostfwd=tcp:127.0.0.1:60022-:22";
        let arguments = ["qemu", "-netdev", network, "-machine", "pc-q35-7.2"].map(str::to_owned).to_vec();
        let saved = Saved { arguments, disks: vec![Disk::now(disk).unwrap()] };
        shape::write(&dir.path().join(names::SAVED_RECORD), &saved).unwrap();
        (dir, saved)
    }

    #[test]
    fn what_was_saved_goes_on_with_another_port() {
        let (dir, _) = suspended();
        let line = saved(dir.path()).unwrap().unwrap().command_line(7000).unwrap();
        assert_eq!(line[2], "user,id=net0,net=192.168.5.0/24,hostfwd=tcp:127.0.0.1:7000-:22");
        assert_eq!(line[line.len() - 2..], ["-incoming", "defer"]);
    }

    #[test]
    fn a_disk_that_was_used_since_is_not_gone_on_with() {
        let (dir, saved) = suspended();
        fs::write(dir.path().join("disk"), "other data").unwrap();
        assert!(saved.command_line(1).unwrap_err().to_string().contains("has been changed since"));
    }

    #[test]
    fn what_is_given_up_is_gone_and_half_a_record_is_an_error() {
        let (dir, _) = suspended();
        fs::write(dir.path().join(names::SAVED), "memory").unwrap();
        discard(dir.path()).unwrap();
        assert_eq!(saved(dir.path()).unwrap(), None);
        assert!(!dir.path().join(names::SAVED).exists());
        discard(dir.path()).unwrap();
        fs::write(dir.path().join(names::SAVED_RECORD), "{").unwrap();
        assert!(saved(dir.path()).is_err());
    }
}
