//! What is for one driver or one system alone.

use limafs_driver::Config;
use serde_json::Value;

use super::machine::ARCHS;
use super::version::Version;
use super::{one_of, text};
use crate::config::remarks::Remarks;

pub fn check(config: &Config, faults: &mut Remarks) {
    maps(config, faults);
    qemu(config, faults);
    vz(config, faults);
    mount_type(config, faults);
}

/// Drivers expect maps, and so does whoever merges documents.
fn maps(config: &Config, faults: &mut Remarks) {
    let of_drivers = config.vm_opts.iter().flatten().map(|option| ("vmOpts", option));
    let of_systems = config.os_opts.iter().flatten().map(|option| ("osOpts", option));
    for (field, (name, value)) in of_drivers.chain(of_systems) {
        if !value.is_object() && !value.is_null() {
            faults.add(format!("{field}.{name}"), "expected a map");
        }
    }
}

/// An option of a driver that is written.
fn option<'a>(config: &'a Config, driver: &str, name: &str) -> Option<&'a Value> {
    config.vm_opts.as_ref()?.get(driver)?.get(name).filter(|value| !value.is_null())
}

fn qemu(config: &Config, faults: &mut Remarks) {
    if let Some(minimum) = option(config, "qemu", "minimumVersion")
        && minimum.as_str().and_then(Version::parse).is_none()
    {
        faults.add("vmOpts.qemu.minimumVersion", format!("must be a semver value such as 8.2.1, not {minimum}"));
    }
    match option(config, "qemu", "cpuType") {
        Some(Value::Object(types)) => {
            for (arch, word) in types {
                let field = format!("vmOpts.qemu.cpuType.{}", arch.escape_debug());
                one_of(faults, &field, Some(arch), ARCHS);
                if !word.is_string() && !word.is_null() {
                    faults.add(field, "expected text");
                }
            }
        }
        Some(_) => faults.add("vmOpts.qemu.cpuType", "expected a map of arch to text"),
        None => {}
    }
}

fn vz(config: &Config, faults: &mut Remarks) {
    if let Some(format) = option(config, "vz", "diskImageFormat") {
        let word = format.as_str().unwrap_or_default();
        one_of(faults, "vmOpts.vz.diskImageFormat", Some(word), &["raw", "asif"]);
    }
    for name in ["enabled", "binfmt"] {
        let switch = option(config, "vz", "rosetta").and_then(|rosetta| rosetta.get(name));
        if switch.is_some_and(|switch| !switch.is_boolean() && !switch.is_null()) {
            faults.add(format!("vmOpts.vz.rosetta.{name}"), "must be true or false");
        }
    }
    let is_vz = text(&config.vm_type) == "vz";
    let images = config.firmware.as_ref().and_then(|firmware| firmware.images.as_ref());
    if is_vz && images.is_some_and(|images| !images.is_empty()) {
        faults.add("firmware.images", "cannot be used with vmType vz");
    }
    if config.tpm == Some(true) && matches!(text(&config.vm_type), "vz" | "wsl2") {
        faults.add("tpm", format!("cannot be used with vmType {}", text(&config.vm_type)));
    }
}

/// What is known of Lima's own drivers; others judge for themselves.
fn mount_type(config: &Config, faults: &mut Remarks) {
    let possible: &[&str] = match text(&config.vm_type) {
        "qemu" => &["reverse-sshfs", "9p", "virtiofs"],
        "vz" => &["reverse-sshfs", "virtiofs"],
        "wsl2" => &["wsl2"],
        _ => return,
    };
    let known = |word: &&str| super::mounts::TYPES.contains(word);
    if let Some(word) = config.mount_type.as_deref().filter(known).filter(|word| !possible.contains(word)) {
        let (list, driver) = (possible.join(", "), text(&config.vm_type));
        faults.add("mountType", format!("must be one of {list} with vmType {driver}, not {word:?}"));
    }
}
