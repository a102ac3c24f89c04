//! The daemon's own life: mounted twice, killed, stopped, busy.

use rustix::process::Signal;

use crate::common::fleet::{FAKE, LIMAFS};
use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        mount_comes_back_with_a_usable_tree,
        unmount_ends_the_daemon,
        a_mountpoint_is_enough_to_unmount,
        a_mountpoint_without_a_mount_says_so,
        f23_the_second_mount_of_a_home_names_the_first_ones_pid,
        x30_of_mounts_that_race_exactly_one_wins,
        x07_a_dead_mount_is_detached_and_replaced,
        x33_sigterm_unmounts_even_when_busy,
        unmount_of_a_busy_tree,
        unmount_of_what_is_not_mounted_fails,
        foreground_stays_until_sigint,
        the_default_mountpoint_is_lima_in_the_home_directory,
        x39_a_home_that_vanishes_breaks_nothing_else,
        s28_broken_files_in_the_home_break_one_instance,
        usage_errors_exit_with_2,
        completions_and_doctor_speak,
        x18_out_of_descriptors_is_survived,
    ]
}

fn with_instance() -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    Ok(fleet)
}

fn mount_comes_back_with_a_usable_tree() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let ran = fleet.limafs(&["mount"])?;
    same!(ran.code, 0, "{ran:?}");
    ensure!(fleet.mnt.join("README.md").is_file() && fleet.mnt.join("list").is_file(), "not usable");
    ensure!(procs::is_alive(fleet.daemon()?), "no daemon");
    same!(fleet.mounts(), 1);
    Ok(())
}

fn unmount_ends_the_daemon() -> Outcome {
    let fleet = with_instance()?;
    let daemon = fleet.daemon()?;
    same!(fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?.code, 0);
    same!(fleet.mounts(), 0);
    wait_until("the daemon's end", secs(5), || !procs::is_alive(daemon))?;
    wait_until("no process is left", secs(5), || fleet.processes().is_empty())
}

fn a_mountpoint_is_enough_to_unmount() -> Outcome {
    let fleet = with_instance()?;
    let daemon = fleet.daemon()?;
    // As from a shell that has forgotten which LIMA_HOME it was mounted with.
    fleet.ok(&format!("mkdir ~/elsewhere; cd ~; LIMA_HOME=~/elsewhere {LIMAFS} unmount $M"))?;
    same!(fleet.mounts(), 0);
    wait_until("the daemon's end", secs(5), || !procs::is_alive(daemon))?;
    let ran = fleet.sh(&format!("cd ~; LIMA_HOME=~/elsewhere {LIMAFS} unmount ~/elsewhere"))?;
    ensure!(ran.code == 1 && ran.err.contains("is not mounted"), "{ran:?}");
    Ok(())
}

fn a_mountpoint_without_a_mount_says_so() -> Outcome {
    let fleet = with_instance()?;
    fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?.text()?;
    same!(fleet.sh("ls $M")?.out, "LIMAFS-IS-NOT-MOUNTED\n");
    fleet.mount()?;
    ensure!(!fleet.ok("ls -A")?.contains("LIMAFS-IS-NOT-MOUNTED"), "it is still there under the mount");
    Ok(())
}

fn f23_the_second_mount_of_a_home_names_the_first_ones_pid() -> Outcome {
    let fleet = with_instance()?;
    let other = fleet.root().join("other");
    std::fs::create_dir(&other)?;
    for mountpoint in [&other, &fleet.mnt] {
        let ran = fleet.limafs(&["mount", &mountpoint.display().to_string()])?;
        same!(ran.code, 1, "{ran:?}");
        ensure!(ran.err.contains(&fleet.daemon()?.to_string()), "it does not name the pid: {ran:?}");
    }
    same!(fleet.state("foo"), "Stopped");
    same!(fleet.mounts(), 1);
    Ok(())
}

fn x30_of_mounts_that_race_exactly_one_wins() -> Outcome {
    let fleet = Fleet::unmounted()?;
    for round in 0..5 {
        let ran = fleet
            .sh(&format!("cd ~; for i in 1 2 3 4; do ( {LIMAFS} mount $M 2>/dev/null; echo rc $? ) & done; wait"))?;
        let wins = ran.out.lines().filter(|line| *line == "rc 0").count();
        same!(wins, 1, "in round {round}: {ran:?}");
        same!(fleet.mounts(), 1);
        same!(fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?.code, 0);
    }
    Ok(())
}

fn x07_a_dead_mount_is_detached_and_replaced() -> Outcome {
    let fleet = with_instance()?;
    for round in 0..10 {
        fleet.kill_daemon()?;
        ensure!(std::fs::read_dir(&fleet.mnt).is_err(), "round {round}: the tree of a killed daemon answers");
        fleet.mount()?;
        same!(fleet.mounts(), 1, "in round {round}");
        same!(fleet.read("foo/lima.yaml"), FAKE);
    }
    Ok(())
}

fn x33_sigterm_unmounts_even_when_busy() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    let (vm, agent) = (fleet.vm("foo"), fleet.hostagent("foo"));
    let _open = fleet.start("exec 3< foo/state 4< foo/events; cd foo; exec sleep 60")?;
    let daemon = fleet.daemon()?;
    procs::signal(daemon, Signal::TERM);
    wait_until("the daemon's end", secs(5), || !procs::is_alive(daemon))?;
    same!(fleet.mounts(), 0);
    ensure!(vm.is_some_and(procs::is_alive) && agent.is_some_and(procs::is_alive), "the VM or its hostagent is gone");
    fleet.mount()?;
    fleet.wait_state("foo", "Running", secs(10))?;
    same!(fleet.vm("foo"), vm);
    Ok(())
}

