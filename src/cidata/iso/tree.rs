//! Directories and files, and where each flavour of the tree puts its own.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{self, Continuations, aligned};
use super::{SECTOR, names, put, sectors};
use crate::cidata::Entry;
use crate::error::{Error, Result};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const DIR_MODE: u32 = S_IFDIR | 0o700;
/// Names of the entries for a directory itself and for its parent.
const SELF: &[u8] = b"\0";
const PARENT: &[u8] = b"\x01";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    RockRidge,
    Joliet,
}

impl Flavour {
    /// Text of a volume descriptor, filled up with blanks.
    pub fn padded(self, text: &str, length: usize) -> Vec<u8> {
        let blank: &[u8] = if self == Self::Joliet { b"\0 " } else { b" " };
        let mut bytes: Vec<u8> = match self {
            Self::RockRidge => text.bytes().collect(),
            Self::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        };
        bytes.extend(blank.iter().cycle().take(length.saturating_sub(bytes.len()) / blank.len() * blank.len()));
        bytes.resize(length, 0);
        bytes
    }
}

/// What stands in a directory.
#[derive(Clone, Copy)]
enum Child {
    Dir(usize),
    File(usize),
}

struct Dir<'a> {
    parent: usize,
    children: BTreeMap<&'a str, Child>,
}

pub struct FileNode<'a> {
    mode: u32,
    pub length: usize,
    /// None of what the image does not hold itself.
    pub bytes: &'a [u8],
}

/// Directories, parents before children; the first is the root.
pub struct Tree<'a> {
    dirs: Vec<Dir<'a>>,
    pub files: Vec<FileNode<'a>>,
}

impl<'a> Tree<'a> {
    pub fn of(entries: &'a [Entry]) -> Result<Self> {
        let mut tree = Self { dirs: vec![Dir { parent: 0, children: BTreeMap::new() }], files: Vec::new() };
        for entry in entries {
            let file = FileNode { mode: entry.mode, length: entry.bytes.len(), bytes: &entry.bytes };
            tree.add(&entry.path, file)?;
        }
        Ok(tree)
    }

    /// Adds a file whose bytes come from elsewhere, behind all others.
    pub fn add_outside(&mut self, path: &'a str, size: u64) -> Result<()> {
        let length = usize::try_from(size).map_err(|_| Error::invalid(path, "is larger than can be addressed"))?;
        self.add(path, FileNode { mode: 0o600, length, bytes: &[] })
    }

    fn add(&mut self, path: &'a str, file: FileNode<'a>) -> Result<()> {
        self.hang(path, file).map_err(|why| Error::invalid(format!("cidata file {path:?}"), why))
    }

    fn hang(&mut self, path: &'a str, file: FileNode<'a>) -> std::result::Result<(), &'static str> {
        let mut at = 0;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() || part == "." || part == ".." || part.len() > 255 {
                return Err("is no plain relative path");
            }
            let found = self.dirs[at].children.get(part).copied();
            match (found, parts.peek()) {
                (Some(Child::Dir(dir)), Some(_)) => at = dir,
                (None, Some(_)) => {
                    self.dirs.push(Dir { parent: at, children: BTreeMap::new() });
                    let dir = self.dirs.len() - 1;
                    self.dirs[at].children.insert(part, Child::Dir(dir));
                    at = dir;
                }
                (None, None) => {
                    self.files.push(FileNode { mode: S_IFREG | (file.mode & 0o777), ..file });
                    self.dirs[at].children.insert(part, Child::File(self.files.len() - 1));
                }
                (Some(_), _) => return Err("is there twice"),
            }
        }
        Ok(())
    }

    /// Sector of each file.
    pub fn place_files(&self, next: &mut usize) -> Vec<usize> {
        let place = |file: &FileNode| std::mem::replace(next, *next + sectors(file.length));
        self.files.iter().map(place).collect()
    }

    /// Sectors that the Rock Ridge names too long for their records take.
    pub fn continuation_sectors(&self) -> usize {
        let layout = Layout::new(self, Flavour::RockRidge);
        let named = layout.names.iter().flatten();
        let lengths = named.map(|(id, name, _)| record::overflow(id, name));
        sectors(lengths.fold(0, |end, length| aligned(end, length) + length))
    }

    fn links(&self, dir: usize) -> u32 {
        let subdirs = self.dirs[dir].children.values().filter(|child| matches!(child, Child::Dir(_)));
        2 + subdirs.count() as u32
    }
}

/// One flavour of the tree and the places of its directories.
pub struct Layout<'a> {
    tree: &'a Tree<'a>,
    pub flavour: Flavour,
    /// For each directory: identifier, real name and child, in the order of identifiers.
    names: Vec<Vec<(Vec<u8>, &'a str, Child)>>,
    /// Directories in the order of path tables: by depth, then parent, then identifier.
    order: Vec<usize>,
    extents: Vec<usize>,
    pub table: Vec<u8>,
    /// Little endian, big endian.
    pub table_sectors: [usize; 2],
}

