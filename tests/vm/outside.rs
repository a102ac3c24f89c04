//! A real guest whose driver is a program outside of limafs: our QEMU driver under a name of its own, so that the built-in
//! one does not come first; and Lima's, where `LIMAFS_TEST_LIMA_DRIVER` names its lima-driver-qemu.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::fleet::LIMAFS;
use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, boot, boot_id, fast, ssh, stop};
use crate::{cases, ensure, same};

const FILE: &str = "lima-driver-myqemu";

pub fn cases() -> Vec<Case> {
    let mut all = cases![needing(lacks_program): a_guest_of_an_outside_driver_is_as_any_other];
    all.extend(cases![optional(lacks_limas): a_guest_of_limas_own_driver_boots_and_stops]);
    all
}

/// The program that the tests of its own crate are of.
fn built() -> PathBuf {
    Path::new(LIMAFS).with_file_name("lima-driver-qemu")
}

fn lacks_program() -> Option<String> {
    (!built().is_file()).then(|| "no lima-driver-qemu beside limafs (cargo build -p limafs-driver-qemu)".into())
}

fn limas() -> Option<PathBuf> {
    std::env::var_os("LIMAFS_TEST_LIMA_DRIVER").map(PathBuf::from)
}

fn lacks_limas() -> Option<String> {
    limas().is_none().then(|| "LIMAFS_TEST_LIMA_DRIVER names no lima-driver-qemu of Lima's".into())
}

/// QEMU without KVM: Lima's driver takes a /dev/kvm for one that works.
const EMULATED: &str =
    "#!/bin/bash\nwords=(\"${@//accel=kvm/accel=tcg}\")\nexec qemu-system-x86_64 \"${words[@]/#host/max}\"\n";

fn with_driver(built: &Path) -> Result<Fleet, Failed> {
    let mut fleet = Fleet::unmounted()?;
    let dir = fleet.root().join("drivers");
    fs::create_dir(&dir)?;
    let program = dir.join(FILE);
    fs::copy(built, &program)?;
    let emulated = dir.join("qemu");
    fs::write(&emulated, EMULATED)?;
    for path in [&dir, &program, &emulated] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    fleet.env.push(("LIMA_DRIVERS_PATH".into(), program.display().to_string()));
    if limas().as_deref() == Some(built) {
        fleet.env.push(("QEMU_SYSTEM_X86_64".into(), emulated.display().to_string()));
    }
    fleet.mount()?;
    Ok(fleet)
}

/// Processes of the driver that serve an instance.
fn servers(fleet: &Fleet) -> Vec<u32> {
    let is_server = |pid: &u32| procs::arguments(*pid).first().is_some_and(|program| program.ends_with(FILE));
    fleet.processes().into_iter().filter(|pid| procs::is_alive(*pid) && is_server(pid)).collect()
}

fn answer(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(secs(10))).ok()?;
    stream.write_all(b"forwarded").ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn a_guest_of_an_outside_driver_is_as_any_other() -> Outcome {
    let fleet = with_driver(&built())?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let rule = format!("portForwards:\n- {{guestPort: 8007, hostPort: {port}, static: true}}\n");
    fleet.create("foo", &fast(&rule)?.replace("vmType: qemu", "vmType: myqemu"))?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(fleet.status("foo", "driver").as_deref(), Some("myqemu"));
    same!(ssh(&fleet, "foo", "hostname")?, "lima-foo");
    same!(ssh(&fleet, "foo", "getent hosts host.lima.internal | awk '{print $1}'")?, "192.168.5.2");
    let (vm, first) = (wait_for("the VM's process", secs(5), || fleet.vm("foo"))?, boot_id(&fleet, "foo")?);
    same!(servers(&fleet).len(), 1);

    let echo = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:8007\", Listen => 8) or die; \
        while ($c = $s->accept) { local $/; $d = <$c>; print $c $d; close $c }";
    ssh(&fleet, "foo", &format!("setsid perl -e '{echo}' </dev/null >/dev/null 2>&1 &"))?;
    wait_until("a forward carries", secs(60), || answer(port).as_deref() == Some("forwarded"))?;

    fleet.ok("echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", secs(10))?;
    fleet.ok("echo resume > foo/state")?;
    fleet.wait_state("foo", "Running", secs(10))?;

    let hostagent = fleet.hostagent("foo").ok_or("no hostagent")?;
    procs::signal(hostagent, Signal::KILL);
    wait_until("another hostagent", secs(20), || fleet.hostagent("foo").is_some_and(|pid| pid != hostagent))?;
    fleet.wait_state("foo", "Running", secs(20))?;
    wait_until("the same VM", secs(10), || fleet.vm("foo") == Some(vm))?;
    same!(boot_id(&fleet, "foo")?, first);
    wait_until("the forward carries again", secs(60), || answer(port).as_deref() == Some("forwarded"))?;

    stop(&fleet, "foo")?;
    ensure!(!procs::is_alive(vm), "the VM is still there");
    wait_until("its driver has ended", secs(10), || servers(&fleet).is_empty())
}

/// It knows no pause, and its VM ends with the hostagent.
fn a_guest_of_limas_own_driver_boots_and_stops() -> Outcome {
    let fleet = with_driver(&limas().ok_or("no driver of Lima's")?)?;
    fleet.create("foo", &fast("")?.replace("vmType: qemu", "vmType: myqemu"))?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "hostname")?, "lima-foo");
    same!(servers(&fleet).len(), 1);
    stop(&fleet, "foo")?;
    wait_until("its driver has ended", secs(10), || servers(&fleet).is_empty())?;
    same!(fleet.vms(), 0);
    boot(&fleet, "foo", FAST_BOOT)?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(10))
}
