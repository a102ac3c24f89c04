//! Directories of guests as they are opened: listed whole, with attributes; for a program that walks, the next one a
//! little before it comes there.

use std::time::Instant;

use tokio::time::sleep;

use super::table::Place;
use super::walk::Wish;
use super::{Ask, DIRECTORY, FRESH, Guests, Outcome, REGULAR, Seen, TYPE};
use crate::error::Result;
use crate::sftp::{Attempt, Entry};
use crate::view::ino::Ino;

/// Names and what was seen under each.
pub(super) type Listing = Vec<(Vec<u8>, Seen)>;

/// An open directory: its entries as they were when it was opened.
pub struct Directory {
    pub entries: Vec<Listed>,
}

/// An entry of a listing.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: Vec<u8>,
    pub ino: Ino,
    /// Type bits.
    pub mode: u32,
    /// `None` for `.` and `..`.
    pub seen: Option<Seen>,
}

impl Guests {
    /// Lists a directory, with attributes; they are kept for those who ask for them one by one. `pid` is the thread that
    /// opens it.
    pub fn opendir(&self, ino: Ino, pid: u32) -> Outcome<Directory> {
        let guests = self.clone();
        Outcome::later(async move {
            let place = guests.place(ino)?;
            let epoch = guests.epoch();
            let (listing, since) = match guests.begun(pid, &place, epoch).await {
                Some(begun) => begun,
                None => (guests.list(pid, &place).await?, Instant::now()),
            };
            guests.keep(listing.iter().map(|(_, seen)| seen.clone()), epoch, since);
            Ok(guests.directory(&place, ino, listing))
        })
    }

    /// The listing that was begun before it was asked for, and when.
    async fn begun(&self, pid: u32, place: &Place, epoch: u64) -> Option<(Listing, Instant)> {
        // Of one from elsewhere it is not known which program it is.
        if pid == 0 {
            return None;
        }
        let (begun, next) = {
            let mut walks = self.shelf().walks.lock();
            let begun = walks.opened(pid, place, epoch)?;
            (begun, walks.next(pid, epoch))
        };
        self.list_beside(pid, next);
        Some((begun.listing.await.ok()?, begun.since))
    }

    async fn list(&self, pid: u32, place: &Place) -> Result<Listing> {
        let ask = self.ask(place.key).await?;
        let entries = ask.end(ask.client.list(&place.path).await, Attempt::Look).await?;
        let listing = listing(&ask, place, entries);
        self.note_listed(pid, place, &listing);
        Ok(listing)
    }

    fn note_listed(&self, pid: u32, place: &Place, listing: &Listing) {
        let is_directory = |seen: &Seen| seen.attrs.mode.is_some_and(|mode| mode & TYPE == DIRECTORY);
        let below = listing.iter().filter(|(_, seen)| is_directory(seen)).map(|(_, seen)| seen.place.clone());
        let (below, epoch) = (below.collect(), self.epoch());
        let next = self.shelf().walks.lock().listed(pid, place, below, epoch);
        self.list_beside(pid, next);
    }

    /// Lists what nobody has asked for yet. What goes wrong is told to those who ask.
    fn list_beside(&self, pid: u32, wish: Option<Wish<Listing>>) {
        let Some(Wish { place, listing: mut wanted }) = wish else { return };
        let guests = self.clone();
        let listing = async move {
            let Ok(ask) = guests.ask(place.key).await else { return };
            let Ok(entries) = ask.client.list_until(&place.path, wanted.closed()).await else { return };
            let listing = listing(&ask, &place, entries);
            guests.note_listed(pid, &place, &listing);
            // Who has gone elsewhere since does not take it.
            let _ = wanted.send(listing);
        };
        let guests = self.clone();
        let expiring = async move {
            sleep(FRESH).await;
            guests.shelf().walks.lock().sweep();
        };
        let mut tasks = self.shelf().listing.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            tokio::join!(listing, expiring);
        });
    }

    fn directory(&self, place: &Place, ino: Ino, listing: Listing) -> Directory {
        let table = self.shelf().table.lock();
        let dots = [(b".".to_vec(), ino), (b"..".to_vec(), table.number(&place.parent()))];
        let dots = dots.into_iter().map(|(name, ino)| Listed { name, ino, mode: DIRECTORY, seen: None });
        let entries = listing.into_iter().map(|(name, seen)| Listed {
            ino: table.number(&seen.place),
            name,
            mode: seen.attrs.mode.unwrap_or(REGULAR) & TYPE,
            seen: Some(seen),
        });
        Directory { entries: dots.chain(entries).collect() }
    }
}

/// By name: programs that sort and those that do not then walk in the same order.
fn listing(ask: &Ask, place: &Place, mut entries: Vec<Entry>) -> Listing {
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let user = ask.client.user();
    let seen = entries.into_iter().filter_map(|entry| {
        let place = place.child(&entry.name).ok()?;
        Some((entry.name, Seen { place, attrs: entry.attrs, user }))
    });
    seen.collect()
}
