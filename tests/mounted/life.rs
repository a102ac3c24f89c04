//! Suspend, snapshots, the display, and a new size of a running VM, with the pretend driver.

use std::time::Duration;

use crate::common::fleet::FAKE;
use crate::common::{Case, Failed, Fleet, Outcome, in_time, procs, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        a_suspended_instance_goes_on_with_start,
        what_a_suspended_instance_refuses_keeps_its_memory,
        kill_gives_up_the_memory_of_a_suspended_instance,
        edits_of_a_suspended_instance_wait_until_it_was_started,
        a_suspend_that_fails_leaves_the_vm_running,
        memory_that_cannot_be_gone_on_with_is_kept,
        a_suspended_instance_outlives_the_mount,
        e20_snapshots_of_a_running_instance,
        e21_a_snapshot_of_a_name_that_there_is_is_eexist,
        snapshots_of_a_stopped_instance,
        a_slow_snapshot_is_shown_as_being_taken,
        a_snapshot_that_fails_leaves_nothing,
        rm_r_of_an_instance_spares_the_snapshots_of_a_running_one,
        the_display_is_made_anew_by_each_open,
        a_display_that_hangs_holds_nobody_up,
        a_new_size_goes_into_the_running_vm_where_that_can_be,
        the_guests_memory_is_told,
    ]
}

const QUICK: Duration = secs(15);

/// Runs `foo`, which behaves so.
fn running(behaviour: &str) -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &format!("{FAKE}cpus: 1\nmemory: 1GiB\n"))?;
    behave(&fleet, behaviour)?;
    fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?;
    Ok(fleet)
}

fn behave(fleet: &Fleet, behaviour: &str) -> Outcome {
    // Read while it is written: seen whole, or as it was.
    let half = fleet.root().join("fake.json");
    std::fs::write(&half, behaviour)?;
    Ok(std::fs::rename(half, fleet.home.join("foo/fake.json"))?)
}

fn suspended() -> Result<Fleet, Failed> {
    let fleet = running("{}")?;
    same!(fleet.ok("echo suspend > foo/state && timeout 60 cat foo/wait/Suspended")?, "Suspended");
    Ok(fleet)
}

/// The console's word on how the VM came up.
fn came_up(fleet: &Fleet, how: &str) -> Outcome {
    wait_until(how, secs(5), || fleet.read("foo/serial.log") == format!("the fake VM {how}\n"))
}

/// A line that must fail with these words of the shell, and with others in `error`.
fn refused(fleet: &Fleet, line: &str, shell: &str, error: &str) -> Outcome {
    let ran = fleet.sh(line)?;
    ensure!(ran.code != 0 && ran.err.contains(shell), "{line}: {ran:?}");
    ensure!(fleet.read("foo/error").contains(error), "after {line} error says {:?}", fleet.read("foo/error"));
    Ok(())
}

fn a_suspended_instance_goes_on_with_start() -> Outcome {
    let fleet = running("{}")?;
    let vm = fleet.vm("foo");
    fleet.ok("echo suspend > foo/state && timeout 60 cat foo/wait/Suspended")?;
    same!(fleet.ok("timeout 60 cat foo/wait/settled")?, "Suspended");
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    wait_until("the hostagent's end", QUICK, || fleet.hostagent("foo").is_none())?;
    same!(fleet.status("foo", "goal"), Some("Suspended".to_owned()));
    same!(fleet.ok("jq -r .status foo/status.json")?, "Stopped", "as limactl has it");
    fleet.ok("echo suspend > foo/state")?;
    for verb in ["start", "resume"] {
        fleet.ok(&format!("echo {verb} > foo/state && timeout 60 cat foo/wait/Running"))?;
        came_up(&fleet, "sleeps on")?;
        fleet.ok("echo suspend > foo/state && timeout 60 cat foo/wait/Suspended")?;
    }
    fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?;
    fleet.ok("echo pause > foo/state && timeout 60 cat foo/wait/Paused")?;
    fleet.ok("echo suspend > foo/state && timeout 60 cat foo/wait/Suspended").map(drop)
}

