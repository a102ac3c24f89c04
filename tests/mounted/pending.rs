//! Edits of a running instance: accepted, told as waiting for a restart, and the VM's own values shown until then.

use rustix::process::Signal;

use crate::common::fleet::FAKE;
use crate::common::{Case, Fleet, Outcome, procs, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        b38_an_edit_of_a_running_instance_is_pending_until_it_restarts,
        pending_survives_the_mount_and_the_hostagent,
        nothing_is_pending_when_nothing_runs,
    ]
}

fn running() -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &format!("{FAKE}cpus: 1\nmemory: 1GiB\n"))?;
    fleet.ok("echo start > foo/state && cat foo/wait/Running")?;
    Ok(fleet)
}

fn expect_pending(fleet: &Fleet, fields: &[&str]) -> Outcome {
    let line = (!fields.is_empty()).then(|| format!("[{}]", fields.join(", ")));
    wait_until(&format!("pending is {fields:?}"), secs(5), || fleet.status("foo", "pending") == line)?;
    let json: serde_json::Value = serde_json::from_str(&fleet.read("foo/status.json"))?;
    same!(json["pending"], serde_json::json!(fields));
    Ok(())
}

fn b38_an_edit_of_a_running_instance_is_pending_until_it_restarts() -> Outcome {
    let fleet = running()?;
    expect_pending(&fleet, &[])?;
    fleet.ok("echo 2 > foo/cpus")?;
    // At once: whoever reads after the write sees what it has led to.
    same!(fleet.status("foo", "pending"), Some("[cpus]".to_owned()));
    same!(fleet.ok("cat foo/cpus")?, "1", "the VM has what it was started with");
    same!(fleet.status("foo", "cpus"), Some("1".to_owned()));
    ensure!(fleet.read("foo/effective.yaml").contains("cpus: 2\n"), "{}", fleet.read("foo/effective.yaml"));
    fleet.ok("sed -i 's/^memory.*/memory: 2GiB\\nenv: {A: b}/' foo/lima.yaml")?;
    expect_pending(&fleet, &["cpus", "memory", "env"])?;
    fleet.ok("echo 1 > foo/cpus")?;
    expect_pending(&fleet, &["memory", "env"])?;
    let vm = fleet.vm("foo");
    fleet.ok("echo restart > foo/state")?;
    wait_until("another VM", secs(20), || fleet.vm("foo").is_some_and(|new| Some(new) != vm))?;
    fleet.wait_state("foo", "Running", secs(20))?;
    expect_pending(&fleet, &[])?;
    wait_until("the new size", secs(5), || fleet.read("foo/memory") == "2GiB\n")
}

fn pending_survives_the_mount_and_the_hostagent() -> Outcome {
    let fleet = running()?;
    fleet.ok("echo 2 > foo/cpus")?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    expect_pending(&fleet, &["cpus"])?;
    let agent = fleet.hostagent("foo").ok_or("no hostagent")?;
    procs::signal(agent, Signal::KILL);
    wait_until("another hostagent", secs(10), || fleet.hostagent("foo").is_some_and(|pid| pid != agent))?;
    fleet.wait_state("foo", "Running", secs(10))?;
    expect_pending(&fleet, &["cpus"])?;
    same!(fleet.read("foo/cpus"), "1\n");
    Ok(())
}

fn nothing_is_pending_when_nothing_runs() -> Outcome {
    let fleet = running()?;
    fleet.ok("echo 2 > foo/cpus && echo stop > foo/state && cat foo/wait/Stopped")?;
    expect_pending(&fleet, &[])?;
    wait_until("the defined size", secs(5), || fleet.read("foo/cpus") == "2\n")?;
    fleet.ok("echo 3 > foo/cpus")?;
    expect_pending(&fleet, &[])
}
