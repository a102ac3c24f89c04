//! Drivers that are programs, across the border: ours under limactl, Lima's own under us.
//!
//! `LIMAFS_TEST_LIMACTL_EXTERNAL` names a limactl that was built with the tag `external_qemu` (one that has QEMU built in
//! asks no other driver of that name), `LIMAFS_TEST_LIMA_DRIVER` Lima's own `lima-driver-qemu`. That one takes any /dev/kvm
//! for one that works; where it does not, `QEMU_SYSTEM_X86_64="qemu-system-x86_64 -machine q35,accel=tcg -cpu qemu64"`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use limafs::config::{self, Context, Layers};
use limafs::host::Host;
use limafs::names::Name;
use limafs_driver::{Driver, Instance, Remote, VmEvent};

use crate::common::{Failed, Fleet, Outcome, procs, secs, suite, wait_until};
use crate::{ensure, same};

/// As long as a boot may take on a machine that does other things, too.
const BOOT: u64 = 180;

pub fn lacks_external_limactl() -> Option<String> {
    match (std::env::var_os("LIMAFS_TEST_LIMACTL_EXTERNAL"), ours().exists()) {
        (None, _) => Some("LIMAFS_TEST_LIMACTL_EXTERNAL names no limactl".into()),
        (_, false) => Some("lima-driver-qemu is not built".into()),
        _ => suite::lacks_guest(),
    }
}

pub fn lacks_limas_driver() -> Option<String> {
    match std::env::var_os("LIMAFS_TEST_LIMA_DRIVER") {
        None => Some("LIMAFS_TEST_LIMA_DRIVER names no driver".into()),
        Some(_) => suite::lacks_guest(),
    }
}

/// Our driver's program, beside limafs.
fn ours() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_limafs")).with_file_name("lima-driver-qemu")
}

fn document() -> Result<String, Failed> {
    let guest = suite::guest_dir().ok_or("LIMAFS_TEST_GUEST is not set")?.display().to_string();
    Ok(format!(
        "vmType: qemu\narch: x86_64\nplain: true\ncpus: 1\nmemory: 256MiB\ndisk: 4GiB\nmounts: []\n\
         containerd: {{system: false, user: false}}\nimages:\n- location: {guest}/fast.qcow2\n  arch: x86_64\n  kernel:\n    \
         location: {guest}/vmlinuz-cloud\n    cmdline: root=/dev/vda1 rw console=ttyS0\n  initrd:\n    \
         location: {guest}/initrd-cloud\n"
    ))
}

pub fn limactl_boots_a_guest_with_our_driver() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let drivers = fleet.root().join("drivers");
    fs::create_dir(&drivers)?;
    symlink(ours(), drivers.join("lima-driver-qemu"))?;
    fs::write(fleet.root().join("foo.yaml"), document()?)?;
    // The variable is for the other way round: our driver says itself which machine and accelerator it wants.
    let before = format!(
        "cd / && env -u QEMU_SYSTEM_X86_64 LIMA_DRIVERS_PATH='{}' \"$LIMAFS_TEST_LIMACTL_EXTERNAL\" --tty=false",
        drivers.display()
    );
    let limactl = |arguments: &str| fleet.sh_within(&format!("{before} {arguments}"), secs(BOOT))?.text();
    limactl(&format!("create --name=foo '{}'", fleet.root().join("foo.yaml").display()))?;
    limactl("start foo")?;
    same!(limactl("list --format '{{.Status}}' foo")?, "Running");
    ensure!(fleet.home.join("foo/qemu.drv.sock").exists(), "no driver serves");
    same!(limactl("shell --workdir / foo hostname")?, "lima-foo");
    limactl("stop foo")?;
    same!(limactl("list --format '{{.Status}}' foo")?, "Stopped");
    let log = fs::read_to_string(fleet.home.join("foo/driver.stderr.log"))?;
    ensure!(log.contains("guest-shutdown"), "it was not the guest that ended: {log}");
    limactl("delete foo")?;
    wait_until("no driver is left", secs(20), || procs::naming(&fleet.home.join("foo")).is_empty())
}

pub fn limas_own_driver_boots_a_guest_for_us() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(boot_with_limas_driver())
}

async fn boot_with_limas_driver() -> Outcome {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("foo");
    fs::create_dir(&dir)?;
    let guest = suite::guest_dir().ok_or("LIMAFS_TEST_GUEST is not set")?;
    for (from, to) in [("fast.qcow2", "image"), ("vmlinuz-cloud", "kernel"), ("initrd-cloud", "initrd")] {
        fs::copy(guest.join(from), dir.join(to))?;
    }
    fs::write(dir.join("kernel.cmdline"), "root=/dev/vda1 rw console=ttyS0")?;
    // Nothing is asked of the guest but to boot.
    fs::write(dir.join("cidata.iso"), vec![0; 1 << 20])?;
    let program = std::env::var_os("LIMAFS_TEST_LIMA_DRIVER").ok_or("no driver")?;
    let remote = Remote::new("qemu", program.into(), None);
    let configured = remote.configure(instance(dir.clone())?).await?;
    same!(configured.config.vm_type.as_deref(), Some("qemu"));
    same!(remote.info().name, "qemu");
    remote.validate().await?;
    remote.create().await?;
    remote.create_disk().await?;
    let mut vm = remote.start().await?;
    ensure!(vm.pid.is_some(), "its process is not known");
    let has_booted = || fs::read_to_string(dir.join("serial.log")).is_ok_and(|log| log.contains("Linux version"));
    tokio::task::block_in_place(|| wait_until("the kernel says so", secs(BOOT), has_booted))?;
    let server = fs::read_to_string(dir.join("qemu.drv.pid"))?.parse()?;
    remote.kill().await?;
    let last = vm.events.recv().await;
    same!(last, Some(VmEvent::Exited { clean: false, reason: "killed".into() }));
    ensure!(!procs::is_alive(server) && !dir.join("qemu.drv.sock").exists(), "its server is left");
    ensure!(!vm.pid.is_some_and(procs::is_alive), "its VM is left");
    Ok(())
}

fn instance(dir: PathBuf) -> Result<Instance, Failed> {
    let (name, host) = (Name::parse("foo")?, Host::detect()?);
    let layers = Layers { overrides: None, defaults: None };
    let context = Context { name: &name, dir: dir.clone(), host: &host, layers };
    let config = config::load(document()?.as_bytes(), &context)?.filled;
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    Ok(Instance {
        name: "foo".into(),
        hostname: "lima-foo".into(),
        status: "Stopped".into(),
        dir,
        vm_type: "qemu".into(),
        arch: "x86_64".into(),
        cpus: 1,
        memory: 256 << 20,
        disk: 4 << 30,
        ssh_local_port: port,
        config,
        ..Instance::default()
    })
}
