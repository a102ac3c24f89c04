//! Remembers of an entry's data that it had its digest, so that nobody reads 600 MiB again to find what is known.
//!
//! The file's identity, size and times are kept beside it; where all are as they were, so are the bytes: whoever writes to
//! a file changes its ctime, and that nobody but the kernel sets. As in git's index, a file that was changed just now
//! is not remembered, because a change within the clock's grain would not be seen.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::digest::Expected;
use super::files::write;
use crate::error::{Error, Result};

/// In an entry; Lima has no such file and leaves it alone.
pub const VERIFIED: &str = "limafs.verified";
/// One line of numbers and a digest is shorter.
const LONGEST: u64 = 1024;
/// Far more than the grain of any file system's times.
const GRAIN_NS: i128 = 2_000_000_000;

/// What a file is like before it is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    line: String,
    changed_ns: i128,
}

impl State {
    pub fn of(data: &File) -> Result<Self> {
        let meta = data.metadata().map_err(Error::io("cached data"))?;
        Ok(Self { line: numbers(&meta), changed_ns: ns(meta.ctime(), meta.ctime_nsec()) })
    }

    /// Whether data in this state was found to have `expected`.
    pub fn is_known(&self, dir: &Path, expected: &Expected) -> bool {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let Ok(file) = File::options().read(true).custom_flags(flags).open(dir.join(VERIFIED)) else { return false };
        let mut known = String::new();
        file.take(LONGEST).read_to_string(&mut known).is_ok() && known == self.with(expected)
    }

    /// Keeps that `data`, which was in this state before it was hashed, has `expected`.
    pub fn remember(&self, dir: &Path, data: &File, expected: &Expected) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        if self.changed_ns + GRAIN_NS > now || Self::of(data)? != *self {
            return Ok(());
        }
        write(dir, VERIFIED, &self.with(expected))
    }

    fn with(&self, expected: &Expected) -> String {
        format!("{} {expected}\n", self.line)
    }
}

fn numbers(meta: &Metadata) -> String {
    let [mtime, ctime] = [ns(meta.mtime(), meta.mtime_nsec()), ns(meta.ctime(), meta.ctime_nsec())];
    format!("1 {} {} {} {mtime} {ctime}", meta.dev(), meta.ino(), meta.len())
}

fn ns(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn expected(text: &str) -> Expected {
        Expected::parse(text).unwrap()
    }

    /// As if it had been changed long ago.
    fn long_ago(state: &State) -> State {
        State { changed_ns: state.changed_ns - 2 * GRAIN_NS, ..state.clone() }
    }

    /// `remember` for data that is older than it is.
    fn remember(state: &State, dir: &Path, digest: &str) {
        write(dir, VERIFIED, &state.with(&expected(digest))).unwrap();
    }

    #[test]
    fn what_was_changed_just_now_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "test").unwrap();
        let data = File::open(&path).unwrap();
        let state = State::of(&data).unwrap();
        state.remember(dir.path(), &data, &expected(DIGEST)).unwrap();
        assert!(!state.is_known(dir.path(), &expected(DIGEST)));
        // Nor what is another file by now.
        long_ago(&state).remember(dir.path(), &data, &expected(DIGEST)).unwrap();
        assert!(!dir.path().join(VERIFIED).exists());
    }

    #[test]
    fn any_difference_makes_it_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "test").unwrap();
        let state = |path: &Path| State::of(&File::open(path).unwrap()).unwrap();
        let first = state(&path);
        assert!(!first.is_known(dir.path(), &expected(DIGEST)));
        remember(&first, dir.path(), DIGEST);
        assert!(state(&path).is_known(dir.path(), &expected(DIGEST)));
        assert!(!first.is_known(dir.path(), &expected(&format!("sha256:{}", "0".repeat(64)))));
        // The same bytes, the same size and the old mtime put back: only the ctime tells.
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(b"tEst").unwrap();
        file.set_modified(mtime).unwrap();
        assert!(!state(&path).is_known(dir.path(), &expected(DIGEST)));
        // A copy is another file.
        remember(&state(&path), dir.path(), DIGEST);
        fs::copy(&path, dir.path().join("copy")).unwrap();
        fs::rename(dir.path().join("copy"), &path).unwrap();
        assert!(!state(&path).is_known(dir.path(), &expected(DIGEST)));
    }

    #[test]
    fn odd_files_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "test").unwrap();
        let state = State::of(&File::open(&path).unwrap()).unwrap();
        remember(&state, dir.path(), DIGEST);
        fs::rename(dir.path().join(VERIFIED), dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join(VERIFIED)).unwrap();
        assert!(!state.is_known(dir.path(), &expected(DIGEST)));
    }
}
