//! The changes of directories: what is made, removed and renamed in them.

use std::time::SystemTime;

use super::bases::Patience;
use super::drivers_dir::DriverPlace;
use super::handle::Open;
use super::images::Place;
use super::ino::{Ino, Key, Target};
use super::io::stale;
use super::look::{missing, not_a_directory};
use super::networks_dir::NetworkPlace;
use super::node::{DEFINITION, INSTANCE, NodeId, is_directory_of_ours};
use super::scratch::ScratchBody;
use super::templates::{check_scratch_name, is_template, shipped};
use super::{Attr, Caller, Opened, Outcome, View, config_dir};
use crate::error::{Error, Result};
use crate::names::Name;

impl View {
    pub fn mkdir(&self, caller: Caller, parent: Ino, name: &str) -> Outcome<Attr> {
        match self.target(parent) {
            Ok(Target::Root) => {}
            Ok(Target::Disks) => return self.make_disk(name),
            Ok(Target::Jobs(key)) => return self.make_job(key, name),
            Ok(Target::Driver(DriverPlace::All)) if self.is_publisher(caller) => return self.show_driver(name).into(),
            Ok(_) => return self.refused(parent, Error::forbidden(name, "no directories can be made here")),
            Err(error) => return Err(error).into(),
        }
        if name.starts_with('.') {
            return self.refused(parent, Error::forbidden(name, "names with a dot in front are limafs's own"));
        }
        let name = match Name::parse(name) {
            Ok(name) => name,
            Err(error) => return self.refused(parent, error),
        };
        let view = self.clone();
        if self.is_publisher(caller) {
            return Outcome::later(async move { view.appear(&name) });
        }
        Outcome::later(async move { view.create(name).await })
    }

    /// Shows and tells of an instance that somebody else made.
    fn appear(&self, name: &Name) -> Result<Attr> {
        let attr = self.show(name)?;
        self.happened(name, "created");
        self.announce_list();
        Ok(attr)
    }

    /// Puts an instance that is on disk into the tree.
    pub(super) fn show(&self, name: &Name) -> Result<Attr> {
        let mut tree = self.0.tree.lock();
        tree.add(name)?;
        let key = tree.key(name.as_str()).ok_or_else(|| missing(name.as_str()))?;
        self.watch(key, name);
        self.attr_of(&mut tree, &Target::Instance(key))
    }

    pub fn rmdir(&self, caller: Caller, parent: Ino, name: &str) -> Outcome<()> {
        let found = self.child_of(parent, name);
        match found {
            Ok(Target::Instance(key)) => {
                let (view, is_gone) = (self.clone(), self.is_publisher(caller));
                Outcome::later(async move { if is_gone { view.hide(key) } else { view.delete(key).await } })
            }
            // Part of `rm -r` of the instance.
            Ok(Target::WaitDir(_) | Target::SocketDir(_) | Target::Jobs(_)) => Ok(()).into(),
            Ok(Target::Job(key, name)) => self.remove_job(caller, key, &name),
            Ok(Target::Disk(name)) => self.remove_disk(name),
            Ok(Target::Images(place)) => self.remove_image(parent, &place),
            Ok(Target::Driver(DriverPlace::Entry(driver))) if self.is_publisher(caller) => {
                self.hide_driver(&driver).into()
            }
            Ok(Target::Templates | Target::Disks | Target::Config | Target::Guests) => {
                self.refused(parent, Error::forbidden(name, "is limafs's own"))
            }
            Ok(Target::Network(_) | Target::Driver(_)) => {
                self.refused(parent, Error::forbidden(name, "is limafs's own"))
            }
            Ok(_) => Err(not_a_directory()).into(),
            Err(error) => Err(error).into(),
        }
    }

    /// Takes an instance whose directory is gone out of the tree.
    fn hide(&self, key: Key) -> Result<()> {
        let mut tree = self.0.tree.lock();
        let name = tree.instance(key)?.name.clone();
        let dir = tree.home.path().join(name.as_str());
        if dir.exists() {
            return Err(Error::busy(dir.display().to_string(), "is still there"));
        }
        tree.remove(key);
        drop(tree);
        self.wake(key);
        self.happened(&name, "deleted");
        self.announce_list();
        Ok(())
    }

