//! What is asked of names and attributes in a guest: lookup, stat, listing, and their changes.

use std::time::{Duration, Instant, SystemTime};

use super::table::Place;
use super::{Ask, DIRECTORY, GuestAttr, GuestFile, Guests, Outcome, Seen};
use crate::error::{Error, Result};
use crate::sftp::{Attempt, Attrs, Called, Room};
use crate::view::handle::Fh;
use crate::view::ino::{Ino, Key};
use crate::view::io::stale;

/// An owner: the guest's user, who is shown as the mount's, or another one by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    User,
    Other(u32),
}

impl Id {
    pub(super) fn of(id: u32, user: u32) -> Self {
        if id == user { Self::User } else { Self::Other(id) }
    }

    fn number(self, user: u32) -> u32 {
        match self {
            Self::User => user,
            Self::Other(id) => id,
        }
    }
}

/// Times to be set; `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub accessed: Option<SystemTime>,
    pub modified: Option<SystemTime>,
}

/// What setattr(2) is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Set {
    pub mode: Option<u32>,
    pub uid: Option<Id>,
    pub gid: Option<Id>,
    pub size: Option<u64>,
    pub times: Times,
}

/// What is made under a new name.
enum Making {
    Directory(u32),
    Symlink(Vec<u8>),
    /// A hard link to a file.
    Link(Place),
}

impl Guests {
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Outcome<Seen> {
        let place = match self.place(parent).and_then(|parent| parent.child(name)) {
            Ok(place) => place,
            Err(error) => return Err(error).into(),
        };
        if let Some(seen) = self.kept(&place) {
            return Ok(seen).into();
        }
        let guests = self.clone();
        Outcome::later(async move { guests.look(place).await })
    }

    /// Asks the guest for attributes.
    pub(super) async fn look(&self, place: Place) -> Result<Seen> {
        let ask = self.ask(place.key).await?;
        self.look_with(&ask, place).await
    }

    async fn look_with(&self, ask: &Ask, place: Place) -> Result<Seen> {
        let epoch = self.epoch();
        let attrs = ask.end(ask.client.lstat(&place.path).await, Attempt::Look).await?;
        let seen = Seen { place, attrs, user: ask.client.user() };
        self.keep([seen.clone()], epoch, Instant::now());
        Ok(seen)
    }

    pub fn getattr(&self, ino: Ino) -> Outcome<GuestAttr> {
        let place = match self.place(ino) {
            Ok(place) if place.is_root() => return self.root_attr(ino, place.key).into(),
            Ok(place) => place,
            Err(_) => return self.attr_of_removed(ino),
        };
        if let Some(seen) = self.kept(&place) {
            return Ok(seen.attr(ino)).into();
        }
        let guests = self.clone();
        Outcome::later(async move { Ok(guests.look(place).await?.attr(ino)) })
    }

    /// From memory: `ls .guest` asks no guest.
    pub(in crate::view) fn root_attr(&self, ino: Ino, key: Key) -> Result<GuestAttr> {
        let since = {
            self.link(key)?;
            let mut tree = self.0.0.tree.lock();
            SystemTime::from(tree.snapshot(key, &self.0.0.host)?.since())
        };
        Ok(GuestAttr {
            ino,
            mode: DIRECTORY | 0o700,
            size: 4096,
            accessed: since,
            modified: since,
            uid: Id::User,
            gid: Id::User,
            cached: false,
        })
    }

    /// A file that is removed can be asked for only where it is open.
    fn attr_of_removed(&self, ino: Ino) -> Outcome<GuestAttr> {
        let guests = self.clone();
        Outcome::later(async move {
            let file = guests.any_open(ino).ok_or_else(stale)?;
            Ok(file.seen(&guests).await?.attr(ino))
        })
    }

    pub fn setattr(&self, ino: Ino, fh: Option<Fh>, set: Set) -> Outcome<GuestAttr> {
        let guests = self.clone();
        Outcome::later(async move { guests.set(ino, fh, set).await })
    }

