//! Inode numbers of guests' files: derived from instance and path, kept for as long as the kernel knows them, moved along
//! when a file is renamed, and cut off from their path when it is removed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::view::ino::{Ino, Key, digest};
use crate::view::io::stale;

/// The longest path, as the guest's own kernel has it.
const PATH_MAX: usize = 4096;
/// So many files at once may be known to the kernel: a walk through more than that gets ENFILE.
const NODES_MAX: usize = 1 << 20;
/// A root is never forgotten.
const FOR_EVER: u64 = 1 << 62;

/// A file of a guest, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub key: Key,
    pub path: Arc<[u8]>,
}

impl Place {
    pub fn root(key: Key) -> Self {
        Self { key, path: b"/".as_slice().into() }
    }

    pub fn is_root(&self) -> bool {
        &*self.path == b"/"
    }

    /// What is in this directory under a name.
    pub fn child(&self, name: &[u8]) -> Result<Self> {
        let parent: &[u8] = if self.is_root() { b"" } else { &self.path };
        let path = [parent, b"/", name].concat();
        if name.len() > 255 || path.len() >= PATH_MAX {
            return Err(Error::NameTooLong { what: "a path in the guest".into(), why: "is too long".into() });
        }
        Ok(Self { key: self.key, path: path.into() })
    }

    pub fn parent(&self) -> Self {
        let end = self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Self { key: self.key, path: self.path[..end.max(1)].into() }
    }
}

struct Node {
    /// `None` once the file is removed: only its open handles are left.
    place: Option<Place>,
    /// How often the kernel was told of it.
    lookups: u64,
}

#[derive(Default)]
pub struct Table {
    nodes: HashMap<Ino, Node>,
    numbers: HashMap<Place, Ino>,
}

impl Table {
    /// The number of a file, without the kernel's being told of it.
    pub fn number(&self, place: &Place) -> Ino {
        if let Some(ino) = self.numbers.get(place) {
            return *ino;
        }
        let mut ino = Ino::of_guest(digest(place));
        while self.nodes.contains_key(&ino) {
            ino = Ino::of_guest(ino.0 + 1);
        }
        ino
    }

    /// The same, when the kernel is about to be told.
    pub fn enter(&mut self, place: &Place) -> Result<Ino> {
        let ino = self.number(place);
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&ino) {
            return Err(Error::Io { path: "guest".into(), source: std::io::Error::from_raw_os_error(libc::ENFILE) });
        }
        let new = || Node { place: Some(place.clone()), lookups: 0 };
        let node = self.nodes.entry(ino).or_insert_with(new);
        node.lookups = node.lookups.saturating_add(if place.is_root() { FOR_EVER } else { 1 });
        self.numbers.insert(place.clone(), ino);
        Ok(ino)
    }

    /// The kernel has forgotten a number so many times.
    pub fn forget(&mut self, ino: Ino, times: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups > 0 || node.place.as_ref().is_some_and(Place::is_root) {
            return;
        }
        if let Some(place) = self.nodes.remove(&ino).and_then(|node| node.place) {
            self.numbers.remove(&place);
        }
    }

    /// Where a file is. ESTALE when it is nowhere any more.
    pub fn place(&self, ino: Ino) -> Result<Place> {
        self.nodes.get(&ino).and_then(|node| node.place.clone()).ok_or_else(stale)
    }

    /// A file was removed, or another one took its path.
    pub fn unlink(&mut self, place: &Place) {
        if let Some(ino) = self.numbers.remove(place)
            && let Some(node) = self.nodes.get_mut(&ino)
        {
            node.place = None;
        }
    }

    /// A file was renamed, and with it all that is below it.
    pub fn rename(&mut self, from: &Place, to: &Place) {
        self.unlink(to);
        let below = [&from.path, b"/".as_slice()].concat();
        let is_moved =
            |place: &Place| place.key == from.key && (place.path == from.path || place.path.starts_with(&below));
        let moved: Vec<(Place, Ino)> = self.numbers.extract_if(|place, _| is_moved(place)).collect();
        for (old, ino) in moved {
            let path = [&to.path, &old.path[from.path.len()..]].concat();
            let place = Place { key: to.key, path: path.into() };
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.place = Some(place.clone());
            }
            self.numbers.insert(place, ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place { key: Key::TEMPLATES, path: path.as_bytes().into() }
    }

    #[test]
    fn a_number_is_the_same_each_time_and_none_of_the_tree() {
        let mut table = Table::default();
        let ino = table.enter(&place("/a/b")).unwrap();
        assert_eq!(table.enter(&place("/a/b")).unwrap(), ino);
        assert_eq!(Table::default().number(&place("/a/b")), ino);
        assert!(ino.is_guest() && (ino.0 as i64) > 0);
        assert_eq!(table.place(ino).unwrap(), place("/a/b"));
    }

    #[test]
    fn what_the_kernel_has_forgotten_is_forgotten() {
        let mut table = Table::default();
        let ino = table.enter(&place("/a")).unwrap();
        table.enter(&place("/a")).unwrap();
        table.forget(ino, 1);
        assert!(table.place(ino).is_ok());
        table.forget(ino, 1);
        assert_eq!(table.place(ino).unwrap_err().errno(), libc::ESTALE);
        assert!(table.nodes.is_empty() && table.numbers.is_empty());
        let root = table.enter(&place("/")).unwrap();
        table.forget(root, u64::MAX);
        assert!(table.place(root).is_ok());
    }

    #[test]
    fn a_removed_file_keeps_its_number_and_a_new_one_gets_another() {
        let mut table = Table::default();
        let old = table.enter(&place("/a")).unwrap();
        table.unlink(&place("/a"));
        let new = table.enter(&place("/a")).unwrap();
        assert_ne!(old, new);
        assert!(table.place(old).is_err());
        table.forget(old, 1);
        assert_eq!(table.place(new).unwrap(), place("/a"));
    }

    #[test]
    fn a_renamed_directory_takes_all_below_along_and_nothing_else() {
        let mut table = Table::default();
        let [dir, below, beside, over] = ["/a", "/a/b/c", "/ab", "/z"].map(|path| table.enter(&place(path)).unwrap());
        table.rename(&place("/a"), &place("/z"));
        assert_eq!(table.place(dir).unwrap(), place("/z"));
        assert_eq!(table.place(below).unwrap(), place("/z/b/c"));
        assert_eq!(table.place(beside).unwrap(), place("/ab"));
        assert!(table.place(over).is_err());
        assert_ne!(table.number(&place("/a")), dir);
    }

    #[test]
    fn paths_have_an_end() {
        assert_eq!(place("/").child(b"a").unwrap(), place("/a"));
        assert_eq!(place("/a").parent(), place("/"));
        assert_eq!(place("/a/b").parent(), place("/a"));
        let mut deep = place("/");
        let error = loop {
            match deep.child(&[b'x'; 255]) {
                Ok(next) => deep = next,
                Err(error) => break error,
            }
        };
        assert_eq!(error.errno(), libc::ENAMETOOLONG);
        assert!(deep.path.len() > 3000);
    }
}
