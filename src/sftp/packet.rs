//! Packets of the SSH File Transfer Protocol, version 3 (draft-ietf-secsh-filexfer-02), and OpenSSH's extensions to it.
//! Names and handles are bytes: OpenSSH's handles are binary, and a guest's names need not be text. Pure; what a guest
//! sends is believed in nothing but its bounds.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest packet that is taken from a guest: OpenSSH's own limit.
pub const PACKET_MAX: usize = 256 << 10;

pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const READ: u8 = 5;
pub const WRITE: u8 = 6;
pub const LSTAT: u8 = 7;
pub const FSTAT: u8 = 8;
pub const SETSTAT: u8 = 9;
pub const FSETSTAT: u8 = 10;
pub const OPENDIR: u8 = 11;
pub const READDIR: u8 = 12;
pub const REMOVE: u8 = 13;
pub const MKDIR: u8 = 14;
pub const RMDIR: u8 = 15;
pub const REALPATH: u8 = 16;
pub const RENAME: u8 = 18;
pub const READLINK: u8 = 19;
pub const SYMLINK: u8 = 20;
pub const EXTENDED: u8 = 200;
const INIT: u8 = 1;
const VERSION: u8 = 2;

pub const OPEN_READ: u32 = 1;
pub const OPEN_WRITE: u32 = 2;
pub const OPEN_APPEND: u32 = 4;
pub const OPEN_CREATE: u32 = 8;
pub const OPEN_TRUNCATE: u32 = 16;
pub const OPEN_EXCLUSIVE: u32 = 32;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_EXTENDED: u32 = 1 << 31;

/// What a packet that breaks the protocol is refused with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not speak sftp")]
pub struct Garbled;

pub type Parsed<T> = std::result::Result<T, Garbled>;

/// Attributes; what is `None` was not said, or is not to be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attrs {
    pub size: Option<u64>,
    /// uid and gid.
    pub owner: Option<(u32, u32)>,
    /// Type and permission bits, as in `st_mode`.
    pub mode: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub attrs: Attrs,
}

/// What the other side answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status(u32),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Entry>),
    Attrs(Attrs),
    Extended(Bytes),
}

/// The body of `statvfs@openssh.com`'s answer, as far as it is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub block: u64,
    pub fragment: u64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
    /// Of the file system.
    pub id: u64,
    pub read_only: bool,
}

/// A request under construction.
pub struct Request(BytesMut);

impl Request {
    pub fn new(kind: u8, id: u32) -> Self {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u32(0);
        bytes.put_u8(kind);
        bytes.put_u32(id);
        Self(bytes)
    }

    pub fn extended(name: &str, id: u32) -> Self {
        Self::new(EXTENDED, id).string(name.as_bytes())
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.put_u64(value);
        self
    }

    pub fn string(mut self, bytes: &[u8]) -> Self {
        self.0.put_u32(bytes.len() as u32);
        self.0.put_slice(bytes);
        self
    }

    pub fn attrs(mut self, attrs: &Attrs) -> Self {
        let has = |flag, is_there| if is_there { flag } else { 0 };
        let flags = has(HAS_SIZE, attrs.size.is_some())
            | has(HAS_OWNER, attrs.owner.is_some())
            | has(HAS_MODE, attrs.mode.is_some())
            | has(HAS_TIMES, attrs.times.is_some());
        self.0.put_u32(flags);
        if let Some(size) = attrs.size {
            self.0.put_u64(size);
        }
        let numbers = [attrs.owner.map(|(uid, gid)| vec![uid, gid]), attrs.mode.map(|mode| vec![mode])];
        let times = attrs.times.map(|(access, change)| vec![access, change]);
        for number in numbers.into_iter().chain([times]).flatten().flatten() {
            self.0.put_u32(number);
        }
        self
    }

    pub fn finish(mut self) -> Bytes {
        let length = self.0.len() as u32 - 4;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0.freeze()
    }
}

/// The first packet: what version is spoken.
pub fn hello() -> Bytes {
    Request::new(INIT, 3).finish()
}

/// The names of the extensions in the answer to [`hello`].
pub fn version(mut packet: Bytes) -> Parsed<Vec<Bytes>> {
    if byte(&mut packet)? != VERSION || number(&mut packet)? < 3 {
        return Err(Garbled);
    }
    let mut extensions = Vec::new();
    while packet.has_remaining() {
        extensions.push(string(&mut packet)?);
        string(&mut packet)?;
    }
    Ok(extensions)
}

/// An answer and the number of the request that it is to.
pub fn answer(mut packet: Bytes) -> Parsed<(u32, Answer)> {
    let kind = byte(&mut packet)?;
    let id = number(&mut packet)?;
    let answer = match kind {
        101 => Answer::Status(number(&mut packet)?),
        102 => Answer::Handle(string(&mut packet)?),
        103 => Answer::Data(string(&mut packet)?),
        104 => Answer::Names(names(&mut packet)?),
        105 => Answer::Attrs(attrs(&mut packet)?),
        201 => Answer::Extended(packet),
        _ => return Err(Garbled),
    };
    Ok((id, answer))
}

