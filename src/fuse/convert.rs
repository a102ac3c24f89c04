//! Between the view's words and the kernel's.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, Request};

use super::NAME_MAX;
use crate::error::{Error, Result};
use crate::view::guest::FRESH;
use crate::view::{Attr, Caller, Ino, Kept, Kind, Opened};

/// The kernel may keep what it was told until it is told otherwise; see `view::announce`.
const CACHED: Duration = Duration::from_secs(3600);
pub const UNCACHED: Duration = Duration::ZERO;

/// Who owns every node.
#[derive(Clone, Copy)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    pub fn attr(self, attr: &Attr) -> FileAttr {
        let kind = match attr.kind {
            Kind::File => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
        };
        FileAttr {
            ino: INodeNo(attr.ino.0),
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: attr.mtime,
            mtime: attr.mtime,
            ctime: attr.mtime,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: attr.perm,
            nlink: attr.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

pub fn ttl(attr: &Attr) -> &'static Duration {
    match attr.kept {
        Kept::UntilTold => &CACHED,
        Kept::Briefly => &FRESH,
        Kept::Never => &UNCACHED,
    }
}

pub fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub fn caller(request: &Request) -> Caller {
    Caller { pid: request.pid(), uid: request.uid() }
}

pub fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// Names of the tree are UTF-8; no other name exists or can be made.
pub fn utf8(name: &OsStr) -> Result<&str> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong {
            what: format!("a name of {} bytes", name.len()),
            why: format!("at most {NAME_MAX} fit"),
        });
    }
    name.to_str().ok_or_else(|| Error::invalid("name", "is not UTF-8"))
}

pub fn opened(opened: Opened) -> (FileHandle, FopenFlags) {
    let mut flags = FopenFlags::empty();
    if opened.direct {
        flags |= FopenFlags::FOPEN_DIRECT_IO;
    }
    if opened.quiet {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    (FileHandle(opened.fh.0), flags)
}
