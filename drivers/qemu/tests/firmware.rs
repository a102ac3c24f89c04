//! Every architecture's own firmware, found where it is installed and heard on the machine's first serial port.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Instance};
use limafs_driver_qemu::Qemu;
use rustix::process::{Pid, Signal, kill_process};

/// TCG on a machine that does other things, too.
const DEADLINE: Duration = Duration::from_secs(120);

/// Ends with its test.
struct Vm(u32);

impl Drop for Vm {
    fn drop(&mut self) {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        if line.contains("lima-bench") {
            let _ = kill_process(Pid::from_raw(self.0.cast_signed()).unwrap(), Signal::KILL);
        }
    }
}

/// Starts a machine with an empty disk and waits until its console has all of `words`; `|` parts alternatives.
async fn speaks(arch: &str, program: &str, words: &[&str]) {
    if Command::new(program).arg("-version").output().is_err() {
        return eprintln!("SKIPPED: there is no {program}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("disk")).unwrap().set_len(1 << 20).unwrap();
    let qemu = Qemu::new();
    let mut tries = 0;
    let vm = loop {
        let instance = Instance {
            name: "bench".into(),
            dir: dir.path().into(),
            arch: arch.into(),
            cpus: 1,
            memory: 256 << 20,
            ssh_local_port: std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port(),
            ..Instance::default()
        };
        qemu.configure(instance).await.unwrap();
        qemu.validate().await.unwrap();
        tries += 1;
        match qemu.start().await {
            Err(limafs_driver::Error::Missing { what, fix }) => return eprintln!("SKIPPED: {what} is missing: {fix}"),
            // Somebody else was given the port meanwhile.
            Err(error) if error.to_string().contains("host forwarding") && tries < 5 => {}
            other => break other.unwrap(),
        }
    };
    let _vm = Vm(vm.pid.unwrap());
    let start = Instant::now();
    let said = || String::from_utf8_lossy(&fs::read(dir.path().join("serial.log")).unwrap()).into_owned();
    while !words.iter().all(|words| words.split('|').any(|word| said().contains(word))) {
        assert!(start.elapsed() < DEADLINE, "{arch} said only: {}", said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    qemu.kill().await.unwrap();
}

#[tokio::test]
async fn uefi_of_x86_64_speaks() {
    speaks("x86_64", "qemu-system-x86_64", &["BdsDxe"]).await;
}

#[tokio::test]
async fn uefi_of_aarch64_speaks() {
    speaks("aarch64", "qemu-system-aarch64", &["UEFI firmware"]).await;
}

#[tokio::test]
async fn uefi_of_armv7l_speaks() {
    speaks("armv7l", "qemu-system-arm", &["UEFI firmware"]).await;
}

#[tokio::test]
async fn opensbi_and_the_boot_loader_of_riscv64_speak() {
    speaks("riscv64", "qemu-system-riscv64", &["OpenSBI", "U-Boot|UEFI|BdsDxe"]).await;
}

#[tokio::test]
async fn slof_of_ppc64le_speaks() {
    speaks("ppc64le", "qemu-system-ppc64", &["SLOF"]).await;
}

#[tokio::test]
async fn the_boot_program_of_s390x_speaks() {
    speaks("s390x", "qemu-system-s390x", &["virtio"]).await;
}
