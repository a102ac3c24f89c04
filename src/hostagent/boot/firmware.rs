//! The firmware that lima.yaml names, fetched once. A driver boots by it instead of the machine's own.

use std::path::Path;

use limafs_driver::{Config, File, FirmwareImage};
use tokio::sync::mpsc;

use super::image::told;
use crate::error::{Error, Result};
use crate::hostagent::state::Event;
use crate::{images, names};

/// Fetches the first of `firmware.images` that can be had. What is there already is kept.
pub async fn fetch(config: &Config, dir: &Path, tell: &mpsc::Sender<Event>) -> Result<()> {
    let path = dir.join(names::FIRMWARE);
    if path.exists() {
        return Ok(());
    }
    let mut failures = Vec::new();
    for image in candidates(config) {
        let file = File { location: image.location.clone(), arch: image.arch.clone(), digest: image.digest.clone() };
        match images::fetch(&file, &path, &told("firmware", tell)).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!("{error}");
                failures.push(error.to_string());
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::failed("firmware.images", failures.join("\n"))) }
}

/// Those for the instance's architecture and driver, in their order.
fn candidates(config: &Config) -> Vec<&FirmwareImage> {
    let firmware = config.firmware.as_ref();
    if firmware.and_then(|firmware| firmware.legacy_bios) == Some(true) && has_bios(config) {
        return vec![];
    }
    let is_or_empty =
        |value: &Option<String>, wanted: &Option<String>| value.as_deref().is_none_or(str::is_empty) || value == wanted;
    let images = firmware.and_then(|firmware| firmware.images.as_deref()).unwrap_or_default();
    let fits =
        |image: &&FirmwareImage| is_or_empty(&image.arch, &config.arch) && is_or_empty(&image.vm_type, &config.vm_type);
    images.iter().filter(fits).collect()
}

/// Where `firmware.legacyBIOS` is honoured, as with Lima.
fn has_bios(config: &Config) -> bool {
    matches!(config.arch.as_deref(), Some("x86_64" | "armv7l"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use limafs_driver::Firmware;

    use super::*;

    fn image(location: String, arch: &str, vm_type: &str) -> FirmwareImage {
        FirmwareImage { location: Some(location), arch: Some(arch.into()), vm_type: Some(vm_type.into()), digest: None }
    }

    async fn fetched(images: Vec<FirmwareImage>, legacy_bios: bool, dir: &Path) -> Result<Option<String>> {
        let firmware = Some(Firmware { legacy_bios: Some(legacy_bios), images: Some(images) });
        let (arch, vm_type) = (Some("x86_64".into()), Some("qemu".into()));
        let config = Config { arch, vm_type, firmware, ..Config::default() };
        fetch(&config, dir, &mpsc::channel(64).0).await?;
        Ok(fs::read_to_string(dir.join(names::FIRMWARE)).ok())
    }

    #[tokio::test]
    async fn the_first_that_fits_and_can_be_had_is_fetched_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["arm", "vz", "good", "later"] {
            fs::write(at(name), name).unwrap();
        }
        let images = || {
            let gone = image(at("gone"), "x86_64", "");
            let (arm, vz) = (image(at("arm"), "aarch64", ""), image(at("vz"), "x86_64", "vz"));
            vec![arm, vz, gone, image(at("good"), "x86_64", "qemu"), image(at("later"), "", "")]
        };
        assert_eq!(fetched(images(), true, dir.path()).await.unwrap(), None);
        assert_eq!(fetched(images(), false, dir.path()).await.unwrap().as_deref(), Some("good"));
        let other = vec![image(at("later"), "", "")];
        assert_eq!(fetched(other, false, dir.path()).await.unwrap().as_deref(), Some("good"));
    }

    #[tokio::test]
    async fn firmware_that_cannot_be_had_is_an_error_and_not_the_machine_s_own() {
        let dir = tempfile::tempdir().unwrap();
        let images = ["/nonexistent/a", "/nonexistent/b"].map(|path| image(path.into(), "x86_64", ""));
        let error = fetched(images.to_vec(), false, dir.path()).await.unwrap_err().to_string();
        assert_eq!(error, "firmware.images: /nonexistent/a does not exist\n/nonexistent/b does not exist");
    }
}
