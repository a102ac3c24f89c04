//! Mount and unmount: the daemon's lock, dead mounts, mountpoints, and how a mount ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{MountOption, Session, SessionACL};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::shell::Shell;
use super::threads::{front, start_threads};
use crate::drivers::Source;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::{Home, MOUNT_LOCK};
use crate::store;
use crate::view::View;

/// Shown by a mountpoint that nothing is mounted on, so that it never looks like an empty fleet.
pub const NOT_MOUNTED: &str = "LIMAFS-IS-NOT-MOUNTED";
/// How long the kernel may take to notice that the daemon of a mount was killed.
const DYING: Duration = Duration::from_secs(2);
/// How long a process that was killed may look alive.
const DOUBT: Duration = Duration::from_millis(300);
/// How long an unmount waits for the daemon to leave.
const LEAVING: Duration = Duration::from_secs(5);

/// How long what is given up at the end may take to go.
const LETTING_GO: Duration = Duration::from_millis(500);

/// The one daemon of a home: a held lock, in a file that names the holder.
pub struct DaemonLock {
    file: File,
}

impl DaemonLock {
    pub fn take(home: &Home, mountpoint: &Path) -> Result<Self> {
        store::prepare(home)?;
        let path = home.ours(MOUNT_LOCK);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = file.map_err(Error::io(&path))?;
        let begun = Instant::now();
        while let Err(error) = file.try_lock() {
            if let fs::TryLockError::Error(source) = error {
                return Err(Error::Io { path, source });
            }
            let holder = Holder::read(home);
            // A daemon that was just killed holds it until the kernel has taken it apart, and looks alive at first.
            let patience = if holder.as_ref().is_some_and(Holder::is_alive) { DOUBT } else { LEAVING };
            if begun.elapsed() > patience {
                let who = holder.map_or_else(|| "another process".into(), |holder| holder.to_string());
                return Err(Error::busy(home.path().display().to_string(), format!("is mounted already, by {who}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = format!("{} {}\n", std::process::id(), mountpoint.display());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(Error::io(&path))?;
        Ok(Self { file })
    }
}

impl Drop for DaemonLock {
    fn drop(&mut self) {
        // The name of a holder that is gone would only mislead.
        let _ = self.file.set_len(0);
    }
}

/// Who holds the lock, by its own words.
pub struct Holder {
    pub pid: i32,
    pub mountpoint: PathBuf,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "pid {} at {}", self.pid, self.mountpoint.display())
    }
}

impl Holder {
    fn is_alive(&self) -> bool {
        // Of proc(5): the state follows the name in parentheses. A killed process is a zombie until it is reaped, and
        // before that its main thread is one while others still end.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// `None` when nobody holds it.
    pub fn read(home: &Home) -> Option<Self> {
        let mut file = File::open(home.ours(MOUNT_LOCK)).ok()?;
        if file.try_lock_shared().is_ok() {
            return None;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let (pid, mountpoint) = text.trim_end_matches('\n').split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, mountpoint: mountpoint.into() })
    }
}

/// Makes a mountpoint ready: detaches a dead mount, makes the directory, refuses one that holds something else.
pub fn prepare_mountpoint(mountpoint: &Path) -> Result<()> {
    // The caller holds the daemon's lock: a mount of ours that is still there is one that is about to be dead.
    let deadline = Instant::now() + DYING;
    while is_ours(mountpoint) && !is_dead(mountpoint) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    if is_dead(mountpoint) {
        tracing::info!("{}: detaching a dead mount", mountpoint.display());
        detach(mountpoint)?;
    }
    if is_mounted(mountpoint) {
        return Err(Error::busy(mountpoint.display().to_string(), "is a mountpoint already"));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(mountpoint).map_err(Error::io(mountpoint))?;
    let other = fs::read_dir(mountpoint)
        .map_err(Error::io(mountpoint))?
        .filter_map(|entry| entry.ok())
        .find(|entry| entry.file_name() != NOT_MOUNTED);
    if let Some(entry) = other {
        let why = format!("is not empty: mounting would hide {}", entry.file_name().to_string_lossy());
        return Err(Error::busy(mountpoint.display().to_string(), why));
    }
    let marker = mountpoint.join(NOT_MOUNTED);
    fs::write(&marker, "Nothing is mounted here. `limafs mount` shows the instances.\n").map_err(Error::io(&marker))
}

/// A mount whose daemon was killed answers everything with ENOTCONN, but what the kernel still has in its caches:
/// hence statfs, of which it keeps nothing.
fn is_dead(mountpoint: &Path) -> bool {
    rustix::fs::statfs(mountpoint).is_err_and(|errno| errno == rustix::io::Errno::NOTCONN)
}

fn is_mounted(mountpoint: &Path) -> bool {
    mounted_line(mountpoint).is_some()
}

/// Whether a limafs is mounted there, alive or not.
fn is_ours(mountpoint: &Path) -> bool {
    // Of proc(5): `... - TYPE SOURCE OPTIONS`.
    mounted_line(mountpoint).is_some_and(|line| line.contains(" - fuse") && line.contains(" limafs "))
}

fn mounted_line(mountpoint: &Path) -> Option<String> {
    let wanted = fs::canonicalize(mountpoint).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_there = |line: &&str| {
        line.split(' ').nth(4).is_some_and(|path| unescape(path) == wanted.as_os_str().as_encoded_bytes())
    };
    table.lines().find(is_there).map(str::to_owned)
}

/// Of proc(5): space, tab, newline and backslash are three octal digits.
fn unescape(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value =
            octal.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| u8::from_str_radix(text, 8).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

/// Detaches whatever is mounted at a path, busy or not.
pub fn detach(mountpoint: &Path) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    match unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        // Ordinary users unmount through the setuid helper.
        Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(Error::Io { path: mountpoint.to_owned(), source: errno.into() }),
    }
    let done = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mountpoint).stdin(Stdio::null()).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::failed("fusermount3", String::from_utf8_lossy(&output.stderr).trim())),
        Err(source) => Err(Error::Io { path: "fusermount3".into(), source }),
    }
}

