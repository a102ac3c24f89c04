//! Changes are announced: inotify, poll, tail.

use crate::common::fleet::FAKE;
use crate::common::shell::Job;
use crate::common::{Case, Failed, Fleet, Outcome, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        inotifywait_sees_a_state_change_as_open_modify_close_write,
        inotifywait_sees_changes_that_come_from_outside,
        inotifywait_sees_knobs_and_templates_that_others_change,
        inotifywait_sees_instances_come_and_go,
        inotifywait_sees_instances_made_in_the_home,
        poll_wakes_on_a_state_change,
        a_growing_log_is_announced,
        nothing_is_announced_when_nothing_changes,
        many_watchers_do_not_slow_a_start,
    ]
}

fn with_instance() -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    Ok(fleet)
}

/// inotifywait, once its watches are established.
pub fn watch(fleet: &Fleet, what: &str) -> Result<Job, Failed> {
    // What an earlier one said there must not be taken for this one's.
    std::fs::write(fleet.root().join("watch.err"), "")?;
    let job = fleet.start(&format!("exec 2>~/watch.err; exec inotifywait -m --format '%w%f %e' {what}"))?;
    wait_until("inotifywait watches", secs(5), || {
        std::fs::read_to_string(fleet.root().join("watch.err")).is_ok_and(|text| text.contains("Watches established"))
    })?;
    Ok(job)
}

pub fn saw(job: &mut Job, line: &str) -> Outcome {
    let mut last = String::new();
    let seen = wait_until("", secs(5), || {
        last = job.out();
        last.lines().any(|seen| seen == line)
    });
    seen.map_err(|_| format!("inotifywait did not see {line:?}, only {last:?}").into())
}

fn inotifywait_sees_a_state_change_as_open_modify_close_write() -> Outcome {
    let fleet = with_instance()?;
    let mut job = watch(&fleet, "foo/state foo/status")?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(20))?;
    for event in ["OPEN", "MODIFY", "CLOSE_WRITE,CLOSE"] {
        saw(&mut job, &format!("foo/state {event}"))?;
        saw(&mut job, &format!("foo/status {event}"))?;
    }
    Ok(())
}

fn inotifywait_sees_changes_that_come_from_outside() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let mut job = watch(&fleet, "-e modify foo/state")?;
    let vm = fleet.vm("foo").ok_or("no VM")?;
    crate::common::procs::signal(vm, rustix::process::Signal::KILL);
    saw(&mut job, "foo/state MODIFY")?;
    wait_until("the VM's death is told", secs(10), || ["Stopped", "Broken"].contains(&fleet.state("foo").as_str()))
}

fn inotifywait_sees_knobs_and_templates_that_others_change() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("echo 'cpus: 1' > .templates/t.yaml && echo 1 > foo/cpus")?;
    let mut job = watch(&fleet, "-e modify foo/cpus .templates/t.yaml")?;
    fleet.ok("sed -i 's/cpus: 1/cpus: 2/' $H/foo/lima.yaml && echo 'cpus: 2' > $H/_templates/t.yaml")?;
    saw(&mut job, "foo/cpus MODIFY")?;
    saw(&mut job, ".templates/t.yaml MODIFY")?;
    // The first word may be of the moment between the shell's truncation and its write.
    let shows = || fleet.ok("cat foo/cpus .templates/t.yaml").is_ok_and(|text| text == "2\ncpus: 2");
    wait_until("what others wrote", secs(10), shows)
}

fn inotifywait_sees_instances_come_and_go() -> Outcome {
    let fleet = with_instance()?;
    let mut job = watch(&fleet, "-e create,delete,move .")?;
    fleet.ok("mkdir bar; mv bar baz; rmdir baz")?;
    for line in ["./bar CREATE,ISDIR", "./bar MOVED_FROM,ISDIR", "./baz MOVED_TO,ISDIR", "./baz DELETE,ISDIR"] {
        saw(&mut job, line)?;
    }
    Ok(())
}

fn inotifywait_sees_instances_made_in_the_home() -> Outcome {
    let fleet = with_instance()?;
    let mut job = watch(&fleet, "-e create,delete,move .")?;
    fleet.ok("mkdir $H/bar")?;
    saw(&mut job, "./bar CREATE,ISDIR")?;
    fleet.ok("rmdir $H/bar")?;
    saw(&mut job, "./bar DELETE,ISDIR")?;
    same!(fleet.ok("ls -d */")?, "foo/");
    Ok(())
}

fn poll_wakes_on_a_state_change() -> Outcome {
    let fleet = with_instance()?;
    std::fs::write(
        fleet.root().join("poll.py"),
        r#"
import os, select, sys
fd = os.open('foo/state', os.O_RDONLY)
assert os.read(fd, 100) == b'Stopped\n'
p = select.poll()
p.register(fd, select.POLLPRI | select.POLLERR)
assert p.poll(0) == [], 'ready before any change'
print('ready', flush=True)
events = p.poll(10000)
assert events and events[0][1] & (select.POLLPRI | select.POLLERR), events
os.lseek(fd, 0, 0)
print(open('foo/state').read().strip())
"#,
    )?;
    let mut job = fleet.start("exec python3 ~/poll.py")?;
    wait_until("python polls", secs(10), || job.out().contains("ready") || !job.is_running())?;
    fleet.ok("echo start > foo/state")?;
    let ran = job.end(secs(15))?;
    ensure!(ran.code == 0 && (ran.out.ends_with("Starting\n") || ran.out.ends_with("Running\n")), "{ran:?}");
    fleet.wait_state("foo", "Running", secs(20))
}

fn a_growing_log_is_announced() -> Outcome {
    let fleet = with_instance()?;
    let mut job = watch(&fleet, "-e modify foo/events events")?;
    fleet.ok("echo start > foo/state")?;
    saw(&mut job, "foo/events MODIFY")?;
    saw(&mut job, "events MODIFY")
}

fn nothing_is_announced_when_nothing_changes() -> Outcome {
    let fleet = with_instance()?;
    fleet.create("bar", FAKE)?;
    let mut job = watch(&fleet, "-e modify,create,delete,move,attrib,close_write foo bar")?;
    fleet.ok("cat foo/* > /dev/null; ls -lR . > /dev/null; echo stop > foo/state")?;
    // What follows is announced; what came before it would have been, too.
    fleet.ok("echo start > bar/state")?;
    saw(&mut job, "bar/state MODIFY")?;
    let early: Vec<String> = job.out().lines().filter(|line| line.starts_with("foo/")).map(str::to_owned).collect();
    // The write of `stop` itself is seen, as any write is.
    let own = ["foo/state MODIFY", "foo/state CLOSE_WRITE,CLOSE", "foo/error MODIFY", "foo/error CLOSE_WRITE,CLOSE"];
    let strange: Vec<_> = early.iter().filter(|line| !own.contains(&line.as_str())).collect();
    ensure!(strange.is_empty(), "announced: {strange:?}");
    Ok(())
}

fn many_watchers_do_not_slow_a_start() -> Outcome {
    let fleet = with_instance()?;
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(watch(&fleet, "-e modify foo/state foo/status foo/events .")?);
    }
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(20))?;
    for job in &mut jobs {
        saw(job, "foo/state MODIFY")?;
    }
    Ok(())
}
