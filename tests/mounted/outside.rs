//! Instances that a driver's program runs: the pretend driver, outside of limafs and under another name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::fleet::{FAKE, LIMAFS};
use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::{cases, ensure, same};

const FILE: &str = "lima-driver-outside";

pub fn cases() -> Vec<Case> {
    cases![needing(lacks_program):
        an_outside_driver_runs_an_instance_like_a_built_in_one,
        what_an_outside_driver_says_once_it_knows_the_instance_counts,
        h07_a_hostagent_that_comes_back_finds_driver_and_vm,
        h07_a_new_mount_finds_driver_and_vm,
        h11_a_driver_replaced_on_disk_is_used_at_the_next_start,
        x15_a_driver_that_dies_is_started_again_and_its_vm_goes_on,
        x15_the_vm_of_a_dead_driver_that_is_gone_is_said_to_be_gone,
        an_instance_that_names_none_is_started_by_the_best_and_stays_with_it,
        what_a_driver_keeps_elsewhere_goes_with_its_instance,
        standard_directories_are_beside_the_program_as_it_was_called,
        h06_a_driver_that_ends_at_once_fails_the_start_with_its_words,
    ]
}

/// The program that the tests of its own crate are of.
fn built() -> PathBuf {
    Path::new(LIMAFS).with_file_name("lima-driver-fake")
}

fn lacks_program() -> Option<String> {
    (!built().is_file()).then(|| "no lima-driver-fake beside limafs (cargo build -p limafs-driver-fake)".into())
}

/// A mounted fleet with the instance foo of the driver, and the driver's path.
fn with_instance() -> Result<(Fleet, PathBuf), Failed> {
    let mut fleet = Fleet::unmounted()?;
    let dir = fleet.root().join("drivers");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    let program = dir.join(FILE);
    install(&program)?;
    fleet.env.push(("LIMA_DRIVERS_PATH".into(), program.display().to_string()));
    fleet.mount()?;
    fleet.create("foo", &FAKE.replace("fake", "outside"))?;
    Ok((fleet, program))
}

/// Puts a new file in the place of an old one, if there is one.
fn install(program: &Path) -> Outcome {
    let half = program.with_extension("half");
    fs::copy(built(), &half)?;
    fs::set_permissions(&half, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(half, program)?)
}

fn start(fleet: &Fleet) -> Result<(u32, u32), Failed> {
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(30))?;
    let vm = wait_for("the VM's process in status.json", secs(5), || fleet.vm("foo"))?;
    Ok((wait_for("the driver's process", secs(5), || server(fleet))?, vm))
}

/// The driver's process: the one there is.
fn server(fleet: &Fleet) -> Option<u32> {
    let pids = servers(fleet);
    if pids.len() == 1 { pids.first().copied() } else { None }
}

/// Processes with an instance directory that are the driver's.
fn servers(fleet: &Fleet) -> Vec<u32> {
    let is_server = |pid: &u32| {
        let words = procs::arguments(*pid);
        words.first().is_some_and(|program| program.ends_with(FILE)) && words.iter().any(|word| word == "--inst-dir")
    };
    procs::naming(&fleet.home).into_iter().filter(|pid| procs::is_alive(*pid) && is_server(pid)).collect()
}

fn an_outside_driver_runs_an_instance_like_a_built_in_one() -> Outcome {
    let (fleet, _) = with_instance()?;
    same!(fleet.status("foo", "driver").as_deref(), Some("outside"));
    let (_, vm) = start(&fleet)?;
    for (verb, state) in [("pause", "Paused"), ("resume", "Running"), ("reset", "Running")] {
        fleet.ok(&format!("echo {verb} > foo/state"))?;
        fleet.wait_state("foo", state, secs(10))?;
        same!(fleet.vm("foo"), Some(vm));
    }
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    wait_until("VM and driver are gone", secs(10), || !procs::is_alive(vm) && servers(&fleet).is_empty())?;
    let (_, vm) = start(&fleet)?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    wait_until("VM and driver are gone", secs(10), || !procs::is_alive(vm) && servers(&fleet).is_empty())?;
    let log = fleet.read(".drivers/outside/log");
    ensure!(log.contains("foo/driver.stderr.log:\n") && log.contains(" serves at "), "{log:?}");
    fleet.ok("rmdir foo")?;
    Ok(())
}

fn what_an_outside_driver_says_once_it_knows_the_instance_counts() -> Outcome {
    let (fleet, _) = with_instance()?;
    let told = "vmOpts: {fake: {info: {vsockPort: 2222, features: {noCloudInit: true}}}}\n";
    fleet.create_over("foo", &format!("{}{told}", FAKE.replace("fake", "outside")))?;
    start(&fleet)?;
    let env = fs::read_to_string(fleet.home.join("foo/cidata/lima.env"))?;
    ensure!(env.contains("LIMA_CIDATA_VSOCK_PORT=2222\n"), "{env}");
    Ok(())
}

