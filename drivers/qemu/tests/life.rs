//! Suspend, snapshots, screenshots and more processors, with a real QEMU and a guest of one boot sector that counts.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Firmware, Instance, Vm, VmEvent};
use limafs_driver_qemu::Qemu;
use tokio::time::timeout;

/// Prints the letters a to z to the serial port, for ever, a little slowly: where it is, only its memory knows.
const COUNT: &[u8] = &[
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xc6, 0x06, 0x00, 0x06, b'a', // mov byte [0x600], 'a'
    0xa0, 0x00, 0x06, // again: mov al, [0x600]
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0xfe, 0x06, 0x00, 0x06, // inc byte [0x600]
    0x80, 0x3e, 0x00, 0x06, b'z', // cmp byte [0x600], 'z'
    0x76, 0x05, // jbe on
    0xc6, 0x06, 0x00, 0x06, b'a', // mov byte [0x600], 'a'
    0xb9, 0x08, 0x00, // on: mov cx, 8
    0x51, // outer: push cx
    0x31, 0xc9, // xor cx, cx
    0xe2, 0xfe, // loop $
    0x59, // pop cx
    0xe2, 0xf8, // loop outer
    0xeb, 0xdc, // jmp again
];

/// An instance whose VM dies with it.
struct Bench {
    home: tempfile::TempDir,
    qemu: Qemu,
}

impl Bench {
    async fn new() -> Option<Self> {
        let lacks = |program: &str| Command::new(program).arg("--version").output().is_err();
        if !cfg!(target_arch = "x86_64") || lacks("qemu-system-x86_64") || lacks("qemu-img") {
            eprintln!("SKIPPED: needs qemu-system-x86_64 and qemu-img on x86_64");
            return None;
        }
        let bench = Self { home: tempfile::tempdir().unwrap(), qemu: Qemu::new() };
        fs::create_dir(bench.dir()).unwrap();
        let mut sector = COUNT.to_vec();
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        sector.resize(1 << 20, 0);
        let raw = bench.home.path().join("raw");
        fs::write(&raw, sector).unwrap();
        let image = bench.dir().join("image");
        let made = Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([&raw, &image]).status();
        assert!(made.unwrap().success());
        bench.qemu.configure(bench.instance()).await.unwrap();
        bench.qemu.create_disk().await.unwrap();
        Some(bench)
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("bench")
    }

    fn instance(&self) -> Instance {
        let mut instance = Instance {
            name: "bench".into(),
            dir: self.dir(),
            arch: "x86_64".into(),
            cpus: 1,
            memory: 64 << 20,
            disk: 1 << 20,
            ssh_local_port: std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port(),
            ..Instance::default()
        };
        instance.config.firmware = Some(Firmware { legacy_bios: Some(true), images: None });
        instance
    }

    async fn another_driver(&self) -> Qemu {
        let qemu = Qemu::new();
        qemu.configure(self.instance()).await.unwrap();
        qemu
    }

    /// What the guest has printed of its letters, once there are some more than `count`.
    async fn letters(&self, count: usize) -> String {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.dir().join("serial.log")).unwrap_or_default();
            let letters: String = log.chars().rev().take_while(char::is_ascii_lowercase).collect();
            if letters.len() > count {
                return letters.chars().rev().collect();
            }
            assert!(begun.elapsed() < Duration::from_secs(90), "the guest prints no more than {letters:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn has(&self, name: &str) -> bool {
        self.dir().join(name).exists()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.dir().join("qemu.pid")).ok().and_then(|text| text.trim().parse().ok());
        let line = pid.and_then(|pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok());
        if let (Some(pid), Some(true)) = (pid, line.map(|line| line.contains(&*self.dir().to_string_lossy()))) {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
        }
    }
}

async fn exit(vm: &mut Vm) -> bool {
    loop {
        if let VmEvent::Exited { clean, .. } =
            timeout(Duration::from_secs(90), vm.events.recv()).await.unwrap().unwrap()
        {
            return clean;
        }
    }
}

/// The letter after another.
fn next(letter: char) -> char {
    if letter == 'z' { 'a' } else { char::from(letter as u8 + 1) }
}

#[tokio::test]
async fn a_suspended_vm_goes_on_where_it_was() {
    let Some(bench) = Bench::new().await else { return };
    let mut vm = bench.qemu.start().await.unwrap();
    bench.letters(30).await;
    assert!(!bench.qemu.is_suspended().await.unwrap());
    bench.qemu.suspend().await.unwrap();
    assert!(exit(&mut vm).await);
    let last = bench.letters(0).await.chars().last().unwrap();
    assert!(bench.qemu.is_suspended().await.unwrap() && bench.has("limafs.suspended"));
    // A disk of another moment would not fit the memory.
    assert!(bench.qemu.create_snapshot("late").await.unwrap_err().to_string().contains("is suspended"));

    let another = bench.another_driver().await;
    another.start().await.unwrap();
    let first = bench.letters(3).await.chars().next().unwrap();
    assert_eq!(first, next(last), "the first letter after {last:?}");
    assert!(!another.is_suspended().await.unwrap() && !bench.has("limafs.suspended"));

    // And once more: what it was started with is the same.
    another.suspend().await.unwrap();
    assert!(another.is_suspended().await.unwrap());
    another.kill().await.unwrap();
    assert!(another.is_suspended().await.unwrap(), "a kill ends VMs, and nothing else");
    another.discard_suspended().await.unwrap();
    assert!(!another.is_suspended().await.unwrap() && !bench.has("limafs.suspended"));
}

