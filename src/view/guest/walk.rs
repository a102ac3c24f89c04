//! Which directory a program that walks through a guest's directories opens next: it opens those of a directory in turn,
//! and what is in each before the next, as `ls -R`, `find`, `du`, `rsync` and `grep -r` do. Knows no guest; asks nobody.
//!
//! One `ls` is no walk: a walk has begun when the same program opens a directory of one that it has just opened. Guesses
//! are few, live a second, and a program that goes elsewhere than guessed is soon guessed no more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::table::Place;

/// For so long a guess is good, and a program that opens nothing is taken to walk on.
const FRESH: Duration = super::FRESH;
/// So many programs are followed at once.
const WALKS_MAX: usize = 4;
/// So many directories that nobody has opened yet are listed; one at a time.
const GUESSES_MAX: usize = 2;
/// So many directories to come are kept in mind.
const PENDING_MAX: usize = 1024;
/// So many wrong guesses more than right ones end the guessing.
const WRONG_MAX: u32 = 2;

/// The programs that walk; `L` is what a listing comes to.
pub struct Walks<L>(VecDeque<Walk<L>>);

struct Walk<L> {
    /// The thread that opens.
    pid: u32,
    last: Instant,
    /// What was opened last and is not listed yet.
    at: Option<Place>,
    /// Whether it has gone down at all.
    goes_on: bool,
    /// What will be opened, the next one last.
    pending: Vec<Place>,
    guesses: VecDeque<Guess<L>>,
    wrong: u32,
    right: u32,
}

struct Guess<L> {
    place: Place,
    since: Instant,
    /// How often anything was changed when it was asked for.
    epoch: u64,
    is_listed: bool,
    /// How many directories come after it and what is in it.
    after: usize,
    listing: oneshot::Receiver<L>,
}

/// A listing that was begun before it was asked for.
pub struct Begun<L> {
    pub since: Instant,
    pub listing: oneshot::Receiver<L>,
}

/// A directory to be listed now. The listing may end as soon as nobody waits for it any more.
pub struct Wish<L> {
    pub place: Place,
    pub listing: oneshot::Sender<L>,
}

impl<L> Default for Walks<L> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<L> Walks<L> {
    /// A program opens a directory. What was begun of it, if that is no older than it may be.
    pub fn opened(&mut self, pid: u32, place: &Place, epoch: u64) -> Option<Begun<L>> {
        self.sweep();
        if let Some(index) = self.0.iter().position(|walk| walk.pid == pid) {
            let walk = &mut self.0[index];
            walk.last = Instant::now();
            return walk.opened(place, epoch);
        }
        if self.0.len() >= WALKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Walk::new(pid, place));
        None
    }

    /// A directory is listed, opened or guessed: `below` are the directories in it, in the order of the listing. What is
    /// to be listed next.
    pub fn listed(&mut self, pid: u32, place: &Place, below: Vec<Place>, epoch: u64) -> Option<Wish<L>> {
        let walk = self.0.iter_mut().find(|walk| walk.pid == pid)?;
        if walk.at.as_ref() == Some(place) {
            walk.at = None;
        } else {
            walk.guesses.back_mut().filter(|guess| guess.place == *place)?.is_listed = true;
        }
        walk.pending.extend(below.into_iter().rev());
        let excess = walk.pending.len().saturating_sub(PENDING_MAX);
        walk.pending.drain(..excess);
        walk.next(epoch)
    }

    /// What is to be listed next, when a guess was right.
    pub fn next(&mut self, pid: u32, epoch: u64) -> Option<Wish<L>> {
        self.0.iter_mut().find(|walk| walk.pid == pid)?.next(epoch)
    }

    /// Forgets what is too old. Whether anything is left.
    pub fn sweep(&mut self) -> bool {
        self.0.retain(|walk| walk.last.elapsed() < FRESH);
        self.0.iter_mut().for_each(Walk::expire);
        !self.0.is_empty()
    }
}

