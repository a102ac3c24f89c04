//! Starting a hostagent: detached, with an environment that is known, and reaped when it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::names::{self, Home, Name};
use crate::status::{Refusal, RestOrder};
use crate::{drivers, host, store};

/// Within this a hostagent listens.
const LISTENS: Duration = Duration::from_secs(8);
/// So long a caller waits for the removal of a machine, which goes on all the same.
const REMOVES: Duration = Duration::from_secs(9);
const EVERY: Duration = Duration::from_millis(20);
/// So much of its log goes into an error.
const TAIL_LINES: usize = 5;
const TAIL_BYTES: u64 = 4096;

/// Variables that a hostagent is given, whole names and beginnings.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSH",
];
const ENVIRONMENT_PREFIXES: &[&str] = &["LC_", "XDG_", "LIMA", "QEMU_SYSTEM_", "SSH_", "SSL_CERT_"];

/// Starts a hostagent for an instance and comes back when it listens. One that has done all it had to before that, with
/// nothing to adopt or a boot that failed at once, is no error: the record says what became of it.
pub async fn spawn(home: &Home, name: &Name, adopt: bool) -> Result<u32> {
    let program = program()?;
    // As we were called ourselves: it looks for drivers beside that.
    let called = host::called().map_or_else(|| program.clone(), Path::to_owned);
    let mut command = Command::new(program);
    command.arg0(called).args(["hostagent", name.as_str()]);
    if adopt {
        command.arg("--adopt");
    }
    let dir = home.instance(name)?;
    command.env_clear().envs(environment()).env("LIMA_HOME", home.path());
    launch(command, name, &dir, adopt).await
}

/// Has one thing done for an instance that has no hostagent. Goes on to its end when nobody waits for it.
pub async fn at_rest(home: &Home, name: &Name, order: &RestOrder) -> Result<()> {
    let order = serde_json::to_string(order).map_err(|error| Error::failed("an order", error))?;
    let stderr = home.instance(name)?.join(names::HA_STDERR_LOG);
    let mut command = Command::new(program()?);
    command.args(["hostagent", name.as_str(), "--at-rest", &order]);
    command.env_clear().envs(environment()).env("LIMA_HOME", home.path()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log(&stderr, false)?);
    close_on_exec();
    let child = command.spawn().map_err(|error| Error::failed("starting a hostagent", error))?;
    let output = child.wait_with_output().await.map_err(|error| Error::failed("waiting for a hostagent", error))?;
    if output.status.success() {
        return Ok(());
    }
    match serde_json::from_slice::<Refusal>(&output.stdout) {
        Ok(Refusal { message, errno }) => Err(Error::Refused { message, errno }),
        Err(_) => Err(Error::failed(format!("the hostagent of {name}"), ended(output.status, &stderr))),
    }
}

/// limafs: this program, or the one beside it where this one is a plugin.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| Error::failed("the path of limafs", error))?;
    let own = without_end(own);
    let is_plugin = own.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"docker-machine-driver-"));
    Ok(if is_plugin { own.with_file_name("limafs") } else { own })
}

/// The path of a program that was replaced while it runs, as an upgrade does: the kernel marks it.
fn without_end(path: PathBuf) -> PathBuf {
    let before = path.to_str().filter(|_| !path.exists()).and_then(|text| text.strip_suffix(" (deleted)"));
    before.map(PathBuf::from).unwrap_or(path)
}

