//! What can be asked of a guest's files: one function each. Paths are absolute and bytes.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::packet::{self, Answer, Attrs, Entry, Garbled, Request, Room};
use super::{CHUNKS, Called, Client, DATA, Fault, METADATA, Reply, done};

/// The longest name that is taken from a guest.
const NAME_MAX: usize = 255;
/// Entries of a directory beyond this are left out: a lying guest would never come to an end.
const ENTRIES_MAX: usize = 1 << 20;
/// Requests for parts of a listing that are under way at once.
const LISTING: usize = 4;
/// The protocol's word for the end of a file and of a listing.
const EOF: u32 = 1;
const UNSUPPORTED: u32 = 8;

impl Client {
    /// Asks who we are there, and for limits.
    pub(super) async fn learn(&mut self) -> Called<()> {
        if self.features.limits
            && let Answer::Extended(body) =
                self.call(METADATA, |id| Request::extended("limits@openssh.com", id)).await?
        {
            let (read, write) = packet::limits(body)?;
            let least = [read, write].into_iter().filter(|limit| *limit > 0).min().unwrap_or(u64::MAX);
            self.chunk = least.clamp(4 << 10, 128 << 10) as usize;
        }
        self.home = match self.call(METADATA, |id| Request::new(packet::REALPATH, id).string(b".")).await? {
            Answer::Names(names) => names.into_iter().next().ok_or(Garbled)?.name,
            _ => return Err(Garbled.into()),
        };
        // A user without a home is nobody in particular.
        self.user = self.lstat(&self.home).await.ok().and_then(|attrs| attrs.owner).unwrap_or((u32::MAX, u32::MAX));
        Ok(())
    }

    /// Of the file itself, where it is a symbolic link.
    pub async fn lstat(&self, path: &[u8]) -> Called<Attrs> {
        attrs(self.call(METADATA, |id| Request::new(packet::LSTAT, id).string(path)).await?)
    }

    pub async fn fstat(&self, handle: &[u8]) -> Called<Attrs> {
        attrs(self.call(METADATA, |id| Request::new(packet::FSTAT, id).string(handle)).await?)
    }

    /// Follows no symbolic link where the guest can do so.
    pub async fn setstat(&self, path: &[u8], set: &Attrs) -> Called<()> {
        let lsetstat = self.features.lsetstat && set.size.is_none();
        let make = |id| match lsetstat {
            true => Request::extended("lsetstat@openssh.com", id).string(path).attrs(set),
            false => Request::new(packet::SETSTAT, id).string(path).attrs(set),
        };
        done(self.call(METADATA, make).await?)
    }

    pub async fn fsetstat(&self, handle: &[u8], set: &Attrs) -> Called<()> {
        done(self.call(METADATA, |id| Request::new(packet::FSETSTAT, id).string(handle).attrs(set)).await?)
    }

    pub async fn open(&self, path: &[u8], flags: u32, mode: u32) -> Called<Bytes> {
        let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
        let answer = self.call(METADATA, |id| Request::new(packet::OPEN, id).string(path).u32(flags).attrs(&attrs));
        handle(answer.await?)
    }

    /// Lets go of a handle; nobody waits for the answer.
    pub fn forget(&self, handle: &[u8]) {
        // Handles of a connection that is gone are gone with it.
        let _ = self.send(|id| Request::new(packet::CLOSE, id).string(handle));
    }

    /// At most `size` bytes from `offset`; fewer only at the end of the file. All that is asked for is under way at once.
    pub async fn read(&self, handle: &[u8], offset: u64, size: usize) -> Called<Vec<u8>> {
        timeout(DATA, self.read_chunks(handle, offset, size)).await.unwrap_or(Err(Fault::Late))
    }

