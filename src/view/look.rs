//! lookup, stat, listing, and the other questions about what is there; changes nothing.

use std::time::SystemTime;

use super::disks::DiskFile;
use super::drivers_dir::DriverPlace;
use super::handle::{DirEntry, Fh, Open};
use super::images::Place;
use super::ino::{Ino, Key, Target};
use super::io::stale;
use super::jobs::JobFile;
use super::networks_dir::NetworkPlace;
use super::node::{
    Body, CONFIG_DIR, DISKS_DIR, DRIVERS_DIR, GUEST_DIR, IMAGES_DIR, JOBS_DIR, NETWORKS_DIR, NodeId, ROOT_LINK,
    RootBody, SNAPSHOTS_DIR, SOCKETS_DIR, TEMPLATES_DIR, WAIT_DIR,
};
use super::picture::has_display;
use super::scratch::{ScratchBody, ScratchFile};
use super::snapshots_dir::INFO;
use super::tree::{Instance, Tree};
use super::wait::Condition;
use super::{Attr, Caller, Kind, Opened, View};
use crate::error::{Error, Result};
use crate::names;

impl View {
    pub(super) fn target(&self, ino: Ino) -> Result<Target> {
        self.0.tree.lock().inodes.target(ino).cloned().ok_or_else(stale)
    }

    pub fn lookup(&self, caller: Caller, parent: Ino, name: &str) -> Result<Attr> {
        let parent = self.target(parent)?;
        if parent == Target::Guests {
            return self.guest_entry(name);
        }
        let mut tree = self.0.tree.lock();
        let target = self.child(&mut tree, &parent, name)?;
        if let Target::Node(key, id) = target
            && tree.instance(key)?.unlinked.is_by(caller.pid, id)
        {
            return Err(missing(name));
        }
        self.attr_of(&mut tree, &target)
    }

    pub fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<Attr> {
        let target = self.target(ino)?;
        let mut attr = self.attr_of(&mut self.0.tree.lock(), &target)?;
        if let Some(size) = fh.and_then(|fh| self.0.handles.lock().get(fh).and_then(|handle| draft_of(&handle.body))) {
            attr.size = size as u64;
        }
        Ok(attr)
    }

    pub(super) fn attr_of(&self, tree: &mut Tree, target: &Target) -> Result<Attr> {
        let ino = tree.number(target);
        let directory = if self.0.shared { 0o755 } else { 0o700 };
        Ok(match target {
            Target::Root => Attr::directory(ino, tree.names().count() + 7, tree.changed, directory),
            Target::Images(place) => self.image_attr(tree, ino, place, directory)?,
            Target::Network(place) => self.network_attr(tree, ino, place, directory)?,
            Target::Driver(place) => self.driver_attr(tree, ino, place, directory)?,
            Target::Templates => Attr::directory(ino, 0, tree.templates.changed, directory).uncached(),
            Target::Template(name) => self.template_attr(tree, name)?,
            Target::Config => Attr::directory(ino, 0, tree.config.changed, directory).uncached(),
            Target::ConfigFile(file) => self.config_attr(tree, *file)?,
            Target::RootNode(id) => self.root_attr(tree, ino, *id),
            Target::Instance(key) => Attr::directory(ino, 4, tree.instance(*key)?.changed, directory),
            Target::WaitDir(key) => Attr::directory(ino, 0, tree.instance(*key)?.changed, directory),
            Target::Wait(key, _) => Attr::file(ino, 0, tree.instance(*key)?.changed, 0o400).uncached(),
            Target::Scratch(key, serial) => {
                let file = tree.scratch(*key)?.by_serial(*serial).ok_or_else(stale)?;
                scratch_attr(ino, file)
            }
            Target::Node(key, id) => self.node_attr(tree, ino, *key, *id)?,
            Target::SocketDir(_) | Target::Socket(..) => self.socket_attr(tree, ino, target, directory)?,
            Target::Guests => Attr::directory(ino, 0, tree.changed, 0o700).briefly(),
            Target::Jobs(_) | Target::Job(..) | Target::JobFile(..) => self.job_attr(tree, ino, target)?,
            Target::Snapshots(_) | Target::Snapshot(..) | Target::SnapshotInfo(..) => {
                self.snapshot_attr(tree, ino, target, directory)?
            }
            Target::RootLink(key) => root_link(ino, tree.instance(*key)?),
            Target::Disks | Target::Disk(_) | Target::DiskFile(..) => self.disk_attr(tree, ino, target, directory)?,
        })
    }

