//! `.config`: what of Lima's `_config` is text for people. Four documents, and the public key; the private one beside it
//! is never shown. Answers from memory; the files are read at the start and when they change.

mod changes;
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::announce::Change;
use super::ino::{Key, Target};
use super::look::missing;
use super::node::CONFIG_DIR;
use super::scratch::{self, Scratch};
use super::templates::named;
use super::tree::{Rendered, Tree};
use super::{Attr, Kind, View};
use crate::config;
use crate::error::{Error, Result};
use crate::{names, networks};

/// A file of `.config`. Inode numbers depend on the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigFile {
    Default,
    Override,
    Base,
    Networks,
    PublicKey,
}

impl ConfigFile {
    pub const ALL: [Self; 5] = [Self::Default, Self::Override, Self::Base, Self::Networks, Self::PublicKey];

    pub fn name(self) -> &'static str {
        match self {
            Self::Default => names::DEFAULT_YAML,
            Self::Override => names::OVERRIDE_YAML,
            Self::Base => names::BASE_YAML,
            Self::Networks => names::NETWORKS_YAML,
            Self::PublicKey => names::USER_PUB,
        }
    }

    /// For the README.
    pub fn doc(self) -> &'static str {
        match self {
            Self::Default => "for every instance, where its lima.yaml says nothing",
            Self::Override => "for every instance, whatever its lima.yaml says",
            Self::Base => "what every new instance is built upon",
            Self::Networks => "the networks that a lima.yaml may name",
            Self::PublicKey => "the key that guests let in",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name)
    }

    pub fn takes_writes(self) -> bool {
        self != Self::PublicKey
    }

    /// Whether it changes what instances are that are there already.
    fn is_layer(self) -> bool {
        matches!(self, Self::Default | Self::Override)
    }

    /// Whether these bytes may become this document.
    fn check(self, bytes: &[u8]) -> Result<()> {
        // A shell's `>` closes a copy of its descriptor before anything is written.
        if bytes.trim_ascii().is_empty() {
            return Err(Error::invalid(self.name(), "there is nothing in it; remove the file instead"));
        }
        match self {
            Self::Default | Self::Override | Self::Base => {
                config::partial::check_layer(bytes).map_err(|error| named(self.name(), error))
            }
            Self::Networks => networks::read(bytes).map(drop),
            Self::PublicKey => Err(stays(self)),
        }
    }
}

pub struct ConfigDir {
    files: BTreeMap<ConfigFile, Rendered>,
    /// Files that were created and are being written.
    coming: BTreeSet<ConfigFile>,
    pub scratch: Scratch,
    /// When the listing last changed.
    pub changed: SystemTime,
}

impl ConfigDir {
    pub fn new(now: SystemTime) -> Self {
        Self { files: BTreeMap::new(), coming: BTreeSet::new(), scratch: Scratch::default(), changed: now }
    }

    pub fn text(&self, file: ConfigFile) -> Result<&Rendered> {
        self.files.get(&file).ok_or_else(|| missing(file.name()))
    }

    /// Those that there are, and those that are being written.
    pub fn entries(&self) -> impl Iterator<Item = (String, Target, Kind)> {
        let there = ConfigFile::ALL.into_iter().filter(|file| self.is_there(*file));
        there.map(|file| (file.name().into(), Target::ConfigFile(file), Kind::File))
    }

    pub fn child(&self, name: &str) -> Option<Target> {
        ConfigFile::by_name(name).filter(|file| self.is_there(*file)).map(Target::ConfigFile)
    }

    fn is_there(&self, file: ConfigFile) -> bool {
        self.files.contains_key(&file) || self.coming.contains(&file)
    }
}

impl Tree {
    /// Takes in what changed on disk, and lists it.
    fn reread_config(&mut self) -> Vec<Change> {
        let mut fresh = disk::read(&self.home);
        if !fresh.keys().eq(self.config.files.keys()) {
            self.config.changed = SystemTime::now();
        }
        let mut changes = Vec::new();
        for (file, text) in &mut fresh {
            let Some(known) = self.config.files.remove(file) else { continue };
            let (bytes, mtime) = (text.bytes.clone(), text.mtime);
            *text = known;
            if text.replace(bytes, mtime) {
                let path = format!("{CONFIG_DIR}/{}", file.name());
                changes.push(Change::Content { ino: self.inodes.number(&Target::ConfigFile(*file)), path });
            }
        }
        self.config.files = fresh;
        changes
    }
}

