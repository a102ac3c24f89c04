//! One request after the other becomes a reply. Synchronous: whoever calls is allowed to block.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, StatVfs, Timespec, Timestamps, UTIME_OMIT, fchmod, fchown,
    fstat, fstatvfs, fsync, ftruncate, futimens, statat,
};
use rustix::io::{Errno, Result, pread, pwrite};
use rustix::process::{Gid, Uid};

use super::FRAME_MAX;
use super::open::{Open, Opens};
use super::tree::Tree;
use super::wire::{Attrs, Code, Entry, Flags, Reply, Request, encode, parse};

/// At most so many bytes in one answer, as with OpenSSH: the frame has a head, too.
const DATA_MAX: u32 = FRAME_MAX - 1024;
/// At most so many names in one answer.
const NAMES_MAX: usize = 100;

pub struct Server {
    tree: Tree,
    opens: Opens,
}

impl Server {
    pub fn new(tree: Tree, limit: usize) -> Self {
        Self { tree, opens: Opens::new(limit) }
    }

    /// The reply to a frame, as a frame; `None` to what is none.
    pub fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let (id, request) = parse(frame)?;
        let reply = match request {
            Ok(request) => self.carry_out(request).unwrap_or_else(refusal),
            Err(_) => Reply::Status(Code::BadMessage, "malformed request".into()),
        };
        Some(encode(id, &reply))
    }

    fn carry_out(&mut self, request: Request) -> Result<Reply> {
        let tree = &self.tree;
        match request {
            Request::Init => Ok(Reply::Version),
            Request::Open { path, flags, attrs } => self.open(path, flags, &attrs),
            Request::Close(id) => self.opens.close(id).map(done),
            Request::Read { file, offset, length } => read(self.opens.file(file)?, offset, length),
            Request::Write { file, offset, bytes } => write(self.opens.file(file)?, offset, bytes).map(done),
            Request::Lstat(path) => tree.stat(path, false).map(Reply::Attrs),
            Request::Stat(path) => tree.stat(path, true).map(Reply::Attrs),
            Request::Fstat(id) => fstat(self.opens.file(id)?).map(Reply::Attrs),
            Request::SetStat(path, attrs) => set_path(tree, path, &attrs).map(done),
            Request::FsetStat(id, attrs) => {
                tree.change()?;
                set_file(self.opens.file(id)?, &attrs).map(done)
            }
            Request::OpenDir(path) => {
                let dir = Dir::new(tree.dir(path)?)?;
                self.opens.add(Open::Dir(dir)).map(Reply::Handle)
            }
            Request::ReadDir(id) => list(self.opens.dir(id)?),
            Request::Remove(path) => tree.remove(path, AtFlags::empty()).map(done),
            Request::RemoveDir(path) => tree.remove(path, AtFlags::REMOVEDIR).map(done),
            Request::MakeDir(path, attrs) => tree.make_dir(path, mode(attrs.mode, 0o777)).map(done),
            Request::RealPath(path) => Ok(Reply::Names(vec![Entry { name: normal(path), stat: None }])),
            Request::Rename { from, to } => tree.rename(from, to, RenameFlags::NOREPLACE).map(done),
            Request::PosixRename { from, to } => tree.rename(from, to, RenameFlags::empty()).map(done),
            Request::Hardlink { from, to } => tree.hardlink(from, to).map(done),
            Request::Symlink { target, link } => tree.symlink(target, link).map(done),
            Request::ReadLink(path) => tree.read_link(path).map(|name| Reply::Names(vec![Entry { name, stat: None }])),
            Request::Fsync(id) => fsync(self.opens.file(id)?).map(done),
            Request::StatVfs(path) => fstatvfs(tree.node(path, true)?).map(space),
            Request::FstatVfs(id) => fstatvfs(self.opens.file(id)?).map(space),
            Request::Limits => {
                let (frame, data) = (FRAME_MAX.into(), DATA_MAX.into());
                Ok(Reply::Numbers(vec![frame, data, data, self.opens.limit() as u64]))
            }
            Request::Unknown => Err(Errno::NOSYS),
        }
    }

    fn open(&mut self, path: &[u8], flags: Flags, attrs: &Attrs) -> Result<Reply> {
        let file = self.tree.file(path, open_flags(flags), mode(attrs.mode, 0o666))?;
        // Pipes and devices of the host are not for the guest, and a read of them might never end.
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => self.opens.add(Open::File(file)).map(Reply::Handle),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::ACCESS),
        }
    }
}

