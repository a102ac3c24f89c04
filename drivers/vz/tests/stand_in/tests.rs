use std::future::Future;
use std::time::{Duration, Instant};
use std::{env, fs};

use libtest_mimic::Trial;
use limafs_driver::{Driver, VmEvent};
use limafs_driver_vz::Vz;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::bench::{Bench, DEADLINE, exited, next, processes, rest, until};
use crate::programs::Behaviour;

macro_rules! trials {
    ($($name:ident),* $(,)?) => { vec![$(trial(stringify!($name), $name)),*] };
}

pub fn all() -> Vec<Trial> {
    trials![
        a_vm_starts_with_all_devices_and_shuts_down,
        krunkit_starts_and_shuts_down,
        a_vm_is_found_again_after_the_hostagents_death,
        a_pause_is_told_and_found_again,
        a_guest_that_ignores_the_button_is_stopped_hard,
        a_program_that_heeds_nothing_is_killed,
        a_paused_vm_is_woken_to_shut_down,
        a_kill_needs_no_answer,
        a_program_that_refuses_is_told_with_its_words,
        a_start_that_hangs_and_is_dropped_leaves_a_vm_that_can_be_killed,
        a_network_that_cannot_start_is_told_with_its_words,
        a_vm_that_dies_is_told_and_cleaned_up,
        a_vm_that_was_killed_meanwhile_is_not_found,
        a_program_that_stops_answering_is_told,
        the_guests_ssh_is_led_over_vsock_where_it_listens_there,
        the_guest_agents_socket_leads_into_the_guest,
        a_second_start_is_refused,
        a_taken_port_fails_the_start_and_starts_nothing,
        a_process_of_another_instance_is_none_of_ours,
        scripts_come_with_rosetta_and_the_gpu,
    ]
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test());
        Ok(())
    })
}

const GRACE: Duration = Duration::from_secs(20);

fn has_real_gvproxy() -> bool {
    env::var_os("LIMAFS_TEST_GVPROXY").is_some()
}

async fn a_vm_starts_with_all_devices_and_shuts_down() {
    let config = r#"{"mounts": [{"location": "/tmp", "writable": true}], "additionalDisks": [{"name": "more"}],
        "networks": [{"vzNAT": true, "macAddress": "52:55:55:0a:0b:0c"}], "video": {"display": "vz"},
        "nestedVirtualization": true}"#;
    let bench = Bench::with(Vz::vfkit, "{}", &Behaviour::default()).await;
    let disk = bench.dir().join("../_disks/more");
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("datadisk"), vec![0; 4096]).unwrap();
    fs::write(bench.dir().join("archive"), vec![0; 700]).unwrap();
    let mut instance = bench.instance(config);
    let (serial, path) = ("limafs-containerd".into(), bench.dir().join("archive"));
    instance.data_disks = vec![limafs_driver::DataDisk { serial, path }];
    bench.driver.configure(instance).await.unwrap();
    bench.driver.create_disk().await.unwrap();
    let mut vm = bench.driver.start().await.unwrap();
    let pid = vm.pid.unwrap();
    assert_eq!(fs::read_to_string(bench.dir().join("vz.pid")).unwrap(), format!("{pid}\n"));
    assert_eq!(fs::read_to_string(bench.dir().join("serialv.log")).unwrap(), "the guest boots\n");
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ");
    for wanted in ["deviceId=lima-disk-0", "deviceId=limafs-containerd,readonly", "virtio-net,nat,", "--gui --nested"] {
        assert!(words.contains(wanted), "{wanted} is not in {words}");
    }
    assert!(bench.driver.info().features.can_run_gui && bench.driver.run_gui().await.is_ok());
    if !has_real_gvproxy() {
        assert_eq!(bench.banner().await, "SSH-2.0-network");
    }
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await, [exited(true, "shut down")]);
    bench.assert_clean();
}

async fn krunkit_starts_and_shuts_down() {
    let bench = Bench::new(Vz::krunkit).await;
    let mut vm = bench.driver.start().await.unwrap();
    assert_eq!(bench.driver.pause().await.unwrap_err().to_string(), "driver krunkit cannot pause");
    assert!(bench.dir().join("krunkit.pid").exists() && bench.dir().join("serial.log").exists());
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await, [exited(true, "shut down")]);
    bench.assert_clean();
}

