//! What boots the guest: its own kernel file, the machine's firmware, or a flash image that is looked for here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use limafs_driver::{Error, Firmware as FirmwareConfig, Instance, Result};

use crate::command_line::{Boot, Image, Kernel};
use crate::machine::{Firmware, Machine};
use crate::program::Program;
use crate::{descriptors, names};

/// Decides how the instance boots. Lima's order of places, then what distributions describe.
pub(crate) fn find(instance: &Instance, machine: &Machine, program: &Program) -> Result<Boot> {
    let kernel = kernel(&instance.dir)?;
    let config = instance.config.firmware.clone().unwrap_or_default();
    let is_legacy = machine.has_bios && config.legacy_bios == Some(true);
    let Some(firmware) = machine.firmware.as_ref().filter(|firmware| match kernel {
        Some(_) => firmware.starts_kernels,
        None => !is_legacy,
    }) else {
        return Ok(Boot { firmware: None, kernel });
    };
    let own = Some(instance.dir.join(names::FIRMWARE)).filter(|own| own.exists());
    if own.is_none() && wants_own(&config, &instance.arch) {
        return Err(Error::Missing {
            what: names::FIRMWARE.into(),
            fix: "firmware.images has not been downloaded".into(),
        });
    }
    if let Some(image) = own.or_else(|| flash_image(machine, firmware, program)) {
        return Ok(Boot { firmware: Some(flash(image, firmware)?), kernel });
    }
    let loader = || firmware.loaders.iter().map(PathBuf::from).find(|path| path.exists());
    let loader = || loader().map(|kernel| Kernel { kernel, append: None, initrd: None });
    let kernel = kernel.or_else(loader).ok_or_else(|| Error::Missing {
        what: format!("firmware for {}", machine.arch),
        fix: format!("apt-get install {}", firmware.package),
    })?;
    Ok(Boot { firmware: None, kernel: Some(kernel) })
}

/// An image that does not fill the flash is put into memory instead, where the machine can do that.
fn flash(image: PathBuf, firmware: &Firmware) -> Result<Image> {
    let size = fs::metadata(&image).map_err(Error::io(&image))?.len();
    let fits = firmware.flash_size.is_none_or(|flash| flash == size);
    Ok(if fits { Image::Flash(image) } else { Image::Bios(image) })
}

fn flash_image(machine: &Machine, firmware: &Firmware, program: &Program) -> Option<PathBuf> {
    if program.version < firmware.flash_since {
        return None;
    }
    let path = Path::new(&program.words[0]);
    let mut places = shared(path, firmware.name).into_iter().chain(firmware.flash.iter().map(PathBuf::from));
    places.find(|path| path.exists()).or_else(|| descriptors::flash_image(&descriptors::places(path), machine))
}

/// The instance's own kernel, if it has one.
fn kernel(dir: &Path) -> Result<Option<Kernel>> {
    let file = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
    let Some(kernel) = file(names::KERNEL) else { return Ok(None) };
    let append = match file(names::KERNEL_CMDLINE) {
        Some(path) => Some(fs::read(&path).map_err(Error::io(path))?),
        None => None,
    };
    let append =
        append.map(|bytes| OsString::from_vec(bytes.trim_ascii().to_vec())).filter(|text| !text.as_bytes().is_empty());
    Ok(Some(Kernel { kernel, append, initrd: file(names::INITRD) }))
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
    use crate::program::Version;

    fn instance(dir: &Path) -> Instance {
        Instance { dir: dir.into(), arch: "x86_64".into(), ..Instance::default() }
    }

    fn found(instance: &Instance, arch: &str) -> Result<Boot> {
        let words = vec!["/q/bin/qemu".into()];
        find(instance, machine::find(arch).unwrap(), &Program { words, version: Version(7, 2, 0), sandbox: true })
    }

    #[test]
    fn a_kernel_of_the_instance_needs_no_firmware() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), "").unwrap();
        fs::write(dir.path().join("kernel.cmdline"), "root=/dev/vda1 quiet\n").unwrap();
        let append = Some("root=/dev/vda1 quiet".into());
        let kernel = Kernel { kernel: dir.path().join("kernel"), append, initrd: None };
        for machine in machine::MACHINES {
            let found = found(&instance(dir.path()), machine.arch).unwrap();
            assert_eq!(found.kernel.as_ref(), Some(&kernel));
            assert!(found.firmware.is_none() || machine.arch == "aarch64", "{found:?}");
        }
    }

    #[test]
    fn on_aarch64_firmware_starts_the_kernel_of_the_instance_where_there_is_any() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("qemu-efi-code.fd");
        fs::write(dir.path().join("kernel"), "").unwrap();
        fs::write(&image, "").unwrap();
        let found = found(&instance(dir.path()), "aarch64").unwrap();
        assert!(found.kernel.is_some());
        assert_eq!(found.firmware, Some(Image::Bios(image)));
    }

    #[test]
    fn legacy_bios_is_honoured_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut instance = instance(dir.path());
        instance.config.firmware = Some(FirmwareConfig { legacy_bios: Some(true), images: None });
        fs::write(dir.path().join("qemu-efi-code.fd"), "").unwrap();
        for arch in ["x86_64", "armv7l", "ppc64le", "s390x"] {
            assert_eq!(found(&instance, arch).unwrap(), Boot::default(), "{arch}");
        }
        assert_ne!(found(&instance, "aarch64").unwrap(), Boot::default());
    }

    #[test]
    fn an_image_that_does_not_fill_the_flash_of_arm_is_loaded_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("qemu-efi-code.fd");
        fs::write(&image, "short").unwrap();
        let firmware = |arch| found(&instance(dir.path()), arch).unwrap().firmware.unwrap();
        assert_eq!(firmware("aarch64"), Image::Bios(image.clone()));
        assert_eq!(firmware("x86_64"), Image::Flash(image.clone()));
        fs::File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
        assert_eq!(firmware("aarch64"), Image::Flash(image));
    }

    #[test]
    fn firmware_that_is_to_be_downloaded_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut instance = instance(dir.path());
        let images = Some(vec![Default::default()]);
        instance.config.firmware = Some(FirmwareConfig { legacy_bios: None, images });
        let error = found(&instance, "x86_64").unwrap_err();
        assert_eq!(error.to_string(), "qemu-efi-code.fd is missing: firmware.images has not been downloaded");
    }
}