fn h07_a_hostagent_that_comes_back_finds_driver_and_vm() -> Outcome {
    let (fleet, _) = with_instance()?;
    let (driver, vm) = start(&fleet)?;
    let hostagent = fleet.hostagent("foo").ok_or("no hostagent")?;
    procs::signal(hostagent, Signal::KILL);
    wait_until("another hostagent", secs(10), || fleet.hostagent("foo").is_some_and(|pid| pid != hostagent))?;
    // Until the new one speaks, the state is the old one's last word.
    wait_until("the same VM", secs(10), || fleet.vm("foo") == Some(vm))?;
    same!((fleet.state("foo").as_str(), servers(&fleet)), ("Running", vec![driver]));
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    wait_until("VM and driver are gone", secs(10), || !procs::is_alive(vm) && servers(&fleet).is_empty())
}

fn h07_a_new_mount_finds_driver_and_vm() -> Outcome {
    let (fleet, _) = with_instance()?;
    let (driver, vm) = start(&fleet)?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    wait_until("the same VM", secs(10), || fleet.vm("foo") == Some(vm))?;
    same!((fleet.state("foo").as_str(), servers(&fleet)), ("Running", vec![driver]));
    Ok(())
}

fn h11_a_driver_replaced_on_disk_is_used_at_the_next_start() -> Outcome {
    let (fleet, program) = with_instance()?;
    let (driver, vm) = start(&fleet)?;
    install(&program)?;
    let runs = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    ensure!(runs(driver).to_string_lossy().ends_with("(deleted)"), "{:?}", runs(driver));
    fleet.ok("echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", secs(10))?;
    same!((servers(&fleet), fleet.vm("foo")), (vec![driver], Some(vm)));
    fleet.ok("echo resume > foo/state; echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    let (next, _) = start(&fleet)?;
    ensure!(next != driver, "the old driver serves the new start");
    same!(runs(next), program);
    Ok(())
}

fn x15_a_driver_that_dies_is_started_again_and_its_vm_goes_on() -> Outcome {
    let (fleet, _) = with_instance()?;
    let (driver, vm) = start(&fleet)?;
    procs::signal(driver, Signal::KILL);
    let next = wait_for("another driver", secs(15), || server(&fleet).filter(|pid| *pid != driver))?;
    fleet.wait_state("foo", "Running", secs(10))?;
    same!((fleet.vm("foo"), procs::is_alive(vm)), (Some(vm), true));
    fleet.ok("echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", secs(10))?;
    same!(servers(&fleet), [next]);
    Ok(())
}

fn x15_the_vm_of_a_dead_driver_that_is_gone_is_said_to_be_gone() -> Outcome {
    let (fleet, program) = with_instance()?;
    let (driver, vm) = start(&fleet)?;
    fs::remove_file(&program)?;
    procs::signal(driver, Signal::KILL);
    // It runs on, and nobody says that it is stopped.
    wait_until("the state says that something is wrong", secs(15), || fleet.state("foo") == "Degraded")?;
    ensure!(procs::is_alive(vm), "the VM went with its driver");
    procs::signal(vm, Signal::KILL);
    fleet.wait_state("foo", "Broken", secs(20))?;
    ensure!(fleet.read("foo/error").contains("driver was dead"), "{:?}", fleet.read("foo/error"));
    Ok(())
}

fn an_instance_that_names_none_is_started_by_the_best_and_stays_with_it() -> Outcome {
    let (mut fleet, program) = with_instance()?;
    let dir = program.parent().ok_or("no directory")?.to_owned();
    fleet.ok("rmdir foo")?;
    fleet.limafs(&["unmount"])?;
    fleet.env[0].1 = dir.display().to_string();
    preferred(&dir, "best", true)?;
    fleet.mount()?;
    fleet.create("foo", &FAKE.replace("vmType: fake\n", ""))?;
    // At once, whether or not the mount has tried them all.
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(30))?;
    stays_with(&fleet, "foo", "best")?;
    let record: serde_json::Value = serde_json::from_slice(&fs::read(fleet.home.join("foo/limafs.json"))?)
        .map_err(|error| format!("limafs.json: {error}"))?;
    same!(record["driver"], "best");
    fleet.create("bar", &FAKE.replace("vmType: fake\n", ""))?;
    let chosen = |driver: &str| {
        let wanted = format!("{driver} (chosen by priority");
        wait_until(&format!("{driver} is chosen for others"), secs(20), || {
            fleet.status("bar", "driver").is_some_and(|driver| driver.starts_with(&wanted))
        })
    };
    chosen("best")?;
    // What comes, and what becomes of it, counts for who has chosen none yet.
    preferred(&dir, "a-better-one", true)?;
    chosen("a-better-one")?;
    preferred(&dir, "a-better-one", false)?;
    chosen("best")?;
    preferred(&dir, "a-better-one", true)?;
    chosen("a-better-one")?;
    fleet.ok("echo restart > foo/state")?;
    let vm = fleet.vm("foo");
    wait_until("another VM", secs(30), || fleet.vm("foo").is_some_and(|pid| Some(pid) != vm))?;
    fleet.wait_state("foo", "Running", secs(30))?;
    stays_with(&fleet, "foo", "best")?;
    fleet.ok("echo start > bar/state")?;
    fleet.wait_state("bar", "Running", secs(30))?;
    stays_with(&fleet, "bar", "a-better-one")?;
    Ok(())
}