impl View {
    pub(super) fn config_attr(&self, tree: &mut Tree, file: ConfigFile) -> Result<Attr> {
        let ino = tree.number(&Target::ConfigFile(file));
        let is_coming = tree.config.coming.contains(&file);
        let (size, mtime) = match tree.config.text(file) {
            Ok(text) => (text.bytes.len() as u64, text.mtime),
            Err(_) if is_coming => (0, tree.config.changed),
            Err(error) => return Err(error),
        };
        let perm = match file {
            ConfigFile::PublicKey if self.0.shared => 0o444,
            ConfigFile::PublicKey => 0o400,
            // They may hold secrets.
            _ => 0o600,
        };
        Ok(Attr::file(ino, size, mtime, perm).uncached())
    }

    /// Shows the files as they are on disk now.
    pub(super) fn config_changed(&self) {
        let changes = self.0.tree.lock().reread_config();
        self.0.announcer.announce(changes);
    }

    /// Takes in, for every instance, what applies to all of them, and tells of what comes of it.
    pub(super) fn layers_changed(&self) {
        let keys: Vec<Key> = self.0.tree.lock().names().map(|(_, key)| key).collect();
        let mut differs = false;
        for key in keys {
            // What nobody has looked at is read with the first look.
            if self.0.tree.lock().is_known(key) {
                self.changed(key, |snapshot| {
                    let before = snapshot.layers.clone();
                    snapshot.reread();
                    differs |= snapshot.layers != before;
                });
            }
        }
        if differs {
            self.announce_list();
        }
    }
}

/// Whether a scratch file may have this name: a tool's own, or one that a document's copy is given.
pub fn check_scratch_name(name: &str) -> Result<()> {
    let is_copy = ConfigFile::ALL.into_iter().filter(|file| file.takes_writes()).any(|file| {
        let behind = name.strip_prefix(file.name());
        behind.is_some_and(|behind| behind.starts_with(['~', '.', '-']))
    });
    if is_copy || scratch::is_tools_own(name) {
        return Ok(());
    }
    let documents = ConfigFile::ALL.into_iter().filter(|file| file.takes_writes());
    let documents: Vec<&str> = documents.map(ConfigFile::name).collect();
    Err(Error::forbidden(name, format!("only {} can be made here", documents.join(", "))))
}

fn stays(file: ConfigFile) -> Error {
    Error::forbidden(file.name(), "is made with the private key, and stays as it is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documents_copies_of_them_and_tools_files_can_be_made() {
        for name in
            ["default.yaml~", "base.yaml.new", ".default.yaml.swp", "4913", "sedAb12Cd", "#base.yaml#", ".#base.yaml"]
        {
            check_scratch_name(name).unwrap_or_else(|error| panic!("{error}"));
        }
        for name in ["user", "user.pub", "user.pub~", "user.bak", "default.yml", "x.yaml", "notes", "default.yamlx"] {
            let error = check_scratch_name(name).unwrap_err();
            assert_eq!(error.errno(), libc::EPERM, "{name}");
            assert!(
                error.to_string().contains("only default.yaml, override.yaml, base.yaml, networks.yaml"),
                "{error}"
            );
        }
    }

    #[test]
    fn each_document_is_checked_as_what_it_is() {
        for (file, bad, told) in [
            (ConfigFile::Default, "a: 1\ncpus: many\n", "default.yaml: line 2, column 7: cpus: invalid number"),
            (ConfigFile::Override, "cpus: [\n", "override.yaml: line "),
            (ConfigFile::Base, "- x\n", "base.yaml: line 1, column 1: expected a map"),
            (ConfigFile::Networks, "networks: {n: {mode: x}}", "networks.yaml: line 1, column 22: networks.n.mode"),
            (ConfigFile::Networks, "cpus\n", "networks.yaml: line 1, column 1: expected a map"),
            (ConfigFile::PublicKey, "ssh-ed25519 AAAA lima\n", "user.pub: is made with"),
        ] {
            let error = file.check(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
        for file in ConfigFile::ALL {
            assert!(file.check(b" \n").unwrap_err().to_string().contains("remove the file instead"));
        }
        for file in ConfigFile::ALL.into_iter().filter(|file| file.takes_writes()) {
            file.check(b"# cpus: 2\n").unwrap_or_else(|error| panic!("{error}"));
        }
        ConfigFile::Networks.check(b"networks: {n: {mode: user-v2}}\n").unwrap();
        ConfigFile::Default.check(b"cpus: 2\n").unwrap();
    }
}
