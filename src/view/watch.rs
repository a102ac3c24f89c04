//! Watches the home with inotify: what others (limactl, editors, hostagents) change is seen in the tree.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use parking_lot::Mutex;

use super::View;
use super::announce::Change;
use super::ino::{Key, Target};
use super::jobs::JobFile;
use super::node::{Body, NodeId};
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::names::{self, Home, Name};
use crate::store;

/// Events are taken in batches at least this far apart, or a chatty console would keep us busy.
const REST: Duration = Duration::from_millis(30);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    Home,
    /// What applies to every instance.
    Config,
    /// A directory in which a driver may appear.
    Drivers,
    /// The root's events.
    Events,
    /// The user's templates.
    Templates,
    Instance(Key),
    Log(Key, NodeId),
    /// `_disks`, and each directory in it.
    Disks,
    /// The jobs of an instance, and each of them.
    Jobs(Key),
    Job(Key, Name),
}

/// The watches that are set.
pub struct Watch {
    watches: Mutex<Watches>,
    what: Arc<Mutex<HashMap<WatchDescriptor, Watched>>>,
}

impl Watch {
    /// Watches the home; its events are handled in a thread of their own.
    pub fn new(view: View) -> Result<Self> {
        let home = view.0.home.path().to_owned();
        let inotify = Inotify::init().map_err(Error::io("inotify"))?;
        let watch = Self { watches: Mutex::new(inotify.watches()), what: Arc::default() };
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
        watch.add(&home, mask, Watched::Home).map_err(Error::io(&home))?;
        watch.add_config(&view.0.home);
        let events = view.0.home.ours(names::ROOT_EVENTS);
        // The file appears with the first event; until then there is nothing to announce.
        let _ = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&events);
        let _ = watch.add(&events, WatchMask::MODIFY, Watched::Events);
        let what = watch.what.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || watch_for_ever(&view, inotify, &what))
            .map_err(Error::io("thread"))?;
        Ok(watch)
    }

    /// The directory need not be there; one that comes is seen in the home.
    fn add_config(&self, home: &Home) {
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ONLYDIR;
        let _ = self.add(&home.config(""), mask, Watched::Config);
    }

    fn add(&self, path: &Path, mask: WatchMask, what: Watched) -> std::io::Result<()> {
        // Locked before the first event may come, or it would be nobody's.
        let mut known = self.what.lock();
        let descriptor = self.watches.lock().add(path, mask)?;
        known.insert(descriptor, what);
        Ok(())
    }
}

impl View {
    /// Watches an instance directory.
    pub(super) fn watch(&self, key: Key, name: &Name) {
        let Some(watch) = self.0.fleet.watch.get() else { return };
        let dir = self.0.home.path().join(name.as_str());
        let mask =
            WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
        if let Err(error) = watch.add(&dir, mask, Watched::Instance(key)) {
            tracing::warn!("{}: changes by others will not be seen: {error}", dir.display());
        }
    }

    /// Watches the user's templates, if there is a directory for them.
    pub(super) fn watch_templates(&self) {
        let Some(watch) = self.0.fleet.watch.get() else { return };
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ONLYDIR;
        // Without one it is tried again when the home changes.
        let _ = watch.add(&self.0.home.path().join(names::TEMPLATES_DIR), mask, Watched::Templates);
    }

    /// Watches the logs of an instance that has a hostagent.
    pub(super) fn watch_logs(&self, key: Key) {
        let (Some(watch), Ok(name)) = (self.0.fleet.watch.get(), self.name(key)) else { return };
        let dir = self.0.home.path().join(name.as_str());
        for id in NodeId::all() {
            if let Body::Log(file) = id.node().body {
                // A log that is not there yet is watched when it appears.
                let _ = watch.add(&dir.join(file), WatchMask::MODIFY, Watched::Log(key, id));
            }
        }
    }

    /// Watches the additional disks. A watch that is there already stays the same one.
    pub(super) fn watch_disks(&self) {
        let Some(watch) = self.0.fleet.watch.get() else { return };
        let mask =
            WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::CLOSE_WRITE | WatchMask::ONLYDIR;
        let names: Vec<Name> = self.0.tree.lock().disks.names().cloned().collect();
        let home = &self.0.home;
        for dir in std::iter::once(home.disks()).chain(names.iter().map(|name| home.disk(name))) {
            // One that is not there, or no more, is watched when it appears.
            let _ = watch.add(&dir, mask, Watched::Disks);
        }
    }

