//! Jobs in a guest as they lie on the host, in `limafs.jobs/` of an instance: the mount makes, commands and removes them,
//! the hostagent fills in what came of them, and both find all of it again after they were killed.
//!
//! ```text
//!  limafs.jobs/NAME/ id       names the job in the guest; there from the first on
//!                    cmd      the command line; once it is there the job is to run
//!                    signals  numbers of signals that are still to be sent, a line each
//!                    pid      of the job, in the guest, once it runs
//!                    stdout, stderr    what was fetched so far; *.base once they were cut
//!                    exit     how it ended
//!               .gone-ID/     a job that was removed and is still to be ended in the guest
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::names::{JOBS_DIR, Name};
use crate::store;

pub const ID: &str = "id";
pub const CMD: &str = "cmd";
pub const SIGNALS: &str = "signals";
pub const PID: &str = "pid";
pub const STDOUT: &str = "stdout";
pub const STDERR: &str = "stderr";
pub const EXIT: &str = "exit";

/// So many jobs an instance may have.
pub const JOBS_MAX: usize = 1000;
/// Bytes of a command line.
pub const CMD_MAX: usize = 64 << 10;
/// Bytes of a stream that are kept in any case.
const STREAM_MAX: u64 = 16 << 20;
/// In front of the id of a job that was removed.
const GONE: &str = ".gone-";

pub fn dir(instance: &Path) -> PathBuf {
    instance.join(JOBS_DIR)
}

/// The names of the jobs there are.
pub fn list(instance: &Path) -> Result<Vec<Name>> {
    Ok(entries(instance)?.into_iter().filter_map(|name| Name::parse(&name).ok()).collect())
}

/// Ids of jobs that were removed and may still run.
pub fn gone(instance: &Path) -> Result<Vec<String>> {
    let ids = entries(instance)?.into_iter().filter_map(|name| name.strip_prefix(GONE).map(str::to_owned));
    Ok(ids.filter(|id| is_id(id)).collect())
}

fn entries(instance: &Path) -> Result<Vec<String>> {
    let dir = dir(instance);
    match fs::read_dir(&dir) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(dir)(error)),
    }
}

/// Makes a job without a command.
pub fn create(instance: &Path, name: &Name) -> Result<()> {
    let dir = dir(instance);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    if list(instance)?.len() >= JOBS_MAX {
        return Err(Error::Full { what: "jobs".into(), why: format!("there are {JOBS_MAX}; rmdir some") });
    }
    let path = dir.join(name.as_str());
    DirBuilder::new().mode(0o700).create(&path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { what: name.to_string() },
        _ => Error::io(&path)(source),
    })?;
    store::replace(&path.join(ID), new_id().as_bytes(), 0o600)
}

/// EBUSY where a job has its command.
pub fn takes_command(instance: &Path, name: &Name) -> Result<()> {
    if dir(instance).join(name.as_str()).join(CMD).exists() {
        return Err(Error::busy(name.to_string(), "has its command; make another job for another one"));
    }
    Ok(())
}

/// Has it run. A job has one command in its life.
pub fn set_command(instance: &Path, name: &Name, line: &[u8]) -> Result<()> {
    if line.len() > CMD_MAX {
        return Err(Error::TooBig { what: CMD.into(), limit: CMD_MAX });
    }
    if line.contains(&0) || line.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid(CMD, "takes a command line"));
    }
    // It is put into a script: one that was changed on the way would be another command.
    if std::str::from_utf8(line).is_err() {
        return Err(Error::invalid(CMD, "is not UTF-8; printf in the guest makes other bytes"));
    }
    takes_command(instance, name)?;
    store::replace(&dir(instance).join(name.as_str()).join(CMD), line, 0o600)
}

/// Has a signal sent to it.
pub fn add_signal(instance: &Path, name: &Name, signal: u8) -> Result<()> {
    let path = dir(instance).join(name.as_str());
    if !path.join(CMD).exists() || path.join(EXIT).exists() {
        return Err(Error::busy(name.to_string(), "does not run"));
    }
    let path = path.join(SIGNALS);
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(Error::io(&path))?;
    file.write_all(format!("{signal}\n").as_bytes()).map_err(Error::io(&path))
}