    async fn read_chunks(&self, handle: &[u8], offset: u64, size: usize) -> Called<Vec<u8>> {
        let ask = |at: u64, length: usize| {
            self.send(|id| Request::new(packet::READ, id).string(handle).u64(at).u32(length as u32))
        };
        let _turn = self.turn(size).await?;
        let mut replies = VecDeque::new();
        for start in (0..size).step_by(self.chunk) {
            let length = self.chunk.min(size - start);
            replies.push_back((ask(offset + start as u64, length)?, length));
        }
        let mut bytes = Vec::with_capacity(size);
        while let Some((reply, mut wanted)) = replies.pop_front() {
            let mut answer = data(reply.within(DATA).await?, wanted)?;
            // A part may come in parts.
            while let Some(part) = answer {
                bytes.extend_from_slice(&part);
                wanted -= part.len();
                if wanted == 0 {
                    break;
                }
                answer = data(ask(offset + bytes.len() as u64, wanted)?.within(DATA).await?, wanted)?;
            }
            if wanted > 0 {
                break;
            }
        }
        Ok(bytes)
    }

    /// Sends a write; its end is to be awaited by whoever answers for the bytes.
    pub async fn write(&self, handle: &[u8], offset: u64, bytes: &[u8]) -> Called<Writing> {
        let turn = timeout(DATA, self.turn(bytes.len())).await.unwrap_or(Err(Fault::Late))?;
        let mut replies = Vec::new();
        for (index, part) in bytes.chunks(self.chunk).enumerate() {
            let at = offset + (index * self.chunk) as u64;
            replies.push(self.send(|id| Request::new(packet::WRITE, id).string(handle).u64(at).string(part))?);
        }
        Ok(Writing { replies, _turn: turn })
    }

    /// Leave to have so many bytes under way, all of it at once: two that wait for each other's rest would never end.
    async fn turn(&self, bytes: usize) -> Called<OwnedSemaphorePermit> {
        let chunks = bytes.div_ceil(self.chunk).clamp(1, CHUNKS) as u32;
        Arc::clone(&self.chunks).acquire_many_owned(chunks).await.map_err(|_| Fault::Gone)
    }

    /// The whole directory but `.` and `..`, and without names that no file can have.
    pub async fn list(&self, path: &[u8]) -> Called<Vec<Entry>> {
        self.list_until(path, pending()).await
    }

    /// The same; `Late` when it is given up before it has come to its end.
    pub async fn list_until(&self, path: &[u8], given_up: impl Future<Output = ()>) -> Called<Vec<Entry>> {
        let answer = self.call(METADATA, |id| Request::new(packet::OPENDIR, id).string(path)).await?;
        let opened = handle(answer)?;
        let listed = tokio::select! {           // a handle that is not let go of stays with the guest
            listed = timeout(DATA, self.list_opened(&opened)) => listed.unwrap_or(Err(Fault::Late)),
            () = given_up => Err(Fault::Late),
        };
        self.forget(&opened);
        listed
    }

    async fn list_opened(&self, handle: &[u8]) -> Called<Vec<Entry>> {
        let ask = || self.send(|id| Request::new(packet::READDIR, id).string(handle));
        let mut replies = VecDeque::new();
        let mut entries: Vec<Entry> = Vec::new();
        while entries.len() < ENTRIES_MAX {
            while replies.len() < LISTING {
                replies.push_back(ask()?);
            }
            let Some(reply) = replies.pop_front() else { break };
            match reply.within(METADATA).await? {
                Answer::Names(names) if names.is_empty() => return Err(Garbled.into()),
                Answer::Names(names) => entries.extend(names.into_iter().filter(|entry| is_name(&entry.name))),
                Answer::Status(EOF) => break,
                Answer::Status(code) => return Err(Fault::Status(code)),
                _ => return Err(Garbled.into()),
            }
        }
        Ok(entries)
    }

    pub async fn mkdir(&self, path: &[u8], mode: u32) -> Called<()> {
        let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
        done(self.call(METADATA, |id| Request::new(packet::MKDIR, id).string(path).attrs(&attrs)).await?)
    }

    pub async fn rmdir(&self, path: &[u8]) -> Called<()> {
        done(self.call(METADATA, |id| Request::new(packet::RMDIR, id).string(path)).await?)
    }

