//! Additional disks, in `$LIMA_HOME/_disks/NAME/` as limactl keeps them: list, make, grow, delete, claim, release.
//! Never opens a disk that an instance runs with or has left suspended, and believes no claim of any other instance.
//!
//! ```text
//! _disks/NAME/datadisk     qcow2, or raw where there is no qemu-img; none: a draft
//!            /in_use_by    symlink to the directory of the instance that has it
//! ```
//! All of it blocks. Whoever changes a disk holds the lock of its directory meanwhile.

mod format;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::config::format_size;
use crate::error::{Error, Result};
use crate::names::{self, Home, Name};
use crate::store;

pub use format::Format;

/// How long another change of the same disk may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is in a disk's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub name: Name,
    /// Format and size in bytes; `None` for a draft, and for what cannot be read.
    pub image: Option<(Format, u64)>,
    /// Where `in_use_by` points; whether that instance runs is another question (see [`runs`]).
    pub claimed_by: Option<PathBuf>,
}

/// All disks, sorted by name; none where there is no `_disks`.
pub fn list(home: &Home) -> Result<Vec<Disk>> {
    let dir = home.disks();
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io(&dir))?,
    };
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let names = entries.flatten().filter(is_dir).filter_map(|entry| Name::parse(entry.file_name().to_str()?).ok());
    let mut disks: Vec<Disk> = names.map(|name| inspect(home, name)).collect();
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(disks)
}

fn inspect(home: &Home, name: Name) -> Disk {
    let dir = home.disk(&name);
    let image = format::read(&dir.join(names::DATA_DISK)).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        None
    });
    Disk { name, image, claimed_by: fs::read_link(dir.join(names::IN_USE_BY)).ok() }
}

/// Makes an empty directory: a draft, until it gets a size.
pub fn create(home: &Home, name: &Name) -> Result<()> {
    let disks = home.disks();
    DirBuilder::new().recursive(true).mode(0o700).create(&disks).map_err(Error::io(&disks))?;
    let dir = home.disk(name);
    DirBuilder::new().mode(0o700).create(&dir).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { what: format!("disk {name}") },
        _ => Error::Io { path: dir, source },
    })?;
    store::sync_dir(&disks)
}

/// Gives a draft its disk, or grows the disk there is. The size that it has already is success.
pub fn set_size(home: &Home, name: &Name, size: u64) -> Result<()> {
    let dir = home.disk(name);
    let _lock = lock(name, &dir)?;
    let path = dir.join(names::DATA_DISK);
    let Some((format, old)) = format::read(&path)? else {
        return format::make(&path, size);
    };
    let size = size.next_multiple_of(format::SECTOR);
    if size < old {
        let why = format!("shrinking from {} to {} is not supported", format_size(old), format_size(size));
        return Err(Error::invalid(format!("size of disk {name}"), why));
    }
    if size == old {
        return Ok(());
    }
    refuse_if_used(name, &dir)?;
    format::grow(&path, format, size)
}

/// Removes a disk with all that is on it: out of sight at once, its bytes by [`store::sweep`].
pub fn delete(home: &Home, name: &Name) -> Result<()> {
    let dir = home.disk(name);
    let _lock = lock(name, &dir)?;
    refuse_if_used(name, &dir)?;
    let trash = home.ours("trash");
    DirBuilder::new().recursive(true).mode(0o700).create(&trash).map_err(Error::io(&trash))?;
    let target = trash.join(format!("disk.{name}.{}", Timestamp::now().as_nanosecond()));
    fs::rename(&dir, &target).map_err(Error::io(&dir))?;
    store::sync_dir(&home.disks())
}

/// Takes a disk for the instance in `instance`, whose hostagent asks. A claim of one that neither runs nor is
/// suspended is taken over.
pub fn claim(home: &Home, name: &Name, instance: &Path) -> Result<()> {
    let dir = home.disk(name);
    let _lock = lock(name, &dir)?;
    if format::read(&dir.join(names::DATA_DISK))?.is_none() {
        return Err(Error::busy(format!("disk {name}"), "has no size yet; write one to its file size"));
    }
    let link = dir.join(names::IN_USE_BY);
    match fs::read_link(&link) {
        Ok(owner) if owner == instance => return Ok(()),
        Ok(_) => refuse_if_used(name, &dir)?,
        Err(_) => {}
    }
    remove(&link)?;
    symlink(instance, &link).map_err(Error::io(&link))?;
    store::sync_dir(&dir)
}

/// Gives back every disk that the instance has claimed; its VM is gone.
pub fn release(home: &Home, instance: &Path) -> Result<()> {
    let is_ours = |disk: &Disk| disk.claimed_by.as_deref() == Some(instance);
    for disk in list(home)?.into_iter().filter(is_ours) {
        let dir = home.disk(&disk.name);
        let _lock = lock(&disk.name, &dir)?;
        let link = dir.join(names::IN_USE_BY);
        // Looked at again, now that nobody else changes it.
        if fs::read_link(&link).is_ok_and(|owner| owner == instance) {
            remove(&link)?;
        }
    }
    Ok(())
}

/// Whether the instance in `dir` runs: its hostagent holds its lock, or one of Lima's or a VM is alive. A pid alone
/// proves nothing; its process must name the instance.
pub fn runs(dir: &Path) -> bool {
    let is_alive = |file: &&str| {
        let path = dir.join(file);
        let pid = fs::read_to_string(&path).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<u32>() else { return false };
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let path = path.as_os_str().as_encoded_bytes();
        words.split(|byte| *byte == 0).any(|word| word == path)
    };
    store::Lock::is_held(dir) || names::PID_FILES.iter().any(is_alive)
}

fn refuse_if_used(name: &Name, dir: &Path) -> Result<()> {
    let Ok(owner) = fs::read_link(dir.join(names::IN_USE_BY)) else { return Ok(()) };
    let how = match (runs(&owner), store::record(&owner)) {
        (true, _) => "",
        (false, Some(record)) if record.suspended => ", which is suspended",
        (false, _) => return Ok(()),
    };
    let who = owner.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(Error::busy(format!("disk {name}"), format!("in use by {who}{how}")))
}

/// Holds the disk against other changes; let go when dropped, or killed.
fn lock(name: &Name, dir: &Path) -> Result<File> {
    let file = File::open(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { what: format!("disk {name}") },
        _ => Error::Io { path: dir.to_owned(), source },
    })?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(Error::Io { path: dir.to_owned(), source }),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(Error::busy(format!("disk {name}"), "is being changed by another process"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
