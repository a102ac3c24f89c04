//! `.guest/NAME/`: the files of a running guest, over sftp. The one part of the tree that asks somebody: always beside
//! the callbacks, always within a deadline, and EHOSTDOWN at once where the guest is known to be down. `.guest` itself
//! lists as empty, so that nothing that reads the whole tree walks into guests.
//!
//! Its inode numbers are its own (see [`Ino::is_guest`]); names are bytes. Symbolic links are texts here and are never
//! followed; what the host may see of them stays inside the guest (`contain`).

mod ahead;
mod contain;
mod entries;
mod file;
mod listing;
mod table;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::task::JoinSet;

pub use entries::{Id, Set, Times};
pub use file::GuestFile;
pub use listing::{Directory, Listed};

use super::handle::Fh;
use super::ino::{Ino, Key};
use super::look::missing;
use super::snapshot::{Live, Snapshot};
use super::{Attr, Outcome, View};
use crate::agent::link::Link;
use crate::error::{Error, Result};
use crate::sftp::{Attempt, Attrs, Called, Client};
use crate::status::State;
use listing::Listing;
use table::{Place, Table};
use walk::Walks;

/// For so long attributes are believed, here and in the kernel each.
pub const FRESH: Duration = Duration::from_secs(1);
/// So many attributes are kept at once.
const KEPT_MAX: usize = 64 << 10;

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// What stat(2) shows of a guest's file. Times of change are shown as those of modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestAttr {
    pub ino: Ino,
    /// Type and permission bits.
    pub mode: u32,
    pub size: u64,
    pub accessed: SystemTime,
    pub modified: SystemTime,
    pub uid: Id,
    pub gid: Id,
    /// Whether the kernel may keep it for [`FRESH`].
    pub cached: bool,
}

/// A file as it was seen; the kernel is told of it with [`Guests::enter`].
#[derive(Debug, Clone)]
pub struct Seen {
    place: Place,
    attrs: Attrs,
    user: (u32, u32),
}

/// What is kept of guests' files.
#[derive(Default)]
pub(super) struct Shelf {
    links: Mutex<HashMap<Key, Arc<Link>>>,
    table: Mutex<Table>,
    kept: Mutex<HashMap<Place, (Seen, Instant)>>,
    /// Counts the changes made through this mount: what was seen before one is not kept after it.
    epoch: AtomicU64,
    open: Mutex<HashMap<Fh, Opened>>,
    last: AtomicU64,
    walks: Mutex<Walks<Listing>>,
    /// The listings that nobody has asked for yet.
    listing: Mutex<JoinSet<()>>,
}

#[derive(Clone)]
enum Opened {
    File(Arc<GuestFile>),
    Directory(Arc<Directory>),
}

/// The guests' files, as the front end calls them.
#[derive(Clone)]
pub struct Guests(View);

/// A call to a guest that has begun.
struct Ask {
    link: Arc<Link>,
    client: Arc<Client>,
    begun: Instant,
}

impl Ask {
    /// The end of a call: its result, or the error that says why not.
    async fn end<T>(&self, called: Called<T>, attempt: Attempt<'_>) -> Result<T> {
        match called {
            Ok(value) => Ok(value),
            Err(fault) => Err(self.link.explain(&self.client, self.begun, attempt, fault).await),
        }
    }
}

impl View {
    pub fn guests(&self) -> Guests {
        Guests(self.clone())
    }

    /// What `.guest` has under a name: EHOSTDOWN for an instance whose guest cannot be asked.
    pub(super) fn guest_entry(&self, name: &str) -> Result<Attr> {
        let key = self.0.tree.lock().key(name).ok_or_else(|| missing(name))?;
        let ino = self.0.guests.table.lock().enter(&Place::root(key))?;
        let attr = self.guests().root_attr(ino, key)?;
        Ok(Attr::directory(ino, 0, attr.modified, (attr.mode & !TYPE) as u16).briefly())
    }
}

/// Whether an instance's guest can be asked at all.
pub(super) fn is_up(snapshot: &Snapshot) -> bool {
    let Live::Agent(status) = &snapshot.live else { return false };
    status.guest && matches!(status.state, State::Running | State::Degraded)
}