    pub async fn remove(&self, path: &[u8]) -> Called<()> {
        done(self.call(METADATA, |id| Request::new(packet::REMOVE, id).string(path)).await?)
    }

    /// Replaces what is at `to`. Where the guest cannot do that the protocol's own rename refuses.
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Called<()> {
        let make = |id| match self.features.posix_rename {
            true => Request::extended("posix-rename@openssh.com", id).string(from).string(to),
            false => Request::new(packet::RENAME, id).string(from).string(to),
        };
        done(self.call(METADATA, make).await?)
    }

    /// Fails with EEXIST's status where there is something at `to`.
    pub async fn rename_new(&self, from: &[u8], to: &[u8]) -> Called<()> {
        done(self.call(METADATA, |id| Request::new(packet::RENAME, id).string(from).string(to)).await?)
    }

    pub async fn readlink(&self, path: &[u8]) -> Called<Vec<u8>> {
        match self.call(METADATA, |id| Request::new(packet::READLINK, id).string(path)).await? {
            Answer::Names(names) => Ok(names.into_iter().next().ok_or(Garbled)?.name),
            Answer::Status(code) => Err(Fault::Status(code)),
            _ => Err(Garbled.into()),
        }
    }

    /// OpenSSH takes the two the other way round than the draft says, and all clients follow it.
    pub async fn symlink(&self, path: &[u8], to: &[u8]) -> Called<()> {
        done(self.call(METADATA, |id| Request::new(packet::SYMLINK, id).string(to).string(path)).await?)
    }

    pub async fn hardlink(&self, old: &[u8], new: &[u8]) -> Called<()> {
        if !self.features.hardlink {
            return Err(Fault::Status(UNSUPPORTED));
        }
        let make = |id| Request::extended("hardlink@openssh.com", id).string(old).string(new);
        done(self.call(METADATA, make).await?)
    }

    /// A guest that cannot is believed to write what it was given.
    pub async fn fsync(&self, handle: &[u8]) -> Called<()> {
        if !self.features.fsync {
            return Ok(());
        }
        done(self.call(DATA, |id| Request::extended("fsync@openssh.com", id).string(handle)).await?)
    }

    pub async fn statvfs(&self, path: &[u8]) -> Called<Room> {
        if !self.features.statvfs {
            return Err(Fault::Status(UNSUPPORTED));
        }
        match self.call(METADATA, |id| Request::extended("statvfs@openssh.com", id).string(path)).await? {
            Answer::Extended(body) => Ok(packet::room(body)?),
            Answer::Status(code) => Err(Fault::Status(code)),
            _ => Err(Garbled.into()),
        }
    }
}

/// A write that is under way.
pub struct Writing {
    replies: Vec<Reply>,
    _turn: OwnedSemaphorePermit,
}

impl Writing {
    /// Waits until the guest has taken all of it.
    pub async fn done(self, limit: Duration) -> Called<()> {
        let end = Instant::now() + limit;
        for reply in self.replies {
            reply.done(end.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
    }
}

fn attrs(answer: Answer) -> Called<Attrs> {
    match answer {
        Answer::Attrs(attrs) => Ok(attrs),
        Answer::Status(code) => Err(Fault::Status(code)),
        _ => Err(Garbled.into()),
    }
}

fn handle(answer: Answer) -> Called<Bytes> {
    match answer {
        Answer::Handle(handle) if handle.len() <= 256 => Ok(handle),
        Answer::Status(code) if code != 0 => Err(Fault::Status(code)),
        _ => Err(Garbled.into()),
    }
}

/// At most `wanted` bytes; `None` at the end of the file.
fn data(answer: Answer, wanted: usize) -> Called<Option<Bytes>> {
    match answer {
        Answer::Data(bytes) if !bytes.is_empty() && bytes.len() <= wanted => Ok(Some(bytes)),
        Answer::Status(EOF) => Ok(None),
        Answer::Status(code) if code != 0 => Err(Fault::Status(code)),
        _ => Err(Garbled.into()),
    }
}

/// Whether a file can have that name; a guest may say anything.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
