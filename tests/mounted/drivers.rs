//! `.drivers/`, the names that `vmType` may have, and the choice of a driver where it has none. Programs that are drivers
//! are stood in for by scripts that say how they are, and that leave a mark when they are run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::fleet::FAKE;
use crate::common::{Case, Failed, Fleet, Outcome, in_time, procs, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        built_in_drivers_say_what_and_how_they_are,
        h01_programs_are_listed_and_not_run_for_it,
        h12_a_program_that_others_may_change_is_shown_and_refused,
        s25_a_directory_that_others_may_write_to_is_no_place_for_drivers,
        h02_h04_built_in_drivers_and_the_first_of_a_name_win,
        an_unknown_driver_is_refused_at_close_with_the_list,
        aliases_are_taken_for_the_name,
        a_driver_that_appears_can_be_used_and_one_that_goes_is_gone,
        a_driver_that_comes_and_goes_is_seen_by_inotify,
        a_status_is_found_by_trying_and_never_waited_for,
        a_driver_that_hangs_is_nobody_elses_trouble,
        x15_a_driver_that_never_serves_is_an_error_of_its_own_instance,
        a_trial_that_hangs_ends_with_the_mount,
        the_best_healthy_driver_is_chosen_and_the_status_says_why,
        an_instance_that_ran_keeps_its_driver,
        nothing_can_be_changed_among_the_drivers,
        the_doctor_tells_of_each_driver,
    ]
}

/// A fleet that is not mounted yet, with a directory of drivers.
fn with_drivers() -> Result<(Fleet, PathBuf), Failed> {
    let mut fleet = Fleet::unmounted()?;
    let dir = fleet.root().join("drivers");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    fleet.env.push(("LIMA_DRIVERS_PATH".into(), dir.display().to_string()));
    Ok((fleet, dir))
}

/// A program that leaves the mark `NAME.ran` beside it and does what `script` says.
fn program(dir: &std::path::Path, name: &str, script: &str) -> Outcome {
    let mark = dir.join(format!("{name}.ran")).display().to_string();
    // Made elsewhere and moved there whole, as an installer does.
    let half = dir.join(format!("{name}.half"));
    fs::write(&half, format!("#!/bin/sh\n: > {mark}\n{script}\n"))?;
    fs::set_permissions(&half, fs::Permissions::from_mode(0o755))?;
    fs::rename(half, dir.join(format!("lima-driver-{name}")))?;
    Ok(())
}

