//! Discovery on a disk of its own: cases H. No test here runs a driver's program but the fixture that it wrote.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use limafs_driver::environment;

use super::discovery::{Places, find, watched};
use super::*;

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A program that says that it was run.
fn driver(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    write(&path, &format!("#!/bin/sh\ntouch {}/ran\n", dir.display()), 0o755);
    path
}

fn places(elements: &[&Path]) -> Places {
    Places { path: std::env::join_paths(elements).unwrap(), selves: Vec::new() }
}

fn names_in(places: &Places) -> Vec<String> {
    find(places).into_iter().map(|program| program.name).collect()
}

#[test]
fn h01_only_executable_files_named_as_drivers_are_drivers() {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["lima-driver-a", "lima-driver-b.2", "not-a-driver", "driver-lima-test", "lima-driver-", "lima-driver-x.exe"]
    {
        driver(dir.path(), name);
    }
    write(&dir.path().join("lima-driver-plain"), "", 0o644);
    fs::create_dir(dir.path().join("lima-driver-dir")).unwrap();
    driver(&dir.path().join("lima-driver-dir"), "lima-driver-inside");
    driver(dir.path(), "lima-driver-new\nline");
    assert_eq!(names_in(&places(&[dir.path()])), ["a", "b.2"]);
}

#[test]
fn h01_a_program_can_be_named_itself_and_a_symlink_counts_by_what_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let real = driver(&dir.path().join("bin"), "hypervisor");
    let named = driver(&dir.path().join("bin"), "lima-driver-named");
    fs::create_dir(dir.path().join("links")).unwrap();
    symlink(&real, dir.path().join("links/lima-driver-linked")).unwrap();
    symlink(dir.path(), dir.path().join("links/lima-driver-dir")).unwrap();
    let found = find(&places(&[&named, &dir.path().join("links"), &dir.path().join("bin/hypervisor")]));
    let told: Vec<_> = found.iter().map(|program| (program.name.as_str(), program.refused.is_some())).collect();
    assert_eq!(told, [("named", false), ("dir", true), ("linked", false)]);
    assert!(found[1].refused.as_ref().unwrap().ends_with("is not a regular file"));
}

#[test]
fn h02_a_built_in_driver_wins_over_a_program_of_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = BUILT_IN.first().map_or("mine", |(name, _)| *name);
    driver(dir.path(), &format!("lima-driver-{first}"));
    driver(dir.path(), "lima-driver-mine");
    let found = Registry { places: places(&[dir.path()]) }.find();
    let of =
        |name: &str| found.iter().filter(|driver| driver.name == name).map(|driver| &driver.place).collect::<Vec<_>>();
    if first != "mine" {
        assert_eq!(of(first), [&Place::BuiltIn]);
    }
    assert_eq!(of("mine"), [&Place::Program(dir.path().join("lima-driver-mine"))]);
}

#[test]
fn h03_empty_and_missing_elements_are_no_faults() {
    let dir = tempfile::tempdir().unwrap();
    driver(dir.path(), "lima-driver-a");
    let path = format!("::{0}/nothing:{0}:{0}/lima-driver-gone:", dir.path().display());
    let places = Places { path: OsString::from(path), selves: Vec::new() };
    assert_eq!(names_in(&places), ["a"]);
    assert_eq!(watched(&places), [dir.path()]);
}

#[test]
fn regression_a_directory_that_is_made_with_those_above_it_is_watched_for() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("usr");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    let places = Places { selves: vec![prefix.join("bin")], ..Places::default() };
    assert_eq!(watched(&places), [prefix.as_path()]);
    fs::create_dir(prefix.join("libexec")).unwrap();
    assert_eq!(watched(&places), [prefix.clone(), prefix.join("libexec")]);
}

#[test]
fn h04_the_first_of_a_name_wins_and_the_variable_comes_before_the_standard_directories() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("usr");
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    for place in [&first, &second, &prefix.join("libexec/lima"), &prefix.join("lib/lima")] {
        driver(place, "lima-driver-a");
    }
    driver(&prefix.join("libexec/lima"), "lima-driver-b");
    driver(&prefix.join("lib/lima"), "lima-driver-b");
    driver(&prefix.join("lib/lima"), "lima-driver-c");
    let selves = vec![prefix.join("bin")];
    let all = find(&Places { selves, ..places(&[&second, &first]) });
    let paths: Vec<_> = all.into_iter().map(|program| program.path).collect();
    let expected = [
        second.join("lima-driver-a"),
        prefix.join("libexec/lima/lima-driver-b"),
        prefix.join("lib/lima/lima-driver-c"),
    ];
    assert_eq!(paths, expected);
}

