//! Open files and directories: what each handle holds. Numbers are never used twice.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::config_dir::ConfigFile;
use super::disks::DiskFile;
use super::drivers_dir::DriverPlace;
use super::images::Place;
use super::ino::{Ino, Key};
use super::jobs::CommandLine;
use super::networks_dir::NetworkPlace;
use super::node::{NodeId, RootBody};
use super::tree::Rendered;
use super::wait::Condition;
use crate::error::Result;
use crate::names;

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// How an opened file is to be treated by the front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub fh: Fh,
    /// Reads and writes come to us, past the page cache.
    pub direct: bool,
    /// Nothing happens when it is closed, so that the close need not be told.
    pub quiet: bool,
}

/// What poll(2) is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Changed since it was last read from its start (as sysfs does: POLLPRI and POLLERR).
    pub changed: bool,
    pub readable: bool,
}

pub type Wake = Box<dyn Fn() + Send>;

pub struct Handle {
    pub ino: Ino,
    pub body: Open,
    /// A write to a document was refused for its size: what came before it is but a part.
    pub cut: bool,
    /// Wakes who polls; kept as long as the handle, or edge-triggered epoll loses its second event.
    pub wake: Option<Wake>,
}

pub enum Open {
    /// A text as it was at open, or at the last read from offset 0.
    Text {
        source: Source,
        text: Rendered,
    },
    /// A document being written. Its bytes count when it is closed.
    Draft {
        document: Document,
        bytes: Vec<u8>,
        dirty: bool,
        append: bool,
    },
    Scratch {
        key: Key,
        serial: u64,
        append: bool,
    },
    Log(GrowingFile),
    /// Made when it was opened.
    Bytes(Arc<[u8]>),
    /// A job's command line, being written.
    CommandLine(CommandLine),
    /// A job's `signal`, to write.
    Signal {
        key: Key,
        job: String,
    },
    /// `told` is what the wait came to; `done` once somebody waits or has waited.
    Wait {
        key: Key,
        condition: Condition,
        done: bool,
        told: Vec<u8>,
    },
    /// The publisher's; does nothing.
    Touch,
    Directory(Arc<[DirEntry]>),
}

/// What a draft is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Definition(Key),
    Template(String),
    Config(ConfigFile),
}

impl Document {
    pub fn name(&self) -> &str {
        match self {
            Self::Definition(_) => names::LIMA_YAML,
            Self::Template(name) => name,
            Self::Config(file) => file.name(),
        }
    }

    /// The instance in whose `error` a refusal goes.
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Definition(key) => Some(*key),
            Self::Template(_) | Self::Config(_) => None,
        }
    }
}

/// Where a text comes from, to be rendered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Node(Key, NodeId),
    /// A snapshot's `info`.
    Snapshot(Key, String),
    Root(NodeId),
    Image(Place),
    Network(NetworkPlace),
    Driver(DriverPlace),
    Template(String),
    Disk(String, DiskFile),
    Config(ConfigFile),
}

impl Source {
    /// Texts that change only when a document is defined; they may come from the page cache.
    pub fn is_steady(&self) -> bool {
        match self {
            Self::Node(_, id) => matches!(id.node().name, "lima.yaml" | "effective.yaml" | "effective.origins.yaml"),
            Self::Root(id) => id.root_node().body == RootBody::Readme,
            Self::Template(_) | Self::Config(_) => true,
            Self::Image(_) | Self::Network(_) | Self::Driver(_) | Self::Disk(..) | Self::Snapshot(..) => false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct DirEntry {
    pub name: String,
    pub ino: Ino,
    pub kind: super::Kind,
}

#[derive(Default)]
pub struct Handles {
    open: HashMap<Fh, Handle>,
    last: u64,
}

impl Handles {
    pub fn insert(&mut self, ino: Ino, body: Open) -> Fh {
        self.last += 1;
        let fh = Fh(self.last);
        self.open.insert(fh, Handle { ino, body, cut: false, wake: None });
        fh
    }

    pub fn get(&mut self, fh: Fh) -> Option<&mut Handle> {
        self.open.get_mut(&fh)
    }

    pub fn remove(&mut self, fh: Fh) -> Option<Handle> {
        self.open.remove(&fh)
    }

    /// Wakes who polls handles of an inode.
    pub fn notify(&self, ino: Ino) {
        for handle in self.open.values().filter(|handle| handle.ino == ino) {
            if let Some(wake) = &handle.wake {
                wake();
            }
        }
    }
}

/// A log on disk. Follows its path: when the file is replaced, the next read is of the new one.
pub struct GrowingFile {
    path: PathBuf,
    file: Option<File>,
    /// Bytes that were read, for poll(2).
    pub seen: u64,
}

impl GrowingFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, seen: 0 }
    }

    /// At most `size` bytes from `offset`; nothing while there is no such file.
    pub fn read(&mut self, offset: u64, size: usize) -> Result<Vec<u8>> {
        self.follow();
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(crate::error::Error::Io { path: self.path.clone(), source }),
            }
        }
        bytes.truncate(filled);
        self.seen = self.seen.max(offset + filled as u64);
        Ok(bytes)
    }

    pub fn size(&mut self) -> u64 {
        self.follow();
        self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len())
    }

    fn follow(&mut self) {
        let Ok(there) = std::fs::symlink_metadata(&self.path) else { return };
        let held = self.file.as_ref().and_then(|file| file.metadata().ok());
        let same = held.is_some_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()));
        if !same && there.is_file() {
            self.file = File::open(&self.path).ok();
        }
    }
}
