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
        boot: Boot::BuiltIn,
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
    plan.networks = vec![("/h,x/_networks/user-v2/vde.ctl".into(), "52:55:55:00:11:33".into())];
    let text = text(&plan);
    assert!(text.contains("\n-netdev vde,id=net1,sock=/h,,x/_networks/user-v2/vde.ctl\n"), "{text}");
    assert!(text.contains("\n-device virtio-net-pci,netdev=net1,mac=52:55:55:00:11:33,romfile=\n"), "{text}");
}

#[test]
fn the_command_line_of_x86_64_under_kvm() {
    let mut plan = plan("x86_64", "kvm");
    plan.cpu = "host".into();
    plan.boot = Boot::Flash("/f/OVMF_CODE.fd".into());
    assert_eq!(
        text(&plan),
        "qemu
-no-user-config
-nodefaults
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-m 4096,slots=8,maxmem=16384M
-cpu host
-machine q35
-accel kvm
-smp 2,sockets=1,cores=2,threads=1
-drive if=pflash,format=raw,readonly=on,file=/f/OVMF_CODE.fd
-boot order=c,splash-time=0,menu=on
-drive id=boot-disk,if=none,discard=on,format=qcow2,file=/h/foo/disk
-device virtio-blk-pci,drive=boot-disk,bootindex=1
-drive id=cidata,if=none,format=raw,readonly=on,file=/h/foo/cidata.iso
-device virtio-blk-pci,drive=cidata
-netdev user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15,hostfwd=tcp:127.0.0.1:2222-:22
-device virtio-net-pci,netdev=net0,mac=52:55:55:00:11:22,romfile=
-chardev socket,id=char-serial,path=/h/foo/serial.sock,server=on,wait=off,logfile=/h/foo/serial.log,logappend=on
-serial chardev:char-serial
-chardev socket,id=char-serial-virtio,path=/h/foo/serialv.sock,server=on,wait=off,logfile=/h/foo/serialv.log,logappend=on
-device virtio-serial-pci,id=virtio-serial0,max_ports=4
-device virtconsole,bus=virtio-serial0.0,nr=0,chardev=char-serial-virtio,id=console0
-chardev socket,id=char-boot,path=/h/foo/boot.sock,server=on,wait=off
-device virtserialport,bus=virtio-serial0.0,nr=1,chardev=char-boot,name=io.limafs.boot.0
-device qemu-xhci,id=usb-bus
-device virtio-rng-pci
-device virtio-balloon-pci,id=balloon0
-device pvpanic
-action panic=none
-display none
-vga none
-chardev socket,id=char-qmp,path=/h/foo/qmp.sock,server=on,wait=off
-mon chardev=char-qmp,mode=control
-chardev socket,id=char-limafs-qmp,path=/h/foo/limafs.qmp.sock,server=on,wait=off
-mon chardev=char-limafs-qmp,mode=control
-name lima-foo
-pidfile /h/foo/qemu.pid"
    );
}

#[test]
fn the_command_line_of_aarch64_under_tcg() {
    let mut plan = plan("aarch64", "tcg");
    plan.has_cidata = false;
    plan.boot = Boot::Kernel {
        kernel: "/h/foo/kernel".into(),
        append: Some("root=/dev/vda1 quiet".into()),
        initrd: Some("/h/foo/initrd".into()),
    };
    plan.disk = Format::Raw;
    let text = text(&plan);
    assert!(text.contains(
        "
-m 4096
-cpu max
-machine virt
-accel tcg,tb-size=512
-smp 2,sockets=1,cores=2,threads=1
-kernel /h/foo/kernel
-append root=/dev/vda1 quiet
-initrd /h/foo/initrd
-drive id=boot-disk,if=none,discard=on,format=raw,file=/h/foo/disk
-device virtio-blk-pci,drive=boot-disk,bootindex=1
-netdev user,"
    ));
    assert!(text.contains("\n-device pci-serial,chardev=char-serial-pci\n"));
    assert!(text.contains(",logfile=/h/foo/serialp.log,logappend=on\n"));
    assert!(text.contains("\n-device pvpanic-pci\n"));
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
    assert!(text.contains("-virtfs local,mount_tag=lima-0,path=/srv/a,,b\nc,security_model=none,readonly=on"));
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
