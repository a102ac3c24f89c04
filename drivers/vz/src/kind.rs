//! The two programs that this driver knows, and in what they differ.

use limafs_driver::{About, Priority};

/// vfkit runs VMs on Apple's Virtualization.framework, krunkit on libkrun; krunkit's command line follows vfkit's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The value of `vmType`.
    pub name: &'static str,
    pub program: &'static str,
    /// How a user gets it.
    pub fix: &'static str,
    pub doc: &'static str,
    pub alias: Option<&'static str>,
    pub priority: Priority,
    pub oldest: Version,
    pub pid_file: &'static str,
    /// The program's own words.
    pub log: &'static str,
    /// Where it listens for requests.
    pub socket: &'static str,
    /// The guest's console.
    pub serial_log: &'static str,
    /// Lima's default of `ssh.overVsock`.
    pub ssh_over_vsock: bool,
    pub is_krunkit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub u32, pub u32, pub u32);

pub(crate) static VFKIT: Kind = Kind {
    name: "vz",
    program: "vfkit",
    fix: "brew install vfkit",
    doc: "https://github.com/crc-org/vfkit",
    alias: Some("vfkit"),
    priority: Priority::Preferred,
    oldest: Version(0, 6, 0),
    pid_file: "vz.pid",
    log: "vfkit.log",
    socket: "vfkit.sock",
    serial_log: "serialv.log",
    ssh_over_vsock: true,
    is_krunkit: false,
};

pub(crate) static KRUNKIT: Kind = Kind {
    name: "krunkit",
    program: "krunkit",
    fix: "brew tap slp/krun && brew install krunkit",
    doc: "https://github.com/containers/krunkit",
    alias: None,
    priority: Priority::Experimental,
    // The first whose vsock sockets wait for connections from the host.
    oldest: Version(1, 2, 1),
    pid_file: "krunkit.pid",
    log: "krunkit.log",
    socket: "krunkit.sock",
    serial_log: "serial.log",
    // Guests with a recent systemd refuse it there (lima-vm/lima#5085).
    ssh_over_vsock: false,
    is_krunkit: true,
};

impl Kind {
    pub(crate) fn about(&self) -> About {
        // It is never chosen by itself where it cannot run.
        let default = cfg!(target_os = "macos") && !self.is_krunkit;
        About { aliases: self.alias.map(str::to_owned).into_iter().collect(), default, priority: self.priority }
    }
}

impl Version {
    /// Reads the first `N.N[.N]` of a text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut parts = word.split('.').map(|part| part.parse().ok());
            Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_both_programs_print_them() {
        assert_eq!(Version::parse("vfkit version: v0.6.4\n"), Some(Version(0, 6, 4)));
        assert_eq!(Version::parse("krunkit 1.2.1"), Some(Version(1, 2, 1)));
        assert_eq!(Version::parse("15.5"), Some(Version(15, 5, 0)));
        assert_eq!(Version::parse("unknown"), None);
    }
}
