use super::*;
use crate::machine;

fn plan(arch: &str, accelerator: &str) -> Plan {
    Plan {
        program: vec!["qemu".into()],
        version: Version(7, 2, 0),
        sandbox: true,
        machine: machine::find(arch).unwrap(),
        accelerator: accelerator.into(),
        cpu: "max".into(),
        cpus: 2,
        max_cpus: 2,
        memory_mib: 4096,
        name: "foo".into(),
        dir: "/h/foo".into(),
        boot: Boot::default(),
        disk: Format::Qcow2,
        disks: vec![],
        has_iso: false,
        has_cidata: true,
        data_disks: vec![],
        ssh_port: 2222,
        mac: "52:55:55:00:11:22".into(),
        networks: vec![],
        shares: vec![],
        virtiofs: vec![],
        display: Display::None,
        sound: None,
        tpm: None,
    }
}

/// Words, an option and its value on one line.
fn text(plan: &Plan) -> String {
    let words: Vec<String> = command_line(plan).iter().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ").replace(" -", "\n-")
}

#[test]
fn a_network_is_a_card_on_its_switch() {
    let mut plan = plan("x86_64", "tcg");
    plan.networks = vec![
        (Link::Switch("/h,x/_networks/user-v2/vde.ctl".into()), "52:55:55:00:11:33".into()),
        (Link::Socket("/run/a,b".into()), "52:55:55:00:11:44".into()),
    ];
    let text = text(&plan);
    assert!(text.contains("\n-netdev vde,id=net1,sock=/h,,x/_networks/user-v2/vde.ctl\n"), "{text}");
    assert!(text.contains("\n-device virtio-net-pci,netdev=net1,mac=52:55:55:00:11:33,romfile=\n"), "{text}");
    assert!(text.contains("\n-netdev stream,id=net2,server=off,addr.type=unix,addr.path=/run/a,,b\n"), "{text}");
}

#[test]
fn tcg_on_x86_64_gets_threads_and_a_cache_by_memory() {
    let mut plan = plan("x86_64", "tcg");
    for (memory, cache) in [(256, 64), (512, 256), (4096, 512)] {
        plan.memory_mib = memory;
        let wanted = format!(
            "\n-machine q35,vmport=off\n-accel tcg,thread=multi,tb-size={cache}\n-global ICH9-LPC.disable_s3=1\n"
        );
        assert!(text(&plan).contains(&wanted), "{}", text(&plan));
    }
}

#[test]
fn every_architecture_has_a_disk_a_network_and_an_identity() {
    for machine in machine::MACHINES {
        let text = text(&plan(machine.arch, "tcg"));
        assert!(text.contains(&format!("\n-device virtio-blk-{},drive=boot-disk", machine.bus)), "{text}");
        assert!(text.contains(&format!("\n-device virtio-net-{},netdev=net0", machine.bus)), "{text}");
        assert!(text.ends_with("\n-pidfile /h/foo/qemu.pid"), "{text}");
    }
}

#[test]
fn commas_in_paths_stay_inside_their_value() {
    let mut plan = plan("x86_64", "tcg");
    plan.dir = "/h/a,readonly=off,file=/etc/passwd".into();
    plan.shares = vec![Share {
        tag: "lima-0".into(),
        path: "/srv/a,b\nc".into(),
        security_model: "none".into(),
        writable: false,
    }];
    let text = text(&plan);
    assert!(text.contains(",format=qcow2,file=/h/a,,readonly=off,,file=/etc/passwd/disk\n"));
    assert!(text.contains("path=/h/a,,readonly=off,,file=/etc/passwd/qmp.sock,server=on"));
    assert!(text.contains("-fsdev local,id=share-0,path=/srv/a,,b\nc,security_model=none,readonly=on"));
    // -pidfile takes its value as it is.
    assert!(text.ends_with("\n-pidfile /h/a,readonly=off,file=/etc/passwd/qemu.pid"));
}

#[test]
fn an_old_or_unsandboxed_qemu_gets_no_option_that_it_does_not_know() {
    let mut plan = plan("x86_64", "tcg");
    plan.version = Version(5, 2, 0);
    plan.sandbox = false;
    let text = text(&plan);
    assert!(!text.contains("-sandbox") && !text.contains("pvpanic") && !text.contains("-action"));
}

#[test]
fn additional_disks_come_after_the_boot_disk_and_before_cidata() {
    let mut plan = plan("s390x", "tcg");
    plan.disks = vec![("/h/_disks/a/datadisk".into(), Format::Qcow2), ("/h/_disks/b/datadisk".into(), Format::Raw)];
    let text = text(&plan);
    assert!(text.contains(
        "
-device virtio-blk-ccw,drive=boot-disk,bootindex=1
-drive if=none,discard=on,id=disk-0,format=qcow2,file=/h/_disks/a/datadisk
-device virtio-blk-ccw,drive=disk-0,serial=lima-disk-0
-drive if=none,discard=on,id=disk-1,format=raw,file=/h/_disks/b/datadisk
-device virtio-blk-ccw,drive=disk-1,serial=lima-disk-1
-drive id=cidata,"
    ));
}

#[test]
fn data_disks_come_last_of_the_disks_and_are_read_only() {
    let mut plan = plan("x86_64", "tcg");
    plan.data_disks = vec![limafs_driver::DataDisk { serial: "archive".into(), path: "/h/foo/a,b.tgz".into() }];
    assert!(text(&plan).contains(
        "
-device virtio-blk-pci,drive=cidata
-drive if=none,format=raw,readonly=on,id=data-0,file=/h/foo/a,,b.tgz
-device virtio-blk-pci,drive=data-0,serial=archive
"
    ));
}

#[test]
fn an_installation_cd_boots_first() {
    let mut plan = plan("x86_64", "kvm");
    plan.has_iso = true;
    let text = text(&plan);
    assert!(text.contains("\n-boot order=d,"));
    assert!(text.contains("\n-device virtio-blk-pci,drive=boot-disk,bootindex=2\n"));
    assert!(text.contains("\n-device ide-cd,drive=iso,bootindex=1\n"));
}

#[test]
fn virtiofs_has_memory_that_is_shared_and_a_device_for_each_directory() {
    let mut plan = plan("x86_64", "kvm");
    let share = |index: usize| virtiofsd::Share {
        tag: format!("lima-{index}"),
        path: "/srv/a,b".into(),
        writable: true,
        queue_size: 512,
        socket: names::virtiofsd_socket(Path::new("/h/foo"), index),
    };
    plan.virtiofs = vec![share(0), share(1)];
    let text = text(&plan);
    let memory = "\n-m 4096,slots=8,maxmem=16384M\n-object memory-backend-memfd,id=virtiofs-shm,size=4096M,share=on\n-machine memory-backend=virtiofs-shm\n";
    assert!(text.contains(memory), "{text}");
    assert!(text.contains(
        "
-chardev socket,id=char-virtiofs-0,path=/h/foo/virtiofsd-0.sock
-device vhost-user-fs-pci,queue-size=512,chardev=char-virtiofs-0,tag=lima-0
-chardev socket,id=char-virtiofs-1,path=/h/foo/virtiofsd-1.sock
-device vhost-user-fs-pci,queue-size=512,chardev=char-virtiofs-1,tag=lima-1
"
    ));
    assert!(!text.contains("/srv"), "{text}");
}
