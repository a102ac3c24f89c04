//! Devices of a VM that others reach: a real QEMU without a guest.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use limafs_driver::{Driver, Firmware, Instance};
use limafs_driver_qemu::Qemu;
use rustix::process::{Pid, Signal, kill_process};

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no {program}");
    }
    there
}

/// A VM that dies with its test.
struct Started {
    qemu: Qemu,
    pid: u32,
}

impl std::ops::Deref for Started {
    type Target = Qemu;

    fn deref(&self) -> &Qemu {
        &self.qemu
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Where the test went well it is reaped, and the number not yet another's.
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        if line.contains("lima-bench") {
            let _ = kill_process(Pid::from_raw(self.pid.cast_signed()).unwrap(), Signal::KILL);
        }
    }
}

/// A VM with an empty disk in `dir`, configured by `config` and started.
async fn started(dir: &Path, config: &str) -> Started {
    fs::write(dir.join("disk"), vec![0; 1 << 20]).unwrap();
    let mut instance = Instance {
        name: "bench".into(),
        dir: dir.into(),
        arch: "x86_64".into(),
        cpus: 1,
        memory: 64 << 20,
        ssh_local_port: std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port(),
        config: serde_json::from_str(config).unwrap(),
        ..Instance::default()
    };
    instance.config.firmware = Some(Firmware { legacy_bios: Some(true), images: None });
    let qemu = Qemu::new();
    qemu.configure(instance).await.unwrap();
    qemu.validate().await.unwrap();
    let pid = qemu.start().await.unwrap().pid.unwrap();
    Started { qemu, pid }
}

#[tokio::test]
async fn a_vnc_display_asks_for_the_password_and_its_files_go_with_the_vm() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let vnc = r#"{"video": {"display": "vnc", "vnc": {"display": "127.0.0.1:100,to=299"}}}"#;
    let qemu = started(dir.path(), vnc).await;
    qemu.change_display_password("secret12").await.unwrap();
    let port: u16 = qemu.display_connection().await.unwrap().parse().unwrap();
    assert!((6000..6200).contains(&port), "{port}");

    // RFB 3.8: a version, then the ways to log in. 2 is by password, and must be the only one.
    let mut screen = TcpStream::connect(("127.0.0.1", port)).unwrap();
    screen.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut version = [0; 12];
    screen.read_exact(&mut version).unwrap();
    std::io::Write::write_all(&mut screen, &version).unwrap();
    let mut ways = [0; 2];
    screen.read_exact(&mut ways).unwrap();
    assert_eq!((&version, ways), (b"RFB 003.008\n", [1, 2]));

    for name in ["vncdisplay", "vncpassword"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    qemu.kill().await.unwrap();
    assert!(!dir.path().join("vncdisplay").exists() && !dir.path().join("vncpassword").exists());
    assert!(qemu.display_connection().await.is_err());
}

#[tokio::test]
async fn a_vm_without_a_vnc_display_has_no_connection_to_one() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let qemu = started(dir.path(), "{}").await;
    let error = qemu.display_connection().await.unwrap_err().to_string();
    assert_eq!(error, "VNC: the VM has no such display");
    qemu.kill().await.unwrap();
}

#[tokio::test]
async fn a_tpm_serves_its_vm_keeps_its_state_and_ends_with_it() {
    if !has("qemu-system-x86_64") || !has("swtpm") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let qemu = started(dir.path(), r#"{"tpm": true}"#).await;
        let pid = fs::read_to_string(dir.path().join("swtpm.pid")).unwrap().trim().to_owned();
        assert!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("swtpm"));
        qemu.kill().await.unwrap();
        assert!(!Path::new("/proc").join(&pid).exists(), "swtpm is still there");
        assert!(!dir.path().join("swtpm.sock").exists() && dir.path().join("swtpm").is_dir());
    }
}
