//! Guests of other architectures than this machine's, translated by TCG: what contrib/make-foreign-guest made.

use std::path::{Path, PathBuf};

use crate::common::fleet::LIMAFS;
use crate::common::{Case, Failed, Fleet, Outcome, suite};
use crate::guest::{FULL_BOOT, boot, ssh, stop};
use crate::{cases, ensure, same};

/// Debian's name, Lima's name, the emulator, the kernel's console.
const AARCH64: [&str; 4] = ["arm64", "aarch64", "qemu-system-aarch64", "ttyAMA0"];
const ARMV7L: [&str; 4] = ["armhf", "armv7l", "qemu-system-arm", "ttyAMA0"];
const PPC64LE: [&str; 4] = ["ppc64el", "ppc64le", "qemu-system-ppc64", "hvc0"];
const S390X: [&str; 4] = ["s390x", "s390x", "qemu-system-s390x", "ttysclp0"];

pub fn cases() -> Vec<Case> {
    let mut all = cases![needing(|| lacks(AARCH64)): a_guest_of_aarch64_boots_and_stops];
    all.extend(cases![optional(|| lacks(ARMV7L)): a_guest_of_armv7l_boots_and_stops]);
    all.extend(cases![optional(|| lacks(PPC64LE)): a_guest_of_ppc64le_boots_and_stops]);
    all.extend(cases![optional(|| lacks(S390X)): a_guest_of_s390x_boots_and_stops]);
    all
}

fn lacks([debian, _, program, _]: [&str; 4]) -> Option<String> {
    let there = |name: &str| std::process::Command::new(name).arg("-version").output().is_ok();
    match dir(debian) {
        Some(dir) if !dir.join("key").exists() => Some(format!("contrib/make-foreign-guest has made no {debian}")),
        _ if !there(program) => Some(format!("there is no {program}")),
        _ => None,
    }
}

fn dir(debian: &str) -> Option<PathBuf> {
    suite::guest_dir().map(|dir| Path::new(&dir).join(debian))
}

fn a_guest_of_aarch64_boots_and_stops() -> Outcome {
    let fleet = boots_and_stops(AARCH64, "aarch64")?;
    // A second boot finds its disk as the first one left it.
    boot(&fleet, "foo", FULL_BOOT)?;
    same!(ssh(&fleet, "foo", "cat ~/kept")?, "kept");
    fleet.ok("echo kill > foo/state").map(drop)
}

fn a_guest_of_armv7l_boots_and_stops() -> Outcome {
    boots_and_stops(ARMV7L, "armv7l").map(drop)
}

fn a_guest_of_ppc64le_boots_and_stops() -> Outcome {
    boots_and_stops(PPC64LE, "ppc64le").map(drop)
}

fn a_guest_of_s390x_boots_and_stops() -> Outcome {
    boots_and_stops(S390X, "s390x").map(drop)
}

fn boots_and_stops(names: [&str; 4], machine: &str) -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &document(names)?)?;
    boot(&fleet, "foo", FULL_BOOT)?;
    same!(ssh(&fleet, "foo", "uname -m")?, machine);
    let accelerator = fleet.read("foo/status");
    ensure!(accelerator.contains("tcg") && accelerator.contains("the guest is"), "status: {accelerator}");
    ssh(&fleet, "foo", "echo kept > ~/kept; sync")?;
    stop(&fleet, "foo")?;
    let error = fleet.read("foo/error");
    let is_agents = !has_agent(names) && error.contains("guest agent");
    ensure!(error.is_empty() || is_agents, "error: {error}");
    Ok(fleet)
}

/// Whether contrib/build-agent made one for it.
fn has_agent([_, arch, ..]: [&str; 4]) -> bool {
    let prefix = Path::new(LIMAFS).parent().and_then(Path::parent);
    prefix.is_some_and(|prefix| prefix.join(format!("share/lima/lima-guestagent.Linux-{arch}")).exists())
}

fn document([debian, arch, _, console]: [&str; 4]) -> Result<String, Failed> {
    let dir = dir(debian).ok_or("LIMAFS_TEST_GUEST is not set")?;
    let dir = dir.display();
    Ok(format!(
        "vmType: qemu\narch: {arch}\ncpus: 1\nmemory: 256MiB\ndisk: 2GiB\nmounts: []\n\
         containerd: {{system: false, user: false}}\nimages:\n- location: {dir}/fast.qcow2\n  arch: {arch}\n  kernel:\n    \
         location: {dir}/vmlinuz\n    cmdline: root=/dev/vda1 rw console={console} quiet\n  initrd:\n    \
         location: {dir}/initrd\n"
    ))
}
