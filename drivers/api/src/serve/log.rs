//! What the server says of itself: to its standard error, which is its host's to keep. When that host has gone, to the
//! same file, as long as it is small.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use tracing::Level;

use crate::wire::names;

/// Without a host that looks after it, the file does not grow beyond this.
const LOG_MAX: u64 = 4 << 20;

/// Sends what is traced to standard error; to the log in the instance directory when nobody reads that any more.
pub(super) fn start(instance_dir: Option<PathBuf>) {
    let make = move || Log { file: instance_dir.as_deref().map(names::log) };
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::INFO).with_ansi(false).with_writer(make);
    // Fails where the program has set up a log of its own; then that is what it wants.
    let _ = subscriber.try_init();
}

struct Log {
    file: Option<PathBuf>,
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match (io::stderr().write(text), &self.file) {
            (Err(error), Some(path)) if error.kind() == io::ErrorKind::BrokenPipe => {
                let mut file = File::options().append(true).open(path)?;
                if file.metadata()?.len() < LOG_MAX { file.write(text) } else { Ok(text.len()) }
            }
            (written, _) => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
