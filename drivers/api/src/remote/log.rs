//! What a driver's program says, kept in a file of bounded length, however much it is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::status::sentence;

/// A longer file loses its beginning.
pub(super) const LOG_MAX: u64 = 4 << 20;
/// What it keeps then.
const KEPT: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;
const TAIL: usize = 4096;

/// The last that a program said.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn push(&self, text: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&text[text.len().saturating_sub(TAIL)..]);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
    }

    pub(super) fn last_line(&self) -> Option<String> {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail);
        text.lines().rev().map(sentence).find(|line| !line.is_empty())
    }
}

/// Copies until the program has closed its end. What cannot be written is passed over: the program must not wait.
pub(super) async fn copy(mut from: impl AsyncRead + Unpin, to: PathBuf, tail: Tail) {
    let mut log = Log::open(&to).inspect_err(|error| tracing::warn!("{}: {error}", to.display())).ok();
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        tail.push(&chunk[..count]);
        if let Some(Err(error)) = log.as_mut().map(|log| log.append(&chunk[..count])) {
            tracing::warn!("{}: {error}", to.display());
            log = None;
        }
    }
}

struct Log {
    file: File,
    length: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = fs::File::options();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if self.length + text.len() as u64 > LOG_MAX {
            self.shorten()?;
        }
        self.file.write_all(text)?;
        self.length += text.len() as u64;
        Ok(())
    }

    /// The file stays the same one, for those who follow it.
    fn shorten(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
        let mut kept = Vec::new();
        (&self.file).take(KEPT).read_to_end(&mut kept)?;
        self.file.set_len(0)?;
        self.file.write_all(&kept)?;
        self.length = kept.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn h10_a_flood_leaves_a_short_file_with_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut flood = vec![b'x'; 20 << 20];
        flood.extend_from_slice(b"\nthe last words\n\n");
        let tail = Tail::default();
        copy(&flood[..], path.clone(), tail.clone()).await;
        assert_eq!(tail.last_line().as_deref(), Some("the last words"));
        let text = fs::read(&path).unwrap();
        assert!(text.len() as u64 <= LOG_MAX && text.len() as u64 >= KEPT, "{}", text.len());
        assert!(text.ends_with(b"the last words\n\n"));
    }
}
