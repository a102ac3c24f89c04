use std::fs;
use std::future::Future;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use limafs_driver::{Driver, VmEvent};

use crate::bench::{Bench, exited, rest, until};

macro_rules! trials {
    ($($name:ident),* $(,)?) => { vec![$(trial(stringify!($name), $name)),*] };
}

pub fn all() -> Vec<Trial> {
    trials![
        an_instance_is_imported_booted_ended_and_removed,
        states_are_told_in_every_language,
        that_there_are_no_distributions_is_no_failure,
        a_vm_is_found_again_after_the_hostagents_death,
        a_distribution_that_is_terminated_is_told,
        a_keeper_that_dies_alone_is_replaced,
        a_distribution_of_somebody_elses_is_neither_used_nor_removed,
        a_shell_in_the_distribution_is_no_vm,
        a_home_inside_a_distribution_needs_a_place_on_a_drive,
        an_archive_that_cannot_be_imported_leaves_nothing,
        the_disk_of_another_driver_is_neither_overwritten_nor_a_mark,
        a_start_without_cidata_or_image_says_so,
        a_second_start_is_refused,
        a_service_that_does_not_work_is_told_with_its_words,
        the_address_is_asked_in_three_ways,
        the_user_script_does_nothing_beside_cloud_init,
        features_are_limas,
    ]
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test());
        Ok(())
    })
}

const GRACE: Duration = Duration::from_secs(20);
const LANGUAGES: [&str; 5] = ["english", "english-old", "german", "chinese", "unknown"];

async fn an_instance_is_imported_booted_ended_and_removed() {
    let bench = Bench::new().await;
    bench.driver.validate().await.unwrap();
    assert_eq!(bench.status().await.status, "Uninitialized");
    bench.driver.create_disk().await.unwrap();
    bench.driver.create_disk().await.unwrap();
    assert_eq!(bench.asked("--import"), 1);
    assert_eq!(fs::read_to_string(bench.distribution().join("rootfs/etc/hostname")).unwrap(), "foo");
    assert_eq!(bench.status().await.status, "Stopped");
    let mut vm = bench.driver.start().await.unwrap();
    assert_eq!(fs::read_to_string(bench.dir().join("wsl2.pid")).unwrap(), format!("{}\n", vm.pid.unwrap()));
    let log = bench.dir().join("serial.log");
    until(|| fs::read_to_string(&log).unwrap().ends_with("a secret\n"), "boot.sh runs").await;
    let mount = bench.distribution().join("rootfs/mnt/lima-cidata");
    assert!(fs::read_to_string(&log).unwrap().starts_with(&format!("booted from {}\n", mount.display())));
    assert_eq!(bench.status().await.status, "Running");
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await, [VmEvent::PoweringDown, exited(true, "shut down")]);
    assert!(!bench.dir().join("wsl2.pid").exists() && bench.asked("--exec sync") == 1);
    bench.driver.delete().await.unwrap();
    assert!(!bench.distribution().exists());
    bench.driver.delete().await.unwrap();
}

async fn states_are_told_in_every_language() {
    for language in LANGUAGES {
        let bench = Bench::new().await;
        bench.speak(language);
        bench.have("Ubuntu", "running");
        assert_eq!(bench.status().await.status, "Uninitialized", "{language}");
        bench.driver.create_disk().await.unwrap();
        assert_eq!(bench.status().await.status, "Stopped", "{language}");
        let mut vm = bench.driver.start().await.unwrap();
        assert_eq!(bench.status().await.status, "Running", "{language}");
        bench.driver.kill().await.unwrap();
        assert_eq!(rest(&mut vm).await, [exited(false, "killed")], "{language}");
        assert_eq!(bench.status().await.status, "Stopped", "{language}");
    }
}

async fn that_there_are_no_distributions_is_no_failure() {
    for language in LANGUAGES {
        let bench = Bench::new().await;
        bench.speak(language);
        assert_eq!(bench.status().await.status, "Uninitialized", "{language}");
        bench.driver.create_disk().await.unwrap();
        assert!(bench.distribution().exists(), "{language}");
    }
}

async fn a_vm_is_found_again_after_the_hostagents_death() {
    let mut bench = Bench::new().await;
    let pid = bench.driver.start().await.unwrap().pid;
    bench.driver = bench.another().await;
    let mut vm = bench.driver.attach().await.unwrap().unwrap();
    assert_eq!(vm.pid, pid);
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await, [VmEvent::PoweringDown, exited(true, "shut down")]);
    assert!(bench.another().await.attach().await.unwrap().is_none());
}

