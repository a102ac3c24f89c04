//! Every name on disk, Lima's words where Lima has one, and the rules for instance names.
//! The only place that spells a file name of `$LIMA_HOME`; reads and writes nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

// In an instance directory; Lima's names.
pub const LIMA_YAML: &str = "lima.yaml";
pub const LIMA_VERSION: &str = "lima-version";
pub const PROTECTED: &str = "protected";
pub const CIDATA_ISO: &str = "cidata.iso";
/// The same as a directory, for guests without cloud-init.
pub const CIDATA_DIR: &str = "cidata";
pub const CLOUD_CONFIG: &str = "cloud-config.yaml";
pub const IMAGE: &str = "image";
pub const DISK: &str = "disk";
pub const ANSIBLE_INVENTORY: &str = "ansible-inventory.yaml";
pub const KERNEL: &str = "kernel";
pub const KERNEL_CMDLINE: &str = "kernel.cmdline";
pub const INITRD: &str = "initrd";
pub const FIRMWARE: &str = "qemu-efi-code.fd";
pub const VNC_DISPLAY: &str = "vncdisplay";
pub const VNC_PASSWORD: &str = "vncpassword";
pub const SSH_CONFIG: &str = "ssh.config";
pub const HA_PID: &str = "ha.pid";
pub const HA_SOCK: &str = "ha.sock";
pub const HA_STDOUT_LOG: &str = "ha.stdout.log";
pub const HA_STDERR_LOG: &str = "ha.stderr.log";
pub const DRIVER_LOG: &str = "driver.stderr.log";
/// Where a driver has its own way to the guest agent.
pub const GUEST_AGENT_SOCK: &str = "ga.sock";
pub const QMP_SOCK: &str = "qmp.sock";
pub const SERIAL_LOG: &str = "serial.log";
/// Pid files of drivers and of Lima's hostagent; their processes have the path among their arguments.
pub const PID_FILES: &[&str] = &["qemu.pid", "vz.pid", "krunkit.pid", "fake.pid", HA_PID];
/// The longest socket path that Lima makes in an instance directory.
const LONGEST_SOCKET: &str = "ssh.sock.1234567890123456";

// In an instance directory; ours.
/// Ours: which snapshots there are.
pub const SNAPSHOTS: &str = "limafs.snapshots.json";
/// What the hostagent last knew (see `store::Record`); survives it.
pub const RECORD: &str = "limafs.json";
/// The configuration that the VM was started with, whole.
pub const STARTED: &str = "limafs.started.yaml";
/// Events of the instance as JSON lines, capped.
pub const EVENTS: &str = "limafs.events";
/// Jobs in the guest, a directory each (see `jobs`).
pub const JOBS_DIR: &str = "limafs.jobs";
/// What a driver keeps of a machine that is not in the instance directory.
pub const MACHINE_DIR: &str = "machine";
/// The guest's ssh host keys, pinned at its first boot.
pub const KNOWN_HOSTS: &str = "ssh.known_hosts";

const ARCHIVE: (&str, &str) = ("nerdctl-full.", ".tgz");

/// The archive that is unpacked in the guest; ours, because Lima puts it onto its cidata disk.
pub fn archive(id: &str) -> String {
    format!("{}{id}{}", ARCHIVE.0, ARCHIVE.1)
}

/// The id of a file named by [`archive`].
pub fn archive_id(name: &str) -> Option<&str> {
    name.strip_prefix(ARCHIVE.0)?.strip_suffix(ARCHIVE.1)
}

/// Before the name of a driver in the name of its program, wherever that is.
pub const DRIVER_PREFIX: &str = "lima-driver-";

// In the home.
pub const CONFIG_DIR: &str = "_config";
pub const USER_KEY: &str = "user";
/// In [`CONFIG_DIR`]: the public half of it.
pub const USER_PUB: &str = "user.pub";
/// In [`CONFIG_DIR`]: below and above every instance's lima.yaml.
pub const DEFAULT_YAML: &str = "default.yaml";
pub const OVERRIDE_YAML: &str = "override.yaml";
pub const DISKS_DIR: &str = "_disks";
/// In the directory of an additional disk: its bytes.
pub const DATA_DISK: &str = "datadisk";
/// In the directory of an additional disk: symlink to the instance that has it.
pub const IN_USE_BY: &str = "in_use_by";
/// In [`CONFIG_DIR`]: what every new instance is built upon.
pub const BASE_YAML: &str = "base.yaml";
pub const NETWORKS_DIR: &str = "_networks";
/// In the directory of a network, ours: which instance has which address.
pub const ADDRESSES: &str = "limafs.addresses.json";
/// In [`CONFIG_DIR`]: the networks that a lima.yaml may name.
pub const NETWORKS_YAML: &str = "networks.yaml";
pub const TEMPLATES_DIR: &str = "_templates";
/// Ours: lock, root events, things being deleted.
pub const OURS_DIR: &str = "_limafs";
/// In [`OURS_DIR`]: events of all instances.
pub const ROOT_EVENTS: &str = "events.jsonl";
/// In [`OURS_DIR`]: held by the mount for life; pid and mountpoint of the holder.
pub const MOUNT_LOCK: &str = "mount.lock";

