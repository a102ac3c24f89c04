//! Documents for the two guests, and what a test asks of a running one.

use std::time::Duration;

use crate::common::{Failed, Fleet, Outcome, secs, suite};

/// As long as a boot may take on a machine that does other things, too.
pub const FAST_BOOT: Duration = secs(120);
pub const FULL_BOOT: Duration = secs(300);
pub const STOP: Duration = secs(60);

const CLOUD: [&str; 2] = ["vmlinuz-cloud", "initrd-cloud"];
const GENERIC: [&str; 2] = ["vmlinux-generic", "initrd-generic"];

/// Debian with busybox's init: boots in some 5 s. `more` is added to the document.
pub fn fast(more: &str) -> Result<String, Failed> {
    document("fast", CLOUD, "256MiB", 1, &format!("mounts: []\n{more}"))
}

/// The same with Debian's generic kernel, which has 9p and virtiofs; `more` has the `mounts`.
pub fn generic(more: &str) -> Result<String, Failed> {
    document("fast", GENERIC, "256MiB", 1, more)
}

/// As [`fast`], with mount entries.
pub fn mounting(more: &str) -> Result<String, Failed> {
    document("fast", CLOUD, "256MiB", 1, more)
}

/// Debian with systemd and cloud-init: boots in some 20 s.
pub fn full(more: &str) -> Result<String, Failed> {
    document("full", CLOUD, "512MiB", 2, &format!("mounts: []\n{more}"))
}

/// As [`full`], with mount entries and a kernel for all of them.
pub fn full_mounting(more: &str) -> Result<String, Failed> {
    document("full", GENERIC, "512MiB", 2, more)
}

fn document(image: &str, kernel: [&str; 2], memory: &str, cpus: u32, more: &str) -> Result<String, Failed> {
    let dir = suite::guest_dir().ok_or("LIMAFS_TEST_GUEST is not set")?;
    let (dir, [kernel, initrd]) = (dir.display(), kernel);
    Ok(format!(
        "vmType: qemu\ncpus: {cpus}\nmemory: {memory}\ndisk: 4GiB\ncontainerd: {{system: false, user: false}}\n\
         images:\n- location: {dir}/{image}.qcow2\n  kernel:\n    location: {dir}/{kernel}\n    \
         cmdline: root=/dev/vda1 rw console=ttyS0 quiet\n  initrd:\n    location: {dir}/{initrd}\n{more}"
    ))
}

/// Starts it and waits until it is Running.
pub fn boot(fleet: &Fleet, name: &str, limit: Duration) -> Outcome {
    fleet.ok(&format!("echo start > {name}/state"))?;
    up(fleet, name, limit)
}

/// Waits until it is Running.
pub fn up(fleet: &Fleet, name: &str, limit: Duration) -> Outcome {
    let line = format!("timeout {} cat {name}/wait/Running", limit.as_secs());
    let ran = fleet.sh_within(&line, limit + secs(5))?;
    if ran.out == "Running\n" {
        return Ok(());
    }
    let tail = fleet.sh(&format!("tail -n 30 {name}/log; tail -c 2000 {name}/serial.log"))?.out;
    let (status, error) = (fleet.read(&format!("{name}/status")), fleet.read(&format!("{name}/error")));
    Err(format!("{name} is not Running: {ran:?}\nstatus:\n{status}\nerror: {error}\nlogs:\n{tail}").into())
}

pub fn stop(fleet: &Fleet, name: &str) -> Outcome {
    fleet.ok(&format!("echo stop > {name}/state"))?;
    fleet.wait_state(name, "Stopped", STOP)
}

/// Runs a line in the guest.
pub fn ssh(fleet: &Fleet, name: &str, line: &str) -> Result<String, Failed> {
    let quoted = line.replace('\'', "'\\''");
    let ran = fleet.sh_within(&format!("timeout 60 ssh -F {name}/ssh.config lima-{name} '{quoted}'"), secs(65))?;
    ran.text().map_err(|error| format!("ssh {name} {line}: {}", error.message().unwrap_or_default()).into())
}

/// Id of the guest's present boot.
pub fn boot_id(fleet: &Fleet, name: &str) -> Result<String, Failed> {
    ssh(fleet, name, "cat /proc/sys/kernel/random/boot_id")
}
