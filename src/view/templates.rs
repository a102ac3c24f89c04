//! `.templates`: those of the program, which stay, and the user's own, which are documents as lima.yaml is one.
//! Answers from memory; what is on disk is read at the first look and when it changes.

mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

pub use own::is_template;

use super::announce::Change;
use super::commands::blocking;
use super::handle::{Document, Open, Source};
use super::ino::{Key, Target};
use super::look::missing;
use super::node::TEMPLATES_DIR;
use super::open::Mode;
use super::scratch::{self, Scratch, ScratchBody};
use super::tree::{Rendered, Tree};
use super::{Attr, Outcome, View};
use crate::config;
use crate::error::{Error, Result};
use crate::names::Home;
use crate::{schema, templates};

pub struct Template {
    pub text: Rendered,
    /// The user's, to be changed and removed.
    pub own: bool,
}

pub struct Templates {
    /// By file name; nothing until somebody looks.
    files: Option<BTreeMap<String, Template>>,
    /// Files that were created and are being written.
    coming: BTreeSet<String>,
    pub scratch: Scratch,
    /// When the listing last changed.
    pub changed: SystemTime,
}

impl Templates {
    pub fn new(now: SystemTime) -> Self {
        Self { files: None, coming: BTreeSet::new(), scratch: Scratch::default(), changed: now }
    }
}

impl Tree {
    fn template_files(&mut self) -> &BTreeMap<String, Template> {
        let (home, started) = (&self.home, self.started);
        self.templates.files.get_or_insert_with(|| read(home, started))
    }

    pub fn template(&mut self, name: &str) -> Option<&Template> {
        self.template_files().get(name)
    }

    /// Whether there is such a template, or one is being written.
    pub fn has_template(&mut self, name: &str) -> bool {
        self.templates.coming.contains(name) || self.template(name).is_some()
    }

    /// Whether it is the program's and stays.
    pub fn is_shipped(&mut self, name: &str) -> bool {
        self.template(name).is_some_and(|template| !template.own)
    }

    pub fn template_names(&mut self) -> Vec<String> {
        let names: BTreeSet<String> = self.template_files().keys().cloned().collect();
        names.union(&self.templates.coming).cloned().collect()
    }

    /// Takes in what changed on disk, and lists it.
    fn reread_templates(&mut self) -> Vec<Change> {
        let Some(mut old) = self.templates.files.take() else { return Vec::new() };
        let mut fresh = read(&self.home, self.started);
        let mut changed = Vec::new();
        if !fresh.keys().eq(old.keys()) {
            self.templates.changed = SystemTime::now();
        }
        for (name, template) in &mut fresh {
            let Some(known) = old.remove(name) else { continue };
            let (bytes, mtime) = (template.text.bytes.clone(), template.text.mtime);
            template.text = known.text;
            if template.text.replace(bytes, mtime) || template.own != known.own {
                changed.push(name.clone());
            }
        }
        self.templates.files = Some(fresh);
        let change = |name: String| {
            let path = format!("{TEMPLATES_DIR}/{name}");
            Change::Content { ino: self.inodes.number(&Target::Template(name)), path }
        };
        changed.into_iter().map(change).collect()
    }
}