async fn a_vm_is_found_again_after_the_hostagents_death() {
    let mut bench = Bench::new(Vz::vfkit).await;
    let pid = bench.driver.start().await.unwrap().pid;
    bench.driver = bench.another().await;
    fs::remove_file(bench.dir().join("vz.pid")).unwrap();
    let mut vm = bench.driver.attach().await.unwrap().unwrap();
    assert_eq!(vm.pid, pid);
    if !has_real_gvproxy() {
        assert_eq!(bench.banner().await, "SSH-2.0-network");
    }
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await, [exited(true, "shut down")]);
    bench.assert_clean();
    assert!(bench.driver.attach().await.unwrap().is_none());
}

async fn a_pause_is_told_and_found_again() {
    let mut bench = Bench::new(Vz::vfkit).await;
    let mut vm = bench.driver.start().await.unwrap();
    bench.driver.pause().await.unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::Paused);
    bench.driver = bench.another().await;
    let mut vm = bench.driver.attach().await.unwrap().unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::Paused);
    bench.driver.resume().await.unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::Resumed);
    let error = bench.driver.resume().await.unwrap_err().to_string();
    assert_eq!(error, "vfkit: Invalid virtual machine state transition from Running");
}

async fn a_guest_that_ignores_the_button_is_stopped_hard() {
    let told = Behaviour { ignore_stop: true, ..Behaviour::default() };
    let bench = Bench::with(Vz::vfkit, "{}", &told).await;
    let mut vm = bench.driver.start().await.unwrap();
    bench.driver.stop(Duration::from_millis(100)).await.unwrap();
    assert_eq!(rest(&mut vm).await, [exited(true, "shut down")]);
    bench.assert_clean();
}

async fn a_program_that_heeds_nothing_is_killed() {
    let told = Behaviour { ignore_stop: true, ignore_hard_stop: true, ..Behaviour::default() };
    for make in [Vz::vfkit as fn() -> Vz, Vz::krunkit] {
        let bench = Bench::with(make, "{}", &told).await;
        let mut vm = bench.driver.start().await.unwrap();
        bench.driver.stop(Duration::from_millis(100)).await.unwrap();
        let events = rest(&mut vm).await;
        assert_eq!(events.last().unwrap(), &exited(false, "killed by signal 9"));
        bench.assert_clean();
    }
}

async fn a_paused_vm_is_woken_to_shut_down() {
    let bench = Bench::new(Vz::vfkit).await;
    let mut vm = bench.driver.start().await.unwrap();
    bench.driver.pause().await.unwrap();
    bench.driver.stop(GRACE).await.unwrap();
    assert_eq!(rest(&mut vm).await.last().unwrap(), &exited(true, "shut down"));
}

