//! The callbacks for guests' files: each asks the view and answers beside the kernel's loop, or at once where the view
//! knows. A caller that is being killed is let go.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
};

use super::convert::{Owner, UNCACHED, errno};
use super::{Front, GENERATION, NAME_MAX, empty};
use crate::error::Result;
use crate::view::guest::{FRESH, GuestAttr, Id, Seen, Set, Times};
use crate::view::{Fh, Ino, Outcome};

/// Bytes of a block that statfs(2) counts in, where a guest names none.
const BLOCK: u64 = 4096;

impl Owner {
    fn guest(self, attr: &GuestAttr) -> FileAttr {
        let id = |id: Id, own: u32| match id {
            Id::User => own,
            Id::Other(id) => id,
        };
        FileAttr {
            ino: INodeNo(attr.ino.0),
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: attr.accessed,
            mtime: attr.modified,
            ctime: attr.modified,
            crtime: SystemTime::UNIX_EPOCH,
            kind: kind(attr.mode),
            perm: (attr.mode & 0o7777) as u16,
            // The protocol tells none; 1 for a directory says so to those who count subdirectories by it.
            nlink: 1,
            uid: id(attr.uid, self.uid),
            gid: id(attr.gid, self.gid),
            rdev: 0,
            blksize: 128 << 10,
            flags: 0,
        }
    }
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFCHR => FileType::CharDevice,
        _ => FileType::RegularFile,
    }
}

