//! The QEMU command line of a [`Plan`]. Pure: looks at no file and starts nothing.
//!
//! The format of every drive is written out, so that QEMU never guesses one from bytes that a guest wrote. Values go
//! through `words::Props`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use limafs_driver::DataDisk;

use crate::display::{Display, Sound};
use crate::hotplug;
use crate::image::Format;
use crate::machine::Machine;
use crate::names;
use crate::program::Version;
use crate::virtiofsd;
use crate::words::{Line, Props, doubled, join};

/// The `-sandbox` that every QEMU gets which has one.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// All that decides a command line.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Program and leading arguments.
    pub program: Vec<OsString>,
    pub version: Version,
    pub sandbox: bool,
    pub machine: &'static Machine,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    pub cpu: String,
    pub cpus: u32,
    /// With those that may be plugged in.
    pub max_cpus: u32,
    pub memory_mib: u64,
    pub name: String,
    pub dir: PathBuf,
    pub boot: Boot,
    pub disk: Format,
    /// Additional disks, in their order.
    pub disks: Vec<(PathBuf, Format)>,
    /// The instance was made of an installation CD, which boots first.
    pub has_iso: bool,
    pub has_cidata: bool,
    /// Read-only, in their order.
    pub data_disks: Vec<DataDisk>,
    pub ssh_port: u16,
    pub mac: String,
    /// Beside the first: where they lead, and MAC addresses.
    pub networks: Vec<(Link, String)>,
    pub shares: Vec<Share>,
    pub virtiofs: Vec<virtiofsd::Share>,
    pub display: Display,
    pub sound: Option<Sound>,
    /// The device that is the guest's TPM.
    pub tpm: Option<&'static str>,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// Control directory of a switch.
    Switch(PathBuf),
    /// A socket whose owner speaks QEMU's stream of packets.
    Socket(PathBuf),
}

/// What boots the guest; the machine's own firmware where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Boot {
    pub firmware: Option<Image>,
    /// The instance's own, or a boot loader in its place.
    pub kernel: Option<Kernel>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    Flash(PathBuf),
    /// In the place of the machine's own firmware.
    Bios(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub kernel: PathBuf,
    pub append: Option<OsString>,
    pub initrd: Option<PathBuf>,
}

/// A host directory shown to the guest over 9p.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub tag: String,
    pub path: PathBuf,
    pub security_model: String,
    pub writable: bool,
}

/// Returns program and arguments.
pub(crate) fn command_line(plan: &Plan) -> Vec<OsString> {
    let mut line = Line { words: plan.program.clone(), bus: plan.machine.bus };
    line.flag("-no-user-config");
    line.flag("-nodefaults");
    if plan.sandbox {
        line.option("-sandbox", SANDBOX);
    }
    processor(&mut line, plan);
    boot(&mut line, plan);
    disks(&mut line, plan);
    network(&mut line, plan);
    consoles(&mut line, plan);
    extras(&mut line, plan);
    screen(&mut line, plan);
    if let Some(card) = &plan.sound {
        sound(&mut line, plan, card);
    }
    if let Some(device) = plan.tpm {
        tpm(&mut line, plan, device);
    }
    for (index, share) in plan.shares.iter().enumerate() {
        nine_p(&mut line, index, share);
    }
    for (index, share) in plan.virtiofs.iter().enumerate() {
        virtiofs(&mut line, index, share);
    }
    monitor(&mut line, plan, "qmp", names::QMP_SOCK);
    monitor(&mut line, plan, "limafs-qmp", names::OUR_QMP_SOCK);
    line.option("-name", doubled(OsStr::new(&format!("lima-{}", plan.name))));
    // The identity of the VM: `attach` recognises it by these two words.
    line.option("-pidfile", plan.dir.join(names::QEMU_PID));
    line.words
}

fn processor(line: &mut Line, plan: &Plan) {
    let machine = plan.machine;
    line.option("-m", hotplug::memory(machine, plan.memory_mib));
    if !plan.virtiofs.is_empty() {
        // What virtiofsd must see. No file in /dev/shm, as with Lima: that may be much smaller than a guest.
        line.option("-object", format!("memory-backend-memfd,id=virtiofs-shm,size={}M,share=on", plan.memory_mib));
        line.option("-machine", "memory-backend=virtiofs-shm");
    }
    line.option("-cpu", &plan.cpu);
    if let Some((version, option)) = machine.machine_since
        && plan.version >= version
    {
        line.option("-machine", option);
    }
    if plan.accelerator == "tcg" {
        line.option("-machine", join(&[machine.machine, machine.tcg_machine]));
        let cache = format!("tb-size={}", translation_cache_mib(plan.memory_mib));
        line.option("-accel", join(&["tcg", machine.tcg_threads, &cache]));
        for global in machine.tcg_globals {
            line.option("-global", global);
        }
    } else {
        line.option("-machine", machine.machine);
        line.option("-accel", &plan.accelerator);
    }
    line.option("-smp", hotplug::smp(plan.cpus, plan.max_cpus));
}

