//! The protocol's bytes: requests are parsed, replies are encoded. Pure. Names are bytes, as they are on Linux.

use bytes::{Buf, BufMut};
use rustix::fs::Stat;

use super::open::Id;

pub const VERSION: u32 = 3;

/// Attributes that a request may carry; those that are not set are to stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs {
    pub size: Option<u64>,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    /// Last access, last modification; seconds.
    pub times: Option<(u32, u32)>,
}

/// Bits of a request to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const APPEND: u32 = 4;
    pub const CREATE: u32 = 8;
    pub const TRUNCATE: u32 = 16;
    pub const EXCLUSIVE: u32 = 32;

    pub fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Init,
    Open {
        path: &'a [u8],
        flags: Flags,
        attrs: Attrs,
    },
    Close(Id),
    Read {
        file: Id,
        offset: u64,
        length: u32,
    },
    Write {
        file: Id,
        offset: u64,
        bytes: &'a [u8],
    },
    Lstat(&'a [u8]),
    Fstat(Id),
    SetStat(&'a [u8], Attrs),
    FsetStat(Id, Attrs),
    OpenDir(&'a [u8]),
    ReadDir(Id),
    Remove(&'a [u8]),
    MakeDir(&'a [u8], Attrs),
    RemoveDir(&'a [u8]),
    RealPath(&'a [u8]),
    Stat(&'a [u8]),
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    ReadLink(&'a [u8]),
    /// In OpenSSH's order, which is not the draft's: every client has it so.
    Symlink {
        target: &'a [u8],
        link: &'a [u8],
    },
    PosixRename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Hardlink {
        from: &'a [u8],
        to: &'a [u8],
    },
    Fsync(Id),
    StatVfs(&'a [u8]),
    FstatVfs(Id),
    Limits,
    Unknown,
}

/// Extensions that are told of with the version, all of OpenSSH.
const EXTENSIONS: [(&str, &str); 6] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("limits@openssh.com", "1"),
];

/// A request and its number; `Err` where the rest of a frame makes no sense. `None` is a frame too short to be answered.
pub fn parse(frame: &[u8]) -> Option<(u32, Result<Request<'_>, Malformed>)> {
    let mut input = Input(frame);
    let kind = input.byte().ok()?;
    // The version in the first one, which is answered without a number.
    let id = input.u32().ok()?;
    Some((id, input.request(kind)))
}

#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn request(&mut self, kind: u8) -> Result<Request<'a>, Malformed> {
        Ok(match kind {
            1 => Request::Init,
            3 => Request::Open { path: self.bytes()?, flags: Flags(self.u32()?), attrs: self.attrs()? },
            4 => Request::Close(self.id()?),
            5 => Request::Read { file: self.id()?, offset: self.u64()?, length: self.u32()? },
            6 => Request::Write { file: self.id()?, offset: self.u64()?, bytes: self.bytes()? },
            7 => Request::Lstat(self.bytes()?),
            8 => Request::Fstat(self.id()?),
            9 => Request::SetStat(self.bytes()?, self.attrs()?),
            10 => Request::FsetStat(self.id()?, self.attrs()?),
            11 => Request::OpenDir(self.bytes()?),
            12 => Request::ReadDir(self.id()?),
            13 => Request::Remove(self.bytes()?),
            14 => Request::MakeDir(self.bytes()?, self.attrs()?),
            15 => Request::RemoveDir(self.bytes()?),
            16 => Request::RealPath(self.bytes()?),
            17 => Request::Stat(self.bytes()?),
            18 => Request::Rename { from: self.bytes()?, to: self.bytes()? },
            19 => Request::ReadLink(self.bytes()?),
            20 => Request::Symlink { target: self.bytes()?, link: self.bytes()? },
            200 => self.extended()?,
            _ => Request::Unknown,
        })
    }

    fn extended(&mut self) -> Result<Request<'a>, Malformed> {
        Ok(match self.bytes()? {
            b"posix-rename@openssh.com" => Request::PosixRename { from: self.bytes()?, to: self.bytes()? },
            b"hardlink@openssh.com" => Request::Hardlink { from: self.bytes()?, to: self.bytes()? },
            b"fsync@openssh.com" => Request::Fsync(self.id()?),
            b"statvfs@openssh.com" => Request::StatVfs(self.bytes()?),
            b"fstatvfs@openssh.com" => Request::FstatVfs(self.id()?),
            b"limits@openssh.com" => Request::Limits,
            _ => Request::Unknown,
        })
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn id(&mut self) -> Result<Id, Malformed> {
        // One of another length was never given out.
        Ok(Id(self.bytes()?.try_into().map_or(0, u64::from_be_bytes)))
    }

    fn attrs(&mut self) -> Result<Attrs, Malformed> {
        let flags = self.u32()?;
        let mut attrs = Attrs::default();
        if flags & 1 != 0 {
            attrs.size = Some(self.u64()?);
        }
        if flags & 2 != 0 {
            attrs.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & 4 != 0 {
            attrs.mode = Some(self.u32()?);
        }
        if flags & 8 != 0 {
            attrs.times = Some((self.u32()?, self.u32()?));
        }
        Ok(attrs)
    }
}

/// What went well or wrong, in the protocol's few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

pub struct Entry {
    pub name: Vec<u8>,
    pub stat: Option<Stat>,
}

pub enum Reply {
    Version,
    Status(Code, String),
    Handle(Id),
    Data(Vec<u8>),
    Names(Vec<Entry>),
    Attrs(Stat),
    /// The answer to an extended request: numbers one after the other.
    Numbers(Vec<u64>),
}

/// The reply to request `id` as a frame, length and all.
pub fn encode(id: u32, reply: &Reply) -> Vec<u8> {
    let mut out = vec![0; 4];
    let mut begin = |kind: u8| {
        out.put_u8(kind);
        if kind != 2 {
            out.put_u32(id);
        }
    };
    match reply {
        Reply::Version => {
            begin(2);
            out.put_u32(VERSION);
            for (name, version) in EXTENSIONS {
                put_bytes(&mut out, name.as_bytes());
                put_bytes(&mut out, version.as_bytes());
            }
        }
        Reply::Status(code, words) => {
            begin(101);
            out.put_u32(*code as u32);
            put_bytes(&mut out, words.as_bytes());
            put_bytes(&mut out, b"en");
        }
        Reply::Handle(Id(number)) => {
            begin(102);
            put_bytes(&mut out, &number.to_be_bytes());
        }
        Reply::Data(bytes) => {
            begin(103);
            put_bytes(&mut out, bytes);
        }
        Reply::Names(entries) => {
            begin(104);
            out.put_u32(entries.len() as u32);
            for entry in entries {
                put_bytes(&mut out, &entry.name);
                // The line for people that `ls -l` would print: clients must not read it, and sshfs does not.
                put_bytes(&mut out, &entry.name);
                put_attrs(&mut out, entry.stat.as_ref());
            }
        }
        Reply::Attrs(stat) => {
            begin(105);
            put_attrs(&mut out, Some(stat));
        }
        Reply::Numbers(numbers) => {
            begin(201);
            numbers.iter().for_each(|number| out.put_u64(*number));
        }
    }
    let length = out.len() as u32 - 4;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_attrs(out: &mut Vec<u8>, stat: Option<&Stat>) {
    let Some(stat) = stat else { return out.put_u32(0) };
    // Size, owner, mode and times.
    out.put_u32(1 | 2 | 4 | 8);
    out.put_u64(stat.st_size as u64);
    out.put_u32(stat.st_uid);
    out.put_u32(stat.st_gid);
    out.put_u32(stat.st_mode);
    for seconds in [stat.st_atime, stat.st_mtime] {
        // The protocol's times begin in 1970 and end in 2106.
        out.put_u32(u32::try_from(seconds.max(0)).unwrap_or(u32::MAX));
    }
}
