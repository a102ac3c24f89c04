//! Instance directories as they lie on disk: list, create, define, delete, rename, and what a hostagent leaves behind.
//! Reads never write; every definition is temp file, fsync, rename, fsync of the directory. Knows no hostagent, no driver.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use limafs_driver::{Config, Snapshot};
use serde::{Deserialize, Serialize};

use crate::config::{self, Layers};
use crate::error::{Error, Result};
use crate::names::{self, Home, Name};
use crate::started::Started;
use crate::status::{Goal, State};

/// The version of Lima whose files and fields these are; `lima-version` in a new instance.
pub const LIMA_COMPATIBLE: &str = "2.2.0";

/// What a hostagent last knew, in `limafs.json`: written at each change, read by whoever comes after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub state: State,
    pub goal: Goal,
    pub since: Timestamp,
    /// Boot id of the host; a record of an earlier boot has no VM.
    pub boot_id: String,
    /// Name of the driver; empty while unknown.
    #[serde(default)]
    pub driver: String,
    /// The VM's process, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_pid: Option<u32>,
    /// Instance id of the present boot, as the guest writes it to its markers.
    #[serde(default)]
    pub iid: String,
    #[serde(default)]
    pub ssh_local_port: u16,
    /// Where the guest's name server listens; kept for the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Ports>,
    /// What the VM was started with, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// The driver has the memory of a VM: the next start goes on from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// What a start or stop was waiting for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The latest failure in full; empty when there is none.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// A port for UDP and one for TCP, on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub udp: u16,
    pub tcp: u16,
}

/// Makes the home and our own directory in it, both 0700. Idempotent.
pub fn prepare(home: &Home) -> Result<()> {
    for dir in [home.path().to_owned(), home.ours("")] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    }
    Ok(())
}

/// Names of all instance directories, sorted. Directories whose name is no instance name are not instances.
pub fn list(home: &Home) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(home.path()).map_err(Error::io(home.path()))? {
        let entry = entry.map_err(Error::io(home.path()))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let (true, Some(name)) = (is_dir, entry.file_name().to_str().and_then(|text| Name::parse(text).ok())) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Makes an empty instance directory (a draft).
pub fn create(home: &Home, name: &Name) -> Result<PathBuf> {
    let dir = home.instance(name)?;
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { what: name.to_string() },
        _ => Error::Io { path: dir.clone(), source },
    })?;
    sync_dir(home.path())?;
    Ok(dir)
}

/// Replaces lima.yaml whole, and writes `lima-version` with the first one.
pub fn define(dir: &Path, text: &[u8]) -> Result<()> {
    replace(&dir.join(names::LIMA_YAML), text, 0o600)?;
    let version = dir.join(names::LIMA_VERSION);
    if !version.exists() {
        replace(&version, LIMA_COMPATIBLE.as_bytes(), 0o400)?;
    }
    Ok(())
}

/// The texts of the home that apply to every instance. `dir` is one's directory.
pub fn layers(dir: &Path) -> Result<Layers> {
    let config = dir.with_file_name(names::CONFIG_DIR);
    let read = |file: &str| -> Result<_> { Ok(read_small(&config.join(file))?.map(Into::into)) };
    Ok(Layers { overrides: read(names::OVERRIDE_YAML)?, defaults: read(names::DEFAULT_YAML)? })
}

/// Sets or clears the `protected` marker.
pub fn protect(dir: &Path, protected: bool) -> Result<()> {
    let path = dir.join(names::PROTECTED);
    if protected {
        return replace(&path, b"", 0o400);
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io { path, source }),
        _ => sync_dir(dir),
    }
}

/// Takes an instance away: renamed out of sight at once, its bytes removed afterwards by [`sweep`].
/// The caller holds the instance's lock.
pub fn delete(home: &Home, dir: &Path) -> Result<()> {
    let trash = home.ours("trash");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&trash).map_err(Error::io(&trash))?;
    let stamp = Timestamp::now().as_nanosecond();
    let base = dir.file_name().unwrap_or_default().to_string_lossy();
    let target = trash.join(format!("{base}.{stamp}"));
    fs::rename(dir, &target).map_err(Error::io(dir))?;
    sync_dir(home.path())
}

