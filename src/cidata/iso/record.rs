//! Directory records and their Rock Ridge fields.

use super::SECTOR;

/// 2020-01-01 00:00:00 UTC, everywhere: the image must not depend on when it was made.
pub const LONG_DATE: [u8; 17] = *b"2020010100000000\0";
pub const NO_DATE: [u8; 17] = *b"0000000000000000\0";
const DATE: [u8; 7] = [120, 1, 1, 0, 0, 0, 0];

const DIRECTORY: u8 = 2;
/// A record's length is one byte, and even.
const RECORD_MAX: usize = 254;
const CONTINUATION: usize = 28;
/// A field's length is one byte; a name's header takes five.
const NAME_MAX: usize = 250;
const NAME_CONTINUES: u8 = 1;

pub fn both16(value: u16) -> [u8; 4] {
    let [a, b] = value.to_le_bytes();
    [a, b, b, a]
}

pub fn both32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// A directory record (ECMA-119 9.1); `fields` go into its system use area.
pub fn record(id: &[u8], extent: usize, length: usize, is_dir: bool, fields: &[u8]) -> Vec<u8> {
    let start = head(id);
    let mut bytes = vec![0; (start + fields.len()).next_multiple_of(2)];
    bytes[0] = bytes.len() as u8;
    bytes[2..10].copy_from_slice(&both32(extent as u32));
    bytes[10..18].copy_from_slice(&both32(length as u32));
    bytes[18..25].copy_from_slice(&DATE);
    bytes[25] = if is_dir { DIRECTORY } else { 0 };
    bytes[28..32].copy_from_slice(&both16(1));
    bytes[32] = id.len() as u8;
    bytes[33..33 + id.len()].copy_from_slice(id);
    bytes[start..start + fields.len()].copy_from_slice(fields);
    bytes
}

/// Bytes of a record before its system use area.
fn head(id: &[u8]) -> usize {
    (33 + id.len()).next_multiple_of(2)
}

/// PX and TF: mode, links, owner root; and the times.
pub fn attributes(mode: u32, links: u32) -> Vec<u8> {
    let mut bytes = b"PX\x24\x01".to_vec();
    for value in [mode, links, 0, 0] {
        bytes.extend(both32(value));
    }
    // Modified, accessed, changed.
    bytes.extend(b"TF\x1a\x01\x0e");
    bytes.extend([DATE, DATE, DATE].concat());
    bytes
}

/// SP and ER: the root's own first fields. Without ER Linux would prefer the Joliet tree, which has no modes.
pub fn announcement() -> (&'static [u8], &'static [u8]) {
    (b"SP\x07\x01\xbe\xef\0", b"ER\x12\x01\x0a\0\0\x01RRIP_1991A")
}

/// NM fields.
fn name_fields(name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = name.chunks(NAME_MAX).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { NAME_CONTINUES } else { 0 };
        bytes.extend([b'N', b'M', part.len() as u8 + 5, 1, flags]);
        bytes.extend(part);
    }
    bytes
}

/// Bytes that a name needs in the continuation area: none when its record has room.
pub fn overflow(id: &[u8], name: &str) -> usize {
    let fields = name_fields(name.as_bytes()).len();
    if head(id) + attributes(0, 0).len() + fields <= RECORD_MAX { 0 } else { fields }
}

/// The Rock Ridge fields of a named record.
pub fn rock_ridge(id: &[u8], name: &str, mode: u32, links: u32, continuations: &mut Continuations) -> Vec<u8> {
    let mut fields = attributes(mode, links);
    let name_fields = name_fields(name.as_bytes());
    if overflow(id, name) == 0 {
        fields.extend(name_fields);
    } else {
        let (sector, offset) = continuations.add(&name_fields);
        fields.extend([b'C', b'E', CONTINUATION as u8, 1]);
        fields.extend([sector, offset, name_fields.len()].map(|value| both32(value as u32)).concat());
    }
    fields
}

/// Fields that found no room in their records; none crosses a sector.
pub struct Continuations {
    sector: usize,
    bytes: Vec<u8>,
}

impl Continuations {
    pub fn at(sector: usize) -> Self {
        Self { sector, bytes: Vec::new() }
    }

    /// Sector and offset of the fields, now added.
    fn add(&mut self, fields: &[u8]) -> (usize, usize) {
        let start = aligned(self.bytes.len(), fields.len());
        self.bytes.resize(start, 0);
        self.bytes.extend(fields);
        (self.sector + start / SECTOR, start % SECTOR)
    }

    pub fn first_sector(&self) -> usize {
        self.sector
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where something of that length may start without crossing a sector.
pub fn aligned(offset: usize, length: usize) -> usize {
    let fits = offset % SECTOR + length <= SECTOR;
    if fits { offset } else { offset.next_multiple_of(SECTOR) }
}
