//! kill -9 of the mount, of hostagents, of both, at any moment: VMs go on, and whoever comes next finds them.
//! With the pretend driver; tests/vm does the same with real guests.

#[path = "../common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::time::Instant;

use common::fleet::FAKE;
use common::{Fleet, Outcome, in_time, procs, secs, wait_until};
use rustix::process::Signal;

fn main() -> ExitCode {
    let all = cases![
        x06_a_running_vm_outlives_the_mount,
        a_running_vm_outlives_its_hostagent,
        a_running_vm_outlives_both,
        an_adopted_vm_can_be_stopped,
        x01_a_mount_killed_at_any_moment_of_a_create_leaves_nothing_half_made,
        x02_a_mount_killed_at_any_moment_of_a_start_leaves_one_vm_or_none,
        x03_a_mount_killed_during_a_stop_does_not_lose_it,
        a_hostagent_killed_at_any_moment_of_a_start_leaves_one_vm_or_none,
        x08_a_forged_pid_is_never_signalled,
        x10_a_killed_vm_is_told_within_1_s_and_starts_again,
        sigterm_to_a_hostagent_leaves_the_vm,
        sigint_to_a_hostagent_stops_the_vm,
        another_home_is_another_world,
    ];
    common::run("mounted", common::suite::lacks_fuse(), 2, all)
}

/// Fails unless the instance is soon shown Running with that VM.
fn adopted(fleet: &Fleet, name: &str, vm: Option<u32>) -> Outcome {
    fleet.wait_state(name, "Running", secs(10))?;
    wait_until("the VM's pid is known", secs(10), || fleet.vm(name).is_some())?;
    same!(fleet.vm(name), vm, "another VM");
    ensure!(vm.is_some_and(procs::is_alive), "the VM is dead");
    Ok(())
}

fn kill_hostagent(fleet: &Fleet, name: &str) -> Outcome {
    let pid = fleet.hostagent(name).ok_or("no hostagent")?;
    procs::signal(pid, Signal::KILL);
    wait_until("the hostagent's end", secs(5), || !procs::is_alive(pid))
}

fn x06_a_running_vm_outlives_the_mount() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let (vm, agent) = (fleet.vm("foo"), fleet.hostagent("foo"));
    for _ in 0..5 {
        fleet.kill_daemon()?;
        fleet.mount()?;
        adopted(&fleet, "foo", vm)?;
        same!(fleet.hostagent("foo"), agent);
    }
    Ok(())
}

fn a_running_vm_outlives_its_hostagent() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let vm = fleet.vm("foo");
    // Three deaths within a minute are taken for a fault of the hostagent's own.
    for _ in 0..2 {
        kill_hostagent(&fleet, "foo")?;
        wait_until("another hostagent comes", secs(5), || fleet.hostagent("foo").is_some())?;
        adopted(&fleet, "foo", vm)?;
    }
    Ok(())
}

fn a_running_vm_outlives_both() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let vm = fleet.vm("foo");
    for _ in 0..5 {
        fleet.kill_daemon()?;
        kill_hostagent(&fleet, "foo")?;
        fleet.mount()?;
        adopted(&fleet, "foo", vm)?;
    }
    Ok(())
}

fn an_adopted_vm_can_be_stopped() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let vm = fleet.vm("foo");
    fleet.kill_daemon()?;
    kill_hostagent(&fleet, "foo")?;
    fleet.mount()?;
    same!(fleet.ok("echo stop > foo/state && timeout 60 cat foo/wait/Stopped")?, "Stopped");
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    fleet.ok("rmdir foo").map(drop)
}

/// Starts a background line and kills `victim` (looked up again and again) after ever longer delays of the line's own
/// progress: `round` counts the polls before the kill.
fn kill_after(polls: usize, mut victim: impl FnMut() -> Option<u32>) -> Outcome {
    let mut seen = 0;
    wait_until("the moment to kill", secs(20), || {
        seen += 1;
        seen > polls && victim().inspect(|pid| procs::signal(*pid, Signal::KILL)).is_some()
    })
}

fn x01_a_mount_killed_at_any_moment_of_a_create_leaves_nothing_half_made() -> Outcome {
    let fleet = Fleet::mounted()?;
    std::fs::write(fleet.root().join("foo.yaml"), FAKE)?;
    for round in 0..12 {
        let name = format!("foo{round}");
        let job = fleet.start(&format!("mkdir {name} && cp ~/foo.yaml {name}/lima.yaml; true"))?;
        kill_after(round, || fleet.daemon().ok())?;
        drop(job);
        wait_until("the daemon's end", secs(5), || fleet.daemon_now().is_none())?;
        fleet.mount()?;
        if fleet.mnt.join(&name).exists() {
            let (state, text) = (fleet.state(&name), fleet.read(&format!("{name}/lima.yaml")));
            let whole = (state == "Stopped" && text == FAKE) || (state == "Uninitialized" && text.is_empty());
            ensure!(whole, "round {round}: {state:?} with {text:?}");
            fleet.ok(&format!("rmdir {name}"))?;
        }
    }
    let left = fleet.ok("find $H -name '*.tmp' | head -3")?;
    same!(left, "");
    Ok(())
}

