//! Open files and directories of guests: reading ahead, writing without waiting for each answer, and going on after the
//! connection was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::ahead::{Ahead, STRIDE};
use super::table::Place;
use super::{Ask, Directory, Guests, Opened, Outcome, Seen};
use crate::error::Result;
use crate::sftp::{
    Attempt, Attrs, Called, Client, DATA, Fault, OPEN_APPEND, OPEN_CREATE, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE,
    OPEN_WRITE,
};
use crate::view::handle::Fh;
use crate::view::ino::{Ino, Key};
use crate::view::io::stale;

/// An open file of a guest.
pub struct GuestFile {
    key: Key,
    /// `None` until the kernel was told of the file that was created with this handle.
    ino: Mutex<Option<Ino>>,
    flags: u32,
    /// Every write waits for its answer.
    is_sync: bool,
    handle: Mutex<Arc<Remote>>,
    ahead: Mutex<Ahead>,
    /// Writes whose answers nobody has waited for yet.
    writes: Mutex<JoinSet<Called<()>>>,
    has_written: AtomicBool,
}

/// A handle of the guest's side; let go of when dropped.
struct Remote {
    client: Arc<Client>,
    handle: Bytes,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.client.forget(&self.handle);
    }
}

/// The flags of open(2) in the protocol's words.
fn flags_of(flags: i32) -> u32 {
    let access = match flags & libc::O_ACCMODE {
        libc::O_WRONLY => OPEN_WRITE,
        libc::O_RDWR => OPEN_READ | OPEN_WRITE,
        _ => OPEN_READ,
    };
    let more = [
        (libc::O_CREAT, OPEN_CREATE),
        (libc::O_EXCL, OPEN_EXCLUSIVE),
        (libc::O_TRUNC, OPEN_TRUNCATE),
        (libc::O_APPEND, OPEN_APPEND),
    ];
    more.iter().filter(|(flag, _)| flags & flag != 0).fold(access, |all, (_, word)| all | word)
}

impl Guests {
    pub fn open(&self, ino: Ino, flags: i32) -> Outcome<GuestFile> {
        let guests = self.clone();
        Outcome::later(async move {
            let place = guests.place(ino)?;
            guests.opened(&place, Some(ino), flags & !libc::O_CREAT & !libc::O_EXCL, 0).await
        })
    }

    /// Opens a file that need not be there yet.
    pub fn create(&self, parent: Ino, name: &[u8], mode: u32, flags: i32) -> Outcome<(Seen, GuestFile)> {
        let (guests, place) = (self.clone(), self.place(parent).and_then(|parent| parent.child(name)));
        Outcome::later(async move {
            let place = place?;
            let ask = guests.ask(place.key).await?;
            // Sent together: the guest answers in that order.
            let opening = guests.opened(&place, None, flags | libc::O_CREAT, mode);
            let (file, looked) = tokio::join!(opening, ask.client.lstat(&place.path));
            guests.touched(&[&place, &place.parent()]);
            let file = file?;
            Ok((guests.seen_now(&ask, place, looked).await?, file))
        })
    }

    async fn opened(&self, place: &Place, ino: Option<Ino>, flags: i32, mode: u32) -> Result<GuestFile> {
        let ask = self.ask(place.key).await?;
        let words = flags_of(flags);
        let attempt = match words {
            _ if words & OPEN_EXCLUSIVE != 0 => Attempt::Make(&place.path),
            _ if words & OPEN_WRITE != 0 => Attempt::Open(&place.path),
            _ => Attempt::Look,
        };
        let handle = ask.end(ask.client.open(&place.path, words, mode).await, attempt).await?;
        if words & OPEN_TRUNCATE != 0 {
            self.touched(&[place]);
        }
        let remote = Remote { client: Arc::clone(&ask.client), handle };
        Ok(GuestFile {
            key: place.key,
            ino: Mutex::new(ino),
            flags: words & !(OPEN_CREATE | OPEN_EXCLUSIVE | OPEN_TRUNCATE),
            is_sync: flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
            handle: Mutex::new(Arc::new(remote)),
            ahead: Mutex::default(),
            writes: Mutex::default(),
            has_written: AtomicBool::new(false),
        })
    }

    /// Gives an opened file its number; for a created one, with the inode that the kernel is told of.
    pub fn adopt(&self, file: GuestFile, ino: Option<Ino>) -> Fh {
        if ino.is_some() {
            *file.ino.lock() = ino;
        }
        self.insert(Opened::File(Arc::new(file)))
    }