/// The record is another file than the state, and may be read later.
fn stays_with(fleet: &Fleet, instance: &str, driver: &str) -> Outcome {
    let wanted = format!("{driver} (as at its first start)");
    wait_until(&format!("{instance} stays with {driver}"), secs(10), || {
        fleet.status(instance, "driver").as_ref() == Some(&wanted)
    })
}

fn what_a_driver_keeps_elsewhere_goes_with_its_instance() -> Outcome {
    let (fleet, program) = with_instance()?;
    let kept = fleet.root().join("kept");
    fs::write(fleet.home.join("foo/fake.json"), serde_json::json!({ "keeps": kept }).to_string())?;
    start(&fleet)?;
    ensure!(kept.exists(), "create was not called");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    let away = program.with_file_name("away");
    fs::rename(&program, &away)?;
    ensure!(fleet.ok("rmdir foo").is_err(), "removed without its driver");
    ensure!(fleet.read("foo/error").contains("there is no driver"), "{}", fleet.read("foo/error"));
    fs::rename(&away, &program)?;
    fleet.ok("rmdir foo")?;
    ensure!(!kept.exists(), "delete was not called");
    Ok(())
}

/// The pretend driver under a name of its own, as one that is wished for most.
fn preferred(dir: &Path, name: &str, healthy: bool) -> Outcome {
    let program = dir.join(format!("lima-driver-{name}"));
    let health = serde_json::json!({ "installed": true, "healthy": healthy, "running": true });
    let about = r#"{"default":true,"priority":"highly-preferred"}"#;
    let half = program.with_extension("half");
    // The name that it goes by is in its first argument.
    fs::write(
        &half,
        format!(
            "#!/bin/bash\n[ \"$1\" != --health ] || exec echo '{{\"health\":{health},\"about\":{about}}}'\n\
             exec -a {} {} \"$@\"\n",
            program.display(),
            built().display()
        ),
    )?;
    fs::set_permissions(&half, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(half, program)?)
}

fn standard_directories_are_beside_the_program_as_it_was_called() -> Outcome {
    let mut fleet = Fleet::unmounted()?;
    let (bin, lib) = (fleet.root().join("bin"), fleet.root().join("libexec/lima"));
    fs::create_dir_all(&lib)?;
    fs::create_dir(&bin)?;
    for dir in [&lib, &fleet.root().join("libexec")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    install(&lib.join(FILE))?;
    std::os::unix::fs::symlink(LIMAFS, bin.join("limafs"))?;
    fleet.exe = bin.join("limafs");
    fleet.mount()?;
    let path = format!("path: {}\n", lib.join(FILE).display());
    ensure!(fleet.read(".drivers/outside/info").contains(&path), "{:?}", fleet.read(".drivers/outside/info"));
    fleet.create("foo", &FAKE.replace("fake", "outside"))?;
    start(&fleet)?;
    Ok(())
}

fn h06_a_driver_that_ends_at_once_fails_the_start_with_its_words() -> Outcome {
    let (fleet, program) = with_instance()?;
    for (script, words) in [
        ("exit 0", "ended without serving"),
        ("echo 'no such hypervisor' >&2; exit 1", "failed with code 1 before it served: no such hypervisor"),
    ] {
        fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
        fleet.sh("echo start > foo/state")?;
        wait_until(words, secs(20), || fleet.read("foo/error").contains(words))
            .map_err(|error| format!("{:?}: {:?}", error.message(), fleet.read("foo/error")))?;
        fleet.wait_state("foo", "Broken", secs(20))?;
    }
    Ok(())
}