fn open_flags(flags: Flags) -> OFlags {
    let mut open = match (flags.has(Flags::READ), flags.has(Flags::WRITE)) {
        (_, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (true, true) => OFlags::RDWR,
    };
    for (bit, flag) in [
        (Flags::APPEND, OFlags::APPEND),
        (Flags::CREATE, OFlags::CREATE),
        (Flags::TRUNCATE, OFlags::TRUNC),
        (Flags::EXCLUSIVE, OFlags::EXCL),
    ] {
        open.set(flag, flags.has(bit));
    }
    open
}

/// Without set-user-id and set-group-id: what a guest writes must not run as somebody else on the host.
fn mode(asked: Option<u32>, default: u32) -> Mode {
    Mode::from_raw_mode(asked.unwrap_or(default) & 0o1777)
}

fn read(file: &OwnedFd, offset: u64, length: u32) -> Result<Reply> {
    let mut bytes = vec![0; length.min(DATA_MAX) as usize];
    match pread(file, &mut bytes[..], offset)? {
        0 if length > 0 => Ok(Reply::Status(Code::Eof, String::new())),
        got => {
            bytes.truncate(got);
            Ok(Reply::Data(bytes))
        }
    }
}

fn write(file: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(done) => {
                bytes = &bytes[done..];
                offset += done as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The size first: it changes the times, which may be among what is to be set.
fn set_path(tree: &Tree, path: &[u8], attrs: &Attrs) -> Result<()> {
    tree.change()?;
    if let Some(size) = attrs.size {
        ftruncate(tree.file(path, OFlags::WRONLY | OFlags::NOFOLLOW, Mode::empty())?, size)?;
    }
    if let Some((owner, group)) = attrs.owner {
        tree.set_owner(path, Uid::from_raw(owner), Gid::from_raw(group))?;
    }
    if attrs.mode.is_some() {
        tree.set_mode(path, mode(attrs.mode, 0))?;
    }
    match attrs.times {
        Some(times) => tree.set_times(path, &timestamps(times, &tree.stat(path, false)?)),
        None => Ok(()),
    }
}

fn set_file(file: &OwnedFd, attrs: &Attrs) -> Result<()> {
    if let Some(size) = attrs.size {
        ftruncate(file, size)?;
    }
    if let Some((owner, group)) = attrs.owner {
        fchown(file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)))?;
    }
    if attrs.mode.is_some() {
        fchmod(file, mode(attrs.mode, 0))?;
    }
    match attrs.times {
        Some(times) => futimens(file, &timestamps(times, &fstat(file)?)),
        None => Ok(()),
    }
}

/// What the protocol says in whole seconds takes no fraction away from a time that is within the same second: a guest
/// that was told of a change, and touches the file for that, would make it older than it is.
fn timestamps((access, modification): (u32, u32), present: &Stat) -> Timestamps {
    let time = |seconds: u32, known: i64| match i64::from(seconds) == known {
        true => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        false => Timespec { tv_sec: seconds.into(), tv_nsec: 0 },
    };
    Timestamps { last_access: time(access, present.st_atime), last_modification: time(modification, present.st_mtime) }
}

/// The next names of a directory; the end of it is a status.
fn list(dir: &mut Dir) -> Result<Reply> {
    let mut entries = Vec::new();
    while entries.len() < NAMES_MAX {
        let Some(entry) = dir.read().transpose()? else { break };
        let name = entry.file_name().to_bytes().to_vec();
        entries.push(Entry { stat: stat_in(dir, &name), name });
    }
    match entries.is_empty() {
        true => Ok(Reply::Status(Code::Eof, String::new())),
        false => Ok(Reply::Names(entries)),
    }
}

/// `None` for what is gone meanwhile. Above the tree there is nothing to be told of.
fn stat_in(dir: &Dir, name: &[u8]) -> Option<Stat> {
    let fd = dir.fd().ok()?;
    let name: &[u8] = if name == b".." { b"." } else { name };
    statat(fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

/// An absolute path without `.`, `..` and empty parts. Only text: whatever is done with it is resolved then.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    [b"/", &parts.join(&b'/')[..]].concat()
}

fn space(stat: StatVfs) -> Reply {
    // The protocol's own bits: read-only, no set-user-id.
    let flags = stat.f_flag.bits() & 3;
    let sizes = [stat.f_bsize, stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail];
    let nodes = [stat.f_files, stat.f_ffree, stat.f_favail, stat.f_fsid, flags, stat.f_namemax];
    Reply::Numbers([&sizes[..], &nodes].concat())
}

fn done((): ()) -> Reply {
    Reply::Status(Code::Ok, String::new())
}

/// As OpenSSH words it, so that clients find the errno again that they know.
fn refusal(errno: Errno) -> Reply {
    let code = match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Code::NoSuchFile,
        Errno::PERM | Errno::ACCESS | Errno::FAULT | Errno::ROFS | Errno::XDEV => Code::PermissionDenied,
        Errno::NAMETOOLONG | Errno::INVAL => Code::BadMessage,
        Errno::NOSYS => Code::Unsupported,
        _ => Code::Failure,
    };
    Reply::Status(code, errno.to_string())
}
