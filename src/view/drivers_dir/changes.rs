//! What becomes of the drivers: found, gone, tried, chosen from. Nothing here is waited for by a request.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::{DriverFile, DriverPlace, Drivers, Entry, text};
use crate::drivers::{self, Found, Place, Source, Tried};
use crate::error::Result;
use crate::names;
use crate::view::announce::Change;
use crate::view::ino::{Key, Target};
use crate::view::look::missing;
use crate::view::node::DRIVERS_DIR;
use crate::view::tree::Tree;
use crate::view::{Attr, View};

/// What was found by trying is good for so long.
const FRESH: Duration = Duration::from_secs(5);
/// Of the log of an instance's driver so much is shown, and of so many instances.
const TAIL: u64 = 8 << 10;
const MOST_LOGS: usize = 16;

impl View {
    /// Shows the drivers of a registry. Called once at most, before [`View::start`].
    pub fn know_drivers(&self, source: Arc<dyn Source>) {
        // Set once: see above.
        let _ = self.0.drivers.set(source);
    }

    /// Takes in what there is, and has those tried that are built in.
    pub(in crate::view) fn start_drivers(&self) {
        let Some(source) = self.0.drivers.get() else { return };
        // Before the look at them, so that none comes in between.
        self.watch_drivers(&source.watched());
        let built_in: Vec<String> = {
            let mut tree = self.0.tree.lock();
            let now = SystemTime::now();
            for found in source.find() {
                let name = found.name.clone();
                let entry = Entry { shown: true, ..Entry::new(found, now) };
                tree.drivers.entries.insert(name, entry);
            }
            tree.drivers.choose();
            let built_in = tree.drivers.entries.iter().filter(|(_, entry)| entry.known.found.place == Place::BuiltIn);
            built_in.map(|(name, _)| name.clone()).collect()
        };
        for name in built_in {
            self.ask_driver(&name);
        }
    }

    /// Looks at the disk again: programs may have come or gone, or may be changed by others.
    pub(in crate::view) fn drivers_changed(&self) {
        let Some(source) = self.0.drivers.get() else { return };
        // Before the look at them, so that none comes in between.
        self.watch_drivers(&source.watched());
        let found = source.find();
        let changes = self.0.tree.lock().take_in_drivers(found);
        self.0.announcer.announce(changes);
        self.choose_driver();
        // One that came last may be the best.
        self.ask_for_choice();
    }

    /// The publisher's mkdir(2).
    pub(in crate::view) fn show_driver(&self, name: &str) -> Result<Attr> {
        let mut tree = self.0.tree.lock();
        let entry = tree.drivers.entries.get_mut(name).filter(|entry| !entry.gone).ok_or_else(|| missing(name))?;
        entry.shown = true;
        tree.drivers.changed = SystemTime::now();
        self.attr_of(&mut tree, &Target::Driver(DriverPlace::Entry(name.into())))
    }

    /// The publisher's rmdir(2).
    pub(in crate::view) fn hide_driver(&self, name: &str) -> Result<()> {
        let mut tree = self.0.tree.lock();
        match tree.drivers.entries.get(name).is_some_and(|entry| entry.gone) {
            true => tree.drivers.entries.remove(name),
            // It has come back meanwhile.
            false => return Err(missing(name)),
        };
        tree.drivers.changed = SystemTime::now();
        Ok(())
    }

    /// Why an instance cannot have this driver. Looks at the disk.
    pub(in crate::view) fn lacks_driver(&self, name: &str) -> Option<String> {
        drivers::fault(name, &self.0.drivers.get()?.find(), &self.0.host.drivers.aliases)
    }

    /// Before a file of a driver is read: gets what it takes on its way, and waits for nothing of it.
    pub(in crate::view) fn driver_opened(&self, place: &DriverPlace) {
        match place {
            DriverPlace::File(name, DriverFile::Status) => self.ask_driver(name),
            DriverPlace::File(name, DriverFile::Info) if self.is_plugin(name) => self.ask_driver(name),
            DriverPlace::File(name, DriverFile::Log) => self.read_driver_logs(name),
            _ => {}
        }
    }

    /// Its flags are known to nobody but itself.
    fn is_plugin(&self, name: &str) -> bool {
        let tree = self.0.tree.lock();
        tree.drivers.entries.get(name).is_some_and(|entry| matches!(entry.known.found.place, Place::Plugin(_)))
    }

    /// Has a driver tried, unless that was done just now or is being done.
    fn ask_driver(&self, name: &str) {
        let (Some(runtime), Some(source)) = (self.0.fleet.runtime(), self.0.drivers.get().cloned()) else { return };
        let found = {
            let mut tree = self.0.tree.lock();
            let Some(entry) = tree.drivers.entries.get_mut(name).filter(|entry| !entry.trying && !entry.gone) else {
                return;
            };
            if entry.known.tried.as_ref().is_some_and(|tried| is_fresh(tried.when)) {
                return;
            }
            entry.trying = true;
            entry.known.found.clone()
        };
        let view = self.clone();
        runtime.spawn(async move {
            let tried = source.try_out(found.clone()).await;
            let changes = view.0.tree.lock().driver_was_tried(&found, tried);
            view.0.announcer.announce(changes);
            view.choose_driver();
            // It may have been replaced meanwhile.
            view.ask_for_choice();
        });
    }

