//! `.images/`: the download cache, a directory for each image. What is shown comes from memory; a thread looks at the
//! cache when something changed there, and while a download runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use inotify::{Inotify, WatchDescriptor, WatchMask};
use limafs_driver::{Config, File, Image};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::commands::blocking;
use super::handle::Source;
use super::ino::{Ino, Target};
use super::look::{missing, not_a_directory};
use super::snapshot::Definition;
use super::tree::{Rendered, Tree};
use super::{Attr, Kind, Outcome, View};
use crate::error::{Error, Result};
use crate::images::shelf::{self, Cached, Partial};

/// The cache is looked at no more often than this.
const REST: Duration = Duration::from_millis(200);
/// How long the progress that is shown may be old.
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What is in `.images`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    All,
    Entry(String),
    File(String, ImageFile),
}

/// A file of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFile {
    Url,
    Digest,
    Size,
    UsedBy,
    Progress,
}

impl ImageFile {
    pub const ALL: [Self; 5] = [Self::Url, Self::Digest, Self::Size, Self::UsedBy, Self::Progress];

    pub fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Digest => "digest",
            Self::Size => "size",
            Self::UsedBy => "used_by",
            Self::Progress => "progress",
        }
    }

    pub fn doc(self) -> &'static str {
        match self {
            Self::Url => "where it is from",
            Self::Digest => "what it was verified with; empty for one that has no digest",
            Self::Size => "bytes; empty until it is whole",
            Self::UsedBy => "the instances that name it, one a line",
            Self::Progress => "of a download that is not whole: running or stopped, percent, bytes",
        }
    }
}

/// The entries by name, each with when it was last seen to change.
#[derive(Default)]
pub struct Images {
    known: BTreeMap<String, (Cached, SystemTime)>,
    changed: Option<SystemTime>,
}

impl Images {
    fn get(&self, name: &str) -> Result<&(Cached, SystemTime)> {
        self.known.get(name).ok_or_else(|| missing(name))
    }

    /// Takes in what is there now; what did not change keeps its time.
    fn replace(&mut self, there: Vec<Cached>) {
        let now = SystemTime::now();
        let mut old = std::mem::take(&mut self.known);
        let before: Vec<String> = old.keys().cloned().collect();
        for cached in there {
            let since = match old.remove(&cached.name) {
                Some((known, since)) if known == cached => since,
                Some(_) => now,
                None => cached.changed,
            };
            self.known.insert(cached.name.clone(), (cached, since));
        }
        if !self.known.keys().eq(&before) || self.changed.is_none() {
            self.changed = Some(now);
        }
    }
}

impl Tree {
    pub fn image_rendered(&self, place: &Place) -> Result<Rendered> {
        let Place::File(name, file) = place else { return Err(Error::invalid("read", "is a directory")) };
        let (cached, since) = self.images.get(name)?;
        let text = match file {
            ImageFile::Url => cached.url.clone(),
            ImageFile::Digest => cached.digest.clone().unwrap_or_default(),
            ImageFile::Size => cached.size.map(|size| size.to_string()).unwrap_or_default(),
            ImageFile::UsedBy => self.users(&cached.url).join("\n"),
            ImageFile::Progress => cached.partial.map(progress).unwrap_or_default(),
        };
        let text = if text.is_empty() { text } else { text + "\n" };
        Ok(Rendered { bytes: text.into_bytes().into(), mtime: *since, version: 0 })
    }

    pub fn image_entries(&self, place: &Place) -> Result<Vec<(String, Target, Kind)>> {
        match place {
            Place::All => {
                let entry = |name: &String| (name.clone(), Target::Images(Place::Entry(name.clone())), Kind::Directory);
                Ok(self.images.known.keys().map(entry).collect())
            }
            Place::Entry(name) => {
                let file =
                    |file: ImageFile| (file.name().into(), Target::Images(Place::File(name.clone(), file)), Kind::File);
                Ok(ImageFile::ALL.map(file).into())
            }
            Place::File(..) => Err(not_a_directory()),
        }
    }

