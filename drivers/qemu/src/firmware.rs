//! What boots the guest: its own kernel file, the machine's firmware, or a flash image that is looked for here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use limafs_driver::{Error, Firmware as FirmwareConfig, Instance, Result};

use crate::command_line::Boot;
use crate::machine::{Firmware, Machine};
use crate::names;

/// Decides how the instance boots. Lima's order of places.
pub(crate) fn find(instance: &Instance, machine: &Machine, program: &Path) -> Result<Boot> {
    if let Some(boot) = kernel(&instance.dir)? {
        return Ok(boot);
    }
    let config = instance.config.firmware.clone().unwrap_or_default();
    if machine.has_bios && config.legacy_bios == Some(true) {
        return Ok(Boot::BuiltIn);
    }
    let (name, places, package) = match machine.firmware {
        Firmware::BuiltIn => return Ok(Boot::BuiltIn),
        Firmware::Flash { name, places, package } => (name, places, package),
        Firmware::Loader { places, package } => ("", places, package),
    };
    let own = instance.dir.join(names::FIRMWARE);
    if !own.exists() && wants_own(&config, &instance.arch) {
        return Err(Error::Missing {
            what: names::FIRMWARE.into(),
            fix: "firmware.images has not been downloaded".into(),
        });
    }
    let shared = if name.is_empty() { Vec::new() } else { shared(program, name) };
    let mut all = [own].into_iter().chain(shared).chain(places.iter().map(PathBuf::from));
    let found = all.find(|path| path.exists()).ok_or_else(|| Error::Missing {
        what: format!("firmware for {}", machine.arch),
        fix: format!("apt-get install {package}"),
    })?;
    Ok(match machine.firmware {
        Firmware::Loader { .. } => Boot::Kernel { kernel: found, append: None, initrd: None },
        _ => Boot::Flash(found),
    })
}

/// Boots the instance's own kernel if it has one; then no firmware is needed.
fn kernel(dir: &Path) -> Result<Option<Boot>> {
    let file = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
    let Some(kernel) = file(names::KERNEL) else { return Ok(None) };
    let append = match file(names::KERNEL_CMDLINE) {
        Some(path) => Some(fs::read(&path).map_err(Error::io(path))?),
        None => None,
    };
    let append =
        append.map(|bytes| OsString::from_vec(bytes.trim_ascii().to_vec())).filter(|text| !text.as_bytes().is_empty());
    Ok(Some(Boot::Kernel { kernel, append, initrd: file(names::INITRD) }))
}

fn wants_own(config: &FirmwareConfig, arch: &str) -> bool {
    let is_empty_or =
        |value: &Option<String>, wanted: &str| value.as_deref().is_none_or(|value| value.is_empty() || value == wanted);
    config.images.iter().flatten().any(|image| is_empty_or(&image.arch, arch) && is_empty_or(&image.vm_type, "qemu"))
}

/// Where QEMU's own copies are: the user's, beside the program's prefix, beside the program.
fn shared(program: &Path, name: &str) -> Vec<PathBuf> {
    let user = env::var_os("HOME").map(|home| Path::new(&home).join(".local/share/qemu").join(name));
    let bin = program.parent();
    let prefix = bin.and_then(Path::parent).map(|prefix| prefix.join("share/qemu").join(name));
    let beside = bin.map(|bin| bin.join("share").join(name));
    [user, prefix, beside].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    fn instance(dir: &Path) -> Instance {
        Instance { dir: dir.into(), arch: "x86_64".into(), ..Instance::default() }
    }

    #[test]
    fn a_kernel_of_the_instance_needs_no_firmware() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), "").unwrap();
        fs::write(dir.path().join("kernel.cmdline"), "root=/dev/vda1 quiet\n").unwrap();
        let boot = find(&instance(dir.path()), machine::find("x86_64").unwrap(), Path::new("/q/bin/qemu")).unwrap();
        let append = Some("root=/dev/vda1 quiet".into());
        assert_eq!(boot, Boot::Kernel { kernel: dir.path().join("kernel"), append, initrd: None });
    }

    #[test]
    fn legacy_bios_is_honoured_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut instance = instance(dir.path());
        instance.config.firmware = Some(FirmwareConfig { legacy_bios: Some(true), images: None });
        let boot = |machine| find(&instance, machine::find(machine).unwrap(), Path::new("/q/bin/qemu"));
        assert_eq!(boot("x86_64").unwrap(), Boot::BuiltIn);
        fs::write(dir.path().join("qemu-efi-code.fd"), "").unwrap();
        assert_eq!(boot("aarch64").unwrap(), Boot::Flash(dir.path().join("qemu-efi-code.fd")));
    }

    #[test]
    fn firmware_that_is_to_be_downloaded_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut instance = instance(dir.path());
        let images = Some(vec![Default::default()]);
        instance.config.firmware = Some(FirmwareConfig { legacy_bios: None, images });
        let error = find(&instance, machine::find("x86_64").unwrap(), Path::new("/q/bin/qemu")).unwrap_err();
        assert_eq!(error.to_string(), "qemu-efi-code.fd is missing: firmware.images has not been downloaded");
    }
}