/// The signals that are to be sent; whoever asks has to send them.
pub fn take_signals(instance: &Path, name: &Name) -> Vec<u8> {
    let path = dir(instance).join(name.as_str());
    let taken = path.join("signals.taken");
    // There are none, most of the time.
    if fs::rename(path.join(SIGNALS), &taken).is_err() {
        return Vec::new();
    }
    let text = fs::read_to_string(&taken).unwrap_or_default();
    let _ = fs::remove_file(&taken);
    text.lines().filter_map(|line| line.parse().ok()).filter(|signal| (1..=64).contains(signal)).take(64).collect()
}

/// Takes a job away; what runs of it in the guest is ended by the hostagent.
pub fn remove(instance: &Path, name: &Name) -> Result<()> {
    let dir = dir(instance);
    let path = dir.join(name.as_str());
    let aside = dir.join(format!("{GONE}{}", id(instance, name)?));
    fs::rename(&path, &aside).map_err(Error::io(&path))?;
    match fs::read_dir(&aside) {
        Ok(files) => files.flatten().try_for_each(|file| fs::remove_file(file.path())).map_err(Error::io(&aside)),
        Err(error) => Err(Error::io(&aside)(error)),
    }
}

/// Nothing of a removed job runs any more.
pub fn forget(instance: &Path, id: &str) -> Result<()> {
    let path = dir(instance).join(format!("{GONE}{id}"));
    fs::remove_dir_all(&path).map_err(Error::io(&path))
}

/// What a job is called in the guest.
pub fn id(instance: &Path, name: &Name) -> Result<String> {
    let text = small(instance, name, ID)?.unwrap_or_default();
    if is_id(&text) { Ok(text) } else { Err(Error::failed(name.to_string(), "its id is not there")) }
}

/// A small file of a job.
pub fn small(instance: &Path, name: &Name, file: &str) -> Result<Option<String>> {
    let bytes = store::read_small(&dir(instance).join(name.as_str()).join(file))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

/// Writes a small file of a job that is still there.
pub fn note(instance: &Path, name: &Name, file: &str, text: &str) -> Result<()> {
    store::replace(&dir(instance).join(name.as_str()).join(file), format!("{text}\n").as_bytes(), 0o600)
}

/// How much of a stream was fetched.
pub fn fetched(instance: &Path, name: &Name, stream: &str) -> u64 {
    let path = dir(instance).join(name.as_str()).join(stream);
    base(&path) + fs::metadata(&path).map_or(0, |meta| meta.len())
}

/// Adds to a stream. One that has grown to twice what is kept loses its older half; how much has gone is in `*.base`.
pub fn append(instance: &Path, name: &Name, stream: &str, bytes: &[u8]) -> Result<()> {
    let path = dir(instance).join(name.as_str()).join(stream);
    let length = fs::metadata(&path).map_or(0, |meta| meta.len());
    if length >= 2 * STREAM_MAX {
        let mut kept = vec![0; STREAM_MAX as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut kept, length - STREAM_MAX))
            .map_err(Error::io(&path))?;
        let gone = base(&path) + length - STREAM_MAX;
        store::replace(&path, &kept, 0o600)?;
        store::replace(&with_suffix(&path, ".base"), gone.to_string().as_bytes(), 0o600)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(Error::io(&path))?;
    file.write_all(bytes).map_err(Error::io(&path))
}

fn base(path: &Path) -> u64 {
    let text = fs::read_to_string(with_suffix(path, ".base")).unwrap_or_default();
    text.parse().unwrap_or(0)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Not used twice: a job of the same name may still be ending in the guest.
fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}

/// Ids become file names in the guest's shell.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The number of a signal: `TERM`, `SIGTERM`, `15`.
pub fn signal(word: &str) -> Option<u8> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = word.strip_prefix("SIG").unwrap_or(word);
    let by_name = NAMES.iter().position(|known| *known == name).map(|index| index as u8 + 1);
    by_name.or_else(|| word.parse().ok().filter(|number| (1..=64).contains(number)))
}