/// What a driver of ours answers.
fn answers(healthy: bool, priority: &str) -> String {
    let health = format!(r#"{{"installed":true,"healthy":{healthy},"running":true,"version":"hypervisor 9.1"}}"#);
    let about = format!(r#"{{"default":true,"priority":"{priority}"}}"#);
    format!(r#"echo '{{"health":{health},"about":{about},"info":{{"features":{{"staticSSHPort":true}}}}}}'"#)
}

fn yaml(fleet: &Fleet, path: &str) -> Result<Value, Failed> {
    let text = fleet.read(path);
    serde_yaml::from_str(&text).map_err(|error| format!("{path} is no YAML: {error}\n{text}").into())
}

/// Reads a driver's status until it was tried.
fn tried(fleet: &Fleet, name: &str) -> Result<Value, Failed> {
    let path = format!(".drivers/{name}/status");
    wait_until(&format!("{name} is tried"), secs(20), || fleet.read(&path).contains("\ntried: "))?;
    yaml(fleet, &path)
}

/// The sentence with which a lima.yaml is refused, with EINVAL.
fn refused(fleet: &Fleet, name: &str, document: &str) -> Result<String, Failed> {
    fs::write(fleet.root().join("refused.yaml"), document)?;
    let ran = fleet.sh(&format!("mkdir -p {name}; cp ~/refused.yaml {name}/lima.yaml"))?;
    ensure!(ran.code != 0 && ran.err.contains("Invalid argument"), "{document} is taken: {ran:?}");
    Ok(fleet.read(&format!("{name}/error")).trim_end().to_owned())
}

fn built_in_drivers_say_what_and_how_they_are() -> Outcome {
    let fleet = Fleet::mounted()?;
    let listed = fleet.ok("ls .drivers; ls .drivers/fake")?;
    for name in ["fake", "qemu", "info", "log", "status"] {
        ensure!(listed.lines().any(|line| line == name), "no {name} in {listed}");
    }
    let (info, status) = (yaml(&fleet, ".drivers/qemu/info")?, tried(&fleet, "qemu")?);
    same!((&info["name"], &info["path"]), (&Value::from("qemu"), &Value::from("built in")));
    same!((&info["priority"], &info["default"]), (&Value::from("default"), &Value::from(true)));
    same!(info["image_formats"], serde_json::json!(["qcow2", "raw"]));
    for key in ["installed", "healthy", "running", "needs_improvement"] {
        ensure!(status[key].is_boolean(), "{key} of {status}");
    }
    if status["healthy"] == true {
        ensure!(status["version"].as_str().is_some_and(|version| version.starts_with("QEMU ")), "{status}");
    } else {
        ensure!(status["fix"].as_str().is_some_and(|fix| fix.contains("apt-get install")), "{status}");
    }
    ensure!(fleet.read(".drivers/qemu/log").contains(" tried: "), "no log of the trial");
    let size: usize = fleet.ok("stat -c %s .drivers/qemu/info")?.parse().map_err(|error| format!("{error}"))?;
    same!(size, fleet.read(".drivers/qemu/info").len());
    Ok(())
}

fn h01_programs_are_listed_and_not_run_for_it() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "a", &answers(true, "unknown"))?;
    fs::write(dir.join("not-a-driver"), "")?;
    fs::write(dir.join("lima-driver-plain"), "")?;
    fs::create_dir(dir.join("lima-driver-dir"))?;
    fleet.mount()?;
    let listed = fleet.ok("ls -R .drivers; cat .drivers/*/info; ls -l .drivers/a/")?;
    ensure!(listed.contains(".drivers/a:") && !listed.contains("plain") && !listed.contains("dir"), "{listed}");
    same!(yaml(&fleet, ".drivers/a/info")?["path"], Value::from(dir.join("lima-driver-a").display().to_string()));
    ensure!(!dir.join("a.ran").exists(), "it was run to be listed");
    same!(tried(&fleet, "a")?["version"], "hypervisor 9.1");
    ensure!(dir.join("a.ran").exists(), "its status was not found by running it");
    same!(yaml(&fleet, ".drivers/a/info")?["features"], serde_json::json!(["staticSSHPort"]));
    Ok(())
}

fn h12_a_program_that_others_may_change_is_shown_and_refused() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "a", &answers(true, "preferred"))?;
    let path = dir.join("lima-driver-a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    fleet.mount()?;
    let why = format!("{} can be written by others (mode 0777)", path.display());
    let status = yaml(&fleet, ".drivers/a/status")?;
    same!((&status["error"], &status["healthy"]), (&Value::from(why.clone()), &Value::from(false)));
    let error = refused(&fleet, "foo", &FAKE.replace("fake", "a"))?;
    ensure!(error.ends_with(&format!("vmType: the driver \"a\" is not used: {why}")), "{error}");
    // Made safe it counts, without anybody having to say so.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    wait_until("the driver is taken again", secs(10), || {
        yaml(&fleet, ".drivers/a/status").is_ok_and(|status| status["healthy"] == true)
    })?;
    fleet.create("bar", &FAKE.replace("fake", "a"))
}

fn s25_a_directory_that_others_may_write_to_is_no_place_for_drivers() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "a", &answers(true, "preferred"))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    fleet.mount()?;
    let status = tried(&fleet, "a");
    let status = status.or_else(|_| yaml(&fleet, ".drivers/a/status"))?;
    same!(status["error"], Value::from(format!("{} can be written by others (mode 0777)", dir.display())));
    ensure!(!dir.join("a.ran").exists(), "it was run all the same");
    Ok(())
}

fn h02_h04_built_in_drivers_and_the_first_of_a_name_win() -> Outcome {
    let (mut fleet, first) = with_drivers()?;
    let second = fleet.root().join("second");
    fs::create_dir(&second)?;
    fs::set_permissions(&second, fs::Permissions::from_mode(0o755))?;
    for (dir, name) in [(&first, "a"), (&second, "a"), (&second, "fake"), (&second, "b")] {
        program(dir, name, "")?;
    }
    fleet.env[0].1 = format!("::{0}/none:{0}:{1}/lima-driver-b:{1}", first.display(), second.display());
    fleet.mount()?;
    let path = |name: &str| Ok::<_, Failed>(yaml(&fleet, &format!(".drivers/{name}/info"))?["path"].clone());
    same!(path("fake")?, "built in");
    same!(path("a")?, first.join("lima-driver-a").display().to_string());
    same!(path("b")?, second.join("lima-driver-b").display().to_string());
    Ok(())
}

fn an_unknown_driver_is_refused_at_close_with_the_list() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "mine", "")?;
    fleet.mount()?;
    let error = refused(&fleet, "foo", &FAKE.replace("fake", "vbox"))?;
    ensure!(error.contains("line 1, column 1: vmType: there is no driver \"vbox\" ("), "{error}");
    let list = error.rsplit_once('(').map_or("", |(_, list)| list.trim_end_matches(')'));
    let names: Vec<&str> = list.split(", ").collect();
    for name in ["fake", "mine", "qemu"] {
        ensure!(names.contains(&name), "no {name} in {error}");
    }
    same!(fleet.state("foo"), "Uninitialized");
    Ok(())
}

