//! From a plan to the argument list of vfkit or krunkit. Pure; what is not in a [`Plan`] does not count.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::kind::Kind;
use crate::names;

/// All that an argument list depends on.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub kind: &'static Kind,
    pub program: PathBuf,
    pub dir: PathBuf,
    pub cpus: u32,
    pub memory_mib: u64,
    pub boot: Boot,
    pub has_iso: bool,
    pub has_cidata: bool,
    pub disks: Vec<PathBuf>,
    /// Serial numbers and paths.
    pub data_disks: Vec<(String, PathBuf)>,
    pub mac: String,
    pub networks: Vec<Network>,
    pub shares: Vec<Share>,
    pub rosetta: bool,
    pub window: bool,
    pub nested: bool,
    pub ssh_over_vsock: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Boot {
    /// `create` when the variables are not there yet.
    Efi {
        create: bool,
    },
    Linux {
        cmdline: String,
        has_initrd: bool,
    },
}

/// A network card beside eth0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    Nat { mac: String },
    Stream { socket: String, mac: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub tag: String,
    pub path: String,
}

/// Size of the window; Lima's.
const WINDOW: &str = "virtio-gpu,width=1920,height=1200";

/// The whole argument list, the program first.
pub(crate) fn command_line(plan: &Plan) -> Vec<OsString> {
    let mut line = vec![plan.program.clone().into_os_string()];
    let mut option = |name: &str, value: String| line.extend([name.into(), value.into()]);
    option("--restful-uri", restful_uri(plan));
    option("--cpus", plan.cpus.to_string());
    option("--memory", plan.memory_mib.to_string());
    match plan.kind.is_krunkit {
        // Of information that it would otherwise not give of a guest that does not start.
        true => option("--krun-log-level", "3".into()),
        false => option("--bootloader", bootloader(plan)),
    }
    devices(plan).into_iter().for_each(|device| option("--device", device));
    line.extend(plan.window.then(|| "--gui".into()));
    line.extend(plan.nested.then(|| "--nested".into()));
    line
}

/// By these words the process is found again.
pub(crate) fn identity(kind: &Kind, dir: &std::path::Path) -> String {
    format!("--restful-uri unix://{}", dir.join(kind.socket).display())
}

fn restful_uri(plan: &Plan) -> String {
    format!("unix://{}", plan.dir.join(plan.kind.socket).display())
}

fn in_dir(plan: &Plan, name: &str) -> String {
    plan.dir.join(name).display().to_string()
}

fn bootloader(plan: &Plan) -> String {
    match &plan.boot {
        Boot::Efi { create } => {
            let create = if *create { ",create" } else { "" };
            format!("efi,variable-store={}{create}", in_dir(plan, names::EFI))
        }
        Boot::Linux { cmdline, has_initrd } => {
            let kernel = in_dir(plan, names::KERNEL);
            let initrd = if *has_initrd { format!(",initrd={}", in_dir(plan, names::INITRD)) } else { String::new() };
            // Quoted: kernel parameters have commas of their own.
            format!("linux,kernel={kernel}{initrd},cmdline=\"{cmdline}\"")
        }
    }
}

/// In the order in which the guest counts them; cidata is the last of the disks, as with Lima.
fn devices(plan: &Plan) -> Vec<String> {
    let serial = format!("virtio-serial,logFilePath={}", in_dir(plan, plan.kind.serial_log));
    let mut devices = vec![serial, "virtio-rng".into()];
    devices.extend(disks(plan));
    devices.extend(networks(plan));
    devices.push(vsock(plan, names::GUEST_AGENT_PORT, names::GA_SOCK));
    devices.extend(plan.ssh_over_vsock.then(|| vsock(plan, 22, names::SSH_VSOCK_SOCK)));
    let share = |share: &Share| format!("virtio-fs,sharedDir={},mountTag={}", share.path, share.tag);
    devices.extend(plan.shares.iter().map(share));
    if plan.rosetta {
        devices.push(format!("rosetta,mountTag={},install", names::ROSETTA_TAG));
    }
    if !plan.kind.is_krunkit {
        devices.push("virtio-balloon".into());
    }
    if plan.window {
        devices.extend([WINDOW, "virtio-input,keyboard", "virtio-input,pointing"].map(str::to_owned));
    }
    devices
}

fn disks(plan: &Plan) -> Vec<String> {
    let krunkit = plan.kind.is_krunkit;
    let raw = if krunkit { ",format=raw" } else { "" };
    let mut disks = vec![format!("virtio-blk,path={}{raw}", in_dir(plan, names::DISK))];
    if plan.has_iso {
        let iso = in_dir(plan, names::ISO);
        disks.push(match krunkit {
            true => format!("virtio-blk,path={iso}{raw}"),
            false => format!("usb-mass-storage,path={iso},readonly"),
        });
    }
    // The guest finds them by these serial numbers, which krunkit cannot give.
    let additional = |(index, path): (usize, &PathBuf)| match krunkit {
        true => format!("virtio-blk,path={}{raw}", path.display()),
        false => format!("virtio-blk,path={},deviceId=lima-disk-{index}", path.display()),
    };
    disks.extend(plan.disks.iter().enumerate().map(additional));
    let data =
        |(serial, path): &(String, PathBuf)| format!("virtio-blk,path={},deviceId={serial},readonly", path.display());
    disks.extend(plan.data_disks.iter().map(data));
    if plan.has_cidata {
        let readonly = if krunkit { "" } else { ",readonly" };
        disks.push(format!("virtio-blk,path={}{readonly}", in_dir(plan, names::CIDATA_ISO)));
    }
    disks
}