    /// Watches the directories in which drivers may appear.
    pub(super) fn watch_drivers(&self, dirs: &[PathBuf]) {
        let Some(watch) = self.0.fleet.watch.get() else { return };
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::CLOSE_WRITE;
        let mask = mask | WatchMask::ATTRIB | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        // A directory has one watch: the home's own are not taken for this.
        for dir in dirs.iter().filter(|dir| !dir.starts_with(self.0.home.path())) {
            // One that went meanwhile is watched when it appears.
            let _ = watch.add(dir, mask, Watched::Drivers);
        }
    }

    /// Watches the jobs of an instance.
    pub(super) fn watch_jobs(&self, key: Key, jobs: &[Name]) {
        let (Some(watch), Ok(name)) = (self.0.fleet.watch.get(), self.name(key)) else { return };
        let dir = crate::jobs::dir(&self.0.home.path().join(name.as_str()));
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
        // One that is not there, or no more, is watched when it appears.
        let _ = watch.add(&dir, mask, Watched::Jobs(key));
        for job in jobs {
            let mask = WatchMask::MODIFY | WatchMask::MOVED_TO | WatchMask::ONLYDIR;
            let _ = watch.add(&dir.join(job.as_str()), mask, Watched::Job(key, job.clone()));
        }
    }

    fn home_changed(&self) {
        let Ok(there) = store::list(&self.0.home) else { return };
        let there: HashSet<Name> = there.into_iter().collect();
        let known: HashMap<Name, Key> = self.0.tree.lock().names().map(|(name, key)| (name.clone(), key)).collect();
        let mut changes = Vec::new();
        let mut appeared: Vec<&Name> = there.iter().filter(|name| !known.contains_key(*name)).collect();
        for (name, key) in known.iter().filter(|(name, _)| !there.contains(*name)) {
            // A directory that kept its identity was renamed.
            let moved = appeared.iter().position(|new| self.key_on_disk(new) == Some(*key));
            changes.push(match moved.map(|index| appeared.swap_remove(index)) {
                Some(to) => Change::Moved { from: name.to_string(), to: to.to_string() },
                None => Change::Vanished(name.to_string()),
            });
        }
        changes.extend(appeared.into_iter().map(|name| Change::Appeared(name.to_string())));
        self.0.announcer.announce(changes);
    }

    fn key_on_disk(&self, name: &Name) -> Option<Key> {
        let dir = self.0.home.path().join(name.as_str());
        std::fs::metadata(dir).ok().map(|meta| Key::of(&meta))
    }

    fn instance_changed(&self, key: Key) {
        if self.0.tree.lock().is_known(key) {
            self.changed(key, Snapshot::reread);
        }
    }

    fn grew(&self, key: Key, id: NodeId) {
        let mut tree = self.0.tree.lock();
        let ino = tree.number(&Target::Node(key, id));
        let path = tree.path(key, id.node().name);
        drop(tree);
        self.0.announcer.announce([Change::Content { ino, path }]);
    }
}

/// What a batch of events comes to.
#[derive(Default)]
struct Batch {
    /// Events were dropped: anything may have happened to any instance.
    lost: bool,
    home: bool,
    disks: bool,
    drivers: bool,
    /// Files in `_config`.
    config: bool,
    /// Those of them that apply to every instance.
    layers: bool,
    events: bool,
    templates: bool,
    instances: HashSet<Key>,
    sockets: HashSet<Key>,
    new_logs: HashSet<(Key, NodeId)>,
    grown: HashSet<(Key, NodeId)>,
    jobs: HashSet<Key>,
    job_files: HashSet<(Key, Name, JobFile)>,
}