async fn a_distribution_that_is_terminated_is_told() {
    let bench = Bench::new().await;
    let mut vm = bench.driver.start().await.unwrap();
    let log = bench.dir().join("serial.log");
    until(|| fs::read_to_string(&log).unwrap().ends_with("a secret\n"), "boot.sh runs").await;
    let words = ["--terminate".to_owned(), format!("lima-{}", bench.name)];
    assert!(Command::new(bench.machine().join("wsl.exe")).args(words).output().unwrap().status.success());
    assert_eq!(rest(&mut vm).await, [exited(false, "the distribution was terminated")]);
    bench.driver.kill().await.unwrap();
    bench.driver.start().await.unwrap();
}

async fn a_keeper_that_dies_alone_is_replaced() {
    let bench = Bench::new().await;
    let mut vm = bench.driver.start().await.unwrap();
    let before = bench.asked("--exec sleep");
    let killed = Command::new("kill").args(["-9", &vm.pid.unwrap().to_string()]).status().unwrap();
    assert!(killed.success());
    until(|| bench.asked("--exec sleep") > before, "another keeper").await;
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await, [VmEvent::PoweringDown, exited(true, "shut down")]);
}

async fn a_distribution_of_somebody_elses_is_neither_used_nor_removed() {
    let bench = Bench::new().await;
    let name = format!("lima-{}", bench.name);
    bench.have(&name, "stopped");
    let error = bench.driver.create_disk().await.unwrap_err().to_string();
    let wanted = format!(
        "the distribution {name}: is there, but was not made of this instance; wsl.exe --unregister {name} removes it"
    );
    assert_eq!(error, wanted);
    assert_eq!(bench.driver.start().await.unwrap_err().to_string(), wanted);
    bench.driver.delete().await.unwrap();
    assert!(bench.distribution().exists());
}

async fn a_shell_in_the_distribution_is_no_vm() {
    let bench = Bench::new().await;
    bench.driver.create_disk().await.unwrap();
    fs::write(bench.distribution().join("state"), "running").unwrap();
    assert!(bench.driver.attach().await.unwrap().is_none());
    bench.driver.kill().await.unwrap();
    assert_eq!(bench.asked("--terminate"), 0);
    bench.driver.start().await.unwrap();
}