impl Guests {
    fn shelf(&self) -> &Shelf {
        &self.0.0.guests
    }

    /// Begins a call. EHOSTDOWN without asking anybody where the VM does not run.
    async fn ask(&self, key: Key) -> Result<Ask> {
        let link = self.link(key)?;
        let client = link.client().await?;
        Ok(Ask { link, client, begun: Instant::now() })
    }

    fn link(&self, key: Key) -> Result<Arc<Link>> {
        let mut tree = self.0.0.tree.lock();
        let snapshot = tree.snapshot(key, &self.0.0.host)?;
        let mut links = self.shelf().links.lock();
        if !is_up(snapshot) {
            // A VM that is paused goes on with what was open.
            if snapshot.state() != State::Paused {
                links.remove(&key);
            }
            return Err(Error::HostDown { what: snapshot.name.to_string() });
        }
        let link = links.entry(key).or_insert_with(|| Link::new(&snapshot.dir));
        if link.dir() != snapshot.dir {
            *link = Link::new(&snapshot.dir);
        }
        Ok(Arc::clone(link))
    }

    /// Tells the kernel of a file: it counts as known until it is forgotten.
    pub fn enter(&self, seen: &Seen) -> Result<GuestAttr> {
        let ino = self.shelf().table.lock().enter(&seen.place)?;
        Ok(seen.attr(ino))
    }

    pub fn forget(&self, ino: Ino, times: u64) {
        self.shelf().table.lock().forget(ino, times);
    }

    fn place(&self, ino: Ino) -> Result<Place> {
        self.shelf().table.lock().place(ino)
    }

    fn epoch(&self) -> u64 {
        self.shelf().epoch.load(Ordering::Relaxed)
    }

    /// Notes that something at these places is about to change, or has.
    fn touched(&self, places: &[&Place]) {
        self.shelf().epoch.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.shelf().kept.lock();
        for place in places {
            kept.remove(*place);
        }
    }

    /// Keeps what was seen at `since`, unless something has changed since `epoch`.
    fn keep(&self, seen: impl IntoIterator<Item = Seen>, epoch: u64, since: Instant) {
        let mut kept = self.shelf().kept.lock();
        if self.epoch() != epoch {
            return;
        }
        for seen in seen {
            if kept.len() >= KEPT_MAX {
                kept.retain(|_, (_, since)| since.elapsed() < FRESH);
            }
            if kept.len() < KEPT_MAX {
                kept.insert(seen.place.clone(), (seen, since));
            }
        }
    }

    fn kept(&self, place: &Place) -> Option<Seen> {
        let kept = self.shelf().kept.lock();
        kept.get(place).filter(|(_, since)| since.elapsed() < FRESH).map(|(seen, _)| seen.clone())
    }
}

impl GuestAttr {
    /// Of `.` and `..`.
    pub fn of_dots(ino: Ino) -> Self {
        let (accessed, modified) = (UNIX_EPOCH, UNIX_EPOCH);
        let (uid, gid) = (Id::User, Id::User);
        Self { ino, mode: DIRECTORY | 0o700, size: 0, accessed, modified, uid, gid, cached: false }
    }

    /// What the guest's user may do, as three bits. Of which other groups it is a member is not known here.
    pub fn permitted(&self) -> u32 {
        match (self.uid, self.gid) {
            (Id::User, _) => self.mode >> 6 & 0o7,
            (_, Id::User) => self.mode >> 3 & 0o7,
            _ => (self.mode >> 3 | self.mode) & 0o7,
        }
    }
}

impl Seen {
    fn attr(&self, ino: Ino) -> GuestAttr {
        let time = |seconds: Option<u32>| UNIX_EPOCH + Duration::from_secs(u64::from(seconds.unwrap_or(0)));
        let (uid, gid) = self.attrs.owner.unwrap_or(self.user);
        GuestAttr {
            ino,
            mode: self.attrs.mode.unwrap_or(REGULAR),
            size: self.attrs.size.unwrap_or(0),
            accessed: time(self.attrs.times.map(|times| times.0)),
            modified: time(self.attrs.times.map(|times| times.1)),
            uid: Id::of(uid, self.user.0),
            gid: Id::of(gid, self.user.1),
            cached: true,
        }
    }
}
