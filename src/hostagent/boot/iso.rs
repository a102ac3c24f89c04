//! cidata.iso as a file: replaced whole, and only when it differs. The archive with containerd, hundreds of megabytes,
//! goes from file to file and is never in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::cidata::SECTOR;
use crate::error::{Error, Result};
use crate::store;

const CHUNK: usize = 64 << 10;

/// The bytes of the disk.
pub struct Image {
    /// All but the archive.
    pub held: Vec<u8>,
    /// What follows, filled up to a whole sector.
    pub archive: Option<PathBuf>,
}

impl Image {
    pub fn replace(&self, path: &Path) -> Result<()> {
        let is_there = match File::open(path) {
            Ok(there) => is_same(there, self.read()?).map_err(Error::io(path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(path)(error)),
        };
        if is_there { Ok(()) } else { store::replace_from(path, self.read()?, 0o600) }
    }

    fn read(&self) -> Result<Box<dyn Read + '_>> {
        let Some(path) = &self.archive else { return Ok(Box::new(&*self.held)) };
        let archive = File::open(path).map_err(Error::io(path))?;
        let size = archive.metadata().map_err(Error::io(path))?.len();
        let rest = size.next_multiple_of(SECTOR as u64) - size;
        Ok(Box::new(self.held.chain(archive.take(size)).chain(io::repeat(0).take(rest))))
    }
}

/// Whether two readers give the same bytes, a piece at a time.
pub fn is_same(one: impl Read, other: impl Read) -> io::Result<bool> {
    let [mut one, mut other]: [BufReader<Box<dyn Read + '_>>; 2] =
        [Box::new(one) as Box<dyn Read>, Box::new(other)].map(|reader| BufReader::with_capacity(CHUNK, reader));
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let common = a.len().min(b.len());
        if common == 0 || a[..common] != b[..common] {
            return Ok(a.is_empty() && b.is_empty());
        }
        one.consume(common);
        other.consume(common);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_archive_follows_and_nothing_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let [path, archive] = ["cidata.iso", "archive"].map(|name| dir.path().join(name));
        fs::write(&archive, vec![7; SECTOR * 100 + 1]).unwrap();
        let image = Image { held: vec![1; SECTOR], archive: Some(archive.clone()) };
        image.replace(&path).unwrap();
        let mut whole = [vec![1; SECTOR], vec![7; SECTOR * 100 + 1]].concat();
        whole.resize(SECTOR * 102, 0);
        assert!(fs::read(&path).unwrap() == whole);
        let made = fs::metadata(&path).unwrap().ino();
        image.replace(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), made, "written again without need");
        fs::write(&archive, vec![8; SECTOR * 100 + 1]).unwrap();
        image.replace(&path).unwrap();
        assert!(fs::read(&path).unwrap()[SECTOR] == 8);
        Image { held: vec![1; SECTOR], archive: None }.replace(&path).unwrap();
        assert!(fs::read(&path).unwrap() == vec![1; SECTOR]);
        fs::remove_file(&archive).unwrap();
        assert!(image.replace(&path).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left");
    }

    #[test]
    fn readers_are_the_same_byte_by_byte() {
        let long = vec![5; 3 * CHUNK + 1];
        assert!(is_same(&*long, (&long[..7]).chain(&long[7..])).unwrap());
        assert!(!is_same(&*long, &long[1..]).unwrap());
        assert!(!is_same(&b""[..], &b"a"[..]).unwrap());
        assert!(is_same(&b""[..], &b""[..]).unwrap());
    }
}
