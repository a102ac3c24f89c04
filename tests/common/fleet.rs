//! A home and a mountpoint of a test's own, in a short directory (socket paths have 108 bytes), and the built binary.
//! Whatever a test leaves behind, its drop unmounts and ends.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::shell::{Job, Ran};
use super::{Failed, Outcome, procs, secs, shell, suite, wait_for, wait_until};

/// An instance of the pretend driver. The image is Lima's own trick: any file will do.
pub const FAKE: &str = "vmType: fake\nimages:\n- location: /etc/profile\n";

pub const LIMAFS: &str = env!("CARGO_BIN_EXE_limafs");

pub struct Fleet {
    dir: TempDir,
    /// `$LIMA_HOME`
    pub home: PathBuf,
    /// The mountpoint.
    pub mnt: PathBuf,
    /// More environment for the daemon and all that is run here.
    pub env: Vec<(String, String)>,
    /// The binary.
    pub exe: PathBuf,
    /// uid and gid to run everything as.
    pub user: Option<(u32, u32)>,
}

impl Fleet {
    /// A new home, with its daemon mounted.
    pub fn mounted() -> Result<Self, Failed> {
        let fleet = Self::unmounted()?;
        fleet.mount()?;
        Ok(fleet)
    }

    /// A new home without a daemon. Laid out as a user's home directory, so that `~/lima` and `~/.lima` are right.
    pub fn unmounted() -> Result<Self, Failed> {
        let dir = tempfile::Builder::new().prefix("lf").rand_bytes(5).tempdir_in("/tmp")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let (home, mnt) = (dir.path().join(".lima"), dir.path().join("lima"));
        fs::create_dir(&mnt)?;
        let fleet = Self { dir, home, mnt, env: Vec::new(), exe: LIMAFS.into(), user: None };
        fleet.link_guest()?;
        Ok(fleet)
    }

    /// Puts the tests' guest image where `template:local` looks for it.
    fn link_guest(&self) -> Outcome {
        let Some(guest) = suite::guest_dir() else { return Ok(()) };
        let share = self.dir.path().join(".local/share/limafs");
        fs::create_dir_all(&share)?;
        std::os::unix::fs::symlink(guest, share.join("guest"))?;
        Ok(())
    }

    /// The directory that stands for the user's home directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// `limafs mount`; fails unless the tree is usable when it comes back.
    pub fn mount(&self) -> Outcome {
        let ran = self.limafs(&["mount", &self.mnt.display().to_string()])?;
        if ran.code != 0 {
            return Err(format!("limafs mount failed: {ran:?}").into());
        }
        if self.read("README.md").is_empty() {
            return Err("limafs mount came back, but there is no README.md in the tree".into());
        }
        Ok(())
    }

    pub fn limafs(&self, arguments: &[&str]) -> Result<Ran, Failed> {
        let mut command = self.command(&self.exe);
        command.args(arguments).current_dir(self.root());
        shell::finish(command, secs(20))
    }

    /// A command in the mountpoint, with the fleet's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.root()).env("LIMA_HOME", &self.home).env("M", &self.mnt).env("H", &self.home);
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME");
        command.env("LC_ALL", "C").envs(self.env.iter().cloned());
        // Nobody but its user may look into a user's mount.
        if self.user.is_some() || self.mnt.is_dir() {
            command.current_dir(&self.mnt);
        }
        if let Some((uid, gid)) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a line of bash in the mountpoint; 60 s at most.
    pub fn sh(&self, line: &str) -> Result<Ran, Failed> {
        self.sh_within(line, secs(60))
    }

    pub fn sh_within(&self, line: &str, limit: Duration) -> Result<Ran, Failed> {
        let mut command = self.command("bash");
        command.args(["-c", line]);
        shell::finish(command, limit)
    }

    /// Runs a line of bash that must succeed; its output.
    pub fn ok(&self, line: &str) -> Result<String, Failed> {
        self.sh(line)?.text().map_err(|error| format!("{line}: {}", error.message().unwrap_or_default()).into())
    }

    /// Starts a line of bash in the background.
    pub fn start(&self, line: &str) -> Result<Job, Failed> {
        let mut command = self.command("bash");
        command.args(["-c", line]);
        shell::start(command)
    }

    /// A file of the tree; empty when it cannot be read.
    pub fn read(&self, path: &str) -> String {
        if self.user.is_some() {
            return self.sh(&format!("cat {path}")).map(|ran| ran.out).unwrap_or_default();
        }
        fs::read_to_string(self.mnt.join(path)).unwrap_or_default()
    }

    pub fn state(&self, name: &str) -> String {
        self.read(&format!("{name}/state")).trim_end().to_owned()
    }

