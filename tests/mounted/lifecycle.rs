//! Cases E: lifecycle through files, with the pretend driver.

use std::time::Duration;

use crate::common::fleet::FAKE;
use crate::common::{Case, Fleet, Outcome, procs, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        e01_an_empty_home_lists_nothing_but_the_root_files,
        e02_instances_are_listed_and_stopped,
        e03_a_directory_made_behind_the_daemon_appears,
        e05_removing_what_never_was_is_enoent,
        e08_verbs_on_what_does_not_exist_are_enoent,
        e09_goals_already_reached_are_success,
        e13_verbs_that_need_a_running_vm_are_refused,
        e14_bad_words_are_refused_and_shown,
        e14_words_with_and_without_a_line_end,
        e15_words_are_not_put_together_over_opens,
        e19_an_image_that_is_none_is_broken_with_the_reason,
        start_and_stop,
        writes_return_before_the_goal_is_reached,
        restart_makes_a_new_vm,
        kill_ends_the_vm_at_once,
        pause_and_resume,
        rmdir_and_rename_of_a_running_instance_are_busy,
        rmdir_deletes,
        rm_r_deletes_a_stopped_and_spares_a_running_instance,
        mv_renames_a_stopped_instance,
        mv_does_not_replace_an_instance,
        a_name_can_be_used_again_at_once,
        fifty_starts_and_stops_leave_no_process,
        status_and_json_agree,
        list_is_the_table_of_all_instances,
        log_and_events_tell_what_happened,
        templates_can_be_copied,
        e30_the_happy_path_prints_nothing,
    ]
}

const QUICK: Duration = secs(15);

fn e01_an_empty_home_lists_nothing_but_the_root_files() -> Outcome {
    let fleet = Fleet::mounted()?;
    let ran = fleet.sh("ls $M")?;
    same!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "README.md\nevents\nlist\n", ""));
    same!(fleet.ok("ls -d */ 2>/dev/null; true")?, "");
    ensure!(fleet.ok("ls -A")?.contains(".templates"), "no .templates");
    Ok(())
}

fn e02_instances_are_listed_and_stopped() -> Outcome {
    let fleet = Fleet::mounted()?;
    for name in ["foo", "bar", "baz"] {
        fleet.create(name, FAKE)?;
    }
    same!(fleet.ok("ls -d */")?, "bar/\nbaz/\nfoo/");
    same!(fleet.ok("cat */state")?, "Stopped\nStopped\nStopped");
    same!(fleet.ok("stat -c %F foo bar baz | sort -u")?, "directory");
    Ok(())
}

fn e03_a_directory_made_behind_the_daemon_appears() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fleet.ok("ls; mkdir $H/probe")?;
    wait_until("the new directory is listed", secs(10), || fleet.mnt.join("probe").is_dir())?;
    let state = fleet.state("probe");
    ensure!(["Uninitialized", "Broken"].contains(&state.as_str()), "it is {state}");
    same!(fleet.state("foo"), "Stopped");
    fleet.ok("cp foo/lima.yaml $H/probe/lima.yaml")?;
    wait_until("its lima.yaml is seen", secs(10), || fleet.state("probe") == "Stopped")?;
    fleet.ok("rm -r $H/probe")?;
    wait_until("it is gone", secs(10), || !fleet.mnt.join("probe").exists())
}

fn e05_removing_what_never_was_is_enoent() -> Outcome {
    let fleet = Fleet::mounted()?;
    let ran = fleet.sh("rmdir nothing")?;
    ensure!(ran.code != 0 && ran.err.contains("No such file"), "{ran:?}");
    same!(fleet.ok("ls")?, "README.md\nevents\nlist");
    Ok(())
}

fn e08_verbs_on_what_does_not_exist_are_enoent() -> Outcome {
    let fleet = Fleet::mounted()?;
    for verb in ["start", "suspend", "stop", "kill", "restart", "resume"] {
        let ran = fleet.sh(&format!("echo {verb} > nothing/state"))?;
        ensure!(ran.code != 0 && ran.err.contains("No such file"), "{verb}: {ran:?}");
    }
    Ok(())
}

