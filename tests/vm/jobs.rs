//! Jobs in a real guest.

use rustix::process::Signal;

use crate::common::{Case, Fleet, Outcome, procs, secs, wait_until};
use crate::guest::{FAST_BOOT, STOP, boot, fast, ssh, up};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![a_job_runs_in_the_guest_and_is_followed, jobs_outlive_mount_and_hostagent_and_their_results_the_vm]
}

fn ends(fleet: &Fleet, job: &str, how: &str) -> Outcome {
    let exit = format!("foo/jobs/{job}/exit");
    wait_until(&format!("{job} ends"), secs(60), || !fleet.read(&exit).is_empty())?;
    same!(fleet.read(&exit).trim_end(), how, "for {job}");
    Ok(())
}

fn a_job_runs_in_the_guest_and_is_followed() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    let early = fleet.sh("mkdir foo/jobs/early")?;
    ensure!(early.err.contains("Host is down"), "{early:?}");
    boot(&fleet, "foo", FAST_BOOT)?;
    fleet.ok("mkdir foo/jobs/b")?;
    same!(fleet.ok("ls foo/jobs; ls foo/jobs/b")?, "b\ncmd\nexit\npid\nsignal\nstderr\nstdout");
    let start = fleet.sh(
        "echo 'echo begun; whoami; pwd; until [ -e go ]; do sleep 0.1; done; echo oops >&2; exit 3' > foo/jobs/b/cmd",
    )?;
    // It is not waited for: it runs until it is told to end.
    same!(start.code, 0, "{start:?}");
    let mut tail = fleet.start("exec tail -n +1 -f foo/jobs/b/stdout")?;
    let mut watch = fleet.start("exec inotifywait -m -e modify -e close_write foo/jobs/b/exit")?;
    wait_until("tail -f shows it", secs(60), || tail.out().lines().count() == 3)?;
    same!(tail.out(), format!("begun\n{}\n", ssh(&fleet, "foo", "whoami; pwd")?));
    same!(fleet.read("foo/jobs/b/exit"), "");
    let pid = fleet.ok("cat foo/jobs/b/pid")?;
    ensure!(
        ssh(&fleet, "foo", &format!("tr '\\0' ' ' < /proc/{pid}/cmdline"))?.contains("/cmd"),
        "{pid} is another process"
    );
    ensure!(
        !ssh(&fleet, "foo", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?.contains("oops"),
        "the line is an argument"
    );
    let again = fleet.sh("echo true > foo/jobs/b/cmd")?;
    ensure!(again.err.contains("busy"), "{again:?}");
    ssh(&fleet, "foo", "touch go")?;
    ends(&fleet, "b", "3")?;
    same!(fleet.read("foo/jobs/b/stderr"), "oops\n");
    wait_until("inotify tells of the end", secs(10), || watch.out().contains("MODIFY"))?;

    fleet.ok("mkdir foo/jobs/c && echo 'sleep 600 & sleep 600' > foo/jobs/c/cmd")?;
    wait_until("c runs", secs(60), || !fleet.read("foo/jobs/c/pid").is_empty())?;
    let bad = fleet.sh("echo FOO > foo/jobs/c/signal")?;
    ensure!(bad.code != 0 && fleet.read("foo/error").contains("TERM"), "{bad:?}");
    fleet.ok("echo KILL > foo/jobs/c/signal")?;
    ends(&fleet, "c", "signal 9")?;

    fleet.ok("mkdir foo/jobs/d && echo 'exec sleep 617' > foo/jobs/d/cmd")?;
    wait_until("d runs", secs(60), || !fleet.read("foo/jobs/d/pid").is_empty())?;
    fleet.ok("rmdir foo/jobs/d && test ! -e foo/jobs/d")?;
    wait_until("d is ended in the guest", secs(60), || {
        ssh(&fleet, "foo", "pgrep -fx 'sleep 617' || echo none").is_ok_and(|found| found == "none")
    })?;
    let all = fleet.sh("rm -r foo")?;
    ensure!(all.err.contains("busy") && fleet.read("foo/jobs/b/exit") == "3\n", "{all:?}");
    fleet.ok("rm -r foo/jobs/b foo/jobs/c")?;
    same!(fleet.ok("ls foo/jobs")?, "");
    fleet.ok("for n in $(seq 20); do mkdir foo/jobs/m$n && echo \"echo $n\" > foo/jobs/m$n/cmd; done")?;
    for n in 1..=20 {
        ends(&fleet, &format!("m{n}"), "0")?;
        same!(fleet.read(&format!("foo/jobs/m{n}/stdout")), format!("{n}\n"));
    }
    Ok(())
}

fn jobs_outlive_mount_and_hostagent_and_their_results_the_vm() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    fleet.ok("mkdir foo/jobs/b foo/jobs/c; echo 'until [ -e go ]; do echo tick; sleep 0.2; done; echo last' > foo/jobs/b/cmd")?;
    fleet.ok("echo 'echo c; exec sleep 600' > foo/jobs/c/cmd")?;
    wait_until("both run", secs(60), || {
        fleet.read("foo/jobs/b/stdout").contains("tick") && fleet.read("foo/jobs/c/stdout") == "c\n"
    })?;
    procs::signal(fleet.hostagent("foo").ok_or("no hostagent")?, Signal::KILL);
    fleet.kill_daemon()?;
    ssh_without_mount(&fleet, "touch go")?;
    fleet.mount()?;
    up(&fleet, "foo", secs(60))?;
    ends(&fleet, "b", "0")?;
    let printed = fleet.read("foo/jobs/b/stdout");
    ensure!(
        printed.ends_with("tick\nlast\n") && printed.lines().rev().skip(1).all(|line| line == "tick"),
        "{printed:?}"
    );
    same!(fleet.read("foo/jobs/c/exit"), "");

    // The guest is cut off next; what it has not written by then is not there afterwards.
    ssh(&fleet, "foo", "sync")?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", STOP)?;
    same!(fleet.read("foo/jobs/b/stdout"), printed);
    let down = fleet.sh("mkdir foo/jobs/x")?;
    ensure!(down.err.contains("Host is down"), "{down:?}");
    fleet.ok("rmdir foo/jobs/b")?;
    boot(&fleet, "foo", FAST_BOOT)?;
    wait_until("c is lost", secs(60), || fleet.read("foo/jobs/c/exit").starts_with("lost"))?;
    wait_until("nothing of b is left in the guest", secs(60), || {
        ssh(&fleet, "foo", "ls -d .limafs/jobs/*/ | wc -l").is_ok_and(|count| count == "1")
    })
}

/// Runs a line in the guest while nothing is mounted.
fn ssh_without_mount(fleet: &Fleet, line: &str) -> Outcome {
    let mut command = std::process::Command::new("ssh");
    command.args(["-F", &fleet.home.join("foo/ssh.config").display().to_string(), "lima-foo", line]).current_dir("/");
    crate::common::shell::finish(command, secs(60))?.text().map(drop)
}
