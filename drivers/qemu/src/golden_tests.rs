//! Whole command lines, one kept file for each way to run a machine, and each put to the real QEMU where there is one.
//!
//! After a change that is meant to show, `LIMAFS_GOLDEN=write cargo test -p limafs-driver-qemu golden` writes the files
//! anew; the difference is for a person to read before it is committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use limafs_driver::{Accelerator, DataDisk, Instance};

use crate::command_line::{Boot, Image, Kernel, Plan, Share, command_line};
use crate::display::{Display, Sound};
use crate::image::Format;
use crate::program::{self, Version};
use crate::qmp::Connection;
use crate::{firmware, machine, plan, swtpm};

const REGENERATE: &str = "LIMAFS_GOLDEN";
const DEADLINE: Duration = Duration::from_secs(60);

/// A plain VM of an architecture, as a start plans it: firmware, a disk, cidata.
fn plain(arch: &str, dir: &Path) -> Plan {
    let machine = machine::find(arch).unwrap();
    Plan {
        program: vec![machine.program.into()],
        version: Version(7, 2, 0),
        sandbox: true,
        machine,
        accelerator: "tcg".into(),
        cpu: machine.tcg_cpu.into(),
        cpus: 2,
        // Not the room that this machine's own processors would give.
        max_cpus: if arch == "x86_64" { 4 } else { 2 },
        memory_mib: 512,
        name: "foo".into(),
        dir: dir.into(),
        boot: Boot::default(),
        disk: Format::Qcow2,
        disks: vec![],
        has_iso: false,
        has_cidata: true,
        data_disks: vec![],
        ssh_port: 2222,
        mac: "52:55:55:00:11:22".into(),
        networks: vec![],
        shares: vec![],
        virtiofs: vec![],
        display: Display::None,
        sound: None,
        tpm: None,
    }
}

fn with_share(mut plan: Plan) -> Plan {
    let path = plan.dir.join("share");
    plan.shares = vec![Share { tag: "lima-0".into(), path, security_model: "none".into(), writable: false }];
    plan
}

/// With a screen over VNC, sound and, where the machine has one, a TPM.
fn desktop(mut plan: Plan, is_virtio: bool) -> Plan {
    plan.display = Display::Vnc("127.0.0.1:0,to=99".into());
    plan.sound = plan.machine.sound.then(|| Sound { driver: "none".into(), is_virtio });
    plan.tpm = plan.machine.tpm;
    plan
}

fn booting(mut plan: Plan, boot: Boot) -> Plan {
    plan.boot = boot;
    plan
}

fn of_version(mut plan: Plan, version: Version) -> Plan {
    plan.version = version;
    plan
}

/// All disks that a VM may have, and a CD that boots first.
fn with_disks(mut plan: Plan) -> Plan {
    plan.has_iso = true;
    plan.disks = vec![(plan.dir.join("data"), Format::Raw)];
    plan.data_disks = vec![DataDisk { serial: "archive".into(), path: plan.dir.join("archive") }];
    plan
}

fn under_kvm(mut plan: Plan) -> Plan {
    plan.accelerator = "kvm".into();
    plan.cpu = "host".into();
    plan
}

