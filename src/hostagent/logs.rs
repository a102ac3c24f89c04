//! Logs: the hostagent's own, for people, and the limits of the files that grow. A file that another process appends
//! to is copied and cut, never renamed.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::names;

/// File, limit in bytes.
const LIMITS: &[(&str, u64)] = &[(names::SERIAL_LOG, 16 << 20), (names::HA_STDERR_LOG, 4 << 20)];
const EVERY: Duration = Duration::from_secs(2);

/// Sends the log to stderr, which is `ha.stderr.log`.
pub fn init() {
    let log = tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(io::stderr);
    // Already set in a process that has its own log.
    let _ = log.with_max_level(tracing::Level::INFO).try_init();
}

/// Keeps the logs of an instance within their limits, for ever.
pub async fn keep_within_limits(dir: PathBuf) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        for (file, limit) in LIMITS {
            let path = dir.join(file);
            if let Err(error) = cap(&path, *limit) {
                tracing::warn!("{}: {error}", path.display());
            }
        }
    }
}

/// Moves what a log beyond its limit holds to `NAME.1`. Its writer must append (O_APPEND).
fn cap(path: &Path, limit: u64) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() > limit => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut from = OpenOptions::new().read(true).write(true).open(path)?;
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).open(&old)?;
    // Only what is written between the end of the copy and the cut is lost.
    io::copy(&mut from, &mut to)?;
    from.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_log_is_cut_while_its_writer_goes_on() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("serial.log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        writer.write_all(b"0123456789").unwrap();
        cap(&path, 5).unwrap();
        writer.write_all(b"ab").unwrap();
        cap(&path, 5).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ab");
        assert_eq!(fs::read(temp.path().join("serial.log.1")).unwrap(), b"0123456789");
    }

    #[test]
    fn a_log_that_is_not_there_is_no_error() {
        let temp = tempfile::tempdir().unwrap();
        cap(&temp.path().join("serial.log"), 5).unwrap();
    }
}
