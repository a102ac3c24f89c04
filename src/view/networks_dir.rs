//! `.networks`: the networks that a lima.yaml may name, as directories. They are defined in `.config/networks.yaml`; here
//! nothing can be changed. Answers from memory.

use std::collections::BTreeMap;

use super::config_dir::ConfigFile;
use super::ino::{Ino, Target};
use super::look::{missing, not_a_directory};
use super::tree::{Rendered, Tree};
use super::{Attr, Kind, View};
use crate::error::{Error, Result};
use crate::networks::Network;
use crate::usernet;

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NetworkPlace {
    All,
    Entry(String),
    File(String, NetworkFile),
}

/// A file of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkFile {
    Mode,
    Gateway,
    Netmask,
    UsedBy,
}

impl NetworkFile {
    pub const ALL: [Self; 4] = [Self::Mode, Self::Gateway, Self::Netmask, Self::UsedBy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Gateway => "gateway",
            Self::Netmask => "netmask",
            Self::UsedBy => "used_by",
        }
    }

    pub fn doc(self) -> &'static str {
        match self {
            Self::Mode => "user-v2; others are there on macOS only",
            Self::Gateway => "an address of the network, which no instance is given",
            Self::Netmask => "such as 255.255.255.0",
            Self::UsedBy => "the instances whose lima.yaml names it, a line each",
        }
    }
}

impl Tree {
    /// Those of networks.yaml, or the one that is there without it. None while that document is broken.
    fn networks(&self) -> BTreeMap<String, Network> {
        let text = self.config.text(ConfigFile::Networks).ok();
        usernet::defined(text.map(|text| &*text.bytes)).unwrap_or_default()
    }

    pub fn network_rendered(&self, place: &NetworkPlace) -> Result<Rendered> {
        let NetworkPlace::File(name, file) = place else { return Err(Error::invalid("read", "is a directory")) };
        let networks = self.networks();
        let network = networks.get(name).ok_or_else(|| missing(name))?;
        let text = match file {
            NetworkFile::Mode => network.mode.map(|mode| mode.to_string()).unwrap_or_default(),
            NetworkFile::Gateway => network.gateway.map(|address| address.to_string()).unwrap_or_default(),
            NetworkFile::Netmask => network.netmask.map(|mask| mask.to_string()).unwrap_or_default(),
            NetworkFile::UsedBy => self.in_network(name).join("\n"),
        };
        let text = if text.is_empty() { text } else { text + "\n" };
        Ok(Rendered::new(&text, self.config.changed.max(self.changed)))
    }

    /// Names of the instances whose lima.yaml names the network, as far as they were read.
    fn in_network(&self, network: &str) -> Vec<&str> {
        let snapshots = self.names().filter_map(|(_, key)| self.known_snapshot(key));
        let names_it = |loaded: &crate::config::Loaded| {
            loaded.filled.networks.iter().flatten().any(|other| other.lima.as_deref() == Some(network))
        };
        snapshots.filter(|snapshot| snapshot.loaded().is_some_and(names_it)).map(|s| s.name.as_str()).collect()
    }

    pub fn network_entries(&self, place: &NetworkPlace) -> Result<Vec<(String, Target, Kind)>> {
        match place {
            NetworkPlace::All => {
                let entry = |name: String| (name.clone(), Target::Network(NetworkPlace::Entry(name)), Kind::Directory);
                Ok(self.networks().into_keys().map(entry).collect())
            }
            NetworkPlace::Entry(name) => {
                let file = |file: NetworkFile| {
                    (file.name().into(), Target::Network(NetworkPlace::File(name.clone(), file)), Kind::File)
                };
                Ok(NetworkFile::ALL.map(file).into())
            }
            NetworkPlace::File(..) => Err(not_a_directory()),
        }
    }

    pub fn network_child(&self, place: &NetworkPlace, name: &str) -> Result<Target> {
        let found = match place {
            NetworkPlace::All => self.networks().contains_key(name).then(|| NetworkPlace::Entry(name.into())),
            NetworkPlace::Entry(network) => {
                let file = NetworkFile::ALL.into_iter().find(|file| file.name() == name);
                file.map(|file| NetworkPlace::File(network.clone(), file))
            }
            NetworkPlace::File(..) => return Err(not_a_directory()),
        };
        found.map(Target::Network).ok_or_else(|| missing(name))
    }
}

impl View {
    pub(super) fn network_attr(&self, tree: &Tree, ino: Ino, place: &NetworkPlace, directory: u16) -> Result<Attr> {
        let changed = tree.config.changed.max(tree.changed);
        Ok(match place {
            NetworkPlace::All => Attr::directory(ino, tree.networks().len(), changed, directory),
            NetworkPlace::Entry(name) if tree.networks().contains_key(name) => {
                Attr::directory(ino, 0, changed, directory)
            }
            NetworkPlace::Entry(name) => return Err(missing(name)),
            NetworkPlace::File(..) => {
                let text = tree.network_rendered(place)?;
                let perm = if self.0.shared { 0o444 } else { 0o400 };
                Attr::file(ino, text.bytes.len() as u64, text.mtime, perm)
            }
        }
        .uncached())
    }
}