fn aliases_are_taken_for_the_name() -> Outcome {
    let fleet = Fleet::mounted()?;
    same!(yaml(&fleet, ".drivers/fake/info")?["aliases"], serde_json::json!(["pretend"]));
    fleet.create("foo", &FAKE.replace("fake", "pretend"))?;
    same!(fleet.status("foo", "driver").as_deref(), Some("fake"));
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(20))?;
    ensure!(fleet.read("foo/effective.yaml").contains("vmType: fake"), "{}", fleet.read("foo/effective.yaml"));
    Ok(())
}

fn a_driver_that_appears_can_be_used_and_one_that_goes_is_gone() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    fleet.mount()?;
    refused(&fleet, "foo", &FAKE.replace("fake", "late"))?;
    program(&dir, "late", &answers(true, "unknown"))?;
    wait_until("the new driver in the tree", secs(10), || fleet.mnt.join(".drivers/late/info").exists())?;
    same!(tried(&fleet, "late")?["healthy"], true);
    fleet.create_over("foo", &FAKE.replace("fake", "late"))?;
    same!(fleet.status("foo", "driver").as_deref(), Some("late"));
    fs::remove_file(dir.join("lima-driver-late"))?;
    wait_until("it is gone from the tree", secs(10), || !fleet.mnt.join(".drivers/late").exists())?;
    ensure!(!fleet.ok("ls .drivers")?.contains("late"), "it is still listed");
    // The instance stays as it is; its start says what it lacks.
    same!(fleet.state("foo"), "Stopped");
    fleet.sh("echo start > foo/state")?;
    wait_until("the start fails", secs(20), || fleet.read("foo/error").contains("there is no driver \"late\""))
}

fn a_driver_that_comes_and_goes_is_seen_by_inotify() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    fleet.mount()?;
    let mut inotify = inotify::Inotify::init()?;
    let mask = inotify::WatchMask::CREATE | inotify::WatchMask::DELETE;
    inotify.watches().add(fleet.mnt.join(".drivers"), mask)?;
    let mut seen = Vec::new();
    let mut saw = |what: inotify::EventMask| {
        let mut buffer = [0; 4096];
        wait_until(&format!("{what:?} of .drivers/late"), secs(10), || {
            if let Ok(events) = inotify.read_events(&mut buffer) {
                seen.extend(events.map(|event| (event.mask, event.name.map(|name| name.to_owned()))));
            }
            seen.iter().any(|(mask, name)| mask.contains(what) && name.as_deref() == Some("late".as_ref()))
        })
    };
    program(&dir, "late", "")?;
    saw(inotify::EventMask::CREATE)?;
    fs::remove_file(dir.join("lima-driver-late"))?;
    saw(inotify::EventMask::DELETE)
}

fn a_status_is_found_by_trying_and_never_waited_for() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    // Waits until it may go on.
    let script = format!("while [ ! -e {0}/go ]; do sleep 0.05; done; {1}", dir.display(), answers(true, "unknown"));
    program(&dir, "slow", &script)?;
    program(&dir, "lima", "echo 'flag provided but not defined: -health' >&2; exit 2")?;
    fleet.mount()?;
    let status = yaml(&fleet, ".drivers/slow/status")?;
    same!((&status["installed"], &status["healthy"]), (&Value::from(true), &Value::from("unknown")));
    wait_until("it is being tried", secs(10), || dir.join("slow.ran").exists())?;
    fs::write(dir.join("go"), "")?;
    same!(tried(&fleet, "slow")?["healthy"], true);
    let status = tried(&fleet, "lima")?;
    same!((&status["installed"], &status["healthy"]), (&Value::from(true), &Value::from("unknown")));
    ensure!(fleet.read(".drivers/lima/log").contains("\nflag provided but not defined"), "no words of it in its log");
    // What changes is seen by who reads again, without a mount.
    program(&dir, "slow", &answers(false, "unknown"))?;
    wait_until("the new answer", secs(20), || {
        yaml(&fleet, ".drivers/slow/status").is_ok_and(|status| status["healthy"] == false)
    })
}

fn a_driver_that_hangs_is_nobody_elses_trouble() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "hangs", "exec sleep 1000")?;
    fleet.mount()?;
    for _ in 0..20 {
        in_time("its status", secs(2), || {
            let ran = fleet.sh("cat .drivers/hangs/status")?;
            same!(ran.code, 0, "{ran:?}");
            Ok(ran.took)
        })?;
    }
    wait_until("it is being tried", secs(10), || dir.join("hangs.ran").exists())?;
    fleet.running("foo")?;
    same!(yaml(&fleet, ".drivers/hangs/status")?["healthy"], "unknown");
    wait_until("it is given up", secs(40), || {
        yaml(&fleet, ".drivers/hangs/status").is_ok_and(|status| status["reason"] == "timeout")
    })
}

