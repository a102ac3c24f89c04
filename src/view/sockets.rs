//! `sock/`: forwarded sockets, as symlinks to the real ones: nobody can connect to a socket of a FUSE tree.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::ino::{Ino, Key, Target};
use super::look::missing;
use super::node::PORTS;
use super::tree::Tree;
use super::{Attr, Kind, View};
use crate::error::Result;
use crate::status::Forward;

/// The real sockets by their last names; of two with the same one, the first.
fn by_name(forwards: &[Forward]) -> BTreeMap<String, PathBuf> {
    let mut sockets = BTreeMap::new();
    for forward in forwards.iter().filter(|forward| forward.state == "forwarding" && !forward.reverse) {
        let path = Path::new(&forward.host);
        let name = path.file_name().filter(|_| path.is_absolute()).and_then(|name| name.to_str());
        if let Some(name) = name {
            sockets.entry(name.to_owned()).or_insert_with(|| path.to_owned());
        }
    }
    sockets
}

impl View {
    fn sockets(&self, tree: &mut Tree, key: Key) -> Result<BTreeMap<String, PathBuf>> {
        let snapshot = tree.snapshot(key, &self.0.host)?;
        Ok(snapshot.status().map(|status| by_name(&status.forwards)).unwrap_or_default())
    }

    fn socket(&self, tree: &mut Tree, key: Key, name: &str) -> Result<PathBuf> {
        self.sockets(tree, key)?.remove(name).ok_or_else(|| missing(name))
    }

    pub(super) fn socket_child(&self, tree: &mut Tree, key: Key, name: &str) -> Result<Target> {
        self.socket(tree, key, name).map(|_| Target::Socket(key, name.into()))
    }

    pub(super) fn socket_entries(&self, tree: &mut Tree, key: Key) -> Result<Vec<(String, Target, Kind)>> {
        let names = self.sockets(tree, key)?.into_keys();
        Ok(names.map(|name| (name.clone(), Target::Socket(key, name), Kind::Symlink)).collect())
    }

    pub(super) fn socket_link(&self, key: Key, name: &str) -> Result<Vec<u8>> {
        let path = self.socket(&mut self.0.tree.lock(), key, name)?;
        Ok(path.into_os_string().into_vec())
    }

    /// Attributes of `sock/` and what is in it. What there is changes when `ports` does.
    pub(super) fn socket_attr(&self, tree: &mut Tree, ino: Ino, target: &Target, directory: u16) -> Result<Attr> {
        let of = |tree: &mut Tree, key| tree.rendered(key, PORTS, &self.0.host).map(|ports| ports.mtime);
        match target {
            Target::Socket(key, name) => {
                let length = self.socket(tree, *key, name)?.as_os_str().len() as u64;
                Ok(Attr { kind: Kind::Symlink, ..Attr::file(ino, length, of(tree, *key)?, 0o777) }.uncached())
            }
            Target::SocketDir(key) => Ok(Attr::directory(ino, 0, of(tree, *key)?, directory).uncached()),
            _ => Err(missing("socket")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_work_are_there_each_name_once() {
        let forward = |host: &str, state: &str| Forward {
            proto: "unix".into(),
            host: host.into(),
            guest: "/run/a.sock".into(),
            state: state.into(),
            reverse: false,
        };
        let forwards = [
            forward("127.0.0.1:80", "forwarding"),
            forward("/h/foo/sock/a.sock", "forwarding"),
            forward("/elsewhere/a.sock", "forwarding"),
            forward("/h/foo/sock/b.sock", "failed: address in use"),
            Forward { reverse: true, ..forward("/h/foo/sock/c.sock", "forwarding") },
        ];
        let found: Vec<_> = by_name(&forwards).into_iter().collect();
        assert_eq!(found, [("a.sock".to_owned(), PathBuf::from("/h/foo/sock/a.sock"))]);
    }
}