/// Serves the home at the mountpoint until a signal or an unmount ends it. `ready` is called once the tree is usable.
pub fn serve(
    home: Home,
    mountpoint: &Path,
    shared: bool,
    drivers: Arc<dyn Source>,
    ready: impl FnOnce(),
) -> Result<()> {
    let lock = DaemonLock::take(&home, mountpoint)?;
    prepare_mountpoint(mountpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::io("runtime"))?;
    let host = Host { drivers: drivers.names(), ..Host::detect()? };
    let view = View::new(home, host, shared);
    view.know_drivers(drivers);
    let ended = runtime.block_on(async {
        // Before anybody can see that the tree is there: who sends a signal then means an unmount.
        let signals = Signals::new()?;
        view.start()?;
        let (send_ended, ended) = tokio::sync::oneshot::channel();
        let session = mount(&view, mountpoint, shared, send_ended)?;
        start_threads(&view, session.notifier(), mountpoint).map_err(Error::io("threads"))?;
        ready();
        Ok::<_, Error>(until_the_end(ended, signals).await)
    })?;
    view.dismiss_waits();
    if !ended {
        detach(mountpoint)?;
    }
    drop(lock);
    // What is being done goes with it, as trials of drivers; what cannot be given up is not waited for.
    runtime.shutdown_timeout(LETTING_GO);
    // Files that are still open must not keep the daemon: their users get ENOTCONN, as after any unmount.
    std::process::exit(0);
}

