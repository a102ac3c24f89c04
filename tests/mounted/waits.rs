//! `wait/X`: many may wait, each can be ended, nobody else is held up.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::fleet::FAKE;
use crate::common::shell::Job;
use crate::common::{Case, Failed, Fleet, Outcome, in_time, procs, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        wait_lists_as_empty,
        a_state_that_holds_is_printed_at_once,
        waiters_end_when_it_holds,
        wait_settled_comes_when_the_goal_is_reached,
        a_word_that_is_no_state_is_enoent,
        a_signal_ends_a_waiter_within_1_s,
        f15_two_hundred_killed_waiters_leave_nothing,
        a_hundred_waiters_hold_nobody_up,
        f17_a_waiter_on_one_instance_does_not_slow_another,
        waiters_on_a_deleted_instance_end,
        stopping_the_daemon_ends_its_waiters,
        a_restart_of_the_goal_keeps_waiters,
    ]
}

fn with_instance() -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    Ok(fleet)
}

/// A `cat` that waits, once it really does (it sleeps in the kernel). The tests themselves may run under nohup.
fn waiting(fleet: &Fleet, file: &str) -> Result<Job, Failed> {
    let mut job = fleet.start(&format!("exec env --default-signal cat {file}"))?;
    wait_until("cat is waiting", secs(5), || {
        procs::arguments(job.pid()).first().is_some_and(|name| name == "cat") && is_in_read(job.pid())
    })?;
    ensure!(job.is_running(), "cat {file} ended: {}", job.out());
    Ok(job)
}

/// Whether the process is inside read(2) of a descriptor other than its libraries' (number 0 on x86-64, 63 on others).
fn is_in_read(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.starts_with(&format!("{} 0x3 ", libc::SYS_read))
}

fn wait_lists_as_empty() -> Outcome {
    let fleet = with_instance()?;
    same!(fleet.ok("ls -A foo/wait; find foo/wait -type f")?, "");
    Ok(())
}

fn a_state_that_holds_is_printed_at_once() -> Outcome {
    let fleet = with_instance()?;
    same!(fleet.ok("timeout 60 cat foo/wait/Stopped")?, "Stopped");
    same!(fleet.ok("timeout 60 head -c1 foo/wait/Stopped")?, "S");
    Ok(())
}

fn waiters_end_when_it_holds() -> Outcome {
    let fleet = with_instance()?;
    let mut job = waiting(&fleet, "foo/wait/Running")?;
    fleet.ok("echo start > foo/state")?;
    let ran = job.end(secs(20))?;
    same!((ran.code, ran.out.as_str()), (0, "Running\n"));
    Ok(())
}

fn wait_settled_comes_when_the_goal_is_reached() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("echo start > foo/state; timeout 60 cat foo/wait/settled")?;
    same!(fleet.state("foo"), "Running");
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/settled")?;
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn a_word_that_is_no_state_is_enoent() -> Outcome {
    let fleet = with_instance()?;
    for word in ["Runing", "running", "x", "port:none", "snapshot"] {
        let ran = fleet.sh(&format!("timeout 60 cat foo/wait/{word}"))?;
        ensure!(ran.code == 1 && ran.err.contains("No such file"), "{word}: {ran:?}");
    }
    Ok(())
}

fn a_signal_ends_a_waiter_within_1_s() -> Outcome {
    let fleet = with_instance()?;
    for signal in [Signal::INT, Signal::TERM, Signal::KILL, Signal::HUP] {
        in_time(&format!("{signal:?}"), secs(1), || {
            let mut job = waiting(&fleet, "foo/wait/Running")?;
            let start = Instant::now();
            job.signal(signal);
            let ran = job.end(secs(10))?;
            same!(ran.code, 128 + signal.as_raw());
            Ok(start.elapsed())
        })?;
    }
    same!(fleet.sh("timeout 0.5 cat foo/wait/Running")?.code, 124);
    in_time("timeout", secs(2), || {
        let ran = fleet.sh("timeout -s KILL 0.5 cat foo/wait/Running")?;
        same!(ran.code, 137);
        Ok(ran.took)
    })
}

fn f15_two_hundred_killed_waiters_leave_nothing() -> Outcome {
    let fleet = with_instance()?;
    let daemon = fleet.daemon()?;
    fleet.ok("timeout -s KILL 0.2 cat foo/wait/Running; true")?;
    let before = footprint(daemon);
    let ran = fleet.sh_within(
        "for i in $(seq 200); do timeout -s KILL 0.3 cat foo/wait/Running & done; wait; jobs -r | wc -l",
        secs(60),
    )?;
    same!(ran.text()?, "0");
    wait_until("descriptors and threads of the daemon are back", secs(5), || {
        let after = footprint(daemon);
        after.0 <= before.0 + 2 && after.1 <= before.1 + 2
    })?;
    same!(fleet.ok("timeout 60 cat foo/state")?, "Stopped");
    Ok(())
}

/// Open descriptors and threads.
fn footprint(pid: u32) -> (usize, usize) {
    let count = |dir: &str| std::fs::read_dir(format!("/proc/{pid}/{dir}")).map_or(0, Iterator::count);
    (count("fd"), count("task"))
}

fn a_hundred_waiters_hold_nobody_up() -> Outcome {
    let fleet = with_instance()?;
    fleet.create("bar", FAKE)?;
    let mut jobs = Vec::new();
    for _ in 0..100 {
        jobs.push(waiting(&fleet, "foo/wait/Running")?);
    }
    in_time("reading all", secs(5), || {
        let ran = fleet.sh("ls -l . foo bar > /dev/null; cat bar/state foo/state; find . > /dev/null")?;
        same!(ran.code, 0, "{ran:?}");
        Ok(ran.took)
    })?;
    fleet.ok("echo start > foo/state")?;
    for mut job in jobs {
        let ran = job.end(secs(30))?;
        same!((ran.code, ran.out.as_str()), (0, "Running\n"));
    }
    Ok(())
}

fn f17_a_waiter_on_one_instance_does_not_slow_another() -> Outcome {
    let fleet = with_instance()?;
    fleet.create("bar", FAKE)?;
    let _job = waiting(&fleet, "foo/wait/Running")?;
    in_time("reading bar/state", Duration::from_millis(100), || {
        let start = Instant::now();
        same!(fleet.state("bar"), "Stopped");
        Ok(start.elapsed())
    })
}

fn waiters_on_a_deleted_instance_end() -> Outcome {
    let fleet = with_instance()?;
    let mut job = waiting(&fleet, "foo/wait/Running")?;
    fleet.ok("rmdir foo")?;
    let ran = job.end(secs(5))?;
    ensure!(ran.code != 0, "{ran:?}");
    Ok(())
}

fn stopping_the_daemon_ends_its_waiters() -> Outcome {
    let fleet = with_instance()?;
    let mut job = waiting(&fleet, "foo/wait/Running")?;
    procs::signal(fleet.daemon()?, Signal::TERM);
    let ran = job.end(secs(5))?;
    ensure!(ran.code != 0, "{ran:?}");
    wait_until("the mount is gone", secs(5), || fleet.mounts() == 0)
}

fn a_restart_of_the_goal_keeps_waiters() -> Outcome {
    let fleet = with_instance()?;
    let mut job = waiting(&fleet, "foo/wait/Running")?;
    fleet.ok("echo stop > foo/state")?;
    ensure!(job.is_running(), "a stop ended who waits for Running: {}", job.out());
    fleet.ok("echo start > foo/state")?;
    same!(job.end(secs(20))?.code, 0);
    Ok(())
}