/// What `exit` shows for a shell's exit code: above 128 it tells of a signal.
pub fn ended(code: u32) -> String {
    match code {
        129..=192 => format!("signal {}", code - 128),
        code => code.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_job_has_one_command_and_takes_signals_while_it_runs() {
        let temp = tempfile::tempdir().unwrap();
        let (at, b) = (temp.path(), name("b"));
        assert!(list(at).unwrap().is_empty());
        create(at, &b).unwrap();
        assert_eq!(create(at, &b).unwrap_err().errno(), libc::EEXIST);
        assert_eq!(add_signal(at, &b, 15).unwrap_err().errno(), libc::EBUSY);
        for bad in [b"".as_slice(), b" \n", b"a\0b", b"echo \xff"] {
            assert_eq!(set_command(at, &b, bad).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
        }
        assert_eq!(set_command(at, &b, &[b'x'; CMD_MAX + 1]).unwrap_err().errno(), libc::EFBIG);
        set_command(at, &b, b"true\n").unwrap();
        assert_eq!(set_command(at, &b, b"true\n").unwrap_err().errno(), libc::EBUSY);
        add_signal(at, &b, 15).unwrap();
        add_signal(at, &b, 9).unwrap();
        assert_eq!(take_signals(at, &b), [15, 9]);
        assert!(take_signals(at, &b).is_empty());
        note(at, &b, EXIT, "0").unwrap();
        assert_eq!(add_signal(at, &b, 9).unwrap_err().errno(), libc::EBUSY);
        let was = id(at, &b).unwrap();
        remove(at, &b).unwrap();
        assert!(list(at).unwrap().is_empty());
        assert_eq!(gone(at).unwrap(), std::slice::from_ref(&was));
        create(at, &b).unwrap();
        assert_ne!(id(at, &b).unwrap(), was);
        forget(at, &was).unwrap();
        assert!(gone(at).unwrap().is_empty());
    }

    #[test]
    fn of_a_long_stream_the_latest_16_mib_are_kept_and_their_place_is_remembered() {
        let temp = tempfile::tempdir().unwrap();
        let (at, b) = (temp.path(), name("b"));
        create(at, &b).unwrap();
        let half = vec![b'x'; STREAM_MAX as usize];
        append(at, &b, STDOUT, &half).unwrap();
        append(at, &b, STDOUT, &half).unwrap();
        let path = dir(at).join("b").join(STDOUT);
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * STREAM_MAX);
        append(at, &b, STDOUT, b"more").unwrap();
        let kept = fs::read(&path).unwrap();
        assert!(kept.len() as u64 == STREAM_MAX + 4 && kept.ends_with(b"xmore"));
        assert_eq!(fetched(at, &b, STDOUT), 2 * STREAM_MAX + 4);
    }

    #[test]
    fn there_is_an_end_to_jobs() {
        let temp = tempfile::tempdir().unwrap();
        for n in 0..JOBS_MAX {
            fs::create_dir_all(dir(temp.path()).join(n.to_string())).unwrap();
        }
        assert_eq!(create(temp.path(), &name("more")).unwrap_err().errno(), libc::ENOSPC);
    }

    #[test]
    fn signals_and_ends_are_said_as_shells_say_them() {
        assert_eq!(
            [signal("TERM"), signal("SIGKILL"), signal("15"), signal("HUP")],
            [Some(15), Some(9), Some(15), Some(1)]
        );
        for bad in ["", "0", "65", "term", "SIG", "-9", "9; rm"] {
            assert_eq!(signal(bad), None, "{bad}");
        }
        assert_eq!([ended(0), ended(3), ended(137), ended(255)], ["0", "3", "signal 9", "255"]);
    }

    #[test]
    fn ids_are_nothing_that_a_shell_could_take_for_more() {
        assert!(is_id(&new_id()));
        for bad in ["", "..", "a b", "x/y", "$(id)", "a;b"] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
