//! The program: what a file cannot do. Subcommands, signals, exit codes (0, 1 failed, 2 usage).

mod doctor;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};

use limafs::error::{Error, Result};
use limafs::fuse::mount;
use limafs::names::{Home, Name};
use limafs::registry::Registry;
use limafs::{host, hostagent, store, view};

/// Lima virtual machines as a mounted file system.
///
/// A directory under the mountpoint is a VM: mkdir, write lima.yaml, `echo start > state`. README.md there says more.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the instances of $LIMA_HOME (default ~/.lima) at MOUNTPOINT; comes back when the tree is usable
    Mount {
        /// Default: ~/lima
        mountpoint: Option<PathBuf>,
        /// Stay in the foreground
        #[arg(long)]
        foreground: bool,
        /// Let other users look at what holds no secrets
        #[arg(long)]
        allow_other: bool,
        /// File descriptor on which to tell that the tree is usable, or why not
        #[arg(long, hide = true)]
        ready_fd: Option<i32>,
    },
    /// Take the tree away; VMs keep running
    Unmount { mountpoint: Option<PathBuf> },
    /// Run the process beside one instance (started by the mount)
    #[command(hide = true)]
    Hostagent {
        name: String,
        /// Take up a VM that runs already
        #[arg(long)]
        adopt: bool,
        /// Do one thing for a stopped instance, and end
        #[arg(long, conflicts_with = "adopt")]
        at_rest: Option<String>,
        /// Have the driver remove what it keeps outside the instance directory, and end
        #[arg(long, conflicts_with = "adopt")]
        remove: bool,
    },
    #[command(hide = true)]
    Publisher { mountpoint: PathBuf },
    /// Say what is missing on this machine, and how to get it
    Doctor,
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to be told when stderr is gone.
            let _ = writeln!(io::stderr(), "limafs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Mount { mountpoint, foreground, allow_other, ready_fd } => {
            let mountpoint = absolute(mountpoint)?;
            if foreground {
                serve(&mountpoint, allow_other, ready_fd)?;
            } else {
                mount_in_background(&mountpoint, allow_other)?;
            }
        }
        Verb::Unmount { mountpoint } => {
            let mountpoint = mountpoint.map(|path| absolute(Some(path))).transpose()?;
            mount::unmount(&home()?, mountpoint.as_deref())?;
        }
        Verb::Hostagent { name, at_rest: Some(order), .. } => {
            hostagent::rest::run(home()?, Name::parse(&name)?, &order)?;
        }
        Verb::Hostagent { name, remove: true, .. } => hostagent::remove(home()?, &Name::parse(&name)?)?,
        Verb::Hostagent { name, adopt, .. } => hostagent::run(home()?, Name::parse(&name)?, adopt)?,
        Verb::Publisher { mountpoint } => view::publisher::run(&mountpoint),
        Verb::Doctor => return Ok(doctor::run(&home()?)),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "limafs", &mut io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `$LIMA_HOME`, else `~/.lima`; made if it is not there, symlinks resolved.
fn home() -> Result<Home> {
    let path = match std::env::var_os("LIMA_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => user_dir()?.join(".lima"),
    };
    store::prepare(&Home::at(&path))?;
    Ok(Home::at(path.canonicalize().map_err(Error::io(&path))?))
}

fn user_dir() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|path| !path.is_empty());
    home.map(PathBuf::from).ok_or_else(|| Error::invalid("HOME", "is not set"))
}

/// The mountpoint as an absolute path. A dead mount cannot be resolved, its parent can.
fn absolute(mountpoint: Option<PathBuf>) -> Result<PathBuf> {
    let path = match mountpoint {
        Some(path) => path,
        None => user_dir()?.join("lima"),
    };
    std::path::absolute(&path).map_err(Error::io(&path))
}

fn serve(mountpoint: &Path, allow_other: bool, ready_fd: Option<i32>) -> Result<()> {
    init_log();
    let ready = ready_fd.map(|fd| {
        // SAFETY: the number comes from `mount_in_background`, which made this end of the pipe for us alone.
        let pipe = unsafe { File::from_raw_fd(fd) };
        // Not for hostagents and the publisher. It is a valid descriptor, so this cannot fail.
        let _ = rustix::io::fcntl_setfd(&pipe, rustix::io::FdFlags::CLOEXEC);
        pipe
    });
    let told = ready.as_ref().map(File::try_clone).transpose().map_err(Error::io("pipe"))?;
    let served = home().and_then(|home| {
        mount::serve(home, mountpoint, allow_other, Arc::new(Registry::of_process()), move || {
            if let Some(mut pipe) = told {
                // A parent that was killed meanwhile does not stop the daemon.
                let _ = pipe.write_all(b"ok\n");
            }
        })
    });
    if let (Err(error), Some(mut pipe)) = (&served, ready) {
        let _ = pipe.write_all(error.to_string().as_bytes());
    }
    served
}

/// Starts the daemon in a session of its own and waits until its tree is usable.
fn mount_in_background(mountpoint: &Path, allow_other: bool) -> Result<()> {
    let home = home()?;
    let log_path = home.ours("mount.log");
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&log_path).map_err(Error::io(&log_path))?;
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| Error::io("pipe")(errno.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(host::called().unwrap_or(Path::new("limafs")))
        .args(["mount", "--foreground", "--ready-fd", "3"])
        .arg(mountpoint);
    if allow_other {
        command.arg("--allow-other");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
    let pipe = write.as_raw_fd();
    // SAFETY: setsid, dup2 and fcntl are async-signal-safe, and nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            // dup2 onto itself would keep the close-on-exec flag.
            let flags = if pipe == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(pipe, 3) };
            if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    command.spawn().map_err(Error::io("limafs"))?;
    drop(write);
    let mut told = String::new();
    let mut lines = BufReader::new(File::from(read));
    lines.read_line(&mut told).map_err(Error::io("pipe"))?;
    if told == "ok\n" {
        return Ok(());
    }
    io::Read::read_to_string(&mut lines, &mut told).map_err(Error::io("pipe"))?;
    let why = if told.is_empty() { format!("the daemon died; see {}", log_path.display()) } else { told };
    Err(Error::failed("mount", why))
}

/// Logs go to stderr, which the daemon has as `_limafs/mount.log`.
fn init_log() {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).init();
}