fn x15_a_driver_that_never_serves_is_an_error_of_its_own_instance() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "mute", "exec sleep 1000")?;
    fleet.mount()?;
    fleet.create("foo", &FAKE.replace("fake", "mute"))?;
    fleet.create("bar", FAKE)?;
    fleet.ok("echo start > foo/state; echo start > bar/state")?;
    fleet.wait_state("bar", "Running", secs(10))?;
    fleet.wait_state("foo", "Broken", secs(30))?;
    same!(fleet.read("foo/error"), "the start of driver mute took longer than 10 s\n");
    ensure!(procs::naming(&dir.join("lima-driver-mute")).is_empty(), "its program is left");
    Ok(())
}

fn a_trial_that_hangs_ends_with_the_mount() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    let pids = dir.join("pids");
    program(&dir, "a", &format!("sleep 1000 &\necho $$ $! > {}\nwait", pids.display()))?;
    fleet.mount()?;
    let all = || -> Vec<u32> {
        let text = fs::read_to_string(&pids).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    fleet.read(".drivers/a/status");
    wait_until("it is being tried", secs(10), || all().len() == 2)?;
    // Before its time is up.
    fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?.text()?;
    wait_until("nothing of it is left", secs(5), || !all().into_iter().any(procs::is_alive))
}

fn the_best_healthy_driver_is_chosen_and_the_status_says_why() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "best", &answers(true, "highly-preferred"))?;
    program(&dir, "ill", &answers(false, "highly-preferred"))?;
    program(&dir, "poor", &answers(true, "experimental"))?;
    fleet.mount()?;
    fleet.create("foo", &FAKE.replace("vmType: fake\n", ""))?;
    let driver = || fleet.status("foo", "driver").unwrap_or_default();
    let expected = "best (chosen by priority highly-preferred, healthy; ill not healthy; qemu ";
    wait_until(expected, secs(20), || driver().starts_with(expected))
        .map_err(|error| format!("{}: it is {:?}", error.message().unwrap_or_default(), driver()))?;
    ensure!(fleet.read("foo/effective.yaml").contains("vmType: best"), "{}", fleet.read("foo/effective.yaml"));
    fs::remove_file(dir.join("lima-driver-best"))?;
    wait_until("another one is chosen", secs(20), || driver().starts_with("qemu ("))?;
    // A name in lima.yaml counts more than any choice.
    fleet.create_over("foo", FAKE)?;
    same!(driver(), "fake");
    Ok(())
}

fn an_instance_that_ran_keeps_its_driver() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    fleet.mount()?;
    fleet.running("foo")?;
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    fleet.create_over("foo", &FAKE.replace("vmType: fake\n", ""))?;
    same!(fleet.status("foo", "driver").as_deref(), Some("fake (as at its first start)"));
    program(&dir, "best", &answers(true, "highly-preferred"))?;
    same!(tried(&fleet, "best")?["healthy"], true);
    same!(fleet.status("foo", "driver").as_deref(), Some("fake (as at its first start)"));
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(20))?;
    ensure!(fleet.vm("foo").is_some(), "no VM of the pretend driver");
    Ok(())
}

fn nothing_can_be_changed_among_the_drivers() -> Outcome {
    let fleet = Fleet::mounted()?;
    for line in [
        "mkdir .drivers/x",
        "rmdir .drivers/fake",
        "rmdir .drivers",
        "echo x > .drivers/fake/status",
        "touch .drivers/x",
        "rm .drivers/fake/info",
        "mv .drivers/fake .drivers/x",
    ] {
        ensure!(fleet.sh(line)?.code != 0, "{line} is done");
    }
    ensure!(fleet.ok("ls .drivers/fake")?.contains("info"), "the driver is gone");
    Ok(())
}

fn the_doctor_tells_of_each_driver() -> Outcome {
    let (fleet, dir) = with_drivers()?;
    program(&dir, "ill", "echo 'it is not well' >&2; exit 2")?;
    let ran = fleet.limafs(&["doctor"])?;
    let line = |word: &str| ran.out.lines().find(|line| line.contains(word)).unwrap_or_default().to_owned();
    ensure!(line("driver qemu").contains("built in"), "{ran:?}");
    let ill = line("driver ill");
    ensure!(ill.starts_with("absent") && ill.contains("does not say how it is"), "{ran:?}");
    Ok(())
}