fn names(packet: &mut Bytes) -> Parsed<Vec<Entry>> {
    let count = number(packet)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let name = string(packet)?.to_vec();
        // The line that `ls -l` would print.
        string(packet)?;
        entries.push(Entry { name, attrs: attrs(packet)? });
    }
    Ok(entries)
}

fn attrs(packet: &mut Bytes) -> Parsed<Attrs> {
    let flags = number(packet)?;
    let mut attrs = Attrs::default();
    if flags & HAS_SIZE != 0 {
        attrs.size = Some(long(packet)?);
    }
    if flags & HAS_OWNER != 0 {
        attrs.owner = Some((number(packet)?, number(packet)?));
    }
    if flags & HAS_MODE != 0 {
        attrs.mode = Some(number(packet)?);
    }
    if flags & HAS_TIMES != 0 {
        attrs.times = Some((number(packet)?, number(packet)?));
    }
    if flags & HAS_EXTENDED != 0 {
        for _ in 0..number(packet)? {
            string(packet)?;
            string(packet)?;
        }
    }
    Ok(attrs)
}

/// The answer to `statvfs@openssh.com`.
pub fn room(mut body: Bytes) -> Parsed<Room> {
    let mut next = || long(&mut body);
    let (block, fragment, blocks, free, available) = (next()?, next()?, next()?, next()?, next()?);
    let (files, files_free, _, id, flags) = (next()?, next()?, next()?, next()?, next()?);
    Ok(Room { block, fragment, blocks, free, available, files, files_free, id, read_only: flags & 1 != 0 })
}

/// The longest read and write of `limits@openssh.com`'s answer; 0 is no limit.
pub fn limits(mut body: Bytes) -> Parsed<(u64, u64)> {
    long(&mut body)?;
    Ok((long(&mut body)?, long(&mut body)?))
}

fn byte(packet: &mut Bytes) -> Parsed<u8> {
    packet.try_get_u8().map_err(|_| Garbled)
}

fn number(packet: &mut Bytes) -> Parsed<u32> {
    packet.try_get_u32().map_err(|_| Garbled)
}

fn long(packet: &mut Bytes) -> Parsed<u64> {
    packet.try_get_u64().map_err(|_| Garbled)
}

fn string(packet: &mut Bytes) -> Parsed<Bytes> {
    let length = number(packet)? as usize;
    if packet.remaining() < length {
        return Err(Garbled);
    }
    Ok(packet.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(packet: Bytes) -> Bytes {
        assert_eq!(packet.len(), 4 + u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize);
        packet.slice(4..)
    }

    #[test]
    fn attributes_survive_the_wire() {
        let all =
            Attrs { size: Some(1 << 40), owner: Some((1000, 1001)), mode: Some(0o100644), times: Some((1, u32::MAX)) };
        for sent in [all, Attrs::default(), Attrs { mode: Some(0o755), ..Attrs::default() }] {
            let packet = Request::new(105, 7).attrs(&sent).finish();
            assert_eq!(answer(body(packet)), Ok((7, Answer::Attrs(sent))));
        }
    }

    #[test]
    fn handles_and_names_are_bytes() {
        let packet = Request::new(102, 1).string(&[0, 0, 0, 0x80]).finish();
        assert_eq!(answer(body(packet)), Ok((1, Answer::Handle(Bytes::from_static(&[0, 0, 0, 0x80])))));
        let packet = Request::new(104, 2).u32(1).string(b"caf\xe9").string(b"long").attrs(&Attrs::default()).finish();
        let entry = Entry { name: b"caf\xe9".to_vec(), attrs: Attrs::default() };
        assert_eq!(answer(body(packet)), Ok((2, Answer::Names(vec![entry]))));
    }

    #[test]
    fn every_cut_and_lying_packet_is_refused() {
        let entry = |request: Request| request.string(b"name").string(b"long").attrs(&Attrs::default());
        let whole = body(entry(Request::new(104, 2).u32(1)).finish());
        for length in 0..whole.len() {
            assert_eq!(answer(whole.slice(..length)), Err(Garbled), "{length}");
        }
        assert_eq!(answer(body(entry(Request::new(104, 2).u32(u32::MAX)).finish())), Err(Garbled));
        assert_eq!(answer(body(Request::new(102, 1).u32(u32::MAX).finish())), Err(Garbled));
        assert_eq!(answer(body(Request::new(99, 1).finish())), Err(Garbled));
        assert_eq!(version(body(Request::new(2, 2).finish())), Err(Garbled));
        assert_eq!(limits(Bytes::from_static(&[0; 16])), Err(Garbled));
    }
}
