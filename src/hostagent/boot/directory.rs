//! cidata as a directory, for a guest without cloud-init whose driver lets it see the host's files. There is always one
//! that is whole, and nobody but its owner may look into it: `env` and `param` may hold secrets.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::iso;
use crate::cidata::{ARCHIVE, Entry};
use crate::error::{Error, Result};

const ARCHIVE_MODE: u32 = 0o600;

/// Puts a directory with the entries, and a copy of the archive with containerd, in place of the one that is there, if it
/// differs.
pub fn replace(dir: &Path, entries: &[Entry], archive: Option<&Path>) -> Result<()> {
    if has(dir, entries, archive) {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    // Closed to others from its first moment; what it is in the end is removed: the old one, or what was begun.
    let closed = fs::Permissions::from_mode(0o700);
    let new = tempfile::Builder::new().prefix(".cidata.").permissions(closed).tempdir_in(parent);
    let new = new.map_err(Error::io(parent))?;
    for entry in entries {
        write(&new.path().join(&entry.path), entry).map_err(Error::io(new.path().join(&entry.path)))?;
    }
    if let Some(archive) = archive {
        copy(archive, &new.path().join(ARCHIVE)).map_err(Error::io(archive))?;
    }
    put(new.path(), dir).map_err(Error::io(dir))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::io(parent))
}

/// Removes one of an earlier start, if there is one.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(dir)(error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, entry: &Entry) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(Path::new("/")))?;
    let mut file = create(path, entry.mode)?;
    file.write_all(&entry.bytes)?;
    file.sync_all()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut file = create(to, ARCHIVE_MODE)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.sync_all()
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// The two change places, so that no moment is without one, where the file system can do that.
fn put(new: &Path, dir: &Path) -> io::Result<()> {
    if !dir.try_exists()? {
        return fs::rename(new, dir);
    }
    match renameat_with(CWD, new, CWD, dir, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            fs::remove_dir_all(dir)?;
            fs::rename(new, dir)
        }
        done => done.map_err(Into::into),
    }
}

/// Whether the directory has these entries, this archive and no other files.
fn has(dir: &Path, entries: &[Entry], archive: Option<&Path>) -> bool {
    let has_mode =
        |path: &Path, mode: u32| fs::symlink_metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode);
    let is_same = |entry: &Entry| {
        let path = dir.join(&entry.path);
        has_mode(&path, entry.mode) && fs::read(&path).is_ok_and(|bytes| bytes == entry.bytes)
    };
    let is_copied = |archive: &Path| {
        let copy = dir.join(ARCHIVE);
        let both = || iso::is_same(File::open(archive)?, File::open(&copy)?);
        has_mode(&copy, ARCHIVE_MODE) && both().unwrap_or(false)
    };
    fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0)
        && count(dir).is_ok_and(|count| count == entries.len() + usize::from(archive.is_some()))
        && entries.iter().all(is_same)
        && archive.is_none_or(is_copied)
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn entry(path: &str, mode: u32, text: &str) -> Entry {
        Entry { path: path.into(), mode, bytes: text.into() }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_replaced_whole_and_only_when_it_differs() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cidata");
        let first = [entry("boot.sh", 0o700, "#!/bin/sh"), entry("boot.Linux/1.sh", 0o700, "1")];
        replace(&dir, &first, None).unwrap();
        let made = fs::metadata(&dir).unwrap().ino();
        replace(&dir, &first, None).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().ino(), made, "written again without need");
        replace(&dir, &[entry("boot.sh", 0o700, "#!/bin/sh\n")], None).unwrap();
        assert_eq!(names(&dir), ["boot.sh"]);
        assert_eq!(fs::read_to_string(dir.join("boot.sh")).unwrap(), "#!/bin/sh\n");
        assert_eq!(names(home.path()), ["cidata"], "something is left");
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert!(names(home.path()).is_empty());
    }

    #[test]
    fn the_archive_is_copied_once() {
        let home = tempfile::tempdir().unwrap();
        let [dir, archive] = ["cidata", "archive"].map(|name| home.path().join(name));
        fs::write(&archive, vec![1; 1 << 20]).unwrap();
        let entries = [entry("boot.sh", 0o700, "#!/bin/sh")];
        replace(&dir, &entries, Some(&archive)).unwrap();
        assert!(fs::read(dir.join(ARCHIVE)).unwrap() == vec![1; 1 << 20]);
        assert_eq!(fs::metadata(dir.join(ARCHIVE)).unwrap().mode() & 0o777, 0o600);
        let made = fs::metadata(&dir).unwrap().ino();
        replace(&dir, &entries, Some(&archive)).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().ino(), made, "written again without need");
        fs::write(&archive, vec![2; 1 << 20]).unwrap();
        replace(&dir, &entries, Some(&archive)).unwrap();
        assert!(fs::read(dir.join(ARCHIVE)).unwrap() == vec![2; 1 << 20]);
        replace(&dir, &entries, None).unwrap();
        assert_eq!(names(&dir), ["boot.sh"]);
    }

    #[test]
    fn nobody_else_may_look_into_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cidata");
        replace(&dir, &[entry("boot.Linux/1.sh", 0o700, "1"), entry("lima.env", 0o600, "A=1")], None).unwrap();
        for path in ["", "boot.Linux", "boot.Linux/1.sh", "lima.env"] {
            let mode = fs::metadata(dir.join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{path}: {mode:o}");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        replace(&dir, &[entry("boot.Linux/1.sh", 0o700, "1"), entry("lima.env", 0o600, "A=1")], None).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
