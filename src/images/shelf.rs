//! What is in the cache, for those who only look: its entries, how far downloads are, and pruning. Downloads nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cache::{self, DATA, ENTRIES, URL};
use super::digest::Algorithm;
use super::part::{PART, Stamp};
use crate::error::{Error, Result};

/// Longer ones are no texts of ours.
const TEXT_MAX: u64 = 8 << 10;
/// Of a name that is made of a URL; the rest of what a file name may have is for the hash.
const NAME_MAX: usize = 100;

/// An image in the cache, or on its way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The last word of the URL and the start of its hash.
    pub name: String,
    pub dir: PathBuf,
    pub url: String,
    /// `ALGORITHM:HEX`, if it was downloaded with one.
    pub digest: Option<String>,
    /// Bytes; `None` until it is whole.
    pub size: Option<u64>,
    pub partial: Option<Partial>,
    pub changed: SystemTime,
}

/// A download that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    pub done: u64,
    pub total: Option<u64>,
    /// Somebody is at it; else the next start continues it.
    pub is_running: bool,
}

/// Where the entries are; it need not exist.
pub fn entries_dir() -> Result<PathBuf> {
    Ok(cache::root()?.join(ENTRIES))
}

/// All entries, sorted by name. Changes nothing.
pub fn list(dir: &Path) -> Result<Vec<Cached>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(dir)(error)),
    };
    // One that goes while we look is left out.
    let mut found: Vec<_> = entries.filter_map(|entry| look(&entry.ok()?.path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Removes an entry, unless somebody downloads it. Who waits for its lock makes it anew.
pub fn prune(cached: &Cached) -> Result<()> {
    let Some(_lock) = cache::try_lock(&cached.dir)? else {
        return Err(Error::busy(&cached.name, "is being downloaded"));
    };
    fs::remove_dir_all(&cached.dir).map_err(Error::io(&cached.dir))
}

fn look(dir: &Path) -> Option<Cached> {
    let hash = dir.file_name()?.to_str().filter(|name| name.len() == 64)?;
    let meta = fs::symlink_metadata(dir).ok().filter(fs::Metadata::is_dir)?;
    let data = fs::symlink_metadata(dir.join(DATA)).ok().filter(fs::Metadata::is_file);
    let stamp = Stamp::read(dir);
    // A download without an answer has no URL yet, and nothing to show.
    let url = text(&dir.join(URL)).or_else(|| stamp.as_ref().map(|stamp| stamp.url.clone()))?;
    let partial = partial(dir, stamp.as_ref());
    if data.is_none() && partial.is_none() {
        return None;
    }
    let digest = Algorithm::ALL.into_iter().find_map(|algorithm| text(&dir.join(cache::digest_file(algorithm))));
    Some(Cached {
        name: format!("{}-{}", last_word(&url), &hash[..8]),
        dir: dir.to_owned(),
        url,
        digest,
        size: data.as_ref().map(fs::Metadata::len),
        partial,
        changed: data.unwrap_or(meta).modified().unwrap_or(UNIX_EPOCH),
    })
}

/// Our unfinished download, or limactl's.
fn partial(dir: &Path, stamp: Option<&Stamp>) -> Option<Partial> {
    let names = fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let parts = names.filter(|name| name == PART || name.starts_with("data.tmp."));
    let done = parts.filter_map(|name| Some(fs::symlink_metadata(dir.join(name)).ok()?.len())).max()?;
    // Only here, so that a lock that is taken to look is in nobody's way.
    let is_running = cache::try_lock(dir).is_ok_and(|lock| lock.is_none());
    Some(Partial { done, total: stamp.and_then(|stamp| stamp.total), is_running })
}

fn text(path: &Path) -> Option<String> {
    // Neither a FIFO, which would not come back, nor what somebody else's symlink leads to.
    let meta = fs::symlink_metadata(path).ok()?;
    let small = meta.is_file() && meta.len() <= TEXT_MAX;
    small.then(|| fs::read_to_string(path).ok()).flatten().map(|text| text.trim().to_owned())
}

/// What the URL's path ends with, as a file name.
fn last_word(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let word = path.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+') { c } else { '_' };
    let word: String = word.chars().map(plain).take(NAME_MAX).collect();
    let word = word.trim_start_matches('.');
    if word.is_empty() { "image".to_owned() } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry with these files.
    fn entry(root: &Path, url: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = root.join(cache::name(url));
        fs::create_dir(&dir).unwrap();
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn entries_are_named_for_people() {
        for (url, name) in [
            ("https://example.com/a/debian-13.qcow2", "debian-13.qcow2"),
            ("https://example.com/get?image=7", "get"),
            ("https://example.com/..", "image"),
            ("https://example.com/a%20b/", "a_20b"),
        ] {
            assert_eq!(last_word(url), name, "{url}");
        }
        assert_eq!(last_word(&format!("https://e/{}", "x".repeat(300))).len(), NAME_MAX);
    }

    #[test]
    fn whole_unfinished_and_empty_entries_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(list(&root.path().join("nothing")).unwrap(), []);
        let url = "https://example.com/b.img";
        entry(root.path(), url, &[("url", url), ("data", "12345"), ("sha256.digest", "sha256:00\n")]);
        let stamp = r#"{"url": "https://example.com/a.img", "total": 9}"#;
        let half = entry(root.path(), "https://example.com/a.img", &[("data.part", "123"), ("data.part.json", stamp)]);
        entry(root.path(), "https://example.com/c.img", &[]);
        fs::write(root.path().join("stray"), "").unwrap();
        let found = list(root.path()).unwrap();
        let told: Vec<_> =
            found.iter().map(|it| (it.url.as_str(), it.size, it.digest.as_deref(), it.partial)).collect();
        let stopped = Partial { done: 3, total: Some(9), is_running: false };
        let expected =
            [("https://example.com/a.img", None, None, Some(stopped)), (url, Some(5), Some("sha256:00"), None)];
        assert_eq!(told, expected);
        let _lock = cache::try_lock(&half).unwrap().unwrap();
        assert!(list(root.path()).unwrap()[0].partial.unwrap().is_running);
    }

    #[test]
    fn g18_an_entry_is_not_pruned_while_it_is_downloaded() {
        let root = tempfile::tempdir().unwrap();
        let dir =
            entry(root.path(), "https://example.com/a.img", &[("url", "https://example.com/a.img"), ("data", "1")]);
        let cached = list(root.path()).unwrap().remove(0);
        let lock = cache::try_lock(&dir).unwrap().unwrap();
        assert_eq!(prune(&cached).unwrap_err().errno(), libc::EBUSY);
        assert!(dir.join("data").exists());
        drop(lock);
        prune(&cached).unwrap();
        assert!(!dir.exists());
    }
}