/// Size of TCG's cache of translated code. A small guest boots as fast with 64 MiB, which saves as much memory on
/// the host; one with systemd needs a third more processor time with so little.
fn translation_cache_mib(memory_mib: u64) -> u64 {
    match memory_mib {
        0..=256 => 64,
        257..2048 => 256,
        _ => 512,
    }
}

fn boot(line: &mut Line, plan: &Plan) {
    match &plan.boot.firmware {
        None => {}
        Some(Image::Flash(file)) => {
            line.props("-drive", Props::new("if=pflash,format=raw,readonly=on").set("file", file));
        }
        Some(Image::Bios(file)) => line.option("-bios", file),
    }
    if let Some(Kernel { kernel, append, initrd }) = &plan.boot.kernel {
        line.option("-kernel", kernel);
        if let Some(append) = append {
            line.option("-append", append);
        }
        if let Some(initrd) = initrd {
            line.option("-initrd", initrd);
        }
    }
    if plan.machine.has_bios {
        line.option("-boot", format!("order={},splash-time=0,menu=on", if plan.has_iso { 'd' } else { 'c' }));
    }
}

fn disks(line: &mut Line, plan: &Plan) {
    line.props(
        "-drive",
        Props::new("id=boot-disk,if=none,discard=on")
            .set("format", plan.disk.qemu_name())
            .set("file", plan.dir.join(names::DISK)),
    );
    // With a CD, the CD comes first at every start, as in Lima: live systems keep only their data on the disk.
    let (disk_index, cd_index) = if plan.has_iso { ("2", "1") } else { ("1", "2") };
    line.virtio("virtio-blk", |props| props.set("drive", "boot-disk").set("bootindex", disk_index));
    if plan.has_iso {
        if plan.machine.cd == "scsi-cd" {
            line.virtio("virtio-scsi", |props| props.set("id", "scsi0"));
        }
        line.props(
            "-drive",
            Props::new("id=iso,if=none,format=raw,readonly=on").set("file", plan.dir.join(names::ISO)),
        );
        line.props("-device", Props::new(plan.machine.cd).set("drive", "iso").set("bootindex", cd_index));
    }
    for (index, (path, format)) in plan.disks.iter().enumerate() {
        additional_disk(line, index, path, *format);
    }
    // A virtio disk, where Lima has a SCSI CD: a guest that found its root disk has the driver, and small guests have
    // no other. Last of the disks, so that those before it are vdb, vdc, ... in the guest, as in Lima.
    if plan.has_cidata {
        line.props(
            "-drive",
            Props::new("id=cidata,if=none,format=raw,readonly=on").set("file", plan.dir.join(names::CIDATA_ISO)),
        );
        line.virtio("virtio-blk", |props| props.set("drive", "cidata"));
    }
    for (index, disk) in plan.data_disks.iter().enumerate() {
        let id = format!("data-{index}");
        let drive = Props::new("if=none,format=raw,readonly=on").set("id", &id);
        line.props("-drive", drive.set("file", &disk.path));
        line.virtio("virtio-blk", |props| props.set("drive", &id).set("serial", &disk.serial));
    }
}

/// The guest finds it by its serial number, `lima-disk-INDEX`.
fn additional_disk(line: &mut Line, index: usize, path: &Path, format: Format) {
    let id = format!("disk-{index}");
    let drive = Props::new("if=none,discard=on").set("id", &id).set("format", format.qemu_name());
    line.props("-drive", drive.set("file", path));
    line.virtio("virtio-blk", |props| props.set("drive", &id).set("serial", format!("lima-{id}")));
}

fn network(line: &mut Line, plan: &Plan) {
    line.props(
        "-netdev",
        Props::new("user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15")
            .set("hostfwd", format!("tcp:127.0.0.1:{}-:22", plan.ssh_port)),
    );
    // No option ROM: nobody boots from this network, and it is one program less that reads packets.
    let has_rom = plan.machine.bus == "pci";
    line.virtio("virtio-net", |props| {
        let props = props.set("netdev", "net0").set("mac", &plan.mac);
        if has_rom { props.set("romfile", "") } else { props }
    });
    for (index, (link, mac)) in (1..).zip(&plan.networks) {
        let id = format!("net{index}");
        let netdev = match link {
            Link::Switch(switch) => Props::new("vde").set("id", &id).set("sock", switch),
            Link::Socket(path) => {
                Props::new("stream").set("id", &id).set("server", "off").set("addr.type", "unix").set("addr.path", path)
            }
        };
        line.props("-netdev", netdev);
        line.virtio("virtio-net", |props| {
            let props = props.set("netdev", &id).set("mac", mac);
            if has_rom { props.set("romfile", "") } else { props }
        });
    }
}