#[tokio::test]
async fn a_suspended_vm_whose_disk_was_used_is_not_gone_on_with() {
    let Some(bench) = Bench::new().await else { return };
    bench.qemu.start().await.unwrap();
    bench.letters(3).await;
    bench.qemu.suspend().await.unwrap();
    fs::File::options().append(true).open(bench.dir().join("disk")).unwrap().set_len(4 << 20).unwrap();
    let error = bench.qemu.start().await.unwrap_err().to_string();
    assert!(error.contains("has been changed since the VM was suspended"), "{error}");
    assert!(bench.qemu.is_suspended().await.unwrap(), "what was saved is kept");
    bench.qemu.discard_suspended().await.unwrap();
    bench.qemu.start().await.unwrap();
    bench.qemu.kill().await.unwrap();
}

#[tokio::test]
async fn a_suspend_that_fails_leaves_the_vm_running() {
    let Some(bench) = Bench::new().await else { return };
    bench.qemu.start().await.unwrap();
    bench.letters(3).await;
    // In the way of the file.
    fs::create_dir(bench.dir().join("limafs.suspended")).unwrap();
    fs::write(bench.dir().join("limafs.suspended/x"), "").unwrap();
    bench.qemu.suspend().await.unwrap_err();
    let printed = fs::read_to_string(bench.dir().join("serial.log")).unwrap().len();
    let begun = Instant::now();
    while fs::read_to_string(bench.dir().join("serial.log")).unwrap().len() <= printed {
        assert!(begun.elapsed() < Duration::from_secs(90), "the guest stands still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fs::remove_dir_all(bench.dir().join("limafs.suspended")).unwrap();
    bench.qemu.kill().await.unwrap();
}

#[tokio::test]
async fn e21_a_running_vm_goes_back_to_its_snapshot() {
    let Some(bench) = Bench::new().await else { return };
    let mut vm = bench.qemu.start().await.unwrap();
    bench.letters(3).await;
    bench.qemu.create_snapshot("first").await.unwrap();
    assert!(bench.qemu.create_snapshot("first").await.unwrap_err().to_string().contains("already"));
    bench.qemu.create_snapshot("second").await.unwrap();
    let there = bench.qemu.snapshots().await.unwrap();
    assert_eq!(there.iter().map(|snapshot| snapshot.tag.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    assert!(there.iter().all(|snapshot| snapshot.vm_size > 0 && snapshot.created > 0));
    bench.qemu.apply_snapshot("first").await.unwrap();
    bench.letters(3).await;
    bench.qemu.delete_snapshot("first").await.unwrap();
    assert!(bench.qemu.apply_snapshot("first").await.unwrap_err().to_string().contains("no snapshot first"));
    // Of another machine than that which runs now.
    bench.qemu.resize(2, 64 << 20).await.unwrap();
    let error = bench.qemu.apply_snapshot("second").await.unwrap_err().to_string();
    assert!(error.contains("is of another machine"), "{error}");
    bench.qemu.kill().await.unwrap();
    assert!(!exit(&mut vm).await);
    assert_eq!(bench.qemu.snapshots().await.unwrap().len(), 1);
    bench.qemu.apply_snapshot("second").await.unwrap();
    bench.qemu.delete_snapshot("second").await.unwrap();
    assert_eq!(bench.qemu.snapshots().await.unwrap(), []);
}

#[tokio::test]
async fn processors_are_added_as_far_as_there_is_room_and_never_taken() {
    let Some(bench) = Bench::new().await else { return };
    bench.qemu.start().await.unwrap();
    bench.qemu.resize(3, 64 << 20).await.unwrap();
    assert!(bench.qemu.resize(2, 64 << 20).await.unwrap_err().to_string().contains("keeps those it has"));
    assert!(bench.qemu.resize(4, 128 << 20).await.unwrap_err().to_string().contains("no room"));
    // What was added is there when it goes on.
    bench.qemu.suspend().await.unwrap();
    bench.qemu.start().await.unwrap();
    assert!(bench.qemu.resize(2, 64 << 20).await.unwrap_err().to_string().contains("keeps those it has"));
    bench.qemu.resize(4, 64 << 20).await.unwrap();
    bench.qemu.kill().await.unwrap();
}

#[tokio::test]
async fn a_vm_without_a_display_has_no_picture() {
    let Some(bench) = Bench::new().await else { return };
    bench.qemu.start().await.unwrap();
    let error = bench.qemu.screenshot().await.unwrap_err();
    assert!(matches!(error, limafs_driver::Error::Unsupported { .. }), "{error}");
    assert!(!bench.has("limafs.screen.png"));
    bench.qemu.kill().await.unwrap();
}