fn unmount_of_a_busy_tree() -> Outcome {
    let fleet = with_instance()?;
    let _open = fleet.start("cd foo; exec sleep 60")?;
    let ran = fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?;
    // Lazily, so that it always works: whoever is inside keeps a dead directory.
    same!(ran.code, 0, "{ran:?}");
    same!(fleet.mounts(), 0);
    fleet.mount()?;
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn unmount_of_what_is_not_mounted_fails() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let ran = fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?;
    same!(ran.code, 1);
    ensure!(!ran.err.is_empty(), "without a word");
    Ok(())
}

fn foreground_stays_until_sigint() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let mut job = fleet.start(&format!("cd ~; exec {LIMAFS} mount --foreground $M"))?;
    wait_until("the tree is there", secs(10), || fleet.mnt.join("README.md").is_file())?;
    ensure!(job.is_running(), "it did not stay");
    job.signal(Signal::INT);
    same!(job.end(secs(10))?.code, 0);
    same!(fleet.mounts(), 0);
    Ok(())
}

fn the_default_mountpoint_is_lima_in_the_home_directory() -> Outcome {
    let fleet = Fleet::unmounted()?;
    fleet.sh(&format!("cd /; rmdir $M; unset LIMA_HOME; {LIMAFS} mount"))?.text()?;
    ensure!(fleet.mnt.join("README.md").is_file(), "not mounted at ~/lima");
    same!(fleet.sh(&format!("cd /; unset LIMA_HOME; {LIMAFS} unmount"))?.code, 0);
    same!(fleet.mounts(), 0);
    Ok(())
}

fn x39_a_home_that_vanishes_breaks_nothing_else() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("mv $H $H.away")?;
    let ran = fleet.sh("ls > /dev/null; cat foo/state; mkdir bar; echo $?")?;
    ensure!(ran.took < secs(10), "{ran:?}");
    fleet.ok("cd ~; [ -e $H ] && rm -rf $H; mv $H.away $H")?;
    ensure!(procs::is_alive(fleet.daemon()?), "the daemon died");
    Ok(())
}

fn s28_broken_files_in_the_home_break_one_instance() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let wrecks: &[(&str, &str)] = &[
        ("empty", ": > lima.yaml"),
        ("half", "printf 'vmType: fake\\nimag' > lima.yaml"),
        ("binary", "head -c 3000 /dev/urandom > lima.yaml"),
        ("dir", "mkdir lima.yaml"),
        ("fifo", "mkfifo lima.yaml"),
        ("huge", "truncate -s 3G lima.yaml"),
        ("record", "cp $GOOD lima.yaml; echo '{' > limafs.json; echo nonsense > ha.pid; mkfifo ha.sock events"),
        ("loop", "ln -s lima.yaml lima.yaml"),
    ];
    std::fs::write(fleet.root().join("good.yaml"), FAKE)?;
    for (name, line) in wrecks {
        fleet.sh(&format!("mkdir -p $H/{name} && cd $H/{name} && GOOD=~/good.yaml && {line}"))?.text()?;
    }
    fleet.mount()?;
    fleet.create("good", FAKE)?;
    let ran =
        fleet.sh("ls -l . */ > /dev/null; timeout 60 cat */state > /dev/null; timeout 60 cat */status > /dev/null")?;
    ensure!(ran.took < secs(10), "{ran:?}");
    same!(fleet.state("good"), "Stopped");
    for (name, _) in wrecks {
        let state = fleet.state(name);
        ensure!(["Broken", "Uninitialized", "Stopped"].contains(&state.as_str()), "{name} is {state:?}");
    }
    fleet.running("well")
}

fn usage_errors_exit_with_2() -> Outcome {
    let fleet = Fleet::unmounted()?;
    for arguments in [&["fly"][..], &["mount", "--fly"], &["completions"], &["hostagent"]] {
        let ran = fleet.limafs(arguments)?;
        same!(ran.code, 2, "for {arguments:?}: {ran:?}");
    }
    same!(fleet.limafs(&["--help"])?.code, 0);
    same!(fleet.limafs(&["--version"])?.code, 0);
    same!(fleet.limafs(&["mount", "/proc/nowhere"])?.code, 1);
    Ok(())
}

fn completions_and_doctor_speak() -> Outcome {
    let fleet = Fleet::unmounted()?;
    for shell in ["bash", "zsh", "fish"] {
        let ran = fleet.limafs(&["completions", shell])?;
        ensure!(ran.code == 0 && ran.out.contains("unmount"), "{shell}: {ran:?}");
    }
    let ran = fleet.limafs(&["doctor"])?;
    ensure!(ran.code == 0 || ran.code == 1, "{ran:?}");
    for word in ["fuse", "qemu", "kvm", "ssh"] {
        ensure!(ran.out.to_lowercase().contains(word), "doctor says nothing of {word}: {ran:?}");
    }
    Ok(())
}

fn x18_out_of_descriptors_is_survived() -> Outcome {
    let fleet = with_instance()?;
    let daemon = fleet.daemon()?;
    let open = std::fs::read_dir(format!("/proc/{daemon}/fd"))?.count();
    fleet.ok(&format!("prlimit --pid {daemon} --nofile={}:", open))?;
    fleet.sh("ls -lR . > /dev/null; cat foo/* > /dev/null; echo start > foo/state; mkdir bar")?;
    fleet.ok(&format!("prlimit --pid {daemon} --nofile=1024:"))?;
    fleet.ok("mkdir baz; ls > /dev/null; cat foo/state > /dev/null")?;
    ensure!(procs::is_alive(daemon), "the daemon died");
    Ok(())
}
