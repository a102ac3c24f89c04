//! What the tree itself answers where that takes more than a call: listings, reads that may wait, poll, statfs.

use fuser::{
    FileType, INodeNo, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyPoll, ReplyStatfs, Request,
};

use super::convert::{caller, errno, ttl};
use super::{Front, GENERATION, NAME_MAX};
use crate::error::Result;
use crate::view::{Fh, Got, Kind};

impl Front {
    pub(super) fn tree_read(
        &self,
        request: &Request,
        fh: Fh,
        (offset, size): (u64, u32),
        flags: OpenFlags,
        reply: ReplyData,
    ) {
        match try_or!(reply, self.view.read(fh, offset, size as usize)) {
            Got::Bytes(bytes) => reply.data(&bytes),
            Got::Slice(bytes, range) => reply.data(&bytes[range]),
            Got::Wait => {
                let nonblocking = flags.0 & libc::O_NONBLOCK != 0;
                let answer = Box::new(move |done: Result<Vec<u8>>| match done {
                    Ok(bytes) => reply.data(&bytes),
                    Err(error) => reply.error(errno(&error)),
                });
                self.view.park_read(caller(request), fh, size as usize, nonblocking, answer);
            }
        }
    }

    pub(super) fn tree_readdir(&self, fh: Fh, offset: u64, mut reply: ReplyDirectory) {
        let entries = try_or!(reply, self.view.listing(fh));
        for (index, entry) in entries.iter().enumerate().skip(offset as usize) {
            let kind = match entry.kind {
                Kind::File => FileType::RegularFile,
                Kind::Directory => FileType::Directory,
                Kind::Symlink => FileType::Symlink,
            };
            if reply.add(INodeNo(entry.ino.0), index as u64 + 1, kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    pub(super) fn tree_readdirplus(&self, fh: Fh, offset: u64, mut reply: ReplyDirectoryPlus) {
        let entries = try_or!(reply, self.view.listing(fh));
        for (index, entry) in entries.iter().enumerate().skip(offset as usize) {
            let Some(attr) = self.view.entry_attr(entry) else { continue };
            let shown = self.owner.attr(&attr);
            if reply.add(INodeNo(entry.ino.0), index as u64 + 1, &entry.name, ttl(&attr), &shown, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    pub(super) fn tree_statfs(&self, reply: ReplyStatfs) {
        match self.view.statfs() {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                stat.f_bsize as u32,
                NAME_MAX as u32,
                stat.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn tree_poll(&self, fh: Fh, notifier: PollNotifier, flags: PollFlags, reply: ReplyPoll) {
        let wake = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY).then(|| {
            Box::new(move || {
                // Who polled may be gone by now.
                let _ = notifier.clone().notify();
            }) as Box<dyn Fn() + Send>
        });
        let ready = self.view.poll(fh, wake);
        let mut events = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        if ready.readable {
            events |= PollEvents::POLLIN | PollEvents::POLLRDNORM;
        }
        if ready.changed {
            events |= PollEvents::POLLPRI | PollEvents::POLLERR;
        }
        reply.poll(events);
    }
}