fn e09_goals_already_reached_are_success() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fleet.ok("echo stop > foo/state; echo kill > foo/state")?;
    same!(fleet.state("foo"), "Stopped");
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", QUICK)?;
    let vm = fleet.vm("foo");
    fleet.ok("echo start > foo/state")?;
    same!(fleet.state("foo"), "Running");
    same!(fleet.vm("foo"), vm);
    Ok(())
}

fn e13_verbs_that_need_a_running_vm_are_refused() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    for verb in ["pause", "resume", "reset"] {
        let ran = fleet.sh(&format!("echo {verb} > foo/state"))?;
        ensure!(ran.code != 0, "{verb} of a stopped instance succeeded");
        let error = fleet.read("foo/error");
        ensure!(error.contains(verb) || error.contains("running"), "after {verb} error says {error:?}");
    }
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn e14_bad_words_are_refused_and_shown() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    let bad = ["echo bogus", "echo", "printf 'start\\0'", "echo START", "echo start now", "echo restore"];
    for word in bad {
        for shell in ["bash", "sh"] {
            let line = format!("{shell} -c \"{}\"", format!("{word} > foo/state").replace('"', "\\\""));
            let ran = fleet.sh(&line)?;
            ensure!(ran.code != 0 && !ran.err.is_empty(), "{line}: {ran:?}");
        }
        let error = fleet.read("foo/error");
        ensure!(!error.is_empty(), "after {word:?} error is empty");
        same!(fleet.state("foo"), "Stopped", "after {word:?}");
    }
    fleet.sh("echo bogus > foo/state")?;
    ensure!(fleet.read("foo/error").contains("unknown verb \"bogus\""), "error says {:?}", fleet.read("foo/error"));
    let ran = fleet.sh("yes start | head -c 1048576 | dd of=foo/state bs=1M iflag=fullblock status=none")?;
    ensure!(ran.code != 0, "1 MiB of start was accepted");
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn e14_words_with_and_without_a_line_end() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    for start in ["printf start", "printf 'start\\n'", "echo ' start '"] {
        fleet.ok(&format!("{start} > foo/state"))?;
        fleet.wait_state("foo", "Running", QUICK)?;
        fleet.ok("echo stop | tee foo/state >/dev/null")?;
        fleet.wait_state("foo", "Stopped", QUICK)?;
    }
    Ok(())
}

fn e15_words_are_not_put_together_over_opens() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    same!(fleet.sh("printf st > foo/state")?.code, 1);
    same!(fleet.sh("printf art > foo/state")?.code, 1);
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn e19_an_image_that_is_none_is_broken_with_the_reason() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", "vmType: fake\nimages:\n- location: /nowhere/image.qcow2\n")?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Broken", QUICK)?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("/nowhere/image.qcow2"), "error says {error:?}");
    ensure!(fleet.vm("foo").is_none(), "there is a VM");
    let ran = fleet.sh("timeout 60 cat foo/wait/Running")?;
    ensure!(ran.code != 0 && ran.err.contains("Input/output error"), "wait/Running of a failed goal: {ran:?}");
    fleet.create_over("foo", FAKE)?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", QUICK)?;
    same!(fleet.read("foo/error"), "");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", QUICK)?;
    fleet.ok("rmdir foo").map(drop)
}

fn start_and_stop() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    same!(fleet.ok("echo start > foo/state && timeout 60 cat foo/wait/Running")?, "Running");
    same!(fleet.state("foo"), "Running");
    let (vm, agent) = (fleet.vm("foo"), fleet.hostagent("foo"));
    ensure!(vm.is_some_and(procs::is_alive), "no VM: {vm:?}");
    ensure!(agent.is_some(), "no hostagent");
    same!(fleet.ok("echo stop > foo/state && timeout 60 cat foo/wait/Stopped")?, "Stopped");
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    wait_until("the hostagent's end", QUICK, || fleet.hostagent("foo").is_none())
}