fn consoles(line: &mut Line, plan: &Plan) {
    logged_socket(line, plan, "char-serial", names::SERIAL_SOCK, names::SERIAL_LOG);
    line.option("-serial", "chardev:char-serial");
    if plan.machine.pci_serial {
        logged_socket(line, plan, "char-serial-pci", names::SERIALP_SOCK, names::SERIALP_LOG);
        line.option("-device", "pci-serial,chardev=char-serial-pci");
    }
    logged_socket(line, plan, "char-serial-virtio", names::SERIALV_SOCK, names::SERIALV_LOG);
    line.virtio("virtio-serial", |props| props.set("id", "virtio-serial0").set("max_ports", "4"));
    line.option("-device", "virtconsole,bus=virtio-serial0.0,nr=0,chardev=char-serial-virtio,id=console0");
    line.props("-chardev", socket(plan, "char-boot", names::BOOT_SOCK));
    line.option(
        "-device",
        format!("virtserialport,bus=virtio-serial0.0,nr=1,chardev=char-boot,name={}", names::BOOT_PORT),
    );
    line.props("-chardev", socket(plan, "char-agent", names::GUEST_AGENT_SOCK));
    line.option(
        "-device",
        format!("virtserialport,bus=virtio-serial0.0,nr=2,chardev=char-agent,name={}", names::GUEST_AGENT_PORT),
    );
}

fn extras(line: &mut Line, plan: &Plan) {
    if plan.machine.usb {
        line.option("-device", "qemu-xhci,id=usb-bus");
    }
    line.virtio("virtio-rng", |props| props);
    line.virtio("virtio-balloon", |props| props.set("id", "balloon0"));
    if plan.version >= Version(6, 0, 0) {
        // A panic is only told of: whether the guest then restarts is for the guest to say.
        if let Some(panic) = plan.machine.panic {
            line.option("-device", panic);
        }
        line.option("-action", "panic=none");
    }
}

fn screen(line: &mut Line, plan: &Plan) {
    let pointer = match &plan.display {
        Display::None => {
            line.option("-display", "none");
            line.option("-vga", "none");
            return;
        }
        Display::Window(window) => {
            line.option("-display", window);
            "virtio-mouse"
        }
        // A tablet tells where it is, so that there is one cursor only.
        Display::Vnc(address) => {
            line.option("-display", format!("vnc={address},password=on"));
            "virtio-tablet"
        }
    };
    match plan.machine.gpu {
        "virtio-gpu" => line.virtio("virtio-gpu", |props| props),
        gpu => line.option("-device", gpu),
    }
    line.virtio("virtio-keyboard", |props| props);
    line.virtio(pointer, |props| props);
}

fn sound(line: &mut Line, plan: &Plan, sound: &Sound) {
    line.props("-audiodev", Props::new(&sound.driver).set("id", "snd0"));
    if sound.is_virtio && plan.version >= Version(8, 2, 0) {
        line.virtio("virtio-sound", |props| props.set("audiodev", "snd0"));
    } else {
        line.option("-device", "ich9-intel-hda");
        line.option("-device", "hda-output,audiodev=snd0");
    }
}

fn tpm(line: &mut Line, plan: &Plan, device: &str) {
    line.props("-chardev", Props::new("socket").set("id", "chrtpm").set("path", plan.dir.join(names::SWTPM_SOCK)));
    line.option("-tpmdev", "emulator,id=tpm0,chardev=chrtpm");
    line.props("-device", Props::new(device).set("tpmdev", "tpm0"));
}

/// Not `-virtfs`, which knows one bus only.
fn nine_p(line: &mut Line, index: usize, share: &Share) {
    let id = format!("share-{index}");
    let props =
        Props::new("local").set("id", &id).set("path", &share.path).set("security_model", &share.security_model);
    line.props("-fsdev", if share.writable { props } else { props.set("readonly", "on") });
    line.virtio("virtio-9p", |props| props.set("fsdev", &id).set("mount_tag", &share.tag));
}

fn virtiofs(line: &mut Line, index: usize, share: &virtiofsd::Share) {
    let chardev = format!("char-virtiofs-{index}");
    line.props("-chardev", Props::new("socket").set("id", &chardev).set("path", &share.socket));
    line.virtio("vhost-user-fs", |props| {
        let props = props.set("queue-size", share.queue_size.to_string());
        props.set("chardev", &chardev).set("tag", &share.tag)
    });
}

fn monitor(line: &mut Line, plan: &Plan, name: &str, file: &str) {
    let chardev = format!("char-{name}");
    line.props("-chardev", socket(plan, &chardev, file));
    line.option("-mon", format!("chardev={chardev},mode=control"));
}

fn socket(plan: &Plan, id: &str, file: &str) -> Props {
    Props::new("socket").set("id", id).set("path", plan.dir.join(file)).set("server", "on").set("wait", "off")
}

/// Appending, so that the log can be cut while QEMU writes it.
fn logged_socket(line: &mut Line, plan: &Plan, id: &str, file: &str, log: &str) {
    line.props("-chardev", socket(plan, id, file).set("logfile", plan.dir.join(log)).set("logappend", "on"));
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