    async fn set(&self, ino: Ino, fh: Option<Fh>, set: Set) -> Result<GuestAttr> {
        let file = fh.and_then(|fh| self.file(fh).ok()).or_else(|| self.any_open(ino));
        let Ok(place) = self.place(ino) else {
            let file = file.ok_or_else(stale)?;
            return self.set_removed(ino, &file, set).await;
        };
        let ask = self.ask(place.key).await?;
        let changes = self.changes(&ask, &place, set).await?;
        self.touched(&[&place]);
        // Sent together: the guest answers in that order.
        let (done, looked) = match file.filter(|_| set.size.is_some()) {
            Some(file) => (file.set(self, &changes).await, ask.client.lstat(&place.path).await),
            None => {
                let setting = ask.client.setstat(&place.path, &changes);
                let (set, looked) = tokio::join!(setting, ask.client.lstat(&place.path));
                (ask.end(set, Attempt::Set(&place.path)).await, looked)
            }
        };
        self.touched(&[&place]);
        done?;
        Ok(self.seen_now(&ask, place, looked).await?.attr(ino))
    }

    /// Takes in what a look that was sent with a change came to.
    pub(super) async fn seen_now(&self, ask: &Ask, place: Place, looked: Called<Attrs>) -> Result<Seen> {
        let attrs = ask.end(looked, Attempt::Look).await?;
        Ok(Seen { place, attrs, user: ask.client.user() })
    }

    async fn set_removed(&self, ino: Ino, file: &GuestFile, set: Set) -> Result<GuestAttr> {
        let now = file.seen(self).await?;
        file.set(self, &merged(&now.attrs, set, now.user)).await?;
        Ok(file.seen(self).await?.attr(ino))
    }

    /// The protocol sets both owners at once, and both times: what is not to change is set to what it is.
    async fn changes(&self, ask: &Ask, place: &Place, set: Set) -> Result<Attrs> {
        let is_half =
            set.uid.is_some() != set.gid.is_some() || set.times.accessed.is_some() != set.times.modified.is_some();
        let now = if is_half { self.look_with(ask, place.clone()).await?.attrs } else { Attrs::default() };
        Ok(merged(&now, set, ask.client.user()))
    }

    pub fn readlink(&self, ino: Ino) -> Outcome<Vec<u8>> {
        let guests = self.clone();
        Outcome::later(async move {
            let place = guests.place(ino)?;
            let ask = guests.ask(place.key).await?;
            let text = ask.end(ask.client.readlink(&place.path).await, Attempt::Look).await?;
            Ok(super::contain::contain(&place.path, &text))
        })
    }

    pub fn mkdir(&self, parent: Ino, name: &[u8], mode: u32) -> Outcome<Seen> {
        self.made(parent, name, Making::Directory(mode))
    }

    pub fn symlink(&self, parent: Ino, name: &[u8], to: &[u8]) -> Outcome<Seen> {
        self.made(parent, name, Making::Symlink(to.to_vec()))
    }

    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Outcome<()> {
        let (guests, place) = (self.clone(), self.place(parent).and_then(|parent| parent.child(name)));
        Outcome::later(async move {
            let place = place?;
            let ask = guests.ask(place.key).await?;
            let done = ask.end(ask.client.remove(&place.path).await, Attempt::Remove(&place.path)).await;
            guests.removed(place, done)
        })
    }

    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Outcome<()> {
        let (guests, place) = (self.clone(), self.place(parent).and_then(|parent| parent.child(name)));
        Outcome::later(async move {
            let place = place?;
            let ask = guests.ask(place.key).await?;
            let done = ask.end(ask.client.rmdir(&place.path).await, Attempt::RemoveDirectory(&place.path)).await;
            guests.removed(place, done)
        })
    }

    fn removed(&self, place: Place, done: Result<()>) -> Result<()> {
        self.touched(&[&place, &place.parent()]);
        done?;
        self.shelf().table.lock().unlink(&place);
        Ok(())
    }

