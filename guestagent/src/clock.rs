//! The guest's clock, and times of files.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timestamps, utimensat};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::proto::{Inotify, TimeSyncResponse};

/// A clock that is no further off is left alone.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Sets the clock to the host's time if `now` differs too much from it. `set` is given what to set.
pub fn sync(now: SystemTime, host: SystemTime, set: impl FnOnce(SystemTime) -> io::Result<()>) -> TimeSyncResponse {
    let (off, sign) = now.duration_since(host).map_or_else(|behind| (behind.duration(), -1), |ahead| (ahead, 1));
    let drift_ms = i64::try_from(off.as_millis()).unwrap_or(i64::MAX) * sign;
    let mut response = TimeSyncResponse { adjusted: false, drift_ms, error: String::new() };
    if off > TOLERANCE {
        match set(host) {
            Ok(()) => response.adjusted = true,
            Err(error) => response.error = error.to_string(),
        }
    }
    response
}

pub fn set(time: SystemTime) -> io::Result<()> {
    Ok(clock_settime(ClockId::Realtime, timespec(time)?)?)
}

/// Gives a file that changed on the host its time there, which is what tells those in the guest who watch it.
/// What is not there is left alone.
pub fn touch(change: &Inotify) -> io::Result<()> {
    let time = change.time.and_then(|time| SystemTime::try_from(time).ok());
    let time = timespec(time.ok_or_else(|| io::Error::other("has no time"))?)?;
    let path = Path::new(&change.mount_path);
    if !path.is_absolute() {
        return Err(io::Error::other("is no absolute path"));
    }
    match utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

fn timespec(time: SystemTime) -> io::Result<Timespec> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    let seconds = i64::try_from(since.as_secs()).map_err(io::Error::other)?;
    Ok(Timespec { tv_sec: seconds, tv_nsec: since.subsec_nanos().into() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_clock_is_set_only_when_it_is_more_than_100_ms_off() {
        let host = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (drift, is_set) in [(0, false), (100, false), (101, true), (-100, false), (-101, true), (-3_600_000, true)]
        {
            let off = Duration::from_millis(i64::unsigned_abs(drift));
            let now = if drift < 0 { host - off } else { host + off };
            let mut time = None;
            let response = sync(now, host, |to| {
                time = Some(to);
                Ok(())
            });
            assert_eq!((response.adjusted, response.drift_ms), (is_set, drift));
            assert_eq!(time, is_set.then_some(host));
        }
        let refused = sync(host, host + TOLERANCE * 2, |_| Err(io::Error::from_raw_os_error(libc::EPERM)));
        assert!(!refused.adjusted && refused.error.contains("not permitted"), "{refused:?}");
    }

    #[test]
    fn a_changed_file_gets_both_times_and_an_absent_one_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 5);
        let mut change = Inotify { mount_path: path.display().to_string(), time: Some(time.into()) };
        touch(&change).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.accessed().unwrap(), found.modified().unwrap()), (time, time));
        change.mount_path += "-absent";
        touch(&change).unwrap();
        assert!(!Path::new(&change.mount_path).exists());
        for broken in ["", "file"] {
            touch(&Inotify { mount_path: broken.into(), ..change.clone() }).unwrap_err();
        }
        touch(&Inotify { time: None, ..change }).unwrap_err();
    }
}