fn cases(dir: &Path) -> Vec<(&'static str, Plan)> {
    let flash = || Boot { firmware: Some(Image::Flash("/firmware/code.fd".into())), kernel: None };
    let bios = || Boot { firmware: Some(Image::Bios("/firmware/code.fd".into())), kernel: None };
    let loader = || Kernel { kernel: "/firmware/loader.elf".into(), append: None, initrd: None };
    let loader = || Boot { firmware: None, kernel: Some(loader()) };
    let kernel = |boot: Boot| {
        let (kernel, initrd) = (dir.join("kernel"), Some(dir.join("initrd")));
        Boot { kernel: Some(Kernel { kernel, append: Some("root=/dev/vda1 quiet".into()), initrd }), ..boot }
    };
    let plain = |arch| plain(arch, dir);
    vec![
        ("x86_64", with_share(booting(plain("x86_64"), flash()))),
        ("x86_64-kvm", under_kvm(booting(plain("x86_64"), flash()))),
        ("x86_64-bios-disks", with_disks(plain("x86_64"))),
        ("x86_64-desktop", desktop(plain("x86_64"), false)),
        ("x86_64-desktop-9.0", desktop(of_version(plain("x86_64"), Version(9, 0, 0)), true)),
        ("aarch64", with_share(booting(plain("aarch64"), flash()))),
        ("aarch64-kernel", booting(plain("aarch64"), kernel(flash()))),
        ("aarch64-bios-disks", with_disks(booting(plain("aarch64"), bios()))),
        ("aarch64-desktop", desktop(booting(plain("aarch64"), flash()), false)),
        ("armv7l", desktop(with_share(booting(plain("armv7l"), flash())), false)),
        ("riscv64", desktop(with_disks(booting(plain("riscv64"), loader())), false)),
        ("riscv64-9.0", booting(of_version(plain("riscv64"), Version(9, 0, 0)), flash())),
        ("s390x-kernel", booting(plain("s390x"), kernel(Boot::default()))),
        ("ppc64le", desktop(with_share(with_disks(plain("ppc64le"))), false)),
        ("s390x", desktop(with_share(with_disks(plain("s390x"))), false)),
    ]
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Words, an option and its value on one line.
fn text(plan: &Plan) -> String {
    let words: Vec<String> = command_line(plan).iter().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ").replace(" -", "\n-") + "\n"
}

#[test]
fn golden_command_lines_are_what_is_kept() {
    let write = std::env::var_os(REGENERATE).is_some_and(|word| word == "write");
    let cases = cases(Path::new("/h/foo"));
    for (name, plan) in &cases {
        let path = golden().join(format!("{name}.args"));
        if write {
            fs::write(&path, text(plan)).unwrap();
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text(plan), kept, "{name}: if that is meant, {REGENERATE}=write writes it anew");
    }
    for entry in fs::read_dir(golden()).unwrap() {
        let name = entry.unwrap().path().with_extension("");
        let name = name.file_name().unwrap().to_owned();
        assert!(cases.iter().any(|(case, _)| *case == name), "{} belongs to no case", name.display());
    }
}

/// Ends with the test that started it.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // Gone already where the test went well.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Why QEMU cannot be asked here, which is a failure where `LIMAFS_REQUIRE` asks for real VMs.
fn skip(why: &str) {
    let required = std::env::var("LIMAFS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|group| group == "vm"), "{why}");
    eprintln!("SKIPPED: {why}");
}

fn make_files(dir: &Path) {
    fs::create_dir_all(dir.join("share")).unwrap();
    for name in ["disk", "data", "iso", "cidata.iso", "archive", "kernel", "initrd"] {
        fs::File::create(dir.join(name)).unwrap().set_len(1 << 20).unwrap();
    }
}

/// The same VM as the program of this machine would run it: its version, CPU and firmware.
async fn real(mut plan: Plan) -> Option<Plan> {
    let program = program::find(plan.machine).await.inspect_err(|error| skip(&error.to_string())).ok()?;
    let instance = Instance { arch: plan.machine.arch.into(), dir: plan.dir.join("own"), ..Instance::default() };
    fs::create_dir(&instance.dir).unwrap();
    if matches!(&plan.boot.firmware, Some(Image::Bios(_))) {
        // One that was downloaded and does not fill the flash.
        fs::write(instance.dir.join("qemu-efi-code.fd"), "firmware").unwrap();
    }
    let (own, loader): (Vec<_>, Vec<_>) =
        plan.boot.kernel.take().into_iter().partition(|kernel| kernel.initrd.is_some());
    if plan.boot.firmware.is_some() || !loader.is_empty() {
        let found = firmware::find(&instance, plan.machine, &program);
        plan.boot = found.inspect_err(|error| skip(&error.to_string())).ok()?;
    }
    plan.boot.kernel = own.into_iter().next().or(plan.boot.kernel);
    let tcg = Accelerator { name: "tcg".into(), reason: String::new() };
    plan.cpu = plan::cpu(&instance, plan.machine, &program, &tcg).unwrap();
    plan.accelerator = tcg.name;
    plan.version = program.version;
    plan.sandbox = program.sandbox;
    plan.program = program.words;
    plan.disk = Format::Raw;
    plan.ssh_port = 0;
    Some(plan)
}

#[tokio::test]
async fn golden_command_lines_are_accepted_by_the_real_qemu() {
    for index in 0..cases(Path::new("/")).len() {
        let dir = tempfile::tempdir().unwrap();
        let (name, plan) = cases(dir.path()).swap_remove(index);
        make_files(dir.path());
        let Some(plan) = real(plan).await else { continue };
        let _tpm = match (plan.tpm, swtpm::find()) {
            (None, _) => None,
            (Some(_), Ok(program)) => Some(swtpm::start(program, dir.path()).await.unwrap()),
            (Some(_), Err(error)) => {
                skip(&error.to_string());
                continue;
            }
        };
        accept(name, &plan).await;
        crate::process::clean(dir.path());
    }
}

/// Starts it, without its guest, and has it say that it waits for the start and quit.
async fn accept(name: &str, plan: &Plan) {
    let words = command_line(plan);
    let said = plan.dir.join("said");
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).arg("-S").stderr(fs::File::create(&said).unwrap());
    let mut qemu = Ending(command.spawn().unwrap());
    let start = Instant::now();
    let mut connection = loop {
        if let Ok(connection) = Connection::open(&plan.dir.join("limafs.qmp.sock")).await {
            break connection;
        }
        let ended = qemu.0.try_wait().unwrap();
        let said = fs::read_to_string(&said).unwrap_or_default();
        assert!(ended.is_none() && start.elapsed() < DEADLINE, "{name}: {said}{}", text(plan));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    connection.send("query-status", None, None).await.unwrap();
    let status = format!("{:?}", connection.next().await.unwrap());
    assert!(status.contains("prelaunch"), "{name}: {status}");
    connection.send("quit", None, None).await.unwrap();
    while qemu.0.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < DEADLINE, "{name} does not quit");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(qemu.0.wait().unwrap().success(), "{name}: {}", fs::read_to_string(&said).unwrap());
}