fn read(home: &Home, started: SystemTime) -> BTreeMap<String, Template> {
    // What cannot be read is not shown.
    let own = templates::user_templates(home).unwrap_or_default();
    let shown = |(file, text): (String, String)| {
        let path = file.strip_suffix(".yaml").and_then(|name| own.get(name));
        let written = path.and_then(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
        (file, Template { text: Rendered::new(&text, written.unwrap_or(started)), own: path.is_some() })
    };
    let schema = Template { text: Rendered::new(schema::lima_yaml(), started), own: false };
    templates::all(home).into_iter().map(shown).chain([(schema::FILE.into(), schema)]).collect()
}

/// Whether a scratch file may have this name. One that looks like a template and is none would be lost unnoticed.
pub fn check_scratch_name(name: &str) -> Result<()> {
    let lower = name.to_ascii_lowercase();
    let looks_like_one = lower.ends_with(".yaml") || lower.ends_with(".yml") || !name.contains(['.', '~', '#']);
    if looks_like_one && !scratch::is_tools_own(name) {
        return Err(Error::forbidden(name, "a template is called NAME.yaml, with no _ in front"));
    }
    Ok(())
}

pub fn shipped(name: &str) -> Error {
    Error::forbidden(name, "belongs to limafs and stays as it is; copy it to another name")
}

impl View {
    pub(super) fn template_attr(&self, tree: &mut Tree, name: &str) -> Result<Attr> {
        let ino = tree.number(&Target::Template(name.into()));
        let (is_coming, changed) = (tree.templates.coming.contains(name), tree.templates.changed);
        let (size, mtime, own) = match tree.template(name) {
            Some(Template { text, own }) => (text.bytes.len() as u64, text.mtime, *own),
            None if is_coming => (0, changed, true),
            None => return Err(missing(name)),
        };
        let perm = match own {
            // It may hold secrets.
            true => 0o600,
            false if self.0.shared => 0o444,
            false => 0o400,
        };
        Ok(Attr::file(ino, size, mtime, perm).uncached())
    }

    pub(super) fn open_template(&self, name: &str, mode: Mode) -> Result<Open> {
        if !mode.write {
            return self.text(Source::Template(name.into()));
        }
        let mut tree = self.0.tree.lock();
        let is_coming = tree.templates.coming.contains(name);
        let old = match tree.template(name) {
            Some(template) if template.own => template.text.bytes.to_vec(),
            Some(_) => {
                drop(tree);
                return self.refuse_root(shipped(name));
            }
            None if is_coming => Vec::new(),
            None => return Err(missing(name)),
        };
        let bytes = if mode.truncate { Vec::new() } else { old };
        let document = Document::Template(name.into());
        Ok(Open::Draft { document, bytes, dirty: mode.truncate, append: mode.append })
    }

    /// A template that is not there yet: it is when its writer closes it.
    pub(super) fn create_template(&self, name: &str, append: bool) -> Result<(Attr, Open)> {
        let mut tree = self.0.tree.lock();
        tree.templates.coming.insert(name.into());
        tree.templates.changed = SystemTime::now();
        let attr = self.template_attr(&mut tree, name)?;
        let document = Document::Template(name.into());
        Ok((attr, Open::Draft { document, bytes: Vec::new(), dirty: true, append }))
    }

    /// Its writer is gone, whatever came of it.
    pub(super) fn template_released(&self, name: &str) {
        self.0.tree.lock().templates.coming.remove(name);
    }

    /// Makes `bytes` the user's template, or leaves the old one and says why.
    pub(super) async fn define_template(&self, name: String, bytes: Vec<u8>) -> Result<()> {
        let home = self.0.home.clone();
        let is_shipped = self.0.tree.lock().is_shipped(&name);
        let done = blocking(move || {
            if is_shipped {
                return Err(shipped(&name));
            }
            config::partial::check(&bytes).map_err(|error| named(&name, error))?;
            own::define(&home, &name, &bytes)
        });
        self.templates_done(done.await)
    }

    pub(super) fn remove_template(&self, name: &str) -> Outcome<()> {
        let own = self.0.tree.lock().template(name).map(|template| template.own);
        match own {
            Some(true) => {}
            Some(false) => return self.refuse_root(shipped(name)).into(),
            None => return Ok(()).into(),
        }
        let (view, name) = (self.clone(), name.to_owned());
        Outcome::later(async move {
            let home = view.0.home.clone();
            view.templates_done(blocking(move || own::remove(&home, &name)).await)
        })
    }

    /// A template that is renamed to another one's name is that one; to any other name it is copied, as a backup is made.
    pub(super) fn rename_template(&self, from: &str, to: &str) -> Outcome<()> {
        let mut tree = self.0.tree.lock();
        let text = match tree.template(from) {
            Some(template) if template.own => template.text.bytes.to_vec(),
            Some(_) => {
                drop(tree);
                return self.refuse_root(shipped(from)).into();
            }
            None => return Err(missing(from)).into(),
        };
        if tree.is_shipped(to) {
            drop(tree);
            return self.refuse_root(shipped(to)).into();
        }
        if !own::is_template(to) {
            return self.back_up(&mut tree, text, to).into();
        }
        let (view, from, to) = (self.clone(), from.to_owned(), to.to_owned());
        Outcome::later(async move {
            let home = view.0.home.clone();
            view.templates_done(blocking(move || own::rename(&home, &from, &to)).await)
        })
    }

    fn back_up(&self, tree: &mut Tree, text: Vec<u8>, to: &str) -> Result<()> {
        check_scratch_name(to)?;
        let scratch = tree.relisted(Key::TEMPLATES)?;
        if scratch.by_name(to).is_some() {
            scratch.remove(to)?;
        }
        scratch.create(to, ScratchBody::File(text), 0o600).map(drop)
    }

    /// After a change of ours: shows it, or notes why there is none.
    fn templates_done(&self, done: Result<()>) -> Result<()> {
        self.templates_changed();
        let sentence = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let changes = self.0.tree.lock().set_error(&sentence);
        self.0.announcer.announce(changes);
        done
    }

    pub(super) fn templates_changed(&self) {
        let changes = self.0.tree.lock().reread_templates();
        self.0.announcer.announce(changes);
    }

    /// Notes a refusal in `.error`, and answers with it.
    pub(super) fn refuse_root<T>(&self, error: Error) -> Result<T> {
        self.refuse(None, &error);
        Err(error)
    }
}

/// Says of each fault which document it is in.
pub fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Document(faults) => {
            Error::Document(faults.into_iter().map(|fault| format!("{name}: {fault}")).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_template_is_no_scratch() {
        for name in
            [".x.yaml.swp", "x.yaml~", "4913", "sedAb12Cd", "#x.yaml#", ".#x.yaml", ".x.yaml.Ab12Cd", "x.yaml.new"]
        {
            check_scratch_name(name).unwrap_or_else(|error| panic!("{error}"));
        }
        for name in ["x.yml", "X.YML", "_x.yaml", "x", "notes"] {
            assert_eq!(check_scratch_name(name).unwrap_err().errno(), libc::EPERM, "{name}");
        }
    }
}