    pub fn adopt_directory(&self, directory: Directory) -> Fh {
        self.insert(Opened::Directory(Arc::new(directory)))
    }

    fn insert(&self, opened: Opened) -> Fh {
        let fh = Fh(self.shelf().last.fetch_add(1, Ordering::Relaxed));
        self.shelf().open.lock().insert(fh, opened);
        fh
    }

    pub(super) fn file(&self, fh: Fh) -> Result<Arc<GuestFile>> {
        match self.shelf().open.lock().get(&fh) {
            Some(Opened::File(file)) => Ok(Arc::clone(file)),
            _ => Err(stale()),
        }
    }

    pub fn listing(&self, fh: Fh) -> Result<Arc<Directory>> {
        match self.shelf().open.lock().get(&fh) {
            Some(Opened::Directory(directory)) => Ok(Arc::clone(directory)),
            _ => Err(stale()),
        }
    }

    /// Any open file of that number.
    pub(super) fn any_open(&self, ino: Ino) -> Option<Arc<GuestFile>> {
        let open = self.shelf().open.lock();
        let files = open.values().filter_map(|opened| match opened {
            Opened::File(file) => Some(file),
            Opened::Directory(_) => None,
        });
        files.into_iter().find(|file| *file.ino.lock() == Some(ino)).cloned()
    }

    pub fn read(&self, fh: Fh, offset: u64, size: usize) -> Outcome<Bytes> {
        let (guests, file) = (self.clone(), self.file(fh));
        Outcome::later(async move { file?.read(&guests, offset, size).await })
    }

    pub fn write(&self, fh: Fh, offset: u64, data: &[u8]) -> Outcome<usize> {
        let (guests, file, data) = (self.clone(), self.file(fh), Bytes::copy_from_slice(data));
        Outcome::later(async move { file?.write(&guests, offset, &data).await.map(|()| data.len()) })
    }

    /// close(2), or fsync(2): waits until the guest has taken all that was written, and tells what went wrong.
    pub fn flush(&self, fh: Fh, durable: bool) -> Outcome<()> {
        let Ok(file) = self.file(fh) else { return Ok(()).into() };
        if !file.has_written.load(Ordering::Relaxed) {
            return Ok(()).into();
        }
        let guests = self.clone();
        Outcome::later(async move { file.flush(&guests, durable).await })
    }

    pub fn release(&self, fh: Fh) {
        // Dropped outside the lock.
        let released = self.shelf().open.lock().remove(&fh);
        drop(released);
    }
}

impl GuestFile {
    fn place(&self, guests: &Guests) -> Option<Place> {
        let ino = (*self.ino.lock())?;
        guests.place(ino).ok()
    }

    fn path(&self, guests: &Guests) -> Arc<[u8]> {
        self.place(guests).map_or_else(|| Arc::from(b"/".as_slice()), |place| place.path)
    }

    /// The guest's handle, opened again where the connection is another one by now.
    async fn remote(&self, guests: &Guests) -> Result<(Ask, Arc<Remote>)> {
        let ask = guests.ask(self.key).await?;
        let known = Arc::clone(&self.handle.lock());
        if Arc::ptr_eq(&known.client, &ask.client) {
            return Ok((ask, known));
        }
        let place = self.place(guests).ok_or_else(stale)?;
        let handle = ask.end(ask.client.open(&place.path, self.flags, 0).await, Attempt::Look).await?;
        let remote = Arc::new(Remote { client: Arc::clone(&ask.client), handle });
        *self.handle.lock() = Arc::clone(&remote);
        Ok((ask, remote))
    }

    async fn read(&self, guests: &Guests, offset: u64, size: usize) -> Result<Bytes> {
        let epoch = guests.epoch();
        let goes_on = self.ahead.lock().goes_on(offset, size);
        let mut bytes = BytesMut::with_capacity(size);
        while let Some((part, is_end)) = self.read_ahead(offset + bytes.len() as u64, size - bytes.len(), epoch).await {
            bytes.extend_from_slice(&part);
            if is_end || bytes.len() == size {
                break;
            }
        }
        let (ask, remote) = self.remote(guests).await?;
        if bytes.is_empty() && size > 0 {
            let read = ask.client.read(&remote.handle, offset, size).await;
            bytes = Bytes::from(ask.end(read, Attempt::Look).await?).into();
        }
        if goes_on && bytes.len() == size {
            self.go_ahead(&remote, offset + size as u64, epoch);
        }
        Ok(bytes.freeze())
    }