/// Has the driver of an instance at rest remove what it keeps outside the instance directory. The caller holds the lock.
/// Does nothing where all of it is in the directory.
pub async fn remove_elsewhere(home: &Home, name: &Name) -> Result<()> {
    let dir = home.instance(name)?;
    let driver = store::record(&dir).map(|record| record.driver).filter(|driver| !driver.is_empty());
    // A machine that was begun has no record yet.
    if driver.is_none_or(|driver| drivers::is_local(&driver)) && !dir.join(names::MACHINE_DIR).exists() {
        return Ok(());
    }
    let what = || format!("removing the machine of {name}");
    let mut command = Command::new(program()?);
    command.args(["hostagent", name.as_str(), "--remove"]).current_dir("/");
    command.env_clear().envs(environment()).env("LIMA_HOME", home.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    close_on_exec();
    let late = |_| Error::Timeout { what: what(), seconds: REMOVES.as_secs() };
    let output = timeout(REMOVES, command.output()).await.map_err(late)?;
    let output = output.map_err(|error| Error::failed(what(), error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::failed(what(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

pub(super) async fn launch(mut command: Command, name: &Name, dir: &Path, adopt: bool) -> Result<u32> {
    let stderr = dir.join(names::HA_STDERR_LOG);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log(&dir.join(names::HA_STDOUT_LOG), !adopt)?)
        .stderr(log(&stderr, !adopt)?);
    close_on_exec();
    let mut child = command.spawn().map_err(|error| Error::failed("starting a hostagent", error))?;
    let pid = child.id().unwrap_or_default();
    let listening = timeout(LISTENS, wait_until_it_listens(&mut child, dir, pid)).await;
    let result = match listening {
        Ok(Ok(None)) => Ok(pid),
        Ok(Ok(Some(status))) if status.success() => Ok(pid),
        Ok(Ok(Some(status))) => Err(Error::failed(format!("the hostagent of {name}"), ended(status, &stderr))),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            Err(Error::Timeout { what: format!("the start of the hostagent of {name}"), seconds: LISTENS.as_secs() })
        }
    };
    // Detached for good reason: it only reaps, for as long as the hostagent lives.
    tokio::spawn(async move { child.wait().await });
    result
}

/// `None` when it listens, else how it ended.
async fn wait_until_it_listens(child: &mut Child, dir: &Path, pid: u32) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait().map_err(|error| Error::failed("waiting for a hostagent", error))? {
            return Ok(Some(status));
        }
        // Another one may still be about to leave: the socket must be this one's.
        let owner = fs::read_to_string(dir.join(names::HA_PID)).unwrap_or_default();
        if owner.trim().parse() == Ok(pid) && UnixStream::connect(dir.join(names::HA_SOCK)).await.is_ok() {
            return Ok(None);
        }
        sleep(EVERY).await;
    }
}

fn environment() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed_on))
}

fn is_passed_on(name: &str) -> bool {
    ENVIRONMENT.contains(&name) || ENVIRONMENT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A log that is appended to, so that it can be cut while it is written.
fn log(path: &Path, is_new: bool) -> Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(Error::io(path))?;
    if is_new {
        file.set_len(0).map_err(Error::io(path))?;
    }
    Ok(file)
}

/// A hostagent outlives the mount. It must inherit nothing, least of all /dev/fuse, which would keep a dead mount up.
pub fn close_on_exec() {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing and touches no memory; it marks descriptors so that
    // they do not pass through exec, and none of ours is meant to. Kernels before 5.11 refuse it, which is harmless.
    unsafe {
        libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
    }
}

/// How a hostagent ended, in its own last words.
fn ended(status: ExitStatus, log: &Path) -> String {
    let words = tail(log).unwrap_or_default();
    if words.is_empty() { format!("it ended with {status}") } else { format!("it ended with {status}: {words}") }
}

/// The end of a hostagent's log; empty when there is none.
pub fn last_words(dir: &Path) -> String {
    tail(&dir.join(names::HA_STDERR_LOG)).unwrap_or_default()
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_found_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, odd) = (dir.path().join("limafs"), dir.path().join("odd (deleted)"));
        std::fs::write(&odd, "").unwrap();
        assert_eq!(without_end(dir.path().join("limafs (deleted)")), plain);
        assert_eq!(without_end(plain.clone()), plain);
        assert_eq!(without_end(odd.clone()), odd);
    }
}