    pub fn unlink(&self, caller: Caller, parent: Ino, name: &str) -> Outcome<()> {
        match self.child_of(parent, name) {
            Ok(Target::Template(name)) => self.remove_template(&name),
            Ok(Target::ConfigFile(file)) => self.remove_config(file),
            Ok(target) => self.unlink_now(caller, target, name).into(),
            Err(error) => Err(error).into(),
        }
    }

    fn unlink_now(&self, caller: Caller, target: Target, name: &str) -> Result<()> {
        match target {
            Target::Scratch(key, _) => self.0.tree.lock().relisted(key)?.remove(name),
            Target::Images(Place::File(..)) => Ok(()),
            // `rm -r` unlinks before it removes the directory, whose rmdir decides: nothing is lost here.
            Target::Node(key, id) => {
                self.0.tree.lock().instance_mut(key)?.unlinked.add(caller.pid, id);
                Ok(())
            }
            // As for an instance: the rmdir that follows decides.
            Target::DiskFile(..) | Target::Socket(..) | Target::RootLink(_) | Target::JobFile(..) => Ok(()),
            Target::Images(_)
            | Target::Network(NetworkPlace::All | NetworkPlace::Entry(_))
            | Target::Driver(DriverPlace::All | DriverPlace::Entry(_))
            | Target::Instance(_)
            | Target::WaitDir(_)
            | Target::SocketDir(_)
            | Target::Templates
            | Target::Disks
            | Target::Disk(_)
            | Target::Guests
            | Target::Jobs(_)
            | Target::Job(..)
            | Target::Config => {
                Err(Error::Io { path: name.into(), source: std::io::Error::from_raw_os_error(libc::EISDIR) })
            }
            _ => {
                let error = Error::forbidden(name, "cannot be removed");
                self.refuse(None, &error);
                Err(error)
            }
        }
    }

    pub fn rename(&self, caller: Caller, from: (Ino, &str), to: (Ino, &str), keep: bool) -> Outcome<()> {
        let source = match self.child_of(from.0, from.1) {
            Ok(target) => target,
            Err(error) => return Err(error).into(),
        };
        let existing = self.child_of(to.0, to.1).ok();
        if keep && existing.is_some() {
            return Err(Error::Exists { what: to.1.into() }).into();
        }
        match (source, self.target(to.0)) {
            (Target::Instance(key), Ok(Target::Root)) => self.rename_instance(caller, key, to.1, existing.is_some()),
            (Target::Scratch(key, serial), Ok(Target::Instance(dir))) if key == dir => {
                self.rename_scratch(key, serial, from.1, to.1)
            }
            (Target::Scratch(key @ Key::TEMPLATES, serial), Ok(Target::Templates)) => {
                self.rename_to_template(key, serial, from.1, to.1)
            }
            (Target::Template(name), Ok(Target::Templates)) => {
                self.forget_entry(to.0, to.1);
                self.rename_template(&name, to.1)
            }
            (Target::Scratch(Key::CONFIG, serial), Ok(Target::Config)) => self.rename_to_config(serial, from.1, to.1),
            (Target::ConfigFile(file), Ok(Target::Config)) => {
                self.forget_entry(to.0, to.1);
                self.rename_config(file, to.1)
            }
            (Target::Node(key, id), Ok(Target::Instance(dir))) if key == dir => {
                self.copy_out(key, id, to.1).inspect(|()| self.forget_entry(to.0, to.1)).into()
            }
            _ => self.refused(from.0, Error::forbidden(from.1, "cannot be moved there")),
        }
    }

