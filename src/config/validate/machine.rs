//! The machine: system, processor, memory, disks.

use limafs_driver::Config;

use super::version::{LIMA, Version};
use super::{identifier, one_line, one_of, text};
use crate::config::layers::Layer;
use crate::config::remarks::Remarks;
use crate::config::size;

pub const ARCHS: &[&str] = &["x86_64", "aarch64", "armv7l", "ppc64le", "riscv64", "s390x"];
const SYSTEMS: &[&str] = &["Linux", "Darwin", "FreeBSD", "Windows"];
/// QEMU's own bound for its largest machine.
const MOST_CPUS: i64 = 4096;
const TPM_ARCHS: &[&str] = &["x86_64", "aarch64", "armv7l", "riscv64"];

pub fn check(config: &Config, faults: &mut Remarks) {
    version(config, faults);
    if config.base.as_ref().is_some_and(|base| !base.is_empty()) {
        faults.say(
            "base",
            "base must be empty in a stored document; write it through the tree, which merges what it names",
        );
        // They may well be in the base.
        if config.images.as_ref().is_none_or(|images| images.is_empty()) {
            faults.close_in(Layer::Written, "images".into());
        }
    }
    one_of(faults, "os", config.os.as_deref(), SYSTEMS);
    one_of(faults, "arch", config.arch.as_deref(), ARCHS);
    let arch = text(&config.arch);
    if text(&config.os) == "Windows" && (text(&config.vm_type) != "qemu" || !["x86_64", "aarch64"].contains(&arch)) {
        faults.add("os", "Windows needs vmType qemu and arch x86_64 or aarch64");
    }
    identifier(faults, "vmType".into(), text(&config.vm_type));
    if config.cpus.is_none_or(|cpus| !(1..=MOST_CPUS).contains(&cpus)) {
        faults.add("cpus", format!("must be from 1 to {MOST_CPUS}"));
    }
    for (field, value) in [("memory", &config.memory), ("disk", &config.disk)] {
        match size(text(value)) {
            None => faults.add(field, format!("invalid size {:?} (such as 4GiB)", text(value))),
            Some(0) => faults.add(field, "must be more than 0"),
            Some(_) => {}
        }
    }
    for (index, disk) in config.additional_disks.iter().flatten().enumerate() {
        identifier(faults, format!("additionalDisks[{index}].name"), &disk.name);
        // Both are words of a command in the guest.
        one_line(faults, &format!("additionalDisks[{index}].fsType"), text(&disk.fs_type));
        for argument in disk.fs_args.iter().flatten() {
            one_line(faults, &format!("additionalDisks[{index}].fsArgs"), argument);
        }
    }
    if config.tpm == Some(true) && !TPM_ARCHS.contains(&arch) {
        faults.add("tpm", format!("not supported for arch {arch}"));
    }
    let interface = config.audio.as_ref().and_then(|audio| audio.interface.as_deref());
    one_of(faults, "audio.interface", interface.filter(|word| !word.is_empty()), &["hda", "virtio"]);
}

fn version(config: &Config, faults: &mut Remarks) {
    let Some(minimum) = &config.minimum_lima_version else { return };
    match Version::parse(minimum) {
        None => faults.add("minimumLimaVersion", format!("must be a semver value such as 2.0.0, not {minimum:?}")),
        Some(version) if version > LIMA => {
            faults.add("minimumLimaVersion", format!("requires Lima {version}, limafs does what Lima {LIMA} does"));
        }
        Some(_) => {}
    }
}
