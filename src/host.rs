//! Facts of this host that configurations and guests are filled with: user, processors, memory, time zone.
//! Gathered once by a process; knows no configuration.

use std::path::PathBuf;

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
}

impl Host {
    /// Reads the facts of this machine and of the user who runs this process.
    pub fn gather() -> Self {
        Self {
            user: user(),
            os: lima_os(),
            arch: lima_arch(),
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
            memory: memory(),
            timezone: timezone(),
            machine_id: machine_id(),
        }
    }
}

/// From the password file; a user who is only known elsewhere (LDAP) from the environment.
fn user() -> HostUser {
    let uid = rustix::process::getuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 7 && fields[2].parse() == Ok(uid));
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    match entry {
        Some(fields) => HostUser {
            name: fields[0].to_owned(),
            uid,
            home: PathBuf::from(fields[5]),
            comment: fields[4].split(',').next().unwrap_or_default().to_owned(),
        },
        None => HostUser { name: variable("USER"), uid, home: PathBuf::from(variable("HOME")), comment: String::new() },
    }
}

fn lima_os() -> String {
    match std::env::consts::OS {
        "linux" => "Linux".into(),
        "macos" => "Darwin".into(),
        other => other.into(),
    }
}

fn lima_arch() -> String {
    match std::env::consts::ARCH {
        "arm" => "armv7l".into(),
        "powerpc64" => "ppc64le".into(),
        "riscv64gc" => "riscv64".into(),
        other => other.into(),
    }
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0u64) * 1024
}

/// The name in /etc/timezone, or where /etc/localtime leads to.
fn timezone() -> String {
    let text = std::fs::read_to_string("/etc/timezone").unwrap_or_default();
    if !text.trim().is_empty() {
        return text.trim().to_owned();
    }
    let target = std::fs::read_link("/etc/localtime").unwrap_or_default();
    target.to_string_lossy().split_once("zoneinfo/").map(|(_, name)| name.to_owned()).unwrap_or_default()
}

fn machine_id() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let found = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().filter_map(|path| read(path));
    let mut found = found.filter(|id| !id.is_empty());
    found.next().unwrap_or_else(|| read("/proc/sys/kernel/hostname").unwrap_or_default())
}
