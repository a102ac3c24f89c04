//! The files by which a distribution tells of its firmware images (QEMU's docs/interop/firmware.json).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::machine::Machine;

/// Images with these want more of the machine than it has.
const TOO_DEMANDING: &[&str] = &["requires-smm", "secure-boot", "enrolled-keys"];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
struct Mapping {
    device: String,
    #[serde(default)]
    mode: Option<String>,
    executable: Option<Executable>,
}

#[derive(Deserialize)]
struct Executable {
    filename: PathBuf,
    format: String,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    /// Patterns such as `pc-q35-*`.
    machines: Vec<String>,
}

/// Directories of descriptions: the user's, those of QEMU's prefix, the distribution's.
pub(crate) fn places(program: &Path) -> Vec<PathBuf> {
    let own = env::var_os("HOME").map(|home| Path::new(&home).join(".config/qemu/firmware"));
    let prefix = program.parent().and_then(Path::parent).map(|prefix| prefix.join("share/qemu/firmware"));
    let fixed = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"].map(PathBuf::from);
    [own, prefix].into_iter().flatten().chain(fixed).collect()
}

/// The first image for the machine that is described and there, in the order of the files' names.
pub(crate) fn flash_image(places: &[PathBuf], machine: &Machine) -> Option<PathBuf> {
    places.iter().find_map(|dir| {
        let mut files: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        let read = |file: PathBuf| serde_json::from_slice::<Description>(&fs::read(file).ok()?).ok();
        files.into_iter().filter_map(read).find_map(|found| image(found, machine))
    })
}

fn image(found: Description, machine: &Machine) -> Option<PathBuf> {
    let is_combined = found.mapping.mode.as_deref() == Some("combined");
    if found.mapping.device != "flash" || is_combined || !found.interface_types.iter().any(|kind| kind == "uefi") {
        return None;
    }
    let is_too_demanding = found.features.iter().any(|feature| TOO_DEMANDING.contains(&feature.as_str()));
    if is_too_demanding || !found.targets.iter().any(|target| fits(target, machine)) {
        return None;
    }
    let executable = found.mapping.executable.filter(|executable| executable.format == "raw")?;
    Some(executable.filename).filter(|file| file.is_absolute() && file.exists())
}

fn fits(target: &Target, machine: &Machine) -> bool {
    let family = if machine.machine == "q35" { "pc-q35" } else { machine.machine };
    machine.program.strip_prefix("qemu-system-") == Some(&target.architecture)
        && target.machines.iter().any(|pattern| pattern.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    fn describe(dir: &Path, name: &str, target: [&str; 2], features: &[&str]) -> PathBuf {
        let filename = dir.join(name).with_extension("fd");
        fs::write(&filename, "").unwrap();
        let text = serde_json::json!({
            "description": "x", "interface-types": ["uefi"], "features": features, "tags": [],
            "mapping": { "device": "flash", "executable": { "filename": filename, "format": "raw" },
                         "nvram-template": { "filename": "/v", "format": "raw" } },
            "targets": [{ "architecture": target[0], "machines": [target[1]] }],
        });
        fs::write(dir.join(name).with_extension("json"), text.to_string()).unwrap();
        filename
    }

    #[test]
    fn the_first_described_image_that_fits_the_machine_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00.json"), "{").unwrap();
        describe(dir.path(), "10", ["x86_64", "pc-q35-*"], &["acpi-s3", "requires-smm", "secure-boot"]);
        describe(dir.path(), "20", ["x86_64", "pc-i440fx-*"], &[]);
        let arm = describe(dir.path(), "30", ["arm", "virt-*"], &[]);
        let q35 = describe(dir.path(), "40", ["x86_64", "pc-q35-*"], &["acpi-s3", "amd-sev"]);
        describe(dir.path(), "50", ["x86_64", "pc-q35-*"], &[]);
        let found = |arch| flash_image(&["/none".into(), dir.path().into()], machine::find(arch).unwrap());
        assert_eq!(found("x86_64"), Some(q35.clone()));
        assert_eq!(found("armv7l"), Some(arm));
        assert_eq!(found("aarch64"), None);
        fs::remove_file(&q35).unwrap();
        assert_eq!(found("x86_64"), Some(dir.path().join("50.fd")));
    }
}
