//! What stat(2) shows of a node.

use std::time::SystemTime;

use super::ino::Ino;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
}

/// Attributes of one inode. `ctime` and `atime` are shown as `mtime`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    pub mtime: SystemTime,
    /// Permission bits.
    pub perm: u16,
    pub nlink: u32,
    pub kept: Kept,
}

/// For how long the kernel may answer from its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    UntilTold,
    /// What every path into a guest goes through: a listing looks it up for each file.
    Briefly,
    /// Growing logs, and what nobody tells of.
    Never,
}

impl Attr {
    pub fn file(ino: Ino, size: u64, mtime: SystemTime, perm: u16) -> Self {
        Self { ino, kind: Kind::File, size, mtime, perm, nlink: 1, kept: Kept::UntilTold }
    }

    pub fn directory(ino: Ino, subdirectories: usize, mtime: SystemTime, perm: u16) -> Self {
        Self {
            ino,
            kind: Kind::Directory,
            size: 4096,
            mtime,
            perm,
            nlink: 2 + subdirectories as u32,
            kept: Kept::UntilTold,
        }
    }

    pub fn uncached(self) -> Self {
        Self { kept: Kept::Never, ..self }
    }

    pub fn briefly(self) -> Self {
        Self { kept: Kept::Briefly, ..self }
    }
}
