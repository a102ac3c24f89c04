//! An ISO 9660 image with Rock Ridge and Joliet, label `cidata`; the same bytes for the same entries.
//!
//! ```text
//! sector 16  primary volume descriptor    \
//!        17  Joliet volume descriptor      > point at the two trees
//!        18  terminator                   /
//!        19  path tables: primary little and big endian, Joliet little and big endian
//!            directories: primary (with Rock Ridge), Joliet
//!            continuations of Rock Ridge names too long for a directory record
//!            files, shared by both trees; the archive with containerd, where it is on the disk, is the last
//! ```
//! Sources: ECMA-119, the Rock Ridge Interchange Protocol 1.10 (IEEE P1282), the Joliet specification.

mod names;
mod record;
mod tree;

use record::{Continuations, both16, both32};
use tree::{Flavour, Layout, Tree};

use super::{ARCHIVE, Archive, Entry};
use crate::error::{Error, Result};

pub const SECTOR: usize = 2048;
const DESCRIPTORS: usize = 16;
const FIRST_FREE: usize = DESCRIPTORS + 3;
const LABEL: &str = "cidata";

/// Makes the image. Refuses paths that are not plain and relative, and files that name another's directory.
///
/// With an archive the image is not whole: the archive's bytes are to follow, filled up to a whole [`SECTOR`]. It is
/// larger than everything else together by far, and need not be in memory for this.
pub fn iso(entries: &[Entry], archive: Option<&Archive>) -> Result<Vec<u8>> {
    let mut tree = Tree::of(entries)?;
    if let Some(Archive { size, .. }) = archive {
        tree.add_outside(ARCHIVE, *size)?;
    }
    let mut next = FIRST_FREE;
    let mut layouts = [Flavour::RockRidge, Flavour::Joliet].map(|flavour| Layout::new(&tree, flavour));
    for layout in &mut layouts {
        layout.place_tables(&mut next);
    }
    for layout in &mut layouts {
        layout.place_directories(&mut next);
    }
    let mut continuations = Continuations::at(next);
    next += tree.continuation_sectors();
    let extents = tree.place_files(&mut next);
    let size = u32::try_from(next).ok().filter(|sectors| *sectors < u32::MAX / SECTOR as u32);
    let size = size.ok_or_else(|| Error::invalid("cidata", "the files have more than 4 GiB together"))?;

    // The archive was placed last.
    let held = archive.and_then(|_| extents.last().copied()).unwrap_or(next);
    let mut image = vec![0; held * SECTOR];
    for (index, layout) in layouts.iter().enumerate() {
        put(&mut image, DESCRIPTORS + index, &descriptor(layout, size));
        layout.write(&mut image, &extents, &mut continuations);
    }
    put(&mut image, DESCRIPTORS + 2, b"\xffCD001\x01");
    put(&mut image, continuations.first_sector(), continuations.bytes());
    for (extent, file) in extents.iter().zip(&tree.files).filter(|(_, file)| !file.bytes.is_empty()) {
        put(&mut image, *extent, file.bytes);
    }
    Ok(image)
}

fn put(image: &mut [u8], sector: usize, bytes: &[u8]) {
    image[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
}

fn sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR)
}

/// A primary or, for Joliet, supplementary volume descriptor (ECMA-119 8.4, 8.5).
fn descriptor(layout: &Layout, size: u32) -> Vec<u8> {
    let joliet = layout.flavour == Flavour::Joliet;
    let text = |text: &str, length: usize| layout.flavour.padded(text, length);
    let mut bytes = vec![if joliet { 2 } else { 1 }];
    bytes.extend(b"CD001\x01\0");
    bytes.extend(text("", 32));
    bytes.extend(text(LABEL, 32));
    bytes.extend([0; 8]);
    bytes.extend(both32(size));
    // Joliet level 3: names in UCS-2.
    bytes.extend(if joliet { *b"%/E" } else { [0; 3] });
    bytes.resize(120, 0);
    bytes.extend([both16(1), both16(1), both16(SECTOR as u16)].concat());
    bytes.extend(both32(layout.table.len() as u32));
    let [little, big] = layout.table_sectors.map(|sector| sector as u32);
    bytes.extend([little.to_le_bytes(), [0; 4], big.to_be_bytes(), [0; 4]].concat());
    bytes.extend(layout.root_record());
    for length in [128, 128, 128, 128, 37, 37, 37] {
        bytes.extend(text("", length));
    }
    bytes.extend([record::LONG_DATE, record::LONG_DATE, record::NO_DATE, record::NO_DATE].concat());
    bytes.push(1);
    bytes.resize(SECTOR, 0);
    bytes
}

#[cfg(test)]
mod tests;