/// fuser's own unmounting gives up on a busy tree, and may take down what others mounted since: it is never let.
fn mount(
    view: &View,
    mountpoint: &Path,
    shared: bool,
    ended: tokio::sync::oneshot::Sender<()>,
) -> Result<ManuallyDrop<fuser::BackgroundSession>> {
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName("limafs".into()),
        MountOption::Subtype("limafs".into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    config.acl = SessionACL::Owner;
    if shared {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    let shell = Shell::new(tokio::runtime::Handle::current());
    let fail = |source: io::Error| Error::failed(format!("mount at {}", mountpoint.display()), told(&source));
    let session = Session::new(front(view.clone(), shell, ended), mountpoint, &config).map_err(fail)?;
    Ok(ManuallyDrop::new(session.spawn().map_err(fail)?))
}

/// Why it cannot be mounted, and where to look.
fn told(source: &io::Error) -> String {
    // fusermount3's words are lines; of this option they say all.
    let words = source.to_string().trim().to_owned();
    let hint = match source.kind() {
        _ if words.contains("user_allow_other") => "",
        io::ErrorKind::NotFound => " (is fuse3 installed, and /dev/fuse there?)",
        // fusermount3 opens it as the user, too.
        io::ErrorKind::PermissionDenied => " (may you read and write /dev/fuse?)",
        _ => "",
    };
    words + hint
}

/// The signals that ask the daemon to leave.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).map_err(Error::io("signals"));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

/// Waits for a signal to leave or for somebody else's unmount; says whether it was the latter.
async fn until_the_end(ended: tokio::sync::oneshot::Receiver<()>, mut signals: Signals) -> bool {
    tokio::select! {
        _ = ended => true,
        _ = signals.terminate.recv() => false,
        _ = signals.interrupt.recv() => false,
        _ = signals.hangup.recv() => false,
    }
}

/// `limafs unmount`: has the daemon leave, or detaches what a dead one left. VMs keep running.
pub fn unmount(home: &Home, mountpoint: Option<&Path>) -> Result<()> {
    let holder = Holder::read(home);
    if let (Some(holder), Some(wanted)) = (&holder, mountpoint)
        && fs::canonicalize(wanted).ok() != fs::canonicalize(&holder.mountpoint).ok()
        && !is_ours(wanted)
    {
        return Err(Error::invalid(
            wanted.display().to_string(),
            format!("is not where {} is mounted; that is {holder}", home.path().display()),
        ));
    }
    // A dead one, or the tree of another home: its daemon leaves when it is gone.
    let at_home = |path: &Path| {
        holder.as_ref().is_some_and(|holder| fs::canonicalize(path).ok() == fs::canonicalize(&holder.mountpoint).ok())
    };
    if let Some(path) = mountpoint.filter(|path| is_dead(path) || is_ours(path) && !at_home(path)) {
        return detach(path);
    }
    let Some(holder) = holder else {
        return Err(Error::failed(home.path().display().to_string(), "is not mounted"));
    };
    let pid =
        rustix::process::Pid::from_raw(holder.pid).ok_or_else(|| Error::failed("mount.lock", "names no process"))?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        .map_err(|errno| Error::failed(format!("signal to pid {}", holder.pid), errno))?;
    let deadline = Instant::now() + LEAVING;
    while Holder::read(home).is_some() {
        if Instant::now() > deadline {
            return detach(&holder.mountpoint);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_escape_spaces() {
        assert_eq!(unescape("/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape("/plain\\"), b"/plain\\");
    }

    #[test]
    fn f23_the_second_daemon_of_a_home_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let held = DaemonLock::take(&home, Path::new("/somewhere")).unwrap();
        let error = DaemonLock::take(&home, Path::new("/elsewhere")).err().unwrap();
        assert_eq!(error.errno(), libc::EBUSY);
        assert!(error.to_string().contains(&format!("pid {} at /somewhere", std::process::id())), "{error}");
        drop(held);
        assert!(DaemonLock::take(&home, Path::new("/elsewhere")).is_ok());
    }

    #[test]
    fn what_fusermount_says_of_allow_other_is_told_without_another_guess() {
        let words = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let error = |text: &str| io::Error::new(io::ErrorKind::PermissionDenied, text.to_owned());
        assert_eq!(told(&error(&format!("{words}\n"))), words);
        assert_eq!(told(&error("refused\n")), "refused (may you read and write /dev/fuse?)");
    }

    #[test]
    fn a_directory_with_something_in_it_is_not_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("lima");
        prepare_mountpoint(&mountpoint).unwrap();
        assert!(mountpoint.join(NOT_MOUNTED).exists());
        prepare_mountpoint(&mountpoint).unwrap();
        fs::write(mountpoint.join("precious"), "x").unwrap();
        assert_eq!(prepare_mountpoint(&mountpoint).unwrap_err().errno(), libc::EBUSY);
    }
}