fn ttl(attr: &GuestAttr) -> &'static std::time::Duration {
    if attr.cached { &FRESH } else { &UNCACHED }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Front {
    pub(super) fn guest_lookup(&self, request: &Request, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        self.guest_entry(request, self.guests.lookup(parent, name.as_bytes()), reply);
    }

    /// Answers with an entry; the kernel knows it from then on.
    fn guest_entry(&self, request: &Request, outcome: Outcome<Seen>, reply: ReplyEntry) {
        let (guests, owner) = (self.guests.clone(), self.owner);
        self.shell.answer_for(request.pid(), outcome, move |done| {
            match done.and_then(|seen: Seen| guests.enter(&seen)) {
                Ok(attr) => reply.entry(ttl(&attr), &owner.guest(&attr), GENERATION),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    pub(super) fn guest_getattr(&self, request: &Request, node: Ino, reply: ReplyAttr) {
        self.guest_attr(request, self.guests.getattr(node), reply);
    }

    fn guest_attr(&self, request: &Request, outcome: Outcome<GuestAttr>, reply: ReplyAttr) {
        let owner = self.owner;
        self.shell.answer_for(request.pid(), outcome, move |done| match done {
            Ok(attr) => reply.attr(ttl(&attr), &owner.guest(&attr)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn guest_set(
        &self,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
    ) -> Set {
        let id = |id: u32, own: u32| if id == own { Id::User } else { Id::Other(id) };
        Set {
            mode,
            uid: uid.map(|uid| id(uid, self.owner.uid)),
            gid: gid.map(|gid| id(gid, self.owner.gid)),
            size,
            times: Times { accessed: times.0.map(time), modified: times.1.map(time) },
        }
    }

    pub(super) fn guest_setattr(
        &self,
        request: &Request,
        node: Ino,
        fh: Option<FileHandle>,
        set: Set,
        reply: ReplyAttr,
    ) {
        self.guest_attr(request, self.guests.setattr(node, fh.map(|fh| Fh(fh.0)), set), reply);
    }

    pub(super) fn guest_readlink(&self, request: &Request, node: Ino, reply: ReplyData) {
        self.shell.answer_for(request.pid(), self.guests.readlink(node), |done| match done {
            Ok(text) => reply.data(&text),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn guest_mkdir(&self, request: &Request, parent: Ino, name: &OsStr, mode: u32, reply: ReplyEntry) {
        self.guest_entry(request, self.guests.mkdir(parent, name.as_bytes(), mode & 0o7777), reply);
    }

    pub(super) fn guest_symlink(&self, request: &Request, parent: Ino, name: &OsStr, to: &Path, reply: ReplyEntry) {
        let to = to.as_os_str().as_bytes();
        self.guest_entry(request, self.guests.symlink(parent, name.as_bytes(), to), reply);
    }

    pub(super) fn guest_link(&self, request: &Request, node: Ino, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        self.guest_entry(request, self.guests.hardlink(node, parent, name.as_bytes()), reply);
    }

    pub(super) fn guest_unlink(&self, request: &Request, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.guest_done(request, self.guests.unlink(parent, name.as_bytes()), reply);
    }

    pub(super) fn guest_rmdir(&self, request: &Request, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.guest_done(request, self.guests.rmdir(parent, name.as_bytes()), reply);
    }

    pub(super) fn guest_flush(&self, request: &Request, fh: Fh, durable: bool, reply: ReplyEmpty) {
        self.guest_done(request, self.guests.flush(fh, durable), reply);
    }

    fn guest_done(&self, request: &Request, outcome: Outcome<()>, reply: ReplyEmpty) {
        self.shell.answer_for(request.pid(), outcome, |done| empty(reply, done));
    }

    /// Past the page cache: the guest changes its files without telling anybody here.
    pub(super) fn guest_open(&self, request: &Request, node: Ino, flags: i32, reply: ReplyOpen) {
        let guests = self.guests.clone();
        self.shell.answer_for(request.pid(), self.guests.open(node, flags), move |done| match done {
            Ok(file) => {
                let fh = guests.adopt(file, None);
                reply.opened(FileHandle(fh.0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn guest_create(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (guests, owner) = (self.guests.clone(), self.owner);
        let outcome = self.guests.create(parent, name.as_bytes(), mode & 0o7777, flags);
        self.shell.answer_for(request.pid(), outcome, move |done| {
            let made = done.and_then(|(seen, file)| {
                let attr = guests.enter(&seen)?;
                Ok((attr, guests.adopt(file, Some(attr.ino))))
            });
            match made {
                Ok((attr, fh)) => reply.created(
                    ttl(&attr),
                    &owner.guest(&attr),
                    GENERATION,
                    FileHandle(fh.0),
                    FopenFlags::FOPEN_DIRECT_IO,
                ),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    pub(super) fn guest_read(&self, request: &Request, fh: Fh, offset: u64, size: u32, reply: ReplyData) {
        let outcome = self.guests.read(fh, offset, size as usize);
        self.shell.answer_for(request.pid(), outcome, |done| match done {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn guest_write(&self, request: &Request, fh: Fh, offset: u64, data: &[u8], reply: ReplyWrite) {
        self.shell.answer_for(request.pid(), self.guests.write(fh, offset, data), |done| match done {
            Ok(taken) => reply.written(taken as u32),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn guest_opendir(&self, request: &Request, node: Ino, reply: ReplyOpen) {
        let guests = self.guests.clone();
        self.shell.answer_for(request.pid(), self.guests.opendir(node, request.pid()), move |done| match done {
            Ok(directory) => {
                reply.opened(FileHandle(guests.adopt_directory(directory).0), FopenFlags::empty());
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn guest_readdir(&self, fh: Fh, offset: u64, mut reply: ReplyDirectory) {
        let directory = match self.guests.listing(fh) {
            Ok(directory) => directory,
            Err(error) => return reply.error(errno(&error)),
        };
        for (index, entry) in directory.entries.iter().enumerate().skip(offset as usize) {
            let name = OsStr::from_bytes(&entry.name);
            if reply.add(INodeNo(entry.ino.0), index as u64 + 1, kind(entry.mode), name) {
                break;
            }
        }
        reply.ok();
    }

    pub(super) fn guest_readdirplus(&self, fh: Fh, offset: u64, mut reply: ReplyDirectoryPlus) {
        let directory = match self.guests.listing(fh) {
            Ok(directory) => directory,
            Err(error) => return reply.error(errno(&error)),
        };
        for (index, entry) in directory.entries.iter().enumerate().skip(offset as usize) {
            // The kernel takes no attributes of `.` and `..`, and counts neither as known.
            let attr: Result<GuestAttr> = match &entry.seen {
                Some(seen) => self.guests.enter(seen),
                None => Ok(GuestAttr::of_dots(entry.ino)),
            };
            let Ok(attr) = attr else { continue };
            let name = OsStr::from_bytes(&entry.name);
            let shown = self.owner.guest(&attr);
            if reply.add(shown.ino, index as u64 + 1, name, ttl(&attr), &shown, GENERATION) {
                if entry.seen.is_some() {
                    self.guests.forget(attr.ino, 1);
                }
                break;
            }
        }
        reply.ok();
    }

    pub(super) fn guest_statfs(&self, request: &Request, node: Ino, reply: ReplyStatfs) {
        self.shell.answer_for(request.pid(), self.guests.statfs(node), |done| match done {
            Ok(room) => {
                let size = |bytes: u64| u32::try_from(bytes).ok().filter(|size| *size > 0).unwrap_or(BLOCK as u32);
                let (block, fragment) = (size(room.block), size(room.fragment));
                let (files, free) = (room.files, room.files_free);
                reply.statfs(room.blocks, room.free, room.available, files, free, block, NAME_MAX as u32, fragment);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// By the mode bits, as far as they tell; the guest itself decides when something is done.
    pub(super) fn guest_access(&self, request: &Request, node: Ino, mask: AccessFlags, reply: ReplyEmpty) {
        let wanted = mask.bits() as u32 & 0o7;
        self.shell.answer_for(request.pid(), self.guests.getattr(node), move |done| match done {
            Ok(attr) if wanted & !attr.permitted() == 0 => reply.ok(),
            Ok(_) => reply.error(Errno::EACCES),
            Err(error) => reply.error(errno(&error)),
        });
    }
}
