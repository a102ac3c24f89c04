//! The front end: a callback, the view, a reply. The only user of fuser; decides nothing.

/// The value of a result; its error is the answer.
macro_rules! try_or {
    ($reply:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(&error)),
        }
    };
}

mod convert;
mod guest;
pub mod mount;
mod shell;
mod threads;
mod tree;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use crate::error::Result;
use crate::view::{Fh, Guests, SetAttr, View};
use convert::{Owner, caller, errno, ino, opened, ttl, utf8};
use shell::Shell;

/// What statfs(2) tells; the kernel itself lets 1024 bytes pass.
const NAME_MAX: usize = 255;
const GENERATION: Generation = Generation(0);

/// The file system as the kernel calls it.
pub struct Front {
    view: View,
    guests: Guests,
    shell: Shell,
    owner: Owner,
    /// Dropped when the session ends, whoever ended it.
    ended: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Filesystem for Front {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Not FUSE_READDIRPLUS_AUTO: of a large directory it asks for the attributes of the first few entries only, and
        // `ls -l` then for all others one by one.
        for wanted in [InitFlags::FUSE_ATOMIC_O_TRUNC, InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_PARALLEL_DIROPS]
        {
            // A kernel without one of them works the same, with more requests.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.take();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if ino(parent).is_guest() {
            return self.guest_lookup(request, ino(parent), name, reply);
        }
        let attr = try_or!(reply, utf8(name).and_then(|name| self.view.lookup(caller(request), ino(parent), name)));
        reply.entry(ttl(&attr), &self.owner.attr(&attr), GENERATION);
    }

