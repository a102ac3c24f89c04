//! Names in an instance directory and in a distribution that this driver reads or makes. Lima's, but for those that say so.

/// The archive of the root file system, unpacked from whatever packed it.
pub(crate) const IMAGE: &str = "image";
/// The same as Lima leaves it.
pub(crate) const BASE_DISK: &str = "basedisk";
/// The distribution's disk, where that is kept in the instance directory.
pub(crate) const VHDX: &str = "ext4.vhdx";
/// Says which distribution was made of this instance, and may be removed with it; in the place of other drivers' disks.
pub(crate) const DISK: &str = "disk";
/// What other guests find on a disk.
pub(crate) const CIDATA_DIR: &str = "cidata";
pub(crate) const SERIAL_LOG: &str = "serial.log";
/// Ours: the wsl.exe that keeps the distribution from being idle.
pub(crate) const PID_FILE: &str = "wsl2.pid";
/// In the distribution; Lima's place, too.
pub(crate) const CIDATA_MNT: &str = "/mnt/lima-cidata";

/// The distribution of an instance.
pub(crate) fn distribution(instance: &str) -> String {
    format!("lima-{instance}")
}