async fn a_kill_needs_no_answer() {
    let bench = Bench::new(Vz::vfkit).await;
    let mut vm = bench.driver.start().await.unwrap();
    let pid = Pid::from_raw(i32::try_from(vm.pid.unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    bench.driver.kill().await.unwrap();
    assert_eq!(rest(&mut vm).await.last().unwrap(), &exited(false, "killed by signal 9"));
    bench.driver.kill().await.unwrap();
    bench.assert_clean();
}

async fn a_program_that_refuses_is_told_with_its_words() {
    let told =
        Behaviour { refuse: Some("Error: nested virtualization is not supported".into()), ..Behaviour::default() };
    let bench = Bench::with(Vz::vfkit, "{}", &told).await;
    let error = bench.driver.start().await.unwrap_err().to_string();
    assert_eq!(error, "vfkit: Error: nested virtualization is not supported");
    bench.assert_clean();
    bench.tell(&Behaviour::default());
    bench.driver.start().await.unwrap();
}

async fn a_start_that_hangs_and_is_dropped_leaves_a_vm_that_can_be_killed() {
    let bench = Bench::with(Vz::vfkit, "{}", &Behaviour { hang: true, ..Behaviour::default() }).await;
    let start = async {
        tokio::select! {
            result = bench.driver.start() => drop(result.expect_err("it does not answer")),
            () = until(|| bench.dir().join("vz.pid").exists(), "it is started") => {}
        }
    };
    start.await;
    // For a moment after its start a process has no arguments yet.
    let begun = Instant::now();
    while bench.another().await.attach().await.unwrap().is_none() {
        assert!(begun.elapsed() < DEADLINE, "the VM is not found");
    }
    bench.driver.kill().await.unwrap();
    bench.assert_clean();
}

async fn a_network_that_cannot_start_is_told_with_its_words() {
    if has_real_gvproxy() {
        return;
    }
    let bench = Bench::new(Vz::vfkit).await;
    fs::write(bench.dir().join("gvproxy.refuse"), "").unwrap();
    let error = bench.driver.start().await.unwrap_err().to_string();
    assert_eq!(error, "gvproxy: level=error msg=\"gvproxy exiting: refused\"");
    assert!(processes(&bench.dir().to_string_lossy()).is_empty());
}

async fn a_vm_that_dies_is_told_and_cleaned_up() {
    let bench = Bench::new(Vz::vfkit).await;
    let fault = bench.dir().join("fault");
    bench.tell(&Behaviour { die_with: Some(fault.clone()), ..Behaviour::default() });
    let mut vm = bench.driver.start().await.unwrap();
    fs::write(fault, "").unwrap();
    let last = exited(false, "vfkit exited with status 1: virtualization error");
    assert_eq!(rest(&mut vm).await, [last]);
    bench.assert_clean();
}

async fn a_vm_that_was_killed_meanwhile_is_not_found() {
    let bench = Bench::new(Vz::vfkit).await;
    let vm = bench.driver.start().await.unwrap();
    let pid = Pid::from_raw(i32::try_from(vm.pid.unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    until(|| !bench.dir().join("vz.pid").exists(), "the VM's end is noticed").await;
    assert!(bench.another().await.attach().await.unwrap().is_none());
}

async fn a_program_that_stops_answering_is_told() {
    let bench = Bench::new(Vz::vfkit).await;
    let mut vm = bench.driver.start().await.unwrap();
    let pid = Pid::from_raw(i32::try_from(vm.pid.unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::Unresponsive);
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::Responsive);
}

async fn the_guests_ssh_is_led_over_vsock_where_it_listens_there() {
    let told = Behaviour { ssh_on_vsock: true, ..Behaviour::default() };
    let bench = Bench::with(Vz::vfkit, "{}", &told).await;
    let _vm = bench.driver.start().await.unwrap();
    assert_eq!(bench.banner().await, "SSH-2.0-vsock");
    assert_eq!(bench.driver.ssh_address().await.unwrap(), "127.0.0.1");
}

async fn the_guest_agents_socket_leads_into_the_guest() {
    let bench = Bench::new(Vz::vfkit).await;
    assert!(!bench.driver.forward_guest_agent().await.unwrap());
    assert_eq!(bench.driver.guest_agent_conn().await.unwrap_err().to_string(), "the VM is not running");
    let _vm = bench.driver.start().await.unwrap();
    bench.driver.guest_agent_conn().await.unwrap();
    let mut stream = UnixStream::connect(bench.dir().join("ga.sock")).await.unwrap();
    let mut bytes = [0; 5];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(&bytes, b"agent");
}

async fn a_second_start_is_refused() {
    let bench = Bench::new(Vz::vfkit).await;
    let vm = bench.driver.start().await.unwrap();
    for driver in [&bench.driver, &bench.another().await] {
        let error = driver.start().await.unwrap_err().to_string();
        assert_eq!(error, format!("start: the VM runs already, as process {}", vm.pid.unwrap()));
    }
}

async fn a_taken_port_fails_the_start_and_starts_nothing() {
    let bench = Bench::new(Vz::vfkit).await;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", bench.port)).unwrap();
    let start = Instant::now();
    let error = bench.driver.start().await.unwrap_err().to_string();
    assert_eq!(error, format!("port {}: is taken, the guest's ssh cannot be forwarded", bench.port));
    assert!(start.elapsed() < DEADLINE);
    assert!(processes(&bench.dir().to_string_lossy()).is_empty());
}

async fn a_process_of_another_instance_is_none_of_ours() {
    let (one, other) = (Bench::new(Vz::vfkit).await, Bench::new(Vz::vfkit).await);
    let vm = one.driver.start().await.unwrap();
    // A pid file is no proof.
    fs::write(other.dir().join("vz.pid"), format!("{}\n", vm.pid.unwrap())).unwrap();
    assert!(other.driver.attach().await.unwrap().is_none());
    other.driver.kill().await.unwrap();
    assert!(one.driver.attach().await.unwrap().is_some());
}

async fn scripts_come_with_rosetta_and_the_gpu() {
    let config = r#"{"vmOpts": {"vz": {"rosetta": {"enabled": true, "binfmt": true}}}}"#;
    let bench = Bench::with(Vz::vfkit, config, &Behaviour::default()).await;
    let scripts = bench.driver.boot_scripts().await.unwrap();
    // Only Apple's processors have it.
    let wanted = if env::consts::ARCH == "aarch64" { vec!["boot.Linux/05-rosetta-volume.sh"] } else { vec![] };
    assert_eq!(scripts.keys().collect::<Vec<_>>(), wanted);
    let bench = Bench::new(Vz::krunkit).await;
    let scripts = bench.driver.boot_scripts().await.unwrap();
    assert_eq!(scripts.keys().collect::<Vec<_>>(), ["boot.Linux/30-krunkit-gpu.sh"]);
}
