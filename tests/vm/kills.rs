//! The kill -9 matrix: mount, hostagent, both, QEMU, at several moments of a real guest's life.

use rustix::process::Signal;

use crate::common::{Case, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, boot, boot_id, fast, ssh, stop, up};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        a_running_guest_survives_every_kill,
        a_booting_guest_survives_every_kill,
        a_stop_survives_the_death_of_its_hostagent,
        x10_a_killed_qemu_is_told_and_starts_again,
        a_kill_after_the_first_boot_loses_no_host_key,
        x06_the_console_has_no_gap_over_a_kill,
    ]
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
struct Victims {
    mount: bool,
    hostagent: bool,
}

const MATRIX: [Victims; 3] = [
    Victims { mount: true, hostagent: false },
    Victims { mount: false, hostagent: true },
    Victims { mount: true, hostagent: true },
];

/// Kills, and mounts again if need be.
fn strike(fleet: &Fleet, name: &str, victims: Victims) -> Outcome {
    if victims.mount {
        fleet.kill_daemon()?;
    }
    if victims.hostagent {
        let pid = wait_for("a hostagent to kill", secs(5), || fleet.hostagent(name))?;
        procs::signal(pid, Signal::KILL);
        wait_until("the hostagent's end", secs(5), || !procs::is_alive(pid))?;
    }
    if victims.mount { fleet.mount() } else { Ok(()) }
}

fn a_running_guest_survives_every_kill() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let (vm, first) = (fleet.vm("foo"), boot_id(&fleet, "foo")?);
    for victims in MATRIX {
        strike(&fleet, "foo", victims)?;
        fleet.wait_state("foo", "Running", secs(10))?;
        wait_until("the VM's pid is known", secs(10), || fleet.vm("foo").is_some())?;
        same!(fleet.vm("foo"), vm, "after {victims:?}");
        same!(boot_id(&fleet, "foo")?, first, "after {victims:?}");
    }
    stop(&fleet, "foo")?;
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    boot(&fleet, "foo", FAST_BOOT)?;
    stop(&fleet, "foo")
}

fn a_booting_guest_survives_every_kill() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    for victims in MATRIX {
        fleet.ok("echo start > foo/state")?;
        let vm = wait_for("a VM", secs(30), || fleet.vm("foo"))?;
        wait_until("the guest's console has begun", secs(60), || !fleet.read("foo/serial.log").is_empty())?;
        strike(&fleet, "foo", victims)?;
        ensure!(procs::is_alive(vm), "the VM died with {victims:?}");
        up(&fleet, "foo", FAST_BOOT)?;
        same!(fleet.vm("foo"), Some(vm), "after {victims:?}");
        ssh(&fleet, "foo", "true")?;
        fleet.ok("echo kill > foo/state")?;
        fleet.wait_state("foo", "Stopped", secs(5))?;
        ensure!(!procs::is_alive(vm), "the VM is still there");
    }
    Ok(())
}

fn a_stop_survives_the_death_of_its_hostagent() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    for victims in MATRIX {
        boot(&fleet, "foo", FAST_BOOT)?;
        let vm = fleet.vm("foo");
        fleet.ok("echo stop > foo/state")?;
        strike(&fleet, "foo", victims)?;
        fleet.wait_state("foo", "Stopped", secs(60))?;
        ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there after {victims:?}");
    }
    Ok(())
}

/// The key is pinned with the first login; a guest that made another one afterwards could not be told from an impostor.
fn a_kill_after_the_first_boot_loses_no_host_key() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(10))?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "echo there")?, "there");
    stop(&fleet, "foo")
}

fn x10_a_killed_qemu_is_told_and_starts_again() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    ssh(&fleet, "foo", "echo kept > ~/kept; sync")?;
    let vm = fleet.vm("foo").ok_or("no VM")?;
    procs::signal(vm, Signal::KILL);
    wait_until("QEMU's death is told", secs(5), || ["Stopped", "Broken"].contains(&fleet.state("foo").as_str()))?;
    let error = fleet.read("foo/error");
    ensure!(!error.is_empty(), "without a reason");
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "cat ~/kept")?, "kept");
    stop(&fleet, "foo")
}

fn x06_the_console_has_no_gap_over_a_kill() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    ssh(
        &fleet,
        "foo",
        "sudo sh -c 'for i in $(seq 1 200); do echo mark-$i > /dev/ttyS0; sleep 0.02; done' >/dev/null 2>&1 &",
    )?;
    wait_until("the first mark", secs(20), || fleet.read("foo/serial.log").contains("mark-1\r"))?;
    strike(&fleet, "foo", Victims { mount: true, hostagent: true })?;
    wait_until("the last mark", secs(60), || fleet.read("foo/serial.log").contains("mark-200\r"))?;
    let log = fleet.read("foo/serial.log");
    let marks = log.lines().filter(|line| line.starts_with("mark-")).count();
    same!(marks, 200);
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(5))
}
