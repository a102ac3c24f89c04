//! A directory of the host, out of which no path leads: the kernel resolves each beneath it (openat2) and refuses `..`,
//! links and renames in mid-way that would escape. Paths are never compared as text.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timestamps, chmodat, chownat, fstat, linkat, mkdirat,
    open, openat2, readlinkat, renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, Result};
use rustix::process::{Gid, Uid};

/// A rename beside the path makes the kernel give up on being sure; it says so and wants to be asked again.
const TRIES: usize = 16;

#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    writable: bool,
}

/// A name in a directory.
struct Place<'a> {
    dir: OwnedFd,
    name: &'a [u8],
}

impl Tree {
    pub fn open(location: &Path, writable: bool) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(location, flags, Mode::empty())?, writable })
    }

    /// Opens a file for reading or writing. Waits for nobody at the other end of a pipe.
    pub fn file(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC) {
            self.change()?;
        }
        self.resolve(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)
    }

    pub fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// A handle on whatever is there, good for nothing but its attributes.
    pub fn node(&self, path: &[u8], follow: bool) -> Result<OwnedFd> {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        self.resolve(path, flags, Mode::empty())
    }

    pub fn stat(&self, path: &[u8], follow: bool) -> Result<Stat> {
        fstat(self.node(path, follow)?)
    }

    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(path, false)?;
        match readlinkat(node, "", Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            // What the kernel says of anything that is no link.
            Err(Errno::NOENT) => Err(Errno::INVAL),
            Err(error) => Err(error),
        }
    }

    pub fn make_dir(&self, path: &[u8], mode: Mode) -> Result<()> {
        let place = self.place(path)?;
        mkdirat(place.dir, place.name, mode)
    }

    pub fn remove(&self, path: &[u8], flags: AtFlags) -> Result<()> {
        let place = self.place(path)?;
        unlinkat(place.dir, place.name, flags)
    }

    pub fn rename(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        renameat_with(from.dir, from.name, to.dir, to.name, flags)
    }

    /// What a link says is the guest's affair: it is never followed out of the tree here.
    pub fn symlink(&self, target: &[u8], link: &[u8]) -> Result<()> {
        let place = self.place(link)?;
        symlinkat(target, place.dir, place.name)
    }

    pub fn hardlink(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        linkat(from.dir, from.name, to.dir, to.name, AtFlags::empty())
    }

    pub fn set_owner(&self, path: &[u8], owner: Uid, group: Gid) -> Result<()> {
        let place = self.place(path)?;
        chownat(place.dir, place.name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)
    }

    pub fn set_times(&self, path: &[u8], times: &Timestamps) -> Result<()> {
        let place = self.place(path)?;
        utimensat(place.dir, place.name, times, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub fn set_mode(&self, path: &[u8], mode: Mode) -> Result<()> {
        self.change()?;
        let node = self.node(path, false)?;
        if rustix::fs::FileType::from_raw_mode(fstat(&node)?.st_mode).is_symlink() {
            return Err(Errno::OPNOTSUPP);
        }
        // A handle of this kind cannot be changed itself; its name in /proc leads to what it is on, and nowhere else.
        chmodat(CWD, format!("/proc/self/fd/{}", node.as_raw_fd()), mode, AtFlags::empty())
    }

    /// Refuses where nothing may be changed.
    pub fn change(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// Where something is to be changed: its directory, in which its name means it and nothing else.
    fn place<'a>(&self, path: &'a [u8]) -> Result<Place<'a>> {
        self.change()?;
        let path = relative(path);
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        if name == b".." || (name == b"." && !parent.is_empty()) {
            return Err(Errno::INVAL);
        }
        let dir = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Place { dir, name: if name.is_empty() { b"." } else { name } })
    }

    fn resolve(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = match relative(path) {
            b"" => b".",
            path => path,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // The kernel refuses a mode where nothing can be made.
        let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
        let mut result = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            result = openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }
}

/// The client's root is the tree's.
fn relative(path: &[u8]) -> &[u8] {
    let path = &path[path.iter().take_while(|byte| **byte == b'/').count()..];
    &path[..path.len() - path.iter().rev().take_while(|byte| **byte == b'/').count()]
}