#[test]
fn h12_what_others_may_change_is_listed_with_the_reason_and_never_used() {
    let dir = tempfile::tempdir().unwrap();
    let (open, safe) = (dir.path().join("open"), dir.path().join("safe"));
    driver(&open, "lima-driver-a");
    driver(&open, "lima-driver-b");
    driver(&safe, "lima-driver-b");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let registry = Registry { places: places(&[&open, &safe]) };
    let found = registry.find();
    let of = |name: &str| found.iter().find(|driver| driver.name == name).unwrap();
    let why = of("a").refused.clone().unwrap();
    assert_eq!(why, format!("{} can be written by others (mode 0777)", open.display()));
    assert_eq!(of("b").place, Place::Program(safe.join("lima-driver-b")));
    let error = registry.driver("a", dir.path()).err().unwrap();
    assert_eq!(error.errno(), libc::EINVAL);
    assert_eq!(error.to_string(), format!("vmType: the driver \"a\" is not used: {why}"));
}

#[test]
fn s25_relative_elements_are_refused() {
    let places = Places { path: "lib:./bin/lima-driver-a:../b".into(), selves: Vec::new() };
    let found = find(&places);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].refused.as_deref()), ("a", Some("its path is not absolute")));
    assert_eq!(watched(&places), [""; 0].map(PathBuf::from));
}

#[test]
fn a_programs_name_comes_before_an_alias() {
    let dir = tempfile::tempdir().unwrap();
    let aliases = |places| Registry { places }.names().aliases;
    let Some((alias, _)) = aliases(Places::default()).pop_first() else { return };
    driver(dir.path(), &format!("lima-driver-{alias}"));
    assert!(!aliases(places(&[dir.path()])).contains_key(&alias));
}

#[test]
fn nothing_is_run_to_be_listed() {
    let dir = tempfile::tempdir().unwrap();
    driver(dir.path(), "lima-driver-a");
    let registry = Registry { places: places(&[dir.path()]) };
    assert!(registry.find().iter().any(|driver| driver.name == "a" && driver.words.is_none()));
    assert!(!dir.path().join("ran").exists());
}

#[test]
fn an_unknown_driver_is_refused_with_the_known_ones() {
    let error = Registry { places: Places::default() }.driver("vbox", Path::new("/")).err().expect("no such driver");
    assert_eq!(error.errno(), libc::EINVAL);
    assert!(error.to_string().starts_with("vmType: there is no driver \"vbox\" ("));
}

#[test]
fn each_built_in_driver_knows_its_own_name_and_goes_by_its_aliases() {
    let registry = Registry { places: Places::default() };
    for (name, make) in BUILT_IN {
        assert_eq!(make().info().name, *name);
        for called in make().about().aliases.iter().map(String::as_str).chain([*name]) {
            assert_eq!(registry.driver(called, Path::new("/")).unwrap().info().name, *name);
        }
    }
}

async fn tried(script: &str) -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lima-driver-a");
    write(&path, &format!("#!/bin/sh\n{script}\n"), 0o755);
    let found = Registry { places: places(&[dir.path()]) }.find().into_iter().find(|driver| driver.name == "a");
    Registry { places: Places::default() }.try_out(found.unwrap()).await
}

#[tokio::test]
async fn a_program_of_ours_says_how_it_is_and_what_it_is() {
    let answer = r#"{"health":{"installed":true,"healthy":true,"version":"9.1"},
        "about":{"default":true,"priority":"preferred","aliases":["b"]},
        "info":{"name":"a","features":{"dynamicSSHAddress":true}}}"#;
    let tried = tried(&format!("[ \"$*\" = --health ] || exit 3\necho hello >&2\ncat <<'X'\n{answer}\nX")).await;
    let (health, words) = (tried.health.unwrap(), tried.words.unwrap());
    assert!(health.installed && health.healthy);
    assert_eq!(health.version, "9.1");
    assert_eq!((words.about.aliases, words.about.priority), (vec!["b".to_owned()], limafs_driver::Priority::Preferred));
    assert!(words.info.features.dynamic_ssh_address);
    assert_eq!(tried.log, ["hello"]);
}