fn writes_return_before_the_goal_is_reached() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    let ran = fleet.sh("echo start > foo/state; cat foo/state")?;
    ensure!(ran.out == "Starting\n" || ran.out == "Running\n", "after start: {ran:?}");
    fleet.wait_state("foo", "Running", QUICK)
}

fn restart_makes_a_new_vm() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let before = fleet.vm("foo");
    fleet.ok("echo restart > foo/state")?;
    wait_until("another VM runs", QUICK, || fleet.state("foo") == "Running" && fleet.vm("foo") != before)?;
    ensure!(!before.is_some_and(procs::is_alive), "the old VM is still there");
    Ok(())
}

fn kill_ends_the_vm_at_once() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let vm = fleet.vm("foo");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(5))?;
    ensure!(!vm.is_some_and(procs::is_alive), "the VM is still there");
    Ok(())
}

fn pause_and_resume() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    fleet.ok("echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", QUICK)?;
    fleet.ok("echo pause > foo/state; echo resume > foo/state")?;
    fleet.wait_state("foo", "Running", QUICK)?;
    fleet.ok("echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", QUICK)?;
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", QUICK)
}

fn rmdir_and_rename_of_a_running_instance_are_busy() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    for line in ["rmdir foo", "mv foo bar"] {
        let ran = fleet.sh(line)?;
        ensure!(ran.code != 0 && ran.err.contains("busy"), "{line}: {ran:?}");
        ensure!(!fleet.read("foo/error").is_empty(), "after {line} error is empty");
        same!(fleet.state("foo"), "Running");
    }
    Ok(())
}

fn rmdir_deletes() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/Stopped; rmdir foo")?;
    ensure!(!fleet.mnt.join("foo").exists() && !fleet.home.join("foo").exists(), "foo is still there");
    same!(fleet.ok("ls")?, "README.md\nevents\nlist");
    Ok(())
}

fn rm_r_deletes_a_stopped_and_spares_a_running_instance() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let vm = fleet.vm("foo");
    let ran = fleet.sh("rm -rf foo")?;
    ensure!(ran.code != 0, "rm -rf of a running instance: {ran:?}");
    same!(fleet.read("foo/lima.yaml"), FAKE);
    same!((fleet.state("foo").as_str(), fleet.vm("foo")), ("Running", vm));
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/Stopped; rm -r foo")?;
    ensure!(!fleet.home.join("foo").exists(), "foo is still on disk");
    Ok(())
}

fn mv_renames_a_stopped_instance() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    // What the kernel has cached of the texts that hold the name is not true afterwards.
    fleet.ok("cat foo/* > /dev/null; stat foo/* > /dev/null; mv foo a-longer-name")?;
    same!(fleet.ok("stat -c %s a-longer-name/status")?, fleet.ok("wc -c < a-longer-name/status")?);
    fleet.ok("mv a-longer-name bar")?;
    same!(fleet.ok("ls -d */; cat bar/lima.yaml")?, format!("bar/\n{}", FAKE.trim_end()));
    ensure!(fleet.home.join("bar/lima.yaml").exists() && !fleet.home.join("foo").exists(), "not so on disk");
    fleet.ok("echo start > bar/state")?;
    fleet.wait_state("bar", "Running", QUICK)?;
    same!(fleet.status("bar", "name").unwrap_or_default(), "bar");
    Ok(())
}

fn mv_does_not_replace_an_instance() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fleet.create("bar", "# bar\nvmType: fake\nimages:\n- location: /etc/profile\n")?;
    let ran = fleet.sh("mv -T foo bar")?;
    ensure!(ran.code != 0, "bar was replaced");
    ensure!(fleet.read("bar/lima.yaml").starts_with("# bar"), "bar has changed");
    same!(fleet.read("foo/lima.yaml"), FAKE);
    let ran = fleet.sh("mv foo _bad_")?;
    ensure!(ran.code != 0 && fleet.read(".error").contains("_bad_"), "{ran:?}");
    same!(fleet.read("foo/lima.yaml"), FAKE);
    Ok(())
}

