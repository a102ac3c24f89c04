//! `.disks/`: additional disks as directories. What is shown comes from memory; the watcher and our own changes
//! keep that true. Whether a disk is in use is asked of the instances, when somebody reads it: a claim may outlive its VM.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::commands::blocking;
use super::ino::{Ino, Target};
use super::tree::{Rendered, Tree};
use super::{Attr, Outcome, View};
use crate::config;
use crate::disks::{self, Disk};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::Name;
use crate::status::State;

/// A file of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFile {
    Size,
    Format,
    InUseBy,
}

impl DiskFile {
    pub const ALL: [Self; 3] = [Self::Size, Self::Format, Self::InUseBy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Format => "format",
            Self::InUseBy => "in_use_by",
        }
    }

    pub fn doc(self) -> &'static str {
        match self {
            Self::Size => "bytes as 20GiB; takes a size, which makes the disk or grows it",
            Self::Format => "qcow2 or raw; empty for a draft",
            Self::InUseBy => "the running instance that has it, or empty",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name)
    }

    pub fn takes_writes(self) -> bool {
        self == Self::Size
    }
}

/// The disks that there are.
#[derive(Default)]
pub struct Disks {
    known: BTreeMap<Name, (Disk, SystemTime)>,
    changed: Option<SystemTime>,
}

impl Disks {
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.known.keys()
    }

    pub fn get(&self, name: &str) -> Option<&(Disk, SystemTime)> {
        Name::parse(name).ok().and_then(|name| self.known.get(&name))
    }

    /// When a disk last came or went.
    pub fn changed(&self) -> Option<SystemTime> {
        self.changed
    }

    /// Takes in what is on disk now.
    pub fn replace(&mut self, there: Vec<Disk>) {
        let now = SystemTime::now();
        let before: Vec<Name> = self.known.keys().cloned().collect();
        let mut old = std::mem::take(&mut self.known);
        for disk in there {
            let entry = match old.remove(&disk.name) {
                Some((known, since)) if known == disk => (known, since),
                _ => (disk, now),
            };
            self.known.insert(entry.0.name.clone(), entry);
        }
        if !self.known.keys().eq(before.iter()) || self.changed.is_none() {
            self.changed = Some(now);
        }
    }
}

impl Tree {
    /// A file of a disk as text.
    pub fn disk_rendered(&mut self, name: &str, file: DiskFile, host: &Host) -> Result<Rendered> {
        let (disk, since) = self.disks.get(name).cloned().ok_or_else(|| Error::Missing { what: name.into() })?;
        let text = match (file, &disk.image) {
            (DiskFile::Size, Some((_, size))) => format!("{}\n", exact(*size)),
            (DiskFile::Format, Some((format, _))) => format!("{format}\n"),
            (DiskFile::Size | DiskFile::Format, None) => String::new(),
            (DiskFile::InUseBy, _) => self.user_of(&disk, host).map_or_else(String::new, |name| format!("{name}\n")),
        };
        Ok(Rendered { bytes: text.into_bytes().into(), mtime: since, version: 0 })
    }

    /// The instance that has claimed the disk, if it runs or is suspended.
    fn user_of(&mut self, disk: &Disk, host: &Host) -> Option<Name> {
        let owner = disk.claimed_by.as_ref()?;
        let name = owner.file_name()?.to_str()?;
        let key = self.key(name)?;
        let snapshot = self.snapshot(key, host).ok()?;
        let is_left = snapshot.state() == State::Suspended || snapshot.is_suspended();
        let has_it = snapshot.state().is_live() || is_left;
        (snapshot.dir == *owner && has_it).then(|| snapshot.name.clone())
    }
}

impl View {
    /// Looks at the disks again; called by whoever changed them or heard of a change, never by a reader.
    pub(super) fn reread_disks(&self) {
        self.read_disks();
        self.watch_disks();
        // What came into a new directory before it was watched.
        self.read_disks();
    }

