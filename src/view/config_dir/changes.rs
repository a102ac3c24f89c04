//! Writing, removing and renaming in `.config`: documents as lima.yaml is one, checked when they are closed.

use std::time::SystemTime;

use super::{ConfigFile, check_scratch_name, disk, stays};
use crate::error::{Error, Result};
use crate::view::commands::blocking;
use crate::view::handle::{Document, Open, Source};
use crate::view::ino::{Ino, Key, Target};
use crate::view::io::stale;
use crate::view::open::Mode;
use crate::view::scratch::ScratchBody;
use crate::view::{Attr, Caller, Opened, Outcome, View};

impl View {
    pub(in crate::view) fn open_config(&self, file: ConfigFile, mode: Mode) -> Result<Open> {
        if !mode.write {
            return self.text(Source::Config(file));
        }
        if !file.takes_writes() {
            return self.refuse_root(stays(file));
        }
        let tree = self.0.tree.lock();
        let old = match tree.config.text(file) {
            Ok(text) => text.bytes.to_vec(),
            Err(_) if tree.config.coming.contains(&file) => Vec::new(),
            Err(error) => return Err(error),
        };
        let bytes = if mode.truncate { Vec::new() } else { old };
        Ok(Open::Draft { document: Document::Config(file), bytes, dirty: mode.truncate, append: mode.append })
    }

    /// What a file of this name is in `.config`, unless it is scratch.
    pub(in crate::view) fn create_in_config(
        &self,
        caller: Caller,
        parent: Ino,
        name: &str,
        flags: i32,
    ) -> Option<Result<(Attr, Opened)>> {
        if !matches!(self.target(parent), Ok(Target::Config)) {
            return None;
        }
        if let Ok(target @ Target::ConfigFile(_)) = self.child_of(parent, name) {
            if flags & libc::O_EXCL != 0 {
                return Some(Err(Error::Exists { what: name.into() }));
            }
            let attr = self.attr_of(&mut self.0.tree.lock(), &target);
            return Some(attr.and_then(|attr| self.open(caller, attr.ino, flags).map(|opened| (attr, opened))));
        }
        let file = ConfigFile::by_name(name).filter(|file| file.takes_writes())?;
        Some(self.create_config(file, flags & libc::O_APPEND != 0))
    }

    /// A document that is not there yet: it is when its writer closes it.
    fn create_config(&self, file: ConfigFile, append: bool) -> Result<(Attr, Opened)> {
        let mut tree = self.0.tree.lock();
        tree.config.coming.insert(file);
        tree.config.changed = SystemTime::now();
        let attr = self.config_attr(&mut tree, file)?;
        drop(tree);
        let body = Open::Draft { document: Document::Config(file), bytes: Vec::new(), dirty: true, append };
        let fh = self.0.handles.lock().insert(attr.ino, body);
        Ok((attr, Opened { fh, direct: true, quiet: false }))
    }

    /// Its writer is gone, whatever came of it.
    pub(in crate::view) fn config_released(&self, file: ConfigFile) {
        self.0.tree.lock().config.coming.remove(&file);
    }

    /// Makes `bytes` the document, or leaves the old one and says why.
    pub(in crate::view) async fn define_config(&self, file: ConfigFile, bytes: Vec<u8>) -> Result<()> {
        let home = self.0.home.clone();
        let change = move || {
            file.check(&bytes)?;
            disk::define(&home, file, &bytes)
        };
        self.change_config(file.is_layer(), change).await
    }

    pub(in crate::view) fn remove_config(&self, file: ConfigFile) -> Outcome<()> {
        if !file.takes_writes() {
            return self.refuse_root(stays(file)).into();
        }
        if self.0.tree.lock().config.text(file).is_err() {
            // It is being written: there is nothing yet.
            return Ok(()).into();
        }
        let view = self.clone();
        Outcome::later(async move {
            let home = view.0.home.clone();
            view.change_config(file.is_layer(), move || disk::remove(&home, file)).await
        })
    }

    /// A document that is renamed to another one's name is that one; to any other name it is copied, as a backup is made.
    pub(in crate::view) fn rename_config(&self, from: ConfigFile, to: &str) -> Outcome<()> {
        if !from.takes_writes() {
            return self.refuse_root(stays(from)).into();
        }
        let Some(file) = ConfigFile::by_name(to) else { return self.back_up_config(from, to).into() };
        let view = self.clone();
        Outcome::later(async move {
            let home = view.0.home.clone();
            let is_layer = from.is_layer() || file.is_layer();
            view.change_config(is_layer, move || disk::rename(&home, from, file)).await
        })
    }

    fn back_up_config(&self, from: ConfigFile, to: &str) -> Result<()> {
        check_scratch_name(to).or_else(|error| self.refuse_root(error))?;
        let mut tree = self.0.tree.lock();
        let bytes = tree.config.text(from)?.bytes.to_vec();
        let scratch = tree.relisted(Key::CONFIG)?;
        if scratch.by_name(to).is_some() {
            scratch.remove(to)?;
        }
        scratch.create(to, ScratchBody::File(bytes), 0o600).map(drop)
    }

    /// An editor's save by rename: onto a document it is that document, else scratch stays scratch.
    pub(in crate::view) fn rename_to_config(&self, serial: u64, from: &str, to: &str) -> Outcome<()> {
        let Some(file) = ConfigFile::by_name(to) else {
            let allowed = check_scratch_name(to).or_else(|error| self.refuse_root(error));
            return allowed.and_then(|()| self.0.tree.lock().relisted(Key::CONFIG)?.rename(from, to)).into();
        };
        let bytes = self.0.tree.lock().config.scratch.by_serial(serial).map(|scratch| scratch.bytes().to_vec());
        let Some(bytes) = bytes else { return Err(stale()).into() };
        let (view, from) = (self.clone(), from.to_owned());
        Outcome::later(async move {
            view.define_config(file, bytes).await?;
            view.0.tree.lock().relisted(Key::CONFIG)?.remove(&from)
        })
    }

    /// Carries out a change on disk. What comes of it is in effect when this returns; of a refusal `.error` says why.
    async fn change_config(&self, is_layer: bool, change: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let view = self.clone();
        let done = blocking(move || {
            change()?;
            view.config_changed();
            if is_layer {
                view.layers_changed();
            }
            Ok(())
        });
        let done = done.await;
        let sentence = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let changes = self.0.tree.lock().set_error(&sentence);
        self.0.announcer.announce(changes);
        done
    }
}