impl<L> Walk<L> {
    fn new(pid: u32, place: &Place) -> Self {
        Self {
            pid,
            last: Instant::now(),
            at: Some(place.clone()),
            goes_on: false,
            pending: Vec::new(),
            guesses: VecDeque::new(),
            wrong: 0,
            right: 0,
        }
    }

    fn opened(&mut self, place: &Place, epoch: u64) -> Option<Begun<L>> {
        let guessed = self.guesses.iter().position(|guess| guess.place == *place);
        let is_good = |guess: &Guess<L>| guess.epoch == epoch && guess.since.elapsed() < FRESH;
        let Some(index) = guessed.filter(|index| is_good(&self.guesses[*index])) else {
            // It is listed anew, and so is what was guessed from it.
            self.take_back(0);
            let found = self.pending.iter().rposition(|pending| pending == place);
            self.pending.truncate(found.unwrap_or(0));
            self.goes_on = found.is_some();
            self.at = Some(place.clone());
            return None;
        };
        self.wrong += index as u32;
        self.guesses.drain(..index);
        let guess = self.guesses.pop_front()?;
        self.right += 1;
        self.at = (!guess.is_listed).then(|| place.clone());
        Some(Begun { since: guess.since, listing: guess.listing })
    }

    fn next(&mut self, epoch: u64) -> Option<Wish<L>> {
        let is_busy = self.at.is_some() || self.guesses.back().is_some_and(|guess| !guess.is_listed);
        let may = self.goes_on && !is_busy && self.guesses.len() < GUESSES_MAX && self.wrong <= self.right + WRONG_MAX;
        let place = self.pending.pop_if(|_| may)?;
        let (sender, listing) = oneshot::channel();
        let (since, after) = (Instant::now(), self.pending.len());
        self.guesses.push_back(Guess { place: place.clone(), since, epoch, is_listed: false, after, listing });
        Some(Wish { place, listing: sender })
    }

    /// What nobody came for.
    fn expire(&mut self) {
        if let Some(old) = self.guesses.iter().position(|guess| guess.since.elapsed() >= FRESH) {
            self.take_back(old);
        }
    }

