//! The scripts that go onto every disk, and the driver's own.

use std::collections::BTreeMap;

use super::Entry;
use crate::error::{Error, Result};

/// Started by cloud-init at each boot: mounts the disk and runs [`BOOT`].
pub const START: &str = include_str!("scripts/start.sh");
/// First of the `bootcmd`s: the environment of logins, and the watcher.
pub const EARLY: &str = include_str!("scripts/early.sh");
/// Stays in the background of a boot and reports it to the host.
pub const WATCH: &str = include_str!("scripts/watch.sh");
/// Runs one `boot` script and reports its failure.
pub const STEP: &str = include_str!("scripts/step.sh");
const BOOT: &str = include_str!("scripts/boot.sh");

const ON_DISK: &[(&str, &str)] = &[
    ("boot.sh", BOOT),
    ("util/early.sh", EARLY),
    ("util/watch.sh", WATCH),
    ("util/packages.sh", include_str!("scripts/packages.sh")),
    ("util/install-packages.sh", include_str!("scripts/install-packages.sh")),
    ("boot.essential.Linux/01-login-shell.sh", include_str!("scripts/01-login-shell.sh")),
    ("boot.essential.Linux/05-sudo-password.sh", include_str!("scripts/05-sudo-password.sh")),
    ("boot.Linux/05-lima-disks.sh", include_str!("scripts/05-lima-disks.sh")),
    ("boot.Linux/05-lima-mounts.sh", include_str!("scripts/05-lima-mounts.sh")),
    ("boot.Linux/06-etc-hosts.sh", include_str!("scripts/06-etc-hosts.sh")),
    ("boot.Linux/07-networks.sh", include_str!("scripts/07-networks.sh")),
    ("boot.Linux/09-host-dns.sh", include_str!("scripts/09-host-dns.sh")),
    ("boot.Linux/10-timezone.sh", include_str!("scripts/10-timezone.sh")),
    ("boot.Linux/12-ca-certs.sh", include_str!("scripts/12-ca-certs.sh")),
    ("boot.Linux/25-guestagent.sh", include_str!("scripts/25-guestagent.sh")),
    ("boot.Linux/20-rootless.sh", include_str!("scripts/20-rootless.sh")),
    ("boot.Linux/40-containerd.sh", include_str!("scripts/40-containerd.sh")),
];

pub fn entries() -> impl Iterator<Item = Entry> {
    ON_DISK.iter().map(|(path, text)| Entry::script(*path, *text))
}

/// The driver's scripts: `boot.<OS>/FILE`, or the older `FILE`, which means `boot.Linux/FILE`.
pub fn of_driver(scripts: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Entry>> {
    scripts.iter().map(|(path, bytes)| Ok(Entry::script(driver_path(path)?, bytes.clone()))).collect()
}

fn driver_path(path: &str) -> Result<String> {
    let full = if path.contains('/') { path.to_owned() } else { format!("boot.Linux/{path}") };
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.chars().any(char::is_control);
    match full.split('/').collect::<Vec<_>>()[..] {
        [dir, file] if dir.starts_with("boot.") && is_plain(file) && is_plain(dir) => Ok(full),
        _ => Err(Error::invalid(format!("boot script {path:?} of the driver"), "must be named boot.<OS>/FILE")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};

    const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cidata/scripts/packages.sh");

    /// Runs packages.sh where there is nothing but a pretend package manager.
    fn install(dir: &Path, manager: &str, script: &str, words: &[&str]) -> Output {
        let program = dir.join(manager);
        // By another process: one that other threads fork from meanwhile would keep it open for writing, and so busy.
        let mut writer = Command::new("/bin/sh");
        writer.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod 755 \"$2\"", "sh", script]);
        assert!(writer.arg(&program).status().unwrap().success());
        Command::new("/bin/sh").arg(PACKAGES).args(words).env("PATH", dir).current_dir(dir).output().unwrap()
    }

    const WANTED: [&str; 3] = ["sshfs=sshfs,dnf=fuse-sshfs", "sfdisk=fdisk,apk=sfdisk,dnf=util-linux", "there=nothing"];

    #[test]
    fn packages_are_installed_under_the_names_of_their_distribution() {
        for (manager, expected) in [
            ("apt-get", "install -y --no-install-recommends sshfs fdisk\n"),
            ("dnf", "install -y fuse-sshfs util-linux\n"),
            ("yum", "install -y sshfs fdisk\n"),
            ("apk", "add sshfs sfdisk\n"),
            ("pacman", "-S --noconfirm --needed sshfs fdisk\n"),
            ("zypper", "--non-interactive install --no-recommends sshfs fdisk\n"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            install(dir.path(), "there", "", &[]);
            let output = install(dir.path(), manager, "echo \"$*\" >>asked", &WANTED);
            assert!(output.status.success(), "{manager}: {output:?}");
            assert_eq!(fs::read_to_string(dir.path().join("asked")).unwrap(), expected, "{manager}");
        }
    }

    #[test]
    fn lists_of_packages_are_fetched_only_when_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo \"$1\" >>asked; [ \"$1\" = update ] && : >lists; [ -e lists ]";
        assert!(install(dir.path(), "apt-get", script, &WANTED).status.success());
        assert_eq!(fs::read_to_string(dir.path().join("asked")).unwrap(), "install\nupdate\ninstall\n");
    }

    #[test]
    fn what_cannot_be_installed_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(install(dir.path(), "dnf", "exit 1", &WANTED).status.code(), Some(1));
        let dir = tempfile::tempdir().unwrap();
        let output = install(dir.path(), "emerge", "", &WANTED);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stdout).contains("sshfs is missing"), "{output:?}");
    }
}