    fn root_attr(&self, tree: &mut Tree, ino: Ino, id: NodeId) -> Attr {
        let node = id.root_node();
        let perm = if self.0.shared && node.public { 0o444 } else { 0o400 };
        match node.body {
            RootBody::Events => log_attr(ino, &self.0.home.ours(names::ROOT_EVENTS), tree.started, perm),
            RootBody::List => {
                let text = tree.root_rendered(id, &self.0.host);
                Attr::file(ino, text.bytes.len() as u64, text.mtime, perm).uncached()
            }
            RootBody::Readme | RootBody::Error => {
                let text = tree.root_rendered(id, &self.0.host);
                Attr::file(ino, text.bytes.len() as u64, text.mtime, perm)
            }
        }
    }

    fn node_attr(&self, tree: &mut Tree, ino: Ino, key: Key, id: NodeId) -> Result<Attr> {
        let node = id.node();
        let perm = node.perm(self.0.shared);
        if let Body::Log(file) = node.body {
            let instance = tree.instance(key)?;
            let path = self.0.home.path().join(instance.name.as_str()).join(file);
            return Ok(log_attr(ino, &path, instance.changed, perm));
        }
        if matches!(node.body, Body::Picture) {
            return self.picture_attr(tree, ino, key, perm);
        }
        let text = tree.rendered(key, id, &self.0.host)?;
        Ok(Attr::file(ino, text.bytes.len() as u64, text.mtime, perm))
    }

    pub fn opendir(&self, ino: Ino) -> Result<Opened> {
        let target = self.target(ino)?;
        let entries = self.entries(&target)?;
        let fh = self.0.handles.lock().insert(ino, Open::Directory(entries.into()));
        Ok(Opened { fh, direct: false, quiet: true })
    }

    /// The entries of an open directory, as they were when it was opened.
    pub fn listing(&self, fh: Fh) -> Result<std::sync::Arc<[DirEntry]>> {
        match self.0.handles.lock().get(fh).map(|handle| &handle.body) {
            Some(Open::Directory(entries)) => Ok(entries.clone()),
            _ => Err(stale()),
        }
    }

    /// Attributes for a listing's entry; `None` when it is gone by now.
    pub fn entry_attr(&self, entry: &DirEntry) -> Option<Attr> {
        if entry.ino.is_guest() {
            return self.guest_entry(&entry.name).ok();
        }
        self.getattr(entry.ino, None).ok()
    }

