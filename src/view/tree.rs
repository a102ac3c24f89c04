//! The instances and what was rendered of them. Everything here is answered from memory, but for the first look
//! into an instance, which reads its directory once.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::announce::Change;
use super::config_dir::ConfigDir;
use super::disks::Disks;
use super::drivers_dir::Drivers;
use super::guest;
use super::images::Images;
use super::ino::{Ino, Inodes, Key, Target};
use super::jobs::Jobs;
use super::node::{Body, DEFINITION, NodeId, ROOT_ERROR, ROOT_LIST, RootBody};
use super::nodes;
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use super::templates::Templates;
use super::unlinked::Unlinked;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::{Home, Name};

pub struct Tree {
    pub inodes: Inodes,
    names: BTreeMap<Name, Key>,
    instances: HashMap<Key, Instance>,
    pub home: Home,
    pub disks: Disks,
    pub images: Images,
    pub drivers: Drivers,
    /// When an instance last came or went.
    pub changed: SystemTime,
    /// Counts everything that `list` could show.
    version: u64,
    list: Option<(u64, Rendered)>,
    readme: Rendered,
    error: Rendered,
    pub started: SystemTime,
    pub templates: Templates,
    pub config: ConfigDir,
}

/// One instance directory.
pub struct Instance {
    pub name: Name,
    pub scratch: Scratch,
    pub unlinked: Unlinked,
    /// `None` until somebody looks.
    pub jobs: Option<Jobs>,
    /// Bytes of the last picture of its display, and when it was made.
    pub picture: Option<(u64, SystemTime)>,
    /// When its listing last changed.
    pub changed: SystemTime,
    snapshot: Option<Box<Snapshot>>,
    /// By node id; empty until somebody looks into the directory, `None` until somebody asks for the node.
    rendered: Vec<Option<Rendered>>,
}

/// The text of a node as it is now.
#[derive(Debug, Clone)]
pub struct Rendered {
    pub bytes: Arc<[u8]>,
    pub mtime: SystemTime,
    /// Grows with each change.
    pub version: u64,
}

impl Rendered {
    pub fn new(text: &str, mtime: SystemTime) -> Self {
        Self { bytes: text.as_bytes().into(), mtime, version: 0 }
    }

    /// Takes the new bytes; says whether they differ.
    pub fn replace(&mut self, bytes: Arc<[u8]>, mtime: SystemTime) -> bool {
        if self.bytes == bytes {
            return false;
        }
        // A change within the clock's grain must still be seen as one.
        let later = mtime.max(self.mtime + Duration::from_nanos(1));
        *self = Self { bytes, mtime: later, version: self.version + 1 };
        true
    }
}

impl Tree {
    pub fn new(home: &Home) -> Self {
        let now = SystemTime::now();
        Self {
            inodes: Inodes::default(),
            names: BTreeMap::new(),
            instances: HashMap::new(),
            home: home.clone(),
            disks: Disks::default(),
            images: Images::default(),
            drivers: Drivers::new(now),
            changed: now,
            version: 0,
            list: None,
            readme: Rendered::new(&nodes::readme(), now),
            error: Rendered::new("", now),
            started: now,
            templates: Templates::new(now),
            config: ConfigDir::new(now),
        }
    }

    pub fn key(&self, name: &str) -> Option<Key> {
        Name::parse(name).ok().and_then(|name| self.names.get(&name).copied())
    }

    pub fn names(&self) -> impl Iterator<Item = (&Name, Key)> {
        self.names.iter().map(|(name, key)| (name, *key))
    }

    pub fn instance(&self, key: Key) -> Result<&Instance> {
        self.instances.get(&key).ok_or_else(|| Error::Missing { what: "instance".into() })
    }

    pub fn instance_mut(&mut self, key: Key) -> Result<&mut Instance> {
        self.instances.get_mut(&key).ok_or_else(|| Error::Missing { what: "instance".into() })
    }

    /// The scratch files of an instance, of `.templates` or of `.config`.
    pub fn scratch(&self, key: Key) -> Result<&Scratch> {
        match key {
            Key::TEMPLATES => Ok(&self.templates.scratch),
            Key::CONFIG => Ok(&self.config.scratch),
            _ => Ok(&self.instance(key)?.scratch),
        }
    }

    pub fn scratch_mut(&mut self, key: Key) -> Result<&mut Scratch> {
        match key {
            Key::TEMPLATES => Ok(&mut self.templates.scratch),
            Key::CONFIG => Ok(&mut self.config.scratch),
            _ => Ok(&mut self.instance_mut(key)?.scratch),
        }
    }