    /// What was read ahead from `offset`, at most `size` bytes of it, and whether the file ends there.
    async fn read_ahead(&self, offset: u64, size: usize, epoch: u64) -> Option<(Bytes, bool)> {
        let mut stride = self.ahead.lock().take(offset, epoch)?;
        let mut bytes = stride.bytes().await.filter(|bytes| !bytes.is_empty())?;
        let is_short = stride.is_short(&bytes);
        let part = bytes.split_to(size.min(bytes.len()));
        if !bytes.is_empty() {
            self.ahead.lock().put_back(&stride, offset + part.len() as u64, bytes.clone());
        }
        Some((part, is_short && bytes.is_empty()))
    }

    fn go_ahead(&self, remote: &Arc<Remote>, end: u64, epoch: u64) {
        let mut ahead = self.ahead.lock();
        for offset in ahead.wanted(end) {
            let remote = Arc::clone(remote);
            let reading = async move { remote.client.read(&remote.handle, offset, STRIDE).await };
            ahead.push(offset, epoch, AbortOnDropHandle::new(tokio::spawn(reading)));
        }
    }

    /// The first write of a handle is waited for, so that a shell's `echo x > file` is told what is wrong; the answers to
    /// the others are awaited by the close.
    async fn write(&self, guests: &Guests, offset: u64, data: &Bytes) -> Result<()> {
        self.note_ended(guests).await?;
        let (ask, remote) = self.remote(guests).await?;
        let path = self.path(guests);
        let place = Place { key: self.key, path: Arc::clone(&path) };
        guests.touched(&[&place]);
        let writing = ask.end(ask.client.write(&remote.handle, offset, data).await, Attempt::Write(&path)).await?;
        let is_first = !self.has_written.swap(true, Ordering::Relaxed);
        if is_first || self.is_sync {
            let done = ask.end(writing.done(DATA).await, Attempt::Write(&path)).await;
            guests.touched(&[&place]);
            return done;
        }
        self.writes.lock().spawn(async move { writing.done(DATA).await });
        Ok(())
    }

    /// Takes in the writes that have come to their end meanwhile.
    async fn note_ended(&self, guests: &Guests) -> Result<()> {
        let fault = {
            let mut writes = self.writes.lock();
            let mut fault = None;
            while let Some(ended) = writes.try_join_next() {
                fault = fault.or(ended.unwrap_or(Err(Fault::Gone)).err());
            }
            fault
        };
        self.told(guests, fault).await
    }

    async fn flush(&self, guests: &Guests, durable: bool) -> Result<()> {
        let mut writes = std::mem::take(&mut *self.writes.lock());
        let mut fault = None;
        while let Some(ended) = writes.join_next().await {
            fault = fault.or(ended.unwrap_or(Err(Fault::Gone)).err());
        }
        if let Some(place) = self.place(guests) {
            guests.touched(&[&place]);
        }
        self.told(guests, fault).await?;
        if durable {
            let (ask, remote) = self.remote(guests).await?;
            let path = self.path(guests);
            ask.end(ask.client.fsync(&remote.handle).await, Attempt::Write(&path)).await?;
        }
        Ok(())
    }

    async fn told(&self, guests: &Guests, fault: Option<Fault>) -> Result<()> {
        let Some(fault) = fault else { return Ok(()) };
        let ask = guests.ask(self.key).await?;
        let path = self.path(guests);
        ask.end(Err(fault), Attempt::Write(&path)).await
    }

    /// Sets attributes of the open file.
    pub(super) async fn set(&self, guests: &Guests, changes: &Attrs) -> Result<()> {
        let (ask, remote) = self.remote(guests).await?;
        let path = self.path(guests);
        ask.end(ask.client.fsetstat(&remote.handle, changes).await, Attempt::Set(&path)).await
    }

    /// Attributes of the open file.
    pub(super) async fn seen(&self, guests: &Guests) -> Result<Seen> {
        let (ask, remote) = self.remote(guests).await?;
        let attrs = ask.end(ask.client.fstat(&remote.handle).await, Attempt::Look).await?;
        let place = Place { key: self.key, path: self.path(guests) };
        Ok(Seen { place, attrs, user: ask.client.user() })
    }
}