/// `sun_path` on Linux, with its terminating NUL.
pub const UNIX_PATH_MAX: usize = 108;
const NAME_MAX: usize = 76;

/// A valid instance name: `^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`, at most 76 bytes, not ending in `.yml` or `.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > NAME_MAX {
            return Err(Error::NameTooLong {
                what: format!("name of {} bytes", text.len()),
                why: format!("an instance name has at most {NAME_MAX}"),
            });
        }
        let lower = text.to_ascii_lowercase();
        if lower.ends_with(".yml") || lower.ends_with(".yaml") {
            return Err(Error::invalid(format!("name {text:?}"), "must not end with .yml or .yaml"));
        }
        let words = text.split(['.', '_', '-']);
        if !words.into_iter().all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
            return Err(Error::invalid(
                format!("name {text:?}"),
                "must be letters and digits, in groups joined by single dots, dashes or underscores",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `lima-NAME` as a host name: dots and underscores become dashes.
    pub fn hostname(&self) -> String {
        format!("lima-{}", self.0.replace(['.', '_'], "-"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `$LIMA_HOME`, absolute, symlinks resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The instance's directory. Refuses a name whose socket paths would not fit.
    pub fn instance(&self, name: &Name) -> Result<PathBuf> {
        let dir = self.0.join(name.as_str());
        let longest = dir.join(LONGEST_SOCKET);
        let bytes = longest.as_os_str().len();
        if bytes >= UNIX_PATH_MAX {
            return Err(Error::NameTooLong {
                what: format!("name {name:?}", name = name.as_str()),
                why: format!(
                    "the socket path {} would have {bytes} bytes, at most {} fit",
                    longest.display(),
                    UNIX_PATH_MAX - 1
                ),
            });
        }
        Ok(dir)
    }

    pub fn ours(&self, file: &str) -> PathBuf {
        self.0.join(OURS_DIR).join(file)
    }

    pub fn disks(&self) -> PathBuf {
        self.0.join(DISKS_DIR)
    }

    pub fn disk(&self, name: &Name) -> PathBuf {
        self.disks().join(name.as_str())
    }

    pub fn config(&self, file: &str) -> PathBuf {
        self.0.join(CONFIG_DIR).join(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a01_to_a08_names_that_lima_accepts_are_accepted() {
        for name in ["default", "Ubuntu-20.04", "example.com", "under_score", "1-2_3.4", "yml", "yaml", "foo.yaml.com"]
        {
            assert_eq!(Name::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a09_the_socket_path_limits_the_name() {
        let name = Name::parse(&"a".repeat(76)).unwrap();
        assert!(Home::at("/h").instance(&name).is_ok());
        let error = Home::at("/home/somebody/.lima").instance(&name).unwrap_err();
        assert_eq!(error.errno(), libc::ENAMETOOLONG);
    }

    #[test]
    fn a10_a_name_of_77_bytes_is_too_long() {
        assert_eq!(Name::parse(&"a".repeat(77)).unwrap_err().errno(), libc::ENAMETOOLONG);
    }

    #[test]
    fn a11_to_a25_bad_names_are_refused() {
        for name in [
            "",
            ".dot",
            "dot.",
            "dot..dot",
            "_underscore",
            "underscore_",
            "underscore__underscore",
            "-dash",
            "dash-",
            "dash--dash",
            "c:default",
            "my\\instance",
            "default.yaml",
            "MY.YAML",
            "My.YmL",
            "foo.-boo",
            "zn--e9.org",
            "but__only",
            "lost+found",
            "_config",
            "a b",
            "a/b",
            "a\nb",
            "caf\u{e9}",
        ] {
            assert_eq!(Name::parse(name).unwrap_err().errno(), libc::EINVAL, "{name:?}");
        }
    }

    #[test]
    fn a24_the_reason_names_the_ending() {
        assert!(Name::parse("MY.YAML").unwrap_err().to_string().contains("must not end with .y"));
    }

    #[test]
    fn a_hostname_has_dashes_only() {
        assert_eq!(Name::parse("a_b.c-d").unwrap().hostname(), "lima-a-b-c-d");
    }
}