    /// Unsays guesses: what they were is still to come.
    fn take_back(&mut self, from: usize) {
        while self.guesses.len() > from
            && let Some(guess) = self.guesses.pop_back()
        {
            self.wrong += 1;
            self.pending.truncate(guess.after);
            self.pending.push(guess.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ino::Key;

    fn place(path: &str) -> Place {
        Place { key: Key::TEMPLATES, path: path.as_bytes().into() }
    }

    fn places(paths: &[&str]) -> Vec<Place> {
        paths.iter().map(|path| place(path)).collect()
    }

    type Wishes = Walks<()>;

    /// Opens and lists what nothing was begun of. What is wished for then.
    fn open(walks: &mut Wishes, path: &str, below: &[&str]) -> Option<Wish<()>> {
        assert!(walks.opened(1, &place(path), 0).is_none(), "{path} was begun");
        walks.listed(1, &place(path), places(below), 0)
    }

    fn wished(wish: Option<Wish<()>>, path: &str) -> Wish<()> {
        let wish = wish.unwrap_or_else(|| panic!("nothing is wished for, not {path}"));
        assert_eq!(wish.place, place(path));
        wish
    }

    #[test]
    fn one_listing_is_no_walk() {
        let mut walks = Wishes::default();
        assert!(open(&mut walks, "/d", &["/d/1", "/d/2"]).is_none());
        assert!(open(&mut walks, "/e", &["/e/1"]).is_none());
        assert!(walks.opened(2, &place("/d"), 0).is_none());
        assert!(walks.listed(2, &place("/d"), places(&["/d/1"]), 0).is_none());
        assert!(walks.opened(3, &place("/d/1"), 0).is_none());
        assert!(walks.listed(3, &place("/d/1"), Vec::new(), 0).is_none(), "another program has opened what is above");
    }

    #[test]
    fn a_walk_goes_down_before_it_goes_on() {
        let mut walks = Wishes::default();
        open(&mut walks, "/d", &["/d/1", "/d/2", "/d/3"]);
        let first = wished(open(&mut walks, "/d/1", &["/d/1/a"]), "/d/1/a");
        assert!(walks.next(1, 0).is_none(), "one at a time");
        let second = wished(walks.listed(1, &first.place, Vec::new(), 0), "/d/2");
        assert!(walks.listed(1, &second.place, Vec::new(), 0).is_none(), "two that nobody has come for");
        assert!(walks.opened(1, &place("/d/1/a"), 0).is_some());
        wished(walks.next(1, 0), "/d/3");
    }

    #[test]
    fn what_is_opened_while_it_is_being_listed_is_waited_for() {
        let mut walks = Wishes::default();
        open(&mut walks, "/d", &["/d/1", "/d/2", "/d/3"]);
        let wish = wished(open(&mut walks, "/d/1", &[]), "/d/2");
        let begun = walks.opened(1, &place("/d/2"), 0).unwrap();
        assert!(walks.next(1, 0).is_none(), "what is in it is not known yet");
        wished(walks.listed(1, &place("/d/2"), places(&["/d/2/x"]), 0), "/d/2/x");
        wish.listing.send(()).unwrap();
        drop(begun);
    }

    #[test]
    fn what_was_listed_before_a_change_is_not_shown_after_it() {
        let mut walks = Wishes::default();
        open(&mut walks, "/d", &["/d/1", "/d/2", "/d/3"]);
        let wish = wished(open(&mut walks, "/d/1", &[]), "/d/2");
        walks.listed(1, &wish.place, places(&["/d/2/x"]), 0);
        assert!(walks.opened(1, &place("/d/2"), 1).is_none());
        assert!(wish.listing.is_closed());
        let below = wished(walks.listed(1, &place("/d/2"), places(&["/d/2/y"]), 1), "/d/2/y");
        wished(walks.listed(1, &below.place, Vec::new(), 1), "/d/3");
    }

    #[test]
    fn what_is_older_than_it_may_be_is_not_shown() {
        let mut walks = Wishes::default();
        open(&mut walks, "/d", &["/d/1", "/d/2"]);
        let wish = wished(open(&mut walks, "/d/1", &[]), "/d/2");
        let long_ago = Instant::now().checked_sub(FRESH).unwrap();
        walks.0[0].guesses[0].since = long_ago;
        assert!(walks.sweep());
        assert!(wish.listing.is_closed(), "who lists it may stop");
        assert!(walks.opened(1, &place("/d/2"), 0).is_none());
        walks.0[0].last = long_ago;
        assert!(!walks.sweep());
    }

    #[test]
    fn a_program_that_goes_elsewhere_is_guessed_no_more() {
        let mut walks = Wishes::default();
        let names: Vec<String> = (10..40).map(|name| format!("/d/{name}")).collect();
        open(&mut walks, "/d", &names.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut opened, mut wishes) = (0, Vec::new());
        // Every third of them, with all wishes granted.
        for name in names.iter().step_by(3) {
            opened += 1;
            let mut wish = open(&mut walks, name, &[]);
            while let Some(granted) = wish {
                wish = walks.listed(1, &granted.place, Vec::new(), 0);
                wishes.push(granted);
            }
        }
        assert_eq!(opened, 10);
        assert!(wishes.len() <= 4, "{} directories were listed for nobody", wishes.len());
    }

    #[test]
    fn few_programs_are_followed_and_not_through_everything() {
        let mut walks = Wishes::default();
        for pid in 0..100 {
            walks.opened(pid, &place("/d"), 0);
        }
        assert_eq!(walks.0.len(), WALKS_MAX);
        walks.opened(7, &place("/d"), 0);
        let below = (0..100_000).map(|name| place(&format!("/d/{name}"))).collect();
        walks.listed(7, &place("/d"), below, 0);
        let pending = &walks.0.back().unwrap().pending;
        assert_eq!((pending.len(), pending.last()), (PENDING_MAX, Some(&place("/d/0"))));
    }
}
