//! The errno behind the protocol's few words for failure, found by a second look at the guest.

use super::{Client, Fault};

const EOF: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const FAILURE: u32 = 4;
const BAD_MESSAGE: u32 = 5;
const UNSUPPORTED: u32 = 8;

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

/// What was tried, for the word that says only that it failed.
#[derive(Debug, Clone, Copy)]
pub enum Attempt<'a> {
    /// Looking, or reading.
    Look,
    /// Making something that must not be there.
    Make(&'a [u8]),
    /// Opening a file to write.
    Open(&'a [u8]),
    /// Changing bytes of a file.
    Write(&'a [u8]),
    /// Changing a mode, an owner or times.
    Set(&'a [u8]),
    Remove(&'a [u8]),
    RemoveDirectory(&'a [u8]),
    Rename(&'a [u8], &'a [u8]),
}

impl Client {
    /// The errno of a fault; EIO where even a second look tells nothing.
    pub async fn errno(&self, attempt: Attempt<'_>, fault: Fault) -> i32 {
        match (fault, attempt) {
            (Fault::Gone, _) => libc::EHOSTDOWN,
            (Fault::Late, _) => libc::ETIMEDOUT,
            (Fault::Garbled(_) | Fault::Status(EOF), _) => libc::EIO,
            (Fault::Status(NO_SUCH_FILE), _) => libc::ENOENT,
            (Fault::Status(PERMISSION_DENIED), Attempt::Set(_)) => libc::EPERM,
            (Fault::Status(PERMISSION_DENIED), _) => libc::EACCES,
            (Fault::Status(BAD_MESSAGE), _) => libc::EINVAL,
            (Fault::Status(UNSUPPORTED), _) => libc::EOPNOTSUPP,
            (Fault::Status(FAILURE), attempt) => self.second_look(attempt).await.unwrap_or(libc::EIO),
            (Fault::Status(_), _) => libc::EIO,
        }
    }

    async fn second_look(&self, attempt: Attempt<'_>) -> Option<i32> {
        match attempt {
            Attempt::Look => None,
            Attempt::Make(path) if self.kind(path).await.is_some() => Some(libc::EEXIST),
            Attempt::Make(path) => self.refuses_writes(parent(path)).await,
            Attempt::Open(path) | Attempt::Remove(path) if self.is_directory(path).await => Some(libc::EISDIR),
            Attempt::Open(path) | Attempt::Write(path) | Attempt::Set(path) => self.refuses_writes(path).await,
            Attempt::Remove(path) => self.refuses_writes(parent(path)).await,
            Attempt::RemoveDirectory(path) => match self.is_directory(path).await {
                false => Some(libc::ENOTDIR),
                true if self.is_empty(path).await => self.refuses_writes(parent(path)).await.or(Some(libc::EBUSY)),
                true => Some(libc::ENOTEMPTY),
            },
            Attempt::Rename(from, to) => self.why_not_renamed(from, to).await,
        }
    }

    async fn why_not_renamed(&self, from: &[u8], to: &[u8]) -> Option<i32> {
        match (self.is_directory(from).await, self.kind(to).await) {
            (true, Some(DIRECTORY)) if !self.is_empty(to).await => return Some(libc::ENOTEMPTY),
            (true, Some(kind)) if kind != DIRECTORY => return Some(libc::ENOTDIR),
            (false, Some(DIRECTORY)) => return Some(libc::EISDIR),
            _ => {}
        }
        if to.starts_with(from) && to.get(from.len()) == Some(&b'/') {
            return Some(libc::EINVAL);
        }
        let (old, new) = (self.statvfs(parent(from)).await.ok()?, self.statvfs(parent(to)).await.ok()?);
        if old.id != new.id {
            // `mv` copies then.
            return Some(libc::EXDEV);
        }
        self.refuses_writes(parent(to)).await
    }

    async fn refuses_writes(&self, path: &[u8]) -> Option<i32> {
        let room = self.statvfs(path).await.ok()?;
        match () {
            () if room.read_only => Some(libc::EROFS),
            // Of those that have any: /proc has none, full or not.
            () if room.blocks > 0 && room.available == 0 => Some(libc::ENOSPC),
            () if room.files > 0 && room.files_free == 0 => Some(libc::ENOSPC),
            () => None,
        }
    }

    async fn kind(&self, path: &[u8]) -> Option<u32> {
        Some(self.lstat(path).await.ok()?.mode? & TYPE)
    }

    async fn is_directory(&self, path: &[u8]) -> bool {
        self.kind(path).await == Some(DIRECTORY)
    }

    async fn is_empty(&self, path: &[u8]) -> bool {
        self.list(path).await.is_ok_and(|entries| entries.is_empty())
    }
}

fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(end) => &path[..end],
    }
}