fn a_name_can_be_used_again_at_once() -> Outcome {
    let fleet = Fleet::mounted()?;
    for round in 0..20 {
        fleet.create("foo", &format!("{FAKE}cpus: {}\n", round + 1))?;
        ensure!(fleet.read("foo/lima.yaml").contains(&format!("cpus: {}\n", round + 1)), "round {round}: stale");
        fleet.ok("rmdir foo; ! [ -e foo ]")?;
    }
    Ok(())
}

fn fifty_starts_and_stops_leave_no_process() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    let before = fleet.processes();
    fleet.sh_within(
        "for i in $(seq 50); do echo start > foo/state && timeout 60 cat foo/wait/Running && echo stop > foo/state && timeout 60 cat foo/wait/Stopped || exit 1; done",
        secs(240),
    )?.text()?;
    wait_until("the processes are those of before", secs(10), || {
        let after: Vec<u32> = fleet.processes().into_iter().filter(|pid| !before.contains(pid)).collect();
        after.is_empty()
    })
}

fn status_and_json_agree() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    for (key, value) in [("name", "foo"), ("state", "Running"), ("goal", "Running"), ("driver", "fake")] {
        same!(fleet.status("foo", key).unwrap_or_default(), value, "for {key} in {}", fleet.read("foo/status"));
    }
    for (path, value) in [(".name", "foo"), (".status", "Running"), (".vmType", "fake")] {
        same!(fleet.ok(&format!("jq -r {path} foo/status.json"))?, value, "for {path}");
    }
    let dir = fleet.ok("jq -r .dir foo/status.json")?;
    same!(dir, fleet.home.join("foo").display().to_string());
    ensure!(fleet.ok("jq .driverPID foo/status.json")?.parse::<u32>().is_ok_and(|pid| pid > 1), "no driverPID");
    Ok(())
}

fn list_is_the_table_of_all_instances() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fleet.running("bar")?;
    let list = fleet.ok("cat list")?;
    let mut lines = list.lines();
    ensure!(lines.next().is_some_and(|head| head.starts_with("NAME") && head.contains("STATUS")), "no heading: {list}");
    ensure!(lines.next().is_some_and(|line| line.starts_with("bar") && line.contains("Running")), "no bar: {list}");
    ensure!(lines.next().is_some_and(|line| line.starts_with("foo") && line.contains("Stopped")), "no foo: {list}");
    Ok(())
}

fn log_and_events_tell_what_happened() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/Stopped")?;
    for file in ["events", "foo/events"] {
        let bad = fleet.ok(&format!("jq -e . {file} > /dev/null || echo bad"))?;
        same!(bad, "", "{file} is not JSON lines: {}", fleet.read(file));
        for state in ["Starting", "Running", "Stopping", "Stopped"] {
            ensure!(fleet.read(file).contains(state), "no {state} in {file}: {}", fleet.read(file));
        }
    }
    ensure!(!fleet.read("foo/log").is_empty(), "the log is empty");
    Ok(())
}

fn templates_can_be_copied() -> Outcome {
    let fleet = Fleet::mounted()?;
    let names = fleet.ok("ls .templates")?;
    ensure!(names.lines().any(|name| name == "local.yaml"), "no local.yaml among {names:?}");
    fleet.ok(
        "for t in .templates/*.yaml; do n=$(basename $t .yaml); mkdir t-$n && cp $t t-$n/lima.yaml || exit 1; done",
    )?;
    let ran = fleet.sh("echo x > .templates/local.yaml")?;
    ensure!(ran.code != 0, "a shipped template was written");
    Ok(())
}

fn e30_the_happy_path_prints_nothing() -> Outcome {
    let fleet = Fleet::mounted()?;
    std::fs::write(fleet.root().join("foo.yaml"), FAKE)?;
    let ran = fleet.sh(
        "mkdir foo && cp ~/foo.yaml foo/lima.yaml && echo start > foo/state && cat foo/wait/Running >/dev/null && ls -lR >/dev/null && cat foo/status >/dev/null && echo stop > foo/state && cat foo/wait/Stopped >/dev/null && rmdir foo",
    )?;
    same!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    Ok(())
}