fn networks(plan: &Plan) -> Vec<String> {
    let eth0 = format!("virtio-net,unixSocketPath={},mac={}", in_dir(plan, names::NET_SOCK), plan.mac);
    let network = |network: &Network| match network {
        Network::Nat { mac } => format!("virtio-net,nat,mac={mac}"),
        Network::Stream { socket, mac } => format!("virtio-net,type=unixstream,path={socket},mac={mac}"),
    };
    std::iter::once(eth0).chain(plan.networks.iter().map(network)).collect()
}

/// A socket of the host's that leads to a port of the guest's.
fn vsock(plan: &Plan, port: u32, socket: &str) -> String {
    format!("virtio-vsock,port={port},socketURL={},connect", in_dir(plan, socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{KRUNKIT, VFKIT};

    fn plan(kind: &'static Kind) -> Plan {
        Plan {
            kind,
            program: kind.program.into(),
            dir: "/h/foo".into(),
            cpus: 4,
            memory_mib: 4096,
            boot: Boot::Efi { create: true },
            has_iso: false,
            has_cidata: true,
            disks: vec![],
            data_disks: vec![],
            mac: "52:55:55:01:02:03".into(),
            networks: vec![],
            shares: vec![],
            rosetta: false,
            window: false,
            nested: false,
            ssh_over_vsock: kind.ssh_over_vsock,
        }
    }

    /// One option with its value in a line.
    fn text(plan: &Plan) -> String {
        let words = command_line(plan).into_iter().map(|word| word.into_string().unwrap());
        words.collect::<Vec<_>>().join(" ").replace(" --", "\n--")
    }

    #[test]
    fn the_plain_command_line_of_vfkit() {
        let wanted = "vfkit
--restful-uri unix:///h/foo/vfkit.sock
--cpus 4
--memory 4096
--bootloader efi,variable-store=/h/foo/vz-efi,create
--device virtio-serial,logFilePath=/h/foo/serialv.log
--device virtio-rng
--device virtio-blk,path=/h/foo/disk
--device virtio-blk,path=/h/foo/cidata.iso,readonly
--device virtio-net,unixSocketPath=/h/foo/net.sock,mac=52:55:55:01:02:03
--device virtio-vsock,port=2222,socketURL=/h/foo/ga.sock,connect
--device virtio-vsock,port=22,socketURL=/h/foo/ssh-vsock.sock,connect
--device virtio-balloon";
        assert_eq!(text(&plan(&VFKIT)), wanted);
    }

    #[test]
    fn the_full_command_line_of_vfkit() {
        let full = Plan {
            boot: Boot::Linux { cmdline: "root=/dev/vda1 console=hvc0,115200".into(), has_initrd: true },
            has_iso: true,
            disks: vec!["/h/_disks/a/datadisk".into()],
            data_disks: vec![("limafs-containerd".into(), "/h/foo/archive".into())],
            networks: vec![Network::Nat { mac: "52:55:55:0a:0b:0c".into() }],
            shares: vec![Share { tag: "lima-0123".into(), path: "/Users/me/a b".into() }],
            rosetta: true,
            window: true,
            nested: true,
            ssh_over_vsock: false,
            ..plan(&VFKIT)
        };
        let wanted = "vfkit
--restful-uri unix:///h/foo/vfkit.sock
--cpus 4
--memory 4096
--bootloader linux,kernel=/h/foo/kernel,initrd=/h/foo/initrd,cmdline=\"root=/dev/vda1 console=hvc0,115200\"
--device virtio-serial,logFilePath=/h/foo/serialv.log
--device virtio-rng
--device virtio-blk,path=/h/foo/disk
--device usb-mass-storage,path=/h/foo/iso,readonly
--device virtio-blk,path=/h/_disks/a/datadisk,deviceId=lima-disk-0
--device virtio-blk,path=/h/foo/archive,deviceId=limafs-containerd,readonly
--device virtio-blk,path=/h/foo/cidata.iso,readonly
--device virtio-net,unixSocketPath=/h/foo/net.sock,mac=52:55:55:01:02:03
--device virtio-net,nat,mac=52:55:55:0a:0b:0c
--device virtio-vsock,port=2222,socketURL=/h/foo/ga.sock,connect
--device virtio-fs,sharedDir=/Users/me/a b,mountTag=lima-0123
--device rosetta,mountTag=vz-rosetta,install
--device virtio-balloon
--device virtio-gpu,width=1920,height=1200
--device virtio-input,keyboard
--device virtio-input,pointing
--gui
--nested";
        assert_eq!(text(&full), wanted);
    }

    #[test]
    fn the_command_line_of_krunkit() {
        let full = Plan {
            disks: vec!["/h/_disks/a/datadisk".into()],
            networks: vec![Network::Stream { socket: "/run/vmnet".into(), mac: "52:55:55:0a:0b:0c".into() }],
            shares: vec![Share { tag: "lima-0123".into(), path: "/Users/me".into() }],
            nested: true,
            ..plan(&KRUNKIT)
        };
        let wanted = "krunkit
--restful-uri unix:///h/foo/krunkit.sock
--cpus 4
--memory 4096
--krun-log-level 3
--device virtio-serial,logFilePath=/h/foo/serial.log
--device virtio-rng
--device virtio-blk,path=/h/foo/disk,format=raw
--device virtio-blk,path=/h/_disks/a/datadisk,format=raw
--device virtio-blk,path=/h/foo/cidata.iso
--device virtio-net,unixSocketPath=/h/foo/net.sock,mac=52:55:55:01:02:03
--device virtio-net,type=unixstream,path=/run/vmnet,mac=52:55:55:0a:0b:0c
--device virtio-vsock,port=2222,socketURL=/h/foo/ga.sock,connect
--device virtio-fs,sharedDir=/Users/me,mountTag=lima-0123
--nested";
        assert_eq!(text(&full), wanted);
    }
}
