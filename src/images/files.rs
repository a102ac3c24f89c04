//! Small files of a cache entry: written whole, removed if there.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Result};

pub fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let mut temp = tempfile::NamedTempFile::new_in(dir).map_err(Error::io(dir))?;
    temp.write_all(text.as_bytes()).map_err(Error::io(dir))?;
    temp.persist(dir.join(name)).map_err(|error| Error::io(dir)(error.error))?;
    Ok(())
}

pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}
