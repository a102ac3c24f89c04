//! The archive with containerd: which of `containerd.archives` it is, and fetching it to where the guest's disk is.

use std::fs;
use std::path::Path;

use limafs_driver::{Config, DataDisk, File};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::image;
use crate::cidata::{ARCHIVE_SERIAL, Archive};
use crate::error::{Error, Result};
use crate::hostagent::state::Event;
use crate::images;
use crate::names;

/// What the guest is told of the archive, and its disk.
#[derive(Debug)]
pub struct Fetched {
    pub archive: Archive,
    pub disk: DataDisk,
}

/// Fetches the first archive that can be had of those for the instance's architecture; `None` where none is wanted.
/// One that is there already is kept, others are removed.
pub async fn fetch(config: &Config, dir: &Path, tell: &mpsc::Sender<Event>) -> Result<Option<Fetched>> {
    let Some(containerd) = config.containerd.as_ref().filter(|it| it.system == Some(true) || it.user == Some(true))
    else {
        remove_others(dir, None)?;
        return Ok(None);
    };
    let archives = containerd.archives.iter().flatten();
    let candidates: Vec<&File> = archives.filter(|it| it.arch.is_none() || it.arch == config.arch).collect();
    let mut failures = Vec::new();
    for file in candidates {
        let id = id(file);
        let path = dir.join(names::archive(&id));
        let fetched = match path.exists() {
            true => Ok(()),
            false => images::fetch_as_is(file, &path, &image::told("containerd", tell)).await,
        };
        match fetched {
            Ok(()) => {
                remove_others(dir, Some(&id))?;
                let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
                let disk = DataDisk { serial: ARCHIVE_SERIAL.into(), path };
                return Ok(Some(Fetched { archive: Archive { id, size }, disk }));
            }
            Err(error) => {
                tracing::warn!("{error}");
                failures.push(error.to_string());
            }
        }
    }
    let arch = config.arch.as_deref().unwrap_or_default();
    if failures.is_empty() {
        return Err(Error::invalid("containerd.archives", format!("there is none for arch {arch}")));
    }
    Err(Error::failed("containerd.archives", failures.join("\n")))
}

/// Names an archive by what lima.yaml says of it.
fn id(file: &File) -> String {
    let [location, digest] = [&file.location, &file.digest].map(|text| text.as_deref().unwrap_or_default());
    let hash = Sha256::digest(format!("{location}\n{digest}"));
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove_others(dir: &Path, id: Option<&str>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))?.flatten() {
        let name = entry.file_name();
        let other = name.to_str().and_then(names::archive_id).is_some_and(|found| Some(found) != id);
        if other {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use limafs_driver::Containerd;

    fn config(user: bool, archives: &[&Path]) -> Config {
        let file = |path: &&Path| File {
            location: Some(path.display().to_string()),
            arch: Some("x86_64".into()),
            digest: None,
        };
        let archives = Some(archives.iter().map(file).collect());
        let containerd = Some(Containerd { system: Some(false), user: Some(user), archives });
        Config { arch: Some("x86_64".into()), containerd, ..Config::default() }
    }

    #[tokio::test]
    async fn the_archive_follows_the_document() {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [a, b] = ["a.tgz", "b.tgz"].map(|name| home.path().join(name));
        fs::write(&a, "aaa").unwrap();
        fs::write(&b, "bbbb").unwrap();
        let (tell, _told) = mpsc::channel(64);
        let missing = home.path().join("missing");
        let first = fetch(&config(true, &[&missing, &a]), dir.path(), &tell).await.unwrap().unwrap();
        assert_eq!((first.archive.size, fs::read(&first.disk.path).unwrap().as_slice()), (3, &b"aaa"[..]));
        // It is there, and need not be fetched again.
        fs::remove_file(&a).unwrap();
        let again = fetch(&config(true, &[&a]), dir.path(), &tell).await.unwrap().unwrap();
        assert_eq!(again.archive, first.archive);
        let other = fetch(&config(true, &[&b]), dir.path(), &tell).await.unwrap().unwrap();
        assert!(other.archive.size == 4 && other.archive.id != first.archive.id);
        assert!(!first.disk.path.exists());
        assert!(fetch(&config(false, &[&b]), dir.path(), &tell).await.unwrap().is_none());
        assert!(!other.disk.path.exists());
    }

    #[tokio::test]
    async fn an_archive_that_cannot_be_had_has_its_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let (tell, _told) = mpsc::channel(64);
        let none = fetch(&config(true, &[]), dir.path(), &tell).await.unwrap_err().to_string();
        assert_eq!(none, "containerd.archives: there is none for arch x86_64");
        let missing = fetch(&config(true, &[Path::new("/nonexistent/a")]), dir.path(), &tell).await.unwrap_err();
        assert_eq!(missing.to_string(), "containerd.archives: /nonexistent/a does not exist");
    }
}
