//! `.drivers`: every driver that was found, as directories. Listing looks at nothing and runs nothing: what the registry
//! finds is kept here, and a driver is tried in the background, a built-in one at each mount, a program when somebody asks
//! for its status or when the choice of a driver depends on it.

mod changes;

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::ino::{Ino, Target};
use super::look::{missing, not_a_directory};
use super::nodes;
use super::tree::{Rendered, Tree};
use super::{Attr, Kind, View};
use crate::drivers::{self, Choice, Found, Known};
use crate::error::{Error, Result};

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DriverPlace {
    All,
    Entry(String),
    File(String, DriverFile),
}

/// A file of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriverFile {
    Info,
    Status,
    Log,
}

impl DriverFile {
    pub const ALL: [Self; 3] = [Self::Info, Self::Status, Self::Log];

    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Status => "status",
            Self::Log => "log",
        }
    }

    pub fn doc(self) -> &'static str {
        match self {
            Self::Info => "its program or built in, version, other names, priority, features",
            Self::Status => "installed, healthy, and what to do if not; found by trying, again when it is read later",
            Self::Log => "the latest lines of what it said when it was tried, and of its instances' drivers",
        }
    }

    fn perm(self, shared: bool) -> u16 {
        if shared && self != Self::Log { 0o444 } else { 0o400 }
    }
}

/// A driver of the tree.
struct Entry {
    known: Known,
    /// It is being tried.
    trying: bool,
    /// The publisher has told of it.
    shown: bool,
    /// Its program went, and the publisher has not told so yet.
    gone: bool,
    /// In the order of [`DriverFile::ALL`].
    texts: [Rendered; 3],
}

/// All drivers.
pub struct Drivers {
    entries: BTreeMap<String, Entry>,
    /// For an instance that names none.
    pub choice: Choice,
    changed: SystemTime,
}

impl Drivers {
    pub fn new(now: SystemTime) -> Self {
        Self { entries: BTreeMap::new(), choice: Choice::default(), changed: now }
    }

    fn shown(&self) -> impl Iterator<Item = &String> {
        self.entries.iter().filter(|(_, entry)| entry.shown).map(|(name, _)| name)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).filter(|entry| entry.shown).ok_or_else(|| missing(name))
    }

    fn known(&self) -> Vec<Known> {
        self.entries.values().filter(|entry| !entry.gone).map(|entry| entry.known.clone()).collect()
    }

    /// Chooses anew; says whether anything is other than before.
    fn choose(&mut self) -> bool {
        let choice = drivers::choose(&self.known());
        let differs = self.choice != choice;
        self.choice = choice;
        differs
    }
}

impl Entry {
    fn new(found: Found, now: SystemTime) -> Self {
        let known = Known { found, tried: None };
        let texts = DriverFile::ALL.map(|file| Rendered::new(&text(file, &known, ""), now));
        Self { known, trying: false, shown: false, gone: false, texts }
    }

    /// Renders what is known; returns the files that differ.
    fn render(&mut self, now: SystemTime) -> Vec<DriverFile> {
        let files = [DriverFile::Info, DriverFile::Status];
        files.into_iter().filter(|file| self.put(*file, &text(*file, &self.known, ""), now)).collect()
    }

    fn put(&mut self, file: DriverFile, text: &str, now: SystemTime) -> bool {
        self.texts[file as usize].replace(text.as_bytes().into(), now)
    }
}

fn text(file: DriverFile, known: &Known, logs: &str) -> String {
    match file {
        DriverFile::Info => nodes::driver_info(known),
        DriverFile::Status => nodes::driver_status(known),
        DriverFile::Log => nodes::driver_log(known) + logs,
    }
}

impl Tree {
    pub fn driver_rendered(&self, place: &DriverPlace) -> Result<Rendered> {
        let DriverPlace::File(name, file) = place else { return Err(Error::invalid("read", "is a directory")) };
        Ok(self.drivers.entry(name)?.texts[*file as usize].clone())
    }

    pub fn driver_entries(&self, place: &DriverPlace) -> Result<Vec<(String, Target, Kind)>> {
        match place {
            DriverPlace::All => {
                let entry =
                    |name: &String| (name.clone(), Target::Driver(DriverPlace::Entry(name.clone())), Kind::Directory);
                Ok(self.drivers.shown().map(entry).collect())
            }
            DriverPlace::Entry(name) => {
                self.drivers.entry(name)?;
                let file = |file: DriverFile| {
                    (file.name().into(), Target::Driver(DriverPlace::File(name.clone(), file)), Kind::File)
                };
                Ok(DriverFile::ALL.map(file).into())
            }
            DriverPlace::File(..) => Err(not_a_directory()),
        }
    }

    pub fn driver_child(&self, place: &DriverPlace, name: &str) -> Result<Target> {
        let found = match place {
            DriverPlace::All => self.drivers.entry(name).ok().map(|_| DriverPlace::Entry(name.into())),
            DriverPlace::Entry(driver) => {
                self.drivers.entry(driver)?;
                let file = DriverFile::ALL.into_iter().find(|file| file.name() == name);
                file.map(|file| DriverPlace::File(driver.clone(), file))
            }
            DriverPlace::File(..) => return Err(not_a_directory()),
        };
        found.map(Target::Driver).ok_or_else(|| missing(name))
    }
}

impl View {
    pub(super) fn driver_attr(&self, tree: &Tree, ino: Ino, place: &DriverPlace, directory: u16) -> Result<Attr> {
        let drivers = &tree.drivers;
        Ok(match place {
            DriverPlace::All => Attr::directory(ino, drivers.shown().count(), drivers.changed, directory),
            DriverPlace::Entry(name) => {
                let entry = drivers.entry(name)?;
                Attr::directory(ino, 0, entry.texts[0].mtime, directory)
            }
            DriverPlace::File(_, file) => {
                let text = tree.driver_rendered(place)?;
                Attr::file(ino, text.bytes.len() as u64, text.mtime, file.perm(self.0.shared))
            }
        }
        .uncached())
    }
}
