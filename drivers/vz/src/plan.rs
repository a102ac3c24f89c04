//! Gathers what a start of the instance needs to know from this machine and from the instance directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use limafs_driver::{Error, Instance, Result, mac_address, mount_tag};

use crate::command_line::{Boot, Network, Plan, Share};
use crate::kind::Kind;
use crate::{configure, disk, names};

/// Reads the instance directory and fills up data disks; starts nothing.
pub(crate) fn plan(kind: &'static Kind, instance: &Instance, program: PathBuf) -> Result<Plan> {
    let dir = &instance.dir;
    let config = &instance.config;
    Ok(Plan {
        kind,
        program,
        dir: dir.clone(),
        cpus: instance.cpus,
        memory_mib: instance.memory >> 20,
        boot: boot(kind, dir)?,
        has_iso: dir.join(names::ISO).exists(),
        has_cidata: dir.join(names::CIDATA_ISO).exists(),
        disks: additional_disks(instance),
        data_disks: data_disks(instance)?,
        mac: mac_address(&machine_id(), &dir.to_string_lossy()),
        networks: networks(instance),
        shares: shares(instance)?,
        rosetta: configure::has_rosetta(kind, instance),
        window: configure::has_window(kind, config),
        nested: config.nested_virtualization == Some(true),
        ssh_over_vsock: config.ssh.as_ref().and_then(|ssh| ssh.over_vsock) == Some(true),
    })
}

/// Where Lima keeps them: beside the instance.
pub(crate) fn additional_disks(instance: &Instance) -> Vec<PathBuf> {
    let home = instance.dir.parent().unwrap_or(&instance.dir);
    let disks = instance.config.additional_disks.iter().flatten();
    disks.map(|disk| home.join(names::DISKS).join(&disk.name).join(names::DATA_DISK)).collect()
}

fn boot(kind: &Kind, dir: &Path) -> Result<Boot> {
    if kind.is_krunkit || !dir.join(names::KERNEL).exists() {
        return Ok(Boot::Efi { create: !dir.join(names::EFI).exists() });
    }
    let path = dir.join(names::KERNEL_CMDLINE);
    let cmdline = if path.exists() { fs::read_to_string(&path).map_err(Error::io(&path))? } else { String::new() };
    let cmdline = cmdline.trim().to_owned();
    if cmdline.contains(['"', '\n']) {
        return Err(Error::invalid("images[].kernel.cmdline", "vfkit cannot pass on quotes and line breaks"));
    }
    Ok(Boot::Linux { cmdline, has_initrd: dir.join(names::INITRD).exists() })
}

fn data_disks(instance: &Instance) -> Result<Vec<(String, PathBuf)>> {
    let one = |(index, disk): (usize, &limafs_driver::DataDisk)| {
        let copy = instance.dir.join(format!("{}{index}", names::PADDED));
        let path = if disk::in_sectors(&disk.path, &copy)? { copy } else { disk.path.clone() };
        match path.to_string_lossy().contains(',') {
            true => Err(Error::failed(path.to_string_lossy(), "vfkit cannot open a path with a comma")),
            false => Ok((disk.serial.clone(), path)),
        }
    };
    instance.data_disks.iter().enumerate().map(one).collect()
}

fn networks(instance: &Instance) -> Vec<Network> {
    let network = |network: &limafs_driver::Network| {
        let mac = network.mac_address.clone()?;
        match &network.socket {
            _ if network.vz_nat == Some(true) => Some(Network::Nat { mac }),
            Some(socket) if !socket.is_empty() => Some(Network::Stream { socket: socket.clone(), mac }),
            _ => None,
        }
    };
    instance.config.networks.iter().flatten().filter_map(network).collect()
}

/// As Lima does, a directory that is to be shared is made where there is none.
fn shares(instance: &Instance) -> Result<Vec<Share>> {
    let config = &instance.config;
    if !configure::has_mounts(config) || config.mount_type.as_deref() != Some("virtiofs") {
        return Ok(Vec::new());
    }
    let share = |mount: &limafs_driver::Mount| {
        let path = mount.location.clone().unwrap_or_default();
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        let mount_point = mount.mount_point.as_deref().unwrap_or(&path);
        Ok(Share { tag: mount_tag(&path, mount_point), path })
    };
    config.mounts.iter().flatten().map(share).collect()
}

/// As Lima finds it; it decides the MAC address.
fn machine_id() -> String {
    let files = ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/hostname"];
    let read = |file: &&str| fs::read_to_string(file).ok();
    let mut texts = files.iter().filter_map(read).map(|text| text.trim().to_owned());
    texts.find(|text| !text.is_empty()).or_else(platform_uuid).unwrap_or_default()
}

/// macOS has none of those files.
fn platform_uuid() -> Option<String> {
    let output = Command::new("ioreg").args(["-a", "-d2", "-c", "IOPlatformExpertDevice"]).output().ok()?;
    uuid(&String::from_utf8_lossy(&output.stdout))
}

fn uuid(text: &str) -> Option<String> {
    let rest = text.split_once("<key>IOPlatformUUID</key>")?.1;
    let value = rest.split_once("<string>")?.1.split_once("</string>")?.0;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{KRUNKIT, VFKIT};

    #[test]
    fn a_kernel_in_the_directory_is_started_instead_of_the_firmware() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(boot(&VFKIT, dir.path()).unwrap(), Boot::Efi { create: true });
        fs::write(dir.path().join("vz-efi"), "").unwrap();
        assert_eq!(boot(&VFKIT, dir.path()).unwrap(), Boot::Efi { create: false });
        fs::write(dir.path().join("kernel"), "").unwrap();
        fs::write(dir.path().join("kernel.cmdline"), "quiet a=1,2\n").unwrap();
        let wanted = Boot::Linux { cmdline: "quiet a=1,2".into(), has_initrd: false };
        assert_eq!(boot(&VFKIT, dir.path()).unwrap(), wanted);
        assert_eq!(boot(&KRUNKIT, dir.path()).unwrap(), Boot::Efi { create: false });
        fs::write(dir.path().join("kernel.cmdline"), "a=\"b\"").unwrap();
        assert!(boot(&VFKIT, dir.path()).unwrap_err().to_string().starts_with("images[].kernel.cmdline: "));
    }

    #[test]
    fn the_platform_uuid_is_found_in_what_ioreg_prints() {
        let text = "<key>IOPlatformUUID</key>\n\t<string>0F1E-2D</string>\n<key>x</key>";
        assert_eq!(uuid(text).unwrap(), "0F1E-2D");
        assert_eq!(uuid(""), None);
    }
}