async fn a_home_inside_a_distribution_needs_a_place_on_a_drive() {
    let bench = Bench::at("linux", "{}").await;
    let error = bench.driver.create_disk().await.unwrap_err().to_string();
    assert!(error.starts_with("vmOpts.wsl2.location: must name a directory on a drive of Windows'"), "{error}");
    let location = bench.machine().join("windows");
    bench.configure(&format!(r#"{{"vmOpts": {{"wsl2": {{"location": "{}"}}}}}}"#, location.display())).await;
    bench.driver.create_disk().await.unwrap();
    assert!(location.join(format!("lima-{}/ext4.vhdx", bench.name)).exists());
    bench.driver.start().await.unwrap();
    bench.driver.delete().await.unwrap();
    assert!(!bench.distribution().exists());
}

async fn an_archive_that_cannot_be_imported_leaves_nothing() {
    let bench = Bench::new().await;
    bench.write("image", b"no archive at all");
    let error = bench.driver.create_disk().await.unwrap_err().to_string();
    assert!(error.starts_with("wsl.exe --import: Importing the distribution failed."), "{error}");
    assert!(!bench.dir().join("disk").exists());
    // One that is made by somebody else in between is not taken for ours.
    bench.have(&format!("lima-{}", bench.name), "stopped");
    bench.driver.delete().await.unwrap();
    assert!(bench.distribution().exists());
}

async fn the_disk_of_another_driver_is_neither_overwritten_nor_a_mark() {
    let bench = Bench::new().await;
    bench.write("disk", b"QFI and more");
    let wanted = format!(
        "disk: is not lima-{}'s; neither the vmType nor the name of such an instance can be changed",
        bench.name
    );
    assert_eq!(bench.driver.create_disk().await.unwrap_err().to_string(), wanted);
    assert_eq!(fs::read(bench.dir().join("disk")).unwrap(), b"QFI and more");
    bench.write("disk", b"the disk of the WSL2 distribution lima-other at W:\\\n");
    assert_eq!(bench.driver.create_disk().await.unwrap_err().to_string(), wanted);
    bench.have(&format!("lima-{}", bench.name), "stopped");
    bench.driver.delete().await.unwrap();
    assert!(bench.distribution().exists());
}

async fn a_start_without_cidata_or_image_says_so() {
    let bench = Bench::new().await;
    fs::remove_dir_all(bench.dir().join("cidata")).unwrap();
    let error = bench.driver.start().await.unwrap_err().to_string();
    assert!(error.contains("cidata/boot.sh is missing"), "{error}");
    assert_eq!(bench.status().await.status, "Stopped");
    let bench = Bench::new().await;
    fs::remove_file(bench.dir().join("image")).unwrap();
    bench.driver.create_disk().await.unwrap();
    let error = bench.driver.start().await.unwrap_err().to_string();
    assert_eq!(error, format!("image of {} is missing: images in lima.yaml name one", bench.name));
}

async fn a_second_start_is_refused() {
    let bench = Bench::new().await;
    let vm = bench.driver.start().await.unwrap();
    for driver in [&bench.driver, &bench.another().await] {
        let error = driver.start().await.unwrap_err().to_string();
        assert_eq!(error, format!("start: the VM runs already, kept by process {}", vm.pid.unwrap()));
    }
}

async fn a_service_that_does_not_work_is_told_with_its_words() {
    let bench = Bench::new().await;
    let health = bench.driver.health().await;
    assert_eq!((health.healthy, health.version.as_str()), (true, "2.3.26.0"));
    let words = "The Windows Subsystem for Linux service cannot be started.\r\nError code: Wsl/0x80070422\r\n";
    for option in ["--status", "--list"] {
        fs::write(bench.machine().join(format!("refuse{option}")), words).unwrap();
    }
    let health = bench.driver.health().await;
    assert_eq!((health.installed, health.healthy, health.reason.as_str()), (true, false, "not-working"));
    let wanted = "The Windows Subsystem for Linux service cannot be started. Error code: Wsl/0x80070422";
    assert_eq!(bench.driver.validate().await.unwrap_err().to_string(), format!("wsl.exe --status: {wanted}"));
    assert_eq!(bench.driver.create_disk().await.unwrap_err().to_string(), format!("wsl.exe --list: {wanted}"));
    assert_eq!(bench.status().await.status, "Broken");
}

async fn the_address_is_asked_in_three_ways() {
    let bench = Bench::new().await;
    bench.driver.start().await.unwrap();
    for (file, text) in [
        ("hostname-i", "127.0.1.1\n"),
        ("hostname-i", "172.22.1.7\n"),
        ("ip-route", "1.0.0.0 via 172.22.0.1 dev eth0 src 172.22.1.8 uid 0\n"),
        ("hostname-I", "172.22.1.9 fd00::1\n"),
    ] {
        fs::write(bench.distribution().join(file), text).unwrap();
        let wanted = text.split(' ').find(|word| word.starts_with("172.22.1.")).unwrap_or_default().trim();
        let status = bench.status().await;
        assert_eq!((status.ssh_address.as_str(), status.ssh_local_port), (wanted, 22), "{text}");
        assert_eq!((status.cpus, status.memory, status.disk), (0, 0, 0));
    }
}

async fn the_user_script_does_nothing_beside_cloud_init() {
    let bench = Bench::new().await;
    let scripts = bench.driver.boot_scripts().await.unwrap();
    assert_eq!(scripts.keys().collect::<Vec<_>>(), ["boot.essential.Linux/00-wsl2-user.sh"]);
    bench.write("user.sh", &scripts["boot.essential.Linux/00-wsl2-user.sh"]);
    let mut command = Command::new("/bin/sh");
    let output =
        command.arg("-x").arg(bench.dir().join("user.sh")).env_clear().env("PATH", "/nowhere").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 2, "{output:?}");
}

async fn features_are_limas() {
    let info = Bench::new().await.driver.info();
    let features = serde_json::to_value(&info.features).unwrap();
    for feature in ["dynamicSSHAddress", "staticSSHPort", "skipSocketForwarding", "noCloudInit"] {
        assert_eq!(features[feature], true, "{feature}");
    }
    assert_eq!((info.name.as_str(), info.vsock_port), ("wsl2", 0));
}