fn what_a_suspended_instance_refuses_keeps_its_memory() -> Outcome {
    let fleet = suspended()?;
    refused(&fleet, "echo stop > foo/state", "busy", "write start to go on, or kill to give up its memory")?;
    refused(&fleet, "rmdir foo", "busy", "suspended")?;
    refused(&fleet, "mv foo bar", "busy", "Suspended")?;
    refused(&fleet, "mkdir foo/snapshots/a", "busy", "is suspended")?;
    for verb in ["pause", "reset", "restart"] {
        refused(&fleet, &format!("echo {verb} > foo/state"), "busy", verb)?;
    }
    same!(fleet.state("foo"), "Suspended");
    fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?;
    came_up(&fleet, "sleeps on")
}

fn kill_gives_up_the_memory_of_a_suspended_instance() -> Outcome {
    let fleet = suspended()?;
    fleet.ok("echo kill > foo/state")?;
    same!(fleet.state("foo"), "Stopped");
    fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?;
    came_up(&fleet, "sleeps")?;
    fleet.ok("echo suspend > foo/state && timeout 60 cat foo/wait/Suspended")?;
    fleet.ok("echo kill > foo/state && rmdir foo").map(drop)
}

fn edits_of_a_suspended_instance_wait_until_it_was_started() -> Outcome {
    let fleet = suspended()?;
    fleet.ok("echo 2 > foo/cpus")?;
    same!(fleet.read("foo/cpus"), "1\n");
    same!(fleet.status("foo", "pending"), Some("[cpus]".to_owned()));
    fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?;
    came_up(&fleet, "sleeps on")?;
    wait_until("the edit still waits", secs(5), || fleet.status("foo", "pending") == Some("[cpus]".to_owned()))?;
    same!(fleet.read("foo/cpus"), "1\n");
    fleet.ok("echo restart > foo/state")?;
    wait_until("the new size", QUICK, || fleet.state("foo") == "Running" && fleet.read("foo/cpus") == "2\n")
}

