//! A real guest under QEMU's driver as a program of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::fleet::LIMAFS;
use crate::common::{Case, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, boot, boot_id, fast, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![needing(lacks_program): a_guest_of_an_outside_driver_outlives_its_hostagent]
}

fn built() -> PathBuf {
    Path::new(LIMAFS).with_file_name("lima-driver-qemu")
}

fn lacks_program() -> Option<String> {
    (!built().is_file()).then(|| "no lima-driver-qemu beside limafs (cargo build -p limafs-driver-qemu)".into())
}

fn a_guest_of_an_outside_driver_outlives_its_hostagent() -> Outcome {
    let mut fleet = Fleet::unmounted()?;
    let program = fleet.root().join("lima-driver-outside");
    fs::copy(built(), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fleet.env.push(("LIMA_DRIVERS_PATH".into(), program.display().to_string()));
    fleet.mount()?;
    fleet.create("foo", &fast("")?.replace("vmType: qemu", "vmType: outside"))?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(fleet.status("foo", "driver").as_deref(), Some("outside"));
    same!(ssh(&fleet, "foo", "hostname")?, "lima-foo");
    let (first, vm) = (boot_id(&fleet, "foo")?, fleet.vm("foo"));
    ensure!(vm.is_some(), "no VM in status.json");
    let hostagent = wait_for("a hostagent", secs(5), || fleet.hostagent("foo"))?;
    procs::signal(hostagent, Signal::KILL);
    wait_until("the VM is taken up again", secs(20), || {
        fleet.hostagent("foo").is_some_and(|pid| pid != hostagent) && fleet.vm("foo") == vm
    })?;
    fleet.wait_state("foo", "Running", secs(60))?;
    same!(boot_id(&fleet, "foo")?, first);
    stop(&fleet, "foo")
}