    /// Has those tried that nobody asked yet, where an instance's driver depends on it.
    pub(in crate::view) fn ask_for_choice(&self) {
        let names: Vec<String> = {
            let tree = self.0.tree.lock();
            if !drivers::is_open(&tree.drivers.known()) || !tree.has_undecided() {
                return;
            }
            let untried = tree.drivers.entries.iter().filter(|(_, entry)| entry.known.tried.is_none());
            untried.map(|(name, _)| name.clone()).collect()
        };
        for name in names {
            self.ask_driver(&name);
        }
    }

    /// Tells the instances that have no driver yet which one it would be now.
    fn choose_driver(&self) {
        let (choice, keys) = {
            let mut tree = self.0.tree.lock();
            if !tree.drivers.choose() {
                return;
            }
            (tree.drivers.choice.clone(), tree.undecided())
        };
        for key in keys {
            self.changed(key, |snapshot| snapshot.set_choice(choice.clone()));
        }
    }

    /// Gathers the latest lines of what the driver wrote for its instances.
    fn read_driver_logs(&self, name: &str) {
        let mut logs: Vec<(SystemTime, PathBuf)> = self.0.tree.lock().driver_logs(name);
        logs.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
        logs.truncate(MOST_LOGS);
        let mut tails = String::new();
        for (_, path) in &logs {
            let of = path.strip_prefix(self.0.home.path()).unwrap_or(path);
            tails.push_str(&format!("{}:\n", of.display()));
            // One that cannot be read has nothing to show.
            tails.push_str(&tail(path).unwrap_or_default());
        }
        let mut tree = self.0.tree.lock();
        if let Some(entry) = tree.drivers.entries.get_mut(name) {
            let text = text(DriverFile::Log, &entry.known, &tails);
            entry.put(DriverFile::Log, &text, SystemTime::now());
        }
    }
}

impl Tree {
    /// Takes in what the registry found, and lists what differs.
    fn take_in_drivers(&mut self, found: Vec<Found>) -> Vec<Change> {
        let now = SystemTime::now();
        let mut changes = Vec::new();
        let Drivers { entries, .. } = &mut self.drivers;
        for (name, entry) in entries.iter_mut().filter(|(name, _)| found.iter().all(|driver| driver.name != **name)) {
            entry.gone = true;
            changes.push(Change::Vanished(format!("{DRIVERS_DIR}/{name}")));
        }
        // One that went before it was shown needs no word.
        entries.retain(|_, entry| entry.shown || !entry.gone);
        let mut differing = Vec::new();
        for driver in found {
            let name = driver.name.clone();
            let entry = entries.entry(name.clone()).or_insert_with(|| {
                changes.push(Change::Appeared(format!("{DRIVERS_DIR}/{name}")));
                Entry::new(driver.clone(), now)
            });
            entry.gone = false;
            if !entry.known.found.is_same(&driver) {
                entry.known.found = driver;
                entry.known.tried = None;
                differing.push((name, entry.render(now)));
            }
        }
        for (name, files) in differing {
            changes.extend(self.driver_files_changed(&name, &files));
        }
        changes
    }

    fn driver_was_tried(&mut self, found: &Found, tried: Tried) -> Vec<Change> {
        let Some(entry) = self.drivers.entries.get_mut(&found.name) else { return Vec::new() };
        entry.trying = false;
        if !entry.known.found.is_same(found) {
            // Another program has its name by now.
            return Vec::new();
        }
        entry.known.tried = Some(tried);
        let files = entry.render(SystemTime::now());
        self.driver_files_changed(&found.name, &files)
    }

    fn driver_files_changed(&mut self, name: &str, files: &[DriverFile]) -> Vec<Change> {
        let change = |file: &DriverFile| {
            let ino = self.number(&Target::Driver(DriverPlace::File(name.into(), *file)));
            Change::Content { ino, path: format!("{DRIVERS_DIR}/{name}/{}", file.name()) }
        };
        files.iter().map(change).collect()
    }

    /// The instances that have no driver yet and name none, as far as they were read.
    fn undecided(&self) -> Vec<Key> {
        let is_undecided = |key: &Key| self.known_snapshot(*key).is_some_and(|snapshot| snapshot.is_undecided());
        self.names().map(|(_, key)| key).filter(is_undecided).collect()
    }

    fn has_undecided(&self) -> bool {
        !self.undecided().is_empty()
    }

    /// The logs of the driver's instances, as far as there are any, with their times.
    fn driver_logs(&self, driver: &str) -> Vec<(SystemTime, PathBuf)> {
        let snapshots = self.names().filter_map(|(_, key)| self.known_snapshot(key));
        let its = snapshots.filter(|snapshot| snapshot.driver() == Some(driver));
        let log = |dir: &Path| {
            let path = dir.join(names::DRIVER_LOG);
            let meta = std::fs::symlink_metadata(&path).ok().filter(|meta| meta.is_file())?;
            Some((meta.modified().ok()?, path))
        };
        its.filter_map(|snapshot| log(&snapshot.dir)).collect()
    }
}

fn is_fresh(when: Timestamp) -> bool {
    let age = Timestamp::now().duration_since(when);
    age.unsigned_abs() < FRESH
}

/// The last whole lines of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = if from == 0 { &*text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(if whole.is_empty() || whole.ends_with('\n') { whole.to_owned() } else { format!("{whole}\n") })
}