/// Removes what [`delete`] left.
pub fn sweep(home: &Home) -> Result<()> {
    let trash = home.ours("trash");
    match fs::remove_dir_all(&trash) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io { path: trash, source }),
        _ => Ok(()),
    }
}

/// Renames an instance directory; never onto an existing one. The caller holds the instance's lock.
pub fn rename(home: &Home, from: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(|errno| match errno {
        rustix::io::Errno::EXIST => {
            Error::Exists { what: to.file_name().unwrap_or_default().to_string_lossy().into_owned() }
        }
        _ => Error::Io { path: from.to_owned(), source: errno.into() },
    })?;
    sync_dir(home.path())
}

/// A held lock on an instance directory: its hostagent's for life, the mount's while it deletes or renames.
/// A killed holder lets go, so it can never be stale.
#[derive(Debug)]
pub struct Lock {
    _dir: File,
}

impl Lock {
    /// Takes the lock, or returns `None` when somebody else holds it.
    pub fn try_take(dir: &Path) -> Result<Option<Self>> {
        let file = File::open(dir).map_err(Error::io(dir))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _dir: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(Error::Io { path: dir.to_owned(), source }),
        }
    }

    /// Whether somebody holds it now.
    pub fn is_held(dir: &Path) -> bool {
        matches!(Self::try_take(dir), Ok(None))
    }
}

/// The record of an instance; `None` when there is none or it cannot be read.
pub fn record(dir: &Path) -> Option<Record> {
    let text = read_small(&dir.join(names::RECORD)).ok()??;
    serde_json::from_slice(&text).ok()
}

/// The driver that an instance stays with although no document names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nothing was made for it yet.
    Nothing,
    /// The one that Lima takes: it has a disk, and nobody wrote down who made it.
    Limas,
    Named(String),
}

/// Of the instance in `dir` with this record.
pub fn kept_driver(dir: &Path, record: Option<&Record>) -> Kept {
    match record.map(|record| &record.driver).filter(|driver| !driver.is_empty()) {
        Some(driver) => Kept::Named(driver.clone()),
        None if dir.join(names::DISK).exists() => Kept::Limas,
        None => Kept::Nothing,
    }
}

/// Writes the record; durable when it returns.
pub fn set_record(dir: &Path, record: &Record) -> Result<()> {
    let json = serde_json::to_vec(record).map_err(|error| Error::failed("limafs.json", error))?;
    replace(&dir.join(names::RECORD), &json, 0o600)
}

/// The configuration that the VM of this record was started with, at its present size: what it has to be taken up with,
/// whatever lima.yaml says by now. `None` where there is no such VM, or nobody has written it down.
pub fn started(dir: &Path, record: &Record) -> Option<Config> {
    let started = record.started.as_ref().filter(|_| record.suspended || record.boot_id == boot_id())?;
    let config = config::from_yaml(&fs::read(dir.join(names::STARTED)).ok()?).ok()?;
    Some(Config { cpus: started.machine.cpus, memory: started.machine.memory.clone(), ..config })
}

/// Writes it down. It may have secrets, as lima.yaml may.
pub fn set_started(dir: &Path, config: &Config) -> Result<()> {
    replace(&dir.join(names::STARTED), config::to_yaml(config)?.as_bytes(), 0o600)
}

/// The VM is gone, and nothing of it is to be gone on with.
pub fn forget_started(dir: &Path) -> Result<()> {
    let path = dir.join(names::STARTED);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io { path, source }),
        _ => Ok(()),
    }
}

