//! The machine: system, processor, memory, disks.

use limafs_driver::Config;

use super::version::{LIMA, Version};
use super::{identifier, one_line, one_of, text};
use crate::config::layers::Layer;
use crate::config::remarks::Remarks;
use crate::config::size;

pub const ARCHS: &[&str] = &["x86_64", "aarch64", "armv7l", "ppc64le", "riscv64", "s390x"];
const SYSTEMS: &[&str] = &["Linux", "Darwin", "FreeBSD", "Windows"];
/// `vdb` to `vdz`.
const MOST_DISKS: usize = 25;
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
    disks(config, faults);
    if config.tpm == Some(true) && !TPM_ARCHS.contains(&arch) {
        faults.add("tpm", format!("not supported for arch {arch}"));
    }
    let interface = config.audio.as_ref().and_then(|audio| audio.interface.as_deref());
    one_of(faults, "audio.interface", interface.filter(|word| !word.is_empty()), &["hda", "virtio"]);
}

fn disks(config: &Config, faults: &mut Remarks) {
    let disks = config.additional_disks.as_deref().unwrap_or_default();
    if disks.len() > MOST_DISKS {
        faults.add("additionalDisks", format!("must not have more than {MOST_DISKS} disks"));
    }
    for (index, disk) in disks.iter().enumerate() {
        let field = |name: &str| format!("additionalDisks[{index}].{name}");
        identifier(faults, field("name"), &disk.name);
        if disks[..index].iter().any(|earlier| earlier.name == disk.name) {
            faults.add(field("name"), format!("{:?} is there already", disk.name));
        }
        // It becomes the name of a program in the guest.
        let kind = disk.fs_type.as_deref().unwrap_or("ext4");
        if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            faults.add(field("fsType"), format!("must be a word such as ext4, xfs or swap, not {kind:?}"));
        }
        for word in disk.fs_args.iter().flatten() {
            one_line(faults, &field("fsArgs"), word);
        }
    }
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