fn a_suspend_that_fails_leaves_the_vm_running() -> Outcome {
    let fleet = running(r#"{"failSuspend": "the disk is full"}"#)?;
    let vm = fleet.vm("foo");
    fleet.ok("echo suspend > foo/state")?;
    wait_until("the reason", QUICK, || fleet.read("foo/error").contains("the disk is full"))?;
    fleet.wait_state("foo", "Running", QUICK)?;
    same!(fleet.vm("foo"), vm);
    behave(&fleet, "{}")?;
    fleet.ok("echo suspend > foo/state && timeout 60 cat foo/wait/Suspended").map(drop)
}

fn memory_that_cannot_be_gone_on_with_is_kept() -> Outcome {
    let fleet = suspended()?;
    behave(&fleet, r#"{"failResume": "another QEMU"}"#)?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Broken", QUICK)?;
    ensure!(fleet.read("foo/error").contains("another QEMU"), "error: {}", fleet.read("foo/error"));
    refused(&fleet, "echo stop > foo/state", "busy", "suspended")?;
    behave(&fleet, "{}")?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", QUICK)?;
    came_up(&fleet, "sleeps on")
}

fn a_suspended_instance_outlives_the_mount() -> Outcome {
    let fleet = suspended()?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    same!(fleet.state("foo"), "Suspended");
    fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?;
    came_up(&fleet, "sleeps on")
}

fn e20_snapshots_of_a_running_instance() -> Outcome {
    let fleet = running("{}")?;
    let disk = fleet.home.join("foo/disk");
    std::fs::write(&disk, "foo")?;
    same!(
        fleet.ok("ls -A foo/snapshots; mkdir foo/snapshots/before; ls foo/snapshots foo/snapshots/before")?,
        "foo/snapshots:\nbefore\n\nfoo/snapshots/before:\ninfo"
    );
    let info = fleet.read("foo/snapshots/before/info");
    for line in ["state: taken", "size: 1MiB", "memory: yes", "created: 2"] {
        ensure!(info.contains(line), "no {line} in {info}");
    }
    same!(fleet.ok("timeout 60 cat foo/wait/snapshot:before")?, "before");
    same!(fleet.state("foo"), "Running");
    std::fs::write(&disk, "bar")?;
    fleet.ok("echo restore before > foo/state")?;
    wait_until("the disk of then", QUICK, || std::fs::read_to_string(&disk).is_ok_and(|text| text == "foo"))?;
    fleet.wait_state("foo", "Running", QUICK)?;
    refused(&fleet, "echo restore after > foo/state", "Invalid argument", "there is no snapshot after")?;
    fleet.ok("rmdir foo/snapshots/before; ! [ -e foo/snapshots/before ]")?;
    same!(fleet.ok("ls -A foo/snapshots")?, "");
    Ok(())
}

fn e21_a_snapshot_of_a_name_that_there_is_is_eexist() -> Outcome {
    let fleet = running("{}")?;
    fleet.ok("mkdir foo/snapshots/a")?;
    let ran = fleet.sh("mkdir foo/snapshots/a")?;
    ensure!(ran.code != 0 && ran.err.contains("exists"), "{ran:?}");
    same!(fleet.ok("ls foo/snapshots")?, "a");
    refused(&fleet, "mkdir foo/snapshots/42", "Invalid argument", "number")?;
    refused(&fleet, "mkdir 'foo/snapshots/a b'", "Invalid argument", "a b")?;
    let ran = fleet.sh("rmdir foo/snapshots/b")?;
    ensure!(ran.code != 0 && ran.err.contains("No such file"), "{ran:?}");
    Ok(())
}

fn snapshots_of_a_stopped_instance() -> Outcome {
    let fleet = running("{}")?;
    let disk = fleet.home.join("foo/disk");
    fleet.ok("echo stop > foo/state && timeout 60 cat foo/wait/Stopped")?;
    std::fs::write(&disk, "foo")?;
    fleet.ok("mkdir foo/snapshots/a && timeout 60 cat foo/wait/snapshot:a")?;
    ensure!(fleet.read("foo/snapshots/a/info").contains("memory: no"), "{}", fleet.read("foo/snapshots/a/info"));
    same!(fleet.state("foo"), "Stopped");
    std::fs::write(&disk, "bar")?;
    fleet.ok("echo restore a > foo/state")?;
    wait_until("the disk of then", QUICK, || std::fs::read_to_string(&disk).is_ok_and(|text| text == "foo"))?;
    wait_until("nobody holds it any more", QUICK, || fleet.hostagent("foo").is_none())?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    same!(fleet.ok("ls foo/snapshots")?, "a");
    fleet.ok("rmdir foo/snapshots/a")?;
    wait_until("it is gone", QUICK, || fleet.ok("ls -A foo/snapshots").is_ok_and(|list| list.is_empty()))
}

fn a_slow_snapshot_is_shown_as_being_taken() -> Outcome {
    let fleet = running(r#"{"hangSnapshot": true}"#)?;
    let ran = fleet.sh("mkdir foo/snapshots/a && cat foo/snapshots/a/info")?;
    ensure!(ran.code == 0 && ran.out.contains("state: taking"), "{ran:?}");
    refused(&fleet, "rmdir foo/snapshots/a", "busy", "is being taken")?;
    behave(&fleet, "{}")?;
    same!(fleet.ok("timeout 60 cat foo/wait/snapshot:a")?, "a");
    ensure!(fleet.read("foo/snapshots/a/info").contains("state: taken"), "{}", fleet.read("foo/snapshots/a/info"));
    Ok(())
}

fn a_snapshot_that_fails_leaves_nothing() -> Outcome {
    let fleet = running(r#"{"failSnapshot": "no room"}"#)?;
    refused(&fleet, "mkdir foo/snapshots/a", "Input/output error", "no room")?;
    same!(fleet.ok("ls -A foo/snapshots")?, "");
    same!(fleet.state("foo"), "Running");
    let ran = fleet.sh("timeout 60 cat foo/wait/snapshot:a")?;
    ensure!(ran.code != 0 && ran.err.contains("Input/output error"), "{ran:?}");
    Ok(())
}

fn rm_r_of_an_instance_spares_the_snapshots_of_a_running_one() -> Outcome {
    let fleet = running("{}")?;
    fleet.ok("mkdir foo/snapshots/a")?;
    let ran = fleet.sh("rm -rf foo")?;
    ensure!(ran.code != 0, "rm -rf of a running instance: {ran:?}");
    same!(fleet.ok("ls foo/snapshots")?, "a");
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/Stopped; rm -r foo")?;
    ensure!(!fleet.home.join("foo").exists(), "foo is still on disk");
    Ok(())
}

fn the_display_is_made_anew_by_each_open() -> Outcome {
    let fleet = running(r#"{"screen": "one"}"#)?;
    same!(fleet.ok("cat foo/screen.png")?, "one");
    behave(&fleet, r#"{"screen": "two pictures"}"#)?;
    same!(fleet.ok("cp foo/screen.png ~/x && cat ~/x; stat -c %s foo/screen.png")?, "two pictures12");
    behave(&fleet, "{}")?;
    refused(&fleet, "cat foo/screen.png", "not supported", "without a display")?;
    same!(fleet.sh("echo x > foo/screen.png")?.code, 1);
    fleet.ok("echo stop > foo/state && timeout 60 cat foo/wait/Stopped")?;
    let ran = fleet.sh("cat foo/screen.png")?;
    ensure!(ran.code != 0 && ran.err.contains("Host is down"), "{ran:?}");
    ensure!(!fleet.ok("ls foo")?.contains("screen.png"), "where nothing can be seen it is not listed");
    Ok(())
}

fn a_display_that_hangs_holds_nobody_up() -> Outcome {
    let fleet = running(r#"{"hangScreen": true}"#)?;
    let mut job = fleet.start("cat foo/screen.png")?;
    in_time("others", secs(3), || Ok(fleet.sh("cat foo/state; ls foo")?.took))?;
    let ran = job.end(secs(12))?;
    ensure!(ran.code != 0 && ran.err.contains("timed out"), "{ran:?}");
    Ok(())
}

fn a_new_size_goes_into_the_running_vm_where_that_can_be() -> Outcome {
    let fleet = running(r#"{"mostCpus": 4}"#)?;
    fleet.ok("echo 3 > foo/cpus")?;
    same!(fleet.read("foo/cpus"), "3\n");
    same!(fleet.status("foo", "pending"), None);
    ensure!(fleet.read("foo/lima.yaml").contains("cpus: 3\n"), "{}", fleet.read("foo/lima.yaml"));
    fleet.ok("echo 5 > foo/cpus")?;
    same!(fleet.status("foo", "pending"), Some("[cpus]".to_owned()), "there is no room for five");
    same!(fleet.read("foo/cpus"), "3\n");
    Ok(())
}

fn the_guests_memory_is_told() -> Outcome {
    let fleet = running(r#"{"available": 128974848}"#)?;
    wait_until("the guest's word", QUICK, || fleet.status("foo", "memory_available") == Some("123MiB".to_owned()))?;
    same!(fleet.ok("jq .memoryStatistics.available foo/status.json")?, "128974848");
    fleet.ok("echo stop > foo/state && timeout 60 cat foo/wait/Stopped")?;
    same!(fleet.status("foo", "memory_available"), None);
    Ok(())
}