impl<'a> Layout<'a> {
    pub fn new(tree: &'a Tree<'a>, flavour: Flavour) -> Self {
        let names: Vec<_> = tree.dirs.iter().map(|dir| identifiers(dir, flavour)).collect();
        let mut order = vec![0];
        let mut done = 0;
        while done < order.len() {
            order.extend(names[order[done]].iter().filter_map(|(_, _, child)| match child {
                Child::Dir(dir) => Some(*dir),
                Child::File(_) => None,
            }));
            done += 1;
        }
        let extents = vec![0; tree.dirs.len()];
        let mut layout = Self { tree, flavour, names, order, extents, table: Vec::new(), table_sectors: [0; 2] };
        layout.table = layout.path_table(u32::to_le_bytes, u16::to_le_bytes);
        layout
    }

    pub fn place_tables(&mut self, next: &mut usize) {
        for sector in &mut self.table_sectors {
            *sector = std::mem::replace(next, *next + sectors(self.table.len()));
        }
    }

    pub fn place_directories(&mut self, next: &mut usize) {
        for dir in self.order.clone() {
            self.extents[dir] = std::mem::replace(next, *next + sectors(self.length(dir)));
        }
    }

    pub fn root_record(&self) -> Vec<u8> {
        record::record(SELF, self.extents[0], self.length(0), true, &[])
    }

    /// Writes path tables and directories.
    pub fn write(&self, image: &mut [u8], files: &[usize], continuations: &mut Continuations) {
        put(image, self.table_sectors[0], &self.path_table(u32::to_le_bytes, u16::to_le_bytes));
        put(image, self.table_sectors[1], &self.path_table(u32::to_be_bytes, u16::to_be_bytes));
        for &dir in &self.order {
            put(image, self.extents[dir], &self.directory(dir, files, continuations));
        }
    }

    /// Length of a directory, whole sectors. Where its contents are does not change it.
    fn length(&self, dir: usize) -> usize {
        let nowhere = vec![0; self.tree.files.len()];
        let records = self.records(dir, 0, &nowhere, &mut Continuations::at(0));
        let end = records.iter().fold(0, |end, record| aligned(end, record.len()) + record.len());
        end.next_multiple_of(SECTOR)
    }

    fn directory(&self, dir: usize, files: &[usize], continuations: &mut Continuations) -> Vec<u8> {
        let length = self.length(dir);
        let mut bytes = Vec::with_capacity(length);
        for record in self.records(dir, length, files, continuations) {
            bytes.resize(aligned(bytes.len(), record.len()), 0);
            bytes.extend(record);
        }
        bytes.resize(length, 0);
        bytes
    }

    fn records(&self, dir: usize, length: usize, files: &[usize], continuations: &mut Continuations) -> Vec<Vec<u8>> {
        let parent = self.tree.dirs[dir].parent;
        // Lengths are asked for with 0 by `length` itself, which would not end otherwise.
        let length_of = |other: usize| if length == 0 { 0 } else { self.length(other) };
        let mut records = vec![
            record::record(SELF, self.extents[dir], length, true, &self.dot_fields(dir, dir == 0)),
            record::record(PARENT, self.extents[parent], length_of(parent), true, &self.dot_fields(parent, false)),
        ];
        for (id, name, child) in &self.names[dir] {
            let (extent, size, is_dir, mode, links) = match *child {
                Child::Dir(dir) => (self.extents[dir], length_of(dir), true, DIR_MODE, self.tree.links(dir)),
                Child::File(file) => {
                    let node = &self.tree.files[file];
                    (files[file], node.length, false, node.mode, 1)
                }
            };
            let fields = match self.flavour {
                Flavour::RockRidge => record::rock_ridge(id, name, mode, links, continuations),
                Flavour::Joliet => Vec::new(),
            };
            records.push(record::record(id, extent, size, is_dir, &fields));
        }
        records
    }

    fn dot_fields(&self, dir: usize, is_first: bool) -> Vec<u8> {
        if self.flavour == Flavour::Joliet {
            return Vec::new();
        }
        let attributes = record::attributes(DIR_MODE, self.tree.links(dir));
        let (sharing, extension) = if is_first { record::announcement() } else { (&b""[..], &b""[..]) };
        [sharing, &attributes, extension].concat()
    }

    /// ECMA-119 9.4: directories with the number of their parent, counted from 1.
    fn path_table(&self, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let number: BTreeMap<usize, usize> = self.order.iter().enumerate().map(|(at, dir)| (*dir, at + 1)).collect();
        let mut bytes = Vec::new();
        for &dir in &self.order {
            let id = self.identifier(dir);
            bytes.extend([id.len() as u8, 0]);
            bytes.extend(long(self.extents[dir] as u32));
            bytes.extend(short(number[&self.tree.dirs[dir].parent] as u16));
            bytes.extend(id);
            bytes.resize(bytes.len().next_multiple_of(2), 0);
        }
        bytes
    }

    fn identifier(&self, dir: usize) -> &[u8] {
        let siblings = &self.names[self.tree.dirs[dir].parent];
        let own = siblings.iter().find(|(_, _, child)| matches!(child, Child::Dir(other) if *other == dir));
        own.map_or(SELF, |(id, _, _)| id)
    }
}

fn identifiers<'a>(dir: &Dir<'a>, flavour: Flavour) -> Vec<(Vec<u8>, &'a str, Child)> {
    let mut taken = BTreeSet::new();
    let mut names: Vec<_> = Vec::new();
    for (name, child) in &dir.children {
        let id = match flavour {
            Flavour::RockRidge => names::iso(name, matches!(child, Child::Dir(_)), &mut taken),
            Flavour::Joliet => names::joliet(name, &mut taken),
        };
        names.push((id, *name, *child));
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names
}