    fn rename_instance(&self, caller: Caller, key: Key, to: &str, exists: bool) -> Outcome<()> {
        let name = match Name::parse(to) {
            Ok(_) if exists => return Err(not_empty(to)).into(),
            Ok(name) => name,
            Err(error) => return self.refused(Ino::ROOT, error),
        };
        let view = self.clone();
        if self.is_publisher(caller) {
            return Outcome::later(async move { view.moved(key, &name) });
        }
        Outcome::later(async move { view.move_to(key, name).await })
    }

    /// Takes in and tells of a rename that somebody else made.
    fn moved(&self, key: Key, to: &Name) -> Result<()> {
        let from = self.name(key)?;
        self.renamed(key, &from, to);
        Ok(())
    }

    /// An editor's save by rename: onto lima.yaml it is a definition, else scratch stays scratch.
    fn rename_scratch(&self, key: Key, serial: u64, from: &str, to: &str) -> Outcome<()> {
        let mut tree = self.0.tree.lock();
        let instance = match tree.instance_mut(key) {
            Ok(instance) => instance,
            Err(error) => return Err(error).into(),
        };
        match NodeId::by_name(to) {
            None if is_directory_of_ours(to) => return Err(Error::forbidden(to, "is limafs's own")).into(),
            None => {
                instance.changed = SystemTime::now();
                return instance.scratch.rename(from, to).into();
            }
            Some(DEFINITION) => {}
            Some(_) => return Err(Error::forbidden(to, "cannot be replaced")).into(),
        }
        let Some(bytes) = instance.scratch.by_serial(serial).map(|file| file.bytes().to_vec()) else {
            return Err(stale()).into();
        };
        let (view, from) = (self.clone(), from.to_owned());
        Outcome::later(async move {
            view.define(key, bytes, Patience::Hurries).await?;
            view.0.tree.lock().instance_mut(key)?.scratch.remove(&from)
        })
    }

    /// The same in `.templates`.
    fn rename_to_template(&self, key: Key, serial: u64, from: &str, to: &str) -> Outcome<()> {
        let mut tree = self.0.tree.lock();
        if tree.is_shipped(to) {
            drop(tree);
            return self.refuse_root(shipped(to)).into();
        }
        if !is_template(to) {
            return check_scratch_name(to).and_then(|()| tree.relisted(key)?.rename(from, to)).into();
        }
        let Some(bytes) = tree.templates.scratch.by_serial(serial).map(|file| file.bytes().to_vec()) else {
            return Err(stale()).into();
        };
        let (view, from, to) = (self.clone(), from.to_owned(), to.to_owned());
        Outcome::later(async move {
            view.define_template(to, bytes).await?;
            view.0.tree.lock().relisted(key)?.remove(&from)
        })
    }

    /// `sed -i.bak`, `mv lima.yaml x`: the definition stays, the new name gets its bytes.
    fn copy_out(&self, key: Key, id: NodeId, to: &str) -> Result<()> {
        if id != DEFINITION || NodeId::by_name(to).is_some() || is_directory_of_ours(to) {
            return Err(Error::forbidden(id.node().name, "cannot be moved"));
        }
        let mut tree = self.0.tree.lock();
        let bytes = tree.rendered(key, id, &self.0.host)?.bytes.to_vec();
        let instance = tree.instance_mut(key)?;
        if instance.scratch.by_name(to).is_some() {
            instance.scratch.remove(to)?;
        }
        instance.scratch.create(to, ScratchBody::File(bytes), 0o600)?;
        instance.changed = SystemTime::now();
        Ok(())
    }

    /// The kernel moves the entry of a renamed file; here the file stays where it was.
    fn forget_entry(&self, parent: Ino, name: &str) {
        self.0.announcer.announce([super::announce::Change::Entry { parent, name: name.into() }]);
    }