    fn entries(&self, target: &Target) -> Result<Vec<DirEntry>> {
        let mut tree = self.0.tree.lock();
        let mut found: Vec<(String, Target, Kind)> = Vec::new();
        match target {
            Target::Root => {
                for id in NodeId::all_root() {
                    found.push((id.root_node().name.into(), Target::RootNode(id), Kind::File));
                }
                found.push((IMAGES_DIR.into(), Target::Images(Place::All), Kind::Directory));
                found.push((NETWORKS_DIR.into(), Target::Network(NetworkPlace::All), Kind::Directory));
                found.push((DRIVERS_DIR.into(), Target::Driver(DriverPlace::All), Kind::Directory));
                found.push((TEMPLATES_DIR.into(), Target::Templates, Kind::Directory));
                found.push((DISKS_DIR.into(), Target::Disks, Kind::Directory));
                found.push((CONFIG_DIR.into(), Target::Config, Kind::Directory));
                found.push((GUEST_DIR.into(), Target::Guests, Kind::Directory));
                found
                    .extend(tree.names().map(|(name, key)| (name.to_string(), Target::Instance(key), Kind::Directory)));
            }
            Target::Images(place) => found.extend(tree.image_entries(place)?),
            Target::Network(place) => found.extend(tree.network_entries(place)?),
            Target::Driver(place) => found.extend(tree.driver_entries(place)?),
            Target::Templates => {
                let names = tree.template_names();
                found.extend(names.into_iter().map(|name| (name.clone(), Target::Template(name), Kind::File)));
                found.extend(scratch_entries(&tree, Key::TEMPLATES)?);
            }
            Target::Config => found.extend(tree.config.entries().chain(scratch_entries(&tree, Key::CONFIG)?)),
            Target::Instance(key) => {
                let has_display = has_display(tree.snapshot(*key, &self.0.host)?);
                for id in NodeId::all().filter(|id| has_display || !matches!(id.node().body, Body::Picture)) {
                    found.push((id.node().name.into(), Target::Node(*key, id), Kind::File));
                }
                found.push((WAIT_DIR.into(), Target::WaitDir(*key), Kind::Directory));
                found.push((SOCKETS_DIR.into(), Target::SocketDir(*key), Kind::Directory));
                found.push((JOBS_DIR.into(), Target::Jobs(*key), Kind::Directory));
                found.push((SNAPSHOTS_DIR.into(), Target::Snapshots(*key), Kind::Directory));
                found.push((ROOT_LINK.into(), Target::RootLink(*key), Kind::Symlink));
                found.extend(scratch_entries(&tree, *key)?);
            }
            Target::WaitDir(_) | Target::Guests => {}
            Target::SocketDir(key) => found.extend(self.socket_entries(&mut tree, *key)?),
            Target::Jobs(key) => found.extend(tree.job_entries(*key)?),
            Target::Job(key, job) => {
                let file = |file: JobFile| (file.name().into(), Target::JobFile(*key, job.clone(), file), Kind::File);
                found.extend(JobFile::ALL.map(file));
            }
            Target::Snapshots(key) => found.extend(tree.snapshot_entries(*key, &self.0.host)?),
            Target::Snapshot(key, tag) => {
                found.push((INFO.into(), Target::SnapshotInfo(*key, tag.clone()), Kind::File));
            }
            Target::Disks => {
                let names = tree.disks.names().map(|name| name.to_string());
                found.extend(names.map(|name| (name.clone(), Target::Disk(name), Kind::Directory)));
            }
            Target::Disk(name) => {
                let file = |file: DiskFile| (file.name().into(), Target::DiskFile(name.clone(), file), Kind::File);
                found.extend(DiskFile::ALL.map(file));
            }
            _ => return Err(not_a_directory()),
        }
        let own = tree.number(target);
        let mut entries = vec![
            DirEntry { name: ".".into(), ino: own, kind: Kind::Directory },
            DirEntry { name: "..".into(), ino: Ino::ROOT, kind: Kind::Directory },
        ];
        for (name, target, kind) in found {
            entries.push(DirEntry { ino: tree.number(&target), name, kind });
        }
        Ok(entries)
    }

    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let target = self.target(ino)?;
        if let Target::Socket(key, name) = &target {
            return self.socket_link(*key, name);
        }
        if let Target::RootLink(key) = target {
            return Ok(root_text(self.0.tree.lock().instance(key)?).into_bytes());
        }
        if let Target::Scratch(key, serial) = target
            && let Some(ScratchFile { body: ScratchBody::Symlink(to), .. }) =
                self.0.tree.lock().scratch(key)?.by_serial(serial)
        {
            return Ok(to.clone());
        }
        Err(Error::invalid("readlink", "is no symbolic link"))
    }

    /// Of the file system that holds the home.
    pub fn statfs(&self) -> Result<rustix::fs::StatVfs> {
        rustix::fs::statvfs(self.0.home.path()).map_err(|errno| Error::io(self.0.home.path())(errno.into()))
    }

    pub(super) fn child_of(&self, parent: Ino, name: &str) -> Result<Target> {
        let parent = self.target(parent)?;
        self.child(&mut self.0.tree.lock(), &parent, name)
    }

    fn child(&self, tree: &mut Tree, parent: &Target, name: &str) -> Result<Target> {
        match parent {
            Target::SocketDir(key) => self.socket_child(tree, *key, name),
            Target::Snapshots(key) => match tree.has_snapshot(*key, name, &self.0.host) {
                true => Ok(Target::Snapshot(*key, name.into())),
                false => Err(missing(name)),
            },
            Target::Snapshot(key, tag) if name == INFO && tree.has_snapshot(*key, tag, &self.0.host) => {
                Ok(Target::SnapshotInfo(*key, tag.clone()))
            }
            Target::Snapshot(..) => Err(missing(name)),
            parent => child(tree, parent, name),
        }
    }
}