    /// A line of `status`, without its key.
    pub fn status(&self, name: &str, key: &str) -> Option<String> {
        let status = self.read(&format!("{name}/status"));
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    pub fn wait_state(&self, name: &str, state: &str, limit: Duration) -> Outcome {
        let reached = wait_until("", limit, || self.state(name) == state);
        reached.map_err(|_| {
            let (now, error) = (self.state(name), self.read(&format!("{name}/error")));
            let step = self.status(name, "step").unwrap_or_default();
            format!("{name} is {now:?} (step {step:?}), not {state} within {limit:?}; error: {error:?}").into()
        })
    }

    /// Makes an instance with this lima.yaml.
    pub fn create(&self, name: &str, yaml: &str) -> Outcome {
        let document = self.root().join(format!("{name}.yaml"));
        fs::write(&document, yaml)?;
        let ran = self.sh(&format!("mkdir {name} && cp {} {name}/lima.yaml", document.display()))?;
        if ran.code != 0 {
            return Err(format!("{name} was refused: {ran:?}; error: {}", self.read(&format!("{name}/error"))).into());
        }
        Ok(())
    }

    /// Replaces an instance's lima.yaml.
    pub fn create_over(&self, name: &str, yaml: &str) -> Outcome {
        fs::write(self.root().join("over.yaml"), yaml)?;
        self.ok(&format!("cp ~/over.yaml {name}/lima.yaml")).map(drop)
    }

    /// Makes an instance of the pretend driver and starts it.
    pub fn running(&self, name: &str) -> Outcome {
        self.create(name, FAKE)?;
        self.ok(&format!("echo start > {name}/state"))?;
        self.wait_state(name, "Running", secs(20))
    }

    /// All processes of this fleet: daemon, publisher, hostagents, VMs.
    pub fn processes(&self) -> Vec<u32> {
        procs::naming(&self.home)
    }

    /// The daemon that serves the tree.
    pub fn daemon(&self) -> Result<u32, Failed> {
        wait_for("a running `limafs mount`", secs(5), || self.subcommand("mount"))
    }

    /// The daemon, if there is one now.
    pub fn daemon_now(&self) -> Option<u32> {
        self.subcommand("mount")
    }

    /// How many processes of this fleet are neither daemon, publisher nor hostagent, nor run from here: VMs.
    pub fn vms(&self) -> usize {
        let is_ours = |pid: &u32| procs::is_alive(*pid) && procs::parent(*pid) != Some(std::process::id());
        let home = self.root().display().to_string();
        let is_vm = |pid: &u32| {
            let arguments = procs::arguments(*pid);
            // A program that a driver is tried with knows nothing of instances.
            let is_of_instance = arguments.iter().any(|argument| argument.contains(&home));
            is_of_instance && !arguments.first().is_some_and(|name| name.contains("limafs"))
        };
        self.processes().iter().filter(|pid| is_ours(pid) && is_vm(pid)).count()
    }

    pub fn hostagent(&self, name: &str) -> Option<u32> {
        let mut pids = self.processes().into_iter();
        pids.find(|pid| matches!(&procs::arguments(*pid)[..], [_, word, rest @ ..] if word == "hostagent" && rest.iter().any(|r| r == name)))
    }

    /// The VM's process, as `status` tells it.
    pub fn vm(&self, name: &str) -> Option<u32> {
        let json: serde_json::Value = serde_json::from_str(&self.read(&format!("{name}/status.json"))).ok()?;
        json.get("driverPID").or(json.get("driverPid"))?.as_u64().map(|pid| pid as u32).filter(|pid| *pid > 0)
    }

    /// The process with this first argument whose parent has not the same.
    fn subcommand(&self, word: &str) -> Option<u32> {
        let is = |pid: u32| procs::arguments(pid).get(1).is_some_and(|first| first == word);
        let pids = self.processes();
        pids.into_iter().find(|pid| is(*pid) && !procs::parent(*pid).is_some_and(is))
    }

    /// `kill -9` of the daemon; comes back when it is gone.
    pub fn kill_daemon(&self) -> Outcome {
        let pid = self.daemon()?;
        procs::signal(pid, Signal::KILL);
        wait_until("the end of the killed daemon", secs(5), || !procs::is_alive(pid))?;
        // Of another user's mount the kernel tells root nothing, not even that it is dead.
        let is_dead = || self.user.is_some() || rustix::fs::statfs(&self.mnt).is_err();
        wait_until("its tree answers with an error", secs(5), is_dead)
    }

    /// How often the mountpoint is in the mount table.
    pub fn mounts(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mnt = self.mnt.display().to_string();
        table.lines().filter(|line| line.split(' ').nth(4) == Some(&mnt)).count()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.limafs(&["unmount"]);
        for pid in self.processes() {
            procs::signal(pid, Signal::KILL);
        }
        for _ in 0..self.mounts() {
            let _ = rustix::mount::unmount(&self.mnt, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = wait_until("the end of what a test left", secs(5), || {
            self.processes().iter().all(|pid| !procs::is_alive(*pid))
        });
        if std::thread::panicking() || std::env::var_os("LIMAFS_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
        }
    }
}