    /// `keep` refuses to replace what is there.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), keep: bool) -> Outcome<()> {
        let guests = self.clone();
        let from = self.place(from.0).and_then(|parent| parent.child(from.1));
        let to = self.place(to.0).and_then(|parent| parent.child(to.1));
        Outcome::later(async move {
            let (from, to) = (from?, to?);
            if from.key != to.key {
                // `mv` copies then.
                return Err(Error::Io { path: "guest".into(), source: std::io::Error::from_raw_os_error(libc::EXDEV) });
            }
            guests.renamed(from, to, keep).await
        })
    }

    async fn renamed(&self, from: Place, to: Place, keep: bool) -> Result<()> {
        let ask = self.ask(from.key).await?;
        if keep && ask.client.lstat(&to.path).await.is_ok() {
            return Err(Error::Exists { what: "the new name".into() });
        }
        let called = if keep {
            ask.client.rename_new(&from.path, &to.path).await
        } else {
            ask.client.rename(&from.path, &to.path).await
        };
        let done = ask.end(called, Attempt::Rename(&from.path, &to.path)).await;
        self.touched(&[&from, &to, &from.parent(), &to.parent()]);
        // What was kept of what is below has other paths now.
        self.shelf()
            .kept
            .lock()
            .retain(|place, _| !place.path.starts_with(&from.path) && !place.path.starts_with(&to.path));
        done?;
        self.shelf().table.lock().rename(&from, &to);
        Ok(())
    }

    pub fn hardlink(&self, ino: Ino, parent: Ino, name: &[u8]) -> Outcome<Seen> {
        match self.place(ino) {
            Ok(old) => self.made(parent, name, Making::Link(old)),
            Err(error) => Err(error).into(),
        }
    }

    /// Makes something that must not be there yet, and looks at it.
    fn made(&self, parent: Ino, name: &[u8], what: Making) -> Outcome<Seen> {
        let (guests, place) = (self.clone(), self.place(parent).and_then(|parent| parent.child(name)));
        Outcome::later(async move {
            let place = place?;
            let ask = guests.ask(place.key).await?;
            // Sent together: the guest answers in that order.
            let looking = ask.client.lstat(&place.path);
            let (called, looked) = match &what {
                Making::Directory(mode) => tokio::join!(ask.client.mkdir(&place.path, *mode), looking),
                Making::Symlink(to) => tokio::join!(ask.client.symlink(&place.path, to), looking),
                Making::Link(old) => tokio::join!(ask.client.hardlink(&old.path, &place.path), looking),
            };
            let done = ask.end(called, Attempt::Make(&place.path)).await;
            guests.touched(&[&place, &place.parent()]);
            done?;
            guests.seen_now(&ask, place, looked).await
        })
    }

    pub fn statfs(&self, ino: Ino) -> Outcome<Room> {
        let guests = self.clone();
        Outcome::later(async move {
            let place = guests.place(ino)?;
            let ask = guests.ask(place.key).await?;
            ask.end(ask.client.statvfs(&place.path).await, Attempt::Look).await
        })
    }
}

/// The changes as the protocol has them; `now` is what the file has.
fn merged(now: &Attrs, set: Set, user: (u32, u32)) -> Attrs {
    let owner = now.owner.unwrap_or(user);
    let number = |id: Option<Id>, user: u32, now: u32| id.map_or(now, |id| id.number(user));
    let is_owner_set = set.uid.is_some() || set.gid.is_some();
    let times = now.times.unwrap_or((0, 0));
    let are_times_set = set.times.accessed.is_some() || set.times.modified.is_some();
    Attrs {
        size: set.size,
        owner: is_owner_set.then(|| (number(set.uid, user.0, owner.0), number(set.gid, user.1, owner.1))),
        mode: set.mode.map(|mode| mode & 0o7777),
        times: are_times_set
            .then(|| (set.times.accessed.map_or(times.0, seconds), set.times.modified.map_or(times.1, seconds))),
    }
}

/// The protocol has whole seconds since 1970, up to 2106.
fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
