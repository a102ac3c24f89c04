//! Names in an instance directory that this driver reads or makes. Lima's where Lima has such a file.

pub(crate) const IMAGE: &str = "image";
pub(crate) const DISK: &str = "disk";
pub(crate) const ISO: &str = "iso";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const KERNEL_CMDLINE: &str = "kernel.cmdline";
pub(crate) const INITRD: &str = "initrd";
pub(crate) const CIDATA_ISO: &str = "cidata.iso";
/// Beside the instance directories: `_disks/NAME/datadisk`.
pub(crate) const DISKS: &str = "_disks";
pub(crate) const DATA_DISK: &str = "datadisk";
/// The firmware's variables.
pub(crate) const EFI: &str = "vz-efi";
pub(crate) const GA_SOCK: &str = "ga.sock";
/// Leads to port 22 of the guest's vsock.
pub(crate) const SSH_VSOCK_SOCK: &str = "ssh-vsock.sock";
/// Ours: what gvproxy is told, says and listens at.
pub(crate) const NET_CONFIG: &str = "gvproxy.yaml";
pub(crate) const NET_LOG: &str = "gvproxy.log";
pub(crate) const NET_SOCK: &str = "net.sock";
pub(crate) const NET_SERVICES_SOCK: &str = "net-services.sock";
/// Begins the names of the copies of data disks that are filled up to whole sectors.
pub(crate) const PADDED: &str = "data-disk-";

/// Lima's port for the guest agent.
pub(crate) const GUEST_AGENT_PORT: u32 = 2222;
pub(crate) const ROSETTA_TAG: &str = "vz-rosetta";
