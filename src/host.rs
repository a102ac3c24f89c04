//! Facts of this host that configurations and guests are filled with: user, processors, memory, time zone.
//! Gathered once by a process; knows no configuration.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::drivers;
use crate::error::{Error, Result};

/// Why a playbook of Ansible's is not run.
pub const NO_ANSIBLE: &str = "ansible runs a playbook on this host, which is allowed only where limafs is mounted with \
     LIMAFS_ALLOW_ANSIBLE=true in its environment";

/// Whether whoever mounts lets lima.yaml run playbooks on this host.
pub fn allows_ansible() -> bool {
    env::var_os("LIMAFS_ALLOW_ANSIBLE").is_some_and(|value| value == "true" || value == "1")
}

/// The path of our program as it was called, its symlinks as they are: what is installed beside it is looked for there.
/// `None` when it cannot be told.
pub fn called() -> Option<&'static Path> {
    static CALLED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = || {
        let name = PathBuf::from(env::args_os().next()?);
        if name.components().count() > 1 {
            return std::path::absolute(name).ok();
        }
        let dirs = env::var_os("PATH")?;
        env::split_paths(&dirs).map(|dir| dir.join(&name)).find(|file| file.is_absolute() && file.is_file())
    };
    CALLED.get_or_init(found).as_deref()
}

/// The user for whom VMs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostUser {
    pub name: String,
    pub uid: u32,
    pub home: PathBuf,
    /// GECOS, may be empty.
    pub comment: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub user: HostUser,
    /// Lima's name: `Linux`, `Darwin`.
    pub os: String,
    /// Lima's name: `x86_64`, `aarch64`, ...
    pub arch: String,
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// `Europe/Berlin`; empty when unknown.
    pub timezone: String,
    /// `/etc/machine-id`, else dbus's, else the host name.
    pub machine_id: String,
    /// What is known of the drivers without asking one.
    pub drivers: drivers::Names,
}

impl Host {
    /// Looks at this machine. Fails only when it cannot be told for whom we run.
    pub fn detect() -> Result<Self> {
        Ok(Self {
            user: user()?,
            os: if cfg!(target_os = "macos") { "Darwin" } else { "Linux" }.into(),
            arch: arch().into(),
            cpus: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
            memory: memory(),
            timezone: timezone(&read("/etc/timezone"), fs::read_link("/etc/localtime").ok().as_deref()),
            machine_id: machine_id(),
            drivers: drivers::Names::default(),
        })
    }
}

/// The entry of passwd. `$HOME` counts more than passwd's home, as for every other program.
fn user() -> Result<HostUser> {
    let uid = rustix::process::getuid().as_raw();
    let entry = passwd_entry(&read("/etc/passwd"), uid).or_else(|| passwd_entry(&getent(uid), uid));
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    match (entry, home) {
        (Some(user), home) => Ok(HostUser { home: home.unwrap_or(user.home), ..user }),
        // A container may run as a uid without a name.
        (None, Some(home)) => {
            let name = env::var("USER").unwrap_or_else(|_| uid.to_string());
            Ok(HostUser { name, uid, home, comment: String::new() })
        }
        (None, None) => {
            Err(Error::failed("host user", format!("uid {uid} has no entry in passwd and HOME is not set")))
        }
    }
}

/// The line of `uid` in the text of a passwd file.
fn passwd_entry(passwd: &str, uid: u32) -> Option<HostUser> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let line_uid: u32 = fields.nth(1)?.parse().ok()?;
        let gecos = fields.nth(1)?;
        let home = fields.next()?;
        (line_uid == uid && !name.is_empty()).then(|| HostUser {
            name: name.into(),
            uid,
            home: home.into(),
            // GECOS is a list; the name comes first.
            comment: gecos.split(',').next().unwrap_or_default().into(),
        })
    })
}

/// Users that are not in the file (LDAP, systemd-homed) are known to `getent`; we link no NSS.
fn getent(uid: u32) -> String {
    let output = Command::new("getent").args(["passwd", &uid.to_string()]).stderr(Stdio::null()).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lima's name of the processor that we run on.
fn arch() -> &'static str {
    match env::consts::ARCH {
        "powerpc64" => "ppc64le",
        "arm" => "armv7l",
        same => same,
    }
}

fn memory() -> u64 {
    let kib = read("/proc/meminfo").lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.map_or(0, |kib| kib * 1024)
}

/// The zone's name: `/etc/timezone` holds it, `/etc/localtime` points to it.
fn timezone(named: &str, link: Option<&Path>) -> String {
    let named = named.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    if let Some(zone) = named {
        return zone.to_owned();
    }
    let link = link.and_then(Path::to_str).unwrap_or_default();
    link.split_once("zoneinfo/").map_or(String::new(), |(_, zone)| zone.to_owned())
}

fn machine_id() -> String {
    // The last is the host name.
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/hostname"]
        .into_iter()
        .map(|path| read(path).trim().to_owned())
        .find(|id| !id.is_empty())
        .unwrap_or_default()
}

/// The text of a file that may be missing.
fn read(path: &str) -> String {
    fs::read(path).map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken line\n\
        jane:x:1001:1001:Jane Roe,Room 7,:/home/jane:/bin/zsh\n";

    #[test]
    fn this_host_can_be_told() {
        let host = Host::detect().unwrap();
        assert!(host.cpus >= 1);
        assert!(host.memory > 0);
        assert!(host.user.home.is_absolute());
        assert!(!host.machine_id.is_empty());
    }

    #[test]
    fn passwd_is_read_by_uid() {
        let jane = passwd_entry(PASSWD, 1001).unwrap();
        assert_eq!((jane.name.as_str(), jane.comment.as_str()), ("jane", "Jane Roe"));
        assert_eq!(jane.home, Path::new("/home/jane"));
        assert_eq!(passwd_entry(PASSWD, 7), None);
    }

    #[test]
    fn the_time_zone_is_named_or_pointed_to() {
        assert_eq!(timezone("Europe/Berlin\n", None), "Europe/Berlin");
        assert_eq!(timezone("", Some(Path::new("../usr/share/zoneinfo/Asia/Tokyo"))), "Asia/Tokyo");
        assert_eq!(timezone("\n", Some(Path::new("/somewhere/else"))), "");
        assert_eq!(timezone("", None), "");
    }
}