impl Batch {
    fn take(&mut self, what: Watched, mask: EventMask, name: Option<&OsStr>) {
        match what {
            Watched::Home => match name.and_then(OsStr::to_str) {
                Some(names::TEMPLATES_DIR) => self.templates = true,
                Some(names::CONFIG_DIR) => (self.config, self.layers) = (true, true),
                name => {
                    self.home = true;
                    self.disks |= name == Some(names::DISKS_DIR);
                }
            },
            Watched::Config => {
                let layers = [names::DEFAULT_YAML, names::OVERRIDE_YAML];
                self.config = true;
                self.layers |= layers.into_iter().any(|layer| name == Some(OsStr::new(layer)));
            }
            Watched::Disks => self.disks = true,
            Watched::Drivers => self.drivers |= may_change_drivers(mask, name),
            Watched::Jobs(key) => {
                self.jobs.insert(key);
            }
            Watched::Job(key, job) => {
                let file = name.and_then(OsStr::to_str).and_then(JobFile::by_name);
                self.job_files.extend(file.map(|file| (key, job, file)));
            }
            Watched::Templates => self.templates = true,
            Watched::Events => self.events = true,
            Watched::Log(key, id) => {
                self.grown.insert((key, id));
            }
            Watched::Instance(key) => match name.and_then(OsStr::to_str) {
                // A socket exists before anybody listens on it; our hostagents write their pid when they do.
                Some(names::HA_SOCK | names::HA_PID) if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) => {
                    self.sockets.insert(key);
                }
                // QEMU has written its pid by the time that it makes this socket.
                Some(names::QMP_SOCK) if mask.contains(EventMask::CREATE) => {
                    self.instances.insert(key);
                }
                Some(
                    names::LIMA_YAML
                    | names::LIMA_VERSION
                    | names::RECORD
                    | names::PROTECTED
                    | names::SSH_CONFIG
                    | names::SNAPSHOTS,
                ) => {
                    self.instances.insert(key);
                }
                Some(names::JOBS_DIR) => {
                    self.jobs.insert(key);
                }
                Some(file) if mask.contains(EventMask::CREATE) => {
                    self.new_logs.extend(log(file).map(|id| (key, id)));
                }
                _ => {}
            },
        }
    }
}

/// Whether a driver came, went or changed, or a directory: such a place may hold much else that changes all the time.
fn may_change_drivers(mask: EventMask, name: Option<&OsStr>) -> bool {
    let is_driver = |name: &OsStr| name.as_encoded_bytes().starts_with(names::DRIVER_PREFIX.as_bytes());
    mask.contains(EventMask::ISDIR) || name.is_none_or(is_driver)
}

/// The node that shows a file as a log.
fn log(file: &str) -> Option<NodeId> {
    NodeId::all().find(|id| matches!(id.node().body, Body::Log(log) if log == file))
}

fn watch_for_ever(view: &View, mut inotify: Inotify, what: &Mutex<HashMap<WatchDescriptor, Watched>>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let events = match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::error!("inotify: {error}"),
        };
        let mut batch = Batch::default();
        for event in events {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                (batch.home, batch.disks, batch.templates) = (true, true, true);
                (batch.config, batch.layers, batch.drivers) = (true, true, true);
                (batch.events, batch.lost) = (true, true);
                continue;
            }
            let found = what.lock().get(&event.wd).cloned();
            if event.mask.contains(EventMask::IGNORED) {
                what.lock().remove(&event.wd);
            } else if let Some(found) = found {
                batch.take(found, event.mask, event.name);
            }
        }
        view.take_batch(batch);
        std::thread::sleep(REST);
    }
}

impl View {
    /// Has every instance looked at, and the logs of those that run.
    fn suspect_all(&self, batch: &mut Batch) {
        let tree = self.0.tree.lock();
        for (_, key) in tree.names() {
            batch.instances.insert(key);
            let Some(snapshot) = tree.known_snapshot(key) else { continue };
            if snapshot.state().is_live() {
                batch.jobs.insert(key);
                let logs = NodeId::all().filter(|id| matches!(id.node().body, Body::Log(_)));
                batch.grown.extend(logs.map(|id| (key, id)));
            } else {
                batch.sockets.insert(key);
            }
        }
    }

    fn take_batch(&self, mut batch: Batch) {
        if batch.lost {
            self.suspect_all(&mut batch);
        }
        if batch.home {
            self.home_changed();
        }
        if batch.disks {
            self.reread_disks();
        }
        if batch.drivers {
            self.drivers_changed();
        }
        if batch.config {
            self.0.fleet.watch.get().into_iter().for_each(|watch| watch.add_config(&self.0.home));
            self.config_changed();
        }
        if batch.layers {
            self.layers_changed();
        }
        if batch.events {
            let id = super::node::ROOT_EVENTS;
            let ino = self.0.tree.lock().number(&Target::RootNode(id));
            self.0.announcer.announce([Change::Content { ino, path: id.root_node().name.into() }]);
        }
        if batch.templates {
            self.watch_templates();
            self.templates_changed();
        }
        for key in batch.instances {
            self.instance_changed(key);
        }
        for key in batch.sockets {
            self.expect_agent(key);
        }
        for key in batch.jobs {
            self.jobs_changed(key);
        }
        for (key, job, file) in batch.job_files {
            self.job_changed(key, &job, file);
        }
        for (key, id) in batch.new_logs {
            self.watch_logs(key);
            // What was written before it was watched.
            self.grew(key, id);
        }
        for (key, id) in batch.grown {
            self.grew(key, id);
        }
    }
}