fn child(tree: &mut Tree, parent: &Target, name: &str) -> Result<Target> {
    match parent {
        Target::Root => {
            if name == IMAGES_DIR {
                return Ok(Target::Images(Place::All));
            }
            if name == NETWORKS_DIR {
                return Ok(Target::Network(NetworkPlace::All));
            }
            if name == DRIVERS_DIR {
                return Ok(Target::Driver(DriverPlace::All));
            }
            if name == TEMPLATES_DIR {
                return Ok(Target::Templates);
            }
            if name == DISKS_DIR {
                return Ok(Target::Disks);
            }
            if name == CONFIG_DIR {
                return Ok(Target::Config);
            }
            if name == GUEST_DIR {
                return Ok(Target::Guests);
            }
            if let Some(id) = NodeId::root_by_name(name) {
                return Ok(Target::RootNode(id));
            }
            tree.key(name).map(Target::Instance).ok_or_else(|| missing(name))
        }
        Target::Images(place) => tree.image_child(place, name),
        Target::Network(place) => tree.network_child(place, name),
        Target::Driver(place) => tree.driver_child(place, name),
        Target::Templates => {
            if tree.has_template(name) {
                return Ok(Target::Template(name.into()));
            }
            scratch_file(tree, Key::TEMPLATES, name)
        }
        Target::Config => tree.config.child(name).map_or_else(|| scratch_file(tree, Key::CONFIG, name), Ok),
        Target::Disks => tree.disks.get(name).map(|_| Target::Disk(name.into())).ok_or_else(|| missing(name)),
        Target::Disk(disk) => {
            DiskFile::by_name(name).map(|file| Target::DiskFile(disk.clone(), file)).ok_or_else(|| missing(name))
        }
        Target::Instance(key) => {
            if name == WAIT_DIR {
                return Ok(Target::WaitDir(*key));
            }
            if name == SOCKETS_DIR {
                return Ok(Target::SocketDir(*key));
            }
            if name == ROOT_LINK {
                return Ok(Target::RootLink(*key));
            }
            if name == JOBS_DIR {
                return Ok(Target::Jobs(*key));
            }
            if name == SNAPSHOTS_DIR {
                return Ok(Target::Snapshots(*key));
            }
            if let Some(id) = NodeId::by_name(name) {
                return Ok(Target::Node(*key, id));
            }
            scratch_file(tree, *key, name)
        }
        Target::Jobs(key) if tree.has_job(*key, name) => Ok(Target::Job(*key, name.into())),
        Target::Jobs(_) => Err(missing(name)),
        Target::Job(key, job) if tree.has_job(*key, job) => {
            let file = JobFile::by_name(name).ok_or_else(|| missing(name))?;
            Ok(Target::JobFile(*key, job.clone(), file))
        }
        Target::Job(_, job) => Err(missing(job)),
        Target::WaitDir(key) => {
            Condition::parse(name).map(|what| Target::Wait(*key, what)).ok_or_else(|| missing(name))
        }
        _ => Err(not_a_directory()),
    }
}

fn scratch_file(tree: &Tree, key: Key, name: &str) -> Result<Target> {
    let file = tree.scratch(key)?.by_name(name);
    file.map(|file| Target::Scratch(key, file.serial)).ok_or_else(|| missing(name))
}

fn scratch_entries(tree: &Tree, key: Key) -> Result<Vec<(String, Target, Kind)>> {
    let entry = |(name, file): (&str, &ScratchFile)| {
        let kind = if matches!(file.body, ScratchBody::File(_)) { Kind::File } else { Kind::Symlink };
        (name.to_owned(), Target::Scratch(key, file.serial), kind)
    };
    Ok(tree.scratch(key)?.names().map(entry).collect())
}

fn draft_of(body: &Open) -> Option<usize> {
    match body {
        Open::Draft { bytes, .. } => Some(bytes.len()),
        _ => None,
    }
}

fn scratch_attr(ino: Ino, file: &ScratchFile) -> Attr {
    let kind = if matches!(file.body, ScratchBody::File(_)) { Kind::File } else { Kind::Symlink };
    // Not cached: after a rename onto a node the kernel must look the name up again.
    Attr { kind, ..Attr::file(ino, file.bytes().len() as u64, file.mtime, file.perm) }.uncached()
}

fn root_text(instance: &Instance) -> String {
    format!("../{GUEST_DIR}/{}", instance.name)
}

fn root_link(ino: Ino, instance: &Instance) -> Attr {
    let size = root_text(instance).len() as u64;
    Attr { kind: Kind::Symlink, ..Attr::file(ino, size, instance.changed, 0o777) }.briefly()
}

fn log_attr(ino: Ino, path: &std::path::Path, otherwise: SystemTime, perm: u16) -> Attr {
    let meta = std::fs::metadata(path).ok().filter(|meta| meta.is_file());
    let mtime = meta.as_ref().and_then(|meta| meta.modified().ok()).unwrap_or(otherwise);
    Attr::file(ino, meta.map_or(0, |meta| meta.len()), mtime, perm).uncached()
}

pub fn missing(name: &str) -> Error {
    Error::Missing { what: name.into() }
}

pub fn not_a_directory() -> Error {
    Error::Io { path: "node".into(), source: std::io::Error::from_raw_os_error(libc::ENOTDIR) }
}