    /// The same, when the directory's listing is about to change.
    pub fn relisted(&mut self, key: Key) -> Result<&mut Scratch> {
        let now = SystemTime::now();
        match key {
            Key::TEMPLATES => self.templates.changed = now,
            Key::CONFIG => self.config.changed = now,
            _ => self.instance_mut(key)?.changed = now,
        }
        self.scratch_mut(key)
    }

    /// Takes in an instance directory that exists on disk. Knows it already: says so with `None`.
    pub fn add(&mut self, name: &Name) -> Result<Option<Key>> {
        if self.names.contains_key(name) {
            return Ok(None);
        }
        let dir = self.home.path().join(name.as_str());
        let meta = fs::metadata(&dir).map_err(Error::io(&dir))?;
        let key = Key::of(&meta);
        let changed = meta.modified().unwrap_or(UNIX_EPOCH);
        let instance = Instance {
            name: name.clone(),
            scratch: Scratch::default(),
            unlinked: Unlinked::default(),
            jobs: None,
            picture: None,
            changed,
            snapshot: None,
            rendered: Vec::new(),
        };
        self.names.insert(name.clone(), key);
        self.instances.insert(key, instance);
        self.listing_changed();
        Ok(Some(key))
    }

    /// Forgets an instance whose directory is gone.
    pub fn remove(&mut self, key: Key) {
        if let Some(instance) = self.instances.remove(&key) {
            self.names.remove(&instance.name);
            self.inodes.forget(key);
            self.listing_changed();
        }
    }

    /// Renames an instance whose directory was renamed, and lists what differs.
    pub fn rename(&mut self, key: Key, to: &Name, host: &Host) -> Vec<Change> {
        let Some(instance) = self.instances.get_mut(&key) else { return Vec::new() };
        self.names.remove(&instance.name);
        self.names.insert(to.clone(), key);
        instance.name = to.clone();
        instance.snapshot = None;
        self.listing_changed();
        // Nothing fails for an instance that is there.
        self.render(key, host).unwrap_or_default()
    }

    fn listing_changed(&mut self) {
        self.version += 1;
        self.changed = SystemTime::now();
    }

    /// What is known of an instance; reads its directory when nobody has asked before.
    pub fn snapshot(&mut self, key: Key, host: &Host) -> Result<&mut Snapshot> {
        let Self { home, drivers, instances, .. } = self;
        let instance = instances.get_mut(&key).ok_or_else(|| Error::Missing { what: "instance".into() })?;
        let read = || Box::new(Snapshot::read(home, host, &instance.name, drivers.choice.clone()));
        Ok(instance.snapshot.get_or_insert_with(read))
    }

    /// What is known of an instance, if anybody has asked before.
    pub fn known_snapshot(&self, key: Key) -> Option<&Snapshot> {
        self.instances.get(&key)?.snapshot.as_deref()
    }

    /// Whether the instance's directory was read already.
    pub fn is_known(&self, key: Key) -> bool {
        self.instances.get(&key).is_some_and(|instance| instance.snapshot.is_some())
    }

    /// Changes what is known of an instance, renders its nodes again and lists what differs.
    pub fn update(&mut self, key: Key, host: &Host, change: impl FnOnce(&mut Snapshot)) -> Result<Vec<Change>> {
        let snapshot = self.snapshot(key, host)?;
        let (before, was_up) = (snapshot.state(), guest::is_up(snapshot));
        change(snapshot);
        let (after, is_up) = (snapshot.state(), guest::is_up(snapshot));
        let name = snapshot.name.to_string();
        self.version += 1;
        let mut changes = self.render(key, host)?;
        if was_up != is_up {
            // The way into a guest that is down ends at once.
            changes.push(Change::Entry { parent: self.inodes.number(&Target::Guests), name });
        }
        if before != after {
            let list = self.inodes.number(&Target::RootNode(ROOT_LIST));
            changes.push(Change::Content { ino: list, path: ROOT_LIST.root_node().name.into() });
        }
        Ok(changes)
    }

    /// The rendering of a node.
    pub fn rendered(&mut self, key: Key, id: NodeId, host: &Host) -> Result<Rendered> {
        if self.instance(key)?.rendered.is_empty() {
            self.render_first(key, host)?;
        }
        let index = usize::from(id.0);
        if let Some(rendered) = &self.instance(key)?.rendered[index] {
            return Ok(rendered.clone());
        }
        let rendered = first(id, self.snapshot(key, host)?);
        self.instance_mut(key)?.rendered[index] = Some(rendered.clone());
        Ok(rendered)
    }

