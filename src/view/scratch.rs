//! Scratch files of editors and tools in an instance directory: in memory, bounded, gone with the mount.
//! They mean nothing until one is renamed onto a document.

use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;

use crate::error::{Error, Result};

/// Bytes of one scratch file.
pub const FILE_LIMIT: usize = 1 << 20;
/// Scratch files of one instance.
pub const COUNT_LIMIT: usize = 16;

#[derive(Debug, Clone)]
pub struct ScratchFile {
    pub serial: u64,
    pub body: ScratchBody,
    pub perm: u16,
    pub mtime: SystemTime,
}

#[derive(Debug, Clone)]
pub enum ScratchBody {
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

/// The scratch files of one instance, by name.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    files: BTreeMap<String, ScratchFile>,
    /// Files that were unlinked or replaced while open: still readable by who has them open.
    orphans: Vec<ScratchFile>,
    last: u64,
}

/// Whether editors and tools call files so that they make beside another one, and remove or rename again.
pub fn is_tools_own(name: &str) -> bool {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    is_number || name.starts_with(['.', '#', '~']) || name.starts_with("sed") || name.starts_with("tmp")
}

impl Scratch {
    pub fn names(&self) -> impl Iterator<Item = (&str, &ScratchFile)> {
        self.files.iter().map(|(name, file)| (name.as_str(), file))
    }

    pub fn by_name(&self, name: &str) -> Option<&ScratchFile> {
        self.files.get(name)
    }

    pub fn by_serial(&self, serial: u64) -> Option<&ScratchFile> {
        self.files.values().chain(&self.orphans).find(|file| file.serial == serial)
    }

    pub fn by_serial_mut(&mut self, serial: u64) -> Option<&mut ScratchFile> {
        self.files.values_mut().chain(&mut self.orphans).find(|file| file.serial == serial)
    }

    /// Makes a new file; replaces nothing.
    pub fn create(&mut self, name: &str, body: ScratchBody, perm: u16) -> Result<&ScratchFile> {
        if self.files.contains_key(name) {
            return Err(Error::Exists { what: name.to_owned() });
        }
        if self.files.len() >= COUNT_LIMIT {
            return Err(Error::Io { path: name.into(), source: io::Error::from_raw_os_error(libc::ENOSPC) });
        }
        self.last += 1;
        let file = ScratchFile { serial: self.last, body, perm, mtime: SystemTime::now() };
        Ok(self.files.entry(name.to_owned()).or_insert(file))
    }

    pub fn remove(&mut self, name: &str) -> Result<()> {
        let file = self.files.remove(name).ok_or_else(|| Error::Missing { what: name.to_owned() })?;
        self.orphans.push(file);
        // Whoever still has one of the older ones open reads ESTALE; nobody holds that many.
        if self.orphans.len() > COUNT_LIMIT {
            self.orphans.remove(0);
        }
        Ok(())
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let file = self.files.remove(from).ok_or_else(|| Error::Missing { what: from.to_owned() })?;
        if self.files.contains_key(to) {
            self.remove(to)?;
        }
        self.files.insert(to.to_owned(), file);
        Ok(())
    }
}

impl ScratchFile {
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            ScratchBody::File(bytes) | ScratchBody::Symlink(bytes) => bytes,
        }
    }

    /// Writes at `offset`, or at the end.
    pub fn write(&mut self, offset: Option<u64>, data: &[u8]) -> Result<()> {
        let ScratchBody::File(bytes) = &mut self.body else {
            return Err(Error::invalid("scratch", "is a symbolic link"));
        };
        splice(bytes, offset, data, "scratch file", FILE_LIMIT)?;
        self.mtime = SystemTime::now();
        Ok(())
    }

    pub fn truncate(&mut self, size: u64) -> Result<()> {
        if size > FILE_LIMIT as u64 {
            return Err(Error::TooBig { what: "scratch file".into(), limit: FILE_LIMIT });
        }
        if let ScratchBody::File(bytes) = &mut self.body {
            bytes.resize(size as usize, 0);
        }
        self.mtime = SystemTime::now();
        Ok(())
    }
}

/// Writes `data` into `bytes` at `offset` (at the end without one), zero-filling a hole; refuses to grow past `limit`.
pub fn splice(bytes: &mut Vec<u8>, offset: Option<u64>, data: &[u8], what: &str, limit: usize) -> Result<()> {
    let too_big = || Error::TooBig { what: what.to_owned(), limit };
    let start = usize::try_from(offset.unwrap_or(bytes.len() as u64)).map_err(|_| too_big())?;
    let end = start.checked_add(data.len()).filter(|end| *end <= limit).ok_or_else(too_big)?;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ScratchBody {
        ScratchBody::File(text.into())
    }

    #[test]
    fn a_write_past_the_end_leaves_zeros() {
        let mut bytes = b"ab".to_vec();
        splice(&mut bytes, Some(4), b"x", "t", 10).unwrap();
        assert_eq!(bytes, b"ab\0\0x");
    }

    #[test]
    fn f11_a_write_at_a_gigabyte_is_refused_and_stores_nothing() {
        let mut bytes = b"ab".to_vec();
        let error = splice(&mut bytes, Some(1 << 30), b"x", "t", FILE_LIMIT).unwrap_err();
        assert_eq!(error.errno(), libc::EFBIG);
        assert_eq!(bytes, b"ab");
    }

    #[test]
    fn an_unlinked_file_is_still_there_for_who_has_it_open() {
        let mut scratch = Scratch::default();
        let serial = scratch.create(".x.swp", file("hello"), 0o600).unwrap().serial;
        scratch.remove(".x.swp").unwrap();
        assert!(scratch.by_name(".x.swp").is_none());
        assert_eq!(scratch.by_serial(serial).unwrap().bytes(), b"hello");
    }

    #[test]
    fn the_seventeenth_file_is_refused() {
        let mut scratch = Scratch::default();
        for n in 0..COUNT_LIMIT {
            scratch.create(&format!("f{n}"), file(""), 0o600).unwrap();
        }
        assert_eq!(scratch.create("one-more", file(""), 0o600).unwrap_err().errno(), libc::ENOSPC);
    }

    #[test]
    fn rename_replaces() {
        let mut scratch = Scratch::default();
        scratch.create("a", file("1"), 0o600).unwrap();
        scratch.create("b", file("2"), 0o600).unwrap();
        scratch.rename("a", "b").unwrap();
        assert_eq!(scratch.by_name("b").unwrap().bytes(), b"1");
        assert!(scratch.by_name("a").is_none());
    }
}