    fn read_disks(&self) {
        match disks::list(&self.0.home) {
            Ok(there) => self.0.tree.lock().disks.replace(there),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// mkdir(2) in `.disks`.
    pub(super) fn make_disk(&self, name: &str) -> Outcome<Attr> {
        let (view, name) = (self.clone(), name.to_owned());
        Outcome::later(async move {
            let (changing, text) = (view.clone(), name.clone());
            let made = blocking(move || {
                let name = Name::parse(&text)?;
                disks::create(&changing.0.home, &name)?;
                changing.reread_disks();
                Ok(())
            });
            view.noted(made.await)?;
            view.attr_of(&mut view.0.tree.lock(), &Target::Disk(name))
        })
    }

    /// rmdir(2) of a disk.
    pub(super) fn remove_disk(&self, name: String) -> Outcome<()> {
        let view = self.clone();
        Outcome::later(async move {
            let changing = view.clone();
            let removed = blocking(move || {
                disks::delete(&changing.0.home, &Name::parse(&name)?)?;
                changing.reread_disks();
                Ok(())
            });
            view.noted(removed.await)?;
            let home = view.0.home.clone();
            // The disk is gone already; what is left of its bytes is tried again at the next mount.
            tokio::task::spawn_blocking(move || crate::store::sweep(&home));
            Ok(())
        })
    }

    /// A write to a disk's `size`.
    pub(super) fn resize_disk(&self, name: String, data: &[u8]) -> Outcome<usize> {
        let (view, taken) = (self.clone(), data.len());
        let size = parse_size(data);
        Outcome::later(async move {
            let changing = view.clone();
            let resized = blocking(move || {
                disks::set_size(&changing.0.home, &Name::parse(&name)?, size?)?;
                changing.reread_disks();
                Ok(())
            });
            view.noted(resized.await).map(|()| taken)
        })
    }

    fn noted<T>(&self, done: Result<T>) -> Result<T> {
        done.inspect_err(|error| self.refuse(None, error))
    }

    /// Attributes of `.disks` and what is in it.
    pub(super) fn disk_attr(&self, tree: &mut Tree, ino: Ino, target: &Target, directory: u16) -> Result<Attr> {
        let started = tree.started;
        let read = if self.0.shared { 0o444 } else { 0o400 };
        Ok(match target {
            Target::Disk(name) => {
                let since = tree.disks.get(name).ok_or_else(|| Error::Missing { what: name.clone() })?.1;
                Attr::directory(ino, 0, since, directory).uncached()
            }
            Target::DiskFile(name, file) => {
                let text = tree.disk_rendered(name, *file, &self.0.host)?;
                let perm = if file.takes_writes() { read | 0o200 } else { read };
                Attr::file(ino, text.bytes.len() as u64, text.mtime, perm).uncached()
            }
            _ => {
                let changed = tree.disks.changed().unwrap_or(started);
                Attr::directory(ino, tree.disks.names().count(), changed, directory).uncached()
            }
        })
    }
}

/// A size that reads back as the same one; in bytes where four digits are too few for that.
fn exact(size: u64) -> String {
    let short = config::format_size(size);
    if config::size(&short) == Some(size) { short } else { size.to_string() }
}

/// A line with a size that is not 0.
fn parse_size(data: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(data);
    let text = text.trim_end_matches('\n').trim();
    match config::size(text) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(Error::invalid("size", format!("takes a size such as 20GiB, not {text:.40?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_size_is_a_size() {
        assert_eq!(parse_size(b"20GiB\n").unwrap(), 20 << 30);
        assert_eq!(parse_size(b" 1.5g ").unwrap(), 3 << 29);
        for bad in [&b""[..], b"\n", b"0", b"-1", b"lots", b"1GiB\n2GiB", b"\xff"] {
            assert_eq!(parse_size(bad).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
        }
    }

    #[test]
    fn a_size_reads_back_as_the_same_one() {
        assert_eq!(exact(20 << 30), "20GiB");
        assert_eq!(exact((20 << 30) + 512), "21474836992");
    }

    #[test]
    fn what_did_not_change_keeps_its_time() {
        let disk = |name: &str| Disk { name: Name::parse(name).unwrap(), image: None, claimed_by: None };
        let mut disks = Disks::default();
        disks.replace(vec![disk("a")]);
        let (since, changed) = (disks.get("a").unwrap().1, disks.changed());
        disks.replace(vec![disk("a")]);
        assert_eq!((disks.get("a").unwrap().1, disks.changed()), (since, changed));
        disks.replace(vec![disk("a"), disk("b")]);
        assert_eq!(disks.get("a").unwrap().1, since);
        assert_ne!(disks.changed(), changed);
    }
}