    fn render_first(&mut self, key: Key, host: &Host) -> Result<()> {
        let snapshot = self.snapshot(key, host)?;
        let is_asked = |id: NodeId| matches!(id.node().body, Body::Asked(_));
        let rendered = NodeId::all().map(|id| (!is_asked(id)).then(|| first(id, snapshot))).collect();
        self.instance_mut(key)?.rendered = rendered;
        Ok(())
    }

    fn render(&mut self, key: Key, host: &Host) -> Result<Vec<Change>> {
        if self.instance(key)?.rendered.is_empty() {
            return Ok(Vec::new());
        }
        let now = SystemTime::now();
        let instance = self.instance(key)?;
        let name = instance.name.to_string();
        let shown = NodeId::all().zip(&instance.rendered).filter_map(|(id, old)| old.as_ref().map(|_| id));
        let shown: Vec<_> = shown.collect();
        let snapshot = self.snapshot(key, host)?;
        let defined = snapshot.defined;
        let fresh: Vec<_> = shown.into_iter().map(|id| (id, bytes_of(id, snapshot))).collect();
        let instance = self.instance_mut(key)?;
        let mut changed = Vec::new();
        for (id, bytes) in fresh {
            let mtime = if id == DEFINITION { defined } else { now };
            let old = instance.rendered[usize::from(id.0)].as_mut();
            if old.is_some_and(|old| old.replace(bytes, mtime)) {
                changed.push(id);
            }
        }
        Ok(changed
            .into_iter()
            .map(|id| Change::Content {
                ino: self.inodes.number(&Target::Node(key, id)),
                path: format!("{name}/{}", id.node().name),
            })
            .collect())
    }

    /// The rendering of a root node that is text.
    pub fn root_rendered(&mut self, id: NodeId, host: &Host) -> Rendered {
        match id.root_node().body {
            RootBody::Readme => self.readme.clone(),
            RootBody::Error => self.error.clone(),
            RootBody::List => self.rendered_list(host),
            RootBody::Events => Rendered::new("", self.started),
        }
    }

    fn rendered_list(&mut self, host: &Host) -> Rendered {
        let version = self.version;
        if let Some((of, rendered)) = &self.list
            && *of == version
        {
            return rendered.clone();
        }
        let keys: Vec<_> = self.names.values().copied().collect();
        for key in keys {
            // An instance that was just removed is left out.
            let _ = self.snapshot(key, host);
        }
        let text = nodes::list(self.names.values().filter_map(|key| self.instances.get(key)?.snapshot.as_deref()));
        let now = SystemTime::now();
        let mut rendered = self.list.take().map_or_else(|| Rendered::new(&text, now), |(_, rendered)| rendered);
        rendered.replace(text.as_bytes().into(), now);
        self.list = Some((version, rendered.clone()));
        rendered
    }

    /// Sets `.error`.
    pub fn set_error(&mut self, sentence: &str) -> Vec<Change> {
        let text = if sentence.is_empty() { String::new() } else { format!("{sentence}\n") };
        if !self.error.replace(text.as_bytes().into(), SystemTime::now()) {
            return Vec::new();
        }
        let ino = self.inodes.number(&Target::RootNode(ROOT_ERROR));
        vec![Change::Content { ino, path: ROOT_ERROR.root_node().name.into() }]
    }

    /// The root's path of a node, for announcements.
    pub fn path(&self, key: Key, name: &str) -> String {
        self.instances.get(&key).map_or_else(String::new, |instance| format!("{}/{name}", instance.name))
    }

    pub fn number(&mut self, target: &Target) -> Ino {
        self.inodes.number(target)
    }
}

fn first(id: NodeId, snapshot: &Snapshot) -> Rendered {
    let since = SystemTime::from(snapshot.since()).max(snapshot.defined);
    let mtime = if id == DEFINITION { snapshot.defined } else { since };
    Rendered { bytes: bytes_of(id, snapshot), mtime, version: 0 }
}

fn bytes_of(id: NodeId, snapshot: &Snapshot) -> Arc<[u8]> {
    match id.node().body {
        Body::Show(show) | Body::Asked(show) | Body::Control { show, .. } => show(snapshot).into_bytes().into(),
        Body::Definition => snapshot.text(),
        Body::Log(_) | Body::Picture => Arc::from([]),
    }
}