/// The snapshots of an instance, as its driver last told of them; none where nobody has asked it.
pub fn snapshots(dir: &Path) -> Vec<Snapshot> {
    let text = read_small(&dir.join(names::SNAPSHOTS)).ok().flatten();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Writes them down, if they differ from those that are written down.
pub fn set_snapshots(dir: &Path, there: &[Snapshot]) -> Result<()> {
    if snapshots(dir) == there {
        return Ok(());
    }
    let json = serde_json::to_vec(there).map_err(|error| Error::failed(names::SNAPSHOTS, error))?;
    replace(&dir.join(names::SNAPSHOTS), &json, 0o600)
}

/// The host's boot id: another one means that every VM of the record is gone.
pub fn boot_id() -> String {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT_ID.get_or_init(read).clone()
}

/// Reads a regular file of at most 1 MiB; `None` when there is none. Never hangs on a FIFO or device.
pub fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    const LIMIT: u64 = 1 << 20;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
    };
    let meta = file.metadata().map_err(Error::io(path))?;
    if !meta.is_file() {
        return Err(Error::failed(path.display().to_string(), "is not a regular file"));
    }
    if meta.size() > LIMIT {
        return Err(Error::TooBig { what: path.display().to_string(), limit: LIMIT as usize });
    }
    let mut bytes = Vec::with_capacity(meta.size() as usize);
    io::Read::read_to_end(&mut io::Read::take(file, LIMIT), &mut bytes).map_err(Error::io(path))?;
    Ok(Some(bytes))
}

/// Replaces a file whole: temp file beside it, fsync, rename, fsync of the directory.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace_from(path, bytes, mode)
}

/// As [`replace`], with what a reader gives.
pub fn replace_from(path: &Path, mut from: impl io::Read, mode: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temp = tempfile::Builder::new()
        .prefix(".limafs-")
        .suffix(".tmp")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .tempfile_in(dir)
        .map_err(Error::io(dir))?;
    io::copy(&mut from, &mut temp).and_then(|_| temp.as_file().sync_all()).map_err(Error::io(temp.path()))?;
    temp.persist(path).map_err(|error| Error::Io { path: path.to_owned(), source: error.error })?;
    sync_dir(dir)
}

/// Makes what changed in a directory lasting.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(driver: &str) -> Record {
        Record {
            state: State::Stopped,
            goal: Goal::Stopped,
            since: Timestamp::UNIX_EPOCH,
            boot_id: String::new(),
            driver: driver.into(),
            driver_pid: None,
            iid: String::new(),
            ssh_local_port: 0,
            dns: None,
            started: None,
            step: None,
            suspended: false,
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_driver_that_made_the_disk_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |driver: Option<&str>| kept_driver(dir.path(), driver.map(record).as_ref());
        assert_eq!(kept(None), Kept::Nothing);
        assert_eq!(kept(Some("")), Kept::Nothing);
        assert_eq!(kept(Some("vz")), Kept::Named("vz".into()));
        fs::write(dir.path().join(names::DISK), "").unwrap();
        assert_eq!((kept(None), kept(Some(""))), (Kept::Limas, Kept::Limas));
        assert_eq!(kept(Some("vz")), Kept::Named("vz".into()));
    }

    #[test]
    fn what_a_vm_was_started_with_counts_while_there_is_one_at_its_present_size() {
        let dir = tempfile::tempdir().unwrap();
        let script = limafs_driver::Provision { script: Some(vec![0xff, b'x'].into()), ..Default::default() };
        let config = Config { cpus: Some(1), provision: Some(vec![script]), ..Config::default() };
        let larger = Config { cpus: Some(2), ..config.clone() };
        let of = |started, suspended| Record { started, suspended, ..record("fake") };
        let suspended = of(Some(Started::with(&larger)), true);
        assert_eq!(started(dir.path(), &suspended), None);
        set_started(dir.path(), &config).unwrap();
        assert_eq!(fs::metadata(dir.path().join(names::STARTED)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(started(dir.path(), &suspended), Some(larger.clone()));
        assert_eq!(started(dir.path(), &of(None, false)), None, "none runs");
        assert_eq!(started(dir.path(), &of(Some(Started::with(&larger)), false)), None, "an earlier boot's");
        forget_started(dir.path()).unwrap();
        forget_started(dir.path()).unwrap();
        assert_eq!(started(dir.path(), &suspended), None);
    }
}