fn x02_a_mount_killed_at_any_moment_of_a_start_leaves_one_vm_or_none() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    for round in 0..10 {
        let job = fleet.start("echo start > foo/state")?;
        kill_after(2 * round, || fleet.daemon().ok())?;
        drop(job);
        wait_until("the daemon's end", secs(5), || fleet.daemon_now().is_none())?;
        fleet.mount()?;
        wait_until("it settles", secs(20), || ["Running", "Stopped"].contains(&fleet.state("foo").as_str()))?;
        fleet.ok("echo start > foo/state")?;
        fleet.wait_state("foo", "Running", secs(20))?;
        same!(fleet.vms(), 1, "in round {round}");
        fleet.ok("echo kill > foo/state")?;
        fleet.wait_state("foo", "Stopped", secs(10))?;
        wait_until("no VM is left", secs(5), || fleet.vms() == 0)?;
    }
    Ok(())
}

fn x03_a_mount_killed_during_a_stop_does_not_lose_it() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let vm = fleet.vm("foo");
    fleet.ok("echo stop > foo/state")?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    Ok(())
}

fn a_hostagent_killed_at_any_moment_of_a_start_leaves_one_vm_or_none() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    for round in 0..10 {
        fleet.ok("echo start > foo/state")?;
        kill_after(2 * round, || fleet.hostagent("foo"))?;
        let settled = ["Running", "Stopped", "Broken"];
        wait_until("it settles", secs(20), || settled.contains(&fleet.state("foo").as_str()))?;
        ensure!(fleet.vms() <= 1, "{} VMs in round {round}", fleet.vms());
        fleet.ok("echo start > foo/state")?;
        fleet.wait_state("foo", "Running", secs(20))?;
        same!(fleet.vms(), 1, "in round {round}");
        fleet.ok("echo kill > foo/state")?;
        fleet.wait_state("foo", "Stopped", secs(10))?;
        wait_until("no VM is left", secs(5), || fleet.vms() == 0)?;
    }
    Ok(())
}

fn x08_a_forged_pid_is_never_signalled() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    let bystander = fleet.start("exec sleep 600")?;
    let pid = bystander.pid();
    fleet.ok(&format!("for f in ha.pid fake.pid qemu.pid; do echo {pid} > $H/foo/$f; done"))?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    fleet.wait_state("foo", "Stopped", secs(10))?;
    fleet.ok("echo kill > foo/state; echo stop > foo/state; echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(20))?;
    fleet.ok("echo kill > foo/state; timeout 60 cat foo/wait/Stopped")?;
    ensure!(procs::is_alive(pid), "a process that is none of ours was killed");
    Ok(())
}

fn x10_a_killed_vm_is_told_within_1_s_and_starts_again() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    for _ in 0..3 {
        in_time("telling the VM's death", secs(1), || {
            let vm = fleet.vm("foo").ok_or("no VM")?;
            let start = Instant::now();
            procs::signal(vm, Signal::KILL);
            let told = ["Stopped", "Broken"];
            wait_until("the VM's death is told", secs(10), || told.contains(&fleet.state("foo").as_str()))?;
            let took = start.elapsed();
            ensure!(!fleet.read("foo/error").is_empty(), "without a reason");
            fleet.ok("echo start > foo/state")?;
            fleet.wait_state("foo", "Running", secs(20))?;
            same!(fleet.read("foo/error"), "");
            Ok(took)
        })?;
    }
    Ok(())
}

fn sigterm_to_a_hostagent_leaves_the_vm() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let (vm, agent) = (fleet.vm("foo"), fleet.hostagent("foo").ok_or("no hostagent")?);
    procs::signal(agent, Signal::TERM);
    wait_until("the hostagent's end", secs(5), || !procs::is_alive(agent))?;
    adopted(&fleet, "foo", vm)
}

fn sigint_to_a_hostagent_stops_the_vm() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let (vm, agent) = (fleet.vm("foo"), fleet.hostagent("foo").ok_or("no hostagent")?);
    procs::signal(agent, Signal::INT);
    fleet.wait_state("foo", "Stopped", secs(15))?;
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    wait_until("the hostagent's end", secs(5), || !procs::is_alive(agent))
}

fn another_home_is_another_world() -> Outcome {
    let (one, two) = (Fleet::mounted()?, Fleet::mounted()?);
    one.running("foo")?;
    two.running("foo")?;
    one.ok("echo kill > foo/state; timeout 60 cat foo/wait/Stopped")?;
    same!(two.state("foo"), "Running");
    ensure!(two.vm("foo").is_some_and(procs::is_alive), "its VM is dead");
    Ok(())
}