    pub fn image_child(&self, place: &Place, name: &str) -> Result<Target> {
        let found = match place {
            Place::All => self.images.get(name).ok().map(|_| Place::Entry(name.into())),
            Place::Entry(entry) => {
                let file = ImageFile::ALL.into_iter().find(|file| file.name() == name);
                file.map(|file| Place::File(entry.clone(), file))
            }
            Place::File(..) => return Err(not_a_directory()),
        };
        found.map(Target::Images).ok_or_else(|| missing(name))
    }

    /// Names of the instances whose lima.yaml names this URL, as far as they were read.
    fn users(&self, url: &str) -> Vec<&str> {
        let snapshots = self.names().filter_map(|(_, key)| self.known_snapshot(key));
        let users = snapshots.filter(|snapshot| match &snapshot.definition {
            Definition::Valid { loaded, .. } => locations(&loaded.filled).any(|location| location == url),
            Definition::Draft | Definition::Invalid { .. } => false,
        });
        users.map(|snapshot| snapshot.name.as_str()).collect()
    }
}

impl View {
    /// Begins to keep `.images` true, in a thread of its own.
    pub(super) fn start_images(&self) -> Result<()> {
        let dir = match shelf::entries_dir() {
            Ok(dir) => dir,
            // Without a home directory there is no cache either.
            Err(error) => {
                tracing::warn!("{error}");
                return Ok(());
            }
        };
        let inotify = Inotify::init().map_err(Error::io("inotify"))?;
        let view = self.clone();
        let body = move || view.watch_images_for_ever(&dir, inotify);
        std::thread::Builder::new().name("images".into()).spawn(body).map(drop).map_err(Error::io("thread"))
    }

    fn watch_images_for_ever(&self, dir: &Path, mut inotify: Inotify) {
        let (mut buffer, mut above) = ([0; 16 * 1024], None);
        loop {
            // Watched first: what changes after is looked at in the next round.
            watch(&inotify, dir, &mut above);
            let limit = if self.reread_images(dir) { Some(&PERIOD) } else { None };
            // A signal ends the wait early, which does no harm.
            let _ = poll(&mut [PollFd::new(&inotify, PollFlags::IN)], limit);
            std::thread::sleep(REST);
            // Whatever they say, all is looked at again.
            while inotify.read_events(&mut buffer).is_ok_and(|mut events| events.next().is_some()) {}
        }
    }

    /// Looks at the cache; says whether a download runs.
    fn reread_images(&self, dir: &Path) -> bool {
        match shelf::list(dir) {
            Ok(there) => {
                let is_running = there.iter().any(|it| it.partial.is_some_and(|partial| partial.is_running));
                self.0.tree.lock().images.replace(there);
                is_running
            }
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        }
    }

    /// rmdir(2) in `.images`.
    pub(super) fn remove_image(&self, parent: Ino, place: &Place) -> Outcome<()> {
        let Place::Entry(name) = place else {
            let what =
                if *place == Place::All { Error::forbidden(".images", "is limafs's own") } else { not_a_directory() };
            return self.refused(parent, what);
        };
        let (view, name) = (self.clone(), name.clone());
        Outcome::later(async move {
            let pruning = view.clone();
            let pruned = blocking(move || pruning.prune(&name)).await;
            pruned.inspect_err(|error| view.refuse(None, error))
        })
    }

    fn prune(&self, name: &str) -> Result<()> {
        let keys: Vec<_> = self.0.tree.lock().names().map(|(_, key)| key).collect();
        for key in keys {
            // One that nobody has looked at may be a user, too; one that is gone by now is none.
            let _ = self.0.tree.lock().snapshot(key, &self.0.host);
        }
        let cached = {
            let tree = self.0.tree.lock();
            let cached = tree.images.get(name)?.0.clone();
            let users = tree.users(&cached.url);
            if !users.is_empty() {
                return Err(Error::busy(name, format!("is used by {}", users.join(", "))));
            }
            cached
        };
        shelf::prune(&cached)?;
        if let Some(dir) = cached.dir.parent() {
            self.reread_images(dir);
        }
        Ok(())
    }

