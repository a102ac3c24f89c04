//! Names in an instance directory that this driver reads or makes. Lima's, but for those that say so.

use std::path::{Path, PathBuf};

pub(crate) const IMAGE: &str = "image";
pub(crate) const DISK: &str = "disk";
pub(crate) const ISO: &str = "iso";
/// What the overlay of an instance made by Lima before 2.1 stands on.
pub(crate) const BASE_DISK: &str = "basedisk";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const KERNEL_CMDLINE: &str = "kernel.cmdline";
pub(crate) const INITRD: &str = "initrd";
/// Beside the instance directories: `_disks/NAME/datadisk`.
pub(crate) const DISKS: &str = "_disks";
/// Beside the instance directories: `_networks/NAME/vde.ctl` is the control directory of a network's switch.
pub(crate) const NETWORKS: &str = "_networks";
pub(crate) const SWITCH: &str = "vde.ctl";
pub(crate) const DATA_DISK: &str = "datadisk";
pub(crate) const CIDATA_ISO: &str = "cidata.iso";
pub(crate) const FIRMWARE: &str = "qemu-efi-code.fd";
pub(crate) const QEMU_PID: &str = "qemu.pid";
/// What a TPM remembers; as lasting as the disk.
pub(crate) const SWTPM_STATE: &str = "swtpm";
pub(crate) const SWTPM_SOCK: &str = "swtpm.sock";
/// Ours.
pub(crate) const SWTPM_PID: &str = "swtpm.pid";
/// Where the VNC display of a running VM is and its password; whoever starts the VM writes them.
pub(crate) const VNC_DISPLAY: &str = "vncdisplay";
pub(crate) const VNC_PASSWORD: &str = "vncpassword";
/// Left to others (limactl, a person with socat): a monitor socket serves one client at a time.
pub(crate) const QMP_SOCK: &str = "qmp.sock";
/// Ours: the monitor that this driver stays connected to.
pub(crate) const OUR_QMP_SOCK: &str = "limafs.qmp.sock";
/// Ours: the host's end of the boot channel.
pub(crate) const BOOT_SOCK: &str = "boot.sock";
/// The host's end of the guest agent's port, under Lima's name.
pub(crate) const GUEST_AGENT_SOCK: &str = "ga.sock";
pub(crate) const SERIAL_SOCK: &str = "serial.sock";
pub(crate) const SERIAL_LOG: &str = "serial.log";
pub(crate) const SERIALP_SOCK: &str = "serialp.sock";
pub(crate) const SERIALP_LOG: &str = "serialp.log";
pub(crate) const SERIALV_SOCK: &str = "serialv.sock";
pub(crate) const SERIALV_LOG: &str = "serialv.log";

/// Made by a running QEMU, worthless without it.
pub(crate) const TRANSIENT: &[&str] = &[
    QMP_SOCK,
    OUR_QMP_SOCK,
    BOOT_SOCK,
    GUEST_AGENT_SOCK,
    SERIAL_SOCK,
    SERIALP_SOCK,
    SERIALV_SOCK,
    QEMU_PID,
    VNC_DISPLAY,
    VNC_PASSWORD,
];
/// Begun anew by each start.
pub(crate) const LOGS: &[&str] = &[SERIAL_LOG, SERIALP_LOG, SERIALV_LOG];

/// Name of the virtio-serial port by which the guest reports its boot.
pub(crate) const BOOT_PORT: &str = "io.limafs.boot.0";
/// Name of the virtio-serial port of the guest agent: Lima's.
pub(crate) const GUEST_AGENT_PORT: &str = "io.lima-vm.guest_agent.0";

/// Where QEMU and the virtiofsd of a mount entry meet.
pub(crate) fn virtiofsd_socket(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("virtiofsd-{index}.sock"))
}

/// Ours: the memory of a suspended VM, while it is being written, and whole.
pub(crate) const SAVING: &str = "limafs.suspended.tmp";
pub(crate) const SAVED: &str = "limafs.suspended";
/// Ours: what a suspended VM was started with. Where it is, the next start goes on from [`SAVED`].
pub(crate) const SAVED_RECORD: &str = "limafs.suspended.json";
/// Ours: which machine each snapshot with memory is of.
pub(crate) const SHAPES: &str = "limafs.shapes.json";
/// Ours: the display, on its way to whoever asked for it.
pub(crate) const SCREEN: &str = "limafs.screen.png";