    /// Creates a scratch file and opens it; or opens a node whose creator has unlinked it before.
    pub fn create_file(
        &self,
        caller: Caller,
        parent: Ino,
        name: &str,
        perm: u16,
        flags: i32,
    ) -> Result<(Attr, Opened)> {
        if let Some(made) = self.create_in_templates(caller, parent, name, flags) {
            return made;
        }
        if let Some(made) = self.create_in_config(caller, parent, name, flags) {
            return made;
        }
        if let Ok(target @ Target::Node(key, id)) = self.child_of(parent, name) {
            let unlinked = self.0.tree.lock().instance_mut(key)?.unlinked.take(caller.pid, id);
            if flags & libc::O_EXCL != 0 && !unlinked {
                return Err(Error::Exists { what: name.into() });
            }
            let attr = self.attr_of(&mut self.0.tree.lock(), &target)?;
            let empty = if unlinked { libc::O_TRUNC } else { 0 };
            let opened = self.open(caller, attr.ino, flags | empty)?;
            return Ok((attr, opened));
        }
        let (key, serial) = self.make_scratch(parent, name, ScratchBody::File(Vec::new()), perm)?;
        let target = Target::Scratch(key, serial);
        let attr = self.attr_of(&mut self.0.tree.lock(), &target)?;
        let append = flags & libc::O_APPEND != 0;
        let fh = self.0.handles.lock().insert(attr.ino, Open::Scratch { key, serial, append });
        Ok((attr, Opened { fh, direct: true, quiet: true }))
    }

    /// What a file of this name is in `.templates`, unless it is scratch.
    fn create_in_templates(
        &self,
        caller: Caller,
        parent: Ino,
        name: &str,
        flags: i32,
    ) -> Option<Result<(Attr, Opened)>> {
        if !matches!(self.target(parent), Ok(Target::Templates)) {
            return None;
        }
        if let Ok(target @ Target::Template(_)) = self.child_of(parent, name) {
            if flags & libc::O_EXCL != 0 {
                return Some(Err(Error::Exists { what: name.into() }));
            }
            let attr = self.attr_of(&mut self.0.tree.lock(), &target);
            return Some(attr.and_then(|attr| self.open(caller, attr.ino, flags).map(|opened| (attr, opened))));
        }
        is_template(name).then(|| {
            let (attr, body) = self.create_template(name, flags & libc::O_APPEND != 0)?;
            let fh = self.0.handles.lock().insert(attr.ino, body);
            Ok((attr, Opened { fh, direct: true, quiet: false }))
        })
    }

    pub fn symlink(&self, parent: Ino, name: &str, to: &[u8]) -> Result<Attr> {
        let (key, serial) = self.make_scratch(parent, name, ScratchBody::Symlink(to.to_vec()), 0o777)?;
        self.attr_of(&mut self.0.tree.lock(), &Target::Scratch(key, serial))
    }

    fn make_scratch(&self, parent: Ino, name: &str, body: ScratchBody, perm: u16) -> Result<(Key, u64)> {
        let key = match self.target(parent)? {
            Target::Instance(key) => key,
            Target::Templates => Key::TEMPLATES,
            Target::Config => Key::CONFIG,
            _ => return self.refuse_root(Error::forbidden(name, "only instances can be made here, with mkdir")),
        };
        let allowed = match key {
            Key::TEMPLATES => check_scratch_name(name),
            Key::CONFIG => config_dir::check_scratch_name(name),
            _ => Ok(()),
        };
        allowed.or_else(|error| self.refuse_root(error))?;
        let mut tree = self.0.tree.lock();
        if key != Key::TEMPLATES && (INSTANCE.iter().any(|node| node.name == name) || is_directory_of_ours(name)) {
            return Err(Error::Exists { what: name.into() });
        }
        let serial = tree.relisted(key)?.create(name, body, perm & 0o777)?.serial;
        Ok((key, serial))
    }

    /// Notes a refusal where people look for it, and answers with it.
    pub(super) fn refused<T>(&self, parent: Ino, error: Error) -> Outcome<T> {
        let key = self.target(parent).ok().and_then(|target| target.key());
        self.refuse(key, &error);
        Err(error).into()
    }
}

fn not_empty(name: &str) -> Error {
    Error::Io { path: name.into(), source: std::io::Error::from_raw_os_error(libc::ENOTEMPTY) }
}
