//! Names that a driver's program and its host agree on. Lima's.

#[cfg(feature = "server")]
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What drivers' programs are called: this and the driver's name.
#[cfg(feature = "server")]
pub(crate) const PROGRAM_PREFIX: &str = "lima-driver-";

pub(crate) fn socket(instance_dir: &Path, name: &str) -> PathBuf {
    instance_dir.join(format!("{name}.drv.sock"))
}

/// The name of the driver that a program is by its own name.
#[cfg(feature = "server")]
pub(crate) fn of_program(program: &OsStr) -> Option<String> {
    let file = Path::new(program).file_name()?.to_str()?;
    let name = file.strip_prefix(PROGRAM_PREFIX)?;
    Some(name.strip_suffix(".exe").unwrap_or(name).to_owned()).filter(|name| !name.is_empty())
}

/// What the driver's program says.
pub(crate) fn log(instance_dir: &Path) -> PathBuf {
    instance_dir.join("driver.stderr.log")
}

#[cfg(feature = "client")]
pub(crate) fn pid(instance_dir: &Path, name: &str) -> PathBuf {
    instance_dir.join(format!("{name}.drv.pid"))
}

/// Where a driver of Lima's keeps the process of its VM.
#[cfg(feature = "client")]
pub(crate) fn vm_pid(instance_dir: &Path, name: &str) -> PathBuf {
    instance_dir.join(format!("{name}.pid"))
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_the_driver_that_its_file_is_named_for() {
        let name = |program: &str| of_program(program.as_ref());
        assert_eq!(name("/usr/libexec/lima/lima-driver-qemu").as_deref(), Some("qemu"));
        assert_eq!(name("lima-driver-wsl2.exe").as_deref(), Some("wsl2"));
        assert_eq!(name("/usr/bin/qemu"), None);
        assert_eq!(name("/usr/bin/lima-driver-"), None);
    }
}