#[tokio::test]
async fn limas_own_programs_say_nothing_and_nonsense_is_no_answer() {
    let lima = tried("echo 'flag provided but not defined: -health' >&2; exit 2").await;
    assert!(lima.health.is_none() && lima.words.is_none());
    assert_eq!(lima.log, ["flag provided but not defined: -health"]);
    for script in
        ["echo '{}'", "echo garbage", "head -c 300000 /dev/zero", "echo '{\"health\":{\"healthy\":true}}'; exit 1"]
    {
        assert!(tried(script).await.health.is_none(), "{script}");
    }
}

#[tokio::test]
async fn a_program_that_dies_or_cannot_run_is_ill() {
    assert_eq!(tried("kill -9 $$").await.health.unwrap().reason, "died");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lima-driver-a");
    write(&path, "\u{7f}ELF", 0o755);
    let health = trial::program(&path).await.health.unwrap();
    assert_eq!((health.installed, health.healthy, health.reason.as_str()), (true, false, "not-runnable"));
}

#[tokio::test]
async fn s25_a_program_is_tried_in_a_minimal_environment() {
    let told = tried("env | cut -d= -f1 >&2").await.log;
    let told_of: Vec<String> = environment().into_iter().filter_map(|(name, _)| name.into_string().ok()).collect();
    // The last are the shell's own.
    let known = |name: &String| told_of.contains(name) || ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str());
    assert!(told.iter().any(|name| name == "PATH"));
    assert!(told.iter().all(known), "{told:?}");
}

#[tokio::test]
async fn s25_a_program_that_became_unsafe_after_it_was_found_is_not_tried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lima-driver-a");
    write(&path, &format!("#!/bin/sh\n: > '{}/ran'\n", dir.path().display()), 0o755);
    let registry = Registry { places: places(&[dir.path()]) };
    let found = registry.find().into_iter().find(|driver| driver.name == "a").unwrap();
    assert_eq!(found.refused, None);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(registry.try_out(found).await.health.unwrap().reason, "unsafe-path");
    assert!(!dir.path().join("ran").exists());
}

#[tokio::test]
async fn a_trial_that_is_given_up_ends_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lima-driver-a");
    let pids = dir.path().join("pids");
    write(&path, &format!("#!/bin/sh\nsleep 1000 &\necho $$ $! > '{}'\nwait\n", pids.display()), 0o755);
    let all = || -> Vec<String> {
        fs::read_to_string(&pids).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let trial = tokio::spawn(async move { trial::program(&path).await });
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let until = async |holds: &dyn Fn() -> bool| {
        while !holds() {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(&|| all().len() == 2).await;
    trial.abort();
    let is_gone = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    until(&|| all().iter().all(is_gone)).await;
}

#[tokio::test]
async fn the_choice_asks_programs_and_takes_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let says = |name: &str, priority: &str, healthy: bool| {
        let answer = format!(
            r#"{{"health":{{"installed":true,"healthy":{healthy}}},"about":{{"default":true,"priority":"{priority}"}}}}"#
        );
        write(&dir.path().join(format!("lima-driver-{name}")), &format!("#!/bin/sh\necho '{answer}'\n"), 0o755);
    };
    says("best", "highly-preferred", true);
    says("better", "highly-preferred", true);
    says("ill", "highly-preferred", false);
    let choice = Registry { places: places(&[dir.path()]) }.choose().await;
    assert_eq!(choice.driver.as_deref(), Some("best"));
    assert!(choice.why.contains("highly-preferred, healthy"), "{}", choice.why);
    assert!(choice.why.contains("ill not healthy"), "{}", choice.why);
}

#[tokio::test]
async fn one_that_hangs_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("lima-driver-hangs"), "#!/bin/sh\nexec sleep 1000\n", 0o755);
    let answer = r#"{"health":{"installed":true,"healthy":true},"about":{"default":true,"priority":"fallback"}}"#;
    write(&dir.path().join("lima-driver-well"), &format!("#!/bin/sh\necho '{answer}'\n"), 0o755);
    let begun = std::time::Instant::now();
    let known = Registry { places: places(&[dir.path()]) }.survey(Duration::from_secs(3)).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    let of = |name: &str| known.iter().find(|driver| driver.found.name == name).unwrap();
    assert!(of("hangs").tried.is_none());
    assert!(of("well").health().is_some_and(|health| health.healthy));
}
