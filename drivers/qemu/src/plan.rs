//! Gathers what a start of the instance needs to know from this machine and from the instance directory.

use std::fs;
use std::path::{Path, PathBuf};

use limafs_driver::{Accelerator, Error, Instance, Result, StringMap, mac_address};

use crate::command_line::{Link, Plan};
use crate::image::{self, Format};
use crate::machine::Machine;
use crate::program::{Program, Version};
use crate::{configure, display, firmware, hotplug, names};

/// Older ones are warned of, as by Lima.
const RECOMMENDED: Version = Version(6, 2, 0);

/// Reads the instance directory; starts nothing.
pub(crate) fn plan(
    instance: &Instance,
    machine: &'static Machine,
    program: Program,
    accelerator: &Accelerator,
) -> Result<Plan> {
    if instance.ssh_local_port == 0 {
        return Err(Error::invalid("ssh.localPort", "must be known before the start"));
    }
    let dir = &instance.dir;
    Ok(Plan {
        boot: firmware::find(instance, machine, &program)?,
        disk: disk_format(dir)?,
        disks: additional_disks(instance)?,
        has_iso: dir.join(names::ISO).exists(),
        has_cidata: dir.join(names::CIDATA_ISO).exists(),
        data_disks: instance.data_disks.clone(),
        cpu: cpu(instance, machine, &program, accelerator)?,
        cpus: instance.cpus,
        max_cpus: hotplug::max_cpus(machine, instance.cpus),
        memory_mib: (instance.memory >> 20).next_multiple_of(machine.memory_step_mib),
        name: instance.name.clone(),
        dir: dir.clone(),
        ssh_port: instance.ssh_local_port,
        mac: mac_address(&machine_id(), &dir.to_string_lossy()),
        networks: networks(instance),
        shares: configure::shares(&instance.config),
        virtiofs: configure::virtiofs(instance),
        display: display::display(&instance.config)?,
        sound: display::sound(&instance.config, machine)?,
        tpm: machine.tpm.filter(|_| instance.config.tpm == Some(true)),
        accelerator: accelerator.name.clone(),
        program: program.words,
        version: program.version,
        sandbox: program.sandbox,
        machine,
    })
}

/// Refuses a program older than the configuration asks for.
pub(crate) fn check_version(instance: &Instance, program: &Program) -> Result<()> {
    if program.version < RECOMMENDED {
        tracing::warn!("this is QEMU {}, {RECOMMENDED} or newer is recommended", program.version);
    }
    let minimum = configure::options(&instance.config)?.minimum_version;
    match minimum.as_deref().and_then(Version::parse) {
        Some(minimum) if program.version < minimum => Err(Error::invalid(
            "vmOpts.qemu.minimumVersion",
            format!("QEMU {minimum} is wanted, this machine has {}", program.version),
        )),
        _ => Ok(()),
    }
}

/// The format of `disk`, from its header at each start: a guest may have written one to a raw disk, and must gain no
/// file of the host by it. Only an overlay made by an old Lima may stand on another file, the `basedisk` beside it.
fn disk_format(dir: &Path) -> Result<Format> {
    let disk = image::inspect(&dir.join(names::DISK))?;
    let Some(backing) = disk.backing else { return Ok(disk.format) };
    let base = dir.join(names::BASE_DISK);
    if backing != base && backing != Path::new(names::BASE_DISK) {
        return Err(Error::failed(names::DISK, format!("stands on a backing file, {}", backing.display())));
    }
    image::inspect_alone(&base).map(|_| disk.format)
}

/// Where Lima keeps them: beside the instance. Their formats come from their headers, as that of `disk` does.
pub(crate) fn additional_disks(instance: &Instance) -> Result<Vec<(PathBuf, Format)>> {
    let home = instance.dir.parent().unwrap_or(&instance.dir);
    let disk = |disk: &limafs_driver::Disk| {
        let path = home.join(names::DISKS).join(&disk.name).join(names::DATA_DISK);
        let image = image::inspect_alone(&path).map_err(|error| Error::failed(format!("disk {}", disk.name), error))?;
        Ok((path, image.format))
    };
    instance.config.additional_disks.iter().flatten().map(disk).collect()
}

/// Where their cards lead, and their MAC addresses: to switches, which whoever starts the VM has started, or to
/// sockets that lima.yaml names.
fn networks(instance: &Instance) -> Vec<(Link, String)> {
    let home = instance.dir.parent().unwrap_or(&instance.dir).join(names::NETWORKS);
    let network = |network: &limafs_driver::Network| {
        let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let switch = named(&network.lima).map(|name| Link::Switch(home.join(name).join(names::SWITCH)));
        let link = switch.or_else(|| named(&network.socket).map(|socket| Link::Socket(socket.into())))?;
        Some((link, network.mac_address.clone()?))
    };
    instance.config.networks.iter().flatten().filter_map(network).collect()
}

/// The CPU that the configuration names for the machine's architecture.
pub(crate) fn chosen_cpu(instance: &Instance, machine: &Machine) -> Result<Option<String>> {
    let options = configure::options(&instance.config)?.cpu_type;
    let of = |types: &Option<StringMap>| types.as_ref()?.get(machine.arch).cloned().filter(|cpu| !cpu.is_empty());
    Ok(of(&options).or_else(|| of(&instance.config.cpu_type)))
}

pub(crate) fn cpu(
    instance: &Instance,
    machine: &Machine,
    program: &Program,
    accelerator: &Accelerator,
) -> Result<String> {
    let default = match machine.old_tcg_cpu {
        _ if accelerator.name == "kvm" => "host",
        Some((version, cpu)) if program.version < version => cpu,
        _ => machine.tcg_cpu,
    };
    Ok(chosen_cpu(instance, machine)?.unwrap_or_else(|| default.into()))
}

/// As Lima finds it; it decides the MAC address.
fn machine_id() -> String {
    let files = ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/hostname"];
    let read = |file: &&str| fs::read_to_string(file).ok();
    let mut texts = files.iter().filter_map(read).map(|text| text.trim().to_owned());
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_additional_disk_is_beside_the_instance_and_stands_alone() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("_disks/data");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("datadisk"), vec![0; 4096]).unwrap();
        let config = serde_json::from_str(r#"{"additionalDisks": ["data"]}"#).unwrap();
        let instance = Instance { dir: home.path().join("foo"), config, ..Instance::default() };
        assert_eq!(additional_disks(&instance).unwrap(), [(dir.join("datadisk"), Format::Raw)]);
        fs::write(dir.join("datadisk"), b"KDMV and more").unwrap();
        let error = additional_disks(&instance).unwrap_err().to_string();
        assert!(error.starts_with("disk data: datadisk: is a VMDK"), "{error}");
    }

    #[test]
    fn a_raw_disk_that_turned_into_a_reference_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.extend(112u64.to_be_bytes());
        head.extend(11u32.to_be_bytes());
        head.extend([0, 0, 0, 16]);
        head.resize(112, 0);
        head.extend(b"/etc/passwd");
        fs::write(dir.path().join("disk"), &head).unwrap();
        let error = disk_format(dir.path()).unwrap_err().to_string();
        assert_eq!(error, "disk: stands on a backing file, /etc/passwd");

        head.truncate(112);
        head.extend(b"basedisk");
        head[19] = 8;
        fs::write(dir.path().join("disk"), &head).unwrap();
        fs::write(dir.path().join("basedisk"), "raw").unwrap();
        assert_eq!(disk_format(dir.path()).unwrap(), Format::Qcow2);
    }
}