    /// Attributes of `.images` and what is in it. Uncached: they change without notice.
    pub(super) fn image_attr(&self, tree: &Tree, ino: Ino, place: &Place, directory: u16) -> Result<Attr> {
        let read = if self.0.shared { 0o444 } else { 0o400 };
        let attr = match place {
            Place::All => {
                let changed = tree.images.changed.unwrap_or(tree.started);
                Attr::directory(ino, tree.images.known.len(), changed, directory)
            }
            Place::Entry(name) => Attr::directory(ino, 0, tree.images.get(name)?.1, directory),
            Place::File(..) => {
                let text = tree.image_rendered(place)?;
                Attr::file(ino, text.bytes.len() as u64, text.mtime, read)
            }
        };
        Ok(attr.uncached())
    }

    pub(super) fn image_source(place: &Place) -> Result<Source> {
        match place {
            Place::File(..) => Ok(Source::Image(place.clone())),
            Place::All | Place::Entry(_) => {
                Err(Error::Io { path: "directory".into(), source: std::io::Error::from_raw_os_error(libc::EISDIR) })
            }
        }
    }
}

/// Watches the cache and its entries; what is watched already stays so. While there is no cache, the directory `above` it
/// is watched in which it would appear.
fn watch(inotify: &Inotify, dir: &Path, above: &mut Option<WatchDescriptor>) {
    let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
    let mut watches = inotify.watches();
    while watches.add(dir, mask).is_err() {
        let Some(place) = dir.ancestors().find(|place| place.is_dir()) else { return };
        *above = watches.add(place, mask).ok();
        // What appeared before the watch was set has told nobody.
        if above.is_none() || dir.ancestors().find(|place| place.is_dir()) == Some(place) {
            return;
        }
    }
    if let Some(above) = above.take() {
        // It went away by itself, then.
        let _ = watches.remove(above);
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // What is gone again, or no directory, needs no watch.
        let _ = watches.add(entry.path(), mask | WatchMask::CLOSE_WRITE | WatchMask::MODIFY);
    }
}

/// Everything that a configuration has downloaded.
fn locations(config: &Config) -> impl Iterator<Item = &str> {
    let images = config.images.iter().flatten().flat_map(image_locations);
    let firmware = config.firmware.iter().flat_map(|it| it.images.iter().flatten()).map(|it| it.location.as_deref());
    let archives = config.containerd.iter().flat_map(|it| it.archives.iter().flatten());
    let archives = archives.map(|file: &File| file.location.as_deref());
    images.chain(firmware.flatten()).chain(archives.flatten())
}

fn image_locations(image: &Image) -> impl Iterator<Item = &str> {
    let kernel = image.kernel.as_ref().and_then(|it| it.location.as_deref());
    let initrd = image.initrd.as_ref().and_then(|it| it.location.as_deref());
    [image.location.as_deref(), kernel, initrd].into_iter().flatten()
}

/// `running 34 % 340 of 1000 bytes`
fn progress(partial: Partial) -> String {
    let word = if partial.is_running { "running" } else { "stopped" };
    match partial.total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = (u128::from(partial.done) * 100 / u128::from(total)).min(100);
            format!("{word} {percent} % {} of {total} bytes", partial.done)
        }
        None => format!("{word} {} bytes", partial.done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(name: &str, size: Option<u64>) -> Cached {
        let changed = SystemTime::UNIX_EPOCH;
        Cached {
            name: name.into(),
            dir: "/".into(),
            url: "https://a/b".into(),
            digest: None,
            size,
            partial: None,
            changed,
        }
    }

    #[test]
    fn what_did_not_change_keeps_its_time() {
        let mut images = Images::default();
        images.replace(vec![cached("a", None)]);
        let (first, changed) = (images.get("a").unwrap().1, images.changed);
        images.replace(vec![cached("a", None)]);
        assert_eq!((images.get("a").unwrap().1, images.changed), (first, changed));
        images.replace(vec![cached("a", Some(1))]);
        assert!(images.get("a").unwrap().1 > first);
        images.replace(Vec::new());
        assert!(images.get("a").is_err() && images.changed > changed);
    }

    #[test]
    fn progress_is_a_line() {
        let partial = Partial { done: 340, total: Some(1000), is_running: true };
        assert_eq!(progress(partial), "running 34 % 340 of 1000 bytes");
        assert_eq!(progress(Partial { is_running: false, ..partial }), "stopped 34 % 340 of 1000 bytes");
        assert_eq!(progress(Partial { total: None, ..partial }), "running 340 bytes");
    }
}