    fn getattr(&self, request: &Request, node: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        if ino(node).is_guest() {
            return self.guest_getattr(request, ino(node), reply);
        }
        let attr = try_or!(reply, self.view.getattr(ino(node), fh.map(|fh| Fh(fh.0))));
        reply.attr(ttl(&attr), &self.owner.attr(&attr));
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if ino(node).is_guest() {
            let set = self.guest_set(mode, uid, gid, size, (atime, mtime));
            return self.guest_setattr(request, ino(node), fh, set, reply);
        }
        if uid.is_some_and(|uid| uid != self.owner.uid) || gid.is_some_and(|gid| gid != self.owner.gid) {
            return reply.error(Errno::EPERM);
        }
        let perm = mode.map(|mode| (mode & 0o7777) as u16);
        let set = SetAttr { size, perm, times: atime.is_some() || mtime.is_some() };
        let attr = try_or!(reply, self.view.setattr(caller(request), ino(node), fh.map(|fh| Fh(fh.0)), set));
        reply.attr(ttl(&attr), &self.owner.attr(&attr));
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        if ino(node).is_guest() {
            return self.guest_readlink(request, ino(node), reply);
        }
        let to = try_or!(reply, self.view.readlink(ino(node)));
        reply.data(&to);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        if ino(parent).is_guest() {
            return self.guest_mkdir(request, ino(parent), name, mode & !umask, reply);
        }
        let name = try_or!(reply, utf8(name));
        let outcome = self.view.mkdir(caller(request), ino(parent), name);
        let owner = self.owner;
        self.shell.answer(outcome, move |done| match done {
            Ok(attr) => reply.entry(ttl(&attr), &owner.attr(&attr), GENERATION),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if ino(parent).is_guest() {
            return self.guest_unlink(request, ino(parent), name, reply);
        }
        let name = try_or!(reply, utf8(name));
        let outcome = self.view.unlink(caller(request), ino(parent), name);
        self.shell.answer(outcome, |done| empty(reply, done));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if ino(parent).is_guest() {
            return self.guest_rmdir(request, ino(parent), name, reply);
        }
        let name = try_or!(reply, utf8(name));
        let outcome = self.view.rmdir(caller(request), ino(parent), name);
        self.shell.answer(outcome, |done| empty(reply, done));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        if ino(parent).is_guest() {
            return self.guest_symlink(request, ino(parent), name, target, reply);
        }
        let to = target.as_os_str().as_encoded_bytes();
        let attr = try_or!(reply, utf8(name).and_then(|name| self.view.symlink(ino(parent), name, to)));
        reply.entry(ttl(&attr), &self.owner.attr(&attr), GENERATION);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep = flags == RenameFlags::RENAME_NOREPLACE;
        if !flags.is_empty() && !keep {
            return reply.error(Errno::EINVAL);
        }
        match (ino(parent).is_guest(), ino(new_parent).is_guest()) {
            (false, false) => {}
            (true, true) => {
                let (from, to) = ((ino(parent), name.as_bytes()), (ino(new_parent), new_name.as_bytes()));
                let outcome = self.guests.rename(from, to, keep);
                return self.shell.answer_for(request.pid(), outcome, |done| empty(reply, done));
            }
            _ => return reply.error(Errno::EXDEV),
        }
        let (name, new_name) = (try_or!(reply, utf8(name)), try_or!(reply, utf8(new_name)));
        let outcome = self.view.rename(caller(request), (ino(parent), name), (ino(new_parent), new_name), keep);
        self.shell.answer(outcome, |done| empty(reply, done));
    }

    fn link(&self, request: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if !ino(node).is_guest() || !ino(parent).is_guest() {
            return reply.error(Errno::EPERM);
        }
        self.guest_link(request, ino(node), ino(parent), name, reply);
    }

    fn forget(&self, _: &Request, node: INodeNo, times: u64) {
        if ino(node).is_guest() {
            self.guests.forget(ino(node), times);
        }
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if ino(node).is_guest() {
            return self.guest_open(request, ino(node), flags.0, reply);
        }
        self.shell.answer(self.view.open_any(caller(request), ino(node), flags.0), |done| match done {
            Ok(handle) => {
                let (fh, flags) = opened(handle);
                reply.opened(fh, flags);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        if ino(parent).is_guest() {
            return self.guest_create(request, ino(parent), name, mode & !umask, flags, reply);
        }
        let perm = (mode & !umask & 0o777) as u16;
        let made = utf8(name).and_then(|name| self.view.create_file(caller(request), ino(parent), name, perm, flags));
        let (attr, handle) = try_or!(reply, made);
        let (fh, flags) = opened(handle);
        reply.created(ttl(&attr), &self.owner.attr(&attr), GENERATION, fh, flags);
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino(node).is_guest() {
            return self.guest_read(request, Fh(fh.0), offset, size, reply);
        }
        self.tree_read(request, Fh(fh.0), (offset, size), flags, reply);
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if ino(node).is_guest() {
            return self.guest_write(request, Fh(fh.0), offset, data, reply);
        }
        let outcome = self.view.write(ino(node), Fh(fh.0), offset, data);
        self.shell.answer(outcome, |done| match done {
            Ok(taken) => reply.written(taken as u32),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn flush(&self, request: &Request, node: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        if ino(node).is_guest() {
            return self.guest_flush(request, Fh(fh.0), false, reply);
        }
        let outcome = self.view.flush(caller(request), Fh(fh.0));
        self.shell.answer(outcome, |done| empty(reply, done));
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if ino(node).is_guest() {
            self.guests.release(Fh(fh.0));
            return reply.ok();
        }
        self.shell.answer(self.view.release(Fh(fh.0)), |done| empty(reply, done));
    }

    fn fsync(&self, request: &Request, node: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        if ino(node).is_guest() {
            return self.guest_flush(request, Fh(fh.0), true, reply);
        }
        // Scratch is memory, and a document is made durable when it is closed.
        reply.ok();
    }

    fn opendir(&self, request: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if ino(node).is_guest() {
            return self.guest_opendir(request, ino(node), reply);
        }
        let (fh, flags) = opened(try_or!(reply, self.view.opendir(ino(node))));
        reply.opened(fh, flags - FopenFlags::FOPEN_NOFLUSH);
    }

    fn readdir(&self, _: &Request, node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        if ino(node).is_guest() {
            return self.guest_readdir(Fh(fh.0), offset, reply);
        }
        self.tree_readdir(Fh(fh.0), offset, reply);
    }

    fn readdirplus(&self, _: &Request, node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        if ino(node).is_guest() {
            return self.guest_readdirplus(Fh(fh.0), offset, reply);
        }
        self.tree_readdirplus(Fh(fh.0), offset, reply);
    }

    fn releasedir(&self, _: &Request, node: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        if ino(node).is_guest() {
            self.guests.release(Fh(fh.0));
            return reply.ok();
        }
        self.view.release(Fh(fh.0));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        if ino(node).is_guest() {
            return self.guest_statfs(request, ino(node), reply);
        }
        self.tree_statfs(reply);
    }

    fn access(&self, request: &Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if ino(node).is_guest() {
            return self.guest_access(request, ino(node), mask, reply);
        }
        let attr = try_or!(reply, self.view.getattr(ino(node), None));
        // Only the owner (and root) gets here, or the kernel has checked the mode bits itself.
        let wanted = (mask.bits() as u16) & 0o7;
        let has = (attr.perm >> 6) & 0o7;
        if wanted & !has == 0 { reply.ok() } else { reply.error(Errno::EACCES) }
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        _: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        self.tree_poll(Fh(fh.0), notifier, flags, reply);
    }
}

fn empty(reply: ReplyEmpty, done: Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}
